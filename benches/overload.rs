//! `cargo bench --bench overload`: what becomes of the calls when there are five times too many of them, and what an upstream
//! that fails costs in retries. Loopback only; about 40 seconds.
//!
//! The upstream takes 80 ms for a reply and the gateway has 91 slots, of which one caller gets 80. So it can carry 1,000 calls a
//! second of one caller whatever the machine; 5,000 are offered, whether earlier ones have been answered or not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::indexing_slicing)]

#[path = "common/mod.rs"]
mod common;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::DOCUMENTED;
use common::http::{self, Connection};
use common::load::{Callers, percentile, times};
use common::process::Process;
use tokio::time::{Instant, sleep};
use tonic::Code;

const UPSTREAM_TIME: Duration = Duration::from_millis(80);
const IN_FLIGHT: u32 = 91;
const CAPACITY: f64 = 1_000.0;

#[derive(Default)]
struct Upstream {
    requests: AtomicU64,
    fails: AtomicBool,
}

impl Upstream {
    async fn answer(self: Arc<Self>, mut connection: Connection) -> io::Result<()> {
        while connection.request().await?.is_some() {
            self.requests.fetch_add(1, Ordering::Relaxed);
            sleep(UPSTREAM_TIME).await;
            let fails = self.fails.load(Ordering::Relaxed);
            let (status, body) = if fails { ("503 Service Unavailable", "") } else { ("200 OK", DOCUMENTED) };
            connection.send(http::response(status, "", body).as_bytes()).await?;
        }
        Ok(())
    }
}

fn row(what: &str, value: f64, unit: &str) {
    println!("{}", format!("{what:<58} {value:>10.1} {unit}").trim_end());
}

async fn overload(gateway: &Process, callers: &Callers) {
    let before = gateway.memory();
    let time = Duration::from_secs(20);
    let ended = callers.offer(5.0 * CAPACITY, time).await;
    let (served, refused) = (times(&ended, Code::Ok), times(&ended, Code::ResourceExhausted));
    let others = ended.len() - served.len() - refused.len();
    println!("Five times too many calls, 20 s");
    row("offered", ended.len() as f64 / time.as_secs_f64(), "calls/s");
    row("served", served.len() as f64 / time.as_secs_f64(), "calls/s");
    row("served, of what can be carried", 100.0 * served.len() as f64 / (CAPACITY * time.as_secs_f64()), "%");
    row("median of the served calls (the upstream takes 80 ms)", percentile(&served, 500), "ms");
    row("p99 of the served calls", percentile(&served, 990), "ms");
    row("p99 of the refused calls", percentile(&refused, 990), "ms");
    row("neither served nor refused", others as f64, "calls");
    row("memory, before", before, "MiB");
    row("memory, after", gateway.memory(), "MiB");
}

/// A caller within its even share of the slots, and one that starts later and offers ten times as many calls. (A caller that starts
/// when all slots are in use gets the reserve at once, and its share as calls of the others end.)
async fn fair_shares(gateway: &Process, larger: &Callers) {
    let smaller = Callers::connect_from(Ipv4Addr::new(127, 0, 0, 2), gateway.grpc, 2).await;
    let (rate, time) = (CAPACITY * 2.0 / 5.0, Duration::from_secs(5));
    let later = async {
        sleep(Duration::from_millis(500)).await;
        larger.offer(10.0 * rate, time).await
    };
    let (ended, others) = tokio::join!(smaller.offer(rate, time), later);
    let (served, of_larger) = (times(&ended, Code::Ok), times(&others, Code::Ok));
    println!("\nA caller within its share and one with ten times its calls, 5 s");
    row("the smaller one: offered", rate, "calls/s");
    row("the smaller one: served, of its calls", 100.0 * served.len() as f64 / ended.len() as f64, "%");
    row("the smaller one: p99 (the upstream takes 80 ms)", percentile(&served, 990), "ms");
    row("the larger one: offered", 10.0 * rate, "calls/s");
    row("the larger one: served", of_larger.len() as f64 / time.as_secs_f64(), "calls/s");
}

async fn retry_storm(upstream: &Upstream, callers: &Callers) {
    let (rate, time) = (CAPACITY / 5.0, Duration::from_secs(10));
    upstream.fails.store(true, Ordering::Relaxed);
    let before = upstream.requests.load(Ordering::Relaxed);
    let ended = callers.offer(rate, time).await;
    let requests = upstream.requests.load(Ordering::Relaxed) - before;
    upstream.fails.store(false, Ordering::Relaxed);
    let recovered = Instant::now();
    let after = callers.offer(rate, Duration::from_secs(3)).await;
    let last_failure =
        after.iter().filter(|call| call.code != Code::Ok).map(|call| call.at - recovered).max();
    println!("\nThe upstream answers 503 to everything, 10 s");
    row("calls", ended.len() as f64, "");
    row("upstream requests", requests as f64, "");
    row("more than one a call", 100.0 * (requests as f64 / ended.len() as f64 - 1.0), "%");
    row(
        "last failed call after it has recovered",
        last_failure.unwrap_or_default().as_secs_f64() * 1e3,
        "ms",
    );
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let upstream = Arc::new(Upstream::default());
    let address = {
        let upstream = Arc::clone(&upstream);
        http::listen(move |connection| Arc::clone(&upstream).answer(connection)).await
    };
    let limit = format!("--max-in-flight={IN_FLIGHT}");
    let quiet = "--log=warn,backup_share_gateway::app=info";
    let gateway = Process::gateway(address, &[&limit, quiet], &[]);
    let callers = Callers::connect(gateway.grpc, 8).await;
    // Connections to the upstream are made, and the memory that goes with them.
    callers.offer(CAPACITY / 2.0, Duration::from_secs(1)).await;
    overload(&gateway, &callers).await;
    fair_shares(&gateway, &callers).await;
    retry_storm(&upstream, &callers).await;
}

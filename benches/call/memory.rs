//! Memory that connections take.

use std::net::SocketAddr;
use std::time::Duration;

use super::common::load::{Callers, idle_connections};
use super::common::process::Process;
use super::common::turn::{median, until};
use super::report::Sides;
use super::{Options, start_pair};

/// Calls in flight and connections of the shape whose memory is bounded.
const CROWDED: (usize, usize) = (128, 500);
const IDLE: usize = 10_000;

/// MiB of processes that have seen nothing but the calls of one shape.
pub(crate) async fn crowded(options: &Options, upstream: SocketAddr) -> Sides<f64> {
    let (in_flight, connections) = CROWDED;
    let (mut gateways, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let pair = start_pair(upstream);
        for (process, memory) in [(&pair.gateway, &mut gateways), (&pair.floor, &mut floors)] {
            let callers = Callers::connect(process.grpc, connections).await;
            callers.keep(in_flight, until(Duration::from_secs(2))).await;
            memory.push(process.memory());
        }
    }
    Sides { gateway: median(gateways.into_iter()), floor: median(floors.into_iter()) }
}

/// KiB of a connection without calls, of [`IDLE`] of them, in processes that have seen nothing else.
pub(crate) async fn idle_connection(upstream: SocketAddr) -> Sides<f64> {
    let pair = start_pair(upstream);
    Sides { gateway: of_each(&pair.gateway).await, floor: of_each(&pair.floor).await }
}

async fn of_each(process: &Process) -> f64 {
    let before = process.memory();
    let connections = idle_connections(process.grpc, IDLE).await;
    1024.0 * (process.memory() - before) / connections.len() as f64
}

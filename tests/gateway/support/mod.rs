//! Helpers of all tests: a gateway on ports of its own, an upstream that follows a script, and gRPC and HTTP clients.

pub mod certificates;
pub mod collector;
pub mod gateway;
pub mod grpc;
pub mod h2_frames;
pub mod h2_peer;
pub mod keystone;
pub mod process;
pub mod tls_client;
pub mod tls_upstream;
pub mod upstream;

use std::time::Duration;

pub use gateway::*;
pub use grpc::*;
pub use upstream::*;

pub const PROJECT: &str = "c13f5220dc1949b0b741ea81a7cd5554";
pub const SHARE: &str = "8332443e-9866-41d8-8a58-a898cf5db030";
pub const TOKEN: &str = "gAAAAABl-token-of-the-tests-0123456789";

/// Everything is logged, of the libraries too.
pub const LOG_EVERYTHING: &str =
    "--log=trace,h2=trace,hyper=trace,opentelemetry=trace,reqwest=trace,rustls=trace,tonic=trace,tower=trace";

/// The share of the vendor's document.
pub const DOCUMENTED: &str = include_str!("../fixtures/documented_share.json");

/// No single step of a test takes this long, even on a busy machine.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The output of `future`; panics with the name of what did not end in time.
pub async fn with_timeout<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(TEST_TIMEOUT, future).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// Repeats `attempt` until it returns a value, for state that has no event to wait for.
pub async fn poll_until<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    with_timeout(what, async {
        loop {
            if let Some(value) = attempt().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Flags as the functions of the tests take them.
pub fn strs(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

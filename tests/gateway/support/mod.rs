//! What every test stands on: a gateway started by its flags on ports of its own, an upstream that does exactly what a
//! script says, and callers that speak gRPC and HTTP.

pub mod certificates;
pub mod collector;
pub mod gateway;
pub mod grpc;
pub mod h2_peer;
pub mod keystone;
pub mod process;
pub mod tls_upstream;
pub mod upstream;

use std::time::Duration;

pub use gateway::*;
pub use grpc::*;
pub use upstream::*;

pub const PROJECT: &str = "c13f5220dc1949b0b741ea81a7cd5554";
pub const SHARE: &str = "8332443e-9866-41d8-8a58-a898cf5db030";
pub const TOKEN: &str = "gAAAAABl-token-of-the-tests-0123456789";

/// The share of the vendor's document.
pub const DOCUMENTED: &str = include_str!("../fixtures/documented_share.json");

/// Nothing in the tests should take this long; what does has hung.
pub const HUNG: Duration = Duration::from_secs(30);

/// Waits, but not for ever.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(HUNG, future).await.unwrap_or_else(|_| panic!("hung: {what}"))
}

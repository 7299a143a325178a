//! What the benchmarks share: the two programs under test as processes of their own, a fixed upstream, and the load.
#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub(crate) mod collector;
pub(crate) mod floor;
pub(crate) mod identity;
pub(crate) mod load;
pub(crate) mod process;
pub(crate) mod tls;
pub(crate) mod turn;
pub(crate) mod upstream;

/// One of the two projects of the documented share.
pub(crate) const PROJECT: &str = "c13f5220dc1949b0b741ea81a7cd5554";
/// The documented share.
pub(crate) const SHARE: &str = "8332443e-9866-41d8-8a58-a898cf5db030";
/// What the upstream says of it.
pub(crate) const DOCUMENTED: &str = include_str!("../../tests/gateway/fixtures/documented_share.json");

/// A token as long as a Fernet token is.
pub(crate) fn token() -> String {
    format!("gAAAAAB{}", "k".repeat(176))
}

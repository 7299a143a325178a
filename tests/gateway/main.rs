#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    missing_docs,
    unreachable_pub
)]
//! The gateway as its callers, its upstream and its operators see it. Everything here speaks gRPC, HTTP, signals and
//! flags; expected values come from the contract, the vendor's documents and the protocols.

mod aksk;
mod call;
mod check;
mod child;
mod connections;
mod error_bodies;
mod faults;
mod floods;
mod harness;
mod keystone;
mod logging;
mod peer;
mod process;
mod properties;
mod replies;
mod request_rules;
mod retries;
mod secrets;
mod server;
mod sources;
mod statuses;
mod time;
mod tls;
mod traces;
mod upstream_safety;

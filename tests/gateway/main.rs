#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    missing_docs,
    unreachable_pub
)]
//! The gateway from outside: through gRPC, HTTP, signals and flags. Each file is named after the surface that it tests;
//! helpers are in `support`. Expected values come from the contract, the vendor's documents and the protocols.

mod admin;
mod aksk;
mod authorization;
mod cancellation;
mod check_command;
mod cli;
mod connection_limits;
mod deadlines;
mod documents;
mod drain;
mod endpoint_limits;
mod error_bodies;
mod get_backup_share;
mod grpc_health;
mod grpc_reflection;
mod grpc_requests;
mod h2_floods;
mod keystone;
mod keystone_projects;
mod keystone_renewal;
mod logging;
mod overload;
mod pem_files;
mod redaction;
mod reload;
mod sandbox;
mod signals;
mod sources;
mod statuses;
mod support;
mod tls;
mod tls_handshakes;
mod traces;
mod upstream_faults;
mod upstream_pool;
mod upstream_properties;
mod upstream_proxy;
mod upstream_replies;
mod upstream_requests;
mod upstream_retries;
mod upstream_tls;

//! The transport of a port: accepts connections, and serves HTTP on them until shutdown, within limits.
//!
//! It must not know gRPC services or VBS: what handles a request is a [`Service`]. The order of the parts:
//!
//! - `listener.rs` accepts connections and assigns each to a worker thread (`workers.rs`).
//! - `connection.rs` performs the handshakes (`tls.rs`) and serves HTTP by hyper.
//! - `connection_age.rs` decides when a connection is closed: maximum age with jitter, grace and idle time of gRFC A9
//!   (<https://github.com/grpc/proposal/blob/master/A9-server-side-conn-mgt.md>). It is pure: time comes in, and a decision
//!   comes out.
//!
//! tonic's server is not used: its shutdown waits forever for a silent peer, its age limit sends no GOAWAY and cuts off
//! calls, and it disables hyper's limits against floods. Tests: `tests/gateway/connection_limits.rs`, `tests/gateway/tls.rs`.

mod config;
mod connection;
mod connection_age;
mod in_flight;
mod listener;
mod rewind;
mod service;
mod tls;
pub mod workers;

pub use config::{Config, Protocol, ServerShutdown};
pub use listener::Server;
pub use service::{Peer, Service};
pub use tls::{Files as TlsFiles, Tls};

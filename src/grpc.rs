//! The inbound edge: gRPC requests in, gRPC responses out. It knows [`crate::domain`]; it must not know the upstream, a
//! credential of the gateway, or a socket.
//!
//! Read `service.rs` first: it implements the trait that tonic generates, and its unit tests call it with shares that are kept
//! in memory. A request passes `router.rs` (which service?), `call.rs` (the layer around a call: admission, deadline, panics),
//! `message_guard.rs` (the request's body) and `service.rs`. Then `convert.rs` makes the response of a share, and the table in
//! `status.rs` the status of an error. Health and reflection are tonic's services.
//!
//! Sources: gRPC over HTTP/2 (`PROTOCOL-HTTP2.md`), gRPC's health checking and server reflection protocols,
//! `google/rpc/code.proto` and `google/rpc/error_details.proto`.

mod access_log;
mod authorization;
mod call;
mod config;
mod context;
mod convert;
mod error_details;
mod headers;
pub mod health;
mod message_guard;
mod router;
mod service;
mod status;

pub use authorization::AuthorizationPolicy;
pub use config::{Config, DeadlineLimits};
pub use context::PeerIdentity;
pub use error_details::DOMAIN;
pub use headers::{MalformedTimeout, grpc_timeout};
pub use router::{CancelTokens, ResponseFuture, Router};
pub use status::{RpcError, Violation, code_name};

/// The gRPC service, as health and reflection name it.
pub use crate::proto::backup_share_service_server::SERVICE_NAME as SERVICE;

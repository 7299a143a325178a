//! The inbound edge: gRPC requests in, gRPC responses out. It knows [`crate::domain`]; it must not know the upstream, a
//! credential of the gateway, or a socket.
//!
//! Read `service.rs` first: it implements the trait that tonic generates, and its unit tests call it with shares that are kept
//! in memory. A request passes `router.rs` (which service?), `call.rs` (the layer around a call: admission, deadline, panics),
//! `message_guard.rs` (the request's body) and `service.rs`. Then `convert.rs` makes the response of a share, and `status.rs` the
//! status of an error. `endpoint_limits.rs` has the limits of health and reflection.
//!
//! Sources: gRPC over HTTP/2 (`PROTOCOL-HTTP2.md`), gRPC's health checking and server reflection protocols,
//! `google/rpc/code.proto` and `google/rpc/error_details.proto`.

mod access_log;
mod admission;
mod authorization;
mod call;
mod call_body;
mod context;
mod convert;
pub(crate) mod endpoint_limits;
pub mod health;
mod message_guard;
mod reflection;
mod router;
mod service;
mod status;

use std::time::Duration;

pub use authorization::{AuthorizationPolicy, Rules};
pub use call_body::CallBody;
pub use context::{MalformedTimeout, grpc_timeout};
pub use router::{CancelTokens, Connection, Router};
pub use status::{RpcError, code_name};

/// Limits of the calls.
#[derive(Clone, Debug)]
pub struct Config {
    /// Calls in flight at once, in the whole process.
    pub max_in_flight: usize,
    /// How long a call without `grpc-timeout` may take, counted from its arrival.
    pub default_deadline: Duration,
    /// How long any call may take.
    pub max_deadline: Duration,
    /// How long the request message may take, counted from the arrival of the call.
    pub message_timeout: Duration,
    /// Whether the reflection services are enabled.
    pub reflection: bool,
    /// Whether a call needs the caller's own token, in `x-auth-token`; otherwise that header is ignored.
    pub uses_callers_token: bool,
}

impl Config {
    /// The time for a call with this `grpc-timeout`.
    pub fn deadline(&self, timeout: Option<Duration>) -> Duration {
        timeout.unwrap_or(self.default_deadline).min(self.max_deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_limits_hold_for_every_timeout() {
        let config = Config {
            max_in_flight: 1,
            default_deadline: Duration::from_secs(15),
            max_deadline: Duration::from_secs(60),
            message_timeout: Duration::from_secs(10),
            reflection: false,
            uses_callers_token: true,
        };
        assert_eq!(config.deadline(None), Duration::from_secs(15));
        assert_eq!(config.deadline(Some(Duration::from_secs(3))), Duration::from_secs(3));
        assert_eq!(config.deadline(Some(Duration::from_secs(3600))), Duration::from_secs(60));
    }
}

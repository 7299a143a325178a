//! One call as the layers of this module pass it on: what its headers say, and who calls.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::deadline;
use super::headers;
use super::status::RpcError;
use crate::domain::{CallContext, CallStats, Token, TokenError};

pub(super) use crate::domain::RPC_METHOD as METHOD;

/// Limits of the calls.
#[derive(Clone, Debug)]
pub struct Config {
    /// Calls in flight at once, in the whole process.
    pub max_in_flight: usize,
    /// How long a call may take.
    pub deadlines: deadline::Limits,
    /// Whether clients may ask which services and types there are.
    pub reflection: bool,
    /// Whether a call needs the caller's own token, in `x-auth-token`; otherwise that header is ignored.
    pub uses_callers_token: bool,
}

/// Set by a gRPC client that retries a call by itself.
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// Who calls.
#[derive(Clone, Debug, Default)]
pub struct PeerIdentity {
    /// The address that the connection comes from.
    pub address: Option<SocketAddr>,
    /// The address as text.
    pub address_display: Arc<str>,
    /// The names that its certificate proves.
    pub names: Arc<[String]>,
}

/// One call, in the extensions of its request.
pub(super) struct Call {
    pub(super) context: CallContext,
    pub(super) peer: PeerIdentity,
    pub(super) is_timeout_malformed: bool,
    token_error: Option<TokenError>,
}

impl Call {
    pub(super) fn read(headers: &HeaderMap, peer: PeerIdentity, arrival: Instant, config: &Config) -> Self {
        let timeout = deadline::timeout(headers);
        let mut context = CallContext {
            request_id: headers::request_id(headers),
            token: None,
            trace: headers::trace_context(headers),
            deadline: arrival + config.deadlines.clamp(timeout.ok().flatten()),
            // With a client that retries, our attempts would multiply with its own.
            may_retry: !headers.contains_key(PREVIOUS_ATTEMPTS),
            stats: CallStats::default(),
        };
        let mut token_error = None;
        if config.uses_callers_token {
            match Token::from_headers(headers) {
                Ok(token) => context.token = Some(token),
                Err(error) => token_error = Some(error),
            }
        }
        Self { context, peer, is_timeout_malformed: timeout.is_err(), token_error }
    }

    /// The call that a request belongs to.
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Result<Arc<Self>, RpcError> {
        // Every request comes through `CallHandler`.
        request.extensions().get::<Arc<Self>>().cloned().ok_or(RpcError::Panic)
    }

    /// Refuses a call whose token is missing or invalid.
    pub(super) fn check_token(&self) -> Result<(), RpcError> {
        match self.token_error {
            Some(error) => Err(RpcError::Token(error)),
            None => Ok(()),
        }
    }
}

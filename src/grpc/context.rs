//! One call as the layers of this module pass it on: what its headers say, and who the caller is.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use super::config::Config;
use super::headers;
use super::status::RpcError;
use crate::domain::{CallContext, CallStats, Token, TokenError};

/// The number of attempts that a gRPC client made before this one (gRFC A6); absent on the first.
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// Who the caller is, as the connection proves it.
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
    /// The method as OpenTelemetry names it, one of [`crate::proto::METHODS`].
    pub(super) method: &'static str,
    pub(super) context: CallContext,
    pub(super) peer: PeerIdentity,
    pub(super) is_timeout_malformed: bool,
    token_error: Option<TokenError>,
}

impl Call {
    /// Reads the headers. Errors in them are kept: they are reported in the order of the checks.
    pub(super) fn read(
        method: &'static str,
        headers: &HeaderMap,
        peer: PeerIdentity,
        arrival: Instant,
        config: &Config,
    ) -> Self {
        let timeout = headers::grpc_timeout(headers);
        let mut context = CallContext {
            request_id: headers::request_id(headers),
            token: None,
            trace: headers::trace_context(headers),
            deadline: arrival + config.deadlines.clamp(timeout.ok().flatten()),
            // The attempts of a client that retries and those of the gateway would multiply.
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
        Self { method, context, peer, is_timeout_malformed: timeout.is_err(), token_error }
    }

    /// The call that a request belongs to. `CallHandler` adds it to every request.
    pub(super) fn of_request<T>(request: &tonic::Request<T>) -> Result<Arc<Self>, RpcError> {
        match request.extensions().get::<Arc<Self>>() {
            Some(call) => Ok(Arc::clone(call)),
            None => Err(RpcError::Internal),
        }
    }

    /// Refuses a call whose token is missing or invalid.
    pub(super) fn check_token(&self) -> Result<(), RpcError> {
        match self.token_error {
            Some(error) => Err(RpcError::Token(error)),
            None => Ok(()),
        }
    }
}

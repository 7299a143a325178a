//! Why a call failed: what the caller may read and what the log may, in separate fields. `grpc/status.rs` maps it to a gRPC status.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// The step that failed. The numbers are HTTP statuses of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// 400, 413 (unless it is a rate limit), 414, 422, 431, 494.
    BadRequest,
    /// 401: the caller's token was rejected.
    Unauthenticated,
    /// 401 where the gateway holds the credential: no caller can fix it.
    OwnCredentialRefused,
    /// 403: the token was accepted, but lacks the permission.
    Forbidden,
    /// 404 in a shape that the Volume Backup Service produces: there is no such share.
    ShareNotFound,
    /// 404 in another shape: there is no such route.
    RouteNotFound,
    /// 405.
    MethodNotAllowed,
    /// 501.
    NotImplemented,
    /// 406.
    NotAcceptable,
    /// 407, or a forward proxy that requires authentication.
    ProxyAuthenticationRequired,
    /// 408, 504, or no response within the attempt timeout.
    Timeout,
    /// 409.
    Conflict,
    /// 412.
    PreconditionFailed,
    /// 429, and 413 with `Retry-After` or in OpenStack's form of a rate limit.
    RateLimited,
    /// 500.
    Internal,
    /// 502.
    BadGateway,
    /// 503.
    Unavailable,
    /// Any other 4xx.
    ClientError,
    /// Any other 5xx.
    ServerError,
    /// A redirect, a success that is not 200, 101, 600 and over.
    UnexpectedStatus,
    /// A 200 that is not the requested share.
    Malformed,
    /// A 200 longer than the limit.
    TooLarge,
    /// No connection: DNS, TCP or TLS.
    Unreachable,
    /// The connection was lost, or was not HTTP, before a complete response.
    ConnectionLost,
    /// The caller's deadline expired.
    DeadlineExceeded,
    /// The gateway's own account is for another project.
    ProjectNotServed,
    /// The identity service rejected the gateway's own account.
    IdentityRefused,
    /// The identity service is unreachable, or its response is unusable.
    IdentityUnreachable,
}

/// A failed call.
#[derive(Debug)]
pub struct Error {
    /// The step that failed.
    pub kind: ErrorKind,
    /// The HTTP status of a complete response.
    pub http_status: Option<u16>,
    /// The upstream's own code, at most 128 bytes.
    pub code: Option<String>,
    /// The upstream's ID of the request, at most 128 bytes of visible ASCII.
    pub request_id: Option<String>,
    /// The upstream's message, safe to pass on: at most 512 bytes, no control characters, no token.
    pub message: Option<String>,
    /// The gateway's own description, for the log: no URL, no token, nothing of a body.
    pub detail: String,
    /// A valid `Retry-After`; zero if it is 0 or a date in the past.
    pub retry_after: Option<Duration>,
    /// Attempts made, including this one. One on a stale pooled connection does not count.
    pub attempts: u32,
}

impl Error {
    /// An error without a response of the upstream; `detail` is for the log.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            http_status: None,
            code: None,
            request_id: None,
            message: None,
            detail: detail.into(),
            retry_after: None,
            attempts: 0,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl StdError for Error {}

/// An error and its sources, outermost first.
pub(crate) fn error_chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

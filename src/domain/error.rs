//! Why a call failed: the step that failed, who reported it, and what of it the caller may read.

use std::fmt;
use std::time::Duration;

/// What went wrong, by the step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// 400, 413, 414, 422, 431, 494: the request was refused as it is.
    BadRequest,
    /// 401: the token was refused.
    Unauthenticated,
    /// 401 where the credential is the gateway's own: no caller can fix it.
    OwnCredentialRefused,
    /// 403: the token was taken and the right is missing.
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
    /// 408, 504, or no reply within the attempt's time.
    Timeout,
    /// 409.
    Conflict,
    /// 412.
    PreconditionFailed,
    /// 429.
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
    /// A 200 that is not the share asked for.
    Malformed,
    /// A 200 longer than the limit.
    TooLarge,
    /// No connection: name, TCP or TLS.
    Unreachable,
    /// The connection was lost, or was not HTTP, before a complete response.
    ConnectionLost,
    /// The caller's deadline passed.
    DeadlineExceeded,
    /// The identity service refused the gateway's own account.
    IdentityRefused,
    /// The identity service cannot be asked, or gave no usable answer.
    IdentityUnreachable,
}

/// A failed call: what the caller may read and what the log may.
#[derive(Debug)]
pub struct Error {
    /// The step that failed.
    pub kind: ErrorKind,
    /// The HTTP status, where a whole reply came.
    pub http_status: Option<u16>,
    /// The upstream's own code, at most [`MAX_METADATA_BYTES`].
    pub code: Option<String>,
    /// The upstream's ID of the request, at most [`MAX_METADATA_BYTES`] of visible ASCII.
    pub request_id: Option<String>,
    /// The upstream's message, safe to pass on: at most [`MAX_MESSAGE_BYTES`], no control characters, no token.
    pub message: Option<String>,
    /// What the gateway itself saw, for the log: no URL, no token, nothing of a body.
    pub detail: String,
    /// `Retry-After`, where it came and could be read.
    pub retry_after: Option<Duration>,
    /// Attempts made, this one included. A stale pooled connection does not count.
    pub attempts: u32,
}

/// The most that is passed on of an upstream's message, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 512;
/// The most that is passed on of an upstream's code or request ID, in bytes.
pub const MAX_METADATA_BYTES: usize = 128;

impl Error {
    /// A failure that the gateway itself has found; `detail` is for the log.
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

impl std::error::Error for Error {}

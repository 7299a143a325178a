//! From a failed call to its gRPC status: the only place that builds one.
//!
//! The principle. The comments of `google.rpc.Code` decide wherever they name the HTTP status. Timeouts are
//! DEADLINE_EXCEEDED and unavailability is UNAVAILABLE. What only the gateway's operator can fix (406, 407, a wrong
//! route, a redirect) is INTERNAL, so that no caller renews a valid token, or mistakes a missing route for a missing share.
//!
//! Every status carries `google.rpc.ErrorInfo`, whose reason is public API, and `google.rpc.RequestInfo`. It goes out
//! as Trailers-Only, which is what lets a client's own retry policy act on it. Whole, it stays under 4 KiB: an upstream's
//! message counts four times its 512 bytes at the most (percent-encoded, and in the details).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response};
use tonic::body::Body;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::headers::{REQUEST_ID, never_index};
use crate::domain::{self, ErrorKind, TokenError};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "backup-share-gateway";

/// Where a caller is told to wait and the upstream did not say for how long.
const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest wait that is passed on.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(3600);

/// A call that fails.
#[derive(Debug)]
pub enum RpcError {
    /// Too many calls are in flight.
    Overloaded,
    /// The caller, as its certificate names it, may not read this project.
    CallerNotAllowed,
    /// The token is missing or cannot be one.
    Token(TokenError),
    /// The request breaks its rules.
    InvalidRequest(Vec<Violation>),
    /// The message is longer than the limit.
    RequestTooLarge,
    /// The message cannot be decoded.
    UnreadableMessage,
    /// There is no message, or more than one.
    NotOneMessage,
    /// The message is compressed in a way that the gateway does not take.
    UnsupportedEncoding,
    /// There is no such service or method.
    MethodNotFound,
    /// The deadline passed before the upstream was asked.
    DeadlineExceeded,
    /// The process ends and the call took too long to wait for.
    Draining,
    /// A handler panicked.
    Panic,
    /// The upstream, or the way to it.
    Upstream(Box<domain::Error>),
}

/// A field that breaks its rule. The value is not repeated.
#[derive(Clone, Copy, Debug)]
pub struct Violation {
    /// The field, or the header.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

/// The status of an error.
struct StatusSpec {
    code: Code,
    reason: &'static str,
    message: &'static str,
}

const fn spec(code: Code, reason: &'static str, message: &'static str) -> StatusSpec {
    StatusSpec { code, reason, message }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for RpcError {}

/// The form in which an error travels through tonic. The call layer finds it again as the source of the status, and builds
/// the status that the caller gets.
impl From<RpcError> for Status {
    fn from(error: RpcError) -> Self {
        let mut status = Self::new(error.code(), "");
        status.set_source(Arc::new(error));
        status
    }
}

impl From<domain::Error> for Status {
    fn from(error: domain::Error) -> Self {
        RpcError::Upstream(Box::new(error)).into()
    }
}

impl RpcError {
    /// The reason, as in `ErrorInfo`.
    pub fn reason(&self) -> &'static str {
        self.spec().reason
    }

    #[expect(clippy::too_many_lines, reason = "a table: one row for each error")]
    fn spec(&self) -> StatusSpec {
        match self {
            Self::Overloaded => spec(
                Code::ResourceExhausted,
                "OVERLOADED",
                "The gateway has too many calls in flight; try again later",
            ),
            Self::CallerNotAllowed => spec(
                Code::PermissionDenied,
                "CALLER_NOT_ALLOWED",
                "The gateway's rules do not let this caller read this project; its operator must add one",
            ),
            Self::Token(TokenError::Missing) => spec(
                Code::Unauthenticated,
                "TOKEN_MISSING",
                "The call has no x-auth-token header; send a token of the cloud's identity service",
            ),
            Self::Token(TokenError::Duplicate) => spec(
                Code::Unauthenticated,
                "TOKEN_INVALID",
                "The call has more than one x-auth-token header; send exactly one",
            ),
            Self::Token(TokenError::Invalid) => spec(
                Code::Unauthenticated,
                "TOKEN_INVALID",
                "The x-auth-token header must be 1 to 32768 bytes of visible ASCII",
            ),
            Self::InvalidRequest(_) => {
                spec(Code::InvalidArgument, "INVALID_REQUEST", "The request is invalid")
            }
            Self::RequestTooLarge => {
                spec(Code::ResourceExhausted, "REQUEST_TOO_LARGE", "The request message is over 64 KiB")
            }
            Self::UnreadableMessage => spec(
                Code::Internal,
                "INVALID_REQUEST",
                "The request message cannot be decoded as vbs.v2.GetBackupShareRequest",
            ),
            Self::NotOneMessage => {
                spec(Code::Unimplemented, "INVALID_REQUEST", "The method takes exactly one request message")
            }
            Self::UnsupportedEncoding => spec(
                Code::Unimplemented,
                "INVALID_REQUEST",
                "The request message is compressed; only grpc-encoding identity is taken",
            ),
            Self::MethodNotFound => {
                spec(Code::Unimplemented, "METHOD_NOT_FOUND", "The gateway has no such service or method")
            }
            Self::DeadlineExceeded => {
                spec(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "The call's deadline passed")
            }
            Self::Draining => {
                spec(Code::Unavailable, "DRAINING", "The gateway is shutting down; call another replica")
            }
            Self::Panic => spec(
                Code::Internal,
                "INTERNAL",
                "The gateway failed; its operator finds the request ID in the log",
            ),
            Self::Upstream(error) => spec_of_kind(error.kind),
        }
    }

    /// Passes on the error of a status that has come through tonic. A status without one is tonic's own, about a request
    /// message that it could not read.
    pub(super) fn with_source_of<T>(status: &Status, then: impl FnOnce(&Self) -> T) -> T {
        match std::error::Error::source(status).and_then(|source| source.downcast_ref()) {
            Some(error) => then(error),
            None if status.code() == Code::Unimplemented => then(&Self::UnsupportedEncoding),
            None => then(&Self::UnreadableMessage),
        }
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.spec().code
    }

    /// How long the caller should wait before the next try, where that would help.
    fn retry_delay(&self) -> Option<Duration> {
        let told = match self.upstream() {
            Some(error)
                if matches!(
                    error.kind,
                    ErrorKind::RateLimited | ErrorKind::BadGateway | ErrorKind::Unavailable
                ) =>
            {
                error.retry_after
            }
            None if matches!(self, Self::Overloaded) => None,
            Some(_) | None => return None,
        };
        Some(told.unwrap_or(DEFAULT_RETRY_DELAY).min(MAX_RETRY_DELAY))
    }

    /// Whether the client's own retry policy is told the delay, too.
    fn sends_pushback(&self) -> bool {
        match self.upstream() {
            Some(error) => matches!(error.kind, ErrorKind::RateLimited | ErrorKind::Unavailable),
            None => matches!(self, Self::Overloaded),
        }
    }

    /// What the upstream, or the way to it, did.
    pub(super) fn upstream(&self) -> Option<&domain::Error> {
        if let Self::Upstream(error) = self { Some(error) } else { None }
    }

    fn message(&self) -> String {
        let message = self.spec().message;
        let particulars = if let Self::InvalidRequest(violations) = self {
            let broken: Vec<String> = violations.iter().map(|v| format!("{} {}", v.field, v.rule)).collect();
            Some(broken.join("; "))
        } else {
            let of_upstream = |error: &domain::Error| match error.kind == ErrorKind::Malformed {
                true => Some(error.detail.clone()),
                false => error.message.clone(),
            };
            self.upstream().and_then(of_upstream)
        };
        match particulars {
            Some(particulars) => format!("{message}: {particulars}"),
            None => message.to_owned(),
        }
    }

    fn metadata(&self) -> HashMap<String, String> {
        let Some(error) = self.upstream() else { return HashMap::new() };
        let of_identity = matches!(error.kind, ErrorKind::IdentityRefused | ErrorKind::IdentityUnreachable);
        let service = if of_identity { "identity" } else { "vbs" };
        let said = (error.kind != ErrorKind::DeadlineExceeded).then(|| service.to_owned());
        [
            ("httpStatus", error.http_status.map(|status| status.to_string())),
            ("upstreamCode", error.code.clone()),
            ("upstreamRequestId", error.request_id.clone()),
            ("attempts", Some(error.attempts.to_string())),
            ("service", said),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
    }

    /// The status with its details, for the call that `request_id` names.
    pub fn status(&self, request_id: &HeaderValue) -> Status {
        let spec = self.spec();
        let id = request_id.to_str().unwrap_or_default();
        let mut details = ErrorDetails::with_error_info(spec.reason, DOMAIN, self.metadata());
        details.set_request_info(id, "");
        if let Self::InvalidRequest(violations) = self {
            for violation in violations {
                details.add_bad_request_violation(violation.field, violation.rule);
            }
        }
        let mut metadata = request_id_metadata(request_id);
        if let Some(delay) = self.retry_delay() {
            details.set_retry_info(Some(delay));
            if self.sends_pushback() {
                let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                metadata.insert("grpc-retry-pushback-ms", MetadataValue::from(millis));
            }
        }
        if matches!(self, Self::UnsupportedEncoding) {
            metadata.insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
        }
        Status::with_error_details_and_metadata(spec.code, self.message(), details, metadata)
    }

    /// The status as the whole response.
    pub(super) fn response(&self, request_id: &HeaderValue) -> Response<Body> {
        let mut response = self.status(request_id).into_http();
        for name in ["grpc-message", "grpc-status-details-bin"] {
            response.headers_mut().get_mut(name).map(never_index);
        }
        response
    }
}

/// The request's ID, as it goes back in the initial metadata.
pub(super) fn request_id_metadata(request_id: &HeaderValue) -> MetadataMap {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(REQUEST_ID, request_id.clone());
    MetadataMap::from_headers(headers)
}

/// The table of the upstream's failures. A message says whose fault it is and what to do; the upstream's own message may
/// follow.
#[expect(clippy::too_many_lines, reason = "a table: one row for each kind")]
fn spec_of_kind(kind: ErrorKind) -> StatusSpec {
    match kind {
        ErrorKind::BadRequest => {
            spec(Code::InvalidArgument, "UPSTREAM_BAD_REQUEST", "VBS refused the request")
        }
        ErrorKind::Unauthenticated => spec(
            Code::Unauthenticated,
            "UPSTREAM_UNAUTHENTICATED",
            "VBS refused the token; get a new one for this project and region",
        ),
        ErrorKind::OwnCredentialRefused => spec(
            Code::Internal,
            "UPSTREAM_UNAUTHENTICATED",
            "VBS refused the gateway's own credential; the gateway's operator must check it",
        ),
        ErrorKind::IdentityRefused => spec(
            Code::Internal,
            "UPSTREAM_UNAUTHENTICATED",
            "The identity service refused the gateway's own account; the gateway's operator must check it",
        ),
        ErrorKind::IdentityUnreachable => spec(
            Code::Unavailable,
            "UPSTREAM_UNREACHABLE",
            "The gateway has no token: the identity service cannot be asked, or gave no usable answer; try again later",
        ),
        ErrorKind::Forbidden => {
            spec(Code::PermissionDenied, "UPSTREAM_FORBIDDEN", "VBS does not let this token read the share")
        }
        ErrorKind::ShareNotFound => {
            spec(Code::NotFound, "BACKUP_SHARE_NOT_FOUND", "VBS has no such backup share")
        }
        ErrorKind::RouteNotFound => spec(
            Code::Internal,
            "UPSTREAM_ROUTE_NOT_FOUND",
            "The upstream does not know the route, which says nothing about the share; the gateway's operator must check its upstream URL",
        ),
        ErrorKind::MethodNotAllowed => {
            spec(Code::Unimplemented, "UPSTREAM_METHOD_NOT_ALLOWED", "The upstream does not allow this call")
        }
        ErrorKind::NotImplemented => {
            spec(Code::Unimplemented, "UPSTREAM_NOT_IMPLEMENTED", "The upstream does not implement this call")
        }
        ErrorKind::NotAcceptable => spec(
            Code::Internal,
            "UPSTREAM_NOT_ACCEPTABLE",
            "The upstream does not answer in JSON; the gateway's operator must check its upstream URL",
        ),
        ErrorKind::ProxyAuthenticationRequired => spec(
            Code::Internal,
            "UPSTREAM_PROXY_AUTHENTICATION_REQUIRED",
            "A proxy before the upstream wants credentials; the gateway's operator must configure it",
        ),
        ErrorKind::Timeout => spec(Code::DeadlineExceeded, "UPSTREAM_TIMEOUT", "VBS did not answer in time"),
        ErrorKind::Conflict => {
            spec(Code::Aborted, "UPSTREAM_CONFLICT", "VBS reports a conflict; try the whole operation again")
        }
        ErrorKind::PreconditionFailed => spec(
            Code::FailedPrecondition,
            "UPSTREAM_PRECONDITION_FAILED",
            "VBS reports a failed precondition",
        ),
        ErrorKind::RateLimited => spec(
            Code::ResourceExhausted,
            "UPSTREAM_RATE_LIMITED",
            "VBS limits the rate of calls; try again later",
        ),
        ErrorKind::Internal => spec(Code::Internal, "UPSTREAM_INTERNAL", "VBS failed"),
        ErrorKind::BadGateway => spec(
            Code::Unavailable,
            "UPSTREAM_BAD_GATEWAY",
            "A gateway before VBS cannot reach it; try again later",
        ),
        ErrorKind::Unavailable => {
            spec(Code::Unavailable, "UPSTREAM_UNAVAILABLE", "VBS is unavailable; try again later")
        }
        ErrorKind::ClientError => {
            spec(Code::FailedPrecondition, "UPSTREAM_CLIENT_ERROR", "VBS refused the request")
        }
        ErrorKind::ServerError => spec(Code::Internal, "UPSTREAM_SERVER_ERROR", "VBS failed"),
        ErrorKind::UnexpectedStatus => spec(
            Code::Internal,
            "UPSTREAM_UNEXPECTED_STATUS",
            "The upstream answered with an HTTP status that VBS does not use; the gateway's operator must check its upstream URL",
        ),
        ErrorKind::Malformed => spec(
            Code::Internal,
            "UPSTREAM_MALFORMED_RESPONSE",
            "The upstream's reply is not the backup share asked for",
        ),
        ErrorKind::TooLarge => spec(
            Code::Internal,
            "UPSTREAM_RESPONSE_TOO_LARGE",
            "The upstream's reply is longer than the gateway's limit",
        ),
        ErrorKind::Unreachable => spec(
            Code::Unavailable,
            "UPSTREAM_UNREACHABLE",
            "The gateway cannot connect to VBS; try again later",
        ),
        ErrorKind::ConnectionLost => spec(
            Code::Unavailable,
            "UPSTREAM_CONNECTION_LOST",
            "The connection to VBS broke before a whole reply had come; try again later",
        ),
        ErrorKind::DeadlineExceeded => {
            spec(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "The call's deadline passed")
        }
    }
}

/// The code as gRPC's documents write it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

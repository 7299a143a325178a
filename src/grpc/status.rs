//! The status table: the gRPC code, the reason and the message of each error. And the [`Status`] that is built from it: the only
//! place that builds one for a call.
//!
//! Codes and reasons are public API. The mapping follows one principle:
//!
//! - The comments in `google.rpc.Code` decide wherever they name the HTTP status.
//! - Timeouts are DEADLINE_EXCEEDED, and unavailability is UNAVAILABLE.
//! - What only the gateway's operator can fix (406, 407, a wrong route, a redirect, a rejected credential of the gateway itself)
//!   is INTERNAL, so that no caller renews a valid token or mistakes a missing route for a missing share.
//!
//! `upstream/error.rs` decides the [`ErrorKind`] of a response, for example whether a 404 is `ShareNotFound` or
//! `RouteNotFound`. `tests/gateway/statuses.rs` tests each row, and `tests/gateway/documents/program.rs` compares the rows with
//! the tables in `docs/errors.md`.
//!
//! Every status carries `google.rpc.ErrorInfo` and `google.rpc.RequestInfo`; `BadRequest` and `RetryInfo` where they apply. It is
//! sent as Trailers-Only, as a client's retry policy requires (gRFC A6). The whole status stays under 4 KiB: an upstream's
//! message has at most 512 bytes, which count up to four times (percent-encoded in `grpc-message`, and in
//! `grpc-status-details-bin`). The fuzz target `error` tests it.
//!
//! Sources: `google/rpc/code.proto` and `google/rpc/error_details.proto`; gRPC over HTTP/2, and its `statuscodes.md` for messages
//! that cannot be read.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response};
use tonic::body::Body;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::domain::{self, ErrorKind, REQUEST_ID_HEADER, TokenError};

/// The domain of every `ErrorInfo`.
const DOMAIN: &str = "backup-share-gateway";
/// The wait if the upstream sent no `Retry-After`, or one of 0, which is no invitation to retry at once.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest `Retry-After` that is passed on.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(3600);
const DEADLINE_PASSED: &str = "The call's deadline passed";

/// A call that fails.
#[derive(Debug)]
pub enum RpcError {
    /// Too many calls are in flight.
    Overloaded,
    /// The caller, as its certificate names it, may not read this project.
    CallerNotAllowed,
    /// The token is missing or invalid.
    Token(TokenError),
    /// A field of the message, or the timeout, violates its rule; its value is not repeated.
    InvalidRequest(Vec<FieldViolation>),
    /// The message is longer than the limit.
    RequestTooLarge,
    /// The message cannot be decoded.
    UndecodableMessage,
    /// There is no message, or more than one.
    NotOneMessage,
    /// The message is compressed.
    UnsupportedEncoding,
    /// There is no such service or method.
    MethodNotFound,
    /// The deadline passed before the upstream was called.
    DeadlineExceeded,
    /// The call was still in flight at the end of the drain timeout.
    Draining,
    /// A handler panicked: a bug in the gateway.
    Internal,
    /// Reported by the upstream or the identity service, or by the connection to them.
    Upstream(Box<domain::Error>),
}

impl RpcError {
    /// The table, for what the gateway itself reports: code, reason and message. A detail may follow the message.
    #[rustfmt::skip]
    fn spec(&self) -> (Code, &'static str, &'static str) {
        match self {
            Self::Overloaded => (Code::ResourceExhausted, "OVERLOADED",
                "The gateway has too many calls in flight; try again later"),
            Self::CallerNotAllowed => (Code::PermissionDenied, "CALLER_NOT_ALLOWED",
                "The gateway's rules do not let this caller read this project; its operator must add one"),
            Self::Token(TokenError::Missing) => (Code::Unauthenticated, "TOKEN_MISSING",
                "The call has no x-auth-token header; send a token of the cloud's identity service"),
            Self::Token(TokenError::Duplicate) => (Code::Unauthenticated, "TOKEN_INVALID",
                "The call has more than one x-auth-token header; send exactly one"),
            Self::Token(TokenError::Invalid) => (Code::Unauthenticated, "TOKEN_INVALID",
                "The x-auth-token header must be 1 to 32768 bytes of visible ASCII"),
            Self::InvalidRequest(_) => (Code::InvalidArgument, "INVALID_REQUEST", "The request is invalid"),
            Self::RequestTooLarge => (Code::ResourceExhausted, "REQUEST_TOO_LARGE",
                "The request message is too long: at most 64 KiB for a call, 4 KiB for health and reflection"),
            Self::UndecodableMessage => (Code::Internal, "INVALID_REQUEST",
                "The request message cannot be decoded; check the client's .proto file"),
            Self::NotOneMessage => (Code::Unimplemented, "INVALID_REQUEST",
                "The method takes exactly one request message"),
            Self::UnsupportedEncoding => (Code::Unimplemented, "INVALID_REQUEST",
                "The request message is compressed; use grpc-encoding identity"),
            Self::MethodNotFound => (Code::Unimplemented, "METHOD_NOT_FOUND",
                "The gateway has no such service or method"),
            Self::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", DEADLINE_PASSED),
            Self::Draining => (Code::Unavailable, "DRAINING",
                "The gateway is shutting down; call another replica"),
            Self::Internal => (Code::Internal, "INTERNAL",
                "Internal error of the gateway; its operator can find the request ID in the log"),
            Self::Upstream(error) => upstream_spec(error.kind),
        }
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.spec().0
    }

    /// The reason, as in `ErrorInfo`.
    pub fn reason(&self) -> &'static str {
        self.spec().1
    }

    /// The upstream's error, if it is one.
    pub(super) fn upstream(&self) -> Option<&domain::Error> {
        if let Self::Upstream(error) = self { Some(error) } else { None }
    }

    /// The error of a status that has come through tonic. A status without one is tonic's own, about a request message that it
    /// could not read.
    pub(super) fn of_status(status: &Status) -> &Self {
        let error = std::error::Error::source(status).and_then(|source| source.downcast_ref());
        match error {
            Some(error) => error,
            None if status.code() == Code::Unimplemented => &Self::UnsupportedEncoding,
            None => &Self::UndecodableMessage,
        }
    }

    /// Whether the client's own retry policy is given the delay, too (gRFC A6, `grpc-retry-pushback-ms`).
    fn sends_pushback(&self) -> bool {
        match self.upstream() {
            Some(error) => matches!(error.kind, ErrorKind::RateLimited | ErrorKind::Unavailable),
            None => matches!(self, Self::Overloaded),
        }
    }

    /// How long the caller should wait before the next try, if the error passes by itself.
    fn retry_delay(&self) -> Option<Duration> {
        let is_bad_gateway = self.upstream().is_some_and(|error| error.kind == ErrorKind::BadGateway);
        if !is_bad_gateway && !self.sends_pushback() {
            return None;
        }
        let retry_after = self.upstream().and_then(|error| error.retry_after);
        Some(retry_after.unwrap_or_default().clamp(MIN_RETRY_DELAY, MAX_RETRY_DELAY))
    }

    fn message(&self) -> String {
        let (_, _, summary) = self.spec();
        if let Self::InvalidRequest(violations) = self {
            let violations = violations.iter().map(|v| format!("{} {}", v.field, v.description));
            return format!("{summary}: {}", violations.collect::<Vec<_>>().join("; "));
        }
        let detail = match self.upstream() {
            // The JSON path.
            Some(error) if error.kind == ErrorKind::Malformed => Some(&error.detail),
            Some(error) => error.message.as_ref(),
            None => None,
        };
        match detail {
            Some(detail) => format!("{summary}: {detail}"),
            None => summary.to_owned(),
        }
    }

    /// The metadata of `ErrorInfo`.
    fn metadata(&self) -> HashMap<String, String> {
        let Some(error) = self.upstream() else { return HashMap::new() };
        let is_identity = matches!(error.kind, ErrorKind::IdentityRefused | ErrorKind::IdentityUnreachable);
        let is_own = matches!(error.kind, ErrorKind::DeadlineExceeded | ErrorKind::ProjectNotServed);
        let service = if is_identity { "identity" } else { "vbs" };
        let entries = [
            ("attempts", Some(error.attempts.to_string())),
            ("httpStatus", error.http_status.map(|status| status.to_string())),
            ("upstreamCode", error.code.clone()),
            ("upstreamRequestId", error.request_id.clone()),
            // The service that reported the error.
            ("service", (!is_own).then(|| service.to_owned())),
        ];
        entries.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }

    /// The status with its details, for the call that `request_id` names.
    pub fn status(&self, request_id: &HeaderValue) -> Status {
        let mut details = ErrorDetails::with_error_info(self.reason(), DOMAIN, self.metadata());
        details.set_request_info(request_id.to_str().unwrap_or_default(), "");
        if let Self::InvalidRequest(violations) = self {
            details.set_bad_request(violations.clone());
        }
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(REQUEST_ID_HEADER, request_id.clone());
        let mut metadata = MetadataMap::from_headers(headers);
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
        Status::with_error_details_and_metadata(self.code(), self.message(), details, metadata)
    }

    /// The status as the whole response.
    pub(super) fn response(&self, request_id: &HeaderValue) -> Response<Body> {
        let mut response = self.status(request_id).into_http();
        for name in ["grpc-message", "grpc-status-details-bin"] {
            if let Some(value) = response.headers_mut().get_mut(name) {
                *value = never_index(value.clone());
            }
        }
        response
    }
}

/// The table, for what the upstream and the identity service report: code, reason and message. The numbers are HTTP statuses.
#[rustfmt::skip]
fn upstream_spec(kind: ErrorKind) -> (Code, &'static str, &'static str) {
    match kind {
        ErrorKind::BadRequest => (Code::InvalidArgument, "UPSTREAM_BAD_REQUEST", "VBS refused the request"),
        ErrorKind::Unauthenticated => (Code::Unauthenticated, "UPSTREAM_UNAUTHENTICATED",
            "VBS rejected the token; get a new one for this project and region"),
        ErrorKind::OwnCredentialRefused => (Code::Internal, "UPSTREAM_UNAUTHENTICATED",
            "VBS rejected the gateway's own credential; its operator must check it"),
        ErrorKind::ProjectNotServed => (Code::PermissionDenied, "CALLER_NOT_ALLOWED",
            "The gateway's own account is for another project; no caller may read this one through it"),
        ErrorKind::IdentityRefused => (Code::Internal, "UPSTREAM_UNAUTHENTICATED",
            "The identity service rejected the gateway's own account; the gateway's operator must check it"),
        ErrorKind::IdentityUnreachable => (Code::Unavailable, "UPSTREAM_UNREACHABLE",
            "The gateway cannot get a token from the identity service; try again later"),
        ErrorKind::Forbidden => (Code::PermissionDenied, "UPSTREAM_FORBIDDEN",
            "VBS does not let this token read the share"),
        ErrorKind::ShareNotFound => (Code::NotFound, "BACKUP_SHARE_NOT_FOUND",
            "VBS has no such backup share"),
        ErrorKind::RouteNotFound => (Code::Internal, "UPSTREAM_ROUTE_NOT_FOUND",
            "The upstream has no such route, which does not mean that the share is missing; the gateway's operator must check its upstream URL"),
        ErrorKind::MethodNotAllowed => (Code::Unimplemented, "UPSTREAM_METHOD_NOT_ALLOWED",
            "The upstream does not allow this call"),
        ErrorKind::NotImplemented => (Code::Unimplemented, "UPSTREAM_NOT_IMPLEMENTED",
            "The upstream does not implement this call"),
        ErrorKind::NotAcceptable => (Code::Internal, "UPSTREAM_NOT_ACCEPTABLE",
            "The upstream does not respond in JSON; the gateway's operator must check its upstream URL"),
        ErrorKind::ProxyAuthenticationRequired => (Code::Internal, "UPSTREAM_PROXY_AUTHENTICATION_REQUIRED",
            "A proxy before the upstream requires authentication; the gateway's operator must configure it"),
        ErrorKind::Timeout => (Code::DeadlineExceeded, "UPSTREAM_TIMEOUT", "VBS did not respond in time"),
        ErrorKind::Conflict => (Code::Aborted, "UPSTREAM_CONFLICT",
            "VBS reports a conflict; try the whole operation again"),
        ErrorKind::PreconditionFailed => (Code::FailedPrecondition, "UPSTREAM_PRECONDITION_FAILED",
            "VBS reports a failed precondition"),
        ErrorKind::RateLimited => (Code::ResourceExhausted, "UPSTREAM_RATE_LIMITED",
            "VBS limits the rate of calls; try again later"),
        ErrorKind::Internal => (Code::Internal, "UPSTREAM_INTERNAL", "VBS failed"),
        ErrorKind::BadGateway => (Code::Unavailable, "UPSTREAM_BAD_GATEWAY",
            "A gateway before VBS cannot reach it; try again later"),
        ErrorKind::Unavailable => (Code::Unavailable, "UPSTREAM_UNAVAILABLE",
            "VBS is unavailable; try again later"),
        ErrorKind::ClientError => (Code::FailedPrecondition, "UPSTREAM_CLIENT_ERROR",
            "VBS refused the request"),
        ErrorKind::ServerError => (Code::Internal, "UPSTREAM_SERVER_ERROR", "VBS failed"),
        ErrorKind::UnexpectedStatus => (Code::Internal, "UPSTREAM_UNEXPECTED_STATUS",
            "The upstream answered with an HTTP status that VBS does not use; the gateway's operator must check its upstream URL"),
        ErrorKind::Malformed => (Code::Internal, "UPSTREAM_MALFORMED_RESPONSE",
            "The upstream's response is not the requested backup share"),
        ErrorKind::TooLarge => (Code::Internal, "UPSTREAM_RESPONSE_TOO_LARGE",
            "The upstream's response is longer than the gateway's limit"),
        ErrorKind::Unreachable => (Code::Unavailable, "UPSTREAM_UNREACHABLE",
            "The gateway cannot connect to VBS; try again later"),
        ErrorKind::ConnectionLost => (Code::Unavailable, "UPSTREAM_CONNECTION_LOST",
            "The connection to VBS was lost before the response was complete; try again later"),
        ErrorKind::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", DEADLINE_PASSED),
    }
}

/// The form in which an error travels through tonic. The call layer finds it again by [`RpcError::of_status`], and builds the
/// status that the caller gets.
impl From<RpcError> for Status {
    fn from(error: RpcError) -> Self {
        let mut status = Self::new(error.code(), error.message());
        status.set_source(Arc::new(error));
        status
    }
}

impl From<domain::Error> for Status {
    fn from(error: domain::Error) -> Self {
        RpcError::Upstream(Box::new(error)).into()
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for RpcError {}

/// Marks a header that differs in every response as "never indexed" (RFC 7541, section 7.1.3). In the HPACK table of its
/// connection, it would be compared with each later one, and would evict the headers that do recur.
pub(super) fn never_index(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
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

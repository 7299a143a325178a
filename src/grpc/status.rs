//! The status table: the gRPC code, the reason and the message of each error.
//!
//! Codes and reasons are public API. The mapping follows one principle:
//!
//! - The comments in `google.rpc.Code` decide wherever they name the HTTP status.
//! - Timeouts are DEADLINE_EXCEEDED, and unavailability is UNAVAILABLE.
//! - What only the gateway's operator can fix (406, 407, a wrong route, a redirect, a rejected credential of the gateway itself)
//!   is INTERNAL, so that no caller renews a valid token or mistakes a missing route for a missing share.
//!
//! `upstream/error.rs` decides the [`ErrorKind`] of a response, for example whether a 404 is `ShareNotFound` or
//! `RouteNotFound`. `error_details.rs` builds the status. `tests/gateway/statuses.rs` tests each row, and `.ci/readme.py` compares
//! the rows with the table in the README.
//!
//! Sources: `google/rpc/code.proto`; gRPC's `statuscodes.md` for messages that cannot be read.

use std::fmt;

use tonic::Code;

use crate::domain::{self, ErrorKind, TokenError};

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
    /// A field of the message, or the timeout, violates its rule.
    InvalidRequest(Vec<Violation>),
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

/// A field that violates its rule. The value is not repeated.
#[derive(Clone, Copy, Debug)]
pub struct Violation {
    /// The field of the message, or the header.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

impl RpcError {
    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.code_and_reason().0
    }

    /// The reason, as in `ErrorInfo`.
    pub fn reason(&self) -> &'static str {
        self.code_and_reason().1
    }

    /// The upstream's error, if it is one.
    pub(super) fn upstream(&self) -> Option<&domain::Error> {
        if let Self::Upstream(error) = self { Some(error) } else { None }
    }

    /// The table, for what the gateway itself reports.
    fn code_and_reason(&self) -> (Code, &'static str) {
        match self {
            Self::Overloaded => (Code::ResourceExhausted, "OVERLOADED"),
            Self::CallerNotAllowed => (Code::PermissionDenied, "CALLER_NOT_ALLOWED"),
            Self::Token(TokenError::Missing) => (Code::Unauthenticated, "TOKEN_MISSING"),
            Self::Token(TokenError::Duplicate | TokenError::Invalid) => {
                (Code::Unauthenticated, "TOKEN_INVALID")
            }
            Self::InvalidRequest(_) => (Code::InvalidArgument, "INVALID_REQUEST"),
            Self::RequestTooLarge => (Code::ResourceExhausted, "REQUEST_TOO_LARGE"),
            Self::UndecodableMessage => (Code::Internal, "INVALID_REQUEST"),
            Self::NotOneMessage | Self::UnsupportedEncoding => (Code::Unimplemented, "INVALID_REQUEST"),
            Self::MethodNotFound => (Code::Unimplemented, "METHOD_NOT_FOUND"),
            Self::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            Self::Draining => (Code::Unavailable, "DRAINING"),
            Self::Internal => (Code::Internal, "INTERNAL"),
            Self::Upstream(error) => upstream_code_and_reason(error.kind),
        }
    }

    /// The message for people: one short sentence. A detail may follow it.
    pub(super) fn summary(&self) -> &'static str {
        match self {
            Self::Overloaded => "The gateway has too many calls in flight; try again later",
            Self::CallerNotAllowed => {
                "The gateway's rules do not let this caller read this project; its operator must add one"
            }
            Self::Token(TokenError::Missing) => {
                "The call has no x-auth-token header; send a token of the cloud's identity service"
            }
            Self::Token(TokenError::Duplicate) => {
                "The call has more than one x-auth-token header; send exactly one"
            }
            Self::Token(TokenError::Invalid) => {
                "The x-auth-token header must be 1 to 32768 bytes of visible ASCII"
            }
            Self::InvalidRequest(_) => "The request is invalid",
            Self::RequestTooLarge => "The request message is over 64 KiB",
            Self::UndecodableMessage => {
                "The request message cannot be decoded; check the client's .proto file"
            }
            Self::NotOneMessage => "The method takes exactly one request message",
            Self::UnsupportedEncoding => "The request message is compressed; use grpc-encoding identity",
            Self::MethodNotFound => "The gateway has no such service or method",
            Self::DeadlineExceeded => DEADLINE_PASSED,
            Self::Draining => "The gateway is shutting down; call another replica",
            Self::Internal => {
                "Internal error of the gateway; its operator can find the request ID in the log"
            }
            Self::Upstream(error) => upstream_summary(error.kind),
        }
    }

    /// Whether the error passes by itself, so that the status says when to try again.
    pub(super) fn has_retry_info(&self) -> bool {
        let is_bad_gateway = self.upstream().is_some_and(|error| error.kind == ErrorKind::BadGateway);
        is_bad_gateway || self.sends_pushback()
    }

    /// Whether the client's own retry policy is given the delay, too (gRFC A6, `grpc-retry-pushback-ms`).
    pub(super) fn sends_pushback(&self) -> bool {
        match self.upstream() {
            Some(error) => matches!(error.kind, ErrorKind::RateLimited | ErrorKind::Unavailable),
            None => matches!(self, Self::Overloaded),
        }
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for RpcError {}

/// The table, for what the upstream and the identity service report.
fn upstream_code_and_reason(kind: ErrorKind) -> (Code, &'static str) {
    match kind {
        // 400, 413, 414, 422, 431, 494
        ErrorKind::BadRequest => (Code::InvalidArgument, "UPSTREAM_BAD_REQUEST"),
        // 401
        ErrorKind::Unauthenticated => (Code::Unauthenticated, "UPSTREAM_UNAUTHENTICATED"),
        ErrorKind::OwnCredentialRefused => (Code::Internal, "UPSTREAM_UNAUTHENTICATED"),
        // The identity service
        ErrorKind::IdentityRefused => (Code::Internal, "UPSTREAM_UNAUTHENTICATED"),
        ErrorKind::IdentityUnreachable => (Code::Unavailable, "UPSTREAM_UNREACHABLE"),
        // 403, 404, 405, 501, 406, 407
        ErrorKind::Forbidden => (Code::PermissionDenied, "UPSTREAM_FORBIDDEN"),
        ErrorKind::ShareNotFound => (Code::NotFound, "BACKUP_SHARE_NOT_FOUND"),
        ErrorKind::RouteNotFound => (Code::Internal, "UPSTREAM_ROUTE_NOT_FOUND"),
        ErrorKind::MethodNotAllowed => (Code::Unimplemented, "UPSTREAM_METHOD_NOT_ALLOWED"),
        ErrorKind::NotImplemented => (Code::Unimplemented, "UPSTREAM_NOT_IMPLEMENTED"),
        ErrorKind::NotAcceptable => (Code::Internal, "UPSTREAM_NOT_ACCEPTABLE"),
        ErrorKind::ProxyAuthenticationRequired => (Code::Internal, "UPSTREAM_PROXY_AUTHENTICATION_REQUIRED"),
        // 408, 504, or no response within the attempt's timeout
        ErrorKind::Timeout => (Code::DeadlineExceeded, "UPSTREAM_TIMEOUT"),
        // 409, 412, 429
        ErrorKind::Conflict => (Code::Aborted, "UPSTREAM_CONFLICT"),
        ErrorKind::PreconditionFailed => (Code::FailedPrecondition, "UPSTREAM_PRECONDITION_FAILED"),
        ErrorKind::RateLimited => (Code::ResourceExhausted, "UPSTREAM_RATE_LIMITED"),
        // 500, 502, 503
        ErrorKind::Internal => (Code::Internal, "UPSTREAM_INTERNAL"),
        ErrorKind::BadGateway => (Code::Unavailable, "UPSTREAM_BAD_GATEWAY"),
        ErrorKind::Unavailable => (Code::Unavailable, "UPSTREAM_UNAVAILABLE"),
        // Any other 4xx, any other 5xx, anything else but 200
        ErrorKind::ClientError => (Code::FailedPrecondition, "UPSTREAM_CLIENT_ERROR"),
        ErrorKind::ServerError => (Code::Internal, "UPSTREAM_SERVER_ERROR"),
        ErrorKind::UnexpectedStatus => (Code::Internal, "UPSTREAM_UNEXPECTED_STATUS"),
        // A 200 that is not the share
        ErrorKind::Malformed => (Code::Internal, "UPSTREAM_MALFORMED_RESPONSE"),
        ErrorKind::TooLarge => (Code::Internal, "UPSTREAM_RESPONSE_TOO_LARGE"),
        // No complete response
        ErrorKind::Unreachable => (Code::Unavailable, "UPSTREAM_UNREACHABLE"),
        ErrorKind::ConnectionLost => (Code::Unavailable, "UPSTREAM_CONNECTION_LOST"),
        ErrorKind::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    }
}

/// What failed, and what to do about it.
fn upstream_summary(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::BadRequest | ErrorKind::ClientError => "VBS refused the request",
        ErrorKind::Unauthenticated => "VBS rejected the token; get a new one for this project and region",
        ErrorKind::OwnCredentialRefused => {
            "VBS rejected the gateway's own credential; its operator must check it"
        }
        ErrorKind::IdentityRefused => {
            "The identity service rejected the gateway's own account; the gateway's operator must check it"
        }
        ErrorKind::IdentityUnreachable => {
            "The gateway cannot get a token from the identity service; try again later"
        }
        ErrorKind::Forbidden => "VBS does not let this token read the share",
        ErrorKind::ShareNotFound => "VBS has no such backup share",
        ErrorKind::RouteNotFound => {
            "The upstream has no such route, and the share may exist; the gateway's operator must check its upstream URL"
        }
        ErrorKind::MethodNotAllowed => "The upstream does not allow this call",
        ErrorKind::NotImplemented => "The upstream does not implement this call",
        ErrorKind::NotAcceptable => {
            "The upstream does not respond in JSON; the gateway's operator must check its upstream URL"
        }
        ErrorKind::ProxyAuthenticationRequired => {
            "A proxy before the upstream requires authentication; the gateway's operator must configure it"
        }
        ErrorKind::Timeout => "VBS did not respond in time",
        ErrorKind::Conflict => "VBS reports a conflict; try the whole operation again",
        ErrorKind::PreconditionFailed => "VBS reports a failed precondition",
        ErrorKind::RateLimited => "VBS limits the rate of calls; try again later",
        ErrorKind::Internal | ErrorKind::ServerError => "VBS failed",
        ErrorKind::BadGateway => "A gateway before VBS cannot reach it; try again later",
        ErrorKind::Unavailable => "VBS is unavailable; try again later",
        ErrorKind::UnexpectedStatus => {
            "VBS does not use the upstream's HTTP status; the gateway's operator must check its upstream URL"
        }
        ErrorKind::Malformed => "The upstream's response is not the requested backup share",
        ErrorKind::TooLarge => "The upstream's response is longer than the gateway's limit",
        ErrorKind::Unreachable => "The gateway cannot connect to VBS; try again later",
        ErrorKind::ConnectionLost => {
            "The connection to VBS was lost before the response was complete; try again later"
        }
        ErrorKind::DeadlineExceeded => DEADLINE_PASSED,
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

//! From what went wrong to the gRPC status: the one place that builds one.
//!
//! The principle. The comments of `google.rpc.Code` decide wherever they name the HTTP status. Timeouts are
//! DEADLINE_EXCEEDED and unavailability is UNAVAILABLE. What only the gateway's operator can mend (406, 407, a wrong
//! route, a redirect) is INTERNAL, so that no caller renews a good token, or takes a missing route for a missing share.
//!
//! Every status carries `google.rpc.ErrorInfo`, whose reason is public API, and `google.rpc.RequestInfo`. It goes out
//! as Trailers-Only, which is what lets a client's own retry policy act on it. Whole, it stays under 4 KiB: an upstream's
//! message counts four times its 512 bytes at the most (percent-encoded, and in the details).

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tonic::body::Body;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::request::{REQUEST_ID_HEADER, another_each_time};
use crate::credentials::TokenError;
use crate::upstream::{self, Kind};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "backup-share-gateway";

/// The trailer that holds the code.
pub(super) const HEADER: HeaderName = HeaderName::from_static("grpc-status");

/// Where a caller is told to wait and the upstream did not say for how long.
const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest wait that is passed on.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(3600);

/// A call that fails.
#[derive(Debug)]
pub enum Failure {
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
    Upstream(Box<upstream::Error>),
}

/// A field that breaks its rule. The value is not repeated.
#[derive(Clone, Copy, Debug)]
pub struct Violation {
    /// The field, or the header.
    pub field: &'static str,
    /// What it must be.
    pub rule: &'static str,
}

/// What a failure is called, and what is said about it.
struct Meaning {
    code: Code,
    reason: &'static str,
    sentence: &'static str,
}

const fn meaning(code: Code, reason: &'static str, sentence: &'static str) -> Meaning {
    Meaning { code, reason, sentence }
}

impl Failure {
    /// The reason, as in `ErrorInfo`.
    pub fn reason(&self) -> &'static str {
        self.meaning().reason
    }

    #[expect(clippy::too_many_lines, reason = "a table: one row a failure")]
    fn meaning(&self) -> Meaning {
        match self {
            Self::Overloaded => meaning(
                Code::ResourceExhausted,
                "OVERLOADED",
                "The gateway has too many calls in flight; try again later",
            ),
            Self::CallerNotAllowed => meaning(
                Code::PermissionDenied,
                "CALLER_NOT_ALLOWED",
                "The gateway's rules do not let this caller read this project; its operator must add one",
            ),
            Self::Token(TokenError::Missing) => meaning(
                Code::Unauthenticated,
                "TOKEN_MISSING",
                "The call has no x-auth-token header; send a token of the cloud's identity service",
            ),
            Self::Token(TokenError::Duplicate) => meaning(
                Code::Unauthenticated,
                "TOKEN_INVALID",
                "The call has more than one x-auth-token header; send exactly one",
            ),
            Self::Token(TokenError::Invalid) => meaning(
                Code::Unauthenticated,
                "TOKEN_INVALID",
                "The x-auth-token header must be 1 to 32768 bytes of visible ASCII",
            ),
            Self::InvalidRequest(_) => {
                meaning(Code::InvalidArgument, "INVALID_REQUEST", "The request is invalid")
            }
            Self::RequestTooLarge => {
                meaning(Code::ResourceExhausted, "REQUEST_TOO_LARGE", "The request message is over 64 KiB")
            }
            Self::UnreadableMessage => meaning(
                Code::Internal,
                "INVALID_REQUEST",
                "The request message cannot be decoded as vbs.v2.GetBackupShareRequest",
            ),
            Self::NotOneMessage => meaning(
                Code::Unimplemented,
                "INVALID_REQUEST",
                "The method takes exactly one request message",
            ),
            Self::UnsupportedEncoding => meaning(
                Code::Unimplemented,
                "INVALID_REQUEST",
                "The request message is compressed; only grpc-encoding identity is taken",
            ),
            Self::MethodNotFound => {
                meaning(Code::Unimplemented, "METHOD_NOT_FOUND", "The gateway has no such service or method")
            }
            Self::DeadlineExceeded => {
                meaning(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "The call's deadline passed")
            }
            Self::Draining => {
                meaning(Code::Unavailable, "DRAINING", "The gateway is shutting down; call another replica")
            }
            Self::Panic => meaning(
                Code::Internal,
                "INTERNAL",
                "The gateway failed; its operator finds the request ID in the log",
            ),
            Self::Upstream(error) => kind_meaning(error.kind),
        }
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.meaning().code
    }

    /// How long the caller should wait before the next try, where that would help.
    fn retry_delay(&self) -> Option<Duration> {
        let told = match self.upstream() {
            Some(error) if matches!(error.kind, Kind::RateLimited | Kind::BadGateway | Kind::Unavailable) => {
                error.retry_after
            }
            None if matches!(self, Self::Overloaded) => None,
            Some(_) | None => return None,
        };
        Some(told.unwrap_or(DEFAULT_RETRY_DELAY).min(MAX_RETRY_DELAY))
    }

    /// Whether the client's own retry policy is told the delay, too.
    fn pushes_back(&self) -> bool {
        match self.upstream() {
            Some(error) => matches!(error.kind, Kind::RateLimited | Kind::Unavailable),
            None => matches!(self, Self::Overloaded),
        }
    }

    /// What the upstream, or the way to it, did.
    pub(super) fn upstream(&self) -> Option<&upstream::Error> {
        if let Self::Upstream(error) = self { Some(error) } else { None }
    }

    fn message(&self) -> String {
        let sentence = self.meaning().sentence;
        let particulars = if let Self::InvalidRequest(violations) = self {
            let broken: Vec<String> = violations.iter().map(|v| format!("{} {}", v.field, v.rule)).collect();
            Some(broken.join("; "))
        } else {
            let of_upstream = |error: &upstream::Error| match error.kind == Kind::Malformed {
                true => Some(error.detail.clone()),
                false => error.message.clone(),
            };
            self.upstream().and_then(of_upstream)
        };
        match particulars {
            Some(particulars) => format!("{sentence}: {particulars}"),
            None => sentence.to_owned(),
        }
    }

    fn metadata(&self) -> HashMap<String, String> {
        let Some(error) = self.upstream() else { return HashMap::new() };
        let of_identity = matches!(error.kind, Kind::IdentityRefused | Kind::IdentityUnreachable);
        let service = if of_identity { "identity" } else { "vbs" };
        let said = (error.kind != Kind::DeadlineExceeded).then(|| service.to_owned());
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
        let meaning = self.meaning();
        let id = request_id.to_str().unwrap_or_default();
        let mut details = ErrorDetails::with_error_info(meaning.reason, DOMAIN, self.metadata());
        details.set_request_info(id, "");
        if let Self::InvalidRequest(violations) = self {
            for violation in violations {
                details.add_bad_request_violation(violation.field, violation.rule);
            }
        }
        let mut metadata = request_id_metadata(request_id);
        if let Some(delay) = self.retry_delay() {
            details.set_retry_info(Some(delay));
            if self.pushes_back() {
                let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                metadata.insert("grpc-retry-pushback-ms", MetadataValue::from(millis));
            }
        }
        if matches!(self, Self::UnsupportedEncoding) {
            metadata.insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
        }
        Status::with_error_details_and_metadata(meaning.code, self.message(), details, metadata)
    }

    /// The status as the whole response.
    pub(super) fn response(&self, request_id: &HeaderValue) -> Response<Body> {
        let mut response = self.status(request_id).into_http();
        for name in ["grpc-message", "grpc-status-details-bin"] {
            response.headers_mut().get_mut(name).map(another_each_time);
        }
        response
    }
}

/// The request's ID, as it goes back in the initial metadata.
pub(super) fn request_id_metadata(request_id: &HeaderValue) -> MetadataMap {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(REQUEST_ID_HEADER, request_id.clone());
    MetadataMap::from_headers(headers)
}

/// The table of the upstream's failures. The sentences say whose fault it is and what to do; an upstream's own message
/// may follow.
#[expect(clippy::too_many_lines, reason = "a table: one row a kind")]
fn kind_meaning(kind: Kind) -> Meaning {
    match kind {
        Kind::BadRequest => meaning(Code::InvalidArgument, "UPSTREAM_BAD_REQUEST", "VBS refused the request"),
        Kind::Unauthenticated => meaning(
            Code::Unauthenticated,
            "UPSTREAM_UNAUTHENTICATED",
            "VBS refused the token; get a new one for this project and region",
        ),
        Kind::OwnCredentialRefused => meaning(
            Code::Internal,
            "UPSTREAM_UNAUTHENTICATED",
            "VBS refused the gateway's own credential; the gateway's operator must check it",
        ),
        Kind::IdentityRefused => meaning(
            Code::Internal,
            "UPSTREAM_UNAUTHENTICATED",
            "The identity service refused the gateway's own account; the gateway's operator must check it",
        ),
        Kind::IdentityUnreachable => meaning(
            Code::Unavailable,
            "UPSTREAM_UNREACHABLE",
            "The gateway has no token: the identity service cannot be asked, or gave no usable answer; try again later",
        ),
        Kind::Forbidden => meaning(
            Code::PermissionDenied,
            "UPSTREAM_FORBIDDEN",
            "VBS does not let this token read the share",
        ),
        Kind::ShareNotFound => {
            meaning(Code::NotFound, "BACKUP_SHARE_NOT_FOUND", "VBS has no such backup share")
        }
        Kind::RouteNotFound => meaning(
            Code::Internal,
            "UPSTREAM_ROUTE_NOT_FOUND",
            "The upstream does not know the route, which says nothing about the share; the gateway's operator must check its upstream URL",
        ),
        Kind::MethodNotAllowed => meaning(
            Code::Unimplemented,
            "UPSTREAM_METHOD_NOT_ALLOWED",
            "The upstream does not allow this call",
        ),
        Kind::NotImplemented => meaning(
            Code::Unimplemented,
            "UPSTREAM_NOT_IMPLEMENTED",
            "The upstream does not implement this call",
        ),
        Kind::NotAcceptable => meaning(
            Code::Internal,
            "UPSTREAM_NOT_ACCEPTABLE",
            "The upstream does not answer in JSON; the gateway's operator must check its upstream URL",
        ),
        Kind::ProxyAuthenticationRequired => meaning(
            Code::Internal,
            "UPSTREAM_PROXY_AUTHENTICATION_REQUIRED",
            "A proxy before the upstream wants credentials; the gateway's operator must configure it",
        ),
        Kind::Timeout => meaning(Code::DeadlineExceeded, "UPSTREAM_TIMEOUT", "VBS did not answer in time"),
        Kind::Conflict => meaning(
            Code::Aborted,
            "UPSTREAM_CONFLICT",
            "VBS reports a conflict; try the whole operation again",
        ),
        Kind::PreconditionFailed => meaning(
            Code::FailedPrecondition,
            "UPSTREAM_PRECONDITION_FAILED",
            "VBS reports a failed precondition",
        ),
        Kind::RateLimited => meaning(
            Code::ResourceExhausted,
            "UPSTREAM_RATE_LIMITED",
            "VBS limits the rate of calls; try again later",
        ),
        Kind::Internal => meaning(Code::Internal, "UPSTREAM_INTERNAL", "VBS failed"),
        Kind::BadGateway => meaning(
            Code::Unavailable,
            "UPSTREAM_BAD_GATEWAY",
            "A gateway before VBS cannot reach it; try again later",
        ),
        Kind::Unavailable => {
            meaning(Code::Unavailable, "UPSTREAM_UNAVAILABLE", "VBS is unavailable; try again later")
        }
        Kind::ClientError => {
            meaning(Code::FailedPrecondition, "UPSTREAM_CLIENT_ERROR", "VBS refused the request")
        }
        Kind::ServerError => meaning(Code::Internal, "UPSTREAM_SERVER_ERROR", "VBS failed"),
        Kind::UnexpectedStatus => meaning(
            Code::Internal,
            "UPSTREAM_UNEXPECTED_STATUS",
            "The upstream answered with an HTTP status that VBS does not use; the gateway's operator must check its upstream URL",
        ),
        Kind::Malformed => meaning(
            Code::Internal,
            "UPSTREAM_MALFORMED_RESPONSE",
            "The upstream's reply is not the backup share asked for",
        ),
        Kind::TooLarge => meaning(
            Code::Internal,
            "UPSTREAM_RESPONSE_TOO_LARGE",
            "The upstream's reply is longer than the gateway's limit",
        ),
        Kind::Unreachable => meaning(
            Code::Unavailable,
            "UPSTREAM_UNREACHABLE",
            "The gateway cannot connect to VBS; try again later",
        ),
        Kind::ConnectionLost => meaning(
            Code::Unavailable,
            "UPSTREAM_CONNECTION_LOST",
            "The connection to VBS broke before a whole reply had come; try again later",
        ),
        Kind::DeadlineExceeded => {
            meaning(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "The call's deadline passed")
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

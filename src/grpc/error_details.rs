//! From an error to its [`Status`] with details: the only place that builds one for a call.
//!
//! Every status carries `google.rpc.ErrorInfo`, whose reason is public API, and `google.rpc.RequestInfo`; `BadRequest` and
//! `RetryInfo` where they apply. It is sent as Trailers-Only, as a client's retry policy requires (gRFC A6). The whole status
//! stays under 4 KiB: an upstream's message has at most 512 bytes, which count up to four times (percent-encoded in
//! `grpc-message`, and in `grpc-status-details-bin`).
//!
//! Sources: `google/rpc/error_details.proto`, gRPC over HTTP/2. The fuzz target `error` tests it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response};
use tonic::body::Body;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::headers::never_index;
use super::status::RpcError;
use crate::domain::{self, ErrorKind, REQUEST_ID_HEADER};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "backup-share-gateway";

/// The wait if the upstream sent no `Retry-After`.
const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest `Retry-After` that is passed on.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(3600);

/// The form in which an error travels through tonic. The call layer finds it again by [`RpcError::of_status`], and builds the
/// status that the caller gets.
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

    /// How long the caller should wait before the next try, if the error passes by itself.
    fn retry_delay(&self) -> Option<Duration> {
        if !self.has_retry_info() {
            return None;
        }
        let retry_after = self.upstream().and_then(|error| error.retry_after);
        Some(retry_after.unwrap_or(DEFAULT_RETRY_DELAY).min(MAX_RETRY_DELAY))
    }

    fn message(&self) -> String {
        match self.message_detail() {
            Some(detail) => format!("{}: {detail}", self.summary()),
            None => self.summary().to_owned(),
        }
    }

    fn message_detail(&self) -> Option<String> {
        if let Self::InvalidRequest(violations) = self {
            let violations =
                violations.iter().map(|violation| format!("{} {}", violation.field, violation.rule));
            return Some(violations.collect::<Vec<_>>().join("; "));
        }
        let error = self.upstream()?;
        // The detail of a malformed response is the JSON path.
        if error.kind == ErrorKind::Malformed { Some(error.detail.clone()) } else { error.message.clone() }
    }

    /// The metadata of `ErrorInfo`.
    fn metadata(&self) -> HashMap<String, String> {
        let mut metadata = HashMap::new();
        let Some(error) = self.upstream() else { return metadata };
        metadata.insert("attempts".to_owned(), error.attempts.to_string());
        if let Some(status) = error.http_status {
            metadata.insert("httpStatus".to_owned(), status.to_string());
        }
        if let Some(code) = &error.code {
            metadata.insert("upstreamCode".to_owned(), code.clone());
        }
        if let Some(id) = &error.request_id {
            metadata.insert("upstreamRequestId".to_owned(), id.clone());
        }
        if error.kind != ErrorKind::DeadlineExceeded {
            metadata.insert("service".to_owned(), service(error.kind).to_owned());
        }
        metadata
    }

    /// The status with its details, for the call that `request_id` names.
    pub fn status(&self, request_id: &HeaderValue) -> Status {
        let mut details = ErrorDetails::with_error_info(self.reason(), DOMAIN, self.metadata());
        details.set_request_info(request_id.to_str().unwrap_or_default(), "");
        if let Self::InvalidRequest(violations) = self {
            for violation in violations {
                details.add_bad_request_violation(violation.field, violation.rule);
            }
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

/// The service that reported an error.
fn service(kind: ErrorKind) -> &'static str {
    if matches!(kind, ErrorKind::IdentityRefused | ErrorKind::IdentityUnreachable) {
        "identity"
    } else {
        "vbs"
    }
}

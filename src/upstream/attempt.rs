//! One attempt: a GET with a credential, and its response as a share or an error.
//!
//! An attempt knows nothing of those before and after it but their number. The status is checked before the JSON: the body of a
//! 404 is never read as a share. Each attempt has a client span and one observation in
//! `http_client_request_duration_seconds`, also if it is cancelled.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span};
use url::Url;

use super::error::{DEADLINE_EXPIRED, from_response, safe_request_id};
use super::json::read_share;
use super::unknown_fields::UnknownFields;
use crate::credentials::{AuthMaterial, SignableRequest};
use crate::domain::{
    BackupShare, CallContext, Error, ErrorKind, ProjectId, REQUEST_ID_HEADER, ShareId, ShareRef,
};
use crate::error_response::retry_after_header;
use crate::http::{
    BaseUrl, Error as HttpError, HttpClient, Response, Reuse, first_text, has_content_encoding,
};
use crate::metrics::Metrics;
use crate::telemetry::spans;

const ACCEPT: &str = "application/json";
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
/// The headers with the upstream's request ID: of the API gateway, then of the services behind it.
const REQUEST_ID_HEADERS: [HeaderName; 4] = [
    REQUEST_ID_HEADER,
    HeaderName::from_static("x-openstack-request-id"),
    HeaderName::from_static("x-compute-request-id"),
    HeaderName::from_static("x-iam-trace-id"),
];

/// A failed attempt.
pub(super) struct AttemptError {
    pub(super) error: Error,
    /// The metric's label `error_type`. `None` if the response has an error status.
    error_type: Option<&'static str>,
    /// The upstream closed a pooled connection before it sent a complete response head.
    pub(super) is_stale: bool,
}

impl AttemptError {
    fn new(kind: ErrorKind, error_type: &'static str, detail: impl Into<String>) -> Self {
        Self { error: Error::new(kind, detail), error_type: Some(error_type), is_stale: false }
    }

    /// The metric's label for why another attempt follows.
    pub(super) fn retry_reason(&self) -> &'static str {
        self.error_type.unwrap_or("status")
    }
}

impl From<HttpError> for AttemptError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Unreachable(detail) => Self::new(ErrorKind::Unreachable, "connect", detail),
            HttpError::ProxyAuthentication(detail) => {
                Self::new(ErrorKind::ProxyAuthenticationRequired, "connect", detail)
            }
            HttpError::Lost { detail, is_stale } => {
                Self { is_stale, ..Self::new(ErrorKind::ConnectionLost, "lost", detail) }
            }
        }
    }
}

/// Makes the attempts of all calls.
pub(super) struct AttemptClient {
    /// `None` if the endpoint comes with the credential.
    pub(super) base_url: Option<BaseUrl>,
    pub(super) http: HttpClient,
    pub(super) timeout: Duration,
    pub(super) metrics: Metrics,
    pub(super) unknown_fields: UnknownFields,
}

impl AttemptClient {
    /// Makes one attempt at `start`, after `resend_count` others of the same call.
    pub(super) async fn get(
        &self,
        call: &CallContext,
        share: &ShareRef,
        material: &AuthMaterial,
        reuse: Reuse,
        resend_count: u32,
        start: Instant,
    ) -> Result<BackupShare, AttemptError> {
        let Some(base_url) = self.base_url.as_ref().or(material.endpoint()) else {
            let detail = "the upstream's URL is unknown";
            return Err(AttemptError::new(ErrorKind::Unreachable, "connect", detail));
        };
        let url = share_url(base_url, &share.project_id, &share.id);
        let span = spans::attempt(&url, resend_count);
        let mut record = AttemptRecord {
            metrics: &self.metrics,
            span: span.clone(),
            start,
            http_status: None,
            error_type: Some("cancelled"),
        };
        let mut headers = request_headers(call, base_url);
        spans::inject(&span, &call.trace, &mut headers);
        let signable = SignableRequest {
            host: url.authority(),
            path: url.path(),
            project_id: share.project_id.as_str(),
            user_agent: USER_AGENT,
            accept: ACCEPT,
        };
        material.add_to(&mut headers, signable, SystemTime::now);

        let timeout = start + self.timeout;
        let exchange = self.http.get(url, headers, reuse).instrument(span);
        let result = match timeout_at(call.deadline.min(timeout), exchange).await {
            Ok(Ok(response)) => self.read_response(call, share, material, &response),
            Ok(Err(error)) => Err(error.into()),
            // If both expire together, the deadline is reported.
            Err(_) if call.deadline <= timeout => {
                Err(AttemptError::new(ErrorKind::DeadlineExceeded, "timeout", DEADLINE_EXPIRED))
            }
            Err(_) => {
                self.http.discard_pool();
                let detail = "no response within the attempt timeout";
                Err(AttemptError::new(ErrorKind::Timeout, "timeout", detail))
            }
        };
        match &result {
            Ok(_) => {
                record.http_status = Some(200);
                record.error_type = None;
            }
            Err(failed) => {
                record.http_status = failed.error.http_status;
                record.error_type = failed.error_type;
            }
        }
        result
    }

    fn read_response(
        &self,
        call: &CallContext,
        share: &ShareRef,
        material: &AuthMaterial,
        response: &Response,
    ) -> Result<BackupShare, AttemptError> {
        let request_id = first_text(&response.headers, &REQUEST_ID_HEADERS);
        if response.status != 200 {
            return Err(status_error(response, request_id, material));
        }
        let request_id = request_id.and_then(|id| safe_request_id(id, material));
        match self.read_body(response, &share.id, material) {
            Ok(found) => {
                if let Some(id) = request_id {
                    let _ = call.stats.upstream_request_id.set(id);
                }
                Ok(found)
            }
            Err(mut failed) => {
                failed.error.http_status = Some(200);
                failed.error.request_id = request_id;
                Err(failed)
            }
        }
    }

    /// Reads the body of a 200.
    fn read_body(
        &self,
        response: &Response,
        id: &ShareId,
        material: &AuthMaterial,
    ) -> Result<BackupShare, AttemptError> {
        let Some(body) = &response.body else {
            let detail = "the body is longer than the limit";
            return Err(AttemptError::new(ErrorKind::TooLarge, "too_large", detail));
        };
        let malformed = |detail: &str| AttemptError::new(ErrorKind::Malformed, "malformed", detail);
        if has_content_encoding(&response.headers) {
            return Err(malformed("the body has a content encoding, although none was requested"));
        }
        let on_unknown = |path: String| self.unknown_fields.record(&path, material, &self.metrics);
        // The path in the error may repeat the token.
        read_share(body, id, on_unknown).map_err(|error| malformed(&material.redact(&error)))
    }
}

/// The error for a response that is not 200.
fn status_error(response: &Response, request_id: Option<&str>, material: &AuthMaterial) -> AttemptError {
    let body = response.body.as_deref().filter(|_| !has_content_encoding(&response.headers));
    let retry_after = retry_after_header(&response.headers);
    let error = from_response(response.status, retry_after, request_id, body, material);
    AttemptError { error, error_type: None, is_stale: false }
}

/// The URL of one share, below that of the upstream.
pub fn share_url(base: &BaseUrl, project_id: &ProjectId, id: &ShareId) -> Url {
    base.join(&["v2/", project_id.as_str(), "/os-vendor-backup-sharing/", id.as_str()])
}

/// The headers of a request, without its trace context and its credential.
fn request_headers(call: &CallContext, base_url: &BaseUrl) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(6);
    headers.insert(header::HOST, base_url.host_header());
    headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(REQUEST_ID_HEADER, call.request_id.clone());
    headers
}

/// Observes an attempt when it is dropped: after its end, or because the call was cancelled.
struct AttemptRecord<'a> {
    metrics: &'a Metrics,
    span: Span,
    start: Instant,
    http_status: Option<u16>,
    error_type: Option<&'static str>,
}

impl Drop for AttemptRecord<'_> {
    fn drop(&mut self) {
        let error_type = self.error_type.unwrap_or_default();
        self.metrics.attempt(self.http_status, error_type, self.start.elapsed());
        spans::end_attempt(&self.span, self.http_status, self.error_type);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url_of_share(base: &str) -> String {
        let project = ProjectId::parse("c13f5220dc1949b0b741ea81a7cd5554".into()).unwrap();
        let id = ShareId::parse("8332443E-9866-41D8-8A58-A898CF5DB030".into()).unwrap();
        share_url(&BaseUrl::parse(base, false).unwrap(), &project, &id).to_string()
    }

    #[test]
    fn share_url_keeps_the_path_prefix_and_has_the_id_in_lower_case() {
        let path = "v2/c13f5220dc1949b0b741ea81a7cd5554/os-vendor-backup-sharing/8332443e-9866-41d8-8a58-a898cf5db030";
        for (base, prefix) in [
            ("https://vbs.eu-de.otc.t-systems.com", "https://vbs.eu-de.otc.t-systems.com/"),
            ("https://vbs.eu-de.otc.t-systems.com/", "https://vbs.eu-de.otc.t-systems.com/"),
            ("https://proxy.example:8443/vbs", "https://proxy.example:8443/vbs/"),
            ("https://proxy.example/vbs/", "https://proxy.example/vbs/"),
        ] {
            assert_eq!(url_of_share(base), format!("{prefix}{path}"));
        }
    }
}

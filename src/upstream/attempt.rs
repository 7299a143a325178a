//! One attempt: a GET with a credential, and what its response says.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, Span};
use url::Url;

use super::error::{from_response, safe_request_id};
use super::json::read_share;
use super::retry::retry_after;
use super::{BaseUrl, DEADLINE_PASSED, Upstream};
use crate::credentials::{AuthMaterial, SignableRequest};
use crate::domain::{BackupShare, CallContext, Error, ErrorKind, ProjectId, ShareId, ShareRef};
use crate::http::{Body, Error as HttpError, Response, Reuse, first_text, has_content_encoding};
use crate::metrics::Metrics;
use crate::telemetry::spans;

const ACCEPT: &str = "application/json";
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Where the services of these clouds put their ID of the request: the API gateway's first, then that of the services
/// behind it.
const REQUEST_ID_HEADERS: [HeaderName; 4] = [
    REQUEST_ID,
    HeaderName::from_static("x-openstack-request-id"),
    HeaderName::from_static("x-compute-request-id"),
    HeaderName::from_static("x-iam-trace-id"),
];

/// A failed attempt.
pub(super) struct AttemptError {
    pub(super) error: Error,
    /// The upstream closed a pooled connection before it sent a complete response head.
    pub(super) is_stale: bool,
}

impl From<Error> for AttemptError {
    fn from(error: Error) -> Self {
        Self { error, is_stale: false }
    }
}

impl From<HttpError> for AttemptError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Unreachable(detail) => Error::new(ErrorKind::Unreachable, detail).into(),
            HttpError::ProxyAuthentication(detail) => {
                Error::new(ErrorKind::ProxyAuthenticationRequired, detail).into()
            }
            HttpError::Lost { detail, stale } => {
                Self { error: Error::new(ErrorKind::ConnectionLost, detail), is_stale: stale }
            }
        }
    }
}

impl Upstream {
    /// Makes one attempt, after `requests` others of the same call.
    pub(super) async fn attempt(
        &self,
        call: &CallContext,
        share: &ShareRef,
        material: &AuthMaterial,
        reuse: Reuse,
        requests: u32,
    ) -> Result<BackupShare, AttemptError> {
        let unknown = || Error::new(ErrorKind::Unreachable, "the upstream's URL is not known");
        let base_url = self.base_url.as_ref().or(material.endpoint()).ok_or_else(unknown)?;
        let url = share_url(base_url, &share.project_id, &share.id);
        let span = spans::attempt(&url, requests);
        let mut record = AttemptRecord::new(&self.metrics, span.clone());
        let mut headers = request_headers(call, base_url);
        spans::inject(&span, &call.trace, &mut headers);
        material.add_to(&mut headers, signable(&url, &share.project_id), SystemTime::now());

        let timeout = record.start + self.config.attempt_timeout;
        let exchange = self.http.get(url, headers, reuse).instrument(span);
        let result = match timeout_at(call.deadline.min(timeout), exchange).await {
            Ok(Ok(response)) => self.read(call, share, material, &response).map_err(AttemptError::from),
            Ok(Err(error)) => Err(error.into()),
            // If both expire together, the deadline is reported.
            Err(_) if call.deadline <= timeout => {
                Err(Error::new(ErrorKind::DeadlineExceeded, DEADLINE_PASSED).into())
            }
            Err(_) => Err(Error::new(ErrorKind::Timeout, "no reply within the attempt's time").into()),
        };
        record.end(result.as_ref().err().map(|failed| &failed.error));
        result
    }

    /// The status before the JSON.
    fn read(
        &self,
        call: &CallContext,
        share: &ShareRef,
        material: &AuthMaterial,
        response: &Response,
    ) -> Result<BackupShare, Error> {
        let request_id = first_text(&response.headers, &REQUEST_ID_HEADERS);
        let is_coded = has_content_encoding(&response.headers);
        let body = match &response.body {
            Body::Complete(bytes) => Some(bytes.as_ref()),
            Body::TooLarge => None,
        };
        if response.status != 200 {
            let body = if is_coded { None } else { body };
            let error = from_response(response.status, request_id, body, material);
            let mut values = response.headers.get_all(header::RETRY_AFTER).iter();
            let retry_after = values.find_map(|value| retry_after(value.as_bytes(), SystemTime::now()));
            return Err(Error { retry_after, ..error });
        }
        let request_id = request_id.and_then(|id| safe_request_id(id, material));
        let failed = |kind, detail: String| Error {
            http_status: Some(200),
            request_id: request_id.clone(),
            ..Error::new(kind, detail)
        };
        let body =
            body.ok_or_else(|| failed(ErrorKind::TooLarge, "the body is longer than the limit".into()))?;
        if is_coded {
            let detail = "the body has a content coding, which was not asked for";
            return Err(failed(ErrorKind::Malformed, detail.into()));
        }
        let note = |path: String| self.unknown_fields.note(&path, material, &self.metrics);
        let found = read_share(body, &share.id, note)
            // A key may repeat the token, too.
            .map_err(|malformed| failed(ErrorKind::Malformed, material.redact(&malformed.to_string())))?;
        if let Some(id) = request_id {
            call.stats.set_upstream_request_id(id);
        }
        Ok(found)
    }
}

/// The URL of one share, below the upstream's.
pub fn share_url(base: &BaseUrl, project_id: &ProjectId, id: &ShareId) -> Url {
    base.join(&["v2/", project_id.as_str(), "/os-vendor-backup-sharing/", id.as_str()])
}

/// The headers of a request, without its trace context and its credential.
fn request_headers(call: &CallContext, base_url: &BaseUrl) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::HOST, base_url.host_header());
    headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(REQUEST_ID, call.request_id.clone());
    headers
}

fn signable<'a>(url: &'a Url, project_id: &'a ProjectId) -> SignableRequest<'a> {
    SignableRequest {
        host: url.authority(),
        path: url.path(),
        project_id: project_id.as_str(),
        user_agent: USER_AGENT,
        accept: ACCEPT,
    }
}

/// The metric's label for why an attempt failed; a response with a status of its own has none.
pub(super) fn error_type(error: &Error) -> Option<&'static str> {
    match (error.kind, error.http_status) {
        (ErrorKind::Malformed, _) => Some("malformed"),
        (ErrorKind::TooLarge, _) => Some("too_large"),
        (ErrorKind::Unreachable | ErrorKind::ProxyAuthenticationRequired, None) => Some("connect"),
        (ErrorKind::ConnectionLost, _) => Some("lost"),
        (ErrorKind::Timeout | ErrorKind::DeadlineExceeded, None) => Some("timeout"),
        (_, _) => None,
    }
}

/// Observes an attempt when it ends, or when it is dropped because its caller is gone.
struct AttemptRecord<'a> {
    metrics: &'a Metrics,
    span: Span,
    start: Instant,
    http_status: Option<u16>,
    error_type: Option<&'static str>,
}

impl<'a> AttemptRecord<'a> {
    fn new(metrics: &'a Metrics, span: Span) -> Self {
        let start = Instant::now();
        Self { metrics, span, start, http_status: None, error_type: Some("cancelled") }
    }

    fn end(&mut self, error: Option<&Error>) {
        self.http_status = error.map_or(Some(200), |error| error.http_status);
        self.error_type = error.and_then(error_type);
    }
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

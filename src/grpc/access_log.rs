//! One line and one observation per GetBackupShare call, whatever becomes of it: also for a call that its caller
//! cancelled, which is what dropping an unfinished [`Record`] means.

use std::sync::OnceLock;
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;
use tonic::Code;

use super::status::{Failure, code_name};
use super::{Caller, METHOD};
use crate::telemetry::{CallSpan, Metrics};
use crate::upstream::{Progress, ProjectId, ShareId};

/// What is known of a call so far.
pub(super) struct Record {
    metrics: Metrics,
    arrival: Instant,
    pub(super) request_id: HeaderValue,
    /// The call's span, which ends with it.
    pub(super) span: CallSpan,
    pub(super) caller: Caller,
    deadline: Duration,
    asked: OnceLock<Asked>,
    /// How far the upstream's part has come.
    pub(super) progress: Progress,
    outcome: Outcome,
}

/// What is known once a request has passed its check, and not before: what failed it is never logged.
struct Asked {
    project_id: ProjectId,
    share_id: ShareId,
    since: Instant,
}

/// How a call ended.
struct Outcome {
    code: Code,
    reason: Option<&'static str>,
    http_status: Option<u16>,
    upstream_request_id: Option<String>,
    detail: Option<String>,
}

impl Record {
    pub(super) fn begin(
        metrics: &Metrics,
        arrival: Instant,
        request_id: HeaderValue,
        span: CallSpan,
        caller: Caller,
        deadline: Duration,
    ) -> Self {
        metrics.active_requests.inc();
        Self {
            metrics: metrics.clone(),
            arrival,
            request_id,
            span,
            caller,
            deadline,
            asked: OnceLock::new(),
            progress: Progress::default(),
            outcome: Outcome {
                code: Code::Cancelled,
                reason: None,
                http_status: None,
                upstream_request_id: None,
                detail: None,
            },
        }
    }

    /// The upstream is about to be asked.
    pub(super) fn asks(&self, project_id: &ProjectId, share_id: &ShareId) {
        let asked =
            Asked { project_id: project_id.clone(), share_id: share_id.clone(), since: Instant::now() };
        // A call asks once.
        let _ = self.asked.set(asked);
    }

    /// The share was found.
    pub(super) fn found(&mut self, upstream_request_id: Option<String>) {
        self.outcome = Outcome {
            code: Code::Ok,
            reason: None,
            http_status: Some(200),
            upstream_request_id,
            detail: None,
        };
    }

    /// The call failed.
    pub(super) fn failed(&mut self, failure: &Failure) {
        let upstream = failure.upstream();
        self.outcome = Outcome {
            code: failure.code(),
            reason: Some(failure.reason()),
            http_status: upstream.and_then(|error| error.http_status),
            upstream_request_id: upstream.and_then(|error| error.request_id.clone()),
            detail: upstream.map(|error| error.detail.clone()),
        };
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.arrival.elapsed();
        let code = code_name(self.outcome.code);
        self.metrics.active_requests.dec();
        self.metrics.call(METHOD, code, duration);
        let (outcome, asked) = (&self.outcome, self.asked.get());
        let waited = self.progress.waited_for_credential();
        self.span.ended(code, outcome.reason);
        tracing::info!(
            rpc.method = METHOD,
            rpc.code = code,
            reason = outcome.reason,
            request_id = self.request_id.to_str().ok(),
            trace_id = self.span.trace_id(),
            caller = self.caller.names.first(),
            peer = self.caller.address.map(|_| &*self.caller.shown),
            project_id = asked.map(|asked| asked.project_id.as_str()),
            share_id = asked.map(|asked| asked.share_id.as_str()),
            attempts = asked.map(|_| self.progress.attempts()),
            http.status = outcome.http_status,
            upstream_request_id = outcome.upstream_request_id,
            duration_ms = millis(duration),
            credential_ms = asked.map(|_| millis(waited)),
            upstream_ms = asked.map(|asked| millis(asked.since.elapsed().saturating_sub(waited))),
            deadline_ms = millis(self.deadline),
            detail = outcome.detail,
            "call"
        );
    }
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

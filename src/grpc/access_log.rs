//! The record of a call: when it is dropped, it writes the access log line, ends the span and observes the duration. So each
//! call has exactly one of each, however it ends; a call that its caller cancels is dropped before an outcome is set.
//!
//! Names of fields: OpenTelemetry's semantic conventions for RPC and HTTP. `tests/gateway/logging.rs` shows the lines.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::context::Call;
use super::status::{RpcError, code_name};
use crate::metrics::Metrics;
use crate::telemetry::spans::CallSpan;

/// What is known of a call so far.
pub(super) struct CallRecord {
    metrics: Metrics,
    arrival: Instant,
    call: Arc<Call>,
    /// The call's span, which ends with it.
    span: CallSpan,
    outcome: CallOutcome,
}

/// How a call ended.
struct CallOutcome {
    code: Code,
    reason: Option<&'static str>,
    http_status: Option<u16>,
    upstream_request_id: Option<String>,
    detail: Option<String>,
}

impl CallRecord {
    pub(super) fn new(metrics: &Metrics, arrival: Instant, call: Arc<Call>, span: CallSpan) -> Self {
        metrics.active_requests.inc();
        let cancelled = CallOutcome {
            code: Code::Cancelled,
            reason: None,
            http_status: None,
            upstream_request_id: None,
            detail: None,
        };
        Self { metrics: metrics.clone(), arrival, call, span, outcome: cancelled }
    }

    /// The share was found.
    pub(super) fn succeed(&mut self) {
        self.outcome.code = Code::Ok;
        self.outcome.http_status = Some(200);
        self.outcome.upstream_request_id = self.call.context.stats.upstream_request_id.get().cloned();
    }

    /// The call failed.
    pub(super) fn fail(&mut self, error: &RpcError) {
        let upstream = error.upstream();
        self.outcome = CallOutcome {
            code: error.code(),
            reason: Some(error.reason()),
            http_status: upstream.and_then(|error| error.http_status),
            upstream_request_id: upstream.and_then(|error| error.request_id.clone()),
            detail: upstream.map(|error| error.detail.clone()),
        };
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        let duration = self.arrival.elapsed();
        let Call { method, context, peer, .. } = &*self.call;
        let outcome = &self.outcome;
        let code = code_name(outcome.code);
        self.metrics.active_requests.dec();
        self.metrics.call(method, code, duration);
        self.span.end(code, outcome.reason);
        let target = context.stats.target.get();
        let credential_wait = context.stats.credential_wait();
        let upstream_time = target.map(|(_, since)| since.elapsed().saturating_sub(credential_wait));
        // No parent: the line has the fields that the span would add.
        tracing::info!(
            parent: None,
            rpc.method = method,
            rpc.code = code,
            reason = outcome.reason,
            request_id = context.request_id.to_str().ok(),
            trace_id = self.span.trace_id.map(display),
            caller = peer.names.first(),
            peer = peer.address.map(|_| &*peer.address_display),
            project_id = target.map(|(share, _)| share.project_id.as_str()),
            share_id = target.map(|(share, _)| share.id.as_str()),
            attempts = target.map(|_| context.stats.attempts.load(Ordering::Relaxed)),
            http.status = outcome.http_status,
            upstream_request_id = outcome.upstream_request_id,
            duration_ms = millis(duration),
            credential_ms = target.map(|_| millis(credential_wait)),
            upstream_ms = upstream_time.map(millis),
            deadline_ms = millis(context.deadline - self.arrival),
            detail = outcome.detail,
            "call"
        );
    }
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

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
    code: Code,
    reason: Option<&'static str>,
    http_status: Option<u16>,
    upstream_request_id: Option<String>,
    detail: Option<String>,
}

impl CallRecord {
    pub(super) fn new(metrics: &Metrics, arrival: Instant, call: Arc<Call>, span: CallSpan) -> Self {
        metrics.active_requests.inc();
        Self {
            metrics: metrics.clone(),
            arrival,
            call,
            span,
            code: Code::Cancelled,
            reason: None,
            http_status: None,
            upstream_request_id: None,
            detail: None,
        }
    }

    /// The share was found.
    pub(super) fn succeed(&mut self) {
        self.code = Code::Ok;
        self.http_status = Some(200);
        self.upstream_request_id = self.call.context.stats.upstream_request_id.get().cloned();
    }

    /// The call failed.
    pub(super) fn fail(&mut self, error: &RpcError) {
        self.code = error.code();
        self.reason = Some(error.reason());
        if let Some(error) = error.upstream() {
            self.http_status = error.http_status;
            self.upstream_request_id.clone_from(&error.request_id);
            self.detail = Some(error.detail.clone());
        }
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        let duration = self.arrival.elapsed();
        let Call { method, context, peer, .. } = &*self.call;
        let code = code_name(self.code);
        self.metrics.active_requests.dec();
        self.metrics.call(method, code, duration);
        self.span.end(code, self.reason);
        let target = context.stats.target.get();
        let credential_wait = context.stats.credential_wait();
        let upstream_time = target.map(|(_, since)| since.elapsed().saturating_sub(credential_wait));
        // No parent: the line has the fields that the span would add.
        tracing::info!(
            parent: None,
            rpc.method = method,
            rpc.code = code,
            reason = self.reason,
            request_id = context.request_id.to_str().ok(),
            trace_id = self.span.trace_id.map(display),
            caller = self.call.caller(),
            peer = &*peer.addr_display,
            project_id = target.map(|(share, _)| share.project_id.as_str()),
            share_id = target.map(|(share, _)| share.id.as_str()),
            attempts = target.map(|_| context.stats.attempts.load(Ordering::Relaxed)),
            http.status = self.http_status,
            upstream_request_id = self.upstream_request_id,
            duration_ms = millis(duration),
            credential_ms = target.map(|_| millis(credential_wait)),
            upstream_ms = upstream_time.map(millis),
            deadline_ms = millis(context.deadline - self.arrival),
            detail = self.detail,
            "call"
        );
    }
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

//! The record of a call: when it is dropped, it writes the access log line, ends the span, observes the duration and frees the
//! slot. So each call has exactly one of each, however it ends; a call that its caller cancels is dropped before an outcome is
//! set.
//!
//! Names of fields: OpenTelemetry's semantic conventions for RPC and HTTP. `tests/gateway/logging.rs` shows the lines.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::admission::Slot;
use super::context::Call;
use super::status::{RpcError, code_name};
use crate::domain::CallStats;
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
    /// How long the upstream took, retries included.
    upstream_time: Option<Duration>,
    detail: Option<String>,
    /// Cancelled at the end of a drain.
    cancel: CancellationToken,
    /// Held until the call ends.
    _slot: Option<Slot>,
}

impl CallRecord {
    pub(super) fn new(
        metrics: &Metrics,
        arrival: Instant,
        call: Arc<Call>,
        span: CallSpan,
        cancel: CancellationToken,
        slot: Option<Slot>,
    ) -> Box<Self> {
        metrics.active_requests.inc();
        Box::new(Self {
            metrics: metrics.clone(),
            arrival,
            call,
            span,
            code: Code::Cancelled,
            reason: None,
            http_status: None,
            upstream_request_id: None,
            upstream_time: None,
            detail: None,
            cancel,
            _slot: slot,
        })
    }

    /// The share was found. The caller has to read it yet.
    pub(super) fn found(&mut self) {
        self.http_status = Some(200);
        self.upstream_request_id = self.call.context.stats.upstream_request_id.get().cloned();
        self.upstream_time = upstream_time(&self.call.context.stats);
    }

    /// The whole response has been handed to the connection.
    pub(super) fn complete(&mut self) {
        self.code = Code::Ok;
    }

    /// When the call ends at the latest.
    pub(super) fn deadline(&self) -> Instant {
        self.call.context.deadline
    }

    /// The call has ended before its caller had the whole response: the caller has left, has not read it in time (or has
    /// cancelled the call at its own deadline), or the process ends.
    fn set_cancellation_reason(&mut self, now: Instant) {
        let error = if now >= self.deadline() {
            RpcError::DeadlineExceeded
        } else if self.cancel.is_cancelled() {
            RpcError::Draining
        } else {
            return;
        };
        self.code = error.code();
        self.reason = Some(error.reason());
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
        let now = Instant::now();
        let duration = now - self.arrival;
        if self.code == Code::Cancelled {
            self.set_cancellation_reason(now);
        }
        let Call { method, context, peer, .. } = &*self.call;
        let code = code_name(self.code);
        self.metrics.active_requests.dec();
        self.metrics.call(method, code, duration);
        self.span.end(code, self.reason);
        let target = context.stats.target.get();
        let credential_ms = target.map(|_| millis(context.stats.credential_wait()));
        let upstream_time = self.upstream_time.or_else(|| upstream_time(&context.stats));
        tracing::info!(
            parent: None,
            rpc.method = method,
            rpc.code = code,
            reason = self.reason,
            request_id = context.request_id.to_str().ok(),
            trace_id = self.span.ids.trace_id.map(display),
            caller = self.call.caller(),
            peer = &*peer.addr_display,
            project_id = target.map(|(share, _)| share.project_id.as_str()),
            share_id = target.map(|(share, _)| share.id.as_str()),
            attempts = target.map(|_| context.stats.attempts.load(Ordering::Relaxed)),
            http.status = self.http_status,
            upstream_request_id = self.upstream_request_id,
            duration_ms = millis(duration),
            credential_ms,
            upstream_ms = upstream_time.map(millis),
            deadline_ms = millis(context.deadline - self.arrival),
            detail = self.detail,
            "call"
        );
    }
}

/// How long the upstream has taken so far, without the wait for a credential.
fn upstream_time(stats: &CallStats) -> Option<Duration> {
    let (_, since) = stats.target.get()?;
    Some(since.elapsed().saturating_sub(stats.credential_wait()))
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

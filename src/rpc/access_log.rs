//! One line and one observation per GetBackupShare call, whatever becomes of it: also for a call that its caller
//! cancelled, which is what dropping an unfinished [`Record`] means.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::METHOD;
use super::status::{Failure, code_name};
use crate::telemetry::Metrics;

/// What is known of a call so far.
pub(super) struct Record {
    metrics: Metrics,
    arrival: Instant,
    request_id: String,
    trace_id: Option<String>,
    peer: Option<SocketAddr>,
    deadline: Duration,
    outcome: Outcome,
    /// Set once the request has passed its check, and not before: what failed it is never logged.
    pub(super) project_id: Option<String>,
    /// The same.
    pub(super) share_id: Option<String>,
    /// Time spent on the upstream, pauses between attempts included.
    pub(super) upstream: Option<Duration>,
}

/// How a call ended.
struct Outcome {
    code: Code,
    reason: Option<&'static str>,
    attempts: Option<u32>,
    http_status: Option<u16>,
    upstream_request_id: Option<String>,
    detail: Option<String>,
}

impl Record {
    pub(super) fn begin(
        metrics: &Metrics,
        arrival: Instant,
        request_id: &str,
        trace_id: Option<&str>,
        peer: Option<SocketAddr>,
        deadline: Duration,
    ) -> Self {
        metrics.active_requests.inc();
        Self {
            metrics: metrics.clone(),
            arrival,
            request_id: request_id.to_owned(),
            trace_id: trace_id.map(str::to_owned),
            peer,
            deadline,
            outcome: Outcome {
                code: Code::Cancelled,
                reason: None,
                attempts: None,
                http_status: None,
                upstream_request_id: None,
                detail: None,
            },
            project_id: None,
            share_id: None,
            upstream: None,
        }
    }

    /// The share was found.
    pub(super) fn found(&mut self, attempts: u32, upstream_request_id: Option<String>) {
        self.outcome = Outcome {
            code: Code::Ok,
            reason: None,
            attempts: Some(attempts),
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
            attempts: upstream.map(|error| error.attempts),
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
        let outcome = &self.outcome;
        tracing::info!(
            rpc.method = METHOD,
            rpc.code = code,
            reason = outcome.reason,
            request_id = self.request_id,
            trace_id = self.trace_id,
            peer = self.peer.map(tracing::field::display),
            project_id = self.project_id,
            share_id = self.share_id,
            attempts = outcome.attempts,
            http.status = outcome.http_status,
            upstream_request_id = outcome.upstream_request_id,
            duration_ms = millis(duration),
            upstream_ms = self.upstream.map(millis),
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

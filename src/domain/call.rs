//! One call: the content of its headers, and its progress.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::{ShareRef, Token};

/// The header of the request ID: from the caller, to the upstream, and back.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context: the span that a request belongs to.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C Trace Context: vendor-specific data of the trace.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The validated headers of a call.
#[derive(Debug)]
pub struct CallContext {
    /// The caller's request ID, or a generated one. 1 to 128 visible ASCII characters.
    pub request_id: HeaderValue,
    /// The caller's token, in pass-through mode.
    pub token: Option<Token>,
    /// The caller's trace.
    pub trace: TraceContext,
    /// When the call ends with DEADLINE_EXCEEDED.
    pub deadline: Instant,
    /// Whether a failed attempt may be followed by another one.
    pub may_retry: bool,
    /// Updated while the call runs.
    pub stats: CallStats,
}

/// The progress of a call, for the access log; also of a cancelled call.
#[derive(Debug, Default)]
pub struct CallStats {
    /// Attempts at the upstream, including one in progress. One on a stale pooled connection does not count.
    pub attempts: AtomicU32,
    credential_micros: AtomicU64,
    /// The upstream's request ID of the successful attempt.
    pub upstream_request_id: OnceLock<String>,
    /// The requested share of a valid request, and when it was validated.
    pub target: OnceLock<(ShareRef, Instant)>,
}

impl CallStats {
    /// How long the call has waited for a credential.
    pub fn credential_wait(&self) -> Duration {
        Duration::from_micros(self.credential_micros.load(Ordering::Relaxed))
    }

    /// Awaits a credential, and adds the time to [`CallStats::credential_wait`].
    pub async fn time_credential<T>(&self, credential: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let result = credential.await;
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.credential_micros.fetch_add(micros, Ordering::Relaxed);
        result
    }
}

/// The caller's W3C Trace Context, if it is well-formed.
#[derive(Clone, Debug, Default)]
pub struct TraceContext {
    /// `traceparent`, of version 00.
    pub parent: Option<HeaderValue>,
    /// `tracestate`, at most 512 bytes, never without `traceparent`.
    pub state: Option<HeaderValue>,
}

impl TraceContext {
    /// The trace ID, in hexadecimal.
    pub fn trace_id(&self) -> Option<&str> {
        self.parent.as_ref()?.to_str().ok()?.split('-').nth(1)
    }

    /// Adds the headers to a request.
    pub fn add_to(&self, headers: &mut HeaderMap) {
        if let Some(parent) = &self.parent {
            headers.insert(TRACEPARENT, parent.clone());
        }
        if let Some(state) = &self.state {
            headers.insert(TRACESTATE, state.clone());
        }
    }
}

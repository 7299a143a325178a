//! The spans: a server span for each call, and a client span for each attempt at the upstream.
//!
//! Names and attributes follow OpenTelemetry's semantic conventions for [RPC] and [HTTP] spans; the parent is sent and received as
//! [W3C Trace Context]. No attribute contains a token or text from the upstream. `tests/gateway/traces.rs` shows both spans.
//!
//! Spans are enabled if an OTLP exporter is configured; `--log` enables one only by a directive that names it. Log lines do not
//! need them: the IDs of a call are in a task-local of the call's future, which costs 3 % less of a call than a span.
//!
//! [RPC]: https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/
//! [HTTP]: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
//! [W3C Trace Context]: https://www.w3.org/TR/trace-context/

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TraceId};
use opentelemetry_http::HeaderInjector;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use tracing::field::{Empty, display};
use tracing::{Instrument, Metadata, Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::registry::LookupSpan;
use url::Url;

use crate::domain::{TRACESTATE, TraceContext};

/// The IDs that the log adds to each line within a call.
#[derive(Clone, Debug)]
pub struct CallIds {
    /// The request ID.
    pub request_id: HeaderValue,
    /// The trace of the exported span; if spans are not exported, the caller's.
    pub trace_id: Option<TraceId>,
}

tokio::task_local! {
    /// Those of the call whose future is polled or dropped.
    static CALL_IDS: CallIds;
}

/// Passes the IDs of the current call, if there is one.
pub(super) fn with_call_ids(log: impl FnOnce(&CallIds)) {
    // An error means that there is none.
    let _ = CALL_IDS.try_with(log);
}

/// Whether this is a span that OpenTelemetry exports.
pub(super) fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == module_path!()
}

/// The layer that passes the spans to OpenTelemetry.
pub(super) fn layer<S>(tracer: SdkTracer) -> OpenTelemetryLayer<S, SdkTracer>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
}

/// The span of a call.
#[derive(Clone, Debug)]
pub struct CallSpan {
    span: Span,
    /// The IDs of the call.
    pub ids: CallIds,
}

impl CallSpan {
    /// Starts the span of a call of `method`. It continues the caller's trace.
    pub fn start(
        method: &'static str,
        request_id: &HeaderValue,
        trace: &TraceContext,
        peer: Option<SocketAddr>,
    ) -> Self {
        let span = tracing::info_span!(
            parent: None,
            "call",
            otel.name = method,
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.response.status_code = Empty,
            error.type = Empty,
            network.peer.address = peer.map(|peer| display(peer.ip())),
            network.peer.port = peer.map(|peer| i64::from(peer.port())),
        );
        if trace.parent.is_some() && !span.is_disabled() {
            let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), trace);
            // An error means that spans are not exported.
            let _ = span.set_parent(parent);
        }
        let ids = CallIds { request_id: request_id.clone(), trace_id: trace_id(&span, trace) };
        Self { span, ids }
    }

    /// Runs the call within its span, with its IDs in each log line.
    pub fn instrument<F: Future>(&self, call: F) -> impl Future<Output = F::Output> + use<F> {
        CALL_IDS.scope(self.ids.clone(), call.instrument(self.span.clone()))
    }

    /// Records the gRPC status code, and the error's reason if the gateway set one.
    pub fn end(&self, code: &'static str, reason: Option<&'static str>) {
        self.span.record("rpc.response.status_code", code);
        if code != "OK" {
            self.span.record("error.type", reason.unwrap_or(code));
        }
        if is_server_error(code) {
            self.span.record("otel.status_code", "ERROR");
        }
    }
}

fn trace_id(span: &Span, trace: &TraceContext) -> Option<TraceId> {
    let exported = span.context().span().span_context().trace_id();
    if exported != TraceId::INVALID {
        return Some(exported);
    }
    TraceId::from_hex(trace.trace_id()?).ok()
}

/// The status codes that make a server span an error, by the semantic conventions for gRPC; the others are client errors.
fn is_server_error(code: &str) -> bool {
    matches!(
        code,
        "UNKNOWN" | "DEADLINE_EXCEEDED" | "UNIMPLEMENTED" | "INTERNAL" | "UNAVAILABLE" | "DATA_LOSS"
    )
}

/// Starts the span of an attempt at `url`, below the current span. `resend_count` is the number of earlier requests.
pub fn attempt(url: &Url, resend_count: u32) -> Span {
    tracing::info_span!(
        "attempt",
        otel.name = "GET",
        otel.kind = "client",
        otel.status_code = Empty,
        http.request.method = "GET",
        http.request.resend_count = (resend_count > 0).then_some(i64::from(resend_count)),
        http.response.status_code = Empty,
        error.type = Empty,
        url.full = display(url),
        server.address = url.host_str(),
        server.port = url.port_or_known_default().map(i64::from),
    )
}

/// Adds the `traceparent` and `tracestate` of an attempt; if spans are not exported, the caller's.
pub fn inject(span: &Span, trace: &TraceContext, headers: &mut HeaderMap) {
    let context = span.context();
    if !context.span().span_context().is_valid() {
        return trace.add_to(headers);
    }
    TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(headers));
    // The gateway has no member of its own. The SDK would send an empty list, and rejects some that are valid.
    match &trace.state {
        Some(state) => headers.insert(TRACESTATE, state.clone()),
        None => headers.remove(TRACESTATE),
    };
}

/// Records the result of an attempt: an HTTP status, an error type, or both.
pub fn end_attempt(span: &Span, http_status: Option<u16>, error_type: Option<&'static str>) {
    if let Some(status) = http_status {
        span.record("http.response.status_code", i64::from(status));
    }
    let is_error_status = http_status.is_some_and(|status| !(200..400).contains(&status));
    match (error_type, http_status) {
        (Some(error_type), _) => span.record("error.type", error_type),
        (None, Some(status)) if is_error_status => span.record("error.type", display(status)),
        (None, _) => return,
    };
    span.record("otel.status_code", "ERROR");
}

impl Extractor for TraceContext {
    fn get(&self, key: &str) -> Option<&str> {
        let value = match key {
            "traceparent" => self.parent.as_ref(),
            "tracestate" => self.state.as_ref(),
            _ => None,
        };
        value?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

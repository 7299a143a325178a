//! The two spans of a call: a server span for the call, a client span for each attempt at the upstream.
//!
//! Names and attributes are those of OpenTelemetry's semantic conventions for RPC and HTTP; an attribute never holds a token
//! or anything that the upstream sent. Neither depends on `--log`. The log takes `request_id` and `trace_id` from the span of
//! the call, so that one is always enabled; an attempt's is enabled while an OTLP exporter sends them. Fields are only
//! formatted for the exporter.

use std::net::SocketAddr;

use crate::domain::{TRACESTATE, TraceContext};
use http::{HeaderMap, HeaderValue};
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TraceId};
use opentelemetry_http::HeaderInjector;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use tracing::field::{Empty, display};
use tracing::{Metadata, Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::Registry;
use tracing_subscriber::registry::LookupSpan;
use url::Url;

/// What the log adds to every line that is written within a call. In the extensions of the call's span.
pub(super) struct CallIds {
    pub(super) request_id: HeaderValue,
    pub(super) trace_id: Option<String>,
}

const CALL: &str = "call";
const ATTEMPT: &str = "attempt";

/// Whether these are the metadata of the span of a call, which the log needs.
pub(super) fn is_call(metadata: &Metadata<'_>) -> bool {
    metadata.name() == CALL && is_exported(metadata)
}

/// Whether these are the metadata of a span that is given to OpenTelemetry.
pub(super) fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == module_path!()
}

/// The layer that gives the spans to OpenTelemetry.
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

/// The span of a call of `method`, which continues the caller's trace.
pub fn call(
    method: &'static str,
    request_id: &HeaderValue,
    trace: &TraceContext,
    peer: Option<SocketAddr>,
) -> Span {
    let span = tracing::info_span!(
        parent: None,
        CALL,
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
    if trace.parent.is_some() {
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), trace);
        // An error says that spans are not exported.
        let _ = span.set_parent(parent);
    }
    let ids = CallIds { request_id: request_id.clone(), trace_id: trace_id(&span, trace) };
    span.with_subscriber(|(id, dispatch)| {
        let found = dispatch.downcast_ref::<Registry>().and_then(|registry| registry.span(id));
        if let Some(span) = found {
            span.extensions_mut().insert(ids);
        }
    });
    span
}

/// The call ended with a gRPC status code, and with a reason where the gateway gave one.
pub fn end_call(span: &Span, code: &'static str, reason: Option<&'static str>) {
    span.record("rpc.response.status_code", code);
    if code != "OK" {
        span.record("error.type", reason.unwrap_or(code));
    }
    if is_server_error(code) {
        span.record("otel.status_code", "ERROR");
    }
}

/// The codes that make a server span an error, by the semantic conventions for gRPC; the others are the caller's.
fn is_server_error(code: &str) -> bool {
    matches!(
        code,
        "UNKNOWN" | "DEADLINE_EXCEEDED" | "UNIMPLEMENTED" | "INTERNAL" | "UNAVAILABLE" | "DATA_LOSS"
    )
}

/// The ID of the trace that a call belongs to: that of its exported span, otherwise that of the caller.
pub fn trace_id(span: &Span, trace: &TraceContext) -> Option<String> {
    let exported = span.context().span().span_context().trace_id();
    if exported != TraceId::INVALID {
        return Some(exported.to_string());
    }
    trace.trace_id().map(str::to_owned)
}

/// The span of one attempt at `url`, within the current span. `resend_count` is the number of requests before it.
pub fn attempt(url: &Url, resend_count: u32) -> Span {
    tracing::info_span!(
        ATTEMPT,
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

/// Adds `traceparent` and `tracestate` of an attempt; where spans are not exported, those of the caller.
pub fn inject(span: &Span, trace: &TraceContext, headers: &mut HeaderMap) {
    let context = span.context();
    if !context.span().span_context().is_valid() {
        return trace.add_to(headers);
    }
    TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(headers));
    if headers.get(TRACESTATE).is_some_and(HeaderValue::is_empty) {
        headers.remove(TRACESTATE);
    }
}

/// The attempt ended: with an HTTP status, an error type, or both.
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

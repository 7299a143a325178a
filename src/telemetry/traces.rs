//! Traces: a server span for each call, and a client span for each attempt at the upstream.
//!
//! Without an exporter a trace context is passed on as it came, and that is all that it costs. With one, the call's span
//! continues the caller's trace, and each attempt carries the ID of its own span upstream. Names and attributes are those
//! of OpenTelemetry's semantic conventions for RPC and HTTP; an attribute never holds a token or what the upstream said.

mod exporter;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};

pub use exporter::{Config, Exporter};
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::HeaderInjector;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use url::Url;

/// W3C trace context: the span that a request belongs to.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// And what tracing systems add to it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// W3C trace context, as it came and was found well-formed.
#[derive(Clone, Debug, Default)]
pub struct TraceContext {
    /// `traceparent`.
    pub parent: Option<HeaderValue>,
    /// `tracestate`, never without `traceparent`.
    pub state: Option<HeaderValue>,
}

impl TraceContext {
    fn trace_id(&self) -> Option<&str> {
        self.parent.as_ref()?.to_str().ok()?.split('-').nth(1)
    }

    fn add_to(&self, headers: &mut HeaderMap) {
        for (name, value) in [(TRACEPARENT, &self.parent), (TRACESTATE, &self.state)] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
    }
}

impl Extractor for TraceContext {
    fn get(&self, key: &str) -> Option<&str> {
        let value = match key {
            "traceparent" => &self.parent,
            "tracestate" => &self.state,
            _ => return None,
        };
        value.as_ref()?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

/// Makes the spans of calls, or none.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<SdkTracer>);

impl Traces {
    /// A call of `method` has come.
    pub fn call(&self, method: &'static str, incoming: TraceContext, peer: Option<SocketAddr>) -> CallSpan {
        let Some(tracer) = &self.0 else { return CallSpan { incoming, live: None } };
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &incoming);
        let mut attributes =
            vec![KeyValue::new("rpc.system.name", "grpc"), KeyValue::new("rpc.method", method)];
        if let Some(peer) = peer {
            attributes.push(KeyValue::new("network.peer.address", peer.ip().to_string()));
            attributes.push(KeyValue::new("network.peer.port", i64::from(peer.port())));
        }
        let builder = tracer.span_builder(method).with_kind(SpanKind::Server).with_attributes(attributes);
        let span = tracer.build_with_context(builder, &parent);
        let live =
            Live { tracer: tracer.clone(), context: Context::new().with_span(span), sent: AtomicI64::new(0) };
        CallSpan { incoming, live: Some(Box::new(live)) }
    }
}

/// What a call's attempts belong to: its span, or else the trace that it came with.
#[derive(Debug)]
pub struct CallSpan {
    incoming: TraceContext,
    /// Boxed: it is large, and most gateways have none.
    live: Option<Box<Live>>,
}

#[derive(Debug)]
struct Live {
    tracer: SdkTracer,
    context: Context,
    /// Requests sent upstream for this call so far.
    sent: AtomicI64,
}

impl CallSpan {
    /// The trace's ID, if there is a trace.
    pub fn trace_id(&self) -> Option<String> {
        match &self.live {
            Some(live) => Some(live.context.span().span_context().trace_id().to_string()),
            None => self.incoming.trace_id().map(str::to_owned),
        }
    }

    /// A request is about to be sent to `url`.
    pub fn attempt(&self, url: &Url) -> AttemptSpan<'_> {
        let span = self.live.as_ref().map(|live| Box::new(live.attempt(url)));
        AttemptSpan { incoming: &self.incoming, span }
    }

    /// The call ended with a gRPC status, and a reason where the gateway gave one.
    pub fn ended(&self, code: &'static str, reason: Option<&'static str>) {
        let Some(live) = &self.live else { return };
        let span = live.context.span();
        span.set_attribute(KeyValue::new("rpc.response.status_code", code));
        if code != "OK" {
            span.set_attribute(KeyValue::new("error.type", reason.unwrap_or(code)));
        }
        if is_servers_fault(code) {
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// The codes that make a server's span an error, by the semantic conventions for gRPC; the others are the caller's.
fn is_servers_fault(code: &str) -> bool {
    matches!(
        code,
        "UNKNOWN" | "DEADLINE_EXCEEDED" | "UNIMPLEMENTED" | "INTERNAL" | "UNAVAILABLE" | "DATA_LOSS"
    )
}

impl Live {
    fn attempt(&self, url: &Url) -> opentelemetry_sdk::trace::Span {
        let mut attributes = vec![
            KeyValue::new("http.request.method", "GET"),
            KeyValue::new("url.full", url.to_string()),
            KeyValue::new("server.address", url.host_str().unwrap_or_default().to_owned()),
            KeyValue::new("server.port", i64::from(url.port_or_known_default().unwrap_or_default())),
        ];
        let resent = self.sent.fetch_add(1, Ordering::Relaxed);
        if resent > 0 {
            attributes.push(KeyValue::new("http.request.resend_count", resent));
        }
        let builder = self.tracer.span_builder("GET").with_kind(SpanKind::Client).with_attributes(attributes);
        self.tracer.build_with_context(builder, &self.context)
    }
}

/// One attempt at the upstream.
#[derive(Debug)]
pub struct AttemptSpan<'a> {
    incoming: &'a TraceContext,
    span: Option<Box<opentelemetry_sdk::trace::Span>>,
}

impl AttemptSpan<'_> {
    /// Adds `traceparent` and `tracestate`.
    pub fn add_to(&self, headers: &mut HeaderMap) {
        let Some(span) = &self.span else { return self.incoming.add_to(headers) };
        let context = Context::new().with_remote_span_context(span.span_context().clone());
        TraceContextPropagator::new().inject_context(&context, &mut HeaderInjector(headers));
        if headers.get(TRACESTATE).is_some_and(HeaderValue::is_empty) {
            headers.remove(TRACESTATE);
        }
    }

    /// It ended: with an HTTP status, or an error type, or both.
    pub fn ended(&mut self, status: Option<u16>, error_type: &'static str) {
        let Some(span) = &mut self.span else { return };
        if let Some(status) = status {
            span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        }
        let refused = status.filter(|status| !(200..400).contains(status)).map(|status| status.to_string());
        let told = (!error_type.is_empty()).then(|| error_type.to_owned());
        if let Some(error) = told.or(refused) {
            span.set_attribute(KeyValue::new("error.type", error));
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

//! The metrics of one gateway, in the [Prometheus text format]; each name and its meaning are in
//! `docs/observability.md`.
//!
//! Names and labels follow OpenTelemetry's [semantic conventions] for RPC and HTTP where these define them. No label contains an
//! ID, a project or a token, so the number of series is bounded. This module imports nothing of the crate.
//! The tests of the admin port in `tests/gateway` read a scrape.
//!
//! [Prometheus text format]: https://prometheus.io/docs/instrumenting/exposition_formats/
//! [semantic conventions]: https://opentelemetry.io/docs/specs/semconv/rpc/rpc-metrics/

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Error, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

use crate::proto::METHODS;

/// Bucket bounds in seconds. Most calls take milliseconds.
const BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The reasons of failed TLS handshakes.
const HANDSHAKE_FAILURES: [&str; 8] =
    ["no_certificate", "unknown_ca", "expired", "bad_certificate", "alert", "protocol", "timeout", "closed"];

/// Every metric family of a gateway. A clone is a handle to the same metrics.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<MetricFamilies>);

impl Deref for Metrics {
    type Target = MetricFamilies;

    fn deref(&self) -> &MetricFamilies {
        &self.0
    }
}

/// The metric families and their registry. It is not the global one: two gateways in one process count separately.
#[derive(Debug)]
pub struct MetricFamilies {
    registry: Registry,
    dropped_log_lines: fn() -> u64,
    calls: Durations,
    attempts: Durations,
    retries: IntCounterVec,
    renewals: IntCounterVec,
    /// Valid tokens of the gateway's own account.
    pub auth_tokens: IntGauge,
    /// Calls in progress.
    pub active_requests: IntGauge,
    /// Retry tokens left, 0 to 10 (gRFC A6).
    pub retry_tokens: Gauge,
    /// Unknown keys in upstream replies.
    pub unknown_fields: IntCounter,
    /// Panics caught while a call was handled.
    pub panics: IntCounter,
    /// Calls refused because too many were in flight.
    pub shed: IntCounter,
    /// Open connections on the gRPC port.
    pub connections: IntGauge,
    /// 1 after the first shutdown signal, otherwise 0.
    pub draining: IntGauge,
    /// Expiry of the gRPC port's certificate in seconds since 1970; NaN without TLS, so that no alert compares it.
    pub certificate_expiry: Gauge,
    /// Changed files that were rejected.
    pub reload_failures: IntCounter,
    /// TLS handshakes that failed, by reason. Only a handshake counts that the peer has begun.
    pub handshake_failures: IntCounterVec,
    /// Open connections on the admin port.
    pub admin_connections: IntGauge,
    /// Connections beyond the limit of a port.
    pub refused_connections: IntCounter,
}

/// A histogram of durations with two labels. Nearly all belong to one series, which is not looked up by its labels.
#[derive(Debug)]
struct Durations {
    family: HistogramVec,
    usual_labels: [&'static str; 2],
    usual: Histogram,
}

impl Durations {
    fn register(
        registry: &Registry,
        name: &str,
        help: &str,
        labels: [&str; 2],
        usual_labels: [&'static str; 2],
    ) -> Result<Self, Error> {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        let family = register(registry, HistogramVec::new(options, &labels))?;
        let usual = family.with_label_values(&usual_labels);
        Ok(Self { family, usual_labels, usual })
    }

    fn observe(&self, labels: [&str; 2], duration: Duration) {
        let seconds = duration.as_secs_f64();
        if labels == self.usual_labels {
            self.usual.observe(seconds);
        } else {
            self.family.with_label_values(&labels).observe(seconds);
        }
    }
}

impl Metrics {
    /// Registers every family. `dropped_log_lines` returns the number of lost log lines; each scrape calls it.
    pub fn new(dropped_log_lines: fn() -> u64) -> Result<Self, Error> {
        let metrics = MetricFamilies::register(dropped_log_lines)?;
        metrics.initialize();
        Ok(Self(Arc::new(metrics)))
    }
}

impl MetricFamilies {
    fn register(dropped_log_lines: fn() -> u64) -> Result<Self, Error> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        register(&registry, IntGauge::with_opts(build_info()))?.set(1);
        let gauge = |name, help| register(&registry, IntGauge::new(name, help));
        let float_gauge = |name, help| register(&registry, Gauge::new(name, help));
        let counter = |name, help| register(&registry, IntCounter::new(name, help));
        let counter_vec =
            |name, help, label| register(&registry, IntCounterVec::new(Opts::new(name, help), &[label]));
        let durations = |name, help, labels, usual| Durations::register(&registry, name, help, labels, usual);
        let [method] = METHODS;
        Ok(Self {
            calls: durations(
                "rpc_server_call_duration_seconds",
                "Duration of calls, from arrival to status.",
                ["rpc_method", "rpc_response_status_code"],
                [method, "OK"],
            )?,
            attempts: durations(
                "http_client_request_duration_seconds",
                "Duration of attempts at the upstream.",
                ["http_response_status_code", "error_type"],
                ["200", ""],
            )?,
            retries: counter_vec("upstream_retries_total", "Retries, by the error before.", "reason")?,
            renewals: counter_vec(
                "auth_token_renewals_total",
                "Keystone token requests, by outcome.",
                "outcome",
            )?,
            auth_tokens: gauge("auth_tokens", "Valid Keystone tokens of the gateway's own account.")?,
            active_requests: gauge("rpc_server_active_requests", "Calls in progress.")?,
            retry_tokens: float_gauge("upstream_retry_tokens", "Retry tokens left, 0 to 10.")?,
            unknown_fields: counter("upstream_unknown_fields_total", "Unknown keys in upstream replies.")?,
            panics: counter("panics_total", "Panics caught while a call was handled.")?,
            shed: counter("shed_total", "Calls refused because too many were in flight.")?,
            connections: gauge("server_connections", "Open connections on the gRPC port.")?,
            draining: gauge("server_draining", "1 after the first shutdown signal, otherwise 0.")?,
            certificate_expiry: float_gauge(
                "tls_certificate_expiry_timestamp_seconds",
                "Expiry of the certificate in use, in seconds since 1970; NaN without TLS.",
            )?,
            reload_failures: counter(
                "tls_reload_failures_total",
                "Changed certificates, rules and credentials that were rejected.",
            )?,
            handshake_failures: counter_vec(
                "tls_handshake_failures_total",
                "TLS handshakes that failed, by reason.",
                "reason",
            )?,
            admin_connections: gauge("admin_connections", "Open connections on the admin port.")?,
            refused_connections: counter(
                "server_connections_refused_total",
                "Connections that were closed at once because there were too many.",
            )?,
            dropped_log_lines,
            registry: registry.clone(),
        })
    }

    /// Sets the values before the first call. Series that a healthy gateway has exist from the start: `rate()` needs the zero.
    fn initialize(&self) {
        self.certificate_expiry.set(f64::NAN);
        for reason in ["connect", "lost", "timeout", "status", "stale"] {
            self.retries.with_label_values(&[reason]);
        }
        for reason in HANDSHAKE_FAILURES {
            self.handshake_failures.with_label_values(&[reason]);
        }
        for outcome in ["success", "refused", "unreachable"] {
            self.renewals.with_label_values(&[outcome]);
        }
    }

    /// Observes a call of `method` that ended with the gRPC status `code`.
    pub fn call(&self, method: &str, code: &str, duration: Duration) {
        self.calls.observe([method, code], duration);
    }

    /// Observes an attempt at the upstream that ended with an HTTP status, an error type, or both.
    pub fn attempt(&self, status: Option<u16>, error_type: &str, duration: Duration) {
        // The class of a status that HTTP does not define: an upstream must not make a time series for each number.
        let defined =
            |status| StatusCode::from_u16(status).ok().filter(|code| code.canonical_reason().is_some());
        match status.and_then(defined) {
            Some(code) => self.attempts.observe([code.as_str(), error_type], duration),
            None => {
                let class = status.map(|status| format!("{}xx", status / 100)).unwrap_or_default();
                self.attempts.observe([&class, error_type], duration);
            }
        }
    }

    /// Counts a retry for `reason`.
    pub fn retry(&self, reason: &str) {
        self.retries.with_label_values(&[reason]).inc();
    }

    /// Counts a token request to the identity service.
    pub fn renewal(&self, outcome: &str) {
        self.renewals.with_label_values(&[outcome]).inc();
    }

    /// All families in the Prometheus text format.
    pub fn text(&self) -> Result<String, Error> {
        let mut families = self.registry.gather();
        // The log counts its lines. A counter for each scrape: two may run at the same time.
        let help = "Log lines lost because the output was blocked or failed.";
        let dropped = IntCounter::new("log_lines_dropped_total", help)?;
        dropped.inc_by((self.dropped_log_lines)());
        families.extend(dropped.collect());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families)
    }
}

fn build_info() -> Opts {
    Opts::new("build_info", "Version and git revision of this build; always 1.")
        .const_label("version", env!("CARGO_PKG_VERSION"))
        .const_label("revision", env!("SOURCE_REVISION"))
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    family: Result<C, Error>,
) -> Result<C, Error> {
    let family = family?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

//! The metrics of one gateway. No label ever holds an ID, a project or a token, so their number is bounded.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Error, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// 0.5 ms to 30 s, for a service whose calls take milliseconds.
const BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The metrics of one gateway, shared: each call has a clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<MetricFamilies>);

impl Deref for Metrics {
    type Target = MetricFamilies;

    fn deref(&self) -> &MetricFamilies {
        &self.0
    }
}

/// Every metric family of the gateway, with its own registry, so that two gateways in one process do not share counts.
#[derive(Debug)]
pub struct MetricFamilies {
    registry: Registry,
    calls: HistogramVec,
    attempts: HistogramVec,
    retries: IntCounterVec,
    renewals: IntCounterVec,
    /// Calls that are being served.
    pub active_requests: IntGauge,
    /// Retry tokens left, 0 to 10.
    pub retry_tokens: Gauge,
    /// Keys in the upstream's replies that nobody knows.
    pub unknown_fields: IntCounter,
    /// Panics caught in a handler.
    pub panics: IntCounter,
    /// Calls refused because too many were in flight.
    pub shed: IntCounter,
    /// Open connections on the gRPC port.
    pub connections: IntGauge,
    /// 1 from the first signal to stop on, else 0.
    pub draining: IntGauge,
    /// When the gRPC port's certificate expires, in seconds since 1970; NaN without TLS, which no alert takes for a date.
    pub certificate_expiry: Gauge,
    /// New certificates that were refused.
    pub reload_failures: IntCounter,
    /// Open connections on the admin port; counted for its limit, and no metric.
    pub admin_connections: IntGauge,
}

impl Metrics {
    /// Registers every family. `dropped_log_lines` is the log's own count, read at each scrape.
    pub fn new(dropped_log_lines: fn() -> u64) -> Result<Self, Error> {
        let families = Families(Registry::new());
        let metrics = MetricFamilies {
            calls: families.histogram(
                "rpc_server_call_duration_seconds",
                "Time from a call's arrival to its status.",
                &["rpc_method", "rpc_response_status_code"],
            )?,
            attempts: families.histogram(
                "http_client_request_duration_seconds",
                "Time of one attempt at the upstream.",
                &["http_response_status_code", "error_type"],
            )?,
            retries: families.register(IntCounterVec::new(
                Opts::new(
                    "upstream_retries_total",
                    "Attempts after the first one, by what went wrong before.",
                ),
                &["reason"],
            ))?,
            renewals: families.register(IntCounterVec::new(
                Opts::new(
                    "auth_token_renewals_total",
                    "Requests for a token of the gateway's own, by how they ended.",
                ),
                &["outcome"],
            ))?,
            active_requests: families.gauge("rpc_server_active_requests", "Calls being served.")?,
            retry_tokens: families
                .register(Gauge::new("upstream_retry_tokens", "Retry tokens left, 0 to 10."))?,
            unknown_fields: families.counter(
                "upstream_unknown_fields_total",
                "Keys in the upstream's replies that nobody knows.",
            )?,
            panics: families.counter("panics_total", "Panics caught in a handler.")?,
            shed: families.counter("shed_total", "Calls refused for too many in flight.")?,
            connections: families.gauge("server_connections", "Open gRPC connections.")?,
            draining: families.gauge("server_draining", "1 from the first signal to stop on, else 0.")?,
            certificate_expiry: families.register(Gauge::new(
                "tls_certificate_expiry_timestamp_seconds",
                "When the certificate in use expires, in seconds since 1970; NaN without TLS.",
            ))?,
            reload_failures: families
                .counter("tls_reload_failures_total", "New certificates that were refused.")?,
            admin_connections: IntGauge::new("admin_connections", "Open admin connections.")?,
            registry: families.0.clone(),
        };
        metrics.certificate_expiry.set(f64::NAN);
        // Those of a healthy gateway are there from the start, so that a rate has a beginning.
        for method in crate::proto::METHODS {
            metrics.calls.with_label_values(&[method, "OK"]);
        }
        metrics.attempts.with_label_values(&["200", ""]);
        for reason in ["connect", "lost", "timeout", "status", "stale"] {
            metrics.retries.with_label_values(&[reason]);
        }
        for outcome in ["success", "refused", "unreachable"] {
            metrics.renewals.with_label_values(&[outcome]);
        }
        let build = IntGaugeVec::new(Opts::new("build_info", "This build; always 1."), &["version"]);
        families.register(build)?.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        families.0.register(Box::new(LogLinesDropped {
            counter: LogLinesDropped::counter()?,
            dropped: dropped_log_lines,
        }))?;
        families.0.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self(Arc::new(metrics)))
    }
}

impl MetricFamilies {
    /// A call of `method` ended with the gRPC status `code`.
    pub fn call(&self, method: &str, code: &str, duration: Duration) {
        self.calls.with_label_values(&[method, code]).observe(duration.as_secs_f64());
    }

    /// An attempt at the upstream ended: with an HTTP status, or an error type, or both.
    pub fn attempt(&self, status: Option<u16>, error_type: &str, duration: Duration) {
        let status = status.map(|status| status.to_string()).unwrap_or_default();
        self.attempts.with_label_values(&[status.as_str(), error_type]).observe(duration.as_secs_f64());
    }

    /// There will be one more attempt, for this reason.
    pub fn retry(&self, reason: &str) {
        self.retries.with_label_values(&[reason]).inc();
    }

    /// The identity service was asked for a token.
    pub fn renewal(&self, outcome: &str) {
        self.renewals.with_label_values(&[outcome]).inc();
    }

    /// All families in Prometheus's text format.
    pub fn text(&self) -> Result<String, Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// The log's own count of the lines that it lost, read when it is asked for.
struct LogLinesDropped {
    counter: IntCounter,
    dropped: fn() -> u64,
}

impl LogLinesDropped {
    fn counter() -> Result<IntCounter, Error> {
        IntCounter::new(
            "log_lines_dropped_total",
            "Log lines that nobody took in time, or that could not be written.",
        )
    }
}

impl Collector for LogLinesDropped {
    fn desc(&self) -> Vec<&Desc> {
        self.counter.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Made for this scrape alone: another one may run at the same time.
        let Ok(counter) = Self::counter() else { return Vec::new() };
        counter.inc_by((self.dropped)());
        counter.collect()
    }
}

/// Makes families and registers them.
struct Families(Registry);

impl Families {
    fn register<C: Collector + Clone + 'static>(&self, family: Result<C, Error>) -> Result<C, Error> {
        let family = family?;
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn histogram(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, Error> {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec()), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.register(IntGauge::new(name, help))
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.register(IntCounter::new(name, help))
    }
}

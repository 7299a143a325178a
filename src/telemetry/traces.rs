//! The export of spans to a collector by [OTLP], over gRPC or HTTP. The [standard `OTEL_` variables] configure it.
//!
//! Exports run on threads of their own. A collector that is slow or unreachable never delays a call: spans wait in a bounded
//! queue, and are dropped while it is full. This module must not know what a span contains (`spans` does).
//! `tests/gateway/traces.rs` runs it with working and broken collectors.
//!
//! [OTLP]: https://opentelemetry.io/docs/specs/otlp/
//! [standard `OTEL_` variables]: https://opentelemetry.io/docs/specs/otel/protocol/exporter/

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::{Builder, Handle, Runtime};
use tonic::transport::ClientTlsConfig;
use url::Url;

use crate::http::{Roots, otlp_client};

/// The default of the OTLP specification.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the runtime may take to drop its tasks. A name that is still being resolved would block it for longer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);

/// How to reach the collector. The SDK itself reads the other variables (sampler, batches, headers, resource).
#[derive(Clone, Debug)]
pub struct Config {
    protocol: Protocol,
    is_https: bool,
    roots: Roots,
    timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Grpc,
    Http,
}

impl Config {
    /// Reads the `OTEL_` variables through `variable`. `None` if traces are not configured or disabled. All problems are
    /// reported together; none repeats a value, which may be a secret.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Vec<String>> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        // The variable for traces precedes the one for all signals.
        let otlp = |suffix: &str| {
            let names =
                [format!("OTEL_EXPORTER_OTLP_TRACES_{suffix}"), format!("OTEL_EXPORTER_OTLP_{suffix}")];
            names.into_iter().find_map(|name| set(&name).map(|value| (name, value)))
        };
        let Some((endpoint_name, endpoint)) = otlp("ENDPOINT") else { return Ok(None) };
        let exporter = set("OTEL_TRACES_EXPORTER").unwrap_or_else(|| "otlp".into());
        let is_disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if is_disabled || exporter.eq_ignore_ascii_case("none") {
            return Ok(None);
        }
        let mut problems = Vec::new();
        if exporter != "otlp" {
            problems.push("OTEL_TRACES_EXPORTER must be otlp or none".into());
        }
        let url = Url::parse(&endpoint).ok().filter(is_collector_url);
        if url.is_none() {
            problems.push(format!(
                "{endpoint_name} must be a URL such as http://collector:4318; credentials belong in OTEL_EXPORTER_OTLP_HEADERS"
            ));
        }
        let is_https = url.is_some_and(|url| url.scheme() == "https");
        let mut config =
            Self { protocol: Protocol::Http, is_https, roots: Roots::none(), timeout: DEFAULT_TIMEOUT };
        if let Some((name, value)) = otlp("PROTOCOL") {
            match value.as_str() {
                "http/protobuf" => {}
                "grpc" => config.protocol = Protocol::Grpc,
                _ => problems.push(format!("{name} must be grpc or http/protobuf")),
            }
        }
        if let Some((name, value)) = otlp("TIMEOUT") {
            match value.parse() {
                Ok(millis) => config.timeout = Duration::from_millis(millis),
                Err(_) => problems.push(format!("{name} must be a number of milliseconds")),
            }
        }
        if let Some((name, file)) = otlp("CERTIFICATE") {
            match Roots::from_pem_file(Path::new(&file)) {
                Ok(roots) => config.roots = roots,
                Err(error) => problems.push(format!("{name}: {error}")),
            }
        } else if is_https {
            config.roots = Roots::system();
        }
        if problems.is_empty() { Ok(Some(config)) } else { Err(problems) }
    }

    /// What is wrong with the file of the collector's CA certificates, which can be used nevertheless.
    pub fn warnings(&self) -> &[String] {
        self.roots.warnings()
    }

    fn span_exporter(&self) -> Result<opentelemetry_otlp::SpanExporter, String> {
        let builder = opentelemetry_otlp::SpanExporter::builder();
        let exporter = match self.protocol {
            Protocol::Grpc if self.is_https => {
                let store = self.roots.store();
                let anchors = store.roots.iter().cloned();
                let tls = ClientTlsConfig::new().trust_anchors(anchors);
                builder.with_tonic().with_tls_config(tls).build()
            }
            Protocol::Grpc => builder.with_tonic().build(),
            Protocol::Http => {
                let client = otlp_client(&self.roots, self.timeout)?;
                builder.with_http().with_http_client(client).build()
            }
        };
        exporter.map_err(|error| error.to_string())
    }
}

/// A password in the URL is not accepted: the SDK logs the URL.
fn is_collector_url(url: &Url) -> bool {
    let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
    is_http && url.username().is_empty() && url.password().is_none()
}

/// The SDK's tracer provider, and the runtime for its exports. One for the process; [`Exporter::shutdown`] ends it.
#[derive(Debug)]
pub struct Exporter {
    provider: SdkTracerProvider,
    runtime: Runtime,
}

impl Exporter {
    /// Starts the threads. Nothing is connected yet.
    pub fn start(config: &Config) -> Result<Self, String> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("otlp").enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start the trace exporter: {error}"))?;
        // The clients of gRPC and HTTP need a runtime when they are created.
        let context = runtime.enter();
        let exporter = config.span_exporter();
        drop(context);
        let exporter = exporter.map_err(|error| format!("cannot start the trace exporter: {error}"))?;
        let exporter = RuntimeExporter { handle: runtime.handle().clone(), exporter: Arc::new(exporter) };
        let resource = Resource::builder();
        let named = std::env::var_os("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty())
            || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|all| all.contains("service.name="));
        let resource = if named { resource } else { resource.with_service_name(env!("CARGO_PKG_NAME")) };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_batch_exporter(exporter)
            .build();
        Ok(Self { provider, runtime })
    }

    /// Creates the spans that are exported.
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer(env!("CARGO_PKG_NAME"))
    }

    /// Exports the remaining spans within `timeout`, then shuts the runtime down. It blocks: call it outside of any runtime.
    pub fn shutdown(self, timeout: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(timeout) {
            tracing::warn!(%error, "the last spans were not exported");
        }
        self.runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    }
}

/// Runs each export as a task of a Tokio runtime.
///
/// The SDK polls its exporter with `block_on` on a thread of its own, without the reactor that the clients of gRPC and HTTP need.
/// When the runtime is shut down, the export in progress is cancelled, and later ones fail at once.
#[derive(Debug)]
struct RuntimeExporter<E> {
    handle: Handle,
    exporter: Arc<E>,
}

impl<E: SpanExporter + 'static> SpanExporter for RuntimeExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = Arc::clone(&self.exporter);
        let task = self.handle.spawn(async move { exporter.export(batch).await });
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_cancelled() => Err(OTelSdkError::AlreadyShutdown),
            Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
        }
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        // The SDK sets it before the first export, while there is no other reference.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Config>, Vec<String>> {
        let find =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Config::read(find)
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    #[test]
    fn traces_need_an_endpoint_and_are_not_disabled() {
        for variables in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
            &[("OTEL_TRACES_SAMPLER", "always_on")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")],
            &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert!(matches!(read(variables), Ok(None)), "{variables:?}");
        }
        for variables in [
            &[ENDPOINT][..],
            &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "false"), ("OTEL_TRACES_EXPORTER", "otlp")],
        ] {
            assert!(matches!(read(variables), Ok(Some(_))), "{variables:?}");
        }
    }

    #[test]
    fn protocol_is_http_by_default_and_variable_for_traces_precedes() {
        let protocol = |more: &[(&str, &str)]| read(&[&[ENDPOINT], more].concat()).unwrap().unwrap().protocol;
        assert_eq!(protocol(&[]), Protocol::Http);
        assert_eq!(protocol(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), Protocol::Grpc);
        let both = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
        ];
        assert_eq!(protocol(&both), Protocol::Http);
    }

    #[test]
    fn problems_name_every_variable_and_repeat_no_value() {
        let problems = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hunter2@collector"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "hunter2"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
        ])
        .unwrap_err();
        for name in ["ENDPOINT ", "PROTOCOL ", "TRACES_TIMEOUT ", "CERTIFICATE: "] {
            let name = format!("OTEL_EXPORTER_OTLP_{name}");
            assert!(problems.iter().any(|problem| problem.starts_with(&name)), "{name} in {problems:?}");
        }
        assert!(problems.iter().any(|problem| problem.starts_with("OTEL_TRACES_EXPORTER ")));
        assert!(!format!("{problems:?}").contains("hunter2"));
    }

    /// Reports that an export has started, which then waits for a timer of the runtime.
    #[derive(Debug)]
    struct HangingExporter(mpsc::Sender<()>);

    impl SpanExporter for HangingExporter {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            self.0.send(()).unwrap();
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok(())
        }
    }

    /// Polls an export as the SDK does: on a thread whose runtime has no reactor.
    fn export(exporter: &RuntimeExporter<HangingExporter>) -> OTelSdkResult {
        Builder::new_current_thread().build().unwrap().block_on(exporter.export(Vec::new()))
    }

    #[test]
    fn runtime_shutdown_cancels_hanging_export_and_refuses_later_ones() {
        let (started, has_started) = mpsc::channel();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let exporter = Arc::new(HangingExporter(started));
        let exporter = Arc::new(RuntimeExporter { handle: runtime.handle().clone(), exporter });
        let exporting = Arc::clone(&exporter);
        let sdk = thread::spawn(move || export(&exporting));
        has_started.recv().unwrap();
        runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
        let cancelled = sdk.join().expect("no panic");
        assert!(matches!(cancelled, Err(OTelSdkError::AlreadyShutdown)), "{cancelled:?}");
        let later = export(&exporter);
        assert!(matches!(later, Err(OTelSdkError::AlreadyShutdown)), "{later:?}");
    }
}

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
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};
use tokio::runtime::{Builder, Handle, Runtime};
use tonic::transport::ClientTlsConfig;
use url::Url;

use crate::http::{Roots, otlp_client};

/// The default of the OTLP specification.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the runtime may take to drop its tasks. A name that is still being resolved would block it for longer.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);

/// How to reach the collector, and how spans are batched. The SDK itself reads the other variables (sampler, headers, resource).
#[derive(Clone, Debug)]
pub struct Config {
    protocol: Protocol,
    is_https: bool,
    roots: Roots,
    timeout: Duration,
    max_queue_size: u32,
    max_export_batch_size: u32,
    scheduled_delay: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Grpc,
    Http,
}

impl Config {
    /// Reads the `OTEL_` variables through `variable`. `None` if traces are not configured or disabled. All problems are
    /// reported together. A value that the [specification] tells to ignore becomes a warning. None repeats a value, which may be
    /// a secret.
    ///
    /// [specification]: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    pub fn read(
        variable: impl Fn(&str) -> Option<String>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Self>, Vec<String>> {
        let mut reader = Reader { variable, warnings };
        let Some((endpoint_name, endpoint)) = reader.otlp("ENDPOINT") else { return Ok(None) };
        if reader.is_disabled() {
            return Ok(None);
        }
        let mut problems = Vec::new();
        let url = Url::parse(&endpoint).ok().filter(is_collector_url);
        if url.is_none() {
            problems.push(format!(
                "{endpoint_name} must be a URL such as http://collector:4318; credentials belong in OTEL_EXPORTER_OTLP_HEADERS"
            ));
        }
        let is_https = url.is_some_and(|url| url.scheme() == "https");
        let mut roots = if is_https { Roots::system() } else { Roots::none() };
        if let Some((name, file)) = reader.otlp("CERTIFICATE") {
            match Roots::from_pem_file(Path::new(&file)) {
                Ok(read) => roots = read,
                Err(error) => problems.push(format!("{name}: {error}")),
            }
        }
        reader.check_sampler();
        reader.check_compression();
        let config = Self {
            protocol: reader.protocol(),
            is_https,
            roots,
            timeout: reader.timeout(),
            max_queue_size: reader.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048),
            max_export_batch_size: reader.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
            scheduled_delay: Duration::from_millis(reader.number("OTEL_BSP_SCHEDULE_DELAY", 5000).into()),
        };
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

/// The variables whose unknown values are ignored with a warning.
struct Reader<'a, V> {
    variable: V,
    warnings: &'a mut Vec<String>,
}

impl<V: Fn(&str) -> Option<String>> Reader<'_, V> {
    fn set(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// The variable for traces, or else the one for all signals, with its name.
    fn otlp(&self, suffix: &str) -> Option<(String, String)> {
        let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{suffix}"), format!("OTEL_EXPORTER_OTLP_{suffix}")];
        names.into_iter().find_map(|name| self.set(&name).map(|value| (name, value)))
    }

    fn ignore(&mut self, name: &str, expected: &str) {
        self.warnings.push(format!("{name} must be {expected}: what is not is ignored"));
    }

    /// Whether there is no exporter, or the SDK is disabled.
    fn is_disabled(&mut self) -> bool {
        let switch = self.set("OTEL_SDK_DISABLED").unwrap_or_default().to_ascii_lowercase();
        if !matches!(switch.as_str(), "true" | "false" | "") {
            self.ignore("OTEL_SDK_DISABLED", "true or false");
        }
        let exporters = self.set("OTEL_TRACES_EXPORTER").unwrap_or_default().to_ascii_lowercase();
        let exporters: Vec<&str> = exporters.split(',').map(str::trim).collect();
        if exporters.iter().any(|exporter| !matches!(*exporter, "otlp" | "none" | "")) {
            self.ignore("OTEL_TRACES_EXPORTER", "otlp or none");
        }
        switch == "true" || (exporters.contains(&"none") && !exporters.contains(&"otlp"))
    }

    fn protocol(&mut self) -> Protocol {
        let Some((name, value)) = self.otlp("PROTOCOL") else { return Protocol::Http };
        match value.to_ascii_lowercase().as_str() {
            "grpc" => return Protocol::Grpc,
            "http/protobuf" => {}
            _ => self.ignore(&name, "grpc or http/protobuf, which is the default"),
        }
        Protocol::Http
    }

    fn timeout(&mut self) -> Duration {
        let Some((name, value)) = self.otlp("TIMEOUT") else { return DEFAULT_TIMEOUT };
        match value.parse() {
            Ok(millis) => Duration::from_millis(millis),
            Err(_) => {
                self.ignore(&name, "a number of milliseconds");
                DEFAULT_TIMEOUT
            }
        }
    }

    /// The SDK accepts a queue of any length, and panics if it is too long for the memory.
    fn number(&mut self, name: &str, default: u32) -> u32 {
        match self.set(name).map(|value| value.parse()) {
            None => default,
            Some(Ok(number @ 1..=1_000_000)) => number,
            Some(Ok(_) | Err(_)) => {
                self.ignore(name, "a whole number from 1 to 1000000");
                default
            }
        }
    }

    /// The SDK reads these, and logs what it ignores with its own target, below the level of the log.
    fn check_sampler(&mut self) {
        const SAMPLERS: [&str; 6] = [
            "always_on",
            "always_off",
            "traceidratio",
            "parentbased_always_on",
            "parentbased_always_off",
            "parentbased_traceidratio",
        ];
        let sampler = self.set("OTEL_TRACES_SAMPLER").unwrap_or_default();
        let ratio = self.set("OTEL_TRACES_SAMPLER_ARG").and_then(|ratio| ratio.parse::<f64>().ok());
        if !sampler.is_empty() && !SAMPLERS.contains(&sampler.as_str()) {
            self.ignore("OTEL_TRACES_SAMPLER", &format!("one of {}", SAMPLERS.join(", ")));
        } else if sampler.ends_with("traceidratio")
            && !ratio.is_some_and(|ratio| (0.0..=1.0).contains(&ratio))
        {
            self.ignore("OTEL_TRACES_SAMPLER_ARG", "a number from 0 to 1 with the sampler traceidratio");
        }
    }

    fn check_compression(&mut self) {
        if let Some((name, value)) = self.otlp("COMPRESSION")
            && !value.eq_ignore_ascii_case("none")
        {
            self.ignore(&name, "none");
        }
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
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(config.max_queue_size as usize)
            .with_max_export_batch_size(config.max_export_batch_size as usize)
            .with_scheduled_delay(config.scheduled_delay)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.build())
            .with_span_processor(processor)
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
        Config::read(find, &mut Vec::new())
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
            &[ENDPOINT, ("OTEL_TRACES_EXPORTER", "console, None")],
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
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file"),
        ])
        .unwrap_err();
        for name in ["ENDPOINT ", "CERTIFICATE: "] {
            let name = format!("OTEL_EXPORTER_OTLP_{name}");
            assert!(problems.iter().any(|problem| problem.starts_with(&name)), "{name} in {problems:?}");
        }
        assert!(!format!("{problems:?}").contains("hunter2"));
    }

    /// "The implementation MUST generate a warning and gracefully ignore the setting" (enums); likewise numbers and booleans.
    #[test]
    fn unknown_value_is_ignored_with_one_warning() {
        for (name, value) in [
            ("OTEL_SDK_DISABLED", "1"),
            ("OTEL_TRACES_EXPORTER", "otlp,hunter2"),
            ("OTEL_TRACES_EXPORTER", "hunter2"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_TRACES_SAMPLER", "xray"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999999999"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
            ("OTEL_BSP_SCHEDULE_DELAY", "5s"),
        ] {
            let find = |wanted: &str| {
                [ENDPOINT, (name, value)].iter().find(|(key, _)| *key == wanted).map(|(_, v)| (*v).to_owned())
            };
            let mut warnings = Vec::new();
            let config = Config::read(find, &mut warnings).unwrap().expect("traces are on");
            assert_eq!((config.protocol, config.timeout), (Protocol::Http, DEFAULT_TIMEOUT));
            let [warning] = warnings.as_slice() else { panic!("{name}: {warnings:?}") };
            assert!(
                warning.starts_with(&format!("{name} must be ")) && !warning.contains("hunter2"),
                "{warning}"
            );
        }
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

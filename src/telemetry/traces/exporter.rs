//! Sends spans to a collector by OTLP, over gRPC or HTTP, as the standard `OTEL_` variables say.
//!
//! It has threads of its own, so that a collector that is slow or away holds no call: spans wait in a bounded queue, and
//! those that find it full are lost.

mod runtime;

use std::path::Path;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tonic::transport::ClientTlsConfig;
use url::Url;

use crate::http::{Roots, otlp_client};
use runtime::ExportRuntime;

/// Where spans go. What the SDK reads by itself (sampler, batches, headers, resource) is not in here.
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

/// The specification's own.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

impl Config {
    /// Reads the `OTEL_` variables by `variable`; `None` where they ask for no traces. All that is wrong is told at once.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Vec<String>> {
        let set = |name: &str| {
            variable(name).filter(|value| !value.is_empty()).map(|value| (name.to_owned(), value))
        };
        // The variable for traces goes before the one for every signal.
        let otlp = |what: &str| {
            set(&format!("OTEL_EXPORTER_OTLP_TRACES_{what}"))
                .or_else(|| set(&format!("OTEL_EXPORTER_OTLP_{what}")))
        };
        let is =
            |name: &str, wanted: &str| set(name).is_some_and(|(_, value)| value.eq_ignore_ascii_case(wanted));
        let Some((endpoint, url)) = otlp("ENDPOINT") else { return Ok(None) };
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        let mut problems = Vec::new();
        if let Some((name, _)) = set("OTEL_TRACES_EXPORTER").filter(|(_, value)| value != "otlp") {
            problems.push(format!("{name} must be otlp or none"));
        }
        let url = Url::parse(&url).ok().filter(is_collector);
        if url.is_none() {
            problems.push(format!(
                "{endpoint} must be a URL such as http://collector:4318; what proves who sends goes into OTEL_EXPORTER_OTLP_HEADERS"
            ));
        }
        let protocol = match otlp("PROTOCOL") {
            None => Protocol::Http,
            Some((_, value)) if value == "http/protobuf" => Protocol::Http,
            Some((_, value)) if value == "grpc" => Protocol::Grpc,
            Some((name, _)) => {
                problems.push(format!("{name} must be grpc or http/protobuf"));
                Protocol::Http
            }
        };
        let timeout =
            match otlp("TIMEOUT").map(|(name, value)| (name, value.parse().map(Duration::from_millis))) {
                None => DEFAULT_TIMEOUT,
                Some((_, Ok(timeout))) => timeout,
                Some((name, Err(_))) => {
                    problems.push(format!("{name} must be a number of milliseconds"));
                    DEFAULT_TIMEOUT
                }
            };
        let is_https = url.is_some_and(|url| url.scheme() == "https");
        let roots = match otlp("CERTIFICATE") {
            Some((name, file)) => Roots::from_pem_file(Path::new(&file))
                .map_err(|why| problems.push(format!("{name}: {why}")))
                .unwrap_or_else(|()| Roots::none()),
            None if is_https => Roots::system(),
            None => Roots::none(),
        };
        if problems.is_empty() {
            Ok(Some(Self { protocol, is_https, roots, timeout }))
        } else {
            Err(problems)
        }
    }

    fn exporter(&self) -> Result<SpanExporter, String> {
        let built = match self.protocol {
            Protocol::Grpc => {
                let builder = SpanExporter::builder().with_tonic();
                let anchors = self.roots.store().roots.iter().cloned();
                let tls = || ClientTlsConfig::new().trust_anchors(anchors);
                if self.is_https { builder.with_tls_config(tls()) } else { builder }.build()
            }
            Protocol::Http => {
                let client = otlp_client(&self.roots, self.timeout)?;
                SpanExporter::builder().with_http().with_http_client(client).build()
            }
        };
        built.map_err(|error| error.to_string())
    }
}

/// A password in the URL would be shown where the SDK tells of the URL.
fn is_collector(url: &Url) -> bool {
    let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
    is_http && url.username().is_empty() && url.password().is_none()
}

/// The SDK with its queue and its thread, and the runtime on which it exports; one for the process. [`Exporter::finish`] ends
/// it in order.
#[derive(Debug)]
pub struct Exporter {
    provider: SdkTracerProvider,
    runtime: ExportRuntime,
}

impl Exporter {
    /// Starts it; it connects to nothing yet.
    pub fn start(config: &Config) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("traces cannot be sent: {error}");
        let runtime = ExportRuntime::start().map_err(|error| failed(&error))?;
        let context = runtime.enter();
        let exporter = runtime.attach(config.exporter().map_err(|error| failed(&error))?);
        drop(context);
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

    /// What makes the spans that it sends.
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer(env!("CARGO_PKG_NAME"))
    }

    /// Sends what is left, for `limit` at most, and ends the runtime. It blocks: call it outside of every runtime.
    pub fn finish(self, limit: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(limit) {
            tracing::warn!(%error, "the last spans were not sent");
        }
        self.runtime.shutdown();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Config>, Vec<String>> {
        let find =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Config::read(find)
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    #[test]
    fn there_are_no_traces_unless_an_endpoint_is_set_and_nobody_says_no() {
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
    fn the_protocol_is_http_unless_told_and_the_variable_for_traces_wins() {
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
    fn all_that_is_wrong_is_told_by_name_and_no_value_is_repeated() {
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
}

//! Log lines on standard output, and OpenTelemetry spans.
//!
//! [`Config::install`] sets up [`tracing`] for the process: one layer writes log lines, another passes spans to the OTLP
//! exporter. This module must not know gRPC, the upstream or the configuration's source. `tests/gateway/logging.rs` shows log lines,
//! `tests/gateway/traces.rs` spans. Log keys and span attributes follow OpenTelemetry's [semantic conventions].
//!
//! [semantic conventions]: https://opentelemetry.io/docs/specs/semconv/

mod format;
pub mod spans;
pub mod traces;
mod writer;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use opentelemetry_sdk::trace::SdkTracer;
use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, dispatcher};
use tracing_subscriber::filter::{FilterExt, Targets, filter_fn};
use tracing_subscriber::layer::{Filter, Layer, SubscriberExt};
use tracing_subscriber::{EnvFilter, Registry, fmt};

pub use format::LogFormat;
pub use writer::WorkerGuard;

use traces::Exporter;
use writer::Log;

/// The log of the process.
static LOG: OnceLock<Log> = OnceLock::new();

/// Number of log lines lost so far.
pub fn dropped_log_lines() -> u64 {
    LOG.get().map_or(0, Log::dropped)
}

/// Configuration of the log.
#[derive(Clone, Debug)]
pub struct Config {
    /// A filter in the syntax of `tracing`: `info`, `warn,backup_share_gateway=debug`.
    pub filter: String,
    /// The format of the lines.
    pub format: LogFormat,
}

impl Config {
    /// Checks the syntax of a filter.
    pub fn check_filter(filter: &str) -> Result<(), String> {
        EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Makes standard output the log of this process, unless `tracing` has a global subscriber already.
    ///
    /// `start_exporter` starts the exporter of spans; what it logs is written, too. The guard flushes the log when it is dropped.
    pub fn install(
        &self,
        start_exporter: impl FnOnce() -> Result<Option<Exporter>, String>,
    ) -> Result<(WorkerGuard, Option<Exporter>), String> {
        let log = LOG.get_or_init(|| Log::start(stdout()));
        let guard = WorkerGuard(log);
        let exporter = dispatcher::with_default(&self.subscriber(log, None), start_exporter)?;
        let subscriber = self.subscriber(log, exporter.as_ref().map(Exporter::tracer));
        // An error means that a test, for example, has installed a subscriber before.
        let _ = dispatcher::set_global_default(subscriber);
        Ok((guard, exporter))
    }

    /// Without a tracer there is no span layer: a layer that is `None` would prevent `tracing` from caching disabled callsites.
    fn subscriber(&self, log: &'static Log, tracer: Option<SdkTracer>) -> Dispatch {
        let lines = fmt::layer()
            .with_writer(move || log)
            .with_ansi(io::stdout().is_terminal())
            .fmt_fields(format::NoFields)
            .event_format(self.format);
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(self.log_filter()));
        match tracer {
            Some(tracer) => {
                let spans = tracing_opentelemetry::layer()
                    .with_tracer(tracer)
                    .with_location(false)
                    .with_threads(false)
                    .with_target(false)
                    .with_tracked_inactivity(false)
                    .with_context_activation(false);
                subscriber.with(spans.with_filter(filter_fn(spans::is_exported))).into()
            }
            None => subscriber.into(),
        }
    }

    /// The events that the directives enable, and always the span of a call, from which log lines take the call's IDs.
    fn log_filter(&self) -> Box<dyn Filter<Registry> + Send + Sync> {
        let call_span = filter_fn(spans::is_call).with_max_level_hint(LevelFilter::INFO);
        let filter = EnvFilter::new(&self.filter);
        // `EnvFilter` takes a lock each time a span is entered or left. Only directives such as `[attempt]=debug` need that.
        match filter.to_string().parse::<Targets>() {
            Ok(targets) if !self.filter.contains('[') => Box::new(targets.or(call_span)),
            Ok(_) | Err(_) => {
                let others = filter_fn(|span| !spans::is_call(span)).with_max_level_hint(LevelFilter::TRACE);
                Box::new(others.and(filter).or(call_span))
            }
        }
    }
}

/// Standard output without the buffer of the standard library, which is flushed at each end of a line.
fn stdout() -> Box<dyn Write + Send> {
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(output) => Box::new(File::from(output)),
        Err(_) => Box::new(io::stdout()),
    }
}

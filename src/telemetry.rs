//! Log lines on standard output, and OpenTelemetry spans.
//!
//! [`Config::install`] sets up [`tracing`] for the process: one layer writes log lines, another passes spans to the OTLP
//! exporter. This module must not know gRPC, the upstream or the configuration's source. `tests/gateway/logging.rs` shows log lines,
//! `tests/gateway/traces.rs` spans. Log keys and span attributes follow OpenTelemetry's [semantic conventions].
//!
//! [semantic conventions]: https://opentelemetry.io/docs/specs/semconv/

mod filter;
mod format;
pub mod spans;
pub mod traces;
mod writer;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use opentelemetry_sdk::trace::SdkTracer;
use tracing::{Dispatch, Subscriber, dispatcher};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

pub use filter::parse_filter;
pub use format::LogFormat;
pub use writer::WorkerGuard;

use filter::LogFilter;
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
    /// The directives of an `EnvFilter`, from [`parse_filter`].
    pub filter: String,
    /// The format of the lines.
    pub format: LogFormat,
}

impl Config {
    /// Makes standard output the log of this process, unless `tracing` has a global subscriber already.
    ///
    /// `start_exporter` starts the exporter of spans; what it logs is written, too. The guard flushes the log when it is dropped.
    pub fn install(
        &self,
        start_exporter: impl FnOnce() -> Result<Option<Exporter>, String>,
    ) -> Result<(WorkerGuard, Option<Exporter>), String> {
        let log = match LOG.get() {
            Some(log) => log,
            None => {
                let log = Log::start(stdout()).map_err(|error| format!("the thread of the log: {error}"))?;
                LOG.get_or_init(|| log)
            }
        };
        let guard = WorkerGuard(log);
        let exporter = dispatcher::with_default(&self.subscriber(log, None), start_exporter)?;
        let subscriber = self.subscriber(log, exporter.as_ref().map(Exporter::tracer));
        // An error means that a test, for example, has installed a subscriber before.
        let _ = dispatcher::set_global_default(subscriber);
        Ok((guard, exporter))
    }

    /// Without a tracer there is no span layer: a layer that is `None` would prevent `tracing` from caching disabled callsites.
    fn subscriber(&self, log: &'static Log, tracer: Option<SdkTracer>) -> Dispatch {
        let registry = tracing_subscriber::registry();
        match tracer {
            Some(tracer) => {
                let layer = spans::layer(tracer).with_filter(filter_fn(spans::is_exported));
                self.add_log(registry.with(layer), log)
            }
            None => self.add_log(registry, log),
        }
    }

    fn add_log<S>(&self, subscriber: S, log: &'static Log) -> Dispatch
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync + 'static,
    {
        let filter = LogFilter::new(&self.filter);
        let layer = fmt::layer()
            .with_writer(move || log)
            .with_ansi(io::stdout().is_terminal())
            .fmt_fields(format::NoFields)
            .event_format(self.format);
        subscriber.with(layer.with_filter(filter)).into()
    }
}

/// Standard output without the buffer of the standard library, which is flushed at each end of a line.
fn stdout() -> Box<dyn Write + Send> {
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(output) => Box::new(File::from(output)),
        Err(_) => Box::new(io::stdout()),
    }
}

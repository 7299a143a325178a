//! Logs, metrics and spans. It knows what a call is ([`crate::domain`]) and nothing of gRPC or of the upstream.

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
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, fmt};

pub use format::LogFormat;
pub use writer::Flush;

use filter::LogFilter;
use traces::Exporter;

use writer::Lines;

/// The log is the process's.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Log lines lost so far.
pub fn dropped_log_lines() -> u64 {
    LINES.get().map_or(0, Lines::dropped)
}

/// What is logged and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// A filter in the syntax of `tracing`: `info`, `warn,backup_share_gateway=debug`.
    pub filter: String,
    /// The form of the lines.
    pub format: LogFormat,
}

impl Config {
    /// The error says what is wrong with a filter.
    pub fn check_filter(filter: &str) -> Result<(), String> {
        EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Makes standard output the log of this process. If there is a log already, it stays.
    ///
    /// `exporter` starts what the spans are exported by, and logs to standard output, too. What is returned writes the last
    /// lines when it is dropped.
    pub fn install(
        &self,
        exporter: impl FnOnce() -> Result<Option<Exporter>, String>,
    ) -> Result<(Flush, Option<Exporter>), String> {
        let lines = LINES.get_or_init(Lines::default).clone();
        let flush = lines.write_to(output()).map_err(|error| format!("no thread for the log: {error}"))?;
        let exporter = dispatcher::with_default(&self.subscriber(lines.clone(), None), exporter)?;
        let subscriber = self.subscriber(lines, exporter.as_ref().map(Exporter::tracer));
        // An error says that somebody else, such as a test, has set up a log before.
        let _ = dispatcher::set_global_default(subscriber);
        Ok((flush, exporter))
    }

    /// Without a tracer there is no layer for it: one that is `None` would keep `tracing` from caching what is disabled.
    fn subscriber(&self, lines: Lines, tracer: Option<SdkTracer>) -> Dispatch {
        match tracer {
            Some(tracer) => {
                let layer = spans::layer(tracer).with_filter(filter_fn(spans::is_exported));
                self.with_log(tracing_subscriber::registry().with(layer), lines)
            }
            None => self.with_log(tracing_subscriber::registry(), lines),
        }
    }

    fn with_log<S>(&self, spans: S, lines: Lines) -> Dispatch
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync + 'static,
    {
        let filter = LogFilter::new(&self.filter);
        let layer = fmt::layer()
            .with_writer(lines)
            .with_ansi(io::stdout().is_terminal())
            .fmt_fields(format::NoFields)
            .event_format(self.format);
        spans.with(layer.with_filter(filter)).into()
    }
}

/// Standard output without the standard library's buffer, which is written at each end of a line.
fn output() -> Box<dyn Write + Send> {
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(output) => Box::new(File::from(output)),
        Err(_) => Box::new(io::stdout()),
    }
}

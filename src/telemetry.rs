//! What operators see: logs, metrics and traces. Any part may use this module; of them it uses only the roots of TLS.

mod filter;
mod json;
mod metrics;
pub mod spans;
mod text;
pub mod traces;
mod writer;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use opentelemetry_sdk::trace::SdkTracer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

pub use metrics::Metrics;
pub use writer::Flush;

use filter::LogFilter;

use writer::Lines;

/// The log is the process's.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Log lines lost so far.
fn dropped_log_lines() -> u64 {
    LINES.get().map_or(0, Lines::dropped)
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One flat JSON object a line.
    Json,
    /// For people.
    Text,
}

impl LogFormat {
    /// Text where a person looks on, JSON elsewhere.
    pub fn for_stdout() -> Self {
        if io::stdout().is_terminal() { Self::Text } else { Self::Json }
    }
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

    /// Makes standard output the log of this process, and gives the spans to `tracer`. If there is a log already, it stays.
    ///
    /// What is returned writes the last lines when it is dropped.
    pub fn install(&self, tracer: Option<SdkTracer>) -> Result<Flush, String> {
        let lines = LINES.get_or_init(Lines::default).clone();
        let flush = lines.write_to(output()).map_err(|error| format!("no thread for the log: {error}"))?;
        let filter = LogFilter::new(&self.filter);
        let spans = tracer.map(|tracer| spans::layer(tracer).with_filter(filter_fn(spans::is_call_span)));
        let registry = tracing_subscriber::registry().with(spans);
        // An error says that somebody else, such as a test, has set up a log before.
        let _ = match self.format {
            LogFormat::Json => {
                let layer = fmt::layer().event_format(json::Json).fmt_fields(text::NoFields);
                registry.with(layer.with_writer(lines).with_filter(filter)).try_init()
            }
            LogFormat::Text => {
                let layer = fmt::layer().event_format(text::Text).fmt_fields(text::NoFields);
                let layer = layer.with_ansi(io::stdout().is_terminal()).with_writer(lines);
                registry.with(layer.with_filter(filter)).try_init()
            }
        };
        Ok(flush)
    }
}

/// Standard output without the standard library's buffer, which is written at each end of a line.
fn output() -> Box<dyn Write + Send> {
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(output) => Box::new(File::from(output)),
        Err(_) => Box::new(io::stdout()),
    }
}

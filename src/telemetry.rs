//! What operators see: logs, metrics and traces. Any part may use this module; of them it uses only the roots of TLS.

mod json;
mod metrics;
pub mod traces;
mod writer;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

pub use metrics::Metrics;
pub use traces::{CallSpan, TRACEPARENT, TRACESTATE, TraceContext, Traces};
pub use writer::Flush;

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

    /// Makes standard output the log of this process. Where there is a log already, that stays.
    ///
    /// What is returned writes the last lines when it is dropped.
    pub fn install(&self) -> Result<Flush, String> {
        let lines = LINES.get_or_init(Lines::default).clone();
        let flush = lines.write_to(output()).map_err(|error| format!("no thread for the log: {error}"))?;
        let filter = EnvFilter::new(&self.filter);
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines);
        // An error says that somebody else, such as a test, has set up a log before.
        let _ = match self.format {
            LogFormat::Json => builder.event_format(json::Json).try_init(),
            LogFormat::Text => builder.with_ansi(io::stdout().is_terminal()).try_init(),
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

//! What operators see: logs, metrics and traces. Any part may use this module; of them it uses only the roots of TLS.

mod json;
mod metrics;
pub mod traces;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

pub use metrics::Metrics;
pub use traces::{CallSpan, TRACEPARENT, TRACESTATE, TraceContext, Traces};

/// Lines that wait to be written: a second of many calls, and a few MiB at most while nobody reads.
const MAX_WAITING_LINES: usize = 16_384;

/// Counts the lines that nobody took in time. The log is the process's, so is this.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Log lines lost so far.
fn dropped_log_lines() -> usize {
    DROPPED.get().map_or(0, ErrorCounter::dropped_lines)
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
    /// Checks the filter; the error says what is wrong with it.
    pub fn new(filter: &str, format: LogFormat) -> Result<Self, String> {
        EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        Ok(Self { filter: filter.to_owned(), format })
    }

    /// Makes standard output the log of this process. Does nothing where there is a log already.
    ///
    /// Lines are written by a thread of their own: an output that nobody reads holds no call, it costs lines. What is
    /// returned writes the last ones when it is dropped.
    pub fn install(&self) -> Flush {
        let (writer, guard) =
            NonBlockingBuilder::default().buffered_lines_limit(MAX_WAITING_LINES).finish(output());
        // Where there is a log already, its counter stays.
        let _ = DROPPED.set(writer.error_counter());
        let filter = EnvFilter::new(&self.filter);
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
        // An error says that somebody else, such as a test, has set up a log before.
        let _ = match self.format {
            LogFormat::Json => builder.event_format(json::Json).try_init(),
            LogFormat::Text => builder.with_ansi(io::stdout().is_terminal()).try_init(),
        };
        Flush(Some(guard))
    }
}

/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_millis(1500);

/// Writes the last lines when it is dropped, if somebody reads them.
pub struct Flush(Option<WorkerGuard>);

impl Drop for Flush {
    fn drop(&mut self) {
        let Some(guard) = self.0.take() else { return };
        let (done, flushed) = mpsc::channel();
        // Where nobody reads, the writer's own guard complains on the same output, and that takes for ever.
        std::thread::spawn(move || {
            drop(guard);
            let _ = done.send(());
        });
        // Late or not, the process ends now.
        let _ = flushed.recv_timeout(LAST_LINES);
    }
}

/// Standard output, written whenever no more lines wait: the one of the standard library is written at each line, which is
/// a system call for every call.
fn output() -> Box<dyn Write + Send> {
    const BUFFER_BYTES: usize = 64 * 1024;

    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(output) => Box::new(BufWriter::with_capacity(BUFFER_BYTES, File::from(output))),
        Err(_) => Box::new(io::stdout()),
    }
}

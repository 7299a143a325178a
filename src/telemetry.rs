//! What operators see: logs and metrics. Any part may use this module; it uses none of them.

mod metrics;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

pub use metrics::Metrics;

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
        if std::io::stdout().is_terminal() { Self::Text } else { Self::Json }
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
    pub fn install(&self) -> impl Drop + use<> {
        let (writer, flush) = tracing_appender::non_blocking(std::io::stdout());
        let filter = EnvFilter::new(&self.filter);
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
        // An error says that somebody else, such as a test, has set up a log before.
        let _ = match self.format {
            LogFormat::Json => {
                builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
            }
            LogFormat::Text => builder.with_ansi(std::io::stdout().is_terminal()).try_init(),
        };
        flush
    }
}

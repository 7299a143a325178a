//! The filter of the log: the events that `--log` enables, and always the span of a call, from which log lines take the
//! call's IDs. The syntax is `EnvFilter`'s; `tests/gateway/logging.rs` shows that the IDs do not depend on it.

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Filter};

use super::spans;

/// An `EnvFilter` that does not apply to the span of a call.
pub(super) struct LogFilter {
    filter: EnvFilter,
    /// Whether a directive such as `[call{rpc.method=…}]=debug` depends on spans. Tracking them costs a lock and a look-up
    /// each time a span is entered or left.
    tracks_spans: bool,
}

impl LogFilter {
    pub(super) fn new(directives: &str) -> Self {
        Self { filter: EnvFilter::new(directives), tracks_spans: directives.contains('[') }
    }
}

impl<S: Subscriber> Filter<S> for LogFilter {
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        spans::is_call(metadata) || Filter::enabled(&self.filter, metadata, context)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if spans::is_call(metadata) {
            return Interest::always();
        }
        Filter::<S>::callsite_enabled(&self.filter, metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // The span of a call has this level.
        Filter::<S>::max_level_hint(&self.filter).map(|level| level.max(LevelFilter::INFO))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if self.tracks_spans {
            Filter::on_new_span(&self.filter, attributes, id, context);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if self.tracks_spans {
            Filter::on_record(&self.filter, id, values, context);
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        if self.tracks_spans {
            Filter::on_enter(&self.filter, id, context);
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        if self.tracks_spans {
            Filter::on_exit(&self.filter, id, context);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if self.tracks_spans {
            Filter::on_close(&self.filter, id, context);
        }
    }
}

//! Log lines for human readers: time, level, target, message and fields, and the IDs of the call that the line was written in.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{DefaultVisitor, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

use super::spans::CallIds;

/// The format of the lines.
pub(super) struct Text;

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        SystemTime.format_time(&mut writer)?;
        write_level(&mut writer, event.metadata().level())?;
        write!(writer, "{}: ", event.metadata().target())?;
        let mut fields = DefaultVisitor::new(writer.by_ref(), true);
        event.record(&mut fields);
        fields.finish()?;
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let Some(ids) = extensions.get::<CallIds>() else { continue };
            write!(writer, " request_id={}", ids.request_id.to_str().unwrap_or_default())?;
            if let Some(trace_id) = &ids.trace_id {
                write!(writer, " trace_id={trace_id}")?;
            }
        }
        writeln!(writer)
    }
}

/// In the usual colours, on a terminal.
fn write_level(writer: &mut Writer<'_>, level: &Level) -> fmt::Result {
    if !writer.has_ansi_escapes() {
        return write!(writer, " {level:>5} ");
    }
    let colour = match *level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG => 34,
        Level::TRACE => 35,
    };
    write!(writer, " \u{1b}[{colour}m{level:>5}\u{1b}[0m ")
}

/// Formats no field of a span: a line shows the IDs of its call and nothing else of it.
pub(super) struct NoFields;

impl<'writer> FormatFields<'writer> for NoFields {
    fn format_fields<R: RecordFields>(&self, _: Writer<'writer>, _: R) -> fmt::Result {
        Ok(())
    }
}

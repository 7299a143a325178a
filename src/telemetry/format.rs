//! Log lines: one flat JSON object per line, or text for human readers. Each line within a call also has the call's
//! `request_id` and `trace_id`.
//!
//! `tracing_subscriber`'s own JSON puts the fields of spans under `span` and copies all of them; it took an eighth of the
//! instructions of a call. Times are in UTC, in the form of [RFC 3339].
//!
//! [RFC 3339]: https://www.rfc-editor.org/rfc/rfc3339

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{DefaultVisitor, FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::spans::with_call_ids;

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One flat JSON object per line: `timestamp`, `level`, the event's fields in their order, the IDs of the call, `target`.
    Json,
    /// For human readers: time, level, target, message, fields, the IDs of the call.
    Text,
}

impl LogFormat {
    /// Text on a terminal, otherwise JSON.
    pub fn for_stdout() -> Self {
        if io::stdout().is_terminal() { Self::Text } else { Self::Json }
    }
}

impl<S, N> FormatEvent<S, N> for LogFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        match self {
            Self::Json => write_json(writer, event),
            Self::Text => write_text(writer, event),
        }
    }
}

fn write_json(mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
    /// Longer than nearly every line.
    const LINE_BYTES: usize = 768;

    let mut line = JsonLine(Vec::with_capacity(LINE_BYTES));
    line.add_text("timestamp", &timestamp(SystemTime::now()));
    line.add_text("level", event.metadata().level().as_str());
    event.record(&mut line);
    for_each_call_id(event, |key, id| line.add_text(key, id));
    line.add_text("target", event.metadata().target());
    line.0.extend_from_slice(b"}\n");
    writer.write_str(str::from_utf8(&line.0).map_err(|_| fmt::Error)?)
}

/// A JSON object without its closing brace.
struct JsonLine(Vec<u8>);

impl JsonLine {
    /// Adds a text. Most have nothing to escape, and are copied.
    fn add_text(&mut self, key: &str, text: &str) {
        let is_escaped = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
        // Without an early exit, the compiler can vectorize the loop.
        if text.bytes().fold(false, |any, byte| any | is_escaped(byte)) {
            return self.add(key, text);
        }
        self.add_key(key);
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
    }

    /// The names of fields are written as they are, because escaping them would cost 1 % of a call.
    fn add_key(&mut self, key: &str) {
        self.0.extend_from_slice(if self.0.is_empty() { b"{\"" } else { b",\"" });
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// Adds a member.
    fn add(&mut self, key: &str, value: &(impl Serialize + ?Sized)) {
        self.add_key(key);
        let start = self.0.len();
        // Only the `Debug` of a value can fail.
        if serde_json::to_writer(&mut self.0, value).is_err() {
            self.0.truncate(start);
            self.0.extend_from_slice(b"null");
        }
    }
}

impl Visit for JsonLine {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), &format_args!("{value:?}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), &value);
    }

    /// JSON has no infinity; `serde_json` writes null.
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), &value);
    }
}

fn write_text(mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
    writer.write_str(&timestamp(SystemTime::now()))?;
    write_level(&mut writer, event.metadata().level())?;
    write!(writer, "{}: ", event.metadata().target())?;
    let mut fields = DefaultVisitor::new(writer.by_ref(), true);
    event.record(&mut fields);
    fields.finish()?;
    let mut result = Ok(());
    for_each_call_id(event, |key, id| result = result.and_then(|()| write!(writer, " {key}={id}")));
    result?;
    writeln!(writer)
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

/// Passes the key and value of each ID of the call that the event belongs to. Outside of a call there are none; the access log
/// line has them as fields.
fn for_each_call_id(event: &Event<'_>, mut write: impl FnMut(&str, &str)) {
    const REQUEST_ID: &str = "request_id";

    with_call_ids(|ids| {
        if event.metadata().fields().field(REQUEST_ID).is_some() {
            return;
        }
        if let Ok(request_id) = ids.request_id.to_str() {
            write(REQUEST_ID, request_id);
        }
        if let Some(trace_id) = ids.trace_id {
            write("trace_id", &trace_id.to_string());
        }
    });
}

/// RFC 3339 in UTC, cut to microseconds. A clock that is set before the year -9999 or after 9999 counts as 1970.
fn timestamp(time: SystemTime) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

    PRINTER.timestamp_to_string(&Timestamp::try_from(time).unwrap_or_default())
}

/// Formats no field of a span: lines have the IDs of the call, and no other field of its span.
pub(super) struct NoFields;

impl<'writer> FormatFields<'writer> for NoFields {
    fn format_fields<R: RecordFields>(&self, _: Writer<'writer>, _: R) -> fmt::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The line that `log` writes, parsed.
    fn line(log: impl FnOnce()) -> serde_json::Map<String, serde_json::Value> {
        let lines = Log::default();
        let to = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().event_format(LogFormat::Json).with_writer(move || to.clone()).finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.find('\n'), Some(text.len() - 1), "one line: {text}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn json_line_round_trips_every_value() {
        let every: String =
            (0..=0x2ff).filter_map(char::from_u32).chain("\u{2028}\u{1f600}".chars()).collect();
        let line = line(|| {
            tracing::warn!(
                text = every,
                shown = %every,
                debug = ?"a\"b",
                a.number = u64::MAX,
                negative = i64::MIN,
                time = 12.345,
                short = 0.07,
                fine = 0.123_456,
                negative_time = -1.5,
                huge = 1e300,
                whole = 10_000.0,
                endless = f64::INFINITY,
                yes = true,
                none = None::<&str>,
                "said \"so\"\n"
            );
        });
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["message"], "said \"so\"\n");
        assert_eq!(line["text"], every.as_str());
        assert_eq!(line["shown"], every.as_str());
        assert_eq!(line["debug"], "\"a\\\"b\"");
        assert_eq!(line["a.number"], u64::MAX);
        assert_eq!(line["negative"], i64::MIN);
        assert_eq!(line["time"], 12.345);
        assert_eq!(line["short"], 0.07);
        assert_eq!(line["fine"], 0.123_456);
        assert_eq!(line["negative_time"], -1.5);
        assert_eq!(line["huge"], 1e300);
        assert_eq!(line["whole"], 10_000.0);
        assert_eq!(line["endless"], serde_json::Value::Null);
        assert_eq!(line["yes"], true);
        assert!(!line.contains_key("none"));
        assert_eq!(line["target"], module_path!());
    }

    #[test]
    fn timestamp_is_rfc_3339_to_the_microsecond() {
        for (seconds, micros, text) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, 999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000001Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000000Z"),
            (1_503_391_396, 699_374, "2017-08-22T08:43:16.699374Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59.000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
            (1_735_689_599, 0, "2024-12-31T23:59:59.000000Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros);
            assert_eq!(timestamp(time), text);
        }
    }
}

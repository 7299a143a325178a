//! Log lines as flat JSON: `timestamp`, `level`, the event's own fields in their order, `request_id` and `trace_id` of the
//! call that the line was written in, `target`.
//!
//! There is a line for every call, and `tracing_subscriber`'s own JSON, which goes through serde for each field, took an
//! eighth of the instructions of a call.

use std::fmt::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::spans::CallIds;

/// The form of the lines.
pub(super) struct Json;

/// Longer than nearly every line.
const USUAL_BYTES: usize = 768;

impl<S, N> FormatEvent<S, N> for Json
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
        let mut line = Line(String::with_capacity(USUAL_BYTES));
        line.0.push_str("{\"timestamp\":\"");
        line.push_time(SystemTime::now());
        line.0.push_str("\",\"level\":\"");
        line.0.push_str(event.metadata().level().as_str());
        line.0.push('"');
        event.record(&mut line);
        for span in context.event_scope().into_iter().flatten() {
            if let Some(ids) = span.extensions().get() {
                line.push_call_ids(ids);
            }
        }
        line.key("target");
        line.push_quoted(event.metadata().target());
        line.0.push_str("}\n");
        writer.write_str(&line.0)
    }
}

/// A line as far as it is written.
struct Line(String);

impl Line {
    fn key(&mut self, name: &str) {
        self.0.push_str(",\"");
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    fn push_call_ids(&mut self, ids: &CallIds) {
        if let Ok(request_id) = ids.request_id.to_str() {
            self.key("request_id");
            self.push_quoted(request_id);
        }
        if let Some(trace_id) = &ids.trace_id {
            self.key("trace_id");
            self.push_quoted(trace_id);
        }
    }

    fn push_quoted(&mut self, text: &str) {
        self.0.push('"');
        self.push_escaped(text);
        self.0.push('"');
    }

    fn push_escaped(&mut self, text: &str) {
        let is_plain = |byte: u8| (byte >= b' ') & (byte != b'"') & (byte != b'\\');
        // No early end, so that many bytes are looked at at a time.
        if text.bytes().fold(true, |so_far, byte| so_far & is_plain(byte)) {
            return self.0.push_str(text);
        }
        let mut copied = 0;
        for (at, byte) in text.bytes().enumerate() {
            if is_plain(byte) {
                continue;
            }
            self.0.push_str(text.get(copied..at).unwrap_or_default());
            copied = at + 1;
            // A string takes what is written to it.
            let _ = match byte {
                b'"' => self.0.write_str("\\\""),
                b'\\' => self.0.write_str("\\\\"),
                b'\n' => self.0.write_str("\\n"),
                b'\r' => self.0.write_str("\\r"),
                b'\t' => self.0.write_str("\\t"),
                _ => write!(self.0, "\\u{byte:04x}"),
            };
        }
        self.0.push_str(text.get(copied..).unwrap_or_default());
    }

    /// RFC 3339 in UTC, to the microsecond.
    fn push_time(&mut self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        for (number, count, then) in [
            (year, 4, '-'),
            (month, 2, '-'),
            (day, 2, 'T'),
            (seconds / 3600, 2, ':'),
            (seconds / 60 % 60, 2, ':'),
            (seconds % 60, 2, '.'),
            (since.subsec_micros().into(), 6, 'Z'),
        ] {
            self.push_digits(number, count);
            self.0.push(then);
        }
    }

    fn push_number(&mut self, number: u64) {
        self.push_digits(number, number.checked_ilog10().unwrap_or(0) + 1);
    }

    /// The last so many digits.
    fn push_digits(&mut self, number: u64, count: u32) {
        for place in (0..count).rev() {
            let digit = u32::try_from(number / 10_u64.pow(place) % 10).unwrap_or_default();
            self.0.push(char::from_digit(digit, 10).unwrap_or('0'));
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.key(field.name());
        self.push_quoted(value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.key(field.name());
        self.0.push('"');
        // What cannot be written in words is a line without them.
        let _ = write!(Escaping(self), "{value:?}");
        self.0.push('"');
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.key(field.name());
        self.0.push_str(if value { "true" } else { "false" });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.key(field.name());
        let _ = write!(self.0, "{value}");
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.key(field.name());
        self.push_number(value);
    }

    /// JSON has no infinity. The times of every call have three decimals at most and need no search for the shortest form.
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.key(field.name());
        if let Some(thousandths) = thousandths(value) {
            self.push_number(thousandths / 1000);
            self.0.push('.');
            return self.push_digits(thousandths % 1000, 3);
        }
        let _ = if value.is_finite() { write!(self.0, "{value:?}") } else { self.0.write_str("null") };
    }
}

/// Escapes what is written.
struct Escaping<'a>(&'a mut Line);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.push_escaped(text);
        Ok(())
    }
}

/// A number that is not negative and has three decimals at most, in thousandths.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked before")]
fn thousandths(value: f64) -> Option<u64> {
    /// Beyond it not every thousandth has a number of its own.
    const MOST: f64 = (1_u64 << 40) as f64;

    let rounded = (value * 1000.0).round();
    ((0.0..MOST).contains(&rounded) && rounded / 1000.0 == value).then_some(rounded as u64)
}

/// Year, month and day of a day since 1970, by the Gregorian calendar, whose eras of 400 years have 146,097 days. A year
/// begins with March here, so that the day that not every year has is its last one.
fn date(days: u64) -> (u64, u64, u64) {
    // From 0000-03-01 on.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let year = 400 * era + year + u64::from(month >= 10);
    (year, if month < 10 { month + 3 } else { month - 9 }, day - (153 * month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

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

    /// The line of what `log` logs, read by a JSON parser.
    fn line(log: impl FnOnce()) -> serde_json::Map<String, serde_json::Value> {
        let lines = Log::default();
        let to = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().event_format(Json).with_writer(move || to.clone()).finish();
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.find('\n'), Some(text.len() - 1), "one line: {text}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn whatever_a_value_holds_the_line_is_json_and_gives_it_back() {
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
    fn a_time_is_rfc_3339() {
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
            let mut line = Line(String::new());
            line.push_time(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros));
            assert_eq!(line.0, text);
        }
    }
}

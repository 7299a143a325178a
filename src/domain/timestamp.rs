//! The upstream's times: `2017-08-08T04:03:27.000000`. A time without a zone is UTC; `Z` or an offset is honoured. Any number of
//! fractional digits is accepted, and truncated to microseconds.
//!
//! jiff does the calendar. Its parser accepts more than RFC 3339's `date-time` (a date alone, a blank for `T`, `+07`, second
//! 60), so the form is checked here, and the numbers are read. Its `Timestamp` ends a day before the year 10000, so its civil
//! types are used.

use std::borrow::Cow;
use std::ops::Range;
use std::str::FromStr;

use jiff::civil::{DateTime, Time, datetime};
use serde::de::{Deserialize, Deserializer, Error as _};

/// An instant in UTC, to the microsecond, within the years 1 to 9999 (the range of `google.protobuf.Timestamp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    pub seconds: i64,
    /// Nanoseconds, 0 to 999,999,000, counted forward from `seconds`.
    pub nanos: i32,
}

/// A `0` matches any digit.
const DATE_TIME_FORM: &str = "0000-00-00T00:00:00";
const OFFSET_FORM: &str = "00:00";
/// The fractional digits that are kept.
const MICROSECOND_DIGITS: usize = 6;

const YEAR_1: DateTime = datetime(1, 1, 1, 0, 0, 0, 0);
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, in seconds since 1970.
const MIN_SECONDS: i64 = -62_135_596_800;
const MAX_SECONDS: i64 = 253_402_300_799;

impl Timestamp {
    /// Parses `YYYY-MM-DDThh:mm:ss[.f…][Z|±hh:mm]`. Returns `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let (date_time, rest) = text.split_at_checked(DATE_TIME_FORM.len())?;
        if !has_form(date_time, DATE_TIME_FORM) {
            return None;
        }
        let (fraction, zone) = split_fraction(rest)?;
        let local = DateTime::new(
            number(date_time, 0..4)?,
            number(date_time, 5..7)?,
            number(date_time, 8..10)?,
            number(date_time, 11..13)?,
            number(date_time, 14..16)?,
            number(date_time, 17..19)?,
            nanoseconds(fraction)?,
        );
        let local = local.ok()?;
        if local < YEAR_1 {
            return None;
        }
        let seconds = MIN_SECONDS + local.duration_since(YEAR_1).as_secs() - offset_seconds(zone)?;
        let is_in_range = (MIN_SECONDS..=MAX_SECONDS).contains(&seconds);
        is_in_range.then_some(Self { seconds, nanos: local.subsec_nanosecond() })
    }
}

/// Reads a JSON string as a time; null and `""` are unset. For `#[serde(deserialize_with)]`.
pub(super) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    /// Borrows the text of the body unless it holds escapes.
    #[derive(serde::Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    match Option::<Text<'_>>::deserialize(deserializer)? {
        Some(Text(text)) if !text.is_empty() => {
            Timestamp::parse(&text).map(Some).ok_or_else(|| D::Error::custom("invalid time"))
        }
        Some(_) | None => Ok(None),
    }
}

/// Whether `text` has a digit at each `0` of `form`, and the same character elsewhere.
fn has_form(text: &str, form: &str) -> bool {
    let is_match = |(byte, expected): (u8, u8)| match expected {
        b'0' => byte.is_ascii_digit(),
        _ => byte == expected,
    };
    text.len() == form.len() && text.bytes().zip(form.bytes()).all(is_match)
}

/// The number that the digits in this part of `text` are.
fn number<T: FromStr>(text: &str, part: Range<usize>) -> Option<T> {
    text.get(part)?.parse().ok()
}

/// Splits into the digits of a fraction (none, or `.` with at least one) and the zone.
fn split_fraction(text: &str) -> Option<(&str, &str)> {
    let Some(after_point) = text.strip_prefix('.') else { return Some(("", text)) };
    let digits = after_point.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 { None } else { after_point.split_at_checked(digits) }
}

/// The nanoseconds of a fraction with these digits, of which [`MICROSECOND_DIGITS`] count.
fn nanoseconds(digits: &str) -> Option<i32> {
    let kept = digits.len().min(MICROSECOND_DIGITS);
    let value: i32 = if kept == 0 { 0 } else { number(digits, 0..kept)? };
    Some(value * 10_i32.pow(9 - u32::try_from(kept).ok()?))
}

/// The offset of a zone from UTC, in seconds east.
fn offset_seconds(zone: &str) -> Option<i64> {
    if matches!(zone, "" | "Z") {
        return Some(0);
    }
    let (sign, offset) = zone.split_at_checked(1)?;
    if !has_form(offset, OFFSET_FORM) {
        return None;
    }
    // Up to 23:59, as RFC 3339 has it.
    let seconds = offset.parse::<Time>().ok()?.duration_since(Time::midnight()).as_secs();
    match sign {
        "+" => Some(seconds),
        "-" => Some(-seconds),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds as `date -u -d … +%s` gives them.
    #[test]
    fn parse_accepts_valid_times() {
        for (text, seconds, nanos) in [
            ("2017-08-08T04:03:27.000000", 1_502_165_007, 0),
            ("2017-08-16T07:24:24.786297", 1_502_868_264, 786_297_000),
            ("2017-08-08T04:03:27", 1_502_165_007, 0),
            ("2017-08-08T04:03:27Z", 1_502_165_007, 0),
            ("2017-08-08T12:03:27.5+08:00", 1_502_165_007, 500_000_000),
            ("2017-08-07T20:33:27.123-07:30", 1_502_165_007, 123_000_000),
            ("2017-08-08T04:03:27.9999999999999999", 1_502_165_007, 999_999_000),
            ("2017-08-08T04:03:27.0000009", 1_502_165_007, 0),
            ("1970-01-01T00:00:00", 0, 0),
            ("1969-12-31T23:59:59.25", -1, 250_000_000),
            ("2016-02-29T00:00:00", 1_456_704_000, 0),
            ("2000-02-29T00:00:00", 951_782_400, 0),
            ("0001-01-01T00:00:00", -62_135_596_800, 0),
            ("9999-12-31T23:59:59.999999", 253_402_300_799, 999_999_000),
        ] {
            assert_eq!(Timestamp::parse(text), Some(Timestamp { seconds, nanos }), "{text}");
        }
    }

    #[test]
    fn parse_rejects_invalid_times() {
        for text in [
            "",
            " ",
            "yesterday",
            "2017-08-08",
            "2017-08-08 04:03:27",
            "2017-08-08T04:03",
            "2017-8-8T4:3:27",
            "2017-13-01T00:00:00",
            "2017-00-01T00:00:00",
            "2017-02-29T00:00:00",
            "1900-02-29T00:00:00",
            "2017-04-31T00:00:00",
            "2017-08-00T00:00:00",
            "2017-08-08T24:00:00",
            "2017-08-08T04:60:00",
            "2017-08-08T04:03:60",
            "2017-08-08T04:03:27.",
            "2017-08-08T04:03:27.Z",
            "2017-08-08T04:03:27+0800",
            "2017-08-08T04:03:27+24:00",
            "2017-08-08T04:03:27+08:60",
            "2017-08-08T04:03:27ZZ",
            "2017-08-08T04:03:27Z ",
            "0000-01-01T00:00:00",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "+017-08-08T04:03:27",
            "２017-08-08T04:03:27",
            "2017-08-08T04:03:27.1２",
            "1502165007",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }
}

//! The upstream's times: `2017-08-08T04:03:27.000000`, with no zone, which means UTC. An offset or `Z` is honoured,
//! any count of fraction digits is read, and what is finer than a microsecond is cut off.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};

/// A moment in UTC, to the microsecond, within the years 1 to 9999 (the range of `google.protobuf.Timestamp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    pub seconds: i64,
    /// Nanoseconds, 0 to 999,999,000, counted forward from `seconds`.
    pub nanos: i32,
}

const DAY: i64 = 86_400;
/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

impl Timestamp {
    /// Reads `YYYY-MM-DDThh:mm:ss[.f…][Z|±hh:mm]`. `None` is what cannot be read.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.as_bytes();
        let year = number(&mut rest, 4)?;
        let month = literal(&mut rest, b'-').and_then(|()| number(&mut rest, 2))?;
        let day = literal(&mut rest, b'-').and_then(|()| number(&mut rest, 2))?;
        let hour = literal(&mut rest, b'T').and_then(|()| number(&mut rest, 2))?;
        let minute = literal(&mut rest, b':').and_then(|()| number(&mut rest, 2))?;
        let second = literal(&mut rest, b':').and_then(|()| number(&mut rest, 2))?;
        let micros = fraction(&mut rest)?;
        let offset = offset(rest)?;
        let in_calendar = (1..=12).contains(&month) && day >= 1 && day <= days_in_month(year, month);
        if !in_calendar || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let seconds = days_since_1970(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
        RANGE.contains(&seconds).then_some(Self { seconds, nanos: micros * 1000 })
    }
}

/// Reads a JSON string as a time; null and `""` are unset. For `#[serde(deserialize_with)]`.
pub(super) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    deserializer.deserialize_any(OptionalTimestamp)
}

struct OptionalTimestamp;

impl Visitor<'_> for OptionalTimestamp {
    type Value = Option<Timestamp>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        const FORM: &str = "a time such as 2017-08-08T04:03:27.000000";
        if text.is_empty() {
            return Ok(None);
        }
        let time = Timestamp::parse(text);
        time.map(Some).ok_or_else(|| E::invalid_value(de::Unexpected::Other("text"), &FORM))
    }
}

fn literal(rest: &mut &[u8], expected: u8) -> Option<()> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    (*first == expected).then_some(())
}

/// Exactly `digits` digits.
fn number(rest: &mut &[u8], digits: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(digits)?;
    *rest = tail;
    head.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + i64::from(b - b'0')))
}

/// `.` and one digit or more, as microseconds; nothing is zero.
fn fraction(rest: &mut &[u8]) -> Option<i32> {
    let Some(tail) = rest.strip_prefix(b".") else { return Some(0) };
    let digits = tail.iter().take_while(|b| b.is_ascii_digit()).count();
    let (head, tail) = tail.split_at_checked(digits)?;
    *rest = tail;
    let padded = head.iter().copied().chain(std::iter::repeat(b'0')).take(6);
    (digits > 0).then(|| padded.fold(0, |sum, b| sum * 10 + i32::from(b - b'0')))
}

/// What is left is the zone: nothing or `Z` (UTC), or `±hh:mm`. In seconds east of UTC.
fn offset(mut rest: &[u8]) -> Option<i64> {
    let sign = match rest.split_first() {
        None | Some((b'Z', [])) => return Some(0),
        Some((b'+', tail)) => {
            rest = tail;
            1
        }
        Some((b'-', tail)) => {
            rest = tail;
            -1
        }
        Some(_) => return None,
    };
    let hours = number(&mut rest, 2)?;
    let minutes = literal(&mut rest, b':').and_then(|()| number(&mut rest, 2))?;
    (rest.is_empty() && hours <= 23 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the proleptic Gregorian calendar: those of whole years, of whole months, and of this month.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let years = before * 365 + before / 4 - before / 100 + before / 400;
    let months: i64 = (1..month).map(|month| days_in_month(year, month)).sum();
    const DAYS_BEFORE_1970: i64 = 719_162;
    years + months + day - 1 - DAYS_BEFORE_1970
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds as `date -u -d … +%s` gives them.
    #[test]
    fn times_are_read() {
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
    fn what_is_no_time_is_refused() {
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

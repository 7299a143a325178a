//! How long a caller waits: the `grpc-timeout` header.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

/// The header, as gRPC over HTTP/2 names it.
pub(super) const HEADER: &str = "grpc-timeout";
const NAME: HeaderName = HeaderName::from_static(HEADER);

/// The rule, in words for the caller.
pub(super) const RULE: &str = "must be 1 to 8 digits and a unit: H, M, S, m, u or n";

/// A `grpc-timeout` that breaks [`RULE`], or stands twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// How long a call may take, from its arrival on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Where the caller does not say.
    pub default: Duration,
    /// Whatever the caller says.
    pub max: Duration,
}

impl Limits {
    /// The time for a call that asks for `timeout`.
    pub fn clamp(&self, timeout: Option<Duration>) -> Duration {
        timeout.unwrap_or(self.default).min(self.max)
    }
}

/// Reads the timeout, if the caller sent one.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Malformed> {
    let mut values = headers.get_all(NAME).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => parse(value.as_bytes()).map(Some).ok_or(Malformed),
        (Some(_), Some(_)) => Err(Malformed),
    }
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |sum, b| sum * 10 + u64::from(b - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_nothing_else() {
        for (text, nanos) in [
            ("2H", 7_200_000_000_000),
            ("2M", 120_000_000_000),
            ("2S", 2_000_000_000),
            ("2m", 2_000_000),
            ("2u", 2_000),
            ("2n", 2),
            ("0S", 0),
            ("00000001n", 1),
            ("99999999H", 359_999_996_400_000_000_000),
        ] {
            assert_eq!(parse(text.as_bytes()).map(|d| d.as_nanos()), Some(nanos), "{text}");
        }
        for text in
            ["", "S", "1", "1s", "1h", "123456789S", "-1S", "+1S", "1.5S", " 1S", "1S ", "1 S", "0x1S", "１S"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_limits_hold_whatever_the_caller_says() {
        let limits = Limits { default: Duration::from_secs(15), max: Duration::from_secs(60) };
        assert_eq!(limits.clamp(None), Duration::from_secs(15));
        assert_eq!(limits.clamp(Some(Duration::from_secs(3))), Duration::from_secs(3));
        assert_eq!(limits.clamp(Some(Duration::from_secs(3600))), Duration::from_secs(60));
    }
}

//! Parsers of values: durations and sizes with a unit, counts, addresses, `true` and `false`. An error is the rest of a
//! sentence that begins with the name of the flag: "--listen must be …".

use std::net::SocketAddr;
use std::time::Duration;

/// `250ms`, `15s`, `30m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (count, unit) = number_and_unit(text);
    let count: Option<u32> = count.parse().ok();
    let read = count.and_then(|count| match unit {
        "ms" => Some(Duration::from_millis(count.into())),
        "s" => Some(Duration::from_secs(count.into())),
        "m" => Some(Duration::from_secs(u64::from(count) * 60)),
        "h" => Some(Duration::from_secs(u64::from(count) * 3600)),
        _ => None,
    });
    read.ok_or_else(|| "must be a whole number with a unit: ms, s, m or h, such as 250ms".into())
}

/// A duration that is not zero.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("must be more than zero".into()) } else { Ok(duration) }
}

/// A duration that a client may wait: more than zero, and not longer than any gateway would.
pub(super) fn deadline(text: &str) -> Result<Duration, String> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let duration = positive_duration(text)?;
    if duration > DAY { Err("must be at most 24h".into()) } else { Ok(duration) }
}

/// `512B`, `64KiB`, `1MiB`, `1GiB`; not zero.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let (count, unit) = number_and_unit(text);
    let count: Option<usize> = count.parse().ok();
    let scale = match unit {
        "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let read = count.zip(scale).and_then(|(count, scale): (usize, usize)| count.checked_mul(scale));
    read.filter(|read| *read > 0).ok_or_else(|| {
        "must be a whole number over zero with a unit: B, KiB, MiB or GiB, such as 1MiB".into()
    })
}

/// A whole number from 1 to `max`.
pub(super) fn count(max: u32) -> impl Fn(&str) -> Result<u32, String> {
    move |text| {
        let read = text.parse().ok().filter(|read| (1..=max).contains(read));
        read.filter(|_| is_digits(text)).ok_or_else(|| format!("must be a whole number from 1 to {max}"))
    }
}

/// `127.0.0.1:50051`, `[::]:50051`.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "must be an IP address and a port, such as 0.0.0.0:50051".into())
}

/// `true` or `false`; `1` or `0` where a template writes them.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("must be true or false".into()),
    }
}

fn number_and_unit(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at_checked(digits).unwrap_or_default()
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(bytes("1MiB"), Ok(1_048_576));
        assert_eq!(bytes("512B"), Ok(512));
        for bad in ["", "5", "s", "1.5s", "-1s", "1 s", "1d", "1S", "99999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "5", "0B", "1MB", "1M", "-1B", "99999999999999999999GiB", "18446744073709551615KiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert!(positive_duration("0ms").is_err());
        for bad in ["", "0", "+1", "1.0", "11", "x"] {
            assert!(count(10)(bad).is_err(), "{bad}");
        }
    }
}

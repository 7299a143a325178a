//! The values of `grpc-timeout`, one a line.
//!
//! - Never a panic.
//! - One value of 1 to 8 digits and a unit is that long; no value is none; everything else is malformed.
//! - Clamped, it is never over the limit.
#![no_main]

use std::time::Duration;

use backup_share_gateway::grpc::{Config, MalformedTimeout, grpc_timeout};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    let lines = input.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    for value in lines.filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append("grpc-timeout", value);
    }

    let values: Vec<&[u8]> = headers.get_all("grpc-timeout").iter().map(HeaderValue::as_bytes).collect();
    let expected = match values.as_slice() {
        [] => Ok(None),
        [value] => nanos(value).map(Some).ok_or(MalformedTimeout),
        _ => Err(MalformedTimeout),
    };
    let read = grpc_timeout(&headers);
    assert_eq!(read.map(|timeout| timeout.map(|timeout| timeout.as_nanos())), expected, "{values:?}");

    let config = Config {
        max_in_flight: 1,
        default_deadline: Duration::from_secs(15),
        max_deadline: Duration::from_secs(60),
        message_timeout: Duration::from_secs(10),
        reflection: false,
        uses_callers_token: true,
    };
    if let Ok(timeout) = read {
        let time = config.deadline(timeout);
        assert_eq!(time, timeout.unwrap_or(config.default_deadline).min(config.max_deadline));
    }
});

/// gRPC's own rule, in nanoseconds.
fn nanos(value: &[u8]) -> Option<u128> {
    let text = std::str::from_utf8(value).ok()?;
    let units = [
        ("H", 3_600_000_000_000),
        ("M", 60_000_000_000),
        ("S", 1_000_000_000),
        ("m", 1_000_000),
        ("u", 1_000),
        ("n", 1),
    ];
    let (digits, unit) = units.iter().find_map(|(name, nanos)| Some((text.strip_suffix(name)?, *nanos)))?;
    let fits = (1..=8).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_digit());
    fits.then(|| digits.parse::<u128>().ok().map(|count| count * unit))?
}

//! Reads the HTTP headers of a call: request ID, trace context, `grpc-timeout` and content type.
//!
//! Nothing here may read the metadata of a tonic request: tonic merges the trailers into them.
//!
//! Sources: gRPC over HTTP/2 (`Timeout`, `Content-Type`), W3C Trace Context, RFC 7541 (HPACK). `tests/gateway/` tests the
//! headers through a real server; the fuzz target `grpc_timeout` tests the timeout.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::domain::{REQUEST_ID_HEADER, TRACEPARENT, TRACESTATE, TraceContext};

/// The time that the caller waits.
pub(super) const GRPC_TIMEOUT: &str = "grpc-timeout";
const GRPC_TIMEOUT_NAME: HeaderName = HeaderName::from_static(GRPC_TIMEOUT);
/// The rule for [`GRPC_TIMEOUT`], as the caller reads it.
pub(super) const GRPC_TIMEOUT_RULE: &str = "must be 1 to 8 digits and a unit: H, M, S, m, u or n";

/// A `grpc-timeout` that violates its rule or occurs twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedTimeout;

/// The caller's request ID if it is valid, otherwise a generated one.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_valid = |value: &&HeaderValue| {
        (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match single_value(headers, REQUEST_ID_HEADER).filter(is_valid) {
        Some(value) => never_index(value.clone()),
        None => generate_request_id(),
    }
}

/// A random request ID of 32 hexadecimal digits.
pub(super) fn generate_request_id() -> HeaderValue {
    let id = HeaderValue::try_from(format!("{:032x}", fastrand::u128(..)));
    never_index(id.unwrap_or(HeaderValue::from_static("unknown")))
}

/// Marks a header that differs in every response as "never indexed" (RFC 7541, section 7.1.3). In the HPACK table of its
/// connection, it would be compared with each later one, and would evict the headers that do recur.
pub(super) fn never_index(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// The caller's W3C Trace Context if it is well-formed; otherwise the trace is not continued.
pub(super) fn trace_context(headers: &HeaderMap) -> TraceContext {
    /// What every implementation must at least propagate.
    const MAX_STATE_BYTES: usize = 512;

    let Some(parent) = single_value(headers, TRACEPARENT).filter(|value| is_traceparent(value.as_bytes()))
    else {
        return TraceContext::default();
    };
    let states: Vec<&[u8]> = headers.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes).collect();
    let state = states.join(&b","[..]);
    let is_printable = state.iter().all(|b| (b' '..=b'~').contains(b));
    let is_usable = !state.is_empty() && state.len() <= MAX_STATE_BYTES && is_printable;
    let state = if is_usable { HeaderValue::from_bytes(&state).ok() } else { None };
    TraceContext { parent: Some(parent.clone()), state }
}

/// `version-traceid-parentid-flags` in lower-case hexadecimal; a later version may have more fields.
fn is_traceparent(value: &[u8]) -> bool {
    let is_hex = |field: &[u8], length| {
        field.len() == length && field.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
    };
    let is_not_zero = |field: &[u8]| field.iter().any(|b| *b != b'0');
    let fields: Vec<&[u8]> = value.split(|b| *b == b'-').collect();
    let [version, trace_id, parent_id, flags, more @ ..] = fields.as_slice() else { return false };
    is_hex(version, 2)
        && *version != b"ff"
        && (*version != b"00" || more.is_empty())
        && is_hex(trace_id, 32)
        && is_not_zero(trace_id)
        && is_hex(parent_id, 16)
        && is_not_zero(parent_id)
        && is_hex(flags, 2)
}

/// The value of a header that occurs exactly once.
fn single_value(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { Some(first) }
}

/// Reads `grpc-timeout`; `None` if the caller sent none.
pub fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, MalformedTimeout> {
    let mut values = headers.get_all(GRPC_TIMEOUT_NAME).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(MalformedTimeout);
    }
    match parse_timeout(value.as_bytes()) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(MalformedTimeout),
    }
}

fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
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

/// Whether the content type is `application/grpc`, alone or followed by `+proto` or a parameter. `application/grpc-web` is
/// another protocol, and protobuf is the only message format.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"].iter().any(|known| media_type.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeout_has_1_to_8_digits_and_a_unit() {
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
            assert_eq!(parse_timeout(text.as_bytes()).map(|d| d.as_nanos()), Some(nanos), "{text}");
        }
        for text in
            ["", "S", "1", "1s", "1h", "123456789S", "-1S", "+1S", "1.5S", " 1S", "1S ", "1 S", "0x1S", "１S"]
        {
            assert_eq!(parse_timeout(text.as_bytes()), None, "{text}");
        }
    }
}

//! What is read from the HTTP headers of a call. Never from the metadata of a tonic request: tonic merges the trailers into
//! that.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::domain::{TRACEPARENT, TRACESTATE, TraceContext};

pub(super) use crate::domain::REQUEST_ID_HEADER as REQUEST_ID;

/// The caller's request ID if it can be kept, otherwise a generated one.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let kept = single_value(headers, REQUEST_ID).filter(|value| {
        (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    let mut id = kept.cloned().unwrap_or_else(generate_request_id);
    never_index(&mut id);
    id
}

fn generate_request_id() -> HeaderValue {
    let id = format!("{:032x}", fastrand::u128(..));
    HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// Keeps a header that differs in every response out of the connection's HPACK table ("never indexed", RFC 7541, section
/// 7.1.3). In the table, each of them would be compared with all earlier ones, and would evict the headers that do recur.
pub(super) fn never_index(value: &mut HeaderValue) {
    value.set_sensitive(true);
}

/// The W3C Trace Context if it is well-formed; otherwise the trace is not continued.
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
    let [version, trace, parent, flags, more @ ..] = fields.as_slice() else { return false };
    is_hex(version, 2)
        && *version != b"ff"
        && (*version != b"00" || more.is_empty())
        && is_hex(trace, 32)
        && is_not_zero(trace)
        && is_hex(parent, 16)
        && is_not_zero(parent)
        && is_hex(flags, 2)
}

/// The value of a header that occurs exactly once.
fn single_value(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { Some(first) }
}

/// `application/grpc`, alone or followed by `+proto` or a parameter. `application/grpc-web` is another protocol, and no
/// message format but protobuf is understood.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(essence.as_str(), "application/grpc" | "application/grpc+proto")
}

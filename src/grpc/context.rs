//! One call as its HTTP headers and its connection describe it.
//!
//! Nothing here may read the metadata of a tonic request: tonic merges the trailers into them.
//!
//! Sources: gRPC over HTTP/2 (`Timeout`), W3C Trace Context. `tests/gateway/` tests the headers through a real server; the fuzz
//! target `grpc_timeout` tests the timeout.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use super::Config;
use super::status::{RpcError, never_index};
use crate::domain::{
    CallContext, CallStats, REQUEST_ID_HEADER, TRACEPARENT, TRACESTATE, Token, TokenError, TraceContext,
};
use crate::server::Peer;

/// The time that the caller waits.
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The number of attempts that a gRPC client made before this one (gRFC A6); absent on the first.
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// One call, in the extensions of its request.
pub(super) struct Call {
    /// The method as OpenTelemetry names it, one of [`crate::proto::METHODS`].
    pub(super) method: &'static str,
    pub(super) context: CallContext,
    pub(super) peer: Peer,
    /// The index of the peer's name that counts: the one that a rule has matched. The first one until then, and without rules.
    caller: AtomicUsize,
    pub(super) is_timeout_malformed: bool,
    token_error: Option<TokenError>,
}

impl Call {
    /// Reads the headers. Errors in them are kept: they are reported in the order of the checks.
    pub(super) fn read(
        method: &'static str,
        headers: &HeaderMap,
        peer: Peer,
        arrival: Instant,
        config: &Config,
    ) -> Self {
        let timeout = grpc_timeout(headers);
        let mut context = CallContext {
            request_id: request_id(headers),
            token: None,
            trace: trace_context(headers),
            deadline: arrival + config.deadline(timeout.ok().flatten()),
            // The attempts of a client that retries and those of the gateway would multiply.
            may_retry: !headers.contains_key(PREVIOUS_ATTEMPTS),
            stats: CallStats::default(),
        };
        let mut token_error = None;
        if config.uses_callers_token {
            match Token::from_headers(headers) {
                Ok(token) => context.token = Some(token),
                Err(error) => token_error = Some(error),
            }
        }
        let caller = AtomicUsize::new(0);
        Self { method, context, peer, caller, is_timeout_malformed: timeout.is_err(), token_error }
    }

    /// The caller is the name that a rule has matched; without one it is not allowed.
    pub(super) fn identify(&self, matched: Option<usize>) -> Result<(), RpcError> {
        let index = matched.ok_or(RpcError::CallerNotAllowed)?;
        self.caller.store(index, Ordering::Relaxed);
        Ok(())
    }

    /// The caller's name, for the log. `None` if its certificate has none, or if there is none.
    pub(super) fn caller(&self) -> Option<&str> {
        self.peer.names.get(self.caller.load(Ordering::Relaxed)).map(String::as_str)
    }

    /// Refuses a call whose token is missing or invalid.
    pub(super) fn check_token(&self) -> Result<(), RpcError> {
        match self.token_error {
            Some(error) => Err(RpcError::Token(error)),
            None => Ok(()),
        }
    }
}

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

/// The caller's W3C Trace Context if it is well-formed; otherwise the trace is not continued.
fn trace_context(headers: &HeaderMap) -> TraceContext {
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

/// A `grpc-timeout` that is not 1 to 8 digits and a unit, or that occurs twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedTimeout;

/// Reads `grpc-timeout`; `None` if the caller sent none.
pub fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, MalformedTimeout> {
    if !headers.contains_key(GRPC_TIMEOUT) {
        return Ok(None);
    }
    let timeout = single_value(headers, GRPC_TIMEOUT).and_then(|value| parse_timeout(value.as_bytes()));
    timeout.map(Some).ok_or(MalformedTimeout)
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

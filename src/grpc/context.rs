//! One call as its HTTP headers and its connection describe it.
//!
//! Nothing here may read the metadata of a tonic request: tonic merges the trailers into them.
//!
//! Sources: gRPC over HTTP/2 (`Timeout`), W3C Trace Context. `tests/gateway/` tests the headers through a real server; the fuzz
//! target `grpc_timeout` tests the timeout.

use std::sync::Arc;
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
    pub(super) peer: Arc<Peer>,
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
        peer: Arc<Peer>,
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
    let mut id = [b'0'; 32];
    // An error would mean that the lengths do not match.
    let _ = hex::encode_to_slice(fastrand::u128(..).to_be_bytes(), &mut id);
    never_index(HeaderValue::from_bytes(&id).unwrap_or(HeaderValue::from_static("unknown")))
}

/// The caller's W3C Trace Context if it is well-formed; otherwise the trace is not continued.
fn trace_context(headers: &HeaderMap) -> TraceContext {
    let Some(parent) = single_value(headers, TRACEPARENT).and_then(traceparent) else {
        return TraceContext::default();
    };
    let states: Vec<&[u8]> = headers.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes).collect();
    TraceContext { parent: Some(parent), state: tracestate(&states.join(&b","[..])) }
}

/// `version-traceid-parentid-flags` in lower-case hexadecimal. Of a later version, only what version 00 defines is kept: the
/// meaning of its other flags, and of what follows them, is unknown.
fn traceparent(value: &HeaderValue) -> Option<HeaderValue> {
    const LENGTH: usize = 55;
    const SAMPLED: u8 = 1;

    let (known, more) = value.to_str().ok()?.split_at_checked(LENGTH)?;
    let fields: Vec<&str> = known.split('-').collect();
    let [version, trace_id, parent_id, flags] = fields.as_slice() else { return None };
    let is_hex = |field: &str, length: usize| {
        field.len() == length && field.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let is_not_zero = |field: &str| field.bytes().any(|b| b != b'0');
    let is_valid = is_hex(version, 2)
        && *version != "ff"
        && is_hex(trace_id, 32)
        && is_not_zero(trace_id)
        && is_hex(parent_id, 16)
        && is_not_zero(parent_id)
        && is_hex(flags, 2);
    match *version {
        _ if !is_valid => None,
        "00" => more.is_empty().then(|| value.clone()),
        _ if more.is_empty() || more.starts_with('-') => {
            let sampled = u8::from_str_radix(flags, 16).ok()? & SAMPLED;
            HeaderValue::try_from(format!("00-{trace_id}-{parent_id}-{sampled:02x}")).ok()
        }
        _ => None,
    }
}

/// A list of at most 32 members `key=value`, of which some may be empty. What is too long to be sent on whole loses members as
/// section 3.3.1.5 of the specification says: long ones first, then the last.
fn tracestate(combined: &[u8]) -> Option<HeaderValue> {
    /// What every implementation must at least propagate.
    const MAX_BYTES: usize = 512;
    const MAX_MEMBERS: usize = 32;
    const LONG_MEMBER: usize = 128;

    let members =
        std::str::from_utf8(combined).ok()?.split(',').map(|member| member.trim_matches([' ', '\t']));
    let mut members: Vec<&str> = members.filter(|member| !member.is_empty()).collect();
    let is_member = |member: &&str| {
        member.split_once('=').is_some_and(|(key, value)| is_state_key(key) && is_state_value(value))
    };
    if members.is_empty() || members.len() > MAX_MEMBERS || !members.iter().all(is_member) {
        return None;
    }
    while members.join(",").len() > MAX_BYTES {
        let last_long = members.iter().rposition(|member| member.len() > LONG_MEMBER);
        members.remove(last_long.unwrap_or(members.len() - 1));
    }
    HeaderValue::try_from(members.join(",")).ok().filter(|state| !state.is_empty())
}

/// `key`, or `tenant@system`.
fn is_state_key(key: &str) -> bool {
    let is_identifier = |text: &str, longest: usize| {
        let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/".contains(&b);
        let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        text.len() <= longest && starts_well && text.bytes().all(is_allowed)
    };
    match key.split_once('@') {
        Some((tenant, system)) => is_identifier(tenant, 241) && is_identifier(system, 14),
        None => is_identifier(key, 256),
    }
}

/// 1 to 256 printable ASCII characters without `,` and `=`.
fn is_state_value(value: &str) -> bool {
    (1..=256).contains(&value.len()) && value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')
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

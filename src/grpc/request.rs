//! What the caller sent, read from the HTTP headers and the one message, and checked before anything is asked.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Body;
use http_body_util::BodyExt;
use prost::Message;

use super::deadline;
use super::status::{Failure, Violation};
use crate::proto::GetBackupShareRequest;
use crate::telemetry::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::upstream::{ProjectId, ShareId};

/// The longest request message, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// The header of the request's ID, towards the gateway, the upstream and back.
pub(super) const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// The caller's ID of the request if it is one that can be kept, else a new one; marked as [`another_each_time`].
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let kept = only(headers, REQUEST_ID_HEADER).filter(|value| {
        (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    let made = || HeaderValue::from_str(&format!("{:032x}", fastrand::u128(..))).ok();
    let mut id = kept.cloned().or_else(made).unwrap_or_else(|| HeaderValue::from_static("unknown"));
    another_each_time(&mut id);
    id
}

/// Keeps a header that no other reply will repeat out of the connection's HPACK table, as RFC 7541 names it: "never
/// indexed". In the table each of them would be compared with all that came before, and push out what does come again.
pub(super) fn another_each_time(value: &mut HeaderValue) {
    value.set_sensitive(true);
}

/// The W3C trace context, if it is well-formed; a broken one is not continued.
pub(super) fn trace_context(headers: &HeaderMap) -> TraceContext {
    /// What an implementation must at least be able to carry on.
    const MAX_STATE_BYTES: usize = 512;

    let Some(parent) = only(headers, TRACEPARENT).filter(|value| is_traceparent(value.as_bytes())) else {
        return TraceContext::default();
    };
    let states: Vec<&[u8]> = headers.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes).collect();
    let state = states.join(&b","[..]);
    let printable = state.iter().all(|b| (b' '..=b'~').contains(b));
    let fits = !state.is_empty() && state.len() <= MAX_STATE_BYTES && printable;
    let state = fits.then(|| HeaderValue::from_bytes(&state).ok()).flatten();
    TraceContext { parent: Some(parent.clone()), state }
}

/// `version-traceid-parentid-flags` in lower-case hex; a later version may have more behind it.
fn is_traceparent(value: &[u8]) -> bool {
    let hex = |field: &[u8], length| {
        field.len() == length && field.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b))
    };
    let some = |field: &[u8]| field.iter().any(|b| *b != b'0');
    let fields: Vec<&[u8]> = value.split(|b| *b == b'-').collect();
    let [version, trace, parent, flags, more @ ..] = fields.as_slice() else { return false };
    hex(version, 2)
        && *version != b"ff"
        && (*version != b"00" || more.is_empty())
        && hex(trace, 32)
        && some(trace)
        && hex(parent, 16)
        && some(parent)
        && hex(flags, 2)
}

fn only(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Reads exactly one message. The trailers after it are never looked at.
pub(super) async fn message<B>(headers: &HeaderMap, body: B) -> Result<GetBackupShareRequest, Failure>
where
    B: Body<Data = Bytes>,
{
    if headers.get(ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Failure::UnsupportedEncoding);
    }
    let mut body = pin!(body);
    let mut received = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // It is the connection that failed: the caller is gone, and this call will be dropped any moment.
        let Ok(frame) = frame else { return std::future::pending().await };
        let Ok(data) = frame.into_data() else { continue };
        received.extend_from_slice(&data);
        match split(&received) {
            Some((_, length, _)) if length > MAX_MESSAGE_BYTES => return Err(Failure::RequestTooLarge),
            Some((_, length, rest)) if rest.len() > length => return Err(Failure::NotOneMessage),
            _ => {}
        }
    }
    if received.is_empty() {
        return Err(Failure::NotOneMessage);
    }
    let (compressed, length, message) = split(&received).ok_or(Failure::UnreadableMessage)?;
    if compressed != 0 || message.len() < length {
        return Err(Failure::UnreadableMessage);
    }
    GetBackupShareRequest::decode(message).map_err(|_| Failure::UnreadableMessage)
}

/// What stands before a message in gRPC's framing: whether it is compressed, and its length; and what follows.
fn split(received: &[u8]) -> Option<(u8, usize, &[u8])> {
    let ([compressed, length @ ..], rest) = received.split_first_chunk::<5>()?;
    Some((*compressed, usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX), rest))
}

/// A request that passed the check.
pub(super) struct Checked {
    pub(super) project_id: ProjectId,
    pub(super) id: ShareId,
}

/// Checks every field and the timeout, and tells all that is wrong at once.
pub(super) fn check(request: GetBackupShareRequest, timeout_is_malformed: bool) -> Result<Checked, Failure> {
    let project_id = ProjectId::parse(request.project_id);
    let id = ShareId::parse(request.id);
    match (project_id, id) {
        (Some(project_id), Some(id)) if !timeout_is_malformed => Ok(Checked { project_id, id }),
        (project_id, id) => Err(Failure::InvalidRequest(
            [
                (project_id.is_none(), Violation { field: "project_id", rule: ProjectId::RULE }),
                (id.is_none(), Violation { field: "id", rule: ShareId::RULE }),
                (timeout_is_malformed, Violation { field: deadline::HEADER, rule: deadline::RULE }),
            ]
            .into_iter()
            .filter_map(|(broken, violation)| broken.then_some(violation))
            .collect(),
        )),
    }
}

//! What the caller sent, read from the HTTP headers and the one message, and checked before anything is asked.

use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Body;
use tonic::codec::{Codec, Streaming};
use tonic_prost::ProstCodec;

use super::deadline;
use super::status::{Failure, Violation};
use crate::proto::{GetBackupShareRequest, GetBackupShareResponse};
use crate::telemetry::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::upstream::{ProjectId, ShareId};

/// The longest request message, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// The header of the request's ID, towards the gateway, the upstream and back.
pub(super) const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// The caller's ID of the request if it is one that can be kept, else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let kept = only(headers, REQUEST_ID_HEADER).filter(|value| {
        (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
    });
    let made = || HeaderValue::from_str(&format!("{:032x}", fastrand::u128(..))).ok();
    kept.cloned().or_else(made).unwrap_or_else(|| HeaderValue::from_static("unknown"))
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
    B: Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    if headers.get(ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Failure::UnsupportedEncoding);
    }
    let decoder = ProstCodec::<GetBackupShareResponse, GetBackupShareRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, Some(MAX_MESSAGE_BYTES));
    let request = next(&mut messages).await?.ok_or(Failure::NotOneMessage)?;
    match next(&mut messages).await? {
        None => Ok(request),
        Some(_) => Err(Failure::NotOneMessage),
    }
}

async fn next(
    messages: &mut Streaming<GetBackupShareRequest>,
) -> Result<Option<GetBackupShareRequest>, Failure> {
    match messages.message().await {
        Ok(message) => Ok(message),
        // Not tonic's word but the connection's: the caller is gone, and this call will be dropped any moment.
        Err(status) if std::error::Error::source(&status).is_some() => std::future::pending().await,
        Err(status) if status.code() == tonic::Code::OutOfRange => Err(Failure::RequestTooLarge),
        Err(_) => Err(Failure::UnreadableMessage),
    }
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

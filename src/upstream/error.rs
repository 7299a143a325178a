//! Why a call to the upstream failed: the step that failed, who said so, and what of it may be told to the caller.
//!
//! [`Kind::of_status`] is total: every HTTP status has its kind, and a 404 has two, by whose voice it is in.

use std::time::Duration;

use super::error_body::{ErrorBody, Voice};
use crate::credentials::Proof;

/// What went wrong, by the step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 400, 413, 414, 422, 431, 494: the request was refused as it is.
    BadRequest,
    /// 401: the token was refused.
    Unauthenticated,
    /// 401 where the credential is the gateway's own: no caller can mend it.
    OwnCredentialRefused,
    /// 403: the token was taken and the right is missing.
    Forbidden,
    /// 404 in the Volume Backup Service's own voice: there is no such share.
    ShareNotFound,
    /// 404 in another voice: there is no such route.
    RouteNotFound,
    /// 405.
    MethodNotAllowed,
    /// 501.
    NotImplemented,
    /// 406.
    NotAcceptable,
    /// 407, or a proxy on the way that wants to know who asks.
    ProxyAuthenticationRequired,
    /// 408, 504, or no reply within the attempt's time.
    Timeout,
    /// 409.
    Conflict,
    /// 412.
    PreconditionFailed,
    /// 429.
    RateLimited,
    /// 500.
    Internal,
    /// 502.
    BadGateway,
    /// 503.
    Unavailable,
    /// Any other 4xx.
    ClientError,
    /// Any other 5xx.
    ServerError,
    /// A redirect, a success that is not 200, 101, 600 and over.
    UnexpectedStatus,
    /// A 200 that is not the share asked for.
    Malformed,
    /// A 200 longer than the limit.
    TooLarge,
    /// No connection: name, TCP or TLS.
    Unreachable,
    /// The connection broke, or spoke something else than HTTP, before a whole reply had come.
    ConnectionLost,
    /// The caller's deadline passed.
    DeadlineExceeded,
    /// The identity service refused the gateway's own account.
    IdentityRefused,
    /// The identity service cannot be asked, or gave no usable answer.
    IdentityUnreachable,
}

impl Kind {
    /// The kind of a reply that is not 200; `voice` counts for a 404 only.
    pub fn of_status(status: u16, voice: Voice) -> Self {
        match (status, voice) {
            (400 | 413 | 414 | 422 | 431 | 494, _) => Self::BadRequest,
            (401, _) => Self::Unauthenticated,
            (403, _) => Self::Forbidden,
            (404, Voice::Vbs) => Self::ShareNotFound,
            (404, Voice::Other) => Self::RouteNotFound,
            (405, _) => Self::MethodNotAllowed,
            (406, _) => Self::NotAcceptable,
            (407, _) => Self::ProxyAuthenticationRequired,
            (408 | 504, _) => Self::Timeout,
            (409, _) => Self::Conflict,
            (412, _) => Self::PreconditionFailed,
            (429, _) => Self::RateLimited,
            (500, _) => Self::Internal,
            (501, _) => Self::NotImplemented,
            (502, _) => Self::BadGateway,
            (503, _) => Self::Unavailable,
            (400..=499, _) => Self::ClientError,
            (500..=599, _) => Self::ServerError,
            (..=399 | 600.., _) => Self::UnexpectedStatus,
        }
    }
}

/// A failed call: what the caller may read and what the log may.
#[derive(Debug)]
pub struct Error {
    /// The step that failed.
    pub kind: Kind,
    /// The HTTP status, where a whole reply came.
    pub http_status: Option<u16>,
    /// The upstream's own code, at most [`MAX_METADATA_BYTES`].
    pub code: Option<String>,
    /// The upstream's ID of the request, at most [`MAX_METADATA_BYTES`] of visible ASCII.
    pub request_id: Option<String>,
    /// The upstream's message, safe to pass on: at most [`MAX_MESSAGE_BYTES`], no control characters, no token.
    pub message: Option<String>,
    /// What the gateway itself saw, for the log: no URL, no token, nothing of a body.
    pub detail: String,
    /// `Retry-After`, where it came and could be read.
    pub retry_after: Option<Duration>,
    /// Attempts made, this one included. A stale pooled connection does not count.
    pub attempts: u32,
}

/// The most that is passed on of an upstream's message, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 512;
/// The most that is passed on of an upstream's code or request ID, in bytes.
pub const MAX_METADATA_BYTES: usize = 128;

impl Error {
    /// A failure of the gateway's own seeing; `detail` is for the log.
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            http_status: None,
            code: None,
            request_id: None,
            message: None,
            detail: detail.into(),
            retry_after: None,
            attempts: 0,
        }
    }

    /// A whole reply that is not 200. `body` is `None` where it was longer than the limit, or coded.
    pub fn of_reply(status: u16, request_id: Option<&str>, body: Option<&[u8]>, proof: &Proof) -> Self {
        let said = body.map(ErrorBody::read).unwrap_or_default();
        let kind = match status {
            401 if proof.is_own() => Kind::OwnCredentialRefused,
            status => Kind::of_status(status, said.voice),
        };
        let safe = |text: &str, limit| sanitize(text, proof, limit);
        Self {
            http_status: Some(status),
            code: said.code.as_deref().map(|code| safe(code, MAX_METADATA_BYTES)),
            request_id: request_id.or(said.request_id.as_deref()).and_then(|id| safe_request_id(id, proof)),
            message: said
                .message
                .as_deref()
                .map(|text| safe(text, MAX_MESSAGE_BYTES))
                .filter(|m| !m.is_empty()),
            ..Self::new(kind, format!("HTTP status {status}"))
        }
    }
}

/// An ID of a request as the upstream names it, if it is one that can be searched for.
pub(super) fn safe_request_id(id: &str, proof: &Proof) -> Option<String> {
    let visible = !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic());
    visible.then(|| cut(proof.redact(id), MAX_METADATA_BYTES))
}

/// `text` without control characters and without the token, cut between characters.
fn sanitize(text: &str, proof: &Proof, limit: usize) -> String {
    /// More is cut off anyway, and need not be searched.
    const MOST: usize = 4096;

    let plain: String = text.chars().filter(|c| !c.is_control()).take(MOST).collect();
    cut(proof.redact(&plain), limit)
}

fn cut(mut text: String, limit: usize) -> String {
    let end = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{TOKEN_HEADER, Token};
    use http::{HeaderMap, HeaderValue};

    fn token() -> Proof {
        let mut headers = HeaderMap::new();
        headers.insert(TOKEN_HEADER, HeaderValue::from_static("gAAAAABl-a-token-of-a-caller"));
        Proof::Caller(Token::from_headers(&headers).unwrap())
    }

    #[test]
    fn a_message_is_stripped_redacted_and_cut_between_characters() {
        let clean = sanitize("a\r\nb\u{7f}\u{85}c gAAAAABl-a-token\u{0}-of-a-caller", &token(), 512);
        assert_eq!(clean, "abc [redacted]");
        let cut = sanitize(&"ü".repeat(400), &token(), 511);
        assert_eq!(cut, "ü".repeat(255));
    }

    #[test]
    fn a_request_id_is_visible_ascii_or_none() {
        assert_eq!(safe_request_id("req-1", &token()).as_deref(), Some("req-1"));
        for bad in ["", "a b", "ü", "a\nb"] {
            assert_eq!(safe_request_id(bad, &token()), None);
        }
        assert_eq!(safe_request_id(&"x".repeat(300), &token()).unwrap().len(), 128);
    }
}

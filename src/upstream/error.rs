//! From a response that is not 200 to an [`Error`]: its kind, and what of it the caller may read.
//!
//! [`kind_of_status`] is total: every HTTP status has its kind, and a 404 has two, by the origin of its body.

use super::error_body::{ErrorBody, ErrorOrigin};
use crate::credentials::AuthMaterial;
use crate::domain::{Error, ErrorKind, MAX_MESSAGE_BYTES, MAX_METADATA_BYTES};

/// The kind of a reply that is not 200; `origin` matters for a 404 only.
fn kind_of_status(status: u16, origin: ErrorOrigin) -> ErrorKind {
    match (status, origin) {
        (400 | 413 | 414 | 422 | 431 | 494, _) => ErrorKind::BadRequest,
        (401, _) => ErrorKind::Unauthenticated,
        (403, _) => ErrorKind::Forbidden,
        (404, ErrorOrigin::Vbs) => ErrorKind::ShareNotFound,
        (404, ErrorOrigin::Other) => ErrorKind::RouteNotFound,
        (405, _) => ErrorKind::MethodNotAllowed,
        (406, _) => ErrorKind::NotAcceptable,
        (407, _) => ErrorKind::ProxyAuthenticationRequired,
        (408 | 504, _) => ErrorKind::Timeout,
        (409, _) => ErrorKind::Conflict,
        (412, _) => ErrorKind::PreconditionFailed,
        (429, _) => ErrorKind::RateLimited,
        (500, _) => ErrorKind::Internal,
        (501, _) => ErrorKind::NotImplemented,
        (502, _) => ErrorKind::BadGateway,
        (503, _) => ErrorKind::Unavailable,
        (400..=499, _) => ErrorKind::ClientError,
        (500..=599, _) => ErrorKind::ServerError,
        (..=399 | 600.., _) => ErrorKind::UnexpectedStatus,
    }
}

/// A whole reply that is not 200. `body` is `None` where it was longer than the limit, or coded.
pub fn from_response(
    status: u16,
    request_id: Option<&str>,
    body: Option<&[u8]>,
    material: &AuthMaterial,
) -> Error {
    let parsed = body.map(ErrorBody::read).unwrap_or_default();
    let kind = match status {
        401 if material.is_gateway_owned() => ErrorKind::OwnCredentialRefused,
        status => kind_of_status(status, parsed.origin),
    };
    let safe = |text: &str, limit| sanitize(text, material, limit);
    Error {
        http_status: Some(status),
        code: parsed.code.as_deref().map(|code| safe(code, MAX_METADATA_BYTES)),
        request_id: request_id.or(parsed.request_id.as_deref()).and_then(|id| safe_request_id(id, material)),
        message: parsed
            .message
            .as_deref()
            .map(|text| safe(text, MAX_MESSAGE_BYTES))
            .filter(|m| !m.is_empty()),
        ..Error::new(kind, format!("HTTP status {status}"))
    }
}

/// An ID of a request as the upstream names it, if it is one that can be searched for.
pub(super) fn safe_request_id(id: &str, material: &AuthMaterial) -> Option<String> {
    let visible = !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic());
    visible.then(|| cut(material.redact(id), MAX_METADATA_BYTES))
}

/// `text` without control characters and without the token, cut between characters.
fn sanitize(text: &str, material: &AuthMaterial, limit: usize) -> String {
    /// More is cut off anyway, and need not be searched.
    const MOST: usize = 4096;

    let plain: String = text.chars().filter(|c| !c.is_control()).take(MOST).collect();
    cut(material.redact(&plain), limit)
}

fn cut(mut text: String, limit: usize) -> String {
    let end = (0..=limit.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{TOKEN_HEADER, Token};
    use http::{HeaderMap, HeaderValue};

    fn token() -> AuthMaterial {
        let mut headers = HeaderMap::new();
        headers.insert(TOKEN_HEADER, HeaderValue::from_static("gAAAAABl-a-token-of-a-caller"));
        AuthMaterial::Caller(Token::from_headers(&headers).unwrap())
    }

    #[test]
    fn a_message_is_stripped_redacted_and_cut_between_characters() {
        assert_eq!(sanitize("a\r\nb\u{7f}\u{85}c", &token(), 512), "abc");
        let echo = "a\r\nb\u{7f}\u{85}c gAAAAABl-a-token\u{0}-of-a-caller";
        assert_eq!(sanitize(echo, &token(), 512), "[redacted]");
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

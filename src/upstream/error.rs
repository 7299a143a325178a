//! Maps a response that is not 200 to an [`Error`]: its kind, and the parts of it that the caller may read.
//!
//! Statuses are those of RFC 9110, of RFC 6585 (429, 431) and of nginx, which the vendor's API gateway is built on (494). A 404
//! has two kinds, by the origin of its body, and so has a 413. `grpc/status.rs` maps kinds to gRPC codes.

use std::time::Duration;

use crate::credentials::AuthMaterial;
use crate::domain::{Error, ErrorKind};
use crate::error_response::ErrorBody;

/// The longest upstream message that is passed on, in bytes.
const MAX_MESSAGE_BYTES: usize = 512;
/// The longest upstream code or request ID that is passed on, in bytes.
const MAX_METADATA_BYTES: usize = 128;

/// The detail of [`ErrorKind::DeadlineExceeded`].
pub(super) const DEADLINE_EXPIRED: &str = "the caller's deadline expired";

/// The kind of a response that is not 200, by its status alone.
fn kind_of_status(status: u16) -> ErrorKind {
    match status {
        400 | 413 | 414 | 422 | 431 | 494 => ErrorKind::BadRequest,
        401 => ErrorKind::Unauthenticated,
        403 => ErrorKind::Forbidden,
        404 => ErrorKind::RouteNotFound,
        405 => ErrorKind::MethodNotAllowed,
        406 => ErrorKind::NotAcceptable,
        407 => ErrorKind::ProxyAuthenticationRequired,
        408 | 504 => ErrorKind::Timeout,
        409 => ErrorKind::Conflict,
        412 => ErrorKind::PreconditionFailed,
        429 => ErrorKind::RateLimited,
        500 => ErrorKind::Internal,
        501 => ErrorKind::NotImplemented,
        502 => ErrorKind::BadGateway,
        503 => ErrorKind::Unavailable,
        _ => match status / 100 {
            4 => ErrorKind::ClientError,
            5 => ErrorKind::ServerError,
            _ => ErrorKind::UnexpectedStatus,
        },
    }
}

/// The error for a complete response that is not 200. `retry_after` and `request_id` are those of its headers. `body` is `None` if
/// it is longer than the limit, or has a content encoding.
pub fn from_response(
    status: u16,
    retry_after: Option<Duration>,
    request_id: Option<&str>,
    body: Option<&[u8]>,
    material: &AuthMaterial,
) -> Error {
    let parsed = body.map(ErrorBody::read).unwrap_or_default();
    let kind = match status {
        401 if material.is_gateway_owned() => ErrorKind::OwnCredentialRefused,
        404 if parsed.is_from_vbs => ErrorKind::ShareNotFound,
        // OpenStack's older form of a rate limit.
        413 if retry_after.is_some() || parsed.is_over_limit => ErrorKind::RateLimited,
        status => kind_of_status(status),
    };
    let code = parsed.code.map(|code| sanitize(&code, material, MAX_METADATA_BYTES));
    let message = parsed.message.map(|message| sanitize(&message, material, MAX_MESSAGE_BYTES));
    let request_id = request_id.or(parsed.request_id.as_deref());
    Error {
        http_status: Some(status),
        code,
        request_id: request_id.and_then(|id| safe_request_id(id, material)),
        message: message.filter(|message| !message.is_empty()),
        retry_after: retry_after.or(parsed.retry_after.filter(|_| kind == ErrorKind::RateLimited)),
        ..Error::new(kind, format!("HTTP status {status}"))
    }
}

/// The upstream's request ID, redacted and truncated. `None` if it is not visible ASCII.
pub(super) fn safe_request_id(id: &str, material: &AuthMaterial) -> Option<String> {
    let visible = !id.is_empty() && id.bytes().all(|b| b.is_ascii_graphic());
    visible.then(|| truncate(material.redact(id), MAX_METADATA_BYTES))
}

/// `text` without control characters and secrets, truncated to `limit` bytes.
fn sanitize(text: &str, material: &AuthMaterial, limit: usize) -> String {
    /// Characters after these are truncated in any case and need no redaction.
    const MAX_CHARS: usize = 4096;

    let printable: String = text.chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect();
    truncate(material.redact(&printable), limit)
}

/// Truncates at a character boundary.
fn truncate(mut text: String, limit: usize) -> String {
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
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
    fn message_is_stripped_redacted_and_truncated_between_characters() {
        assert_eq!(sanitize("a\r\nb\u{7f}\u{85}c", &token(), 512), "abc");
        let echo = "a\r\nb\u{7f}\u{85}c gAAAAABl-a-token\u{0}-of-a-caller";
        assert_eq!(sanitize(echo, &token(), 512), "[redacted]");
        let truncated = sanitize(&"ü".repeat(400), &token(), 511);
        assert_eq!(truncated, "ü".repeat(255));
    }

    #[test]
    fn request_id_is_visible_ascii_or_none() {
        assert_eq!(safe_request_id("req-1", &token()).as_deref(), Some("req-1"));
        for bad in ["", "a b", "ü", "a\nb"] {
            assert_eq!(safe_request_id(bad, &token()), None);
        }
        assert_eq!(safe_request_id(&"x".repeat(300), &token()).unwrap().len(), 128);
    }
}

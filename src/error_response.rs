//! What an error response says: its body, and `Retry-After`. One reader for the upstream, the identity service, and the proxies
//! and services before and behind them.
//!
//! A body has one of two shapes. *Flat*: code and message are members of the top object, under one of three pairs of names.
//! *Wrapped*: they are members of an object inside it, under any key (`itemNotFound`, `error`). Only these give a message to a
//! caller; HTML, text, other JSON and an object in which a key occurs twice never do. `tests/gateway/error_bodies.rs` has some
//! twenty samples: those of the vendors' documentation and SDKs, of Cinder and Keystone, and captured ones.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The content of an error body.
#[derive(Default)]
pub(crate) struct ErrorBody {
    /// The service's own code, such as `VolumeBackup.0041` or `404`.
    pub(crate) code: Option<String>,
    /// The message, as the service wrote it. `None` also if the body may hold credentials.
    pub(crate) message: Option<String>,
    pub(crate) request_id: Option<String>,
    /// Whether it comes from the Volume Backup Service itself, by its shape and code: so that a 404 is about a share.
    pub(crate) is_from_vbs: bool,
    /// Whether it is a rate limit in OpenStack's older form.
    pub(crate) is_over_limit: bool,
    /// The wait that such a rate limit names.
    pub(crate) retry_after: Option<Duration>,
}

/// The names of code and message, in the order of the vendor's SDKs.
const NAMES: [(&str, &str); 3] =
    [("error_code", "error_msg"), ("errorCode", "errorMsg"), ("code", "message")];

/// Prefixes of the codes of the Volume Backup Service.
const VBS_CODES: [&str; 4] = ["VolumeBackup.", "AutoBackup.", "VBS.", "common."];

/// The wrappers of a rate limit in OpenStack's older form, with status 413.
const OVER_LIMIT: [&str; 2] = ["overLimit", "overLimitFault"];

/// The API gateway's message about a signature holds the access key and the canonical request. Its code and words are searched
/// for in every [`normalized`] text of the body.
const CREDENTIAL_MARKERS: [&str; 4] = ["apigw.0301", "apig.0301", "canonicalrequest", "secretkey"];

impl ErrorBody {
    /// Parses the body of an error. A body of an unknown shape gives [`ErrorBody::default`], or its request ID alone.
    pub(crate) fn read(body: &[u8]) -> Self {
        let Some(parsed) = parse(body) else { return Self::default() };
        let Some(top) = parsed.as_object() else { return Self::default() };
        let objects = std::iter::once(top).chain(top.values().filter_map(Value::as_object));
        let errors: Vec<ParsedError> = objects.filter_map(ParsedError::in_object).collect();
        let over_limit = OVER_LIMIT.iter().find_map(|name| top.get(*name)?.as_object());
        let retry_after = over_limit.and_then(|limit| {
            retry_after(code_text(limit.get("retryAfter")?)?.as_bytes(), SystemTime::now())
        });
        let request_id = top.get("request_id").and_then(text);
        let is_from_vbs = is_from_vbs(top, &errors);
        let (code, message) =
            errors.into_iter().next().map(|error| (error.code, error.message)).unwrap_or_default();
        let message = message.filter(|_| !has_credential_marker(&parsed));
        let is_over_limit = over_limit.is_some();
        Self { code, message, request_id, is_from_vbs, is_over_limit, retry_after }
    }
}

/// Which service the codes of an object name.
#[derive(PartialEq, Eq)]
enum Origin {
    /// The Volume Backup Service.
    Vbs,
    /// None: there is no code, or a bare number.
    Unnamed,
    /// Another service, or it is not a code.
    Other,
}

/// The code and message of one object; one of them may be missing.
struct ParsedError {
    code: Option<String>,
    message: Option<String>,
    origin: Origin,
}

impl ParsedError {
    fn in_object(object: &Map<String, Value>) -> Option<Self> {
        let codes = NAMES.iter().filter_map(|(code, _)| object.get(*code)).filter(|code| !code.is_null());
        let origins: Vec<Origin> = codes.map(|code| origin(code_text(code).as_deref())).collect();
        let origin = [Origin::Other, Origin::Vbs].into_iter().find(|origin| origins.contains(origin));
        NAMES
            .iter()
            .find_map(|(code, message)| {
                let code = object.get(*code).and_then(code_text);
                let message = object.get(*message).and_then(text);
                let is_error = code.is_some() || message.is_some();
                is_error.then_some((code, message))
            })
            .map(|(code, message)| Self { code, message, origin: origin.unwrap_or(Origin::Unnamed) })
    }
}

/// The codes determine the origin; if they are bare numbers or missing, the shape does: one wrapper object with a message, and
/// no other member.
fn is_from_vbs(top: &Map<String, Value>, errors: &[ParsedError]) -> bool {
    let Some(first) = errors.first() else { return false };
    if errors.iter().any(|error| error.origin == Origin::Other) {
        return false;
    }
    let is_name = |key: &String| key.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
    let is_wrapper = top.len() == 1 && top.iter().all(|(key, value)| is_name(key) && value.is_object());
    // Errors of Keystone have a `title` as well as a code: `{"error":{"code":404,"title":"Not Found",…}}`.
    let is_keystone = top.get("error").and_then(|error| error.get("title")).is_some();
    first.origin == Origin::Vbs || (is_wrapper && !is_keystone && first.message.is_some())
}

/// The origin of a code. A number has the form of an HTTP status: `404`, but not `4.04`.
fn origin(code: Option<&str>) -> Origin {
    match code {
        Some(code) if code.bytes().all(|b| b.is_ascii_digit()) => Origin::Unnamed,
        Some(code) if VBS_CODES.iter().any(|prefix| code.starts_with(prefix)) => Origin::Vbs,
        Some(_) | None => Origin::Other,
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// A code is a string or a number.
fn code_text(value: &Value) -> Option<String> {
    text(value).or_else(|| value.as_number().map(ToString::to_string)).filter(|code| !code.is_empty())
}

/// `text` in lower case, without anything but ASCII letters, digits and `.`.
fn normalized(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').map(|c| c.to_ascii_lowercase()).collect()
}

/// Whether a marker occurs in any key or string of it.
fn has_credential_marker(value: &Value) -> bool {
    match value {
        Value::String(text) => is_about_credential(text),
        Value::Array(values) => values.iter().any(has_credential_marker),
        Value::Object(members) => {
            members.iter().any(|(key, value)| is_about_credential(key) || has_credential_marker(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn is_about_credential(text: &str) -> bool {
    let words: Vec<String> = text.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).collect();
    let has_word = |searched: &str| words.iter().any(|word| word == searched);
    let normalized = normalized(text);
    // "ak XXX not exist"
    CREDENTIAL_MARKERS.iter().any(|marker| normalized.contains(marker))
        || (has_word("ak") && has_word("exist"))
}

/// Half of a surrogate pair can be escaped in JSON (`"\udc80"`, as Python does with names that are not UTF-8), although it is no
/// text. It becomes U+FFFD, and so do whole pairs beside it: the words of a message must not decide whether it is read.
fn parse(body: &[u8]) -> Option<Value> {
    if let Ok(UniqueKeys(value)) = serde_json::from_slice(body) {
        return Some(value);
    }
    let mut body = body.to_vec();
    for at in 0..body.len() {
        if let Some([b'\\', b'u', digits @ ..]) = body.get_mut(at..at + 6)
            && matches!(digits, [b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F', ..])
            && digits.iter().all(u8::is_ascii_hexdigit)
        {
            digits.copy_from_slice(b"fffd");
        }
    }
    serde_json::from_slice(&body).ok().map(|UniqueKeys(value)| value)
}

/// JSON in which no object has a key twice. [`Value`] alone would keep the last one, and hide the others from every check.
struct UniqueKeys(Value);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueKeysVisitor).map(Self)
    }
}

struct UniqueKeysVisitor;

impl<'de> Visitor<'de> for UniqueKeysVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(UniqueKeys(value)) = sequence.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((key, UniqueKeys(value))) = map.next_entry()? {
            if members.insert(key, value).is_some() {
                return Err(A::Error::custom("a key occurs twice"));
            }
        }
        Ok(members.into())
    }
}

/// The wait of the first valid `Retry-After`.
pub(crate) fn retry_after_header(headers: &HeaderMap) -> Option<Duration> {
    let mut values = headers.get_all(header::RETRY_AFTER).iter();
    values.find_map(|value| retry_after(value.as_bytes(), SystemTime::now()))
}

/// Parses `Retry-After` (RFC 9110, section 10.2.3): seconds, or an HTTP date. A date in the past is no delay; an invalid value
/// counts as absent.
pub fn retry_after(value: &[u8], now: SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    seconds(text).or_else(|| {
        let date = httpdate::parse_http_date(text).ok()?;
        Some(date.duration_since(now).unwrap_or(Duration::ZERO))
    })
}

/// A whole number of seconds. One that is too large is a very long delay, not an invalid value.
fn seconds(text: &str) -> Option<Duration> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // 1994-11-06T08:49:37Z, the example of RFC 9110.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("99999999999999999999", Some(u64::from(u32::MAX))),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some(10)),
            ("Sun Nov  6 08:49:47 1994", Some(10)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("+1", None),
            ("soon", None),
            ("1 s", None),
        ] {
            assert_eq!(retry_after(value.as_bytes(), now), seconds.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after(b"\xff", now), None);
    }
}

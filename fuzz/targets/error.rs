//! A whole reply that is not 200, as far as the status that goes to the caller.
//!
//! The input is a body, or a line `STATUS REQUEST-ID` and a body; without the line the status is 404, whose kind
//! depends on the body.
//!
//! - Never a panic, and the rules of every status hold (size, token, control characters, metadata).
//! - A code and a message come only out of a JSON object, and the message is one that stands in it.
//! - Nothing is passed on that the API gateway says of a signature.
//! - Only a 404 with a code of the service's own, or in one wrapper with no code or a bare number, is about the share.
#![no_main]

use backup_share_gateway::domain::ErrorKind;
use backup_share_gateway::grpc::RpcError;
use backup_share_gateway::upstream::from_response;
use backup_share_gateway_fuzz::{REQUEST_ID, assert_status_rules, material};
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tonic::Code;

fuzz_target!(|input: &[u8]| {
    let (status, request_id, body) = split(input);
    let error = from_response(status, None, request_id, Some(body), &material());
    let json = json(body).filter(Value::is_object);
    if let Some(message) = &error.message {
        let json = json.as_ref().expect("a message out of what is no JSON object");
        assert!(!message.is_empty() && message.len() <= 512);
        let says_so = |text: &str| material().redact(&plain(text)).starts_with(message);
        assert!(any_text(json, &says_so), "invented: {message}");
        assert!(!plain(message).to_lowercase().contains("canonicalrequest"), "a canonical request");
        let telltale = |code: &str| ["APIGW.0301", "APIG.0301"].contains(&plain(code).as_str());
        assert!(!any_text(json, &telltale), "the message of a refused signature");
    }
    if error.code.is_some() {
        assert!(json.is_some(), "a code out of what is no JSON object");
    }
    if error.kind == ErrorKind::ShareNotFound {
        let code = error.code.as_deref().unwrap_or_default();
        let is_own = |code: &str| {
            ["VolumeBackup.", "AutoBackup.", "VBS.", "common."].iter().any(|own| code.starts_with(own))
        };
        // A code that holds the token is redacted as a whole.
        let own =
            is_own(code) || code == "[redacted]" && json.as_ref().is_some_and(|json| any_text(json, &is_own));
        let wrapped = json.as_ref().and_then(Value::as_object).is_some_and(|top| {
            let keystone = top.get("error").is_some_and(|error| error.get("title").is_some());
            top.len() == 1 && top.values().all(Value::is_object) && !keystone
        });
        let number = code.bytes().all(|b| b.is_ascii_digit());
        assert!(status == 404 && (own || wrapped && number), "{error:?}");
    }

    let failure = RpcError::Upstream(Box::new(error));
    assert_ne!(failure.code(), Code::Ok);
    assert_status_rules(&failure.status(&HeaderValue::from_static(REQUEST_ID)));
});

/// The status, the `X-Request-Id`, and the body.
fn split(input: &[u8]) -> (u16, Option<&str>, &[u8]) {
    let head = input.iter().position(|b| *b == b'\n').and_then(|end| {
        let (status, id) = std::str::from_utf8(&input[..end]).ok()?.split_once(' ')?;
        Some((status.parse().ok()?, Some(id), &input[end + 1..]))
    });
    head.unwrap_or((404, None, input))
}

/// The body as JSON. Half of a surrogate pair may be escaped in it, which `serde_json` refuses.
fn json(body: &[u8]) -> Option<Value> {
    serde_json::from_slice(body).ok().or_else(|| {
        let text = std::str::from_utf8(body).ok()?;
        let mut parts = text.split("\\u");
        let first = parts.next()?.to_owned();
        let replaced = parts.fold(first, |text, part| {
            let is_half = part.get(..4).is_some_and(|digits| {
                u32::from_str_radix(digits, 16).is_ok_and(|code| (0xd800..0xe000).contains(&code))
            });
            let (digits, rest) = if is_half { ("fffd", &part[4..]) } else { ("", part) };
            text + "\\u" + digits + rest
        });
        serde_json::from_str(&replaced).ok()
    })
}

/// Whether a string anywhere in `json` is such.
fn any_text(json: &Value, is_such: &dyn Fn(&str) -> bool) -> bool {
    match json {
        Value::String(text) => is_such(text),
        Value::Array(values) => values.iter().any(|value| any_text(value, is_such)),
        Value::Object(members) => members.values().any(|value| any_text(value, is_such)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

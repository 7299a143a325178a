//! Parses error bodies of the upstream and of the proxies and services before and behind it.
//!
//! There are two shapes. *Flat*: code and message are members of the top object, under one of three pairs of names. *Wrapped*:
//! they are members of an object inside it, under any key (`itemNotFound`, `error`). Only these give a message to a
//! caller; HTML, text and other JSON never do. `tests/gateway/error_bodies.rs` has some twenty samples: those of the vendors'
//! documentation and SDKs, of Cinder and Keystone, and captured ones.

use serde_json::{Map, Value};

/// The content of an error body.
#[derive(Default)]
pub(super) struct ErrorBody {
    /// The service's own code, such as `VolumeBackup.0041` or `404`.
    pub(super) code: Option<String>,
    /// The message, as the upstream wrote it. `None` also if the body may hold credentials.
    pub(super) message: Option<String>,
    pub(super) request_id: Option<String>,
    /// Whether it comes from the Volume Backup Service itself, by its shape and code: so that a 404 is about a share.
    pub(super) is_from_vbs: bool,
}

/// The names of code and message, in the order of the vendor's SDKs.
const NAMES: [(&str, &str); 3] =
    [("error_code", "error_msg"), ("errorCode", "errorMsg"), ("code", "message")];

/// Prefixes of the codes of the Volume Backup Service.
const VBS_CODES: [&str; 4] = ["VolumeBackup.", "AutoBackup.", "VBS.", "common."];

/// The API gateway's message about a signature holds the access key and the canonical request. Its code and words are searched
/// for in the [`normalized`] body.
const CREDENTIAL_MARKERS: [&str; 4] = ["apigw.0301", "apig.0301", "canonicalrequest", "secretkey"];
/// Prefixes of the codes of the API gateway.
const API_GATEWAY: [&str; 2] = ["apigw.", "apig."];

impl ErrorBody {
    /// Parses the body of an error. A body of an unknown shape gives [`ErrorBody::default`], or its request ID alone.
    pub(super) fn read(body: &[u8]) -> Self {
        let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
        let Some(top) = parsed.as_object() else { return Self::default() };
        let request_id = top.get("request_id").and_then(text);
        let flat = ParsedError::in_object(top);
        let is_flat = flat.is_some();
        let wrapped = || top.values().filter_map(Value::as_object).find_map(ParsedError::in_object);
        let Some(error) = flat.or_else(wrapped) else { return Self { request_id, ..Self::default() } };
        // The raw text too: the parsed one has only the last value of a key that occurs twice.
        let raw = normalized(&String::from_utf8_lossy(body));
        // Errors of Keystone have a title beside the code: `{"error":{"code":404,"title":"Not Found",…}}`.
        let is_keystone = top.get("error").and_then(|error| error.get("title")).is_some();
        let is_vbs_wrapper = !is_flat && top.len() == 1 && !is_keystone && !contains_any(&raw, &API_GATEWAY);
        let is_from_vbs = error.is_from_vbs(is_vbs_wrapper);
        let has_marker = contains_any(&raw, &CREDENTIAL_MARKERS) || value_has_credential_marker(&parsed);
        let message = if has_marker { None } else { error.message };
        Self { code: error.code, message, request_id, is_from_vbs }
    }
}

/// The code and message of one object; one of them may be missing.
struct ParsedError {
    code: Option<String>,
    message: Option<String>,
    /// The code is neither a string nor a number.
    has_invalid_code: bool,
}

impl ParsedError {
    fn in_object(object: &Map<String, Value>) -> Option<Self> {
        NAMES.iter().find_map(|(code, message)| {
            let found = object.get(*code).filter(|code| !code.is_null());
            let code = found.and_then(code_text);
            let message = object.get(*message).and_then(text);
            let has_invalid_code = found.is_some() && code.is_none();
            let is_error = code.is_some() || message.is_some();
            is_error.then_some(Self { code, message, has_invalid_code })
        })
    }

    /// The code determines the origin; if it is a number or missing, the shape does.
    fn is_from_vbs(&self, is_vbs_wrapper: bool) -> bool {
        match self.code.as_deref() {
            Some(code) if !is_number(code) => VBS_CODES.iter().any(|prefix| code.starts_with(prefix)),
            Some(_) | None => is_vbs_wrapper && self.message.is_some() && !self.has_invalid_code,
        }
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// A code is a string or a number.
fn code_text(value: &Value) -> Option<String> {
    text(value).or_else(|| value.as_number().map(ToString::to_string)).filter(|code| !code.is_empty())
}

/// A number in the form of an HTTP status: `404`, but not `4.04`.
fn is_number(code: &str) -> bool {
    code.bytes().all(|b| b.is_ascii_digit())
}

/// `text` in lower case, without anything but ASCII letters, digits and `.`.
fn normalized(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').map(|c| c.to_ascii_lowercase()).collect()
}

fn contains_any(normalized: &str, markers: &[&str]) -> bool {
    markers.iter().any(|marker| normalized.contains(marker))
}

fn has_credential_marker(text: &str) -> bool {
    let words: Vec<String> = text.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).collect();
    let has_word = |searched: &str| words.iter().any(|word| word == searched);
    // "ak XXX not exist"
    contains_any(&normalized(text), &CREDENTIAL_MARKERS) || (has_word("ak") && has_word("exist"))
}

/// Whether a marker occurs in any key or string of it.
fn value_has_credential_marker(value: &Value) -> bool {
    match value {
        Value::String(text) => has_credential_marker(text),
        Value::Array(values) => values.iter().any(value_has_credential_marker),
        Value::Object(members) => members
            .iter()
            .any(|(key, value)| has_credential_marker(key) || value_has_credential_marker(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

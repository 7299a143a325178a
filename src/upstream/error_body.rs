//! What an error body says. The upstream and the proxies and services before and behind it speak in some twenty
//! shapes; one total function reads them all, and what it does not know says nothing.
//!
//! The shapes come down to two. *Flat*: the code and the message stand at the top, under one of three pairs of names.
//! *Wrapped*: the top holds one object under whatever key (`itemNotFound`, `error`), and they stand in there. Only out
//! of these does a message reach a caller; HTML, text and other JSON never do.

use serde_json::{Map, Value};

/// What an error body says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ErrorBody {
    /// The service's own code, such as `VolumeBackup.0041` or `404`.
    pub code: Option<String>,
    /// The message, as the upstream wrote it. `None` too where it is known to hold credentials.
    pub message: Option<String>,
    /// The upstream's ID of the request, where the body holds it.
    pub request_id: Option<String>,
    /// Which service it comes from: whether a 404 of it is about a share.
    pub origin: ErrorOrigin,
}

/// Which service an error body comes from, as far as its shape and its code tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrorOrigin {
    /// The Volume Backup Service itself.
    Vbs,
    /// A gateway, a proxy, the identity service, another service, or nobody that is known.
    #[default]
    Other,
}

/// The three pairs of names, in the order in which the vendor's SDKs look for them.
const NAMES: [(&str, &str); 3] =
    [("error_code", "error_msg"), ("errorCode", "errorMsg"), ("code", "message")];

/// The codes of the Volume Backup Service begin so.
const VBS_CODES: [&str; 4] = ["VolumeBackup.", "AutoBackup.", "VBS.", "common."];

/// The API gateway's message about a signature holds the access key and the canonical request. It is known by its code and
/// by its words, wherever they stand and however they are spelt.
const CREDENTIAL_MARKERS: [&str; 4] = ["apigw.0301", "apig.0301", "canonicalrequest", "secretkey"];
/// The codes of the API gateway begin so.
const API_GATEWAY: [&str; 2] = ["apigw.", "apig."];

impl ErrorBody {
    /// Reads the body of an error. Whatever it holds, the answer is one: what cannot be read says nothing.
    pub fn read(body: &[u8]) -> Self {
        let Ok(Value::Object(top)) = serde_json::from_slice(body) else { return Self::default() };
        let request_id = top.get("request_id").and_then(text);
        let flat = ParsedError::in_object(&top);
        let wrapped = || top.values().filter_map(Value::as_object).find_map(ParsedError::in_object);
        let is_flat = flat.is_some();
        let Some(parsed) = flat.or_else(wrapped) else { return Self { request_id, ..Self::default() } };
        // The raw text: of a key that stands twice only one value is among the parsed ones.
        let raw = normalized(&String::from_utf8_lossy(body));
        let in_vbs_wrapper =
            !is_flat && top.len() == 1 && !is_keystone(&top) && !is_one_of(&raw, &API_GATEWAY);
        let origin = parsed.origin(in_vbs_wrapper);
        let has_marker = is_one_of(&raw, &CREDENTIAL_MARKERS)
            || top
                .iter()
                .any(|(key, value)| has_credential_marker(key) || value_has_credential_marker(value));
        let ParsedError { code, message, .. } = parsed;
        Self { code, message: message.filter(|_| !has_marker), request_id, origin }
    }
}

/// A code and a message that stand side by side; one of them may be missing.
struct ParsedError {
    code: Option<String>,
    message: Option<String>,
    /// There is something under the code's name that is neither a text nor a number.
    odd_code: bool,
}

impl ParsedError {
    fn in_object(object: &Map<String, Value>) -> Option<Self> {
        NAMES.iter().find_map(|(code, message)| {
            let found = object.get(*code).filter(|code| !code.is_null());
            let code = found.and_then(code_text);
            let message = object.get(*message).and_then(text);
            let odd_code = found.is_some() && code.is_none();
            (code.is_some() || message.is_some()).then_some(Self { code, message, odd_code })
        })
    }

    /// The code tells the origin; if it is a bare number or missing, the shape does.
    fn origin(&self, in_vbs_wrapper: bool) -> ErrorOrigin {
        let is_vbs = match self.code.as_deref() {
            Some(code) if !is_number(code) => VBS_CODES.iter().any(|prefix| code.starts_with(prefix)),
            _ => in_vbs_wrapper && self.message.is_some() && !self.odd_code,
        };
        if is_vbs { ErrorOrigin::Vbs } else { ErrorOrigin::Other }
    }
}

/// The identity service names its errors by a title beside the code: `{"error":{"code":404,"title":"Not Found",…}}`.
fn is_keystone(top: &Map<String, Value>) -> bool {
    top.get("error").and_then(|error| error.get("title")).is_some()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// A code is a string or a number.
fn code_text(value: &Value) -> Option<String> {
    text(value).or_else(|| value.as_number().map(ToString::to_string)).filter(|code| !code.is_empty())
}

/// A bare number, as an HTTP status is one: `404`, but not `4.04`.
fn is_number(code: &str) -> bool {
    code.bytes().all(|b| b.is_ascii_digit())
}

/// `text` in small letters, without all that can stand between the letters of a word.
fn normalized(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').map(|c| c.to_ascii_lowercase()).collect()
}

fn is_one_of(normalized: &str, words: &[&str]) -> bool {
    words.iter().any(|word| normalized.contains(word))
}

fn has_credential_marker(text: &str) -> bool {
    let words: Vec<String> = text.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).collect();
    let names_a_key = |word: &str| words.iter().any(|found| found == word);
    // "ak XXX not exist"
    is_one_of(&normalized(text), &CREDENTIAL_MARKERS) || (names_a_key("ak") && names_a_key("exist"))
}

/// Whether a marker occurs anywhere in it.
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

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
    /// Whose voice it is: whether a 404 in it speaks about a share.
    pub voice: Voice,
}

/// Whose voice an error body is in, as far as its shape and code tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Voice {
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

/// The API gateway's words for a signature that does not fit hold the access key and the canonical request.
const TELLTALE_CODES: [&str; 2] = ["APIGW.0301", "APIG.0301"];
const TELLTALE_WORDS: &str = "canonicalrequest";

impl ErrorBody {
    /// Reads the body of an error. Whatever it holds, the answer is one: what cannot be read says nothing.
    pub fn read(body: &[u8]) -> Self {
        let Ok(Value::Object(top)) = serde_json::from_slice(body) else { return Self::default() };
        let request_id = top.get("request_id").and_then(text);
        let flat = Spoken::in_object(&top);
        let wrapped = || top.values().filter_map(Value::as_object).find_map(Spoken::in_object);
        let is_flat = flat.is_some();
        let Some(spoken) = flat.or_else(wrapped) else { return Self { request_id, ..Self::default() } };
        let voice = spoken.voice(!is_flat && top.len() == 1 && !is_keystone(&top));
        let telltale = top.values().any(holds_telltale_code);
        let Spoken { code, message } = spoken;
        let message = message.filter(|text| !telltale && !text.to_lowercase().contains(TELLTALE_WORDS));
        Self { code, message, request_id, voice }
    }
}

/// A code and a message that stand side by side; one of them may be missing.
struct Spoken {
    code: Option<String>,
    message: Option<String>,
}

impl Spoken {
    fn in_object(object: &Map<String, Value>) -> Option<Self> {
        NAMES.iter().find_map(|(code, message)| {
            let code = object.get(*code).and_then(code_text);
            let message = object.get(*message).and_then(text);
            (code.is_some() || message.is_some()).then_some(Self { code, message })
        })
    }

    /// The code tells whose voice it is; a bare number, or none, leaves it to the shape.
    fn voice(&self, in_vbs_wrapper: bool) -> Voice {
        let is_vbs = match self.code.as_deref() {
            Some(code) if !is_number(code) => VBS_CODES.iter().any(|prefix| code.starts_with(prefix)),
            _ => in_vbs_wrapper && self.message.is_some(),
        };
        if is_vbs { Voice::Vbs } else { Voice::Other }
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

fn is_number(code: &str) -> bool {
    code.bytes().all(|b| b.is_ascii_digit())
}

/// Whether a telltale code stands anywhere, in `details` too: its message may stand anywhere as well.
fn holds_telltale_code(value: &Value) -> bool {
    match value {
        Value::String(text) => TELLTALE_CODES.contains(&text.as_str()),
        Value::Array(values) => values.iter().any(holds_telltale_code),
        Value::Object(members) => members.values().any(holds_telltale_code),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

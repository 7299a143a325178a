//! The JSON of a 200, read strictly where a wrong reading would be a false answer, and leniently where the upstream may
//! grow.
//!
//! Strict: UTF-8 throughout (serde_json accepts invalid UTF-8 in values that it ignores), objects are objects, numbers are
//! 64-bit integers, a known key occurs once, the four IDs of a share are present. Lenient: an unknown key is ignored and
//! reported to the caller of [`read_share`]. An error names the JSON path and never the value, which may be a secret.

use std::fmt;

use serde::Deserialize;

use crate::domain::{BackupShare, ShareId, object};

/// The whole body.
#[derive(Deserialize)]
struct Envelope {
    #[serde(deserialize_with = "object")]
    shared: BackupShare,
}

/// Why a body is not the share asked for: a JSON path and a sentence, neither of which holds a value of the body.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the body of a 200 as the share with the `requested` ID. `unknown` gets the path of each unknown key.
pub fn read_share(
    body: &[u8],
    requested: &ShareId,
    mut unknown: impl FnMut(String),
) -> Result<BackupShare, Malformed> {
    if body.is_empty() {
        return Err(Malformed("the body is empty".into()));
    }
    let text = std::str::from_utf8(body)
        .map_err(|error| Malformed(format!("the body is not UTF-8 at byte {}", error.valid_up_to())))?;
    let mut ignored = Vec::new();
    let Ok(Envelope { shared: share }) = parse(text, &mut ignored) else {
        return Err(Malformed::locate(text));
    };
    // Only now: the unknown keys of a malformed body are not counted.
    ignored.into_iter().for_each(&mut unknown);
    if !requested.matches(&share.id) {
        return Err(Malformed("shared.id: is not the ID asked for".into()));
    }
    Ok(share)
}

/// Reads the body; the paths of the keys that are not read go to `ignored`.
fn parse(text: &str, ignored: &mut Vec<String>) -> serde_json::Result<Envelope> {
    let mut json = serde_json::Deserializer::from_str(text);
    let mut note = |path: serde_ignored::Path<'_>| ignored.push(path.to_string());
    let envelope = object(serde_ignored::Deserializer::new(&mut json, &mut note))?;
    json.end()?;
    Ok(envelope)
}

impl Malformed {
    /// Reads a malformed text again, to find out where it is wrong: tracking the path doubles the cost of reading, and few
    /// replies need it.
    fn locate(text: &str) -> Self {
        let mut json = serde_json::Deserializer::from_str(text);
        let mut track = serde_path_to_error::Track::new();
        let read: Result<Envelope, _> = object(serde_path_to_error::Deserializer::new(&mut json, &mut track));
        match read.map(|_| json.end()) {
            Err(error) => Self::at(&track.path().to_string(), &error),
            Ok(Err(error)) => Self::at(".", &error),
            Ok(Ok(())) => Self("cannot be read".into()),
        }
    }

    /// Keeps of serde's message only what our own types put into it: the value that it quotes may be a secret.
    fn at(path: &str, error: &serde_json::Error) -> Self {
        let whole = error.to_string();
        let text = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(text, _)| text);
        let what = match error.classify() {
            _ if text.starts_with("missing field") || text.starts_with("duplicate field") => text,
            serde_json::error::Category::Data => {
                match text.rfind(EXPECTED).and_then(|at| text.get(at + 2..)) {
                    Some("expected i64") => "expected a whole number of 64 bits",
                    Some(expected) => expected,
                    None => "cannot be read",
                }
            }
            serde_json::error::Category::Eof => "the JSON is cut short",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "is not JSON",
        };
        let path: String = path.chars().filter(|c| c.is_ascii_graphic()).take(128).collect();
        Self(match path.as_str() {
            "" | "." => format!("the body: {what}"),
            path => format!("{path}: {what}"),
        })
    }
}

/// How serde's message goes on after the value: from here on it is our own types' words.
const EXPECTED: &str = ", expected ";

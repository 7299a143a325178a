//! Parses the body of a 200.
//!
//! Strict where a lenient reading could return a wrong value: UTF-8 throughout, objects are objects, numbers are 64-bit
//! integers, a known key occurs once, the four IDs of a share are present. An unknown key is ignored, since the upstream may
//! add keys, and reported to the caller of [`read_share`].
//!
//! An error names the JSON path and what is required there. It never holds a value of the body, nor serde's message, which
//! quotes the value: it may be a secret. `tests/gateway/upstream_replies.rs` has an example of each rule.

use serde::Deserialize;
use serde_json::Value;
use serde_json::error::Category;

use crate::domain::{BackupShare, Object, REQUIRED_KEYS, ShareId, expected_value};

/// The whole body.
#[derive(Deserialize)]
struct Envelope {
    shared: Object<BackupShare>,
}

/// Parses the body of a 200 as the share with the `requested` ID. `on_unknown` gets the path of each unknown key. The error
/// is a JSON path and a reason.
pub fn read_share(
    body: &[u8],
    requested: &ShareId,
    on_unknown: impl FnMut(String),
) -> Result<BackupShare, String> {
    if body.is_empty() {
        return Err("the body is empty".into());
    }
    // serde_json accepts invalid UTF-8 in values that are ignored.
    let text = std::str::from_utf8(body)
        .map_err(|error| format!("the body is not UTF-8 at byte {}", error.valid_up_to()))?;
    let mut unknown_paths = Vec::new();
    let share = parse(text, &mut unknown_paths).map_err(|_| locate_problem(text))?;
    // The unknown keys of a malformed body are not counted.
    unknown_paths.into_iter().for_each(on_unknown);
    if !requested.matches(&share.id) {
        return Err("shared.id: is not the requested ID".into());
    }
    Ok(share)
}

fn parse(text: &str, unknown_paths: &mut Vec<String>) -> serde_json::Result<BackupShare> {
    let mut json = serde_json::Deserializer::from_str(text);
    // serde_ignored shows an `Option` as `.?`.
    let mut on_unknown =
        |path: serde_ignored::Path<'_>| unknown_paths.push(path.to_string().replace(".?", ""));
    let body = serde_ignored::Deserializer::new(&mut json, &mut on_unknown);
    let Object(Envelope { shared: Object(share) }) = Object::deserialize(body)?;
    json.end()?;
    Ok(share)
}

/// Parses a malformed body again with its path tracked, which doubles the cost of parsing: valid bodies are spared it.
fn locate_problem(text: &str) -> String {
    let json = &mut serde_json::Deserializer::from_str(text);
    let parsed: Result<Object<Envelope>, _> = serde_path_to_error::deserialize(json);
    let (path, category) = match parsed {
        Err(error) => (error.path().to_string(), error.inner().classify()),
        // The object is valid, so something follows it.
        Ok(_) => (".".to_owned(), Category::Syntax),
    };
    let path: String = path.chars().filter(char::is_ascii_graphic).take(128).collect();
    let location = if path == "." { "the body" } else { &path };
    match category {
        Category::Data => format!("{location}: {}", data_problem(text, &path)),
        Category::Eof => format!("{location}: the JSON is truncated"),
        Category::Syntax | Category::Io => format!("{location}: is not JSON"),
    }
}

/// Why valid JSON is not a share. An error of serde at an object means that it is none, or that a key is missing or repeated.
fn data_problem(text: &str, path: &str) -> String {
    let body: Value = serde_json::from_str(text).unwrap_or_default();
    let (pointer, required_keys) = match path {
        "." => ("", &["shared"][..]),
        "shared" => ("/shared", &REQUIRED_KEYS[..]),
        "shared.backup" => ("/shared/backup", &[][..]),
        _ => return format!("expected {}", expected_value(path.rsplit('.').next().unwrap_or_default())),
    };
    match body.pointer(pointer).and_then(Value::as_object) {
        None => "expected an object".to_owned(),
        Some(members) => match required_keys.iter().find(|key| !members.contains_key(**key)) {
            Some(key) => format!("the key {key} is missing"),
            None => "a known key occurs twice".to_owned(),
        },
    }
}

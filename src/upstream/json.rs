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

use crate::domain::{BackupShare, KNOWN_KEYS, Object, REQUIRED_KEYS, ShareId, expected_value};

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
    let (share, unknown_paths) = parse(text).map_err(|_| locate_problem(text))?;
    // The unknown keys of a malformed body are not counted.
    unknown_paths.into_iter().for_each(on_unknown);
    if !requested.matches(&share.id) {
        return Err("shared.id: is not the requested ID".into());
    }
    Ok(share)
}

/// The share, and the path of each unknown key, such as `shared.backup.key`.
fn parse(text: &str) -> serde_json::Result<(BackupShare, Vec<String>)> {
    let body: Object<Envelope> = serde_json::from_str(text)?;
    let Object { value: share, unknown_keys } = body.value.shared;
    let mut paths = body.unknown_keys;
    paths.extend(unknown_keys.iter().map(|key| format!("shared.{key}")));
    let of_backup = share.backup.iter().flat_map(|backup| &backup.unknown_keys);
    paths.extend(of_backup.map(|key| format!("shared.backup.{key}")));
    Ok((share, paths))
}

/// Parses a malformed body again with its path tracked, which doubles the cost of parsing: valid bodies are spared it.
fn locate_problem(text: &str) -> String {
    let json = &mut serde_json::Deserializer::from_str(text);
    let parsed: Result<Object<Envelope>, _> = serde_path_to_error::deserialize(json);
    let Err(error) = parsed else { return "the body: is not JSON".into() };
    let (path, error) = (error.path().to_string(), error.inner());
    let path: String = path.chars().filter(char::is_ascii_graphic).take(128).collect();
    let location = if path == "." { "the body" } else { &path };
    match error.classify() {
        Category::Data => format!("{location}: {}", data_problem(&path, text, offset(text, error))),
        Category::Eof => format!("{location}: the JSON is truncated"),
        Category::Syntax | Category::Io => format!("{location}: is not JSON"),
    }
}

/// The number of bytes of `text` that were read before the error.
fn offset(text: &str, error: &serde_json::Error) -> usize {
    let lines_before = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    lines_before.map(str::len).sum::<usize>() + error.column()
}

/// Why valid JSON is not a share. At an object, the reader stops behind a repeated key, behind an object in which a key is
/// missing, or at a value that is no object.
fn data_problem(path: &str, text: &str, offset: usize) -> String {
    let (pointer, closing, required_keys) = match path {
        "." => ("", "", &["shared"][..]),
        "shared" => ("/shared", "}", &REQUIRED_KEYS[..]),
        "shared.backup" => ("/shared/backup", "}}", &[][..]),
        _ => return format!("expected {}", expected_value(path.rsplit('.').next().unwrap_or_default())),
    };
    let (read, rest) = text.split_at_checked(offset).unwrap_or((text, ""));
    if rest.trim_start().starts_with(':') {
        // Text of the body is passed on only if it is a known key.
        let text = read.trim_end().trim_end_matches('"').rsplit('"').next().unwrap_or_default();
        return match KNOWN_KEYS.iter().find(|key| **key == text) {
            Some(key) => format!("the key {key} occurs twice"),
            None => "expected an object".to_owned(),
        };
    }
    let body: Value = serde_json::from_str(&format!("{read}{closing}")).unwrap_or_default();
    let missing = body
        .pointer(pointer)
        .and_then(Value::as_object)
        .and_then(|object| required_keys.iter().find(|key| !object.contains_key(**key)));
    missing.map_or("expected an object".into(), |key| format!("the key {key} is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_before_a_colon_is_no_key_and_is_not_repeated() {
        for body in
            [r#""SECRET": 1"#, r#"{"shared": "SECRET": 1}"#, r#"{"shared": {"backup": "SECRET" : 1}}"#]
        {
            let problem = locate_problem(body);
            assert!(problem.ends_with(": expected an object"), "{problem}");
        }
    }

    #[test]
    fn path_of_unknown_key_has_every_character_of_it() {
        let body = r#"{"shared": {"id": "i", "backup_id": "b", "from_project_id": "f", "to_project_id": "t",
            "backup": {"size": 1, "?": 1, "a.?b": 1}}, "new": [1]}"#;
        let (_, paths) = parse(body).unwrap();
        assert_eq!(paths, ["new", "shared.backup.?", "shared.backup.a.?b"]);
    }
}

//! What the upstream says about a share: the JSON of a 200, read strictly where a wrong reading would be a lie and
//! leniently where the upstream may grow.
//!
//! Strict: UTF-8 throughout, objects are objects, numbers are integers of 64 bits, a known key stands once, the four
//! IDs of a share are there. Lenient: a key that nobody knows is passed over and told to the caller of [`Share::read`].
//! What is wrong is told by its JSON path and never by its value, which may be a secret.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

use super::target::ShareId;
use super::timestamp::Timestamp;

/// A share as the upstream tells it.
#[derive(Debug, serde::Deserialize)]
pub struct Share {
    /// The ID of the share.
    pub id: String,
    /// The ID of the shared backup.
    pub backup_id: String,
    /// The project that shares.
    pub from_project_id: String,
    /// The project that is shared with.
    pub to_project_id: String,
    /// When the share was made.
    #[serde(default, deserialize_with = "timestamp")]
    pub created_at: Option<Timestamp>,
    /// When the share was changed.
    #[serde(default, deserialize_with = "timestamp")]
    pub updated_at: Option<Timestamp>,
    /// The shared backup.
    #[serde(default, deserialize_with = "backup")]
    pub backup: Option<Backup>,
}

/// A backup as the upstream tells it; the fields are its keys.
#[derive(Debug, serde::Deserialize)]
#[expect(missing_docs, reason = "the upstream's keys; the .proto tells their meaning")]
pub struct Backup {
    pub id: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub status: Option<String>,
    pub fail_reason: Option<String>,
    pub size: Option<i64>,
    pub object_count: Option<i64>,
    pub container: Option<String>,
    pub availability_zone: Option<String>,
    pub volume_id: Option<String>,
    pub snapshot_id: Option<String>,
    pub is_incremental: Option<bool>,
    // An alias would make a body that has both spellings an error.
    has_dependent_backups: Option<bool>,
    has_dependent_backup: Option<bool>,
    pub service_metadata: Option<String>,
    #[serde(default, deserialize_with = "timestamp")]
    pub data_timestamp: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp")]
    pub created_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp")]
    pub updated_at: Option<Timestamp>,
}

impl Backup {
    /// Whether other backups depend on this one, in the spelling that is not null.
    pub fn has_dependent_backups(&self) -> Option<bool> {
        self.has_dependent_backups.or(self.has_dependent_backup)
    }
}

#[derive(serde::Deserialize)]
struct Envelope {
    #[serde(deserialize_with = "object")]
    shared: Share,
}

/// Why a body is not the share asked for: a JSON path and a sentence, neither of which holds a value of the body.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Share {
    /// Reads the body of a 200 as the share `asked` for. `unknown` is told the path of each key that nobody knows.
    pub fn read(body: &[u8], asked: &ShareId, mut unknown: impl FnMut(String)) -> Result<Self, Malformed> {
        if body.is_empty() {
            return Err(Malformed("the body is empty".into()));
        }
        let text = std::str::from_utf8(body)
            .map_err(|error| Malformed(format!("the body is not UTF-8 at byte {}", error.valid_up_to())))?;
        let mut report = |path: serde_ignored::Path<'_>| unknown(path.to_string());
        let mut json = serde_json::Deserializer::from_str(text);
        let read = object::<Envelope, _>(serde_ignored::Deserializer::new(&mut json, &mut report));
        let Ok(Envelope { shared: share }) = read.and_then(|envelope| json.end().map(|()| envelope)) else {
            return Err(Malformed::in_text(text));
        };
        if !asked.names(&share.id) {
            return Err(Malformed("shared.id: is not the ID asked for".into()));
        }
        Ok(share)
    }
}

impl Malformed {
    /// Reads a text that is not a share once more, to tell where it went wrong: to keep track of the path doubles the cost
    /// of reading, and few replies need it.
    fn in_text(text: &str) -> Self {
        let mut json = serde_json::Deserializer::from_str(text);
        let mut track = serde_path_to_error::Track::new();
        match object::<Envelope, _>(serde_path_to_error::Deserializer::new(&mut json, &mut track)) {
            Err(error) => Self::at(&track.path().to_string(), &error),
            Ok(_) => {
                json.end().map_or_else(|error| Self::at(".", &error), |()| Self("cannot be read".into()))
            }
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

/// An object. A derived struct would take an array of its fields as well.
fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Object<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_map(Object(PhantomData))
}

/// An object, or null.
fn backup<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Backup>, D::Error> {
    struct Nullable(Backup);
    impl<'de> Deserialize<'de> for Nullable {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            object(deserializer).map(Self)
        }
    }
    Ok(Option::<Nullable>::deserialize(deserializer)?.map(|Nullable(backup)| backup))
}

/// A time; null and `""` are none.
fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    const TIME: &str = "a time such as 2017-08-08T04:03:27.000000";
    match Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => Timestamp::parse(text)
            .map(Some)
            .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Other("text"), &TIME)),
    }
}

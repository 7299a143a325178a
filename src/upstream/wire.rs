//! What the upstream says about a share: the JSON of a 200, read strictly where a wrong reading would be a lie and
//! leniently where the upstream may grow.
//!
//! Strict: UTF-8 throughout, objects are objects, numbers are integers of 64 bits, a known key stands once, the four
//! IDs of a share are there. Lenient: a key that nobody knows is passed over and told to the caller of [`Share::read`].
//! What is wrong is told by its JSON path and never by its value, which may be a secret.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::target::ShareId;
use crate::timestamp::Timestamp;

/// Declares an object of the upstream's, whose fields are its keys, and how it is read: as serde would derive it, but only
/// an object is one (serde takes an array of the values as well), and the keys that nobody knows are kept. A wrapper
/// that does the latter around serde's own reading makes a string of each key.
macro_rules! object {
    ($(#[$about:meta])* $scope:vis struct $name:ident { $($(#[$doc:meta])* $visible:vis $key:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug)]
        $scope struct $name {
            $($(#[$doc])* $visible $key: $type,)*
            unknown: Vec<String>,
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Object;
                impl<'de> Visitor<'de> for Object {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        let mut unknown = Vec::new();
                        $(let mut $key = None;)*
                        while let Some(Text(key)) = map.next_key()? {
                            match &*key {
                                $(stringify!($key) if $key.is_some() => {
                                    return Err(de::Error::duplicate_field(stringify!($key)));
                                })*
                                $(stringify!($key) => $key = Some(map.next_value::<Read<$type>>()?.0),)*
                                _ => {
                                    map.next_value::<IgnoredAny>()?;
                                    unknown.push(key.into_owned());
                                }
                            }
                        }
                        Ok($name {
                            $($key: $key.map_or_else(|| Field::absent(stringify!($key)), Ok)?,)*
                            unknown,
                        })
                    }
                }
                deserializer.deserialize_map(Object)
            }
        }
    };
}

object! {
    /// A share as the upstream tells it.
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
        pub created_at: Option<Timestamp>,
        /// When the share was changed.
        pub updated_at: Option<Timestamp>,
        /// The shared backup.
        pub backup: Option<Backup>,
    }
}

object! {
    /// A backup as the upstream tells it; the fields are its keys.
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
        // The two spellings of one key.
        has_dependent_backups: Option<bool>,
        has_dependent_backup: Option<bool>,
        pub service_metadata: Option<String>,
        pub data_timestamp: Option<Timestamp>,
        pub created_at: Option<Timestamp>,
        pub updated_at: Option<Timestamp>,
    }
}

object! {
    /// The whole body.
    struct Envelope {
        shared: Share,
    }
}

impl Backup {
    /// Whether other backups depend on this one, in the spelling that is not null.
    pub fn has_dependent_backups(&self) -> Option<bool> {
        self.has_dependent_backups.or(self.has_dependent_backup)
    }
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
        let Ok(Envelope { shared: mut share, unknown: beside }) = serde_json::from_str(text) else {
            return Err(Malformed::in_text(text));
        };
        let of_share = std::mem::take(&mut share.unknown).into_iter().map(|key| format!("shared.{key}"));
        let of_backup = share.backup.as_mut().map(|backup| std::mem::take(&mut backup.unknown));
        let of_backup = of_backup.into_iter().flatten().map(|key| format!("shared.backup.{key}"));
        beside.into_iter().chain(of_share).chain(of_backup).for_each(&mut unknown);
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
        match Envelope::deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track)) {
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

/// What a key may hold, and what it means that there is no such key.
trait Field<'de>: Sized {
    fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
    fn absent<E: de::Error>(key: &'static str) -> Result<Self, E>;
}

impl<'de> Field<'de> for String {
    fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }
    fn absent<E: de::Error>(key: &'static str) -> Result<Self, E> {
        Err(E::missing_field(key))
    }
}

impl<'de> Field<'de> for Share {
    fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }
    fn absent<E: de::Error>(key: &'static str) -> Result<Self, E> {
        Err(E::missing_field(key))
    }
}

impl<'de, T: Deserialize<'de>> Field<'de> for Option<T> {
    fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)
    }
    fn absent<E: de::Error>(_: &'static str) -> Result<Self, E> {
        Ok(None)
    }
}

/// A time; null and `""` are none.
impl<'de> Field<'de> for Option<Timestamp> {
    fn read<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const TIME: &str = "a time such as 2017-08-08T04:03:27.000000";
        match Option::<Text<'de>>::deserialize(deserializer)?.as_ref().map(|Text(text)| &**text) {
            None | Some("") => Ok(None),
            Some(text) => Timestamp::parse(text)
                .map(Some)
                .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Other("text"), &TIME)),
        }
    }
    fn absent<E: de::Error>(_: &'static str) -> Result<Self, E> {
        Ok(None)
    }
}

/// A [`Field`] as serde reads it.
struct Read<T>(T);

impl<'de, T: Field<'de>> Deserialize<'de> for Read<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::read(deserializer).map(Self)
    }
}

/// A string, not copied unless something in it is escaped.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct String;
        impl<'de> Visitor<'de> for String {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(String)
    }
}

//! A backup share as the upstream describes it. The fields are the keys of its JSON; `None` is a key that is absent or null.
//!
//! Both types are read by serde's derive. It would also read an array of the values, in order; [`object`] allows nothing
//! but an object.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::timestamp::{self, Timestamp};

/// A backup share.
#[derive(Clone, Debug, Deserialize)]
pub struct BackupShare {
    /// The ID of the share.
    pub id: String,
    /// The ID of the shared backup.
    pub backup_id: String,
    /// The project that shares the backup.
    pub from_project_id: String,
    /// The project that the backup is shared with.
    pub to_project_id: String,
    /// When the share was created.
    #[serde(default, deserialize_with = "timestamp::optional")]
    pub created_at: Option<Timestamp>,
    /// When the share was last changed.
    #[serde(default, deserialize_with = "timestamp::optional")]
    pub updated_at: Option<Timestamp>,
    /// The shared backup.
    #[serde(default, deserialize_with = "optional_object")]
    pub backup: Option<Backup>,
}

/// The shared backup. The `.proto` documents the fields.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the upstream's keys; the .proto documents them")]
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
    #[serde(default, deserialize_with = "timestamp::optional")]
    pub data_timestamp: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp::optional")]
    pub created_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp::optional")]
    pub updated_at: Option<Timestamp>,
}

impl Backup {
    /// Whether other backups depend on this one: the spelling that is not null, the plural if neither is.
    pub fn has_dependent_backups(&self) -> Option<bool> {
        self.has_dependent_backups.or(self.has_dependent_backup)
    }
}

/// Reads a `T` of an object and of nothing else. For `#[serde(deserialize_with)]`.
pub(crate) fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_map(Object(PhantomData))
}

/// The same of an object or null.
fn optional_object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_any(OptionalObject(PhantomData))
}

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

struct OptionalObject<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OptionalObject<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Option<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Some)
    }
}

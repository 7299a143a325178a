//! A backup share. The fields are the keys of the upstream's JSON ("Querying the Details of a Shared Backup" in the vendor's VBS API
//! reference); `None` is a key that is absent or null.

use serde::{Deserialize, Deserializer};

use super::object::Object;
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
    #[serde(default, deserialize_with = "optional_backup")]
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
    // The vendor's sample spells this key in the plural, its table in the singular.
    has_dependent_backups: Option<bool>,
    has_dependent_backup: Option<bool>,
    pub service_metadata: Option<String>,
    #[serde(default, deserialize_with = "timestamp::optional")]
    pub data_timestamp: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp::optional")]
    pub created_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "timestamp::optional")]
    pub updated_at: Option<Timestamp>,
    /// The keys of the object that are none of these.
    #[serde(skip)]
    pub(crate) unknown_keys: Vec<String>,
}

impl Backup {
    /// Whether other backups depend on this one: the spelling that is not null, the plural if neither is.
    pub fn has_dependent_backups(&self) -> Option<bool> {
        self.has_dependent_backups.or(self.has_dependent_backup)
    }
}

/// The keys that a share must have.
pub(crate) const REQUIRED_KEYS: [&str; 4] = ["id", "backup_id", "from_project_id", "to_project_id"];

/// The keys of a share and of its backup.
pub(crate) const KNOWN_KEYS: [&str; 23] = [
    "shared",
    "id",
    "backup_id",
    "from_project_id",
    "to_project_id",
    "created_at",
    "updated_at",
    "backup",
    "name",
    "description",
    "status",
    "fail_reason",
    "size",
    "object_count",
    "container",
    "availability_zone",
    "volume_id",
    "snapshot_id",
    "is_incremental",
    "has_dependent_backups",
    "has_dependent_backup",
    "service_metadata",
    "data_timestamp",
];

/// The value that a key of the upstream's JSON requires, for the error about a malformed body.
pub(crate) fn expected_value(key: &str) -> &'static str {
    match key {
        "size" | "object_count" => "a 64-bit integer",
        "is_incremental" | "has_dependent_backups" | "has_dependent_backup" => "a boolean",
        "data_timestamp" | "created_at" | "updated_at" => "a time such as 2017-08-08T04:03:27.000000",
        _ => "a string",
    }
}

fn optional_backup<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Backup>, D::Error> {
    let object = Option::<Object<Backup>>::deserialize(deserializer)?;
    Ok(object.map(|Object { value, unknown_keys }| Backup { unknown_keys, ..value }))
}

//! From [`domain::BackupShare`] to the protobuf message. Strings are moved; no value is added, and unset fields stay unset.

use crate::domain;
use crate::proto::{Backup, BackupShare, GetBackupShareResponse};

impl From<domain::BackupShare> for GetBackupShareResponse {
    fn from(share: domain::BackupShare) -> Self {
        let backup_share = BackupShare {
            id: Some(share.id),
            backup_id: Some(share.backup_id),
            from_project_id: Some(share.from_project_id),
            to_project_id: Some(share.to_project_id),
            created_at: share.created_at.map(timestamp),
            updated_at: share.updated_at.map(timestamp),
            backup: share.backup.map(Backup::from),
        };
        Self { backup_share: Some(backup_share) }
    }
}

impl From<domain::Backup> for Backup {
    fn from(backup: domain::Backup) -> Self {
        Self {
            has_dependent_backups: backup.has_dependent_backups(),
            id: backup.id,
            name: backup.name,
            description: backup.description,
            status: backup.status,
            fail_reason: backup.fail_reason,
            size: backup.size,
            object_count: backup.object_count,
            container: backup.container,
            availability_zone: backup.availability_zone,
            volume_id: backup.volume_id,
            snapshot_id: backup.snapshot_id,
            is_incremental: backup.is_incremental,
            service_metadata: backup.service_metadata,
            data_timestamp: backup.data_timestamp.map(timestamp),
            created_at: backup.created_at.map(timestamp),
            updated_at: backup.updated_at.map(timestamp),
        }
    }
}

fn timestamp(time: domain::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.seconds, nanos: time.nanos }
}

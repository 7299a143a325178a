//! The reply of GetBackupShare, field by field.

use prost_types::Timestamp;

use crate::support::*;
use backup_share_gateway::proto::{Backup, BackupShare};

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn time(seconds: i64, nanos: i32) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos })
}

/// The sample of the vendor's document, field by field.
fn documented_share() -> BackupShare {
    BackupShare {
        id: text("8332443e-9866-41d8-8a58-a898cf5db030"),
        backup_id: text("066b1e37-9305-4057-97e5-2e99b21fc71d"),
        from_project_id: text("c13f5220dc1949b0b741ea81a7cd5554"),
        to_project_id: text("722513ed0a324dadaabe5b2d0fe848c9"),
        // 2017-08-22T08:43:16.699374
        created_at: time(1_503_391_396, 699_374_000),
        updated_at: None,
        backup: Some(Backup {
            id: text("066b1e37-9305-4057-97e5-2e99b21fc71d"),
            name: text("lbf"),
            description: None,
            status: text("available"),
            fail_reason: text("Invalid InitiatorConnector protocol specified DSWARE"),
            size: Some(1),
            object_count: Some(0),
            container: None,
            availability_zone: text("AZ1"),
            volume_id: text("a7d7783f-02b7-4645-b0e3-61df63f0ba10"),
            snapshot_id: None,
            is_incremental: None,
            has_dependent_backups: None,
            service_metadata: None,
            // 2017-08-08T04:03:27.000000
            data_timestamp: time(1_502_165_007, 0),
            created_at: time(1_502_165_007, 0),
            // 2017-08-16T07:24:24.786297
            updated_at: time(1_502_868_264, 786_297_000),
        }),
    }
}

#[tokio::test]
async fn documented_share_is_returned_field_by_field() {
    let upstream = Upstream::documented().await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let reply = gateway.get().await.unwrap();
    assert!(!reply.metadata().get("x-request-id").unwrap().is_empty());
    assert_eq!(reply.into_inner().backup_share, Some(documented_share()));
}

#[tokio::test]
async fn sandbox_returns_documented_share_for_both_projects() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    for project in ["c13f5220dc1949b0b741ea81a7cd5554", "722513ed0a324dadaabe5b2d0fe848c9"] {
        let reply = gateway.call(request(project, SHARE)).await.unwrap().into_inner();
        assert_eq!(reply.backup_share, Some(documented_share()));
    }
    let other = gateway.call_error(request("17fbda95add24720a4038ba4b1c705ed", SHARE)).await;
    assert_eq!(other.reason, "BACKUP_SHARE_NOT_FOUND");
}

#[tokio::test]
async fn sparse_share_leaves_missing_fields_unset() {
    let gateway = Gateway::start(&["--sandbox"]).await;
    let call = request("17fbda95add24720a4038ba4b1c705ed", "ac0fb374-a288-4399-ac63-cc080a13a2ee");
    let share = gateway.call(call).await.unwrap().into_inner().backup_share;
    let expected = BackupShare {
        id: text("ac0fb374-a288-4399-ac63-cc080a13a2ee"),
        backup_id: text("87566ed6-72cb-4053-aa6e-6f6216b3d507"),
        from_project_id: text("17fbda95add24720a4038ba4b1c705ed"),
        to_project_id: text("91d687759aed45d28b5f6084bc2fa8ad"),
        backup: Some(Backup {
            id: text("87566ed6-72cb-4053-aa6e-6f6216b3d507"),
            name: text("c2c-test-buckup"),
            status: text("available"),
            size: Some(10),
            object_count: Some(0),
            container: text("a704c75f-f0d1-4efa-9fd6-7557fe1ee8d3"),
            availability_zone: text("eu-de-01"),
            volume_id: text("5024a06e-6990-4f12-9dcc-8fe26b01a710"),
            snapshot_id: text("a704c75f-f0d1-4efa-9fd6-7557fe1ee8d3"),
            ..Backup::default()
        }),
        ..BackupShare::default()
    };
    assert_eq!(share, Some(expected));
}

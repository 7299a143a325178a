//! The call on the documented share, and what the upstream gets to see of it.

use backup_share_gateway::proto::{Backup, BackupShare};
use prost_types::Timestamp;

use crate::harness::*;

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
async fn the_documented_share_comes_back_field_by_field() {
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let gateway = Running::before(&upstream).await;
    let reply = gateway.get().await.unwrap();
    assert!(!reply.metadata().get("x-request-id").unwrap().is_empty());
    assert_eq!(reply.into_inner().backup_share, Some(documented_share()));
}

#[tokio::test]
async fn the_sandbox_answers_with_the_documented_share_for_either_of_its_projects() {
    let gateway = Running::start(&["--sandbox"]).await;
    for project in ["c13f5220dc1949b0b741ea81a7cd5554", "722513ed0a324dadaabe5b2d0fe848c9"] {
        let reply = gateway.call(request(project, SHARE)).await.unwrap().into_inner();
        assert_eq!(reply.backup_share, Some(documented_share()));
    }
    let other =
        Failure::of(gateway.call(request("17fbda95add24720a4038ba4b1c705ed", SHARE)).await.unwrap_err());
    assert_eq!(other.reason, "BACKUP_SHARE_NOT_FOUND");
}

#[tokio::test]
async fn a_sparse_share_without_a_content_type_leaves_the_rest_unset() {
    let gateway = Running::start(&["--sandbox"]).await;
    let asked = request("17fbda95add24720a4038ba4b1c705ed", "ac0fb374-a288-4399-ac63-cc080a13a2ee");
    let share = gateway.call(asked).await.unwrap().into_inner().backup_share;
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

#[tokio::test]
async fn the_upstream_gets_what_the_contract_lists_and_nothing_else() {
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let gateway = Running::before(&upstream).await;
    let mut asked = request(PROJECT, &SHARE.to_uppercase());
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (name, value) in [
        ("x-request-id", "my-request"),
        ("traceparent", traceparent),
        ("tracestate", "vendor=1"),
        ("authorization", "Bearer caller"),
        ("cookie", "session=caller"),
        ("x-project-id", "caller"),
        ("x-forwarded-for", "10.0.0.1"),
        ("accept-encoding", "gzip"),
    ] {
        asked.metadata_mut().insert(name, value.parse().unwrap());
    }
    let reply = gateway.call(asked).await.unwrap();
    assert_eq!(reply.metadata().get("x-request-id").unwrap(), "my-request");

    let requests = upstream.requests();
    let [seen] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(seen.line, format!("GET /v2/{PROJECT}/os-vendor-backup-sharing/{SHARE} HTTP/1.1"));
    let mut headers = seen.headers.clone();
    headers.sort();
    let mut expected: Vec<(String, String)> = [
        ("host", upstream.address.to_string()),
        ("x-auth-token", TOKEN.into()),
        ("accept", "application/json".into()),
        ("user-agent", concat!("backup-share-gateway/", env!("CARGO_PKG_VERSION")).into()),
        ("x-request-id", "my-request".into()),
        ("traceparent", traceparent.into()),
        ("tracestate", "vendor=1".into()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    expected.sort();
    assert_eq!(headers, expected);
}

#[tokio::test]
async fn the_path_of_the_url_stands_before_the_route() {
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let url = format!("--upstream-url={}/vbs/", upstream.url());
    let gateway = Running::start(&[&url, "--allow-plaintext-upstream"]).await;
    gateway.get().await.unwrap();
    assert_eq!(
        upstream.requests()[0].line,
        format!("GET /vbs/v2/{PROJECT}/os-vendor-backup-sharing/{SHARE} HTTP/1.1")
    );
}

#[tokio::test]
async fn a_broken_trace_context_or_request_id_is_not_continued() {
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let gateway = Running::before(&upstream).await;
    for traceparent in [
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "nonsense",
    ] {
        let mut asked = request(PROJECT, SHARE);
        asked.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
        asked.metadata_mut().insert("tracestate", "vendor=1".parse().unwrap());
        asked.metadata_mut().insert("x-request-id", "with a blank".parse().unwrap());
        let reply = gateway.call(asked).await.unwrap();
        let seen = upstream.requests().pop().unwrap();
        assert_eq!((seen.header("traceparent"), seen.header("tracestate")), (None, None), "{traceparent}");
        let made = seen.header("x-request-id").unwrap();
        assert_eq!(reply.metadata().get("x-request-id").unwrap(), made);
        assert!(made.len() == 32 && made.bytes().all(|b| b.is_ascii_hexdigit()), "{made}");
    }
}

#[tokio::test]
async fn the_upstreams_request_id_is_found_in_every_header_that_may_hold_it() {
    for header in ["x-request-id", "x-openstack-request-id", "x-compute-request-id", "x-iam-trace-id"] {
        let upstream = Upstream::replying(500, &[(header, "req-of-the-upstream")], "").await;
        let failure = Running::before(&upstream).await.failure().await;
        assert_eq!(failure.metadata("upstreamRequestId"), Some("req-of-the-upstream"), "{header}");
    }
    let long = "x".repeat(300);
    let upstream = Upstream::replying(500, &[("x-request-id", &long)], "").await;
    let failure = Running::before(&upstream).await.failure().await;
    assert_eq!(failure.metadata("upstreamRequestId"), Some("x".repeat(128).as_str()));
}

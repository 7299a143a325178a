//! Property tests with generated replies: no panic, and no OK with values that the JSON does not hold.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::support::*;

/// Any JSON value of limited depth.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        ".{0,12}".prop_map(Value::from),
        Just(json!("2017-08-08T04:03:27.000000")),
        Just(json!(SHARE)),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_]{0,8}",
        prop::sample::select(vec![
            "shared",
            "id",
            "backup",
            "size",
            "name",
            "error",
            "code",
            "message",
            "error_msg",
            "error_code",
            "title"
        ])
        .prop_map(str::to_owned),
    ]
}

/// The documented share with some values replaced.
fn any_share() -> impl Strategy<Value = Value> {
    let documented: Value = serde_json::from_str(DOCUMENTED).unwrap();
    let keys: Vec<String> = documented["shared"].as_object().unwrap().keys().cloned().collect();
    let backup_keys: Vec<String> =
        documented["shared"]["backup"].as_object().unwrap().keys().cloned().collect();
    let changes = prop::collection::vec((prop::sample::select(keys), any_json()), 0..2);
    let backup_changes = prop::collection::vec((prop::sample::select(backup_keys), any_json()), 0..3);
    (changes, backup_changes).prop_map(move |(changes, backup_changes)| {
        let mut body = documented.clone();
        for (key, value) in backup_changes {
            body["shared"]["backup"][key] = value;
        }
        for (key, value) in changes {
            body["shared"][key] = value;
        }
        body
    })
}

/// Whether each string, number and boolean of the reply equals the one in the JSON.
fn holds(body: &Value, reply: &backup_share_gateway::proto::BackupShare) -> bool {
    let shared = &body["shared"];
    let empty = Map::new();
    let backup = shared["backup"].as_object().unwrap_or(&empty);
    let text = |value: &Value, field: &Option<String>| value.as_str() == field.as_deref();
    let of_backup = |key: &str| backup.get(key).cloned().unwrap_or_default();
    let mut all = text(&shared["id"], &reply.id)
        && text(&shared["backup_id"], &reply.backup_id)
        && text(&shared["from_project_id"], &reply.from_project_id)
        && text(&shared["to_project_id"], &reply.to_project_id)
        && reply.backup.is_some() == shared["backup"].is_object();
    if let Some(found) = &reply.backup {
        for (key, field) in [
            ("id", &found.id),
            ("name", &found.name),
            ("description", &found.description),
            ("status", &found.status),
            ("fail_reason", &found.fail_reason),
            ("container", &found.container),
            ("availability_zone", &found.availability_zone),
            ("volume_id", &found.volume_id),
            ("snapshot_id", &found.snapshot_id),
            ("service_metadata", &found.service_metadata),
        ] {
            all &= text(&of_backup(key), field);
        }
        all &= of_backup("size").as_i64() == found.size
            && of_backup("object_count").as_i64() == found.object_count;
        all &= of_backup("is_incremental").as_bool() == found.is_incremental;
    }
    all
}

/// Sends generated upstream replies through a gateway.
fn through_the_gateway(
    strategy: impl Strategy<Value = (u16, Vec<u8>)>,
    cases: u32,
    check: impl Fn(u16, &[u8], Result<backup_share_gateway::proto::BackupShare, ErrorStatus>),
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let next = std::sync::Arc::new(std::sync::Mutex::new((200, Vec::new())));
    let served = std::sync::Arc::clone(&next);
    let (_upstream, gateway, client) = runtime.block_on(async {
        let upstream = Upstream::scripted(move |_, _| {
            let (status, body): (u16, Vec<u8>) = served.lock().unwrap().clone();
            reply(status, &[], body)
        })
        .await;
        let gateway = Gateway::with_flags(&upstream, &["--max-attempts=1"]).await;
        let client = gateway.client().await;
        (upstream, gateway, client)
    });
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases)
    });
    runner
        .run(&strategy, |(status, body)| {
            *next.lock().unwrap() = (status, body.clone());
            let mut client = client.clone();
            let result = runtime.block_on(async { get_share(&mut client).await });
            check(
                status,
                &body,
                result.map(|reply| reply.into_inner().backup_share.unwrap()).map_err(ErrorStatus::decode),
            );
            Ok(())
        })
        .unwrap();
    assert_eq!(runtime.block_on(gateway.metric("panics_total")), 0.0);
}

fn is_ok_only_by_what_the_json_holds(
    status: u16,
    body: &[u8],
    result: Result<backup_share_gateway::proto::BackupShare, ErrorStatus>,
) {
    match result {
        Ok(share) => {
            let body: Value = serde_json::from_slice(body).expect("an OK out of what is no JSON");
            assert!(status == 200 && holds(&body, &share), "{share:?} out of {body}");
        }
        Err(error) => {
            assert!(error.reason.starts_with("UPSTREAM_") || error.reason == "BACKUP_SHARE_NOT_FOUND")
        }
    }
}

#[test]
fn arbitrary_json_is_never_misread() {
    let statuses = prop::sample::select(vec![200, 400, 404, 500]);
    let bodies = prop_oneof![any_json(), any_json().prop_map(|value| json!({ "shared": value }))];
    let replies = (statuses, bodies.prop_map(|body| body.to_string().into_bytes()));
    through_the_gateway(replies, 600, is_ok_only_by_what_the_json_holds);
}

#[test]
fn changed_documented_share_is_never_misread() {
    let replies = any_share().prop_map(|body| (200, body.to_string().into_bytes()));
    through_the_gateway(replies, 600, is_ok_only_by_what_the_json_holds);
}

#[test]
fn arbitrary_bytes_and_truncated_share_are_malformed() {
    let bytes = prop::collection::vec(any::<u8>(), 0..64);
    let cut = (0..DOCUMENTED.len() - 3).prop_map(|length| DOCUMENTED.as_bytes()[..length].to_vec());
    let replies = prop_oneof![bytes, cut].prop_map(|body| (200, body));
    through_the_gateway(replies, 400, |_, _, result| {
        assert_eq!(result.expect_err("a broken body").reason, "UPSTREAM_MALFORMED_RESPONSE");
    });
}

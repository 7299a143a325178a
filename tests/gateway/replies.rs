//! The JSON of a share: what is read, what is left unset, what is malformed, each with its path.

use prost_types::Timestamp;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::*;
use backup_share_gateway::proto::BackupShare;

/// The documented share with one change.
fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut body: Value = serde_json::from_str(DOCUMENTED).unwrap();
    change(&mut body["shared"]);
    body.to_string()
}

async fn read(body: impl AsRef<[u8]>) -> BackupShare {
    let upstream = Upstream::replying(200, &[], body).await;
    Running::before(&upstream).await.get().await.unwrap().into_inner().backup_share.unwrap()
}

/// The message that follows the sentence for a malformed reply.
async fn malformed(body: impl AsRef<[u8]>) -> String {
    let upstream = Upstream::replying(200, &[("x-request-id", "req-1")], body).await;
    let failure = Running::before(&upstream).await.failure().await;
    assert_eq!((failure.code, failure.reason.as_str()), (Code::Internal, "UPSTREAM_MALFORMED_RESPONSE"));
    assert_eq!(failure.metadata("upstreamRequestId"), Some("req-1"));
    failure.message.split_once(": ").unwrap().1.to_owned()
}

const BODY: &str = "the body: expected an object with the key shared, which does not occur twice";
/// What `shared` must be.
const SHARED: &str =
    "an object with id, backup_id, from_project_id and to_project_id, in which no known key occurs twice";
const OPTIONAL_SHARE: [&str; 3] = ["created_at", "updated_at", "backup"];
const REQUIRED_SHARE: [&str; 4] = ["id", "backup_id", "from_project_id", "to_project_id"];
const STRINGS: [&str; 10] = [
    "id",
    "name",
    "description",
    "status",
    "fail_reason",
    "container",
    "availability_zone",
    "volume_id",
    "snapshot_id",
    "service_metadata",
];
const NUMBERS: [&str; 2] = ["size", "object_count"];
const FLAGS: [&str; 3] = ["is_incremental", "has_dependent_backups", "has_dependent_backup"];
const TIMES: [&str; 3] = ["data_timestamp", "created_at", "updated_at"];

fn backup_keys() -> impl Iterator<Item = &'static str> {
    STRINGS.into_iter().chain(NUMBERS).chain(FLAGS).chain(TIMES)
}

#[tokio::test]
async fn null_and_absent_are_unset_everywhere_but_in_the_four_ids() {
    for key in OPTIONAL_SHARE {
        read(changed(|share| share[key] = Value::Null)).await;
        read(changed(|share| drop(share.as_object_mut().unwrap().remove(key)))).await;
    }
    for key in REQUIRED_SHARE {
        let null = malformed(changed(|share| share[key] = Value::Null)).await;
        assert_eq!(null, format!("shared.{key}: expected a string"));
        let absent = malformed(changed(|share| drop(share.as_object_mut().unwrap().remove(key)))).await;
        assert_eq!(absent, format!("shared: expected {SHARED}"));
    }
    let nulls: Value =
        backup_keys().map(|key| (key.to_owned(), Value::Null)).collect::<serde_json::Map<_, _>>().into();
    for backup in [nulls, json!({})] {
        let share = read(changed(|share| share["backup"] = backup)).await;
        assert_eq!(share.backup, Some(Default::default()));
    }
}

#[tokio::test]
async fn a_string_of_any_length_arrives_letter_for_letter() {
    for length in [0, 1, 500, 1_000, 2_000, 8_000, 16_000, 17_000, 500_000] {
        let text: String = ('!'..='~').cycle().take(length).collect();
        let share = read(changed(|share| share["backup"]["service_metadata"] = text.clone().into())).await;
        assert!(share.backup.unwrap().service_metadata == Some(text), "{length} bytes");
    }
}

#[tokio::test]
async fn empty_zero_and_false_are_set() {
    let share = read(changed(|share| {
        for key in STRINGS {
            share["backup"][key] = json!("");
        }
        for key in NUMBERS {
            share["backup"][key] = json!(0);
        }
        share["backup"]["is_incremental"] = json!(false);
        share["backup"]["has_dependent_backups"] = json!(false);
        share["backup_id"] = json!("");
    }))
    .await;
    let (backup, empty) = (share.backup.unwrap(), Some(String::new()));
    assert_eq!(share.backup_id, empty);
    for value in [
        &backup.id,
        &backup.name,
        &backup.description,
        &backup.status,
        &backup.fail_reason,
        &backup.container,
        &backup.availability_zone,
        &backup.volume_id,
        &backup.snapshot_id,
        &backup.service_metadata,
    ] {
        assert_eq!(*value, empty);
    }
    assert_eq!((backup.size, backup.object_count), (Some(0), Some(0)));
    assert_eq!((backup.is_incremental, backup.has_dependent_backups), (Some(false), Some(false)));
}

#[tokio::test]
async fn a_value_of_another_type_is_malformed_and_told_by_its_path_alone() {
    let wrong = |key: &str, value: Value| malformed(changed(|share| share["backup"][key] = value));
    for key in STRINGS {
        for value in [json!(1), json!(true), json!(["SECRET"]), json!({"SECRET": 1})] {
            assert_eq!(wrong(key, value).await, format!("shared.backup.{key}: expected a string"));
        }
    }
    for key in NUMBERS {
        for value in
            [json!("1"), json!("SECRET, expected nothing"), json!(1.5), json!(1.0), json!(true), json!([1])]
        {
            assert_eq!(wrong(key, value).await, format!("shared.backup.{key}: expected a 64-bit integer"));
        }
    }
    for key in FLAGS {
        for value in [json!("true"), json!(0), json!("SECRET")] {
            assert_eq!(wrong(key, value).await, format!("shared.backup.{key}: expected a boolean"));
        }
    }
    for key in TIMES {
        for value in
            [json!("SECRET"), json!("2017-08-08"), json!("2017-02-29T00:00:00"), json!(1_502_165_007)]
        {
            let expected = format!("shared.backup.{key}: expected a time such as 2017-08-08T04:03:27.000000");
            assert_eq!(wrong(key, value).await, expected);
        }
    }
}

#[tokio::test]
async fn only_objects_are_objects() {
    let documented: Value = serde_json::from_str(DOCUMENTED).unwrap();
    let backup = &documented["shared"]["backup"];
    for value in [json!([backup]), json!([]), json!("x"), json!(1), json!(true)] {
        let message = malformed(changed(|share| share["backup"] = value)).await;
        assert_eq!(message, "shared.backup: expected an object in which no known key occurs twice");
    }
    for value in [json!([documented["shared"]]), json!([]), Value::Null, json!("x")] {
        let message = malformed(json!({ "shared": value }).to_string()).await;
        assert_eq!(message, format!("shared: expected {SHARED}"));
    }
    for body in [json!([documented["shared"]]).to_string(), "{}".into()] {
        assert_eq!(malformed(body).await, BODY);
    }
}

#[tokio::test]
async fn integers_keep_every_digit_up_to_their_bounds() {
    for value in [i64::MAX, i64::MIN, 9_007_199_254_740_993, -1] {
        let backup = read(changed(|share| {
            share["backup"]["size"] = json!(value);
            share["backup"]["object_count"] = json!(value);
        }))
        .await
        .backup
        .unwrap();
        assert_eq!((backup.size, backup.object_count), (Some(value), Some(value)));
    }
    for value in ["9223372036854775808", "-9223372036854775809", "1e3", "1E400", "99999999999999999999999"] {
        let body = DOCUMENTED.replace(r#""size": 1"#, &format!(r#""size": {value}"#));
        assert_eq!(malformed(body).await.split(':').next(), Some("shared.backup.size"), "{value}");
    }
}

#[tokio::test]
async fn times_without_a_zone_are_utc_and_cut_to_the_microsecond() {
    for (text, expected) in [
        ("2017-08-08T04:03:27.000000", Some((1_502_165_007, 0))),
        ("2017-08-08T04:03:27", Some((1_502_165_007, 0))),
        ("2017-08-08T04:03:27Z", Some((1_502_165_007, 0))),
        ("2017-08-08T12:03:27.5+08:00", Some((1_502_165_007, 500_000_000))),
        ("2017-08-08T04:03:27.9999999", Some((1_502_165_007, 999_999_000))),
        ("2017-08-08T04:03:27.1", Some((1_502_165_007, 100_000_000))),
        ("", None),
    ] {
        let share = read(changed(|share| {
            share["created_at"] = json!(text);
            share["updated_at"] = json!(text);
            for key in TIMES {
                share["backup"][key] = json!(text);
            }
        }))
        .await;
        let expected = expected.map(|(seconds, nanos)| Timestamp { seconds, nanos });
        let backup = share.backup.unwrap();
        for time in
            [share.created_at, share.updated_at, backup.data_timestamp, backup.created_at, backup.updated_at]
        {
            assert_eq!(time, expected, "{text}");
        }
    }
}

#[tokio::test]
async fn has_dependent_backups_is_read_in_both_spellings() {
    let absent = "absent";
    for (plural, singular, expected) in [
        (json!(true), json!(absent), Some(true)),
        (json!(absent), json!(true), Some(true)),
        (json!(null), json!(false), Some(false)),
        (json!(false), json!(null), Some(false)),
        (json!(null), json!(null), None),
        (json!(absent), json!(absent), None),
        (json!(true), json!(true), Some(true)),
    ] {
        let body = changed(|share| {
            let backup = share["backup"].as_object_mut().unwrap();
            backup.remove("has_dependent_backups");
            for (key, value) in [("has_dependent_backups", plural), ("has_dependent_backup", singular)] {
                if value != absent {
                    backup.insert(key.into(), value);
                }
            }
        });
        assert_eq!(read(&body).await.backup.unwrap().has_dependent_backups, expected, "{body}");
    }
}

#[tokio::test]
async fn a_known_key_that_stands_twice_is_malformed() {
    for (once, path) in [
        (r#""size": 1"#, "shared.backup"),
        (r#""snapshot_id": null"#, "shared.backup"),
        (r#""has_dependent_backups": null"#, "shared.backup"),
        (r#""updated_at": null"#, "shared"),
        (r#""backup_id": "066b1e37-9305-4057-97e5-2e99b21fc71d""#, "shared"),
    ] {
        assert!(DOCUMENTED.contains(once));
        let message = malformed(DOCUMENTED.replace(once, &format!("{once}, {once}"))).await;
        assert!(message.starts_with(&format!("{path}: expected an object")), "{message}");
        assert!(message.ends_with("in which no known key occurs twice"), "{message}");
    }
    let shared = DOCUMENTED.trim().strip_prefix('{').unwrap().strip_suffix('}').unwrap();
    assert_eq!(malformed(format!("{{{shared},{shared}}}")).await, BODY);
    let unknown = changed(|_| {}).replacen('{', r#"{"new":1,"new":2,"#, 1);
    read(unknown).await;
}

#[tokio::test]
async fn the_share_must_be_the_one_asked_for() {
    let other = "00000000-0000-4000-8000-000000000000";
    assert_eq!(malformed(DOCUMENTED.replace(SHARE, other)).await, "shared.id: is not the requested ID");
}

#[tokio::test]
async fn the_body_is_utf_8_throughout_and_nothing_follows_it() {
    let mut bad = changed(|share| share["backup"]["new"] = json!("MARK")).into_bytes();
    let at = bad.windows(4).position(|window| window == b"MARK").unwrap();
    bad[at] = 0xff;
    assert_eq!(malformed(&bad).await, format!("the body is not UTF-8 at byte {at}"));
    assert_eq!(malformed(format!("{DOCUMENTED}x")).await, "the body: is not JSON");
    assert_eq!(malformed(format!("{DOCUMENTED}{DOCUMENTED}")).await, "the body: is not JSON");
    assert!(malformed(format!("\u{feff}{DOCUMENTED}")).await.ends_with("is not JSON"));
    assert!(malformed(&DOCUMENTED[..200]).await.ends_with("the JSON is truncated"));
    assert_eq!(malformed("").await, "the body is empty");
    read(format!(" \r\n\t{DOCUMENTED}\n")).await;
}

#[tokio::test]
async fn strings_are_passed_on_letter_for_letter() {
    let metadata = " {\"bootable\": false, \"VK\": \"x\\\"y\", \"progress\": \"0\"} ";
    let description = r#"{"DESC":"tëxt \u0000 🦀","INC":1}"#;
    let backup = read(changed(|share| {
        share["backup"]["service_metadata"] = json!(metadata);
        share["backup"]["description"] = json!(description);
        share["backup"]["status"] = json!("a word that nobody knows");
    }))
    .await
    .backup
    .unwrap();
    assert_eq!(backup.service_metadata.as_deref(), Some(metadata));
    assert_eq!(backup.description.as_deref(), Some(description));
    assert_eq!(backup.status.as_deref(), Some("a word that nobody knows"));
}

#[tokio::test]
async fn unknown_keys_are_passed_over_and_counted() {
    let body = changed(|share| {
        share["deleted"] = json!(null);
        share["deleted_at"] = json!({"deep": [[[1]]]});
        share["backup"]["new"] = json!("x");
    });
    let upstream = Upstream::replying(200, &[], body).await;
    let gateway = Running::before(&upstream).await;
    for calls in [1.0, 2.0] {
        gateway.get().await.unwrap();
        assert!((gateway.metric("upstream_unknown_fields_total").await - 3.0 * calls).abs() < f64::EPSILON);
    }
}

#[tokio::test]
async fn a_reply_full_of_unknown_keys_is_read_in_time_whatever_the_token() {
    let keys = r#""a":1,"#.repeat(100_000);
    let body = DOCUMENTED.replacen("\"backup\": {", &format!("\"backup\": {{{keys}"), 1);
    let upstream = Upstream::replying(200, &[], body).await;
    let gateway = Running::before(&upstream).await;
    let token: String = (0..32_768_u32).map(|at| char::from_digit(at % 36, 36).unwrap()).collect();
    let mut asked = without_token(PROJECT, SHARE);
    asked.metadata_mut().insert("x-auth-token", token.parse().unwrap());
    gateway.call(asked).await.unwrap();
    assert!((gateway.metric("upstream_unknown_fields_total").await - 100_000.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn the_content_type_never_refuses_a_body_that_parses() {
    for headers in [
        &[][..],
        &[("content-type", "text/html")],
        &[("content-type", "nonsense")],
        &[("content-encoding", "identity")],
    ] {
        let upstream = Upstream::replying(200, headers, DOCUMENTED).await;
        Running::before(&upstream).await.get().await.unwrap();
    }
}

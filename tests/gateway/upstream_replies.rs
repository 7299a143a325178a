//! The JSON of a share: which fields are set, which stay unset, and which values are malformed, reported with their path.

use prost_types::Timestamp;
use serde_json::{Value, json};
use tonic::Code;

use crate::support::*;
use backup_share_gateway::proto::BackupShare;

#[tokio::test]
async fn reply_with_300_headers_is_read() {
    let names: Vec<String> = (0..300).map(|number| format!("x-header-{number}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "value")).collect();
    let upstream = Upstream::replying(200, &headers, DOCUMENTED).await;
    Gateway::with_upstream(&upstream).await.get().await.unwrap();
}

/// The documented share with one change.
fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut body: Value = serde_json::from_str(DOCUMENTED).unwrap();
    change(&mut body["shared"]);
    body.to_string()
}

async fn read(body: impl AsRef<[u8]>) -> BackupShare {
    let upstream = Upstream::replying(200, &[], body).await;
    Gateway::with_upstream(&upstream).await.get().await.unwrap().into_inner().backup_share.unwrap()
}

/// The detail in the message of a malformed reply.
async fn malformed(body: impl AsRef<[u8]>) -> String {
    let upstream = Upstream::replying(200, &[("x-request-id", "req-1")], body).await;
    let error = Gateway::with_upstream(&upstream).await.get_error().await;
    assert_eq!(error.outcome(), (Code::Internal, "UPSTREAM_MALFORMED_RESPONSE"));
    assert_eq!(error.metadata("upstreamRequestId"), Some("req-1"));
    error.message.split_once(": ").unwrap().1.to_owned()
}

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
async fn null_and_missing_fields_are_unset_except_four_ids() {
    for key in OPTIONAL_SHARE {
        read(changed(|share| share[key] = Value::Null)).await;
        read(changed(|share| drop(share.as_object_mut().unwrap().remove(key)))).await;
    }
    for key in REQUIRED_SHARE {
        let null = malformed(changed(|share| share[key] = Value::Null)).await;
        assert_eq!(null, format!("shared.{key}: expected a string"));
        let absent = malformed(changed(|share| drop(share.as_object_mut().unwrap().remove(key)))).await;
        assert_eq!(absent, format!("shared: the key {key} is missing"));
        let garbage_behind = changed(|share| drop(share.as_object_mut().unwrap().remove(key)));
        let garbage_behind = garbage_behind.trim_end_matches('}').to_owned() + "}}, 1e400 ~~~";
        assert_eq!(malformed(garbage_behind).await, absent);
    }
    let nulls: Value =
        backup_keys().map(|key| (key.to_owned(), Value::Null)).collect::<serde_json::Map<_, _>>().into();
    for backup in [nulls, json!({})] {
        let share = read(changed(|share| share["backup"] = backup)).await;
        assert_eq!(share.backup, Some(Default::default()));
    }
}

#[tokio::test]
async fn strings_of_any_length_are_unchanged() {
    for length in [0, 1, 500, 1_000, 2_000, 8_000, 16_000, 17_000, 500_000] {
        let text: String = ('!'..='~').cycle().take(length).collect();
        let share = read(changed(|share| share["backup"]["service_metadata"] = text.clone().into())).await;
        assert!(share.backup.unwrap().service_metadata == Some(text), "{length} bytes");
    }
}

#[tokio::test]
async fn empty_zero_and_false_values_are_set() {
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
async fn value_of_wrong_type_is_reported_by_path_only() {
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
async fn non_object_is_malformed() {
    let documented: Value = serde_json::from_str(DOCUMENTED).unwrap();
    let backup = &documented["shared"]["backup"];
    for value in [json!([backup]), json!([]), json!("x"), json!(1), json!(true)] {
        let message = malformed(changed(|share| share["backup"] = value)).await;
        assert_eq!(message, "shared.backup: expected an object");
    }
    for value in [json!([documented["shared"]]), json!([]), Value::Null, json!("x")] {
        let message = malformed(json!({ "shared": value }).to_string()).await;
        assert_eq!(message, "shared: expected an object");
    }
    let array = json!([documented["shared"]]).to_string();
    assert_eq!(malformed(array).await, "the body: expected an object");
    assert_eq!(malformed("{}").await, "the body: the key shared is missing");
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
async fn times_without_zone_are_utc_truncated_to_microseconds() {
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
async fn duplicate_known_key_is_malformed() {
    for (once, path, key) in [
        (r#""size": 1"#, "shared.backup", "size"),
        (r#""snapshot_id": null"#, "shared.backup", "snapshot_id"),
        (r#""has_dependent_backups": null"#, "shared.backup", "has_dependent_backups"),
        (r#""updated_at": null"#, "shared", "updated_at"),
        (r#""backup_id": "066b1e37-9305-4057-97e5-2e99b21fc71d""#, "shared", "backup_id"),
    ] {
        assert!(DOCUMENTED.contains(once));
        let twice = DOCUMENTED.replace(once, &format!("{once}, {once}"));
        // Whatever follows the error, even if it is not JSON.
        let (truncated, _) =
            twice.split_at(twice.find(&format!("{once}, {once}")).unwrap() + 2 * once.len() + 2);
        for body in [twice.clone(), format!("{truncated}, ~~~"), twice.replace(',', "\n ,\n ")] {
            assert_eq!(malformed(body).await, format!("{path}: the key {key} occurs twice"));
        }
    }
    let shared = DOCUMENTED.trim().strip_prefix('{').unwrap().strip_suffix('}').unwrap();
    let message = malformed(format!("{{{shared},{shared}}}")).await;
    assert_eq!(message, "the body: the key shared occurs twice");
    let unknown = changed(|_| {}).replacen('{', r#"{"new":1,"new":2,"#, 1);
    read(unknown).await;
}

#[tokio::test]
async fn share_with_other_id_is_malformed() {
    let other = "00000000-0000-4000-8000-000000000000";
    assert_eq!(malformed(DOCUMENTED.replace(SHARE, other)).await, "shared.id: is not the requested ID");
}

#[tokio::test]
async fn body_must_be_one_utf8_json_document() {
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
async fn strings_with_special_characters_are_unchanged() {
    let metadata = " {\"bootable\": false, \"VK\": \"x\\\"y\", \"progress\": \"0\"} ";
    let description = r#"{"DESC":"tëxt \u0000 🦀","INC":1}"#;
    let backup = read(changed(|share| {
        share["backup"]["service_metadata"] = json!(metadata);
        share["backup"]["description"] = json!(description);
        share["backup"]["status"] = json!("an unknown status");
    }))
    .await
    .backup
    .unwrap();
    assert_eq!(backup.service_metadata.as_deref(), Some(metadata));
    assert_eq!(backup.description.as_deref(), Some(description));
    assert_eq!(backup.status.as_deref(), Some("an unknown status"));
}

#[tokio::test]
async fn unknown_keys_are_ignored_and_counted() {
    let body = changed(|share| {
        share["deleted"] = json!(null);
        share["deleted_at"] = json!({"deep": [[[1]]]});
        share["backup"]["new"] = json!("x");
    });
    let upstream = Upstream::replying(200, &[], body).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    for calls in [1.0, 2.0] {
        gateway.get().await.unwrap();
        assert_eq!(gateway.metric("upstream_unknown_fields_total").await, 3.0 * calls);
    }
}

#[tokio::test]
async fn reply_with_100_000_unknown_keys_is_read_in_time() {
    let keys = r#""a":1,"#.repeat(100_000);
    let body = DOCUMENTED.replacen("\"backup\": {", &format!("\"backup\": {{{keys}"), 1);
    let upstream = Upstream::replying(200, &[], body).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let token: String = (0..32_768_u32).map(|at| char::from_digit(at % 36, 36).unwrap()).collect();
    gateway.call(request_with(&[("x-auth-token", &token)])).await.unwrap();
    assert_eq!(gateway.metric("upstream_unknown_fields_total").await, 100_000.0);
}

#[tokio::test]
async fn content_type_is_ignored_for_valid_body() {
    for headers in [
        &[][..],
        &[("content-type", "text/html")],
        &[("content-type", "nonsense")],
        &[("content-encoding", "identity")],
    ] {
        let upstream = Upstream::replying(200, headers, DOCUMENTED).await;
        Gateway::with_upstream(&upstream).await.get().await.unwrap();
    }
}

#[tokio::test]
async fn body_without_share_is_malformed_and_not_retried() {
    let html = "<html><head><title>Login</title></head></html>";
    for body in
        ["", " ", html, "{", "null", "[]", "42", "{}", r#"{"shared":null}"#, r#"{"error":{"message":"x"}}"#]
    {
        let upstream = Upstream::replying(200, &[], body).await;
        let error = Gateway::with_upstream(&upstream).await.get_error().await;
        assert_eq!(error.outcome(), (Code::Internal, "UPSTREAM_MALFORMED_RESPONSE"), "{body}");
        assert_eq!(error.attempts(), Some("1"));
        assert!(!error.message.contains("Login"), "{}", error.message);
    }
}

#[tokio::test]
async fn share_over_size_limit_is_too_large_in_every_framing() {
    let filler = format!(r#"{{"filler":"{}","shared":"#, "x".repeat(4096));
    let body = DOCUMENTED.replacen(
        r#"{
    "shared":"#,
        &filler,
        1,
    );
    assert!(body.len() > 4096);
    let with_length = reply(200, &[], &body);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    let until_close = vec![Step::Send(format!("HTTP/1.1 200 OK\r\n\r\n{body}").into_bytes()), Step::Close];
    for script in [with_length, vec![Step::Send(chunked.into_bytes())], until_close] {
        let upstream = Upstream::scripted(move |_, _| script.clone()).await;
        let gateway = Gateway::with_flags(&upstream, &["--max-response-bytes=4KiB"]).await;
        let error = gateway.get_error().await;
        assert_eq!(error.outcome(), (Code::Internal, "UPSTREAM_RESPONSE_TOO_LARGE"));
        assert_eq!((error.attempts(), error.metadata("httpStatus")), (Some("1"), Some("200")));
        let roomy = Gateway::with_flags(&upstream, &["--max-response-bytes=64KiB"]).await;
        roomy.get().await.unwrap();
    }
}

/// An error body of this many bytes, as VBS sends them.
fn error_body(length: usize) -> String {
    let of = |filler: &str| format!(r#"{{"itemNotFound":{{"message":"xxx{filler}","code":404}}}}"#);
    of(&" ".repeat(length - of("").len()))
}

#[tokio::test]
async fn error_body_is_read_up_to_64_kib_whatever_the_limit_of_a_share() {
    for (length, status, reason) in [
        (65_536, 400, "UPSTREAM_BAD_REQUEST"),
        (65_536, 404, "BACKUP_SHARE_NOT_FOUND"),
        (65_536, 503, "UPSTREAM_UNAVAILABLE"),
        (65_537, 400, "UPSTREAM_BAD_REQUEST"),
        (65_537, 403, "UPSTREAM_FORBIDDEN"),
        (65_537, 404, "UPSTREAM_ROUTE_NOT_FOUND"),
        (65_537, 201, "UPSTREAM_UNEXPECTED_STATUS"),
        (65_537, 503, "UPSTREAM_UNAVAILABLE"),
    ] {
        let body = error_body(length);
        let chunked = format!(
            "HTTP/1.1 {status} Status\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
        );
        for script in [reply(status, &[], &body), vec![send(&chunked)]] {
            let upstream = Upstream::scripted(move |_, _| script.clone()).await;
            for flag in ["--max-response-bytes=4KiB", "--max-response-bytes=1MiB"] {
                let gateway = Gateway::with_flags(&upstream, &[flag, "--max-attempts=1"]).await;
                let error = gateway.get_error().await;
                assert_eq!(error.reason, reason, "{length} {status}");
                assert_eq!(error.message.contains("xxx"), length == 65_536, "{length} {status}");
            }
        }
    }
}

#[tokio::test]
async fn content_encoding_is_malformed() {
    // An empty gzip stream; the request had no Accept-Encoding.
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    for (headers, body) in [
        (&[("content-encoding", "gzip")][..], &gzip[..]),
        (&[][..], &gzip[..]),
        (&[("content-encoding", "br")][..], DOCUMENTED.as_bytes()),
    ] {
        let upstream = Upstream::replying(200, headers, body).await;
        let error = Gateway::with_upstream(&upstream).await.get_error().await;
        assert_eq!(error.reason, "UPSTREAM_MALFORMED_RESPONSE");
        assert_eq!(upstream.requests()[0].header("accept-encoding"), None);
    }
}

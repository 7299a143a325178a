//! What the targets share: the question that they ask, the rules of every status, and the comparison of a reply with
//! the JSON that it was made of.

use std::time::Duration;

use backup_share_gateway::credentials::AuthMaterial;
use backup_share_gateway::domain::{TOKEN_HEADER, Token};
use backup_share_gateway::proto::BackupShare;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;
use tonic::Status;
use tonic_types::StatusExt;

/// The project and the share that are asked for; the seeds hold the share.
pub const PROJECT: &str = "c13f5220dc1949b0b741ea81a7cd5554";
pub const SHARE: &str = "8332443e-9866-41d8-8a58-a898cf5db030";
/// The call's own ID, as long as one may be: it takes its part of every status.
pub const REQUEST_ID: &str = concat!(
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
);
/// The caller's token. The dictionary holds it, so that the fuzzer tries what an upstream that echoes it does.
pub const TOKEN: &str = "gAAAAABl-token-of-the-fuzzer-0123456789";

/// [`TOKEN`] as the gateway takes it.
pub fn material() -> AuthMaterial {
    let mut headers = HeaderMap::new();
    headers.insert(TOKEN_HEADER, HeaderValue::from_static(TOKEN));
    AuthMaterial::Caller(Token::from_headers(&headers).expect("a token"))
}

/// So much of a token gives it away.
pub fn gives_token_away(text: &[u8]) -> bool {
    let telling = &TOKEN.as_bytes()[..16];
    text.windows(telling.len()).any(|window| window == telling)
}

/// The rules of every status that goes to a caller, whatever came from the upstream.
pub fn assert_status_rules(status: &Status) {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).expect("a status that can be sent");
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 2).sum();
    assert!(size < 4096, "the status takes {size} bytes: {status:?}");

    assert!(!status.message().chars().any(char::is_control), "a control character: {status:?}");
    assert!(!gives_token_away(status.message().as_bytes()), "the token is in the message");
    assert!(!gives_token_away(status.details()), "the token is in the details");
    assert!(!gives_token_away(format!("{:?}", status.metadata()).as_bytes()), "the token is in the metadata");

    let details = status.get_error_details();
    let info = details.error_info().expect("ErrorInfo");
    assert_eq!(info.domain, "backup-share-gateway");
    assert!(details.request_info().is_some_and(|info| info.request_id == REQUEST_ID), "no RequestInfo");
    for (key, value) in &info.metadata {
        let known = ["httpStatus", "upstreamCode", "upstreamRequestId", "attempts", "service"];
        assert!(known.contains(&key.as_str()), "metadata key {key}");
        assert!(value.len() <= 128, "{key} takes {} bytes", value.len());
        assert!(!value.chars().any(char::is_control), "a control character in {key}");
    }
    if let Some(info) = details.retry_info() {
        assert!(info.retry_delay.is_some_and(|delay| delay <= Duration::from_secs(3600)), "{info:?}");
    }
}

/// Whether `reply` is what `body` holds under `shared`: every field that is set stands there, and every field that
/// stands there is set.
pub fn is_what_the_json_holds(body: &Value, reply: &BackupShare) -> bool {
    let shared = &body["shared"];
    let backup = &shared["backup"];
    let time = |value: &Value, field: &Option<prost_types::Timestamp>| match value.as_str() {
        None | Some("") => (value.is_null() || value.is_string()) && field.is_none(),
        Some(text) => field.is_some() && *field == read_time(text),
    };
    let text = |value: &Value, field: &Option<String>| value.as_str() == field.as_deref();
    let whole = |value: &Value, field: Option<i64>| value.as_i64() == field;
    let flag = |value: &Value, field: Option<bool>| value.as_bool() == field;

    let share_holds = body.is_object()
        && shared.is_object()
        && text(&shared["id"], &reply.id)
        && text(&shared["backup_id"], &reply.backup_id)
        && text(&shared["from_project_id"], &reply.from_project_id)
        && text(&shared["to_project_id"], &reply.to_project_id)
        && time(&shared["created_at"], &reply.created_at)
        && time(&shared["updated_at"], &reply.updated_at);
    let backup_holds = match &reply.backup {
        None => backup.is_null(),
        Some(found) => {
            let plural = backup["has_dependent_backups"].as_bool();
            backup.is_object()
                && text(&backup["id"], &found.id)
                && text(&backup["name"], &found.name)
                && text(&backup["description"], &found.description)
                && text(&backup["status"], &found.status)
                && text(&backup["fail_reason"], &found.fail_reason)
                && whole(&backup["size"], found.size)
                && whole(&backup["object_count"], found.object_count)
                && text(&backup["container"], &found.container)
                && text(&backup["availability_zone"], &found.availability_zone)
                && text(&backup["volume_id"], &found.volume_id)
                && text(&backup["snapshot_id"], &found.snapshot_id)
                && flag(&backup["is_incremental"], found.is_incremental)
                && found.has_dependent_backups == plural.or(backup["has_dependent_backup"].as_bool())
                && text(&backup["service_metadata"], &found.service_metadata)
                && time(&backup["data_timestamp"], &found.data_timestamp)
                && time(&backup["created_at"], &found.created_at)
                && time(&backup["updated_at"], &found.updated_at)
        }
    };
    share_holds && backup_holds
}

/// A time as another reader reads it, cut to the microsecond.
fn read_time(text: &str) -> Option<prost_types::Timestamp> {
    let time: prost_types::Timestamp = text.parse().ok()?;
    Some(prost_types::Timestamp { nanos: time.nanos / 1000 * 1000, ..time })
}

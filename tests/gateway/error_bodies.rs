//! Every known shape of an error body, each in a file: what the caller gets of it, and whether a 404 comes from VBS.

use tonic::Code;

use crate::support::*;

/// File, upstream code, message, request ID in the body, whether a 404 with this body is a missing share.
type Row = (&'static str, Option<&'static str>, Option<&'static str>, Option<&'static str>, bool);

const ID: &str = "8d5d97e7922979d99a632b0642c85bd3";

const ROWS: &[Row] = &[
    ("e01_bad_request.json", Some("400"), Some("The request is invalid."), None, true),
    ("e01_item_not_found.json", Some("404"), Some("The resource could not be found."), None, true),
    (
        "e01_compute_fault.json",
        Some("500"),
        Some("The server has either erred or is incapable of performing the requested operation."),
        None,
        true,
    ),
    ("e02_over_limit_fault.json", Some("413"), Some("This request was rate-limited."), None, true),
    ("e03_lower_case_key.json", Some("XXX"), Some("XXXX"), None, false),
    (
        "e04_error_code_string.json",
        Some("EVS.2265"),
        Some("get Agency's token but response is null."),
        None,
        false,
    ),
    ("e04_error_volume_backup.json", Some("VolumeBackup.0041"), Some("check rights failed"), None, true),
    ("e05_keystone.json", Some("401"), Some("Unauthorized."), None, false),
    (
        "e05_keystone_not_found.json",
        Some("404"),
        Some("Could not find Application Credential: 0123456789abcdef0123456789abcdef."),
        None,
        false,
    ),
    (
        "e06_keystone_identity.json",
        Some("401"),
        Some("The request you have made requires authentication."),
        None,
        false,
    ),
    ("e07_api_not_found.json", None, Some("API not found"), Some(ID), false),
    ("e07_api_not_found_empty_id.json", None, Some("API not found"), None, false),
    (
        "e08_api_gateway.json",
        Some("APIGW.0101"),
        Some("The API does not exist or has not been published in the environment"),
        Some(ID),
        false,
    ),
    // Holds the access key and the canonical request, which are never passed on.
    ("e08_signature.json", Some("APIGW.0301"), None, Some(ID), false),
    ("e09_service.json", Some("DBS.200503"), Some("Resource not found"), None, false),
    ("e09_signature_old_prefix.json", Some("APIG.0301"), None, None, false),
    ("e10_encoded_top.json", Some("PAP5.0011"), Some("Policy does not allow the action."), Some(ID), false),
    ("e10_encoded_inside.json", Some("PAP5.0011"), Some("Policy does not allow the action."), None, false),
    ("e11_both.json", Some("PAP5.0011"), Some("outer message"), None, false),
    ("e12_details.json", Some("PAP5.0011"), Some("Access denied."), None, false),
    ("e13_flat.json", Some("XXX.0404"), Some("flat message"), None, false),
    ("e14_camel.json", Some("XXX.0001"), Some("camel message"), None, false),
    ("e15_any_wrapper.json", Some("XXX.0001"), Some("wrapped message"), None, false),
    (
        "e16_message_only.json",
        None,
        Some("Incorrect IAM authentication information: verify aksk signature fail"),
        None,
        false,
    ),
    ("e17_framework.json", None, Some("The method is not allowed for the requested URL."), None, false),
    ("e18_array.json", None, None, None, false),
    ("e18_string.json", None, None, None, false),
    ("e18_unknown_object.json", None, None, None, false),
    ("e19_edge.html", None, None, None, false),
    ("e20_not_found.html", None, None, None, false),
    ("e20_webob.html", None, None, None, false),
    ("e21_forbidden.txt", None, None, None, false),
    ("e21_authentication_required.txt", None, None, None, false),
    (
        "e22_policy_401.json",
        Some("EPS.0003"),
        Some("policy doesn't allow ecs:cloudServers:list"),
        None,
        false,
    ),
    ("e23_empty.txt", None, None, None, false),
    ("e23_job.json", Some("VolumeBackup.0900"), Some("service unavailable"), None, true),
];

fn fixture(file: &str) -> String {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/fixtures/errors");
    std::fs::read_to_string(format!("{directory}/{file}")).unwrap()
}

#[test]
fn every_fixture_has_a_row() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/fixtures/errors");
    let mut files: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    let mut rows: Vec<_> = ROWS.iter().map(|row| row.0).collect();
    rows.sort_unstable();
    assert_eq!(files, rows);
}

#[tokio::test]
async fn error_body_shapes_give_code_and_message() {
    for (file, code, message, request_id, _) in ROWS {
        for content_type in ["application/json", "text/plain/html"] {
            let upstream = Upstream::replying(400, &[("content-type", content_type)], fixture(file)).await;
            let error = Gateway::with_upstream(&upstream).await.get_error().await;
            assert_eq!(error.reason, "UPSTREAM_BAD_REQUEST");
            assert_eq!(error.metadata("upstreamCode"), *code, "{file}");
            assert_eq!(error.metadata("upstreamRequestId"), *request_id, "{file}");
            let expected = message
                .map_or("VBS refused the request".to_owned(), |m| format!("VBS refused the request: {m}"));
            assert_eq!(error.message, expected, "{file}");
        }
    }
}

#[tokio::test]
async fn status_404_is_missing_share_only_from_vbs() {
    for (file, _, _, _, is_share) in ROWS {
        let upstream = Upstream::replying(404, &[], fixture(file)).await;
        let error = Gateway::with_upstream(&upstream).await.get_error().await;
        let expected = if *is_share {
            (Code::NotFound, "BACKUP_SHARE_NOT_FOUND")
        } else {
            (Code::Internal, "UPSTREAM_ROUTE_NOT_FOUND")
        };
        assert_eq!(error.outcome(), expected, "{file}");
    }
}

#[tokio::test]
async fn origin_of_404_follows_wrapper_and_code() {
    for (body, is_share) in [
        (r#"{"itemNotFound":{"message":"no code"}}"#, true),
        (r#"{"itemNotFound":{"message":"a number in a string","code":"404"}}"#, true),
        (r#"{"itemNotFound":{"message":"null","code":null}}"#, true),
        (r#"{"error":{"message":"no title","code":404}}"#, true),
        (r#"{"error":{"message":"x","code":"AutoBackup.0002"}}"#, true),
        (r#"{"error":{"message":"x","code":"VBS.0001"}}"#, true),
        (r#"{"error":{"message":"x","code":"common.0011"}}"#, true),
        (r#"{"error_code":"VolumeBackup.0014","error_msg":"flat"}"#, true),
        (r#"{"code":"common.0011","message":"flat"}"#, true),
        (r#"{"errorCode":"VBS.0001","errorMsg":"flat"}"#, true),
        (r#"{"error":{"message":"x","code":"VBS.0001"},"request_id":"r"}"#, true),
        (r#"{"error":{"message":"x","code":"VBS.0001"},"error_code":"VBS.0001","error_msg":"x"}"#, true),
        // The words of the message do not matter.
        (r#"{"itemNotFound":{"message":"No backup apigw.backup","code":404}}"#, true),
        (r#"{"itemNotFound":{"message":"apig.0101: API not found, EVS.2265","code":404}}"#, true),
        (r#"{"itemNotFound":{"message":"named APIGW.0301","code":404}}"#, true),
        (r#"{"itemNotFound":{"message":"x","code":404,"details":{"code":"APIGW.0101"}}}"#, true),
        (r#"{"itemNotFound":{"message":"No backup \udc80\uD83D\ude00 \\ud800","code":404}}"#, true),
        (r#"{"itemNotFound":{"message":"\ud800","code":"APIGW.0101"}}"#, false),
        (r#"{"itemNotFound":{"message":"\ud800","code":404,"code":404}}"#, false),
        (r#"{"itemNotFound":{"message":"\ud80P","code":404}}"#, false),
        (r#"{"error":{"message":"apigw.0101","code":"VolumeBackup.0014"}}"#, true),
        // One of several codes is that of another service.
        (r#"{"itemNotFound":{"message":"x","code":404,"error_code":"APIGW.0101"}}"#, false),
        (r#"{"itemNotFound":{"message":"x","code":404,"errorCode":{}}}"#, false),
        (r#"{"itemNotFound":{"message":"x","error_code":[]}}"#, false),
        (r#"{"error":{"message":"x","code":"VBS.0001","error_code":"APIGW.0101"}}"#, false),
        (r#"{"error":{"message":"x","code":"APIGW.0101"},"error_code":"VBS.0001","error_msg":"x"}"#, false),
        (r#"{"error":{"message":"x","code":"VBS.0001"},"error_code":"APIGW.0101","error_msg":"x"}"#, false),
        // A key that occurs twice.
        (r#"{"error":{"message":"x","code":"APIGW.0101"},"error":{"message":"y","code":"VBS.0001"}}"#, false),
        (r#"{"itemNotFound":{"message":"x","code":"APIGW.0101","code":404}}"#, false),
        (r#"{"itemNotFound":{"message":"x","code":404},"itemNotFound":{"message":"x","code":404}}"#, false),
        (
            r#"{"error":{"message":"x","code":404,"title":"Not Found"},"error":{"message":"x","code":404}}"#,
            false,
        ),
        // Not one wrapper alone.
        (r#"{"itemNotFound":{"message":"x","code":404},"request_id":"r"}"#, false),
        (r#"{"message":"API not found","itemNotFound":{"message":"x","code":404}}"#, false),
        (r#"{"APIGW.0101":{"message":"x","code":404}}"#, false),
        (r#"[{"itemNotFound":{"message":"x","code":404}}]"#, false),
        (r#"{"a":{"itemNotFound":{"message":"x","code":404}}}"#, false),
        (r#"{"itemNotFound":{"message":"x","code":404}} x"#, false),
        (r#"{"itemNotFound":{"message":["x"],"code":404}}"#, false),
        (r#"{"itemNotFound":{"message":"x","code":"404 "}}"#, false),
        (r#"{"error":{"message":"x","code":404,"title":null}}"#, false),
        (r#"{"error":{"message":"x","code":"vbs.0001"}}"#, false),
        (r#"{"itemNotFound":{"message":"x","code":4.04}}"#, false),
        (r#"{"itemNotFound":{"message":"x","code":-404}}"#, false),
        (r#"{"itemNotFound":{"message":"x","code":true}}"#, false),
        (r#"{"itemNotFound":{"message":"x","code":{}}}"#, false),
        (r#"{"itemNotFound":{"message":"x","code":""}}"#, false),
        (r#"{"error":{"message":"x","code":"APIGW.0101"},"error":{"message":"y","code":404}}"#, false),
        (r#"{"itemNotFound":{"code":404}}"#, false),
        (r#"{"itemNotFound":{}}"#, false),
        (r#"{"itemNotFound":"text"}"#, false),
        (r#"{"error":{"message":"x","code":404,"title":"Not Found"}}"#, false),
        (r#"{"error":{"message":"x","code":"IAM.0004"}}"#, false),
        (r#"{"error":{"message":"x","code":"APIG.0101"}}"#, false),
        (r#"{"error":{"message":"x","code":"APIGW.0101"}}"#, false),
        (r#"{"error":{"message":"x","code":"VolumeBackupX.1"}}"#, false),
        (r#"{"itemNotFound":{"message":"x","code":404},"another":{"message":"y"}}"#, false),
        (r#"{"message":"x","code":404}"#, false),
        ("{}", false),
        ("<html><title>404</title></html>", false),
        ("not found", false),
    ] {
        let upstream = Upstream::replying(404, &[], body).await;
        let error = Gateway::with_upstream(&upstream).await.get_error().await;
        let expected = if is_share { "BACKUP_SHARE_NOT_FOUND" } else { "UPSTREAM_ROUTE_NOT_FOUND" };
        assert_eq!(error.reason, expected, "{body}");
    }
}

#[tokio::test]
async fn upstream_message_is_stripped_truncated_and_redacted() {
    let with = |message: &str| format!(r#"{{"badRequest":{{"message":"{message}","code":400}}}}"#);
    let cases = [
        (with(r"a\r\nb\u0000c\u007fd\u0085e"), "abcde".to_owned()),
        (with(&format!("bad token {TOKEN}, really")), "[redacted]".to_owned()),
        (with(&"ü".repeat(400)), "ü".repeat(256)),
        (with(&format!("x{}", "ü".repeat(400))), format!("x{}", "ü".repeat(255))),
        (with(&format!("{}{TOKEN}", "x".repeat(500))), "[redacted]".to_owned()),
    ];
    for (body, expected) in cases {
        let upstream = Upstream::replying(400, &[], body).await;
        let error = Gateway::with_upstream(&upstream).await.get_error().await;
        assert_eq!(error.message, format!("VBS refused the request: {expected}"));
    }
}

#[tokio::test]
async fn longest_status_fits_in_4_kib() {
    // Every field has its maximum length, in characters of three bytes, which are percent-encoded.
    let message = "\u{9f98}".repeat(1000);
    let code = "%".repeat(1000);
    let body = format!(r#"{{"error_code":"{code}","error_msg":"{message}"}}"#);
    let headers = [("x-request-id", "y".repeat(1000)), ("retry-after", "86400".into())];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let upstream = Upstream::replying(503, &headers, body).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let error = gateway.call_error(request_with(&[("x-request-id", &"z".repeat(128))])).await;
    assert_eq!(error.metadata("upstreamCode").map(str::len), Some(128));
    assert!(error.message.ends_with(&"\u{9f98}".repeat(170)), "512 bytes hold 170 characters of three");
}

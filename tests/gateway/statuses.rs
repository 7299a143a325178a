//! The contract's table of HTTP statuses, row by row.

use std::time::Duration;

use tonic::Code;

use crate::support::*;

#[tokio::test]
async fn upstream_request_id_is_read_from_every_known_header() {
    for header in ["x-request-id", "x-openstack-request-id", "x-compute-request-id", "x-iam-trace-id"] {
        let upstream = Upstream::replying(500, &[(header, "req-of-the-upstream")], "").await;
        let error = Gateway::with_upstream(&upstream).await.get_error().await;
        assert_eq!(error.metadata("upstreamRequestId"), Some("req-of-the-upstream"), "{header}");
    }
    let long = "x".repeat(300);
    let upstream = Upstream::replying(500, &[("x-request-id", &long)], "").await;
    let error = Gateway::with_upstream(&upstream).await.get_error().await;
    assert_eq!(error.metadata("upstreamRequestId"), Some("x".repeat(128).as_str()));
}

const NOT_FOUND_BODY: &str = r#"{"itemNotFound":{"message":"The resource could not be found.","code":404}}"#;

/// HTTP status, body, gRPC code, reason, whether the gateway retries.
const ROWS: &[(u16, &str, Code, &str, bool)] = &[
    (400, "", Code::InvalidArgument, "UPSTREAM_BAD_REQUEST", false),
    (413, "", Code::InvalidArgument, "UPSTREAM_BAD_REQUEST", false),
    (414, "", Code::InvalidArgument, "UPSTREAM_BAD_REQUEST", false),
    (422, "", Code::InvalidArgument, "UPSTREAM_BAD_REQUEST", false),
    (431, "", Code::InvalidArgument, "UPSTREAM_BAD_REQUEST", false),
    (494, "", Code::InvalidArgument, "UPSTREAM_BAD_REQUEST", false),
    (401, "", Code::Unauthenticated, "UPSTREAM_UNAUTHENTICATED", false),
    (403, "", Code::PermissionDenied, "UPSTREAM_FORBIDDEN", false),
    (404, NOT_FOUND_BODY, Code::NotFound, "BACKUP_SHARE_NOT_FOUND", false),
    (404, "", Code::Internal, "UPSTREAM_ROUTE_NOT_FOUND", false),
    (405, "", Code::Unimplemented, "UPSTREAM_METHOD_NOT_ALLOWED", false),
    (501, "", Code::Unimplemented, "UPSTREAM_NOT_IMPLEMENTED", false),
    (406, "", Code::Internal, "UPSTREAM_NOT_ACCEPTABLE", false),
    (407, "", Code::Internal, "UPSTREAM_PROXY_AUTHENTICATION_REQUIRED", false),
    (408, "", Code::DeadlineExceeded, "UPSTREAM_TIMEOUT", true),
    (504, "", Code::DeadlineExceeded, "UPSTREAM_TIMEOUT", true),
    (409, "", Code::Aborted, "UPSTREAM_CONFLICT", false),
    (412, "", Code::FailedPrecondition, "UPSTREAM_PRECONDITION_FAILED", false),
    (429, "", Code::ResourceExhausted, "UPSTREAM_RATE_LIMITED", false),
    (500, "", Code::Internal, "UPSTREAM_INTERNAL", false),
    (502, "", Code::Unavailable, "UPSTREAM_BAD_GATEWAY", true),
    (503, "", Code::Unavailable, "UPSTREAM_UNAVAILABLE", true),
    // Any other 4xx and 5xx.
    (402, "", Code::FailedPrecondition, "UPSTREAM_CLIENT_ERROR", false),
    (410, "", Code::FailedPrecondition, "UPSTREAM_CLIENT_ERROR", false),
    (415, "", Code::FailedPrecondition, "UPSTREAM_CLIENT_ERROR", false),
    (418, "", Code::FailedPrecondition, "UPSTREAM_CLIENT_ERROR", false),
    (451, "", Code::FailedPrecondition, "UPSTREAM_CLIENT_ERROR", false),
    (499, "", Code::FailedPrecondition, "UPSTREAM_CLIENT_ERROR", false),
    (505, "", Code::Internal, "UPSTREAM_SERVER_ERROR", false),
    (507, "", Code::Internal, "UPSTREAM_SERVER_ERROR", false),
    (599, "", Code::Internal, "UPSTREAM_SERVER_ERROR", false),
    // Redirects are not followed; other 2xx are not read as a share.
    (101, "", Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
    (201, DOCUMENTED, Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
    (202, DOCUMENTED, Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
    (203, DOCUMENTED, Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
    (204, "", Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
    (206, DOCUMENTED, Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
    (300, "", Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
    (301, "", Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
    (302, "", Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
    (304, "", Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
    (307, "", Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
    (308, "", Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
    (600, "", Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
    (999, "", Code::Internal, "UPSTREAM_UNEXPECTED_STATUS", false),
];

#[tokio::test]
async fn http_status_maps_to_code_reason_and_retries() {
    for (status, body, code, reason, retried) in ROWS {
        let script = reply(*status, &[("x-request-id", "req-upstream")], body);
        let upstream = Upstream::scripted(move |_, _| script.clone()).await;
        let gateway = Gateway::with_upstream(&upstream).await;
        let error = gateway.get_error().await;
        assert_eq!(error.outcome(), (*code, *reason), "{status}");
        let attempts = if *retried { 3 } else { 1 };
        assert_eq!(upstream.requests().len(), attempts, "attempts at {status}");
        assert_eq!(error.attempts(), Some(attempts.to_string().as_str()), "{status}");
        assert_eq!(error.metadata("httpStatus"), Some(status.to_string().as_str()));
        assert_eq!(error.metadata("upstreamRequestId"), Some("req-upstream"));
        assert_eq!(error.metadata("service"), Some("vbs"));
        let has_retry_info = matches!(status, 429 | 502 | 503);
        assert_eq!(
            error.retry_delay(),
            has_retry_info.then_some(Duration::from_secs(1)),
            "RetryInfo of {status}"
        );
        let has_pushback = matches!(status, 429 | 503);
        assert_eq!(error.pushback(), has_pushback.then_some("1000"), "pushback of {status}");
    }
}

/// Status, `Retry-After`, body, whether it is a rate limit, the seconds that the caller is told.
type RateLimit = (u16, Option<&'static str>, &'static str, bool, u64);

#[tokio::test]
async fn rate_limit_is_429_or_the_older_form_of_openstack() {
    let rows: &[RateLimit] = &[
        (413, Some("60"), "", true, 60),
        (413, Some("60"), r#"{"overLimit":{"message":"x","code":413,"retryAfter":"90"}}"#, true, 60),
        (413, None, r#"{"overLimit":{"message":"x","code":413,"retryAfter":"60"}}"#, true, 60),
        (413, None, r#"{"overLimit":{"message":"x","code":413,"retryAfter":60}}"#, true, 60),
        (413, None, r#"{"overLimit":{"message":"x","code":413,"retryAfter":" 60 "}}"#, true, 60),
        (413, None, r#"{"overLimitFault":{"code":413,"message":"x","retryAfter":"7200"}}"#, true, 3600),
        (413, Some("soon"), r#"{"overLimitFault":{"code":413,"message":"x","retryAfter":60}}"#, true, 60),
        (413, None, r#"{"overLimitFault":{"code":413,"message":"x","details":""}}"#, true, 1),
        (413, None, r#"{"overLimit":{"retryAfter":"Fri, 31 Dec 9999 23:59:59 GMT"}}"#, true, 3600),
        (413, None, r#"{"overLimit":{"message":"x","code":413,"retryAfter":"soon"}}"#, true, 1),
        (413, None, r#"{"overLimit":{"message":"x","code":413,"retryAfter":-60}}"#, true, 1),
        (413, None, r#"{"overLimit":{"message":"x","code":413,"retryAfter":null}}"#, true, 1),
        (429, None, r#"{"overLimit":{"message":"x","code":429,"retryAfter":"60"}}"#, true, 60),
        (429, Some("30"), r#"{"overLimitFault":{"message":"x","retryAfter":60}}"#, true, 30),
        (429, None, r#"{"error":{"message":"x","retryAfter":60}}"#, true, 1),
        (413, Some("soon"), "", false, 0),
        (413, None, r#"{"badRequest":{"message":"overLimit","code":413,"retryAfter":"60"}}"#, false, 0),
        (413, None, r#"{"overLimit":"text"}"#, false, 0),
        (400, Some("60"), r#"{"overLimit":{"message":"x","code":413,"retryAfter":"60"}}"#, false, 0),
    ];
    for (status, header, body, is_limit, seconds) in rows {
        let headers: Vec<_> = header.iter().map(|value| ("retry-after", *value)).collect();
        let upstream = Upstream::replying(*status, &headers, body).await;
        let error = Gateway::with_upstream(&upstream).await.get_error().await;
        let case = format!("{status} {header:?} {body}");
        // No wait that the caller is told fits the deadline, and none is no reason to retry.
        assert_eq!(upstream.requests().len(), 1, "{case}");
        if *is_limit {
            assert_eq!(error.outcome(), (Code::ResourceExhausted, "UPSTREAM_RATE_LIMITED"), "{case}");
            assert_eq!(error.retry_delay(), Some(Duration::from_secs(*seconds)), "{case}");
            assert_eq!(error.pushback(), Some((seconds * 1000).to_string().as_str()), "{case}");
        } else {
            assert_eq!(error.outcome(), (Code::InvalidArgument, "UPSTREAM_BAD_REQUEST"), "{case}");
            assert_eq!((error.retry_delay(), error.pushback()), (None, None), "{case}");
        }
    }
}

#[tokio::test]
async fn interim_replies_are_skipped() {
    let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".to_vec();
    let upstream =
        Upstream::scripted(move |_, _| [vec![Step::Send(interim.clone())], documented_reply()].concat())
            .await;
    Gateway::with_upstream(&upstream).await.get().await.unwrap();
}

#[tokio::test]
async fn sandbox_returns_every_documented_status() {
    let gateway = Gateway::start(&["--sandbox", "--max-attempts=1"]).await;
    let documented = [400, 401, 403, 404, 405, 406, 407, 408, 409, 500, 501, 502, 503, 504, 429];
    for status in documented {
        let id = format!("00000000-0000-4000-8000-000000000{status}");
        let error = gateway.call_error(request(PROJECT, &id)).await;
        let of_status = |row: &&(u16, &str, Code, &'static str, bool)| row.0 == status;
        let (_, _, code, reason, _) = ROWS.iter().find(of_status).unwrap();
        assert_eq!(error.outcome(), (*code, *reason), "{status}");
        assert_eq!(error.metadata("httpStatus"), Some(status.to_string().as_str()));
    }
    let ok = "00000000-0000-4000-8000-000000000200";
    let share = gateway.call(request(PROJECT, ok)).await.unwrap().into_inner().backup_share.unwrap();
    assert_eq!(share.id.as_deref(), Some(ok));
    let unknown = gateway.call_error(request(PROJECT, "11111111-2222-4333-8444-555555555555")).await;
    assert_eq!(unknown.reason, "BACKUP_SHARE_NOT_FOUND");
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let second = Upstream::documented().await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("{}/elsewhere", second.url());
        let first = Upstream::replying(status, &[("location", &location)], "").await;
        let error = Gateway::with_upstream(&first).await.get_error().await;
        assert_eq!(error.outcome(), (Code::Internal, "UPSTREAM_UNEXPECTED_STATUS"));
        assert!(!format!("{error:?}").contains("elsewhere"));
    }
    assert_eq!(second.connections(), 0);
}

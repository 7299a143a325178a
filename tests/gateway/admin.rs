//! The admin port.

use crate::support::*;

#[tokio::test]
async fn the_admin_port_tells_what_is_there() {
    let gateway = Running::start(&["--sandbox"]).await;
    gateway.get().await.unwrap();
    for (path, status, part) in [
        ("/", 200, "/metrics"),
        ("/livez", 200, "ok"),
        ("/readyz", 200, "ok"),
        ("/metrics", 200, "rpc_server_call_duration_seconds_count"),
        ("/nope", 404, "not found"),
    ] {
        let (found, body) = gateway.admin_get(path).await;
        assert_eq!(found, status, "{path}");
        assert!(body.contains(part), "{path}: {body}");
    }
}

#[tokio::test]
async fn metrics_count_calls_attempts_and_sheds_and_hold_no_id() {
    let gateway = Running::start(&["--sandbox", "--max-attempts=1"]).await;
    gateway.get().await.unwrap();
    gateway.call(request(PROJECT, "00000000-0000-4000-8000-000000000503")).await.unwrap_err();
    gateway.call(without_token(PROJECT, SHARE)).await.unwrap_err();
    let call = |code: &str| {
        format!(
            r#"rpc_server_call_duration_seconds_count{{rpc_method="{SERVICE}/GetBackupShare",rpc_response_status_code="{code}"}}"#
        )
    };
    let attempt = |status: &str| {
        format!(
            r#"http_client_request_duration_seconds_count{{error_type="",http_response_status_code="{status}"}}"#
        )
    };
    for name in [call("OK"), call("UNAVAILABLE"), call("UNAUTHENTICATED"), attempt("200"), attempt("503")] {
        assert!((gateway.metric(&name).await - 1.0).abs() < f64::EPSILON, "{name}");
    }
    let (_, text) = gateway.admin_get("/metrics").await;
    for family in [
        "rpc_server_active_requests",
        "upstream_retry_tokens",
        "upstream_unknown_fields_total",
        "panics_total",
        "shed_total",
        "server_connections",
        "build_info",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(&format!("# TYPE {family} ")), "{family}");
    }
    for secret in [PROJECT, SHARE, TOKEN] {
        assert!(!text.contains(secret));
    }
}

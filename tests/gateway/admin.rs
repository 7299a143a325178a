//! The admin port: probes and metrics.

use crate::support::*;

#[tokio::test]
async fn admin_port_serves_probes_and_metrics() {
    let gateway = Gateway::start(&["--sandbox"]).await;
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
async fn metrics_count_calls_and_attempts_without_ids() {
    let gateway = Gateway::start(&["--sandbox", "--max-attempts=1"]).await;
    gateway.get().await.unwrap();
    gateway.call(request(PROJECT, "00000000-0000-4000-8000-000000000503")).await.unwrap_err();
    gateway.call(request_without_token(PROJECT, SHARE)).await.unwrap_err();
    let attempt = |status: &str| {
        format!(
            r#"http_client_request_duration_seconds_count{{error_type="",http_response_status_code="{status}"}}"#
        )
    };
    for name in [
        call_count("OK"),
        call_count("UNAVAILABLE"),
        call_count("UNAUTHENTICATED"),
        attempt("200"),
        attempt("503"),
    ] {
        assert_eq!(gateway.metric(&name).await, 1.0, "{name}");
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

#[tokio::test]
async fn undefined_upstream_status_counts_as_its_class() {
    let upstream = Upstream::scripted(|_, number| match number {
        1 => reply(404, &[], ""),
        2 => reply(494, &[], ""),
        3 => reply(477, &[], ""),
        _ => reply(599, &[], ""),
    })
    .await;
    let gateway = Gateway::with_flags(&upstream, &["--max-attempts=1"]).await;
    for _ in 0..4 {
        gateway.get().await.unwrap_err();
    }
    let (_, text) = gateway.admin_get("/metrics").await;
    for (label, count) in [("404", 1), ("4xx", 2), ("5xx", 1)] {
        let series = format!(
            r#"http_client_request_duration_seconds_count{{error_type="",http_response_status_code="{label}"}} {count}"#
        );
        assert!(text.contains(&series), "{series}");
    }
}

//! The log on standard output: the line of each call, and lines that are dropped.

use std::process::Stdio;

use crate::support::h2_peer::RawRequest;
use crate::support::process::*;
use crate::support::*;

const REQUEST_ID: &str = "request-id-of-the-call";
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
/// Logged by `upstream` within a call.
const UNKNOWN_KEY: &str = "the upstream's response has an unknown key";

/// The log lines of one call whose reply has an unknown key; the access line is the last.
async fn lines_of_a_call(flags: &[&str]) -> Vec<String> {
    let body = DOCUMENTED.replacen('{', r#"{"new_key": 1,"#, 1);
    let upstream = Upstream::replying(200, &[], body).await;
    let mut gateway = GatewayProcess::with_upstream(&upstream, flags).await;
    let traceparent = format!("00-{TRACE_ID}-b7ad6b7169203331-01");
    let call = request_with(&[("x-request-id", REQUEST_ID), ("traceparent", &traceparent)]);
    with_timeout("a call", gateway.client().await.get_backup_share(call)).await.unwrap();
    let mut lines = Vec::new();
    loop {
        let line = with_timeout("a line", gateway.log.next_line()).await.unwrap().unwrap();
        let is_last = line.contains(r#""message":"call""#);
        lines.push(line);
        if is_last {
            return lines;
        }
    }
}

#[tokio::test]
async fn line_within_a_call_has_its_request_id_and_trace_id_once() {
    // The spans that the IDs come from do not depend on what is logged.
    for filter in ["info", "warn,backup_share_gateway::app=info,backup_share_gateway::grpc=info", "debug"] {
        let lines = lines_of_a_call(&[&format!("--log={filter}")]).await;
        let within: Vec<_> = lines
            .iter()
            .filter(|line| line.contains(UNKNOWN_KEY) || line.contains(r#""message":"call""#))
            .collect();
        assert_eq!(within.len(), 2, "{lines:?}");
        for line in within {
            for (key, id) in [("request_id", REQUEST_ID), ("trace_id", TRACE_ID)] {
                let member = format!(r#""{key}":"{id}""#);
                assert_eq!(line.matches(&member).count(), 1, "{member} in {line}");
            }
        }
    }
}

#[tokio::test]
async fn call_has_one_flat_line_without_token() {
    let mut gateway = GatewayProcess::start(&["--sandbox", "--log=trace,backup_share_gateway=trace"]).await;
    let mut lines = Vec::new();
    for id in [SHARE, "00000000-0000-4000-8000-000000000404", "detail"] {
        gateway.get(PROJECT, id).await;
        loop {
            let line = gateway.line().await;
            assert!(!line.to_string().contains(TOKEN), "{line}");
            if line["message"] == "call" {
                lines.push(line);
                break;
            }
        }
    }
    let [found, missing, invalid] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!(found["rpc.method"], "vbs.v2.BackupShareService/GetBackupShare");
    assert_eq!(
        (&found["rpc.code"], &found["http.status"], &found["attempts"]),
        (&"OK".into(), &200.into(), &1.into())
    );
    assert_eq!((&found["project_id"], &found["share_id"]), (&PROJECT.into(), &SHARE.into()));
    for key in ["request_id", "peer", "upstream_request_id", "duration_ms", "upstream_ms", "deadline_ms"] {
        assert!(!found[key].is_null(), "{key} in {found}");
    }
    assert!(found["reason"].is_null());
    assert_eq!(
        (&missing["rpc.code"], &missing["reason"]),
        (&"NOT_FOUND".into(), &"BACKUP_SHARE_NOT_FOUND".into())
    );
    assert_eq!(
        (&invalid["rpc.code"], &invalid["reason"]),
        (&"INVALID_ARGUMENT".into(), &"INVALID_REQUEST".into())
    );
    for key in ["project_id", "share_id", "http.status", "upstream_ms", "attempts"] {
        assert!(invalid[key].is_null(), "{key} in {invalid}");
    }
}

#[tokio::test]
async fn cancelled_call_has_line_with_known_fields() {
    let upstream = Upstream::stalled().await;
    let mut gateway = GatewayProcess::with_upstream(&upstream, &["--attempt-timeout=60s"]).await;
    let mut get = gateway.get_command(PROJECT, SHARE, &[]);
    let mut call = get.stderr(Stdio::null()).spawn().unwrap();
    upstream.wait_for_requests(1).await;
    call.kill().await.unwrap();
    let line = gateway.line().await;
    assert_eq!(
        (&line["message"], &line["rpc.code"], &line["attempts"]),
        (&"call".into(), &"CANCELLED".into(), &1.into())
    );
    assert_eq!((&line["project_id"], &line["share_id"]), (&PROJECT.into(), &SHARE.into()));
    assert!(line["upstream_ms"].is_number() && line["reason"].is_null(), "{line}");
}

#[tokio::test]
async fn refused_and_expired_calls_have_lines() {
    let upstream = Upstream::stalled().await;
    let flags = ["--attempt-timeout=60s", "--max-in-flight=1"];
    let mut gateway = GatewayProcess::with_upstream(&upstream, &flags).await;
    let mut get = gateway.get_command(PROJECT, SHARE, &["--deadline", "60s"]);
    let mut waiting = get.stderr(Stdio::null()).spawn().unwrap();
    upstream.wait_for_requests(1).await;
    run(gateway.get_command(PROJECT, SHARE, &["--deadline", "60s"])).await;
    let shed = gateway.line().await;
    assert_eq!(
        (&shed["rpc.code"], &shed["reason"]),
        (&"RESOURCE_EXHAUSTED".into(), &"OVERLOADED".into()),
        "{shed}"
    );
    assert!(
        shed["attempts"].is_null() && shed["project_id"].is_null(),
        "refused before the message was read: {shed}"
    );
    waiting.kill().await.unwrap();
    assert_eq!(gateway.line().await["rpc.code"], "CANCELLED");
    // A raw request: a gRPC client that enforces the deadline itself might cancel first.
    with_timeout(
        "a call",
        RawRequest::call().header("grpc-timeout", "200m").send(gateway.grpc.parse().unwrap()),
    )
    .await;
    let line = gateway.line().await;
    assert_eq!(
        (&line["rpc.code"], &line["reason"], &line["attempts"]),
        (&"DEADLINE_EXCEEDED".into(), &"DEADLINE_EXCEEDED".into(), &1.into()),
        "{line}"
    );
    for key in ["request_id", "peer", "duration_ms", "upstream_ms", "deadline_ms"] {
        assert!(!line[key].is_null(), "{key} in {line}");
    }
    assert_eq!(metric(gateway.admin, "shed_total").await, 1.0);
}

#[tokio::test]
async fn unknown_keys_are_logged_once_up_to_64() {
    let keys: String = (0..100).map(|number| format!(r#""new_{number}_{}": 1,"#, "x".repeat(100))).collect();
    let body = DOCUMENTED.replacen("\"shared\": {", &format!("\"shared\": {{{keys}"), 1);
    let upstream = Upstream::replying(200, &[], body).await;
    let mut gateway = GatewayProcess::with_upstream(&upstream, &[]).await;
    let (mut logged, mut calls) = (Vec::new(), 0);
    for _ in 0..2 {
        assert!(gateway.get(PROJECT, SHARE).await.status.success());
    }
    while calls < 2 {
        let line = gateway.line().await;
        match line["key"].as_str() {
            Some(key) => logged.push(key.to_owned()),
            None => calls += usize::from(line["message"] == "call"),
        }
    }
    assert_eq!(logged.len(), 64);
    assert!(logged.iter().all(|key| key.starts_with("shared.new_") && key.len() == 64), "{logged:?}");
    assert_eq!(metric(gateway.admin, "upstream_unknown_fields_total").await, 200.0);
}

#[tokio::test]
async fn unread_log_blocks_no_call_and_dropped_lines_are_counted() {
    // At the level trace, lines soon fill the pipe and the queue of the writer, since nothing reads them.
    let gateway = GatewayProcess::start(&["--sandbox", "--log=trace"]).await;
    let mut client = gateway.client().await;
    assert_eq!(metric(gateway.admin, "log_lines_dropped_total").await, 0.0);
    let mut calls = 0;
    while metric(gateway.admin, "log_lines_dropped_total").await < 1.0 {
        assert!(calls < 20_000, "{calls} calls, and no line is lost");
        for _ in 0..100 {
            get_share(&mut client).await.unwrap();
            calls += 1;
        }
    }
    gateway.terminate().await;
}

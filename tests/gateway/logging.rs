//! The log on standard output: the line of each call, and lines that are dropped.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::certificates::TlsFiles;
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
    let mut gateway = GatewayProcess::start(&["--sandbox", LOG_EVERYTHING]).await;
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
    let text = with_timeout("a line", gateway.log.next_line()).await.unwrap().unwrap();
    assert_eq!(text.matches(r#""request_id":"#).count(), 1, "{text}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
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
    // At the level trace of all libraries, lines soon fill the pipe and the queue of the writer, since nothing reads them.
    let gateway = GatewayProcess::start(&["--sandbox", LOG_EVERYTHING]).await;
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

/// The targets of the log lines up to the line of a call.
async fn targets(filter: &str) -> Vec<String> {
    let lines = lines_of_a_call(&[&format!("--log={filter}")]).await;
    let target = |line: &String| {
        serde_json::from_str::<serde_json::Value>(line).unwrap()["target"].as_str().unwrap().to_owned()
    };
    lines.iter().map(target).collect()
}

#[tokio::test]
async fn libraries_are_logged_only_if_the_filter_names_them() {
    for filter in ["debug", "trace"] {
        let targets = targets(filter).await;
        assert!(targets.iter().all(|target| target.starts_with("backup_share_gateway")), "{targets:?}");
    }
    let targets = targets("info,h2=debug").await;
    assert!(targets.iter().any(|target| target.starts_with("h2")), "{targets:?}");
    assert!(targets.iter().all(|target| target.starts_with("h2") || target.starts_with("backup_share")));
}

#[tokio::test]
async fn warnings_about_variables_are_logged_at_the_start() {
    let mut command = serve_command(&["--sandbox"]);
    command.env("GATEWAY_MAX_INFLIGHT", "5").env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    command.env("OTEL_TRACES_EXPORTER", "otlp,console").env("GATEWAY_PORT", "tcp://10.0.0.1:50051");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut warnings = Vec::new();
    loop {
        let line = with_timeout("a line", log.next_line()).await.unwrap().unwrap();
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        if line["message"] == "listening" {
            break;
        }
        assert_eq!(line["level"], "WARN", "{line}");
        warnings.push(line["message"].as_str().unwrap().to_owned());
    }
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("GATEWAY_MAX_INFLIGHT") && warnings[0].contains("--max-in-flight"));
    assert!(warnings[1].contains("OTEL_TRACES_EXPORTER"));
}

/// The fields of the line `listening` that describe the configuration.
async fn listening(flags: &[&str]) -> [String; 3] {
    let mut child = serve_command(flags).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = with_timeout("a line", log.next_line()).await.unwrap().unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["message"], &line["version"]),
        (&"listening".into(), &env!("CARGO_PKG_VERSION").into())
    );
    ["auth", "upstream.host", "tls"].map(|key| line[key].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn line_listening_describes_the_configuration() {
    let files = TlsFiles::new();
    files.write_secrets(&[("OS_ACCESS_KEY", "a"), ("OS_SECRET_KEY", "b")]);
    let url = "--upstream-url=https://vbs.example:8443/vbs";
    assert_eq!(listening(&["--sandbox"]).await, ["passthrough", "sandbox", "off"]);
    let tls = files.tls_flags();
    assert_eq!(listening(&[&strs(&tls)[..], &[url]].concat()).await, ["passthrough", "vbs.example", "tls"]);
    let own = files.own_credential_flags("aksk");
    assert_eq!(listening(&[&strs(&own)[..], &[url]].concat()).await, ["aksk", "vbs.example", "mutual"]);
    let iam = [("OS_AUTH_URL", "http://127.0.0.1:9/v3"), ("OS_USERNAME", "u"), ("OS_PASSWORD", "p")];
    files.write_secrets(&[&iam[..], &[("OS_USER_DOMAIN_NAME", "d"), ("OS_PROJECT_ID", PROJECT)]].concat());
    let own = files.own_credential_flags("keystone");
    assert_eq!(listening(&strs(&own)).await, ["keystone", "catalog", "mutual"]);
}

#[tokio::test]
async fn revision_is_in_version_and_metrics() {
    let version = to_text(&run(gateway_command(&["--version"])).await.stdout);
    let (_, revision) = version.trim_end_matches([')', '\n']).split_once(" (").expect("a revision");
    let hash = revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(hash || revision == "unknown" || option_env!("SOURCE_REVISION").is_some(), "{version}");
    let gateway = Gateway::start(&["--sandbox"]).await;
    let build = format!(r#"build_info{{revision="{revision}",version="{}"}}"#, env!("CARGO_PKG_VERSION"));
    assert_eq!(gateway.metric(&build).await, 1.0);
}

//! Log lines, as the process writes them.

use std::process::Stdio;

use tonic::transport::Endpoint;

use crate::support::h2_peer::Raw;
use crate::support::process::*;
use crate::support::*;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;

const REQUEST_ID: &str = "request-id-of-the-call";
const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

/// Written by the upstream's reader, in the middle of a call.
const UNKNOWN_KEY: &str = "the upstream's reply has a key that this version does not know";

/// The lines of one call whose reply has an unknown key, with these flags; the access line comes last.
async fn lines_of_a_call(flags: &[&str]) -> Vec<String> {
    let body = DOCUMENTED.replacen('{', r#"{"new_key": 1,"#, 1);
    let upstream = Upstream::replying(200, &[], body).await;
    let url = format!("--upstream-url={}", upstream.url());
    let mut gateway = Served::start(&[&[&*url, "--allow-plaintext-upstream"], flags].concat()).await;
    let mut call = request(PROJECT, SHARE);
    call.metadata_mut().insert("x-request-id", REQUEST_ID.parse().unwrap());
    let traceparent = format!("00-{TRACE_ID}-b7ad6b7169203331-01");
    call.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    let channel = Endpoint::from_shared(format!("http://{}", gateway.grpc)).unwrap().connect().await;
    let mut client = BackupShareServiceClient::new(channel.unwrap());
    soon("a call", client.get_backup_share(call)).await.unwrap();
    let mut lines = Vec::new();
    loop {
        let line = soon("a line", gateway.log.next_line()).await.unwrap().unwrap();
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
async fn every_call_has_one_flat_line_without_the_token() {
    let mut served = Served::start(&["--sandbox", "--log=trace,backup_share_gateway=trace"]).await;
    let mut lines = Vec::new();
    for id in [SHARE, "00000000-0000-4000-8000-000000000404", "detail"] {
        served.get(PROJECT, id).await;
        loop {
            let line = served.line().await;
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
async fn a_cancelled_call_has_its_line_with_all_that_is_known() {
    let upstream = Upstream::scripted(|_, _| vec![Step::Stall]).await;
    let url = format!("--upstream-url={}", upstream.url());
    let mut served = Served::start(&[&url, "--allow-plaintext-upstream", "--attempt-timeout=60s"]).await;
    let mut call = gateway(&["get", "--address", &served.grpc, "--project-id", PROJECT, SHARE]);
    let mut call = call.env("OS_TOKEN", TOKEN).stderr(Stdio::null()).spawn().unwrap();
    upstream.received(1).await;
    call.kill().await.unwrap();
    let line = served.line().await;
    assert_eq!(
        (&line["message"], &line["rpc.code"], &line["attempts"]),
        (&"call".into(), &"CANCELLED".into(), &1.into())
    );
    assert_eq!((&line["project_id"], &line["share_id"]), (&PROJECT.into(), &SHARE.into()));
    assert!(line["upstream_ms"].is_number() && line["reason"].is_null(), "{line}");
}

#[tokio::test]
async fn a_call_that_is_refused_or_out_of_time_has_its_line_too() {
    let upstream = Upstream::scripted(|_, _| vec![Step::Stall]).await;
    let url = format!("--upstream-url={}", upstream.url());
    let flags = ["--allow-plaintext-upstream", "--attempt-timeout=60s", "--max-in-flight=1"];
    let mut served = Served::start(&[&flags[..], &[&url]].concat()).await;
    let address = served.grpc.clone();
    let ask = || {
        let mut call = gateway(&["get", "--address", &address, "--project-id", PROJECT, SHARE]);
        call.args(["--deadline", "60s"]).env("OS_TOKEN", TOKEN).stderr(Stdio::null());
        call
    };
    let mut waiting = ask().spawn().unwrap();
    upstream.received(1).await;
    output(ask()).await;
    let shed = served.line().await;
    assert_eq!(
        (&shed["rpc.code"], &shed["reason"]),
        (&"RESOURCE_EXHAUSTED".into(), &"OVERLOADED".into()),
        "{shed}"
    );
    assert!(shed["attempts"].is_null() && shed["project_id"].is_null(), "refused before it was read: {shed}");
    waiting.kill().await.unwrap();
    assert_eq!(served.line().await["rpc.code"], "CANCELLED");
    // A client that keeps the deadline itself might be the first to go.
    soon("a call", Raw::call().header("grpc-timeout", "200m").send(address.parse().unwrap())).await;
    let line = served.line().await;
    assert_eq!(
        (&line["rpc.code"], &line["reason"], &line["attempts"]),
        (&"DEADLINE_EXCEEDED".into(), &"DEADLINE_EXCEEDED".into(), &1.into()),
        "{line}"
    );
    for key in ["request_id", "peer", "duration_ms", "upstream_ms", "deadline_ms"] {
        assert!(!line[key].is_null(), "{key} in {line}");
    }
    assert!((metric(served.admin, "shed_total").await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn an_unknown_key_is_logged_once_and_64_of_them_at_most() {
    let keys: String = (0..100).map(|number| format!(r#""new_{number}_{}": 1,"#, "x".repeat(100))).collect();
    let body = DOCUMENTED.replacen("\"shared\": {", &format!("\"shared\": {{{keys}"), 1);
    let upstream = Upstream::replying(200, &[], body).await;
    let url = format!("--upstream-url={}", upstream.url());
    let mut served = Served::start(&[&url, "--allow-plaintext-upstream"]).await;
    let (mut logged, mut calls) = (Vec::new(), 0);
    for _ in 0..2 {
        assert!(served.get(PROJECT, SHARE).await.status.success());
    }
    while calls < 2 {
        let line = served.line().await;
        match line["key"].as_str() {
            Some(key) => logged.push(key.to_owned()),
            None => calls += usize::from(line["message"] == "call"),
        }
    }
    assert_eq!(logged.len(), 64);
    assert!(logged.iter().all(|key| key.starts_with("shared.new_") && key.len() == 64), "{logged:?}");
    assert!((metric(served.admin, "upstream_unknown_fields_total").await - 200.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_no_call_and_what_is_lost_is_counted() {
    // At its most talkative, so that it soon has more lines than a pipe and the writer's queue hold; none is read.
    let served = Served::start(&["--sandbox", "--log=trace"]).await;
    let channel = Endpoint::from_shared(format!("http://{}", served.grpc)).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut client = BackupShareServiceClient::new(channel);
    assert!(metric(served.admin, "log_lines_dropped_total").await.abs() < f64::EPSILON);
    let mut calls = 0;
    while metric(served.admin, "log_lines_dropped_total").await < 1.0 {
        assert!(calls < 20_000, "{calls} calls, and no line is lost");
        for _ in 0..100 {
            soon("a call", client.get_backup_share(request(PROJECT, SHARE))).await.unwrap();
            calls += 1;
        }
    }
    served.signal(rustix::process::Signal::TERM);
    let mut served = served;
    assert_eq!(soon("the end", served.child.wait()).await.unwrap().code(), Some(0));
}

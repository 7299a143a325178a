//! Traces: what a collector gets, and that one that is away, slow or broken holds nothing.

use std::collections::HashMap;
use std::process::{Output, Stdio};

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::support::collector::Collector;
use crate::support::h2_peer::Raw;
use crate::support::process::*;
use crate::support::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const SECRET: &str = "secret-of-the-collector-0123456789";

/// The command that starts a gateway which sends its spans to `collector`.
fn traced(collector: &str, flags: &[&str]) -> Command {
    let ports = ["serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--drain-delay=0s"];
    let mut command = gateway(&[&ports[..], flags].concat());
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector);
    command
}

/// Ends a gateway in order, after which its spans are with the collector.
async fn end(mut served: Served) {
    served.signal(rustix::process::Signal::TERM);
    assert_eq!(soon("the end", served.child.wait()).await.unwrap().code(), Some(0));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(list: &[KeyValue]) -> HashMap<String, String> {
    let text = |attribute: &KeyValue| {
        let value = attribute.value.as_ref().unwrap().value.as_ref().unwrap();
        if let Value::StringValue(text) = value {
            return text.clone();
        }
        let Value::IntValue(number) = value else { panic!("{value:?}") };
        number.to_string()
    };
    list.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}

#[tokio::test]
async fn a_call_is_a_server_span_and_each_attempt_a_client_span_below_it() {
    let collector = Collector::start().await;
    let upstream = Upstream::scripted(|_, number| match number {
        1 => reply(503, &[("retry-after", "0")], ""),
        _ => documented(),
    })
    .await;
    let url = upstream.url();
    let flags = ["--upstream-url", &url, "--allow-plaintext-upstream", "--log=trace"];
    let mut command = traced(&format!("http://{}", collector.address), &flags);
    command.env("OTEL_EXPORTER_OTLP_HEADERS", format!("authorization=Bearer%20{SECRET}"));
    let mut served = Served::spawn(command).await;
    let call = Raw::call()
        .header("traceparent", &format!("00-{TRACE}-{CALLER}-01"))
        .header("tracestate", "vendor=value");
    let answer = call.send(served.grpc.parse().unwrap()).await;
    assert_eq!(answer.status().code(), tonic::Code::Ok);
    loop {
        let line = served.line().await;
        assert!(!line.to_string().contains(SECRET), "{line}");
        if line["message"] == "call" {
            assert_eq!(line["trace_id"], TRACE);
            break;
        }
    }
    end(served).await;

    let spans = collector.spans();
    let (servers, clients): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.kind() == SpanKind::Server);
    let ([server], [first, second]) = (servers.as_slice(), clients.as_slice()) else { panic!("{spans:#?}") };
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE && span.trace_state == "vendor=value"));
    assert_eq!(server.name, "vbs.v2.BackupShareService/GetBackupShare");
    assert_eq!(hex(&server.parent_span_id), CALLER);
    let told = attributes(&server.attributes);
    assert_eq!(told["rpc.system.name"], "grpc");
    assert_eq!(told["rpc.method"], "vbs.v2.BackupShareService/GetBackupShare");
    assert_eq!(told["rpc.response.status_code"], "OK");
    assert_eq!(told["network.peer.address"], "127.0.0.1");
    assert!(!told.contains_key("error.type") && !is_error(server));

    let path = format!("{url}/v2/{PROJECT}/os-vendor-backup-sharing/{SHARE}");
    for (client, status, error) in [(first, "503", Some("503")), (second, "200", None)] {
        let told = attributes(&client.attributes);
        assert_eq!((client.name.as_str(), client.kind()), ("GET", SpanKind::Client));
        assert_eq!(client.parent_span_id, server.span_id);
        assert_eq!(told["http.request.method"], "GET");
        assert_eq!(told["url.full"], path);
        assert_eq!(told["server.address"], "127.0.0.1");
        assert_eq!(told["server.port"], upstream.address.port().to_string());
        assert_eq!(told["http.response.status_code"], status);
        assert_eq!(told.get("error.type").map(String::as_str), error);
        assert_eq!(is_error(client), error.is_some());
    }
    assert!(!attributes(&first.attributes).contains_key("http.request.resend_count"));
    assert_eq!(attributes(&second.attributes)["http.request.resend_count"], "1");

    let sent: Vec<_> = upstream.requests();
    for (seen, client) in sent.iter().zip([first, second]) {
        let expected = format!("00-{TRACE}-{}-01", hex(&client.span_id));
        assert_eq!(seen.header("traceparent"), Some(expected.as_str()));
        assert_eq!(seen.header("tracestate"), Some("vendor=value"));
    }
    let (headers, request) = collector.taken.lock().unwrap()[0].clone();
    assert_eq!(headers["authorization"], format!("Bearer {SECRET}"));
    let resource = request.resource_spans[0].resource.clone().unwrap();
    assert_eq!(attributes(&resource.attributes)["service.name"], "backup-share-gateway");
    assert!(!collector.everything().contains(TOKEN), "the token is in a span");
}

#[tokio::test]
async fn only_the_codes_that_are_the_servers_fault_make_its_span_an_error() {
    let collector = Collector::start().await;
    let served = Served::spawn(traced(&format!("http://{}", collector.address), &["--sandbox"])).await;
    // The sandbox answers with the status that the ID ends with.
    let rows = [
        (401, "UNAUTHENTICATED", "UPSTREAM_UNAUTHENTICATED", false),
        (404, "NOT_FOUND", "BACKUP_SHARE_NOT_FOUND", false),
        (409, "ABORTED", "UPSTREAM_CONFLICT", false),
        (500, "INTERNAL", "UPSTREAM_INTERNAL", true),
        (501, "UNIMPLEMENTED", "UPSTREAM_NOT_IMPLEMENTED", true),
    ];
    for (status, ..) in rows {
        served.get(PROJECT, &format!("00000000-0000-4000-8000-000000000{status}")).await;
    }
    served.get(PROJECT, "detail").await;
    end(served).await;

    let spans = collector.spans();
    for (status, code, reason, error) in rows {
        let status = status.to_string();
        let is_client =
            |span: &&Span| attributes(&span.attributes).get("http.response.status_code") == Some(&status);
        let client = spans.iter().find(is_client).unwrap();
        assert!(is_error(client), "a client's 4xx and 5xx are errors");
        let server = spans.iter().find(|span| span.span_id == client.parent_span_id).unwrap();
        let told = attributes(&server.attributes);
        assert_eq!((told["rpc.response.status_code"].as_str(), told["error.type"].as_str()), (code, reason));
        assert_eq!(is_error(server), error, "{code}");
        assert_eq!(server.parent_span_id.len(), 0, "the caller had no trace");
    }
    let refused = |span: &&Span| {
        attributes(&span.attributes).get("error.type").is_some_and(|reason| reason == "INVALID_REQUEST")
    };
    let refused = spans.iter().find(refused).unwrap();
    assert!(!is_error(refused) && !spans.iter().any(|span| span.parent_span_id == refused.span_id));
}

#[tokio::test]
async fn the_callers_sampling_decision_and_the_standard_variables_hold() {
    let collector = Collector::start().await;
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let url = upstream.url();
    let flags = ["--upstream-url", &url, "--allow-plaintext-upstream"];
    let mut command = traced(&format!("http://{}", collector.address), &flags);
    command.env("OTEL_SERVICE_NAME", "vbs-edge").env("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    let served = Served::spawn(command).await;
    let address = served.grpc.parse().unwrap();
    for parent in [None, Some("00"), Some("01")] {
        let mut call = Raw::call();
        if let Some(flags) = parent {
            call = call.header("traceparent", &format!("00-{TRACE}-{CALLER}-{flags}"));
        }
        assert_eq!(call.send(address).await.status().code(), tonic::Code::Ok);
    }
    end(served).await;
    // Neither the call without a parent nor the one whose parent is not sampled.
    assert_eq!(collector.spans().len(), 2);
    let resource = collector.taken.lock().unwrap()[0].1.resource_spans[0].resource.clone().unwrap();
    assert_eq!(attributes(&resource.attributes)["service.name"], "vbs-edge");
    let sent = upstream.requests();
    let not_sampled = sent[1].header("traceparent").unwrap();
    assert!(
        not_sampled.starts_with(&format!("00-{TRACE}-")) && not_sampled.ends_with("-00"),
        "{not_sampled}"
    );
}

#[tokio::test]
async fn a_collector_that_is_away_silent_or_broken_loses_no_call_and_holds_no_end() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    // It accepts and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let garbage = Upstream::scripted(|_, _| vec![Step::Send(b"no HTTP\r\n\r\n".to_vec()), Step::Close]).await;
    for (collector, protocol) in [
        (&away, "http/protobuf"),
        (&away, "grpc"),
        (&silent, "http/protobuf"),
        (&silent, "grpc"),
        (&garbage.url(), "http/protobuf"),
        (&garbage.url(), "grpc"),
    ] {
        let mut command = traced(collector, &["--sandbox"]);
        command.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        // A queue that is full at once, and an export under way all the time.
        command.env("OTEL_BSP_MAX_QUEUE_SIZE", "4").env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2");
        let served = Served::spawn(command).await;
        for _ in 0..20 {
            let reply: Output = served.get(PROJECT, SHARE).await;
            assert!(reply.status.success(), "{collector} {protocol}");
        }
        end(served).await;
    }
}

#[tokio::test]
async fn what_cannot_be_understood_exits_64_by_name() {
    let mut command = traced("collector:4317", &["--sandbox"]);
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json");
    let refused = output(command).await;
    assert_eq!(refused.status.code(), Some(64));
    let told = text(&refused.stderr);
    for name in ["OTEL_EXPORTER_OTLP_ENDPOINT ", "OTEL_EXPORTER_OTLP_PROTOCOL "] {
        assert!(told.lines().any(|line| line.starts_with(name)), "{name} in {told}");
    }
}

#[tokio::test]
async fn sampler_that_is_not_known_is_a_warning_in_the_log() {
    let mut command = gateway(&["serve", "--sandbox", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9").env("OTEL_TRACES_SAMPLER", "bogus");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut warnings = 0;
    loop {
        let line = soon("a line", log.next_line()).await.unwrap().unwrap();
        warnings +=
            usize::from(line.contains(r#""level":"WARN""#) && line.to_lowercase().contains("sampler"));
        if line.contains(r#""message":"listening""#) {
            break;
        }
    }
    assert_eq!(warnings, 1);
}

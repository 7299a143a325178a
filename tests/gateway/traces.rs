//! Traces: the spans that a collector gets, and collectors that do not work.

use std::collections::HashMap;
use std::process::Stdio;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::support::collector::Collector;
use crate::support::h2_peer::RawRequest;
use crate::support::process::*;
use crate::support::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const SECRET: &str = "secret-of-the-collector-0123456789";

/// The command that starts a gateway which sends its spans to `collector`.
fn traced(collector: &str, flags: &[&str]) -> Command {
    let mut command = serve_command(&[&["--drain-delay=0s"], flags].concat());
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector);
    command
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
async fn call_has_server_span_and_each_attempt_client_span() {
    let collector = Collector::start().await;
    let upstream = Upstream::scripted(|_, number| match number {
        1 => reply(503, &[("retry-after", "0")], ""),
        _ => documented_reply(),
    })
    .await;
    let url = upstream.url();
    let flags = ["--upstream-url", &url, PLAINTEXT, LOG_EVERYTHING];
    let mut command = traced(&format!("http://{}", collector.address), &flags);
    command.env("OTEL_EXPORTER_OTLP_HEADERS", format!("authorization=Bearer%20{SECRET}"));
    let mut gateway = GatewayProcess::spawn(command).await;
    let call = RawRequest::call()
        .header("traceparent", &format!("00-{TRACE}-{CALLER}-01"))
        .header("tracestate", "vendor=value");
    let response = call.send(gateway.grpc.parse().unwrap()).await;
    assert_eq!(response.status().code(), tonic::Code::Ok);
    loop {
        let line = gateway.line().await;
        assert!(!line.to_string().contains(SECRET), "{line}");
        if line["message"] == "call" {
            assert_eq!(line["trace_id"], TRACE);
            break;
        }
    }
    gateway.terminate().await;

    let spans = collector.spans();
    let (servers, clients): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.kind() == SpanKind::Server);
    let ([server], [first, second]) = (servers.as_slice(), clients.as_slice()) else { panic!("{spans:#?}") };
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE && span.trace_state == "vendor=value"));
    assert_eq!(server.name, "vbs.v2.BackupShareService/GetBackupShare");
    assert_eq!(hex(&server.parent_span_id), CALLER);
    let values = attributes(&server.attributes);
    assert_eq!(values["rpc.system.name"], "grpc");
    assert_eq!(values["rpc.method"], "vbs.v2.BackupShareService/GetBackupShare");
    assert_eq!(values["rpc.response.status_code"], "OK");
    assert_eq!(values["network.peer.address"], "127.0.0.1");
    assert!(!values.contains_key("error.type") && !is_error(server));

    let path = format!("{url}/v2/{PROJECT}/os-vendor-backup-sharing/{SHARE}");
    for (client, status, error) in [(first, "503", Some("503")), (second, "200", None)] {
        let values = attributes(&client.attributes);
        assert_eq!((client.name.as_str(), client.kind()), ("GET", SpanKind::Client));
        assert_eq!(client.parent_span_id, server.span_id);
        assert_eq!(values["http.request.method"], "GET");
        assert_eq!(values["url.full"], path);
        assert_eq!(values["server.address"], "127.0.0.1");
        assert_eq!(values["server.port"], upstream.address.port().to_string());
        assert_eq!(values["http.response.status_code"], status);
        assert_eq!(values.get("error.type").map(String::as_str), error);
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
    let (headers, request) = collector.exports.lock().unwrap()[0].clone();
    assert_eq!(headers["authorization"], format!("Bearer {SECRET}"));
    let resource = request.resource_spans[0].resource.clone().unwrap();
    assert_eq!(attributes(&resource.attributes)["service.name"], "backup-share-gateway");
    assert!(!collector.debug_text().contains(TOKEN), "the token is in a span");
}

#[tokio::test]
async fn only_server_fault_codes_mark_server_span_as_error() {
    let collector = Collector::start().await;
    let gateway =
        GatewayProcess::spawn(traced(&format!("http://{}", collector.address), &["--sandbox"])).await;
    // The sandbox replies with the status at the end of the ID.
    let rows = [
        (401, "UNAUTHENTICATED", "UPSTREAM_UNAUTHENTICATED", false),
        (404, "NOT_FOUND", "BACKUP_SHARE_NOT_FOUND", false),
        (409, "ABORTED", "UPSTREAM_CONFLICT", false),
        (500, "INTERNAL", "UPSTREAM_INTERNAL", true),
        (501, "UNIMPLEMENTED", "UPSTREAM_NOT_IMPLEMENTED", true),
    ];
    for (status, ..) in rows {
        gateway.get(PROJECT, &format!("00000000-0000-4000-8000-000000000{status}")).await;
    }
    gateway.get(PROJECT, "detail").await;
    gateway.terminate().await;

    let spans = collector.spans();
    for (status, code, reason, error) in rows {
        let status = status.to_string();
        let is_client =
            |span: &&Span| attributes(&span.attributes).get("http.response.status_code") == Some(&status);
        let client = spans.iter().find(is_client).unwrap();
        assert!(is_error(client), "a client's 4xx and 5xx are errors");
        let server = spans.iter().find(|span| span.span_id == client.parent_span_id).unwrap();
        let values = attributes(&server.attributes);
        assert_eq!(
            (values["rpc.response.status_code"].as_str(), values["error.type"].as_str()),
            (code, reason)
        );
        assert_eq!(is_error(server), error, "{code}");
        assert_eq!(server.parent_span_id.len(), 0, "the caller sent no trace context");
    }
    let refused = |span: &&Span| {
        attributes(&span.attributes).get("error.type").is_some_and(|reason| reason == "INVALID_REQUEST")
    };
    let refused = spans.iter().find(refused).unwrap();
    assert!(!is_error(refused) && !spans.iter().any(|span| span.parent_span_id == refused.span_id));
}

#[tokio::test]
async fn caller_sampling_and_standard_variables_apply() {
    let collector = Collector::start().await;
    let upstream = Upstream::documented().await;
    let url = upstream.url();
    let flags = ["--upstream-url", &url, PLAINTEXT];
    let mut command = traced(&format!("http://{}", collector.address), &flags);
    command.env("OTEL_SERVICE_NAME", "vbs-edge").env("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    let gateway = GatewayProcess::spawn(command).await;
    let address = gateway.grpc.parse().unwrap();
    for parent in [None, Some("00"), Some("01")] {
        let mut call = RawRequest::call();
        if let Some(flags) = parent {
            call = call.header("traceparent", &format!("00-{TRACE}-{CALLER}-{flags}"));
        }
        assert_eq!(call.send(address).await.status().code(), tonic::Code::Ok);
    }
    gateway.terminate().await;
    // Only the call whose parent is sampled: a server span and a client span.
    assert_eq!(collector.spans().len(), 2);
    let resource = collector.exports.lock().unwrap()[0].1.resource_spans[0].resource.clone().unwrap();
    assert_eq!(attributes(&resource.attributes)["service.name"], "vbs-edge");
    let sent = upstream.requests();
    let not_sampled = sent[1].header("traceparent").unwrap();
    assert!(
        not_sampled.starts_with(&format!("00-{TRACE}-")) && not_sampled.ends_with("-00"),
        "{not_sampled}"
    );
}

#[tokio::test]
async fn exported_trace_continues_only_what_the_grammar_allows() {
    let collector = Collector::start().await;
    let upstream = Upstream::documented().await;
    let url = upstream.url();
    let flags = ["--upstream-url", &url, PLAINTEXT];
    let gateway = GatewayProcess::spawn(traced(&format!("http://{}", collector.address), &flags)).await;
    let address = gateway.grpc.parse().unwrap();
    let known = format!("00-{TRACE}-{CALLER}-01");
    let later = format!("01-{TRACE}-{CALLER}-01-{}", "x".repeat(30_000));
    let tenant = "tenant@system90123456=1";
    // `traceparent`, `tracestate`, whether the trace is continued, the `tracestate` that is sent.
    let cases = [
        (known.as_str(), tenant, true, Some(tenant)),
        (&later, "a=1 , b=2", true, Some("a=1,b=2")),
        (&known, "A=1", true, None),
        (&format!("{known}-more"), "a=1", false, None),
        (&format!("ff{}", &known[2..]), "a=1", false, None),
        (&known.to_uppercase(), "a=1", false, None),
    ];
    for (traceparent, tracestate, _, _) in cases {
        let call = RawRequest::call().header("traceparent", traceparent).header("tracestate", tracestate);
        assert_eq!(call.send(address).await.status().code(), tonic::Code::Ok);
    }
    gateway.terminate().await;
    for (seen, (traceparent, _, is_continued, state)) in upstream.requests().iter().zip(cases) {
        let sent = seen.header("traceparent").unwrap();
        assert_eq!(sent.len(), 55, "{traceparent:.100}");
        assert_eq!(sent.starts_with(&format!("00-{TRACE}-")), is_continued, "{traceparent:.100}");
        assert_eq!(seen.header("tracestate"), state, "{traceparent:.100}");
    }
}

#[tokio::test]
async fn unreachable_collector_blocks_neither_calls_nor_exit() {
    let (_bound, closed) = closed_port();
    // It accepts connections and sends nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let invalid = Upstream::scripted(|_, _| vec![Step::Send(b"no HTTP\r\n\r\n".to_vec()), Step::Close]).await;
    let silent_port = silent.local_addr().unwrap();
    let endpoints = [format!("http://{closed}"), format!("http://{silent_port}"), invalid.url()];
    let cases = endpoints.iter().flat_map(|url| [(url, "http/protobuf"), (url, "grpc")]);
    // The cases run together: each waits for the timeout of an export.
    futures_util::future::join_all(cases.map(async |(url, protocol)| {
        let mut command = traced(url, &["--sandbox"]);
        command.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
        // The queue is full at once, and exports never pause.
        command.env("OTEL_BSP_MAX_QUEUE_SIZE", "4").env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2");
        let gateway = GatewayProcess::spawn(command).await;
        for _ in 0..20 {
            let output = gateway.get(PROJECT, SHARE).await;
            assert!(output.status.success(), "{url} {protocol}");
        }
        gateway.terminate().await;
    }))
    .await;
}

#[tokio::test]
async fn invalid_otel_variables_exit_64() {
    let mut command = traced("collector:4317", &["--sandbox"]);
    command.env("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file");
    let stderr = run_error(command, 64, &[]).await;
    for name in ["OTEL_EXPORTER_OTLP_ENDPOINT ", "OTEL_EXPORTER_OTLP_CERTIFICATE: cannot read /no/such/file"]
    {
        assert!(stderr.lines().any(|line| line.starts_with(name)), "{name} in {stderr}");
    }
}

#[tokio::test]
async fn unknown_sampler_logs_warning() {
    let mut command = serve_command(&["--sandbox"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9").env("OTEL_TRACES_SAMPLER", "bogus");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut warnings = 0;
    loop {
        let line = with_timeout("a line", log.next_line()).await.unwrap().unwrap();
        warnings +=
            usize::from(line.contains(r#""level":"WARN""#) && line.to_lowercase().contains("sampler"));
        if line.contains(r#""message":"listening""#) {
            break;
        }
    }
    assert_eq!(warnings, 1);
}

//! Deadlines, cancellation, and the limit of calls in flight.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::harness::*;
use crate::peer::{self, Raw};

async fn stalled(flags: &[&str]) -> (Running, Upstream) {
    let upstream = Upstream::scripted(|_, _| vec![Step::Stall]).await;
    (Running::before_with(&upstream, flags).await, upstream)
}

fn calls(code: &str) -> String {
    let method = "vbs.v2.BackupShareService/GetBackupShare";
    format!(
        r#"rpc_server_call_duration_seconds_count{{rpc_method="{method}",rpc_response_status_code="{code}"}}"#
    )
}

#[tokio::test]
async fn the_callers_deadline_ends_the_call_and_the_upstream_request() {
    for timeout in ["300m", "300000u", "99999999n"] {
        let (gateway, upstream) = stalled(&[]).await;
        let answer = Raw::call().header("grpc-timeout", timeout).send(gateway.grpc).await;
        let failure = Failure::of(answer.status());
        assert_eq!(
            (failure.code, failure.reason.as_str()),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            "{timeout}"
        );
        assert_eq!(failure.attempts(), Some("1"));
        upstream.hung_up_on(1).await;
    }
}

#[tokio::test]
async fn the_shorter_of_attempt_and_deadline_names_the_reason() {
    let (gateway, _upstream) = stalled(&["--attempt-timeout=200ms", "--max-attempts=1"]).await;
    for (timeout, reason) in [("100m", "DEADLINE_EXCEEDED"), ("10S", "UPSTREAM_TIMEOUT")] {
        let answer = Raw::call().header("grpc-timeout", timeout).send(gateway.grpc).await;
        let failure = Failure::of(answer.status());
        assert_eq!((failure.code, failure.reason.as_str()), (Code::DeadlineExceeded, reason));
    }
}

#[tokio::test]
async fn a_deadline_that_has_passed_already_asks_nobody() {
    let (gateway, upstream) = stalled(&[]).await;
    for timeout in ["0S", "0n"] {
        let answer = Raw::call().header("grpc-timeout", timeout).send(gateway.grpc).await;
        assert_eq!(Failure::of(answer.status()).reason, "DEADLINE_EXCEEDED");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_call_without_a_deadline_has_the_default_and_none_has_more_than_the_longest() {
    let (gateway, _upstream) = stalled(&["--default-deadline=200ms", "--attempt-timeout=10s"]).await;
    assert_eq!(gateway.failure().await.reason, "DEADLINE_EXCEEDED");
    let (gateway, _upstream) = stalled(&["--max-deadline=200ms", "--attempt-timeout=10s"]).await;
    for timeout in ["99999999H", "1M"] {
        let answer = Raw::call().header("grpc-timeout", timeout).send(gateway.grpc).await;
        assert_eq!(Failure::of(answer.status()).reason, "DEADLINE_EXCEEDED");
    }
    assert_eq!(gateway.failure().await.reason, "DEADLINE_EXCEEDED", "the default is clamped too");
}

#[tokio::test]
async fn a_message_that_does_not_come_ends_with_the_deadline() {
    let (gateway, upstream) = stalled(&[]).await;
    let mut connection = peer::connect(gateway.grpc).await;
    let request = Raw::call().header("grpc-timeout", "200m").request;
    // The body stays open and empty.
    let (response, _body) = connection.send_request(request, false).unwrap();
    let head = soon("the status", response).await.unwrap();
    let failure = Failure::of(tonic::Status::from_header_map(head.headers()).unwrap());
    assert_eq!(failure.reason, "DEADLINE_EXCEEDED");
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_caller_that_cancels_ends_the_upstream_request_and_counts_as_cancelled() {
    let (gateway, upstream) = stalled(&["--attempt-timeout=60s"]).await;
    let mut client = gateway.client().await;
    let call = tokio::spawn(async move { client.get_backup_share(request(PROJECT, SHARE)).await });
    upstream.received(1).await;
    call.abort();
    upstream.hung_up_on(1).await;
    gateway.metric_becomes(&calls("CANCELLED"), 1.0).await;
    gateway.metric_becomes("rpc_server_active_requests", 0.0).await;
    let attempt =
        r#"http_client_request_duration_seconds_count{error_type="cancelled",http_response_status_code=""}"#;
    gateway.metric_becomes(attempt, 1.0).await;
    assert!(gateway.metric(&calls("OK")).await.abs() < f64::EPSILON);
    assert_eq!(upstream.requests().len(), 1, "nobody waits for another attempt");
}

#[tokio::test]
async fn a_caller_that_leaves_before_its_message_is_whole_counts_as_cancelled() {
    let (gateway, upstream) = stalled(&[]).await;
    for (count, part) in [(1.0, 0), (2.0, 3), (3.0, peer::message().len())] {
        let mut connection = peer::connect(gateway.grpc).await;
        let (_response, mut body) = connection.send_request(Raw::call().request, false).unwrap();
        body.send_data(peer::message().slice(..part), false).unwrap();
        gateway.metric_becomes("rpc_server_active_requests", 1.0).await;
        body.send_reset(h2::Reason::CANCEL);
        gateway.metric_becomes(&calls("CANCELLED"), count).await;
    }
    assert!(gateway.metric(&calls("INTERNAL")).await.abs() < f64::EPSILON);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_caller_that_vanishes_ends_the_upstream_request() {
    let (gateway, upstream) = stalled(&["--attempt-timeout=60s"]).await;
    let stream = tokio::net::TcpStream::connect(gateway.grpc).await.unwrap();
    stream.set_zero_linger().unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut ready = requests.ready().await.unwrap();
    let raw = Raw::call();
    let (_response, mut body) = ready.send_request(raw.request, false).unwrap();
    body.send_data(peer::message(), true).unwrap();
    upstream.received(1).await;
    connection.abort();
    upstream.hung_up_on(1).await;
    gateway.metric_becomes(&calls("CANCELLED"), 1.0).await;
}

#[tokio::test]
async fn a_caller_that_leaves_between_attempts_is_not_asked_for_again() {
    let upstream = Upstream::replying(503, &[("retry-after", "1")], "").await;
    let gateway = Running::before(&upstream).await;
    let mut client = gateway.client().await;
    let call = tokio::spawn(async move { client.get_backup_share(request(PROJECT, SHARE)).await });
    upstream.received(1).await;
    call.abort();
    gateway.metric_becomes(&calls("CANCELLED"), 1.0).await;
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn one_call_too_many_is_refused_at_once_and_health_is_not() {
    let (gateway, upstream) = stalled(&["--max-in-flight=2", "--attempt-timeout=60s"]).await;
    let mut waiting = Vec::new();
    for count in 1..=2 {
        let mut client = gateway.client().await;
        waiting.push(tokio::spawn(async move { client.get_backup_share(request(PROJECT, SHARE)).await }));
        upstream.received(count).await;
    }
    let began = Instant::now();
    // Overload comes first: before the token and before the request.
    for asked in [request(PROJECT, SHARE), without_token("a/b", "detail")] {
        let failure = Failure::of(gateway.call(asked).await.unwrap_err());
        assert_eq!((failure.code, failure.reason.as_str()), (Code::ResourceExhausted, "OVERLOADED"));
        assert_eq!((failure.retry_delay(), failure.pushback()), (Some(Duration::from_secs(1)), Some("1000")));
        assert!(failure.metadata.is_empty());
    }
    assert!(began.elapsed() < Duration::from_secs(10), "it does not wait for a place");
    let mut health = tonic_health::pb::health_client::HealthClient::new(gateway.channel().await);
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    assert_eq!(gateway.admin_get("/readyz").await.0, 200);
    gateway.metric_becomes("shed_total", 2.0).await;
    waiting.pop().unwrap().abort();
    upstream.hung_up_on(1).await;
    // The place is free again.
    gateway.metric_becomes("rpc_server_active_requests", 1.0).await;
    let mut client = gateway.client().await;
    let third = tokio::spawn(async move { client.get_backup_share(request(PROJECT, SHARE)).await });
    upstream.received(3).await;
    third.abort();
}

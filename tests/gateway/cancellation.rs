//! Callers that cancel or vanish.

use crate::support::h2_peer::{self, Raw};
use crate::support::*;

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
    for (count, part) in [(1.0, 0), (2.0, 3), (3.0, h2_peer::message().len())] {
        let mut connection = h2_peer::connect(gateway.grpc).await;
        let (_response, mut body) = connection.send_request(Raw::call().request, false).unwrap();
        body.send_data(h2_peer::message().slice(..part), false).unwrap();
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
    body.send_data(h2_peer::message(), true).unwrap();
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

//! Calls that the caller cancels, or whose connection ends.

use crate::support::h2_peer::{self, RawRequest};
use crate::support::*;

#[tokio::test]
async fn cancelled_call_ends_upstream_request_and_counts_as_cancelled() {
    let (gateway, upstream) = gateway_with_stalled_upstream(&["--attempt-timeout=60s"]).await;
    let call = gateway.spawn_get().await;
    upstream.wait_for_requests(1).await;
    call.abort();
    upstream.stalled_requests_end(1).await;
    gateway.metric_becomes(&call_count("CANCELLED"), 1.0).await;
    gateway.metric_becomes("rpc_server_active_requests", 0.0).await;
    let attempt =
        r#"http_client_request_duration_seconds_count{error_type="cancelled",http_response_status_code=""}"#;
    gateway.metric_becomes(attempt, 1.0).await;
    assert_eq!(gateway.metric(&call_count("OK")).await, 0.0);
    assert_eq!(upstream.requests().len(), 1, "there is no further attempt");
}

#[tokio::test]
async fn stream_reset_before_complete_message_counts_as_cancelled() {
    let (gateway, upstream) = gateway_with_stalled_upstream(&[]).await;
    for (count, part) in [(1.0, 0), (2.0, 3), (3.0, h2_peer::message().len())] {
        let mut connection = h2_peer::connect(gateway.grpc).await;
        let (_response, mut body) = connection.send_request(RawRequest::call().request, false).unwrap();
        body.send_data(h2_peer::message().slice(..part), false).unwrap();
        gateway.metric_becomes("rpc_server_active_requests", 1.0).await;
        body.send_reset(h2::Reason::CANCEL);
        gateway.metric_becomes(&call_count("CANCELLED"), count).await;
    }
    assert_eq!(gateway.metric(&call_count("INTERNAL")).await, 0.0);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn connection_reset_ends_upstream_request() {
    let (gateway, upstream) = gateway_with_stalled_upstream(&["--attempt-timeout=60s"]).await;
    let stream = tokio::net::TcpStream::connect(gateway.grpc).await.unwrap();
    stream.set_zero_linger().unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut ready = requests.ready().await.unwrap();
    let raw = RawRequest::call();
    let (_response, mut body) = ready.send_request(raw.request, false).unwrap();
    body.send_data(h2_peer::message(), true).unwrap();
    upstream.wait_for_requests(1).await;
    connection.abort();
    upstream.stalled_requests_end(1).await;
    gateway.metric_becomes(&call_count("CANCELLED"), 1.0).await;
}

#[tokio::test]
async fn cancellation_between_attempts_prevents_retry() {
    let upstream = Upstream::replying(503, &[("retry-after", "1")], "").await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let call = gateway.spawn_get().await;
    upstream.wait_for_requests(1).await;
    call.abort();
    gateway.metric_becomes(&call_count("CANCELLED"), 1.0).await;
    assert_eq!(upstream.requests().len(), 1);
}

//! Deadlines of callers, and the default and the longest deadline.

use tonic::Code;

use crate::support::h2_peer::{self, RawRequest};
use crate::support::*;

#[tokio::test]
async fn caller_deadline_ends_call_and_upstream_request() {
    for timeout in ["300m", "300000u", "99999999n"] {
        let (gateway, upstream) = gateway_with_stalled_upstream(&[]).await;
        let response = RawRequest::call().header("grpc-timeout", timeout).send(gateway.grpc).await;
        let error = response.error();
        assert_eq!(error.outcome(), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"), "{timeout}");
        assert_eq!(error.attempts(), Some("1"));
        upstream.stalled_requests_end(1).await;
    }
}

#[tokio::test]
async fn shorter_of_attempt_timeout_and_deadline_sets_reason() {
    let (gateway, _upstream) =
        gateway_with_stalled_upstream(&["--attempt-timeout=200ms", "--max-attempts=1"]).await;
    for (timeout, reason) in [("100m", "DEADLINE_EXCEEDED"), ("10S", "UPSTREAM_TIMEOUT")] {
        let response = RawRequest::call().header("grpc-timeout", timeout).send(gateway.grpc).await;
        let error = response.error();
        assert_eq!(error.outcome(), (Code::DeadlineExceeded, reason));
    }
}

#[tokio::test]
async fn expired_deadline_sends_no_upstream_request() {
    let (gateway, upstream) = gateway_with_stalled_upstream(&[]).await;
    for timeout in ["0S", "0n"] {
        let response = RawRequest::call().header("grpc-timeout", timeout).send(gateway.grpc).await;
        assert_eq!(response.error().reason, "DEADLINE_EXCEEDED");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn default_and_max_deadline_apply() {
    let (gateway, _upstream) =
        gateway_with_stalled_upstream(&["--default-deadline=200ms", "--attempt-timeout=10s"]).await;
    assert_eq!(gateway.get_error().await.reason, "DEADLINE_EXCEEDED");
    let (gateway, _upstream) =
        gateway_with_stalled_upstream(&["--max-deadline=200ms", "--attempt-timeout=10s"]).await;
    for timeout in ["99999999H", "1M"] {
        let response = RawRequest::call().header("grpc-timeout", timeout).send(gateway.grpc).await;
        assert_eq!(response.error().reason, "DEADLINE_EXCEEDED");
    }
    assert_eq!(gateway.get_error().await.reason, "DEADLINE_EXCEEDED", "the default is clamped too");
}

#[tokio::test]
async fn missing_message_ends_with_deadline() {
    let (gateway, upstream) = gateway_with_stalled_upstream(&[]).await;
    let mut connection = h2_peer::connect(gateway.grpc).await;
    let request = RawRequest::call().header("grpc-timeout", "200m").request;
    // The body stays open and empty.
    let (response, _body) = connection.send_request(request, false).unwrap();
    let head = with_timeout("the status", response).await.unwrap();
    let error = ErrorStatus::decode(tonic::Status::from_header_map(head.headers()).unwrap());
    assert_eq!(error.reason, "DEADLINE_EXCEEDED");
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn request_message_must_be_complete_within_handshake_timeout() {
    let (gateway, upstream) = gateway_with_stalled_upstream(&["--handshake-timeout=300ms"]).await;
    let mut connection = h2_peer::connect(gateway.grpc).await;
    let message = h2_peer::message();
    // Nothing, a part of the prefix, a part of the message, and everything but the end of the stream.
    for length in [0, 3, message.len() - 1, message.len()] {
        let (response, mut body) = connection.send_request(RawRequest::call().request, false).unwrap();
        if length > 0 {
            body.send_data(message.slice(..length), false).unwrap();
        }
        let head = with_timeout("the status", response).await.unwrap();
        let error = ErrorStatus::decode(tonic::Status::from_header_map(head.headers()).unwrap());
        assert_eq!(error.outcome(), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"), "{length} bytes");
    }
    gateway.metric_becomes("rpc_server_active_requests", 0.0).await;
    assert_eq!(upstream.connections(), 0);
}

/// The documented share with a description of 900 KB.
async fn upstream_with_large_share() -> Upstream {
    let mut share: serde_json::Value = serde_json::from_str(DOCUMENTED).unwrap();
    share["shared"]["backup"]["description"] = "x".repeat(900_000).into();
    Upstream::replying(200, &[], share.to_string()).await
}

#[tokio::test]
async fn unread_response_is_reset_at_deadline_and_holds_its_slot_until_then() {
    let upstream = upstream_with_large_share().await;
    let gateway = Gateway::with_flags(&upstream, &["--max-in-flight=1"]).await;
    // With a window of 0, no byte of the message is accepted.
    for window in [0, 1, 70_000] {
        let mut connection = h2_peer::connect_with_window(gateway.grpc, window).await;
        let call = RawRequest::call().header("grpc-timeout", "1500m").start(&mut connection);
        let mut body = with_timeout("the head", call).await.unwrap().into_body();
        assert_eq!(gateway.get_error().await.reason, "OVERLOADED", "the slot is held, window {window}");
        let error = loop {
            match with_timeout("the reset", body.data()).await.unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL), "window {window}");
        gateway.metric_becomes("rpc_server_active_requests", 0.0).await;
    }
    assert_eq!(gateway.metric(&call_count("DEADLINE_EXCEEDED")).await, 3.0);
    assert_eq!(gateway.metric(&call_count("OK")).await, 0.0);
}

#[tokio::test]
async fn call_ends_when_its_response_has_been_read() {
    let upstream = upstream_with_large_share().await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let mut connection = h2_peer::connect_with_window(gateway.grpc, 1000).await;
    let call = RawRequest::call().start(&mut connection);
    let mut body = with_timeout("the head", call).await.unwrap().into_body();
    assert_eq!(gateway.metric("rpc_server_active_requests").await, 1.0);
    assert_eq!(gateway.metric(&call_count("OK")).await, 0.0);
    let mut length = 0;
    while let Some(data) = with_timeout("the body", body.data()).await {
        let data = data.unwrap();
        length += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    let trailers = with_timeout("the trailers", body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
    assert!(length > 900_000, "{length}");
    gateway.metric_becomes("rpc_server_active_requests", 0.0).await;
    assert_eq!(gateway.metric(&call_count("OK")).await, 1.0);
}

#[tokio::test]
async fn caller_that_cancels_while_it_reads_is_cancelled() {
    let upstream = upstream_with_large_share().await;
    let gateway = Gateway::with_upstream(&upstream).await;
    let mut connection = h2_peer::connect_with_window(gateway.grpc, 1000).await;
    let call = RawRequest::call().start(&mut connection);
    drop(with_timeout("the head", call).await.unwrap());
    gateway.metric_becomes(&call_count("CANCELLED"), 1.0).await;
    assert_eq!(gateway.metric("rpc_server_active_requests").await, 0.0);
}

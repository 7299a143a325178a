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

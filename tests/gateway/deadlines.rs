//! Deadlines, cancellation, and the limit of calls in flight.

use tonic::Code;

use crate::support::h2_peer::{self, Raw};
use crate::support::*;

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
    let mut connection = h2_peer::connect(gateway.grpc).await;
    let request = Raw::call().header("grpc-timeout", "200m").request;
    // The body stays open and empty.
    let (response, _body) = connection.send_request(request, false).unwrap();
    let head = soon("the status", response).await.unwrap();
    let failure = Failure::of(tonic::Status::from_header_map(head.headers()).unwrap());
    assert_eq!(failure.reason, "DEADLINE_EXCEEDED");
    assert_eq!(upstream.connections(), 0);
}

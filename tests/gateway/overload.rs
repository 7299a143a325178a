//! The limit of calls in flight (--max-in-flight).

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::support::h2_peer::{RawRequest, connect_from};
use crate::support::*;

#[tokio::test]
async fn max_in_flight_refuses_excess_call_but_not_health() {
    let (gateway, upstream) =
        gateway_with_stalled_upstream(&["--max-in-flight=2", "--attempt-timeout=60s"]).await;
    let mut waiting = Vec::new();
    for count in 1..=2 {
        waiting.push(gateway.spawn_get().await);
        upstream.wait_for_requests(count).await;
    }
    let began = Instant::now();
    // Overload is checked before the token and the message.
    for call in [request(PROJECT, SHARE), request_without_token("a/b", "detail")] {
        let error = gateway.call_error(call).await;
        assert_eq!(error.outcome(), (Code::ResourceExhausted, "OVERLOADED"));
        assert_eq!((error.retry_delay(), error.pushback()), (Some(Duration::from_secs(1)), Some("1000")));
        assert!(error.metadata.is_empty());
    }
    assert!(began.elapsed() < Duration::from_secs(10), "the call is refused at once");
    let mut health = tonic_health::pb::health_client::HealthClient::new(gateway.channel().await);
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    assert_eq!(gateway.admin_get("/readyz").await.0, 200);
    gateway.metric_becomes("shed_total", 2.0).await;
    waiting.pop().unwrap().abort();
    upstream.stalled_requests_end(1).await;
    // A call that ends makes room for another.
    gateway.metric_becomes("rpc_server_active_requests", 1.0).await;
    let third = gateway.spawn_get().await;
    upstream.wait_for_requests(3).await;
    third.abort();
}

#[tokio::test]
async fn single_caller_leaves_an_eighth_of_the_slots_to_others() {
    let (gateway, upstream) =
        gateway_with_stalled_upstream(&["--max-in-flight=8", "--attempt-timeout=60s"]).await;
    // The first caller has two connections.
    let mut larger =
        [connect_from("127.0.0.2", gateway.grpc).await, connect_from("127.0.0.2", gateway.grpc).await];
    let mut calls = Vec::new();
    for count in 1..=7 {
        calls.push(RawRequest::call().start(&mut larger[count % 2]));
        upstream.wait_for_requests(count).await;
    }
    let refused = RawRequest::call().send_on(&mut larger[0]).await;
    assert_eq!(refused.error().outcome(), (Code::ResourceExhausted, "OVERLOADED"));
    let mut smaller = connect_from("127.0.0.3", gateway.grpc).await;
    calls.push(RawRequest::call().start(&mut smaller));
    upstream.wait_for_requests(8).await;
    // Each slot that a call of the first caller frees, down to its even share, is for the second one.
    for count in 9..=11 {
        drop(calls.remove(0));
        gateway.metric_becomes("rpc_server_active_requests", 7.0).await;
        let refused = RawRequest::call().send_on(&mut larger[0]).await;
        assert_eq!(refused.error().outcome(), (Code::ResourceExhausted, "OVERLOADED"));
        calls.push(RawRequest::call().start(&mut smaller));
        upstream.wait_for_requests(count).await;
    }
    drop(calls.remove(0));
    gateway.metric_becomes("rpc_server_active_requests", 7.0).await;
    let refused = RawRequest::call().send_on(&mut smaller).await;
    assert_eq!(refused.error().outcome(), (Code::ResourceExhausted, "OVERLOADED"), "it holds its even share");
    calls.push(RawRequest::call().start(&mut larger[0]));
    upstream.wait_for_requests(12).await;
}

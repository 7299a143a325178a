//! The limit of calls in flight.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::support::*;

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

//! Draining: active calls finish, health reports NOT_SERVING, and no peer delays the end beyond the drain timeout.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::h2_peer::{self, RawRequest, connect_tcp, connect_without_acks};
use crate::support::process::GatewayProcess;
use crate::support::*;

/// Longer than [`TEST_TIMEOUT`]: a drain that waits for it fails the test.
const LONG_DRAIN_TIMEOUT: &str = "--drain-timeout=10m";

#[tokio::test]
async fn drain_ignores_silent_peer() {
    let mut gateway = Gateway::start(&["--sandbox", LONG_DRAIN_TIMEOUT]).await;
    let held = (connect_tcp(&gateway).await, TcpStream::connect(gateway.admin).await.unwrap());
    gateway.get().await.unwrap();
    gateway.drain().await;
    drop(held);
}

#[tokio::test]
async fn drain_ignores_peer_without_ping_ack() {
    let mut gateway = Gateway::start(&["--sandbox", LONG_DRAIN_TIMEOUT]).await;
    let mut held = connect_without_acks(&gateway).await;
    // The HTTP/2 connection is established: the gateway's SETTINGS have arrived.
    held.read_exact(&mut [0; 9]).await.unwrap();
    gateway.drain().await;
    drop(held);
}

#[tokio::test]
async fn drain_ends_health_watch_with_not_serving() {
    let mut gateway = Gateway::start(&["--sandbox", LONG_DRAIN_TIMEOUT]).await;
    let mut health = HealthClient::new(gateway.channel().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.next().await.unwrap().unwrap();
    let unknown = health.watch(HealthCheckRequest { service: "nope".into() }).await.unwrap().into_inner();
    gateway.drain().await;
    drop(unknown);
    assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(watch.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn drain_waits_for_active_call() {
    let slow = [vec![Step::Pause(Duration::from_millis(500))], documented_reply()].concat();
    let upstream = Upstream::scripted(move |_, _| slow.clone()).await;
    let mut gateway = Gateway::with_flags(&upstream, &[LONG_DRAIN_TIMEOUT]).await;
    let call = gateway.spawn_get().await;
    upstream.wait_for_requests(1).await;
    gateway.drain().await;
    with_timeout("the call", call).await.unwrap().unwrap();
}

#[tokio::test]
async fn drain_timeout_ends_call_with_status() {
    let (mut gateway, upstream) =
        gateway_with_stalled_upstream(&["--drain-timeout=200ms", "--attempt-timeout=60s"]).await;
    let call = gateway.spawn_get().await;
    upstream.wait_for_requests(1).await;
    gateway.drain().await;
    let error = ErrorStatus::decode(with_timeout("the call", call).await.unwrap().unwrap_err());
    assert_eq!(error.outcome(), (Code::Unavailable, "DRAINING"));
    upstream.stalled_requests_end(1).await;
}

#[tokio::test]
async fn drain_timeout_closes_peer_that_does_not_read() {
    let mut gateway = Gateway::start(&["--sandbox", "--drain-timeout=200ms"]).await;
    let stream = TcpStream::connect(gateway.grpc).await.unwrap();
    // With a window of 0, the message of the response cannot be sent.
    let (mut requests, connection) =
        h2::client::Builder::new().initial_window_size(0).handshake::<_, bytes::Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    let raw = RawRequest::call();
    let (response, mut body) = requests.send_request(raw.request, false).unwrap();
    body.send_data(h2_peer::message(), true).unwrap();
    let reply = with_timeout("the headers", response).await.unwrap();
    gateway.drain().await;
    drop(reply);
}

#[tokio::test]
async fn unread_response_that_the_drain_ends_is_logged_as_draining() {
    let mut gateway = GatewayProcess::start(&["--sandbox", "--drain-timeout=200ms"]).await;
    let mut connection = h2_peer::connect_with_window(gateway.grpc.parse().unwrap(), 0).await;
    let call = RawRequest::call().start(&mut connection);
    let reply = with_timeout("the headers", call).await.unwrap();
    gateway.signal(rustix::process::Signal::TERM);
    let line = gateway.line_with_message("call").await;
    assert_eq!((&line["rpc.code"], &line["reason"]), (&"UNAVAILABLE".into(), &"DRAINING".into()));
    assert_eq!(gateway.exit_code().await, Some(0));
    drop(reply);
}

#[tokio::test]
async fn forced_shutdown_ends_active_call() {
    let (mut gateway, upstream) =
        gateway_with_stalled_upstream(&[LONG_DRAIN_TIMEOUT, "--attempt-timeout=10m", "--max-deadline=10m"])
            .await;
    let call = gateway.spawn_get().await;
    upstream.wait_for_requests(1).await;
    gateway.shutdown.drain.cancel();
    gateway.shutdown.now.cancel();
    with_timeout("the end", &mut gateway.ended).await.unwrap().unwrap_err();
    call.abort();
}

#[tokio::test]
async fn drain_changes_health_serves_late_callers_and_stops() {
    let mut gateway = Gateway::start(&["--sandbox", "--drain-delay=200ms"]).await;
    let mut health = HealthClient::new(gateway.channel().await);
    let mut watch = health.watch(health_request("")).await.unwrap().into_inner();
    assert_eq!(
        with_timeout("a state", watch.next()).await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    gateway.shutdown.drain.cancel();
    assert_eq!(
        with_timeout("a state", watch.next()).await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    assert_eq!(gateway.admin_get("/readyz").await.0, 503);
    assert_eq!(gateway.admin_get("/livez").await.0, 200);
    // During the drain delay, calls are still served.
    gateway.get().await.unwrap();
    with_timeout("the end", &mut gateway.ended).await.unwrap().unwrap();
    assert!(TcpStream::connect(gateway.grpc).await.is_err());
    assert_eq!(
        with_timeout("the watch's end", watch.next()).await.unwrap().unwrap_err().code(),
        Code::Unavailable
    );
}

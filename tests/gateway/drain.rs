//! Draining: what may finish, what is cut off, and that nobody can hold the gateway when it stops.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::h2_peer::{self, Raw, deaf, silent};
use crate::support::*;

/// Tells a gateway to stop while `held` does its worst, and waits for the end in order.
async fn stops_with<T>(mut gateway: Running, held: T) {
    gateway.shutdown.drain.cancel();
    soon("the end", &mut gateway.ended).await.unwrap().unwrap();
    drop(held);
}

/// Long enough that only what does not wait for it can end the tests below.
const PATIENT: &str = "--drain-timeout=10m";

#[tokio::test]
async fn a_peer_that_says_nothing_cannot_hold_the_drain() {
    let gateway = Running::start(&["--sandbox", PATIENT]).await;
    let held = (silent(&gateway).await, TcpStream::connect(gateway.admin).await.unwrap());
    gateway.get().await.unwrap();
    stops_with(gateway, held).await;
}

#[tokio::test]
async fn a_peer_that_never_answers_a_ping_cannot_hold_the_drain() {
    let gateway = Running::start(&["--sandbox", PATIENT]).await;
    let mut held = deaf(&gateway).await;
    // It is in the middle of HTTP/2: the gateway's SETTINGS have come.
    held.read_exact(&mut [0; 9]).await.unwrap();
    stops_with(gateway, held).await;
}

#[tokio::test]
async fn a_watch_cannot_hold_the_drain_and_hears_of_it() {
    let gateway = Running::start(&["--sandbox", PATIENT]).await;
    let mut health = HealthClient::new(gateway.channel().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.next().await.unwrap().unwrap();
    let unknown = health.watch(HealthCheckRequest { service: "nope".into() }).await.unwrap().into_inner();
    stops_with(gateway, unknown).await;
    let not_serving = ServingStatus::NotServing;
    assert_eq!(watch.next().await.unwrap().unwrap().status(), not_serving);
    assert_eq!(watch.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_call_that_runs_is_finished_before_the_end() {
    let slow = [vec![Step::Pause(Duration::from_millis(500))], documented()].concat();
    let upstream = Upstream::scripted(move |_, _| slow.clone()).await;
    let gateway = Running::before_with(&upstream, &[PATIENT]).await;
    let mut client = gateway.client().await;
    let call = tokio::spawn(async move { client.get_backup_share(request(PROJECT, SHARE)).await });
    upstream.received(1).await;
    stops_with(gateway, ()).await;
    soon("the call", call).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_cut_off_with_a_status() {
    let upstream = Upstream::scripted(|_, _| vec![Step::Stall]).await;
    let gateway = Running::before_with(&upstream, &["--drain-timeout=200ms", "--attempt-timeout=60s"]).await;
    let mut client = gateway.client().await;
    let call = tokio::spawn(async move { client.get_backup_share(request(PROJECT, SHARE)).await });
    upstream.received(1).await;
    stops_with(gateway, ()).await;
    let failure = Failure::of(soon("the call", call).await.unwrap().unwrap_err());
    assert_eq!((failure.code, failure.reason.as_str()), (Code::Unavailable, "DRAINING"));
    upstream.hung_up_on(1).await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_its_reply_is_cut_off() {
    let gateway = Running::start(&["--sandbox", "--drain-timeout=200ms"]).await;
    let stream = TcpStream::connect(gateway.grpc).await.unwrap();
    // A window of nothing: the reply's message cannot be sent.
    let (mut requests, connection) =
        h2::client::Builder::new().initial_window_size(0).handshake::<_, bytes::Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    let raw = Raw::call();
    let (response, mut body) = requests.send_request(raw.request, false).unwrap();
    body.send_data(h2_peer::message(), true).unwrap();
    let reply = soon("the headers", response).await.unwrap();
    stops_with(gateway, reply).await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let upstream = Upstream::scripted(|_, _| vec![Step::Stall]).await;
    let mut gateway =
        Running::before_with(&upstream, &[PATIENT, "--attempt-timeout=10m", "--max-deadline=10m"]).await;
    let mut client = gateway.client().await;
    let call = tokio::spawn(async move { client.get_backup_share(request(PROJECT, SHARE)).await });
    upstream.received(1).await;
    gateway.shutdown.drain.cancel();
    gateway.shutdown.now.cancel();
    soon("the end", &mut gateway.ended).await.unwrap().unwrap_err();
    call.abort();
}

#[tokio::test]
async fn a_gateway_that_is_told_to_stop_ends_in_order() {
    let gateway = Running::start(&["--sandbox", "--drain-delay=200ms"]).await;
    let mut health = HealthClient::new(gateway.channel().await);
    let mut watch = health.watch(about("")).await.unwrap().into_inner();
    assert_eq!(soon("a state", watch.next()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    gateway.shutdown.drain.cancel();
    assert_eq!(soon("a state", watch.next()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(gateway.admin_get("/readyz").await.0, 503);
    assert_eq!(gateway.admin_get("/livez").await.0, 200);
    // Callers that have not heard of it yet are still served.
    gateway.get().await.unwrap();
    let mut gateway = gateway;
    soon("the end", &mut gateway.ended).await.unwrap().unwrap();
    assert!(TcpStream::connect(gateway.grpc).await.is_err());
    assert_eq!(soon("the watch's end", watch.next()).await.unwrap().unwrap_err().code(), Code::Unavailable);
}

//! The connections of callers: who may stay, for how long, and that nobody can hold the gateway when it stops.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::*;
use crate::peer::{self, Raw};

/// The client's preface with empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Reads until the peer closes; a reset is as good as an end. The types of the frames that came.
async fn frames_until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut types = Vec::new();
    let mut head = [0; 9];
    while soon("the end of a connection", stream.read_exact(&mut head)).await.is_ok() {
        types.push(head[3]);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        if stream.read_exact(&mut payload).await.is_err() {
            break;
        }
    }
    types
}

const GOAWAY: u8 = 7;

async fn silent(gateway: &Running) -> TcpStream {
    TcpStream::connect(gateway.grpc).await.unwrap()
}

/// One that has said hello and acknowledges nothing.
async fn deaf(gateway: &Running) -> TcpStream {
    let mut stream = silent(gateway).await;
    stream.write_all(PREFACE).await.unwrap();
    stream
}

#[tokio::test]
async fn a_peer_that_does_not_finish_the_handshake_is_closed() {
    let gateway = Running::start(&["--sandbox", "--handshake-timeout=200ms"]).await;
    assert!(frames_until_closed(&mut silent(&gateway).await).await.is_empty());
    let mut half = silent(&gateway).await;
    half.write_all(&PREFACE[..10]).await.unwrap();
    assert!(frames_until_closed(&mut half).await.is_empty());
    // The admin port has no use for silent peers either.
    let mut admin = TcpStream::connect(gateway.admin).await.unwrap();
    assert_eq!(soon("the end", admin.read(&mut [0; 1])).await.unwrap_or(0), 0);
    let mut half = TcpStream::connect(gateway.admin).await.unwrap();
    half.write_all(b"GET /livez HT").await.unwrap();
    let mut rest = Vec::new();
    let _ = soon("the end", half.read_to_end(&mut rest)).await;
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn a_connection_with_nothing_to_do_is_asked_to_go() {
    let gateway = Running::start(&["--sandbox", "--max-connection-idle=200ms"]).await;
    assert!(frames_until_closed(&mut deaf(&gateway).await).await.contains(&GOAWAY));
    gateway.metric_becomes("server_connections", 0.0).await;
}

#[tokio::test]
async fn a_connection_with_a_call_is_not_idle() {
    let slow = [vec![Step::Pause(Duration::from_millis(600))], documented()].concat();
    let upstream = Upstream::scripted(move |_, _| slow.clone()).await;
    let gateway = Running::before_with(&upstream, &["--max-connection-idle=100ms"]).await;
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn an_old_connection_is_asked_to_go_and_its_call_finishes() {
    let slow = [vec![Step::Pause(Duration::from_millis(600))], documented()].concat();
    let upstream = Upstream::scripted(move |_, _| slow.clone()).await;
    let gateway = Running::before_with(&upstream, &["--max-connection-age=100ms"]).await;
    let stream = TcpStream::connect(gateway.grpc).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let answer = Raw::call().send_on(&mut requests).await;
    assert_eq!(answer.status().code(), Code::Ok);
    soon("the connection's end", connection).await.unwrap().unwrap();
    gateway.metric_becomes("server_connections", 0.0).await;
}

/// Whether the client gave a call up before a byte of it was sent, because its connection had been asked to go. grpc-go
/// and others send such a call again by themselves; tonic leaves it to its user.
fn was_not_sent(status: &tonic::Status) -> bool {
    let mut next = std::error::Error::source(status);
    while let Some(cause) = next {
        if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return true;
        }
        next = cause.source();
    }
    false
}

#[tokio::test]
async fn connections_turn_over_by_age_without_a_failed_call() {
    let gateway = Running::start(&["--sandbox", "--max-connection-age=50ms"]).await;
    let mut client = gateway.client().await;
    for _ in 0..300 {
        while let Err(status) = soon("a call", client.get_backup_share(request(PROJECT, SHARE))).await {
            assert!(was_not_sent(&status), "{status:?}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let method = "vbs.v2.BackupShareService/GetBackupShare";
    let calls = |code| {
        format!(
            r#"rpc_server_call_duration_seconds_count{{rpc_method="{method}",rpc_response_status_code="{code}"}}"#
        )
    };
    assert!((gateway.metric(&calls("OK")).await - 300.0).abs() < f64::EPSILON);
    assert!(gateway.metric(&calls("CANCELLED")).await.abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_peer_that_does_not_answer_a_ping_is_closed() {
    let gateway =
        Running::start(&["--sandbox", "--keepalive-interval=100ms", "--keepalive-timeout=100ms"]).await;
    frames_until_closed(&mut deaf(&gateway).await).await;
    gateway.metric_becomes("server_connections", 0.0).await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_the_others_live() {
    let gateway = Running::start(&["--sandbox", "--max-connections=2"]).await;
    let mut first = peer::connect(gateway.grpc).await;
    let second = peer::connect(gateway.grpc).await;
    gateway.metric_becomes("server_connections", 2.0).await;
    assert!(frames_until_closed(&mut silent(&gateway).await).await.is_empty());
    assert_eq!(Raw::call().send_on(&mut first).await.status().code(), Code::Ok);
    drop(second);
    gateway.metric_becomes("server_connections", 1.0).await;
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn more_streams_than_allowed_wait_for_their_turn() {
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let gateway = Running::before_with(&upstream, &["--max-streams-per-connection=2"]).await;
    let mut client = gateway.client().await;
    // After one call the client knows the limit; what it sends before it may be refused, for it to send again.
    client.get_backup_share(request(PROJECT, SHARE)).await.unwrap();
    let calls = (0..20).map(|_| {
        let mut client = client.clone();
        async move { client.get_backup_share(request(PROJECT, SHARE)).await.unwrap() }
    });
    soon("the calls", futures_util::future::join_all(calls)).await;
}

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
    let not_serving = tonic_health::pb::health_check_response::ServingStatus::NotServing;
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
    body.send_data(peer::message(), true).unwrap();
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

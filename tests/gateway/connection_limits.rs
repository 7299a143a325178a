//! Limits of connections to the gRPC and the admin port: handshake, idle time, age, keepalive, count, streams.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tonic::Code;

use crate::support::h2_peer::{
    self, GOAWAY, PREFACE, RawRequest, connect_tcp, connect_without_acks, frame_types_until_closed,
};
use crate::support::process::*;
use crate::support::*;

#[tokio::test]
async fn handshake_timeout_closes_connection() {
    let gateway = Gateway::start(&["--sandbox", "--handshake-timeout=200ms"]).await;
    assert!(frame_types_until_closed(&mut connect_tcp(&gateway).await).await.is_empty());
    let mut half = connect_tcp(&gateway).await;
    half.write_all(&PREFACE[..10]).await.unwrap();
    assert!(frame_types_until_closed(&mut half).await.is_empty());
    // The admin port has the same timeout.
    let mut admin = TcpStream::connect(gateway.admin).await.unwrap();
    assert_eq!(with_timeout("the end", admin.read(&mut [0; 1])).await.unwrap_or(0), 0);
    let mut half = TcpStream::connect(gateway.admin).await.unwrap();
    half.write_all(b"GET /livez HT").await.unwrap();
    let mut rest = Vec::new();
    let _ = with_timeout("the end", half.read_to_end(&mut rest)).await;
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn idle_connection_gets_goaway() {
    let gateway = Gateway::start(&["--sandbox", "--max-connection-idle=200ms"]).await;
    assert!(frame_types_until_closed(&mut connect_without_acks(&gateway).await).await.contains(&GOAWAY));
    gateway.metric_becomes("server_connections", 0.0).await;
}

#[tokio::test]
async fn connection_with_active_call_is_not_idle() {
    let slow = [vec![Step::Pause(Duration::from_millis(600))], documented_reply()].concat();
    let upstream = Upstream::scripted(move |_, _| slow.clone()).await;
    let gateway = Gateway::with_flags(&upstream, &["--max-connection-idle=100ms"]).await;
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn max_connection_age_lets_call_finish() {
    let slow = [vec![Step::Pause(Duration::from_millis(600))], documented_reply()].concat();
    let upstream = Upstream::scripted(move |_, _| slow.clone()).await;
    let gateway = Gateway::with_flags(&upstream, &["--max-connection-age=100ms"]).await;
    let stream = TcpStream::connect(gateway.grpc).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let response = RawRequest::call().send_on(&mut requests).await;
    assert_eq!(response.status().code(), Code::Ok);
    with_timeout("the connection's end", connection).await.unwrap().unwrap();
    gateway.metric_becomes("server_connections", 0.0).await;
}

/// Whether the client failed a call before it sent anything, because of a GOAWAY. grpc-go and others repeat such a call
/// transparently; tonic does not.
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
async fn max_connection_age_fails_no_call() {
    let gateway = Gateway::start(&["--sandbox", "--max-connection-age=50ms"]).await;
    let mut client = gateway.client().await;
    for _ in 0..300 {
        while let Err(status) = get_share(&mut client).await {
            assert!(was_not_sent(&status), "{status:?}");
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(gateway.metric(&call_count("OK")).await, 300.0);
    assert_eq!(gateway.metric(&call_count("CANCELLED")).await, 0.0);
}

#[tokio::test]
async fn keepalive_timeout_closes_connection() {
    let gateway =
        Gateway::start(&["--sandbox", "--keepalive-interval=100ms", "--keepalive-timeout=100ms"]).await;
    frame_types_until_closed(&mut connect_without_acks(&gateway).await).await;
    gateway.metric_becomes("server_connections", 0.0).await;
}

#[tokio::test]
async fn max_connections_closes_only_excess_connection() {
    let gateway = Gateway::start(&["--sandbox", "--max-connections=2"]).await;
    let mut first = h2_peer::connect(gateway.grpc).await;
    let second = h2_peer::connect(gateway.grpc).await;
    gateway.metric_becomes("server_connections", 2.0).await;
    assert!(frame_types_until_closed(&mut connect_tcp(&gateway).await).await.is_empty());
    assert_eq!(gateway.metric("server_connections_refused_total").await, 1.0);
    assert_eq!(RawRequest::call().send_on(&mut first).await.status().code(), Code::Ok);
    drop(second);
    gateway.metric_becomes("server_connections", 1.0).await;
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn max_streams_queues_excess_calls() {
    let upstream = Upstream::documented().await;
    let gateway = Gateway::with_flags(&upstream, &["--max-streams-per-connection=2"]).await;
    let mut client = gateway.client().await;
    // Only after one call does the client know the limit; earlier streams may be refused.
    get_share(&mut client).await.unwrap();
    let calls = (0..20).map(|_| {
        let mut client = client.clone();
        async move { client.get_backup_share(request(PROJECT, SHARE)).await.unwrap() }
    });
    with_timeout("the calls", futures_util::future::join_all(calls)).await;
}

#[tokio::test]
async fn accept_backs_off_when_out_of_file_descriptors() {
    // `ulimit` lowers the hard limit as well.
    let program = env!("CARGO_BIN_EXE_backup-share-gateway");
    let line = format!(
        "ulimit -n 48; exec {program} serve --sandbox --listen=127.0.0.1:0 --admin-listen=127.0.0.1:0"
    );
    let mut command = Command::new("sh");
    command.args(["-c", &line]).kill_on_drop(true);
    let mut served = GatewayProcess::spawn(command).await;
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(TcpStream::connect(&served.grpc).await.unwrap());
    }
    let line = served.line().await;
    assert!(line["message"].as_str().unwrap().starts_with("cannot accept connections"), "{line}");
    drop(held);
    assert!(served.get(PROJECT, SHARE).await.status.success());
    let mut warnings = 1;
    loop {
        let line = served.line().await;
        match line["message"].as_str() {
            Some("call") => break,
            _ => warnings += 1,
        }
    }
    assert!(warnings < 20, "{warnings} lines: that was no backing off");
}

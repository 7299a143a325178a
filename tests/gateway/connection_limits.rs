//! The connections of callers: who may stay, for how long, and that nobody can hold the gateway when it stops.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tonic::Code;

use crate::support::h2_peer::{self, GOAWAY, PREFACE, Raw, deaf, frames_until_closed, silent};
use crate::support::process::*;
use crate::support::*;

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
    let mut first = h2_peer::connect(gateway.grpc).await;
    let second = h2_peer::connect(gateway.grpc).await;
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

#[tokio::test]
async fn out_of_descriptors_it_waits_and_goes_on() {
    // The hard limit cannot be raised again.
    let program = env!("CARGO_BIN_EXE_backup-share-gateway");
    let line = format!(
        "ulimit -n 48; exec {program} serve --sandbox --listen=127.0.0.1:0 --admin-listen=127.0.0.1:0"
    );
    let mut command = Command::new("sh");
    command.args(["-c", &line]).kill_on_drop(true);
    let mut served = Served::spawn(command).await;
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

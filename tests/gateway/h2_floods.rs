//! Floods of HTTP/2 frames. For each: memory stays bounded, other callers are served meanwhile, and the next call succeeds.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::h2_frames::*;
use crate::support::h2_peer::message;
use crate::support::process::GatewayProcess;
use crate::support::*;

/// Memory of the process in bytes.
async fn memory(gateway: &GatewayProcess) -> f64 {
    metric(gateway.admin, "process_resident_memory_bytes").await
}

/// Without a line for each call, since the log is not read.
const QUIET: &str = "--log=warn,backup_share_gateway::app=info";

/// The most memory that a flood may cost, in bytes.
const GROWTH: f64 = 32.0 * 1024.0 * 1024.0;

/// Sends `frames` until their end or until the gateway stops reading, while another caller is served.
async fn flood(what: &str, gateway: &GatewayProcess, frames: impl Iterator<Item = Bytes> + Send + 'static) {
    let before = memory(gateway).await;
    let (mut reading, mut writing) = TcpStream::connect(&gateway.grpc).await.unwrap().into_split();
    let reader = tokio::spawn(async move {
        let mut sink = [0; 4096];
        while reading.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    });
    let writer = tokio::spawn(async move {
        let hello = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        let mut frames = std::iter::once(Bytes::from(hello)).chain(frames).peekable();
        while frames.peek().is_some() {
            let batch = frames.by_ref().take(64).collect::<Vec<_>>().concat();
            let written = tokio::time::timeout(Duration::from_secs(5), writing.write_all(&batch)).await;
            if !matches!(written, Ok(Ok(()))) {
                // The gateway has closed the connection or stopped reading.
                return;
            }
        }
    });
    let other = gateway.get(PROJECT, SHARE).await;
    assert!(other.status.success(), "another caller during {what}");
    with_timeout(what, writer).await.unwrap();
    let grown = memory(gateway).await - before;
    assert!(grown < GROWTH, "{what} cost {grown} bytes");
    reader.abort();
    assert!(gateway.get(PROJECT, SHARE).await.status.success(), "the call after {what}");
    let is_idle = async || {
        let connections = metric(gateway.admin, "server_connections").await;
        let active = metric(gateway.admin, "rpc_server_active_requests").await;
        (connections == 0.0 && active == 0.0).then_some(())
    };
    poll_until("the end of the connection", is_idle).await;
}

#[tokio::test]
async fn rapid_reset_costs_bounded_memory() {
    let gateway = GatewayProcess::start(&["--sandbox", QUIET]).await;
    let rapid = streams().take(10_000).flat_map(|id| {
        [
            frame(HEADERS, END_HEADERS, id, &call_headers(TOKEN)),
            frame(DATA, END_STREAM, id, &message()),
            frame(RST_STREAM, 0, id, &8u32.to_be_bytes()),
        ]
    });
    flood("rapid reset", &gateway, rapid).await;
    let unfinished = streams().take(10_000).map(|id| frame(HEADERS, END_HEADERS, id, &call_headers(TOKEN)));
    flood("streams that are never finished", &gateway, unfinished).await;
}

#[tokio::test]
async fn control_frame_floods_cost_bounded_memory() {
    let gateway = GatewayProcess::start(&["--sandbox", QUIET]).await;
    let many = 100_000;
    flood("PING", &gateway, std::iter::repeat_n(frame(PING, 0, 0, &[7; 8]), many)).await;
    flood("SETTINGS", &gateway, std::iter::repeat_n(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255]), many))
        .await;
    flood(
        "WINDOW_UPDATE",
        &gateway,
        std::iter::repeat_n(frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()), many),
    )
    .await;
    flood("PRIORITY", &gateway, std::iter::repeat_n(frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 7]), many)).await;
    let open = frame(HEADERS, END_HEADERS, 1, &call_headers(TOKEN));
    let empty = std::iter::repeat_n(frame(DATA, 0, 1, &[]), many);
    flood("empty DATA", &gateway, std::iter::once(open.clone()).chain(empty)).await;
    let unknown = std::iter::repeat_n(frame(0xee, 0, 0, &[0; 64]), many);
    flood("frames of an unknown type", &gateway, unknown).await;
}

#[tokio::test]
async fn endless_header_blocks_cost_bounded_memory() {
    let gateway = GatewayProcess::start(&["--sandbox", QUIET]).await;
    let begin = frame(HEADERS, 0, 1, &call_headers(TOKEN));
    let more = std::iter::repeat_n(frame(CONTINUATION, 0, 1, &field("x-filler", "y")), 100_000);
    flood("CONTINUATION", &gateway, std::iter::once(begin.clone()).chain(more)).await;
    let empty = std::iter::repeat_n(frame(CONTINUATION, 0, 1, &[]), 100_000);
    flood("empty CONTINUATION", &gateway, std::iter::once(begin).chain(empty)).await;
    // One long field is added to the dynamic table, and each byte after it refers to that entry.
    let long = [&[0x40][..], &field("x-bomb", &"y".repeat(120))[1..]].concat();
    let bombs = streams().take(500).map(move |id| {
        let block = [call_headers(TOKEN), long.clone(), vec![0xbe; 15_000]].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, id, &block)
    });
    flood("a header bomb", &gateway, bombs).await;
}

#[tokio::test]
async fn unread_replies_cost_bounded_memory() {
    let gateway = GatewayProcess::start(&["--sandbox", QUIET]).await;
    // With windows of 0, the messages of all responses wait in the gateway.
    let no_window = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let calls = streams().take(2_000).flat_map(|id| {
        [frame(HEADERS, END_HEADERS, id, &call_headers(TOKEN)), frame(DATA, END_STREAM, id, &message())]
    });
    flood("windows that never open", &gateway, std::iter::once(no_window).chain(calls)).await;
}

#[tokio::test]
async fn handshake_timeout_covers_slow_preface() {
    let gateway =
        GatewayProcess::start(&["--sandbox", QUIET, "--handshake-timeout=500ms", "--default-deadline=500ms"])
            .await;
    let mut slow = TcpStream::connect(&gateway.grpc).await.unwrap();
    let hello = PREFACE.iter().map(std::slice::from_ref);
    let mut taken = 0;
    for byte in hello {
        if slow.write_all(byte).await.is_err() {
            break;
        }
        taken += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(taken < PREFACE.len(), "the handshake's time is limited as a whole");
    assert!(gateway.get(PROJECT, SHARE).await.status.success());
}

#[tokio::test]
async fn idle_connections_cost_bounded_memory() {
    // Each connection takes a descriptor here, too; the usual limit is 1024.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let gateway = GatewayProcess::start(&["--sandbox", QUIET]).await;
    let before = memory(&gateway).await;
    let mut held = Vec::new();
    for _ in 0..2_000 {
        let mut stream = TcpStream::connect(&gateway.grpc).await.unwrap();
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        held.push(stream);
    }
    let are_open = async || (metric(gateway.admin, "server_connections").await >= 2_000.0).then_some(());
    poll_until("the connections", are_open).await;
    let each = (memory(&gateway).await - before) / 2_000.0;
    assert!(each < 32.0 * 1024.0, "{each} bytes a connection");
    assert!(gateway.get(PROJECT, SHARE).await.status.success());
}

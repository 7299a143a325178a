//! The attackers. Each goes on until it is dropped; when the gateway closes the connection, it opens another one.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::common::load::message;
use super::common::{PROJECT, SHARE, token};
use super::h2_frames::*;

/// The most that is written at once.
const BATCH: usize = 64 * 1024;
/// Streams of one connection that are open at a time: the gateway's limit.
const STREAMS: usize = 200;

/// The frames that carry no call, by name. The gateway cannot limit them by count: grpc-go sends some for each call.
pub(crate) fn control_frames() -> Vec<(&'static str, Bytes)> {
    vec![
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("acknowledgements of no PING", frame(PING, 1, 0, &[7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])),
        ("WINDOW_UPDATE of 1 byte", frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
        ("PRIORITY", frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 7])),
        ("frames of an unknown type", frame(0xee, 0, 0, &[0; 64])),
    ]
}

fn open_settings(settings: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()
}

/// Reads and discards until the end.
async fn sink(mut reading: OwnedReadHalf) {
    let mut discarded = vec![0; BATCH];
    while reading.read(&mut discarded).await.is_ok_and(|read| read > 0) {}
}

/// Sends what `batches` gives on connections that begin with `hello`, and reads what comes.
async fn send(
    server: SocketAddr,
    hello: &[u8],
    batches: impl Fn() -> Box<dyn Iterator<Item = Bytes> + Send>,
) {
    loop {
        let Ok(stream) = TcpStream::connect(server).await else { continue };
        let (reading, mut writing) = stream.into_split();
        let reader = tokio::spawn(sink(reading));
        let mut open = writing.write_all(hello).await.is_ok();
        let mut batches = batches();
        while open && let Some(batch) = batches.next() {
            open = writing.write_all(&batch).await.is_ok();
        }
        // What was sent stays open until the gateway ends it.
        let _ = reader.await;
    }
}

/// The same bytes without end.
pub(crate) async fn flood(server: SocketAddr, bytes: Bytes) {
    let batch = Bytes::from(bytes.repeat(BATCH / bytes.len()));
    send(server, &open_settings(&[]), move || Box::new(std::iter::repeat(batch.clone()))).await;
}

fn call(id: u32) -> Bytes {
    let begin = frame(HEADERS, END_HEADERS, id, &call_headers(&token()[..100]));
    Bytes::from([begin, frame(DATA, END_STREAM, id, &message(PROJECT, SHARE))].concat())
}

/// Whole calls, each reset at once.
pub(crate) async fn begin_and_reset(server: SocketAddr) {
    let begin_and_reset =
        |id| Bytes::from([call(id), frame(RST_STREAM, 0, id, &8u32.to_be_bytes())].concat());
    send(server, &open_settings(&[]), move || Box::new(streams().map(begin_and_reset))).await;
}

/// As many calls as a connection may have, none with its message.
pub(crate) async fn calls_without_message(server: SocketAddr) {
    let begin = |id| frame(HEADERS, END_HEADERS, id, &call_headers(&token()[..100]));
    send(server, &open_settings(&[]), move || Box::new(streams().take(STREAMS).map(begin))).await;
}

/// As many calls as a connection may have, with windows of 0.
pub(crate) async fn replies_not_taken(server: SocketAddr) {
    let no_window = open_settings(&[0, 4, 0, 0, 0, 0]);
    send(server, &no_window, || Box::new(streams().take(STREAMS).map(call))).await;
}

/// Scrapes one after the other on one connection, sent without waiting for the replies.
pub(crate) async fn scrape_pipelined(admin: SocketAddr) {
    let scrape = Bytes::from("GET /metrics HTTP/1.1\r\nhost: admin\r\n\r\n".repeat(100));
    send(admin, &[], move || Box::new(std::iter::repeat(scrape.clone()))).await;
}

//! An upstream that fails in every way that a socket allows. For each: the status, that it came within the call's own
//! bound, and that the next call works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::Code;

use crate::support::*;

/// The longest that one of these calls may take: three attempts and their pauses, with much room for a busy machine.
const BOUND: Duration = Duration::from_secs(15);

/// Lets an upstream do `script` until it is mended, and checks the call before and the one after.
async fn fault(what: &str, script: Script, code: Code, reason: &str) {
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    let upstream = Upstream::scripted(move |_, _| match is_mended.load(Ordering::Relaxed) {
        true => documented(),
        false => script.clone(),
    })
    .await;
    let gateway = Running::before_with(&upstream, &["--attempt-timeout=300ms"]).await;
    let mut client = gateway.client().await;
    let began = Instant::now();
    let status = soon(what, client.get_backup_share(request(PROJECT, SHARE))).await.expect_err(what);
    assert!(began.elapsed() < BOUND, "{what} took {:?}", began.elapsed());
    let failure = Failure::of(status);
    assert_eq!((failure.code, failure.reason.as_str()), (code, reason), "{what}");
    assert_eq!(failure.metadata("httpStatus"), None, "{what}: no whole reply came");
    assert_eq!(failure.attempts(), Some("3"), "{what}");
    mended.store(true, Ordering::Relaxed);
    soon(what, client.get_backup_share(request(PROJECT, SHARE)))
        .await
        .unwrap_or_else(|_| panic!("the call after {what}"));
}

async fn lost(what: &str, script: Script) {
    fault(what, script, Code::Unavailable, "UPSTREAM_CONNECTION_LOST").await;
}

async fn timed_out(what: &str, script: Script) {
    fault(what, script, Code::DeadlineExceeded, "UPSTREAM_TIMEOUT").await;
}

#[tokio::test]
async fn a_connection_that_ends_before_a_whole_reply_is_lost_whatever_the_status() {
    lost("a FIN before the reply", vec![Step::Close]).await;
    lost("an RST before the reply", vec![Step::Reset]).await;
    lost("half a status line", vec![send("HTTP/1.1 2"), Step::Close]).await;
    lost("half the headers", vec![send("HTTP/1.1 200 OK\r\ncontent-le"), Step::Close]).await;
    lost("an interim reply and no more", vec![send("HTTP/1.1 100 Continue\r\n\r\n"), Step::Close]).await;
    for status in [200, 404, 500, 503] {
        let head = format!("HTTP/1.1 {status} Status\r\ncontent-length: 5000\r\n\r\n");
        lost("a FIN in the body", vec![send(&head), send(DOCUMENTED), Step::Close]).await;
        lost("an RST in the body", vec![send(&head), send(DOCUMENTED), Step::Reset]).await;
    }
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    lost(
        "no last chunk",
        vec![send(chunked), send(&format!("{:x}\r\n{DOCUMENTED}\r\n", DOCUMENTED.len())), Step::Close],
    )
    .await;
}

#[tokio::test]
async fn framing_that_is_broken_is_a_lost_connection() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    lost("garbage for a chunk", vec![send(chunked), send("zz\r\n{}\r\n0\r\n\r\n"), Step::Close]).await;
    lost("a chunk longer than it said", vec![send(chunked), send("2\r\n{}{}{}\r\n0\r\n\r\n"), Step::Close])
        .await;
    lost("no HTTP at all", vec![send("220 mail.example ESMTP\r\n"), Step::Close]).await;
    lost("bytes of TLS", vec![Step::Send(vec![0x15, 3, 3, 0, 2, 2, 70]), Step::Close]).await;
    let two = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n";
    lost("two lengths", vec![send(two), send("hello!"), Step::Close]).await;
    lost("a length that is none", vec![send("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n{}"), Step::Close])
        .await;
}

#[tokio::test]
async fn a_reply_that_does_not_come_is_a_timeout() {
    timed_out("silence", vec![Step::Stall]).await;
    timed_out("half a status line and silence", vec![send("HTTP/1.1 2"), Step::Stall]).await;
    timed_out(
        "headers and silence",
        vec![send("HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n"), Step::Stall],
    )
    .await;
    timed_out(
        "half a body and silence",
        vec![send("HTTP/1.1 404 No\r\ncontent-length: 500\r\n\r\n{"), Step::Stall],
    )
    .await;
    timed_out("an interim reply and silence", vec![send("HTTP/1.1 100 Continue\r\n\r\n"), Step::Stall]).await;
    let slow =
        DOCUMENTED.bytes().flat_map(|b| [Step::Send(vec![b]), Step::Pause(Duration::from_millis(100))]);
    let head = send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", DOCUMENTED.len()));
    timed_out("a byte every tenth of a second", [head].into_iter().chain(slow).collect()).await;
}

#[tokio::test]
async fn an_endless_body_is_too_large_and_read_no_further() {
    let part = Step::Send(format!("10000\r\n{}\r\n", "x".repeat(0x10000)).into_bytes());
    let mut script = vec![send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")];
    script.extend(std::iter::repeat_n(part, 1000));
    let upstream =
        Upstream::scripted(move |_, number| if number == 1 { script.clone() } else { documented() }).await;
    let gateway = Running::before_with(&upstream, &[ONE_WORKER]).await;
    assert_eq!(gateway.failure().await.reason, "UPSTREAM_RESPONSE_TOO_LARGE");
    gateway.get().await.unwrap();
    assert_eq!(upstream.connections(), 2, "the first connection is given up");
}

#[tokio::test]
async fn a_reply_longer_than_its_length_is_read_to_its_length() {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", DOCUMENTED.len());
    let upstream =
        Upstream::scripted(move |_, _| vec![send(&head), send(DOCUMENTED), send("more"), Step::Close]).await;
    let gateway = Running::before_with(&upstream, &[ONE_WORKER]).await;
    gateway.get().await.unwrap();
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn a_reply_that_ends_with_the_connection_is_whole() {
    let upstream =
        Upstream::scripted(|_, _| vec![send("HTTP/1.0 200 OK\r\n\r\n"), send(DOCUMENTED), Step::Close]).await;
    let gateway = Running::before(&upstream).await;
    gateway.get().await.unwrap();
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn a_connection_closed_right_after_accept_is_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--upstream-url=http://{}", listener.local_addr().unwrap());
    let closing = tokio::spawn(async move {
        for _ in 0..3 {
            drop(listener.accept().await);
        }
        listener
    });
    let gateway = Running::start(&[&url, "--allow-plaintext-upstream"]).await;
    let failure = gateway.failure().await;
    assert_eq!((failure.code, failure.reason.as_str()), (Code::Unavailable, "UPSTREAM_CONNECTION_LOST"));
    assert_eq!(failure.attempts(), Some("3"));
    let _upstream = Upstream::on(soon("three connections", closing).await.unwrap(), |_, _| documented());
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_unreachable() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for url in [format!("http://{gone}"), "http://no-such-host.invalid".to_owned()] {
        let gateway = Running::start(&[&format!("--upstream-url={url}"), "--allow-plaintext-upstream"]).await;
        let failure = gateway.failure().await;
        assert_eq!(
            (failure.code, failure.reason.as_str()),
            (Code::Unavailable, "UPSTREAM_UNREACHABLE"),
            "{url}"
        );
        assert_eq!((failure.attempts(), failure.metadata("service")), (Some("3"), Some("vbs")));
        assert_eq!(failure.metadata("httpStatus"), None);
        assert!(
            !failure.message.contains("http:") && !failure.message.contains("127.0.0.1"),
            "{}",
            failure.message
        );
    }
}

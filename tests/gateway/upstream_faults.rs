//! An upstream that fails at every point of a reply. For each fault: the status, that it comes within the bound of the call,
//! and that the next call succeeds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::Code;

use crate::support::*;

/// The longest time of one of these calls: three attempts and their backoffs, with room for a busy machine.
const MAX_CALL_TIME: Duration = Duration::from_secs(15);

/// Runs a call against an upstream with `script`, and a second one after the upstream has recovered.
async fn check_fault(fault: &str, script: Script, flags: &[&str], outcome: (Code, &str)) {
    let has_recovered = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&has_recovered);
    let upstream = Upstream::scripted(move |_, _| match shared.load(Ordering::Relaxed) {
        true => documented_reply(),
        false => script.clone(),
    })
    .await;
    let gateway = Gateway::with_flags(&upstream, flags).await;
    let mut client = gateway.client().await;
    let began = Instant::now();
    let call = client.get_backup_share(request(PROJECT, SHARE));
    let status = with_timeout(fault, call).await.expect_err(fault);
    assert!(began.elapsed() < MAX_CALL_TIME, "{fault} took {:?}", began.elapsed());
    let error = ErrorStatus::decode(status);
    assert_eq!(error.outcome(), outcome, "{fault}");
    assert_eq!(error.metadata("httpStatus"), None, "{fault}: no complete reply");
    assert_eq!(error.attempts(), Some("3"), "{fault}");
    has_recovered.store(true, Ordering::Relaxed);
    let next = with_timeout(fault, client.get_backup_share(request(PROJECT, SHARE))).await;
    next.unwrap_or_else(|_| panic!("the call after {fault}"));
}

async fn check_lost(fault: &str, script: Script) {
    check_fault(fault, script, &[], (Code::Unavailable, "UPSTREAM_CONNECTION_LOST")).await;
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn connection_closed_before_complete_reply_is_lost() {
    check_lost("a FIN before the reply", vec![Step::Close]).await;
    check_lost("an RST before the reply", vec![Step::Reset]).await;
    for head in ["HTTP/1.1 2", "HTTP/1.1 200 OK\r\ncontent-le", "HTTP/1.1 100 Continue\r\n\r\n"] {
        check_lost(head, vec![send(head), Step::Close]).await;
    }
    for status in [200, 404, 500, 503] {
        let head = format!("HTTP/1.1 {status} Status\r\ncontent-length: 5000\r\n\r\n");
        check_lost("a FIN in the body", vec![send(&head), send(DOCUMENTED), Step::Close]).await;
        check_lost("an RST in the body", vec![send(&head), send(DOCUMENTED), Step::Reset]).await;
    }
    let chunk = format!("{:x}\r\n{DOCUMENTED}\r\n", DOCUMENTED.len());
    check_lost("no last chunk", vec![send(CHUNKED), send(&chunk), Step::Close]).await;
}

#[tokio::test]
async fn invalid_framing_is_lost_connection() {
    for (fault, bytes) in [
        ("an invalid chunk size", format!("{CHUNKED}zz\r\n{{}}\r\n0\r\n\r\n")),
        ("a chunk longer than its size", format!("{CHUNKED}2\r\n{{}}{{}}{{}}\r\n0\r\n\r\n")),
        ("another protocol", "220 mail.example ESMTP\r\n".to_owned()),
        ("a TLS record", "\u{15}\u{3}\u{3}\0\u{2}\u{2}F".to_owned()),
        ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!".to_owned()),
        ("an invalid length", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n{}".to_owned()),
    ] {
        check_lost(fault, vec![send(&bytes), Step::Close]).await;
    }
}

#[tokio::test]
async fn incomplete_reply_is_timeout() {
    let stalled = [
        "",
        "HTTP/1.1 2",
        "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n",
        "HTTP/1.1 404 No\r\ncontent-length: 500\r\n\r\n{",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ];
    let mut cases = stalled.map(|bytes| (bytes, vec![send(bytes), Step::Stall])).to_vec();
    let slow =
        DOCUMENTED.bytes().flat_map(|b| [Step::Send(vec![b]), Step::Pause(Duration::from_millis(100))]);
    let head = send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", DOCUMENTED.len()));
    cases.push(("a byte every tenth of a second", [head].into_iter().chain(slow).collect()));
    // The cases run together: each waits for three attempts to time out.
    let checks = cases.into_iter().map(async |(fault, script)| {
        let outcome = (Code::DeadlineExceeded, "UPSTREAM_TIMEOUT");
        check_fault(fault, script, &["--attempt-timeout=300ms"], outcome).await;
    });
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn endless_part_of_a_reply_is_lost_connection() {
    for (fault, head, part) in [
        ("a reason phrase", "HTTP/1.1 200 ", "x"),
        ("a header", "HTTP/1.1 200 OK\r\nx-endless: ", "x"),
        ("headers", "HTTP/1.1 200 OK\r\n", "x-endless: yes\r\n"),
        ("a chunk extension", &format!("{CHUNKED}2;x="), "x"),
        ("trailers", &format!("{CHUNKED}2\r\n{{}}\r\n0\r\n"), "x-endless: yes\r\n"),
    ] {
        let endless = Step::SendForever(part.repeat(4096).into_bytes());
        check_lost(fault, vec![send(head), endless]).await;
    }
}

/// With pauses, since hyper parses without a pause for as long as it has something to read.
#[tokio::test]
async fn endless_interim_responses_and_zeros_of_a_chunk_size_end_with_the_attempt() {
    let chunk_size = format!("{CHUNKED}0");
    for (head, part) in [("", "HTTP/1.1 102 Processing\r\n\r\n"), (&*chunk_size, "0")] {
        let part = [send(&part.repeat(16)), Step::Pause(Duration::from_millis(5))];
        let script = [vec![send(head)], std::iter::repeat_n(part, 10_000).flatten().collect()].concat();
        check_fault(head, script, &["--attempt-timeout=300ms"], (Code::DeadlineExceeded, "UPSTREAM_TIMEOUT"))
            .await;
    }
}

#[tokio::test]
async fn endless_body_is_too_large_and_not_read_further() {
    let part = Step::Send(format!("10000\r\n{}\r\n", "x".repeat(0x10000)).into_bytes());
    let mut script = vec![send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")];
    script.extend(std::iter::repeat_n(part, 1000));
    let upstream =
        Upstream::scripted(move |_, number| if number == 1 { script.clone() } else { documented_reply() })
            .await;
    let gateway = Gateway::with_flags(&upstream, &[ONE_WORKER]).await;
    assert_eq!(gateway.get_error().await.reason, "UPSTREAM_RESPONSE_TOO_LARGE");
    gateway.get().await.unwrap();
    assert_eq!(upstream.connections(), 2, "the first connection is closed");
}

#[tokio::test]
async fn reply_longer_than_content_length_is_read_to_content_length() {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", DOCUMENTED.len());
    let upstream =
        Upstream::scripted(move |_, _| vec![send(&head), send(DOCUMENTED), send("more"), Step::Close]).await;
    let gateway = Gateway::with_flags(&upstream, &[ONE_WORKER]).await;
    gateway.get().await.unwrap();
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn reply_delimited_by_close_is_complete() {
    let upstream =
        Upstream::scripted(|_, _| vec![send("HTTP/1.0 200 OK\r\n\r\n"), send(DOCUMENTED), Step::Close]).await;
    let gateway = Gateway::with_upstream(&upstream).await;
    gateway.get().await.unwrap();
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn connection_closed_after_accept_is_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--upstream-url=http://{}", listener.local_addr().unwrap());
    let closing = tokio::spawn(async move {
        for _ in 0..3 {
            drop(listener.accept().await);
        }
        listener
    });
    let gateway = Gateway::start(&[&url, PLAINTEXT]).await;
    let error = gateway.get_error().await;
    assert_eq!(error.outcome(), (Code::Unavailable, "UPSTREAM_CONNECTION_LOST"));
    assert_eq!(error.attempts(), Some("3"));
    let _upstream =
        Upstream::on(with_timeout("three connections", closing).await.unwrap(), |_, _| documented_reply());
    gateway.get().await.unwrap();
}

#[tokio::test]
async fn closed_port_and_unknown_host_are_unreachable() {
    let (_bound, closed) = closed_port();
    for url in [format!("http://{closed}"), "http://no-such-host.invalid".to_owned()] {
        let gateway = Gateway::start(&[&format!("--upstream-url={url}"), PLAINTEXT]).await;
        let error = gateway.get_error().await;
        assert_eq!(error.outcome(), (Code::Unavailable, "UPSTREAM_UNREACHABLE"), "{url}");
        assert_eq!((error.attempts(), error.metadata("service")), (Some("3"), Some("vbs")));
        assert_eq!(error.metadata("httpStatus"), None);
        assert!(
            !error.message.contains("http:") && !error.message.contains("127.0.0.1"),
            "{}",
            error.message
        );
    }
}

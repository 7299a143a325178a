//! An upstream that fails in every way that a socket allows. For each: the status, that it came within the call's own
//! bound, and that the next call works.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tonic::Code;

use crate::harness::*;

/// The longest that one of these calls may take: three attempts and their pauses, with much room for a busy machine.
const BOUND: Duration = Duration::from_secs(15);

/// The pool is each worker's: with one worker, a second call can reuse the first one's connection.
const ONE_WORKER: &str = "--workers=1";

fn send(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

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
async fn bytes_behind_a_whole_reply_do_not_become_the_next_reply() {
    // A reply to nothing, sent behind the reply to the first request.
    let smuggled = DOCUMENTED.replace("lbf", "smuggled");
    let behind = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{smuggled}", smuggled.len());
    let upstream = Upstream::scripted(move |_, number| match number {
        1 => [documented(), vec![send(&behind)]].concat(),
        _ => documented(),
    })
    .await;
    let gateway = Running::before_with(&upstream, &[ONE_WORKER]).await;
    for _ in 0..3 {
        let share = gateway.get().await.unwrap().into_inner().backup_share.unwrap();
        assert_eq!(share.backup.unwrap().name.as_deref(), Some("lbf"));
    }
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
async fn a_name_that_does_not_answer_the_tls_handshake_is_unreachable_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--upstream-url=https://{}", silent.local_addr().unwrap());
    let gateway = Running::start(&[&url, "--connect-timeout=200ms"]).await;
    let failure = gateway.failure().await;
    assert_eq!((failure.code, failure.reason.as_str()), (Code::Unavailable, "UPSTREAM_UNREACHABLE"));
}

#[tokio::test]
async fn a_pooled_connection_that_was_closed_under_us_is_tried_again_at_no_charge() {
    // Each connection answers one request and is closed when the next one comes, at every call.
    let upstream = Upstream::scripted({
        let served = std::sync::Mutex::new(std::collections::HashSet::new());
        move |seen, _| {
            if served.lock().unwrap().insert(seen.connection) { documented() } else { vec![Step::Close] }
        }
    })
    .await;
    let gateway = Running::before_with(&upstream, &["--max-attempts=1"]).await;
    let mut client = gateway.client().await;
    for _ in 0..20 {
        let mut asked = request(PROJECT, SHARE);
        // Not even a call that is not to be retried fails by it.
        asked.metadata_mut().insert("grpc-previous-rpc-attempts", "1".parse().unwrap());
        soon("a call", client.get_backup_share(asked)).await.unwrap();
    }
    assert!(gateway.metric(r#"upstream_retries_total{reason="stale"}"#).await >= 1.0);
    assert!((gateway.metric("upstream_retry_tokens").await - 10.0).abs() < f64::EPSILON);
}

/// An upstream that answers one request and then does what `after` says with the connection. It ends when the gateway has
/// closed that.
async fn one_request(
    after: impl AsyncFnOnce(&mut TcpStream) + 'static,
) -> (String, impl Future<Output = ()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--upstream-url=http://{}", listener.local_addr().unwrap());
    let upstream = async move {
        let mut stream = soon("a connection", listener.accept()).await.unwrap().0;
        read_head(&mut stream).await;
        let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{DOCUMENTED}", DOCUMENTED.len());
        stream.write_all(reply.as_bytes()).await.unwrap();
        after(&mut stream).await;
        assert_eq!(soon("the gateway closes it", stream.read(&mut [0])).await.unwrap(), 0);
    };
    (url, upstream)
}

#[tokio::test]
async fn a_connection_that_waits_too_long_is_closed_without_another_call() {
    let (url, upstream) = one_request(async |_| ()).await;
    let flags = ["--allow-plaintext-upstream", "--upstream-idle-timeout=100ms", &url];
    let gateway = Running::start(&flags).await;
    let (share, ()) = tokio::join!(gateway.get(), upstream);
    share.unwrap();
}

#[tokio::test]
async fn a_connection_that_the_upstream_closes_while_it_waits_is_closed_here_too_and_costs_no_retry() {
    let (url, upstream) = one_request(async |stream| stream.shutdown().await.unwrap()).await;
    let address = url.rsplit("//").next().unwrap().parse().unwrap();
    let gateway = Running::start(&[ONE_WORKER, "--allow-plaintext-upstream", &url]).await;
    let (share, ()) = tokio::join!(gateway.get(), upstream);
    share.unwrap();
    let _upstream =
        Upstream::on(TcpListener::bind::<SocketAddr>(address).await.unwrap(), |_, _| documented());
    gateway.get().await.unwrap();
    assert_eq!(gateway.metric(r#"upstream_retries_total{reason="stale"}"#).await, 0.0);
}

#[tokio::test]
async fn worker_reuses_only_the_connections_that_it_opened() {
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let gateway = Running::before_with(&upstream, &["--workers=3"]).await;
    // Two for each worker: a new connection goes to the worker that has the fewest.
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(gateway.client().await);
    }
    for client in &mut clients {
        soon("a call", client.get_backup_share(request(PROJECT, SHARE))).await.unwrap();
    }
    assert_eq!(upstream.connections(), 3);
}

/// Reads a request without a body.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("a request", stream.read_u8()).await.unwrap());
    }
}

#[tokio::test]
async fn an_upstream_that_closes_every_new_connection_too_sees_each_attempt_once() {
    let upstream =
        Upstream::scripted(|_, number| if number == 1 { documented() } else { vec![Step::Close] }).await;
    let gateway = Running::before_with(&upstream, &[ONE_WORKER]).await;
    gateway.get().await.unwrap();
    let failure = gateway.failure().await;
    assert_eq!((failure.reason.as_str(), failure.attempts()), ("UPSTREAM_CONNECTION_LOST", Some("3")));
    // The first call, the stale connection, and three attempts on connections of their own.
    assert_eq!((upstream.requests().len(), upstream.connections()), (5, 4));
}

#[tokio::test]
async fn reused_connection_that_sends_something_other_than_http_is_not_stale() {
    let broken = vec![send("220 mail.example ESMTP\r\n"), Step::Close];
    let upstream =
        Upstream::scripted(move |_, number| if number == 1 { documented() } else { broken.clone() }).await;
    let gateway = Running::before_with(&upstream, &[ONE_WORKER, "--max-attempts=1"]).await;
    gateway.get().await.unwrap();
    let failure = gateway.failure().await;
    assert_eq!((failure.reason.as_str(), failure.attempts()), ("UPSTREAM_CONNECTION_LOST", Some("1")));
    assert_eq!((upstream.requests().len(), upstream.connections()), (2, 1));
    assert_eq!(gateway.metric(r#"upstream_retries_total{reason="stale"}"#).await, 0.0);
}

#[tokio::test]
async fn reused_connection_that_closes_before_a_complete_head_is_stale() {
    for half in ["", "H", "HTTP/1.1 200 OK\r\nContent-Len"] {
        let broken = vec![send(half), Step::Close];
        let upstream =
            Upstream::scripted(move |_, number| if number == 2 { broken.clone() } else { documented() })
                .await;
        let gateway = Running::before_with(&upstream, &[ONE_WORKER, "--max-attempts=1"]).await;
        gateway.get().await.unwrap();
        gateway.get().await.unwrap_or_else(|_| panic!("after {half:?}"));
        assert_eq!((upstream.requests().len(), upstream.connections()), (3, 2), "{half:?}");
        assert_eq!(gateway.metric(r#"upstream_retries_total{reason="stale"}"#).await, 1.0, "{half:?}");
        assert_eq!(gateway.metric("upstream_retry_tokens").await, 10.0, "{half:?}");
    }
}

#[tokio::test]
async fn stale_connection_is_repeated_once() {
    let broken = vec![send("HTTP/1.1 200 OK\r\nContent-Len"), Step::Close];
    let upstream =
        Upstream::scripted(move |_, number| if number == 1 { documented() } else { broken.clone() }).await;
    let gateway = Running::before_with(&upstream, &[ONE_WORKER, "--max-attempts=1"]).await;
    gateway.get().await.unwrap();
    let failure = gateway.failure().await;
    assert_eq!((failure.reason.as_str(), failure.attempts()), ("UPSTREAM_CONNECTION_LOST", Some("1")));
    assert_eq!((upstream.requests().len(), upstream.connections()), (3, 2));
}

#[tokio::test]
async fn reused_connection_that_closes_in_the_body_is_not_stale() {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", DOCUMENTED.len());
    let broken = vec![send(&head), send("{"), Step::Close];
    let upstream =
        Upstream::scripted(move |_, number| if number == 1 { documented() } else { broken.clone() }).await;
    let gateway = Running::before_with(&upstream, &[ONE_WORKER, "--max-attempts=1"]).await;
    gateway.get().await.unwrap();
    assert_eq!(gateway.failure().await.reason, "UPSTREAM_CONNECTION_LOST");
    assert_eq!((upstream.requests().len(), upstream.connections()), (2, 1));
}

#[tokio::test]
async fn a_reply_with_many_headers_is_a_reply() {
    let names: Vec<String> = (0..300).map(|number| format!("x-header-{number}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "value")).collect();
    let upstream = Upstream::replying(200, &headers, DOCUMENTED).await;
    Running::before(&upstream).await.get().await.unwrap();
}

#[tokio::test]
async fn connection_lifetime_ends_all_connections_of_a_worker_together() {
    // Slow, so that calls overlap.
    let slow = [vec![Step::Pause(Duration::from_millis(20))], documented()].concat();
    let upstream = Upstream::scripted(move |_, _| slow.clone()).await;
    let flags = [ONE_WORKER, "--upstream-connection-lifetime=500ms"];
    let gateway = Running::before_with(&upstream, &flags).await;
    while upstream.connections() < 2 {
        let (one, other) = tokio::join!(gateway.get(), gateway.get());
        one.unwrap();
        other.unwrap();
    }
    // Calls that do not overlap reuse a connection, until its lifetime is over.
    let opened = upstream.connections();
    while upstream.connections() == opened {
        gateway.get().await.unwrap();
    }
    upstream.closed(opened).await;
    gateway.get().await.unwrap();
    assert_eq!(upstream.connections(), opened + 1);
}

#[tokio::test]
async fn connections_turn_over_without_a_lost_call() {
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let gateway =
        Running::before_with(&upstream, &["--upstream-connection-lifetime=20ms", "--max-attempts=1"]).await;
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let grpc = gateway.client();
            async move {
                let mut client = grpc.await;
                for _ in 0..200 {
                    soon("a call", client.get_backup_share(request(PROJECT, SHARE))).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        })
        .collect();
    futures_util::future::join_all(callers).await;
    assert!(upstream.connections() > 4, "{} connections", upstream.connections());
    let kept = Running::before_with(&upstream, &[ONE_WORKER]).await;
    let before = upstream.connections();
    for _ in 0..20 {
        kept.get().await.unwrap();
    }
    assert_eq!(upstream.connections(), before + 1, "within its lifetime a connection is kept");
}

//! Connections to the upstream: which are reused, which are closed, and what a stale one costs.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

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

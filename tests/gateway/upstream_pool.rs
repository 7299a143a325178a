//! The pool of upstream connections: reuse, idle time, lifetime, and stale connections.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::*;

#[tokio::test]
async fn bytes_after_complete_reply_are_not_next_reply() {
    // A reply without a request, sent after the reply to the first request.
    let smuggled = DOCUMENTED.replace("lbf", "smuggled");
    let behind = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{smuggled}", smuggled.len());
    let upstream = Upstream::scripted(move |_, number| match number {
        1 => [documented_reply(), vec![send(&behind)]].concat(),
        _ => documented_reply(),
    })
    .await;
    let gateway = Gateway::with_flags(&upstream, &[ONE_WORKER]).await;
    for _ in 0..3 {
        let share = gateway.get().await.unwrap().into_inner().backup_share.unwrap();
        assert_eq!(share.backup.unwrap().name.as_deref(), Some("lbf"));
    }
}

#[tokio::test]
async fn stale_connection_costs_no_retry_token() {
    // Each connection serves one request, and is closed at the next one.
    let upstream = Upstream::scripted({
        let seen_connections = std::sync::Mutex::new(std::collections::HashSet::new());
        move |request, _| {
            if seen_connections.lock().unwrap().insert(request.connection) {
                documented_reply()
            } else {
                vec![Step::Close]
            }
        }
    })
    .await;
    let gateway = Gateway::with_flags(&upstream, &["--max-attempts=1"]).await;
    let mut client = gateway.client().await;
    for _ in 0..20 {
        // A call that must not be retried succeeds, too.
        with_timeout("a call", client.get_backup_share(client_retry())).await.unwrap();
    }
    assert!(gateway.metric(r#"upstream_retries_total{reason="stale"}"#).await >= 1.0);
    assert_eq!(gateway.metric("upstream_retry_tokens").await, 10.0);
}

/// An upstream that serves one request, runs `after` on the connection, and waits until the gateway has closed it.
async fn one_request(
    after: impl AsyncFnOnce(&mut TcpStream) + 'static,
) -> (String, impl Future<Output = ()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--upstream-url=http://{}", listener.local_addr().unwrap());
    let upstream = async move {
        let mut stream = with_timeout("a connection", listener.accept()).await.unwrap().0;
        with_timeout("a request", read_head(&mut stream)).await.unwrap();
        let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{DOCUMENTED}", DOCUMENTED.len());
        stream.write_all(reply.as_bytes()).await.unwrap();
        after(&mut stream).await;
        assert_eq!(with_timeout("the gateway closes it", stream.read(&mut [0])).await.unwrap(), 0);
    };
    (url, upstream)
}

#[tokio::test]
async fn idle_timeout_closes_pooled_connection() {
    let (url, upstream) = one_request(async |_| ()).await;
    let flags = [PLAINTEXT, "--upstream-idle-timeout=100ms", &url];
    let gateway = Gateway::start(&flags).await;
    let (share, ()) = tokio::join!(gateway.get(), upstream);
    share.unwrap();
}

#[tokio::test]
async fn pooled_connection_closed_by_upstream_costs_no_retry() {
    let (url, upstream) = one_request(async |stream| stream.shutdown().await.unwrap()).await;
    let address = url.rsplit("//").next().unwrap().parse().unwrap();
    let gateway = Gateway::start(&[ONE_WORKER, PLAINTEXT, &url]).await;
    let (share, ()) = tokio::join!(gateway.get(), upstream);
    share.unwrap();
    let _upstream =
        Upstream::on(TcpListener::bind::<SocketAddr>(address).await.unwrap(), |_, _| documented_reply());
    gateway.get().await.unwrap();
    assert_eq!(gateway.metric(r#"upstream_retries_total{reason="stale"}"#).await, 0.0);
}

#[tokio::test]
async fn worker_reuses_only_the_connections_that_it_opened() {
    let upstream = Upstream::documented().await;
    let gateway = Gateway::with_flags(&upstream, &["--workers=3"]).await;
    // Two for each worker: a new connection goes to the worker that has the fewest.
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(gateway.client().await);
    }
    for client in &mut clients {
        get_share(client).await.unwrap();
    }
    assert_eq!(upstream.connections(), 3);
}

#[tokio::test]
async fn closing_upstream_sees_each_attempt_once() {
    let upstream = Upstream::documented_once_then(vec![Step::Close]).await;
    let gateway = Gateway::with_flags(&upstream, &[ONE_WORKER]).await;
    gateway.get().await.unwrap();
    let error = gateway.get_error().await;
    assert_eq!((error.reason.as_str(), error.attempts()), ("UPSTREAM_CONNECTION_LOST", Some("3")));
    // The first call, the stale connection, and three attempts on connections of their own.
    assert_eq!((upstream.requests().len(), upstream.connections()), (5, 4));
}

/// A gateway without retries that has one pooled connection, on which the next request gets `script`.
async fn gateway_with_pooled_connection(script: Script) -> (Gateway, Upstream) {
    let upstream = Upstream::documented_once_then(script).await;
    let gateway = Gateway::with_flags(&upstream, &[ONE_WORKER, "--max-attempts=1"]).await;
    gateway.get().await.unwrap();
    (gateway, upstream)
}

#[tokio::test]
async fn reused_connection_with_invalid_http_is_not_stale() {
    let broken = vec![send("220 mail.example ESMTP\r\n"), Step::Close];
    let (gateway, upstream) = gateway_with_pooled_connection(broken).await;
    let error = gateway.get_error().await;
    assert_eq!((error.reason.as_str(), error.attempts()), ("UPSTREAM_CONNECTION_LOST", Some("1")));
    assert_eq!((upstream.requests().len(), upstream.connections()), (2, 1));
    assert_eq!(gateway.metric(r#"upstream_retries_total{reason="stale"}"#).await, 0.0);
}

#[tokio::test]
async fn reused_connection_closed_before_complete_head_is_stale() {
    for half in ["", "H", "HTTP/1.1 200 OK\r\nContent-Len"] {
        let broken = vec![send(half), Step::Close];
        let upstream = Upstream::scripted(
            move |_, number| if number == 2 { broken.clone() } else { documented_reply() },
        )
        .await;
        let gateway = Gateway::with_flags(&upstream, &[ONE_WORKER, "--max-attempts=1"]).await;
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
    let (gateway, upstream) = gateway_with_pooled_connection(broken).await;
    let error = gateway.get_error().await;
    assert_eq!((error.reason.as_str(), error.attempts()), ("UPSTREAM_CONNECTION_LOST", Some("1")));
    assert_eq!((upstream.requests().len(), upstream.connections()), (3, 2));
}

#[tokio::test]
async fn reused_connection_closed_in_body_is_not_stale() {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", DOCUMENTED.len());
    let broken = vec![send(&head), send("{"), Step::Close];
    let (gateway, upstream) = gateway_with_pooled_connection(broken).await;
    assert_eq!(gateway.get_error().await.reason, "UPSTREAM_CONNECTION_LOST");
    assert_eq!((upstream.requests().len(), upstream.connections()), (2, 1));
}

#[tokio::test]
async fn error_body_over_64_kib_is_not_waited_for_and_its_connection_is_closed() {
    let head = "HTTP/1.1 404 Not Found\r\ncontent-length: 65537\r\n\r\n";
    let chunk = format!(
        "HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n10001\r\n{}",
        " ".repeat(65_537)
    );
    for endless in [head, &chunk] {
        let (gateway, upstream) = gateway_with_pooled_connection(vec![send(endless), Step::Stall]).await;
        assert_eq!(gateway.get_error().await.reason, "UPSTREAM_ROUTE_NOT_FOUND");
        upstream.stalled_requests_end(1).await;
    }
}

#[tokio::test]
async fn connection_lifetime_closes_all_connections_of_a_worker() {
    // Slow, so that calls overlap.
    let slow = [vec![Step::Pause(Duration::from_millis(20))], documented_reply()].concat();
    let upstream = Upstream::scripted(move |_, _| slow.clone()).await;
    let flags = [ONE_WORKER, "--upstream-connection-lifetime=500ms"];
    let gateway = Gateway::with_flags(&upstream, &flags).await;
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
    upstream.wait_for_closed_connections(opened).await;
    gateway.get().await.unwrap();
    assert_eq!(upstream.connections(), opened + 1);
}

#[tokio::test]
async fn connection_lifetime_loses_no_call() {
    let upstream = Upstream::documented().await;
    let gateway =
        Gateway::with_flags(&upstream, &["--upstream-connection-lifetime=20ms", "--max-attempts=1"]).await;
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let grpc = gateway.client();
            async move {
                let mut client = grpc.await;
                for _ in 0..200 {
                    get_share(&mut client).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        })
        .collect();
    futures_util::future::join_all(callers).await;
    assert!(upstream.connections() > 4, "{} connections", upstream.connections());
    let gateway = Gateway::with_flags(&upstream, &[ONE_WORKER]).await;
    let before = upstream.connections();
    for _ in 0..20 {
        gateway.get().await.unwrap();
    }
    assert_eq!(upstream.connections(), before + 1, "within its lifetime a connection is kept");
}

#[tokio::test]
async fn connections_of_the_pool_are_not_used_after_a_timeout() {
    const POOLED: usize = 4;
    // The connections that are open after the first calls go silent; new ones work.
    let upstream = Upstream::scripted(|request, number| match (request.connection, number) {
        (_, ..=POOLED) => [vec![Step::Pause(Duration::from_millis(200))], documented_reply()].concat(),
        (..=POOLED, _) => vec![Step::Stall],
        _ => documented_reply(),
    })
    .await;
    let gateway = Gateway::with_flags(&upstream, &[ONE_WORKER, "--attempt-timeout=500ms"]).await;
    let calls = (0..POOLED).map(|_| gateway.get());
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(upstream.connections(), POOLED);
    gateway.get().await.unwrap();
    assert_eq!(upstream.requests().len(), POOLED + 2, "one attempt on a silent connection, one on a new one");
    for _ in 0..3 {
        gateway.get().await.unwrap();
    }
    assert_eq!(upstream.requests().len(), POOLED + 5, "no other call has met a silent connection");
    upstream.wait_for_closed_connections(POOLED).await;
}

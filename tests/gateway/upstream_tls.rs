//! TLS to the upstream: the handshake, and which certificates are accepted.

use tokio::net::TcpListener;
use tonic::Code;

use crate::support::certificates::{TlsFiles, dns};
use crate::support::tls_upstream::{tls_upstream, tls_upstream_with_one_connection};
use crate::support::*;

#[tokio::test]
async fn silent_tls_upstream_is_unreachable_after_connect_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--upstream-url=https://{}", silent.local_addr().unwrap());
    let gateway = Gateway::start(&[&url, "--connect-timeout=200ms"]).await;
    let error = gateway.get_error().await;
    assert_eq!(error.outcome(), (Code::Unavailable, "UPSTREAM_UNREACHABLE"));
}

#[tokio::test]
async fn upstream_certificate_is_verified_by_ca_and_name() {
    let (files, others) = (TlsFiles::new(), TlsFiles::new());
    let port = tls_upstream(&files.servers.issue(&[dns("localhost")])).await;
    let ca = |files: &TlsFiles| {
        std::fs::write(files.path("ca.pem"), &files.servers.pem).unwrap();
        files.flag("upstream-ca", "ca.pem")
    };
    let (ca, other_ca) = (ca(&files), ca(&others));
    let url = |host: &str| format!("--upstream-url=https://{host}:{port}");

    Gateway::start(&[&url("localhost"), &ca]).await.get().await.unwrap();
    for (case, flags) in [
        ("another CA", vec![url("localhost"), other_ca]),
        ("not a CA of the system", vec![url("localhost")]),
        ("another name", vec![url("127.0.0.1"), ca]),
    ] {
        let error = Gateway::start(&strs(&flags)).await.get_error().await;
        assert_eq!(error.outcome(), (Code::Unavailable, "UPSTREAM_UNREACHABLE"), "{case}");
    }
}

/// A call that finds no idle connection begins to open one. It takes the first that becomes idle, and hyper-util goes on with
/// the handshake.
#[tokio::test]
async fn connections_in_handshake_are_limited_when_their_calls_are_over() {
    let files = TlsFiles::new();
    let (port, silent) = tls_upstream_with_one_connection(&files.servers.issue(&[dns("localhost")])).await;
    std::fs::write(files.path("ca.pem"), &files.servers.pem).unwrap();
    let url = format!("--upstream-url=https://localhost:{port}");
    let flags =
        [ONE_WORKER, "--max-in-flight=8", "--connect-timeout=60s", &files.flag("upstream-ca", "ca.pem")];
    let gateway = Gateway::start(&[&[url.as_str()], flags.as_slice()].concat()).await;
    let client = gateway.client().await;
    for _ in 0..50 {
        let calls =
            (0..4).map(|_| {
                let mut client = client.clone();
                async move {
                    with_timeout("a call", client.get_backup_share(request(PROJECT, SHARE))).await.unwrap()
                }
            });
        futures_util::future::join_all(calls).await;
    }
    let begun = *silent.borrow();
    assert!((1..=8).contains(&begun), "{begun} handshakes");
}

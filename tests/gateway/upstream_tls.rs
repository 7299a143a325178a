//! TLS to the upstream: the handshake, and which certificates are accepted.

use tokio::net::TcpListener;
use tonic::Code;

use crate::support::certificates::{TlsFiles, dns};
use crate::support::tls_upstream::tls_upstream;
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

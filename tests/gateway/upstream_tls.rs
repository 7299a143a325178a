//! The TLS connection to the upstream, and whose certificate is accepted.

use tokio::net::TcpListener;
use tonic::Code;

use crate::support::certificates::{Files, dns};
use crate::support::tls_upstream::tls_upstream;
use crate::support::*;

#[tokio::test]
async fn a_name_that_does_not_answer_the_tls_handshake_is_unreachable_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--upstream-url=https://{}", silent.local_addr().unwrap());
    let gateway = Running::start(&[&url, "--connect-timeout=200ms"]).await;
    let failure = gateway.failure().await;
    assert_eq!((failure.code, failure.reason.as_str()), (Code::Unavailable, "UPSTREAM_UNREACHABLE"));
}

#[tokio::test]
async fn the_upstreams_certificate_is_checked_against_the_given_ca_and_its_name() {
    let (files, others) = (Files::new(), Files::new());
    let port = tls_upstream(&files.servers.issue(&[dns("localhost")])).await;
    let ca = |files: &Files| {
        std::fs::write(files.path("ca.pem"), &files.servers.pem).unwrap();
        files.flag("upstream-ca", "ca.pem")
    };
    let (ca, other_ca) = (ca(&files), ca(&others));
    let url = |host: &str| format!("--upstream-url=https://{host}:{port}");

    Running::start(&[&url("localhost"), &ca]).await.get().await.unwrap();
    for (why, flags) in [
        ("signed by another", vec![url("localhost"), other_ca]),
        ("not among the system's", vec![url("localhost")]),
        ("of another name", vec![url("127.0.0.1"), ca]),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let failure = Running::start(&flags).await.failure().await;
        assert_eq!(
            (failure.code, failure.reason.as_str()),
            (Code::Unavailable, "UPSTREAM_UNREACHABLE"),
            "{why}"
        );
    }
}

//! That tokens go to the upstream and nowhere else, and that its replies are taken for no more than they are.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};
use tonic::Code;

use crate::harness::*;
use crate::tls::{Files, Pair, dns};

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_token_stays() {
    let second = Upstream::scripted(|_, _| documented()).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("{}/elsewhere", second.url());
        let first = Upstream::replying(status, &[("location", &location)], "").await;
        let failure = Running::before(&first).await.failure().await;
        assert_eq!((failure.code, failure.reason.as_str()), (Code::Internal, "UPSTREAM_UNEXPECTED_STATUS"));
        assert!(!format!("{failure:?}").contains("elsewhere"));
    }
    assert_eq!(second.connections(), 0);
}

#[tokio::test]
async fn a_coded_body_is_malformed() {
    // gzip of nothing in particular; no Accept-Encoding was sent.
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    for (headers, body) in [
        (&[("content-encoding", "gzip")][..], &gzip[..]),
        (&[][..], &gzip[..]),
        (&[("content-encoding", "br")][..], DOCUMENTED.as_bytes()),
    ] {
        let upstream = Upstream::replying(200, headers, body).await;
        let failure = Running::before(&upstream).await.failure().await;
        assert_eq!(failure.reason, "UPSTREAM_MALFORMED_RESPONSE");
        assert_eq!(upstream.requests()[0].header("accept-encoding"), None);
    }
}

#[tokio::test]
async fn a_forward_proxy_is_used_when_named() {
    let proxy = Upstream::scripted(|_, _| documented()).await;
    let flags = ["--upstream-url=http://vbs.example", "--allow-plaintext-upstream", "--upstream-proxy"];
    let gateway = Running::start(&[&flags[..], &[&proxy.url()]].concat()).await;
    gateway.get().await.unwrap();
    assert_eq!(
        proxy.requests()[0].line,
        format!("GET http://vbs.example/v2/{PROJECT}/os-vendor-backup-sharing/{SHARE} HTTP/1.1")
    );
}

#[tokio::test]
async fn a_proxy_that_wants_credentials_is_the_operators_to_mend() {
    let proxy = Upstream::replying(407, &[("proxy-authenticate", "Basic")], "").await;
    for scheme in ["http", "https"] {
        let url = format!("--upstream-url={scheme}://vbs.example");
        let flags = [url.as_str(), "--allow-plaintext-upstream", "--upstream-proxy", &proxy.url()];
        let failure = Running::start(&flags).await.failure().await;
        assert_eq!(
            (failure.code, failure.reason.as_str()),
            (Code::Internal, "UPSTREAM_PROXY_AUTHENTICATION_REQUIRED"),
            "{scheme}"
        );
    }
    let tunnel = proxy.requests().pop().unwrap();
    assert_eq!(
        (tunnel.line.as_str(), tunnel.header("x-auth-token")),
        ("CONNECT vbs.example:443 HTTP/1.1", None)
    );
}

#[tokio::test]
async fn credentials_in_the_proxys_url_go_to_the_proxy() {
    // Of RFC 7617, section 2.
    const BASIC: &str = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
    let proxy = Upstream::scripted(|_, _| documented()).await;
    let with_credentials = proxy.url().replace("://", "://Aladdin:open%20sesame@");
    for scheme in ["http", "https"] {
        let url = format!("--upstream-url={scheme}://vbs.example");
        let flags = [url.as_str(), "--allow-plaintext-upstream", "--upstream-proxy", &with_credentials];
        // What answers is no TLS, so that behind the tunnel there is nobody; by http it is the share.
        let found = Running::start(&flags).await.get().await.is_ok();
        let asked = proxy.requests().pop().unwrap();
        let (tunnelled, proof) = (asked.line.starts_with("CONNECT "), asked.header("proxy-authorization"));
        assert_eq!((tunnelled, proof), (scheme == "https", Some(BASIC)), "{scheme}");
        assert_eq!(found, !tunnelled, "{scheme}");
    }
}

/// What speaks TLS for an upstream.
pub fn tls_acceptor(pair: &Pair) -> TlsAcceptor {
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// The port of an upstream with TLS, which answers every request with the documented share.
pub async fn tls_upstream(pair: &Pair) -> u16 {
    let acceptor = tls_acceptor(pair);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                let body =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{DOCUMENTED}", DOCUMENTED.len());
                stream.write_all(body.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    port
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

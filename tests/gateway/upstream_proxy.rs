//! A forward proxy in front of the upstream.

use tonic::Code;

use crate::support::*;

#[tokio::test]
async fn forward_proxy_is_used() {
    let proxy = Upstream::documented().await;
    let flags = ["--upstream-url=http://vbs.example", PLAINTEXT, "--upstream-proxy"];
    let gateway = Gateway::start(&[&flags[..], &[&proxy.url()]].concat()).await;
    gateway.get().await.unwrap();
    assert_eq!(
        proxy.requests()[0].line,
        format!("GET http://vbs.example/v2/{PROJECT}/os-vendor-backup-sharing/{SHARE} HTTP/1.1")
    );
}

#[tokio::test]
async fn proxy_authentication_required_is_internal() {
    let proxy = Upstream::replying(407, &[("proxy-authenticate", "Basic")], "").await;
    for scheme in ["http", "https"] {
        let url = format!("--upstream-url={scheme}://vbs.example");
        let flags = [url.as_str(), PLAINTEXT, "--upstream-proxy", &proxy.url()];
        let error = Gateway::start(&flags).await.get_error().await;
        assert_eq!(error.outcome(), (Code::Internal, "UPSTREAM_PROXY_AUTHENTICATION_REQUIRED"), "{scheme}");
    }
    let tunnel = proxy.requests().pop().unwrap();
    assert_eq!(
        (tunnel.line.as_str(), tunnel.header("x-auth-token")),
        ("CONNECT vbs.example:443 HTTP/1.1", None)
    );
}

#[tokio::test]
async fn proxy_credentials_are_sent_to_proxy() {
    // The example of RFC 7617, section 2.
    const BASIC: &str = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
    let proxy = Upstream::documented().await;
    let with_credentials = proxy.url().replace("://", "://Aladdin:open%20sesame@");
    for scheme in ["http", "https"] {
        let url = format!("--upstream-url={scheme}://vbs.example");
        let proxy_flags = ["--upstream-proxy", &with_credentials, "--connect-timeout=500ms"];
        let flags = [&[&*url, PLAINTEXT, "--max-attempts=1"], &proxy_flags[..]].concat();
        // The proxy speaks no TLS, so that the handshake in the tunnel fails; without a tunnel, the reply is the share.
        let is_ok = Gateway::start(&flags).await.get().await.is_ok();
        let sent = proxy.requests().pop().unwrap();
        assert_eq!(sent.header("proxy-authorization"), Some(BASIC), "{scheme}");
        let is_tunnelled = sent.line.starts_with("CONNECT ");
        assert_eq!((is_tunnelled, is_ok), (scheme == "https", scheme == "http"), "{scheme}");
    }
}

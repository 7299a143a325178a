//! That tokens go to the upstream and nowhere else, and that its replies are taken for no more than they are.

use tonic::Code;

use crate::support::*;

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

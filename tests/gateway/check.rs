//! `check` and `check --connect`: each step, made to fail for real, is named, with what to do and the exit status.

use serde_json::json;
use tokio::net::TcpListener;

use crate::child;
use crate::harness::*;
use crate::tls::{Files, SPIFFE, dns};
use crate::upstream_safety::tls_upstream;

/// The exit status and the lines of a `check`.
async fn check(flags: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = child::gateway(&[&["check"], flags].concat());
    command.envs(variables.iter().copied());
    let output = child::output(command).await;
    (output.status.code().unwrap(), child::text(&output.stdout) + &child::text(&output.stderr))
}

/// The one line that failed must hold all of `parts`.
fn assert_fails(told: &str, parts: &[&str]) {
    let failed: Vec<&str> = told.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert_eq!(failed.len(), 1, "{told}");
    for part in parts {
        assert!(failed[0].contains(part), "{part} in {told}");
    }
}

fn url_of(upstream: &Upstream) -> String {
    format!("--upstream-url={}", upstream.url())
}

const PLAINTEXT: &str = "--allow-plaintext-upstream";

#[tokio::test]
async fn the_configuration_is_told_and_what_is_wrong_with_it_at_once() {
    let files = Files::new();
    let mutual = files.mutual();
    let rule = format!("--allow={SPIFFE}=a,b");
    let flags =
        ["--upstream-url=https://vbs.example", &mutual[0], &mutual[1], &mutual[2], &rule, "--allow=x=*"];
    let (status, told) = check(&flags, &[]).await;
    assert_eq!(status, 0, "{told}");
    for part in [
        "certificate: for localhost; expires Thu, 01 Jan 2099 00:00:00 GMT; the key matches",
        &format!("{SPIFFE} may read 2 projects"),
        "x may read every project",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let (status, told) =
        check(&["--max-in-flight=none", "--auth=magic"], &[("GATEWAY_UPSTREAM_URL", "ftp://x")]).await;
    assert_eq!(status, 64);
    for part in ["--max-in-flight", "--auth", "GATEWAY_UPSTREAM_URL"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let other = Files::new();
    let key = other.flag("tls-key", "tls.key");
    let (status, told) = check(&["--sandbox", &mutual[0], &key], &[]).await;
    assert!(status == 64 && told.contains("do not fit together"), "{told}");
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_the_configurations() {
    let files = Files::new();
    files.put(&files.servers.issue_until(&[dns("localhost")], 2020));
    let mutual = files.mutual();
    let (status, told) = check(&["--sandbox", &mutual[0], &mutual[1]], &[]).await;
    assert_eq!(status, 64);
    assert_fails(&told, &["certificate", "expires Wed, 01 Jan 2020", "renew it"]);
}

#[tokio::test]
async fn an_upstream_in_its_own_voice_is_good() {
    let missing = r#"{"itemNotFound": {"message": "The share is not found.", "code": 404}}"#;
    let unauthenticated = r#"{"error": {"code": 401, "message": "The request you have made requires authentication.", "title": "Unauthorized"}}"#;
    for (status, body) in [(404, missing), (401, unauthenticated)] {
        let upstream = Upstream::replying(status, &[], body).await;
        let (status, told) = check(&["--connect", &url_of(&upstream), PLAINTEXT], &[]).await;
        assert_eq!(status, 0, "{told}");
        assert!(told.contains("ok    upstream, TCP") && told.contains("ok    upstream, route"), "{told}");
    }
    let (status, told) = check(&["--connect", "--sandbox"], &[]).await;
    assert!(status == 0 && told.contains("skip  upstream"), "{told}");
}

#[tokio::test]
async fn a_name_that_is_not_there_a_port_that_is_closed_and_one_that_is_silent_are_told() {
    let (status, told) = check(&["--connect", "--upstream-url=https://nothing.invalid"], &[]).await;
    assert_eq!(status, 69);
    assert_fails(&told, &["upstream, name", "nothing.invalid cannot be resolved", "name server"]);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (status, told) = check(&["--connect", &format!("--upstream-url=https://{closed}")], &[]).await;
    assert_eq!(status, 69);
    assert_fails(&told, &["upstream, TCP", "refused", "firewall"]);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--upstream-url=https://{}", silent.local_addr().unwrap());
    let (status, told) = check(&["--connect", &url, "--connect-timeout=200ms"], &[]).await;
    assert_eq!(status, 69);
    assert_fails(&told, &["upstream, TLS", "no answer within 0.2 s", "uses TLS"]);
}

#[tokio::test]
async fn a_certificate_of_another_name_another_ca_or_another_year_is_told() {
    let (files, others) = (Files::new(), Files::new());
    let ca = |files: &Files, name: &str| {
        std::fs::write(files.path(name), &files.servers.pem).unwrap();
        files.flag("upstream-ca", name)
    };
    let (ours, theirs) = (ca(&files, "ca.pem"), ca(&others, "ca.pem"));
    let good = tls_upstream(&files.servers.issue(&[dns("localhost")])).await;
    let old = tls_upstream(&files.servers.issue_until(&[dns("localhost")], 2020)).await;
    for (host, port, ca, parts) in [
        ("localhost", good, &theirs, ["its CA is not trusted", "--upstream-ca"]),
        ("127.0.0.1", good, &ours, ["not valid for name", "check the URL"]),
        ("localhost", old, &ours, ["expired", "renew"]),
    ] {
        let url = format!("--upstream-url=https://{host}:{port}");
        let (status, told) = check(&["--connect", &url, ca], &[]).await;
        assert_eq!(status, 69, "{told}");
        assert_fails(&told, &[&["upstream, TLS"][..], &parts].concat());
    }
    let url = format!("--upstream-url=https://localhost:{good}");
    let (_, told) = check(&["--connect", &url, &ours], &[]).await;
    assert!(told.contains("ok    upstream, TLS: for localhost; expires Thu, 01 Jan 2099"), "{told}");
}

#[tokio::test]
async fn a_route_that_is_not_the_upstreams_is_told() {
    for (status, body, parts) in [
        (200, "<html>welcome</html>", ["UPSTREAM_MALFORMED_RESPONSE", "JSON"]),
        (403, "<html>proxy: access denied</html>", ["UPSTREAM_FORBIDDEN", "not from VBS"]),
        (
            404,
            r#"{"error_msg":"API not found","error_code":"APIGW.0101"}"#,
            ["UPSTREAM_ROUTE_NOT_FOUND", "upstream URL"],
        ),
        (302, "", ["UPSTREAM_UNEXPECTED_STATUS", "upstream URL"]),
        (503, "", ["UPSTREAM_UNAVAILABLE", "HTTP status 503"]),
    ] {
        let upstream = Upstream::replying(status, &[], body).await;
        let (exit, told) = check(&["--connect", &url_of(&upstream), PLAINTEXT], &[]).await;
        assert_eq!(exit, 69, "{told}");
        assert_fails(&told, &[&["upstream, route"][..], &parts].concat());
        assert_eq!(upstream.requests().len(), 1);
    }
}

fn account(url: &str) -> Vec<(&'static str, &str)> {
    vec![
        ("OS_AUTH_URL", url),
        ("OS_USERNAME", "reader"),
        ("OS_PASSWORD", "correct-horse"),
        ("OS_USER_DOMAIN_NAME", "Default"),
        ("OS_PROJECT_ID", PROJECT),
    ]
}

#[tokio::test]
async fn an_account_is_checked_up_to_its_catalog_and_nothing_secret_is_told() {
    let missing = r#"{"itemNotFound": {"message": "The share is not found.", "code": 404}}"#;
    let upstream = Upstream::replying(404, &[], missing).await;
    let endpoint = |kind: &str| {
        let url = format!("{}/v2/{PROJECT}", upstream.url());
        json!({"type": kind, "endpoints": [{"interface": "public", "region": "eu-de", "url": url}]})
    };
    let issued = |catalog: serde_json::Value| {
        let (issued, expires) = ("2026-11-23T08:00:00Z", "2026-11-24T08:00:00Z");
        let token = json!({"issued_at": issued, "expires_at": expires, "project": {"id": PROJECT}, "catalog": [catalog]});
        reply(201, &[("x-subject-token", TOKEN)], json!({"token": token}).to_string())
    };
    let refused =
        reply(401, &[], r#"{"error": {"code": 401, "message": "correct-horse?", "title": "Unauthorized"}}"#);
    let files = Files::new();
    let mutual = files.mutual();
    let rule = format!("--allow={SPIFFE}=*");
    let flags: Vec<&str> = ["--connect", "--auth=keystone", PLAINTEXT, &rule]
        .into_iter()
        .chain(mutual.iter().map(String::as_str))
        .collect();
    for (script, status, parts) in [
        (
            issued(endpoint("vbsv2")),
            0,
            vec![
                "ok    identity service, TCP",
                "ok    identity service, token",
                "ok    identity service, catalog",
                "ok    upstream, route",
            ],
        ),
        (issued(endpoint("evs")), 69, vec!["FAIL  identity service, token", "it has evs (public eu-de)"]),
        (refused, 69, vec!["FAIL  identity service, token", "password is wrong"]),
    ] {
        let identity = Upstream::scripted(move |_, _| script.clone()).await;
        let (exit, told) = check(&flags, &account(&identity.url())).await;
        assert_eq!(exit, status, "{told}");
        for part in parts {
            assert!(told.contains(part), "{part} in {told}");
        }
        assert!(!told.contains("correct-horse") && !told.contains(TOKEN), "{told}");
    }
    let (exit, told) = check(&flags, &account("http://127.0.0.1:1")).await;
    assert_eq!(exit, 69);
    assert_fails(&told, &["identity service, TCP", "refused"]);
}

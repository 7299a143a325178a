//! The commands `check` and `check --connect`: each step that fails is named, with its cause, what to do, and the exit code.

use serde_json::json;
use tokio::net::TcpListener;

use crate::support::certificates::{SPIFFE, TlsFiles, dns};
use crate::support::keystone::{GATEWAY_TOKEN, issuing_tokens, requested_project, service, token_reply_for};
use crate::support::process;
use crate::support::tls_upstream::tls_upstream;
use crate::support::*;

/// The exit code and the output of `check`.
async fn check(flags: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = process::gateway_command(&[&["check"], flags].concat());
    command.envs(variables.iter().copied());
    let output = process::run(command).await;
    (output.status.code().unwrap(), process::to_text(&output.stdout) + &process::to_text(&output.stderr))
}

/// Exactly one line reports a failure, and contains all of `parts`.
fn assert_fails(output: &str, parts: &[&str]) {
    let failed: Vec<&str> = output.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert_eq!(failed.len(), 1, "{output}");
    for part in parts {
        assert!(failed[0].contains(part), "{part} in {output}");
    }
}

#[tokio::test]
async fn configuration_is_described_or_its_errors_are_reported_together() {
    let files = TlsFiles::new();
    let mutual = files.mutual_tls_flags();
    let rule = format!("--allow={SPIFFE}=a,b");
    let flags =
        ["--upstream-url=https://vbs.example", &mutual[0], &mutual[1], &mutual[2], &rule, "--allow=x=*"];
    let (exit_code, output) = check(&flags, &[]).await;
    assert_eq!(exit_code, 0, "{output}");
    for part in [
        "certificate: for localhost; expires Thu, 01 Jan 2099 00:00:00 GMT; the key matches",
        &format!("{SPIFFE} may read 2 projects"),
        "x may read every project",
    ] {
        assert!(output.contains(part), "{part} in {output}");
    }
    let (exit_code, output) =
        check(&["--max-in-flight=none", "--auth=magic"], &[("GATEWAY_UPSTREAM_URL", "ftp://x")]).await;
    assert_eq!(exit_code, 64);
    for part in ["--max-in-flight", "--auth", "GATEWAY_UPSTREAM_URL"] {
        assert!(output.contains(part), "{part} in {output}");
    }
    let other = TlsFiles::new();
    let key = other.flag("tls-key", "tls.key");
    let (exit_code, output) = check(&["--sandbox", &mutual[0], &key], &[]).await;
    assert!(exit_code == 64 && output.contains("do not match"), "{output}");
}

#[tokio::test]
async fn upstream_error_from_vbs_passes() {
    let missing = r#"{"itemNotFound": {"message": "The share is not found.", "code": 404}}"#;
    let unauthenticated = r#"{"error": {"code": 401, "message": "The request you have made requires authentication.", "title": "Unauthorized"}}"#;
    for (status, body) in [(404, missing), (401, unauthenticated)] {
        let upstream = Upstream::replying(status, &[], body).await;
        let (exit_code, output) = check(&["--connect", &upstream.url_flag(), PLAINTEXT], &[]).await;
        assert_eq!(exit_code, 0, "{output}");
        assert!(
            output.contains("ok    upstream, TCP") && output.contains("ok    upstream, route"),
            "{output}"
        );
    }
    let (exit_code, output) = check(&["--connect", "--sandbox"], &[]).await;
    assert!(exit_code == 0 && output.contains("skip  upstream"), "{output}");
}

#[tokio::test]
async fn unreachable_upstream_is_reported_by_step() {
    let (exit_code, output) = check(&["--connect", "--upstream-url=https://nothing.invalid"], &[]).await;
    assert_eq!(exit_code, 69);
    assert_fails(&output, &["upstream, name", "nothing.invalid cannot be resolved", "name server"]);
    let (_bound, closed) = closed_port();
    let (exit_code, output) = check(&["--connect", &format!("--upstream-url=https://{closed}")], &[]).await;
    assert_eq!(exit_code, 69);
    assert_fails(&output, &["upstream, TCP", "refused", "firewall"]);
    let proxy = format!("--upstream-proxy=http://{closed}");
    let (exit_code, output) = check(&["--connect", "--upstream-url=https://vbs.example", &proxy], &[]).await;
    assert_eq!(exit_code, 69);
    assert_fails(&output, &["upstream, route", "refused", "check --upstream-proxy"]);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--upstream-url=https://{}", silent.local_addr().unwrap());
    let (exit_code, output) = check(&["--connect", &url, "--connect-timeout=200ms"], &[]).await;
    assert_eq!(exit_code, 69);
    assert_fails(&output, &["upstream, TLS", "no answer within 0.2 s", "uses TLS"]);
}

#[tokio::test]
async fn untrusted_upstream_certificate_is_reported() {
    let (files, others) = (TlsFiles::new(), TlsFiles::new());
    let ca = |files: &TlsFiles, name: &str| {
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
        let (exit_code, output) = check(&["--connect", &url, ca], &[]).await;
        assert_eq!(exit_code, 69, "{output}");
        assert_fails(&output, &[&["upstream, TLS"][..], &parts].concat());
    }
    let url = format!("--upstream-url=https://localhost:{good}");
    let (_, output) = check(&["--connect", &url, &ours], &[]).await;
    assert!(output.contains("ok    upstream, TLS: for localhost; expires Thu, 01 Jan 2099"), "{output}");
}

#[tokio::test]
async fn wrong_upstream_route_is_reported() {
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
        let (exit_code, output) = check(&["--connect", &upstream.url_flag(), PLAINTEXT], &[]).await;
        assert_eq!(exit_code, 69, "{output}");
        assert_fails(&output, &[&["upstream, route"][..], &parts].concat());
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
async fn account_is_checked_up_to_its_catalog_without_secrets() {
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
    let files = TlsFiles::new();
    let authorized_flags = files.authorized_flags();
    let flags = [&["--connect", "--auth=keystone", PLAINTEXT], &strs(&authorized_flags)[..]].concat();
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
        (
            issued(json!({"type": "x".repeat(4 << 20)})),
            69,
            vec!["FAIL  identity service, token", "response is longer than 4 MiB"],
        ),
    ] {
        let identity = Upstream::scripted(move |_, _| script.clone()).await;
        let (exit_code, output) = check(&flags, &account(&identity.url())).await;
        assert_eq!(exit_code, status, "{output}");
        for part in parts {
            assert!(output.contains(part), "{part} in {output}");
        }
        assert!(!output.contains("correct-horse") && !output.contains(TOKEN), "{output}");
    }
    let (exit_code, output) = check(&flags, &account("http://127.0.0.1:1")).await;
    assert_eq!(exit_code, 69);
    assert_fails(&output, &["identity service, TCP", "refused"]);
}

#[tokio::test]
async fn account_for_each_project_is_checked_for_the_given_one() {
    let missing = r#"{"itemNotFound": {"message": "The share is not found.", "code": 404}}"#;
    let upstream = Upstream::replying(404, &[], missing).await;
    let url = upstream.url();
    let identity = Upstream::scripted(move |request, number| {
        let project = requested_project(request).unwrap();
        let catalog = json!([service("vbsv2", "public", "eu-de", &format!("{url}/v2/{project}"))]);
        token_reply_for(&project, &format!("{GATEWAY_TOKEN}-{number}"), 3600, &catalog)
    })
    .await;
    let files = TlsFiles::new();
    let authorized_flags = files.authorized_flags();
    let flags = [&["--connect", "--auth=keystone", PLAINTEXT], &strs(&authorized_flags)[..]].concat();
    let identity_url = identity.url();
    let variables = &account(&identity_url)[..4];

    let (exit_code, output) = check(&[&flags[..], &["--project-id=other"]].concat(), variables).await;
    assert_eq!(exit_code, 0, "{output}");
    for line in [
        "credential: tokens of the gateway's own account, one for each project that a call names",
        "identity service, token: issued for other, valid for 3599 s",
        &format!("identity service, catalog: the upstream is {}/", upstream.url()),
        "upstream, route: VBS answered: it has no such share, as expected",
    ] {
        assert!(lines(&output, "ok").contains(&line), "{line} in {output}");
    }
    assert!(upstream.requests()[0].line.starts_with("GET /v2/other/"), "{:?}", upstream.requests());

    let (exit_code, output) = check(&flags, variables).await;
    assert_eq!(exit_code, 0, "{output}");
    let name_one = "each project has a token of its own: name one with --project-id";
    let skipped = [
        "identity service, TLS: the URL is http: tokens are sent unencrypted".to_owned(),
        format!("identity service, token and catalog: {name_one}"),
        format!("upstream: its URL is in the catalog of a token; {name_one}"),
    ];
    assert_eq!(lines(&output, "skip"), skipped, "{output}");

    let (exit_code, output) = check(&[&flags[..], &[&upstream.url_flag()]].concat(), variables).await;
    assert_eq!(exit_code, 0, "{output}");
    let route = format!("upstream, route: a request needs a token; {name_one}");
    assert_eq!(lines(&output, "skip").pop(), Some(route.as_str()), "{output}");
    assert_eq!((identity.requests().len(), upstream.requests().len()), (1, 1), "no token, no request");
}

#[tokio::test]
async fn project_that_the_account_is_not_for_is_an_error() {
    let files = TlsFiles::new();
    let identity = issuing_tokens(3600).await;
    let rule = format!("--allow={SPIFFE}={PROJECT},other");
    let mutual = files.mutual_tls_flags();
    let fixed = ["--connect", "--auth=keystone", PLAINTEXT, "--upstream-url=http://127.0.0.1:1", &rule];
    let flags = [&fixed, &strs(&mutual)[..]].concat();
    let url = identity.url();
    let named = [&account(&url)[..4], &[("OS_PROJECT_NAME", "eu-de")]].concat();
    let (_, output) = check(&flags, &named).await;
    let conflict =
        format!("the rules name other, but the gateway's account is for the project {PROJECT}: remove them");
    assert!(lines(&output, "warn")[0].starts_with(&conflict), "{output}");

    let flags = [&flags[..], &["--project-id=other"]].concat();
    let (exit_code, output) = check(&flags, &named).await;
    assert_eq!(exit_code, 69, "{output}");
    let problem = format!("it is for {PROJECT}, and not for other of --project-id");
    assert_fails(&output, &["identity service, token", &problem]);

    let flags: Vec<&str> = flags.into_iter().filter(|flag| *flag != rule).collect();
    let every = format!("--allow={SPIFFE}=*");
    let flags = [&flags[..], &[&every]].concat();
    let (exit_code, output) = check(&flags, &account(&url)).await;
    assert_eq!(exit_code, 64, "{output}");
    let problem =
        format!("--project-id must be {PROJECT}, the project of the gateway's account (OS_PROJECT_ID)");
    assert!(output.contains(&problem), "{output}");
}

/// The lines of `check` that begin with `kind`, without it.
fn lines<'a>(output: &'a str, kind: &str) -> Vec<&'a str> {
    output.lines().filter_map(|line| line.strip_prefix(kind)).map(str::trim_start).collect()
}

#[tokio::test]
async fn settings_are_shown_with_their_source_and_without_secrets() {
    let files = TlsFiles::new();
    files.write_secrets(&[("OS_SECRET_KEY", "hunter2-file"), ("OS_SECURITY_TOKEN", "hunter2-token")]);
    let own = files.own_credential_flags("aksk");
    let flags = [
        &strs(&own)[..],
        &["--upstream-url=https://vbs.example", "--max-attempts=5", "--drain-delay=5s", "--no-reflection=0"],
    ];
    let variables = [
        ("GATEWAY_UPSTREAM_PROXY", "http://user:hunter2@proxy.example:3128"),
        ("GATEWAY_MAX_ATTEMPTS", "4"),
        ("GATEWAY_CONNECT_TIMEOUT", "3s"),
        ("GATEWAY_LOG", ""),
        ("OS_ACCESS_KEY", "hunter2-access"),
        ("OS_SECRET_KEY", "hunter2-environment"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2"),
    ];
    let (exit_code, output) = check(&flags.concat(), &variables).await;
    assert_eq!(exit_code, 0, "{output}");
    let settings = lines(&output, "set ");
    let file = |name: &str| format!("{name} (file {})", files.path("secrets").join(name).display());
    for setting in [
        "--upstream-url https://vbs.example (flag)",
        "--max-attempts 5 (flag)",
        "--connect-timeout 3s (variable GATEWAY_CONNECT_TIMEOUT)",
        "--upstream-proxy http://proxy.example:3128 (variable GATEWAY_UPSTREAM_PROXY)",
        "--auth aksk (flag)",
        "--allow-plaintext-upstream true (flag)",
        &format!("--tls-cert {} (flag)", files.path("tls.crt").display()),
        &format!("--allow {SPIFFE}=* (flag)"),
        "OS_ACCESS_KEY (variable)",
        &file("OS_SECRET_KEY"),
        &file("OS_SECURITY_TOKEN"),
        "OTEL_EXPORTER_OTLP_ENDPOINT (variable)",
        "OTEL_EXPORTER_OTLP_HEADERS (variable)",
    ] {
        assert!(settings.contains(&setting), "{setting} in {output}");
    }
    for default in ["--drain-delay", "--no-reflection", "--log", "--listen", "OS_SECRET_KEY (variable)"] {
        assert!(!settings.iter().any(|setting| setting.starts_with(default)), "{default} in {output}");
    }
    assert!(!output.contains("hunter2"), "{output}");

    let (_, output) = check(&["--sandbox"], &[]).await;
    assert_eq!(lines(&output, "set "), ["--sandbox true (flag)"]);
    // Not the default with --sandbox.
    let (_, output) = check(&["--sandbox", "--listen=0.0.0.0:50051"], &[]).await;
    assert_eq!(lines(&output, "set "), ["--listen 0.0.0.0:50051 (flag)", "--sandbox true (flag)"]);
}

#[tokio::test]
async fn secrets_that_no_mode_reads_are_a_warning() {
    let secrets = tempfile::tempdir().unwrap();
    let flag = format!("--secrets-dir={}", secrets.path().display());
    let (exit_code, output) = check(&["--sandbox", &flag], &[]).await;
    assert_eq!(exit_code, 0, "{output}");
    let warnings = lines(&output, "warn ");
    assert!(warnings.len() == 1 && warnings[0].starts_with("--secrets-dir (GATEWAY_SECRETS_DIR) is ignored"));
}

#[tokio::test]
async fn variable_that_belongs_to_no_flag_is_a_warning() {
    let variables = [
        ("GATEWAY_MAX_INFLIGHT", "5"),
        ("GATEWAY_COLOUR", "red"),
        ("GATEWAY_CONNECT", "true"),
        ("GATEWAY_EMPTY", ""),
        ("GATEWAY_MAX_ATTEMPTS", "2"),
        // Of a Service that is named `gateway`.
        ("GATEWAY_PORT", "tcp://10.0.0.1:50051"),
        ("GATEWAY_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("GATEWAY_SERVICE_PORT_GRPC", "50051"),
    ];
    let (exit_code, output) = check(&["--sandbox"], &variables).await;
    assert_eq!(exit_code, 0, "{output}");
    let warnings = lines(&output, "warn ");
    assert_eq!(warnings.len(), 3, "{output}");
    let warning = |name: &str| *warnings.iter().find(|warning| warning.starts_with(name)).expect(name);
    assert!(warning("GATEWAY_MAX_INFLIGHT ").contains("--max-in-flight (GATEWAY_MAX_IN_FLIGHT)"));
    assert!(!warning("GATEWAY_COLOUR ").contains("--") && !warning("GATEWAY_CONNECT ").is_empty());
    let (exit_code, output) = check(&[], &[("GATEWAY_UPSTREAM", "https://vbs.example")]).await;
    assert_eq!(exit_code, 64);
    assert!(output.contains("warning: GATEWAY_UPSTREAM ") && output.contains("--upstream-url"), "{output}");
}

#[tokio::test]
async fn invalid_opentelemetry_value_is_a_warning() {
    let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
    for (name, value) in [
        ("OTEL_TRACES_EXPORTER", "otlp,console"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999999999"),
    ] {
        let (exit_code, output) = check(&["--sandbox"], &[collector, (name, value)]).await;
        assert_eq!(exit_code, 0, "{output}");
        let warnings = lines(&output, "warn ");
        assert!(warnings.len() == 1 && warnings[0].starts_with(name), "{output}");
    }
}

#[tokio::test]
async fn share_is_requested_in_the_given_project() {
    let missing = r#"{"itemNotFound": {"message": "The share is not found.", "code": 404}}"#;
    let upstream = Upstream::replying(404, &[], missing).await;
    let (url, project) = (upstream.url_flag(), format!("--project-id={PROJECT}"));
    let (exit_code, output) = check(&["--connect", &project, &url, PLAINTEXT], &[]).await;
    assert_eq!(exit_code, 0, "{output}");
    assert!(
        upstream.requests()[0].line.starts_with(&format!("GET /v2/{PROJECT}/")),
        "{:?}",
        upstream.requests()
    );
    let (exit_code, output) = check(&["--project-id=a/b", "--sandbox"], &[]).await;
    assert!(exit_code == 64 && output.contains("--project-id"), "{output}");
}

#[tokio::test]
async fn text_of_the_upstream_has_no_control_characters() {
    let body = "{\"error\": {\"code\": \"VBS.0500\", \"message\": \"\\u001b[2Ja\\nok    upstream\\u009b\"}}";
    let upstream = Upstream::replying(500, &[], body).await;
    let (exit_code, output) = check(&["--connect", &upstream.url_flag(), PLAINTEXT], &[]).await;
    assert_eq!(exit_code, 69, "{output}");
    assert!(output.chars().all(|char| char == '\n' || !char.is_control()), "{output:?}");
    assert_fails(&output, &["upstream, route"]);
}

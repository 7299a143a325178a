//! The process: commands, flags and variables, exit statuses, signals, and the log on standard output.

use serde_json::Value;

use crate::support::process::*;
use crate::support::*;

#[tokio::test]
async fn get_prints_the_share_as_proto_json() {
    let served = Served::start(&["--sandbox"]).await;
    let reply = served.get(PROJECT, SHARE).await;
    assert!(reply.status.success());
    let printed: Value = serde_json::from_slice(&reply.stdout).unwrap();
    let expected: Value = serde_json::from_str(include_str!("fixtures/documented_share.proto.json")).unwrap();
    assert_eq!(printed, expected);
}

#[tokio::test]
async fn get_prints_a_status_with_its_details_and_exits_1() {
    let served = Served::start(&["--sandbox"]).await;
    let missing = served.get(PROJECT, "00000000-0000-4000-8000-000000000404").await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.stdout.is_empty());
    let told = text(&missing.stderr);
    for part in [
        "NOT_FOUND",
        "BACKUP_SHARE_NOT_FOUND",
        "httpStatus: 404",
        "attempts: 1",
        "service: vbs",
        "request ID: ",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let invalid = text(&served.get("a/b", "detail").await.stderr);
    for part in ["INVALID_ARGUMENT", "INVALID_REQUEST", "project_id: must be", "id: must be"] {
        assert!(invalid.contains(part), "{part} in {invalid}");
    }
}

#[tokio::test]
async fn get_takes_the_token_from_a_file_or_a_variable() {
    let served = Served::start(&["--sandbox"]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let arguments = ["get", "--address", &served.grpc, "--project-id", PROJECT, SHARE];
    let with_file = [&arguments[..], &["--token-file", file.to_str().unwrap()]].concat();
    assert!(output(gateway(&with_file)).await.status.success());
    let without = output(gateway(&arguments)).await;
    assert_eq!(without.status.code(), Some(1));
    assert!(text(&without.stderr).contains("TOKEN_MISSING"));
    let mut broken = gateway(&arguments);
    broken.env("OS_TOKEN", "se cret");
    let broken = output(broken).await;
    assert_eq!(broken.status.code(), Some(64));
    assert!(!text(&broken.stderr).contains("se cret"));
}

#[tokio::test]
async fn health_exits_by_the_state() {
    let served = Served::start(&["--sandbox"]).await;
    let ask =
        |service: &'static str| output(gateway(&["health", "--address", &served.grpc, "--service", service]));
    for service in ["", "vbs.v2.BackupShareService"] {
        let reply = ask(service).await;
        assert_eq!((reply.status.code(), text(&reply.stdout).trim()), (Some(0), "SERVING"));
    }
    assert_eq!(ask("nope").await.status.code(), Some(1));
    let nobody = output(gateway(&["health", "--address", "127.0.0.1:1"])).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("cannot connect"));
}

#[tokio::test]
async fn all_that_is_wrong_with_a_configuration_is_said_at_once() {
    let wrong = output(gateway(&[
        "serve",
        "--listen=nowhere",
        "--drain-timeout=20",
        "--max-response-bytes=1MB",
        "--max-attempts=0",
        "--upstream-url=https://user:hunter2@vbs.example",
        "--log-format=xml",
        "--upstream-ca=/no/such/file",
        "--log=a=b=c",
    ]))
    .await;
    assert_eq!(wrong.status.code(), Some(64));
    let told = text(&wrong.stderr);
    for (flag, variable) in [
        ("--listen", "GATEWAY_LISTEN"),
        ("--drain-timeout", "GATEWAY_DRAIN_TIMEOUT"),
        ("--max-response-bytes", "GATEWAY_MAX_RESPONSE_BYTES"),
        ("--max-attempts", "GATEWAY_MAX_ATTEMPTS"),
        ("--upstream-url", "GATEWAY_UPSTREAM_URL"),
        ("--log-format", "GATEWAY_LOG_FORMAT"),
        ("--upstream-ca", "GATEWAY_UPSTREAM_CA"),
        ("--log", "GATEWAY_LOG"),
    ] {
        let named = format!("{flag} ({variable}) ");
        assert!(told.lines().any(|line| line.starts_with(&named)), "{named} in {told}");
    }
    assert!(!told.contains("hunter2"));
}

#[tokio::test]
async fn missing_keys_are_reported_together_with_a_scheme_that_is_not_known() {
    let wrong = output(gateway(&["serve", "--sandbox", "--auth=aksk", "--aksk-scheme=q"])).await;
    assert_eq!(wrong.status.code(), Some(64));
    let errors = text(&wrong.stderr);
    for name in ["--aksk-scheme (GATEWAY_AKSK_SCHEME)", "OS_ACCESS_KEY", "--tls-client-ca"] {
        assert!(errors.contains(name), "{name} in {errors}");
    }
}

#[tokio::test]
async fn ipv6_upstream_behind_a_proxy_names_both_flags() {
    let proxy = "--upstream-proxy=http://127.0.0.1:3128";
    let wrong = output(gateway(&["serve", "--upstream-url=https://[::1]:8443/vbs", proxy])).await;
    assert_eq!(wrong.status.code(), Some(64));
    let errors = text(&wrong.stderr);
    for flag in ["--upstream-url (GATEWAY_UPSTREAM_URL)", "--upstream-proxy (GATEWAY_UPSTREAM_PROXY)"] {
        assert!(errors.contains(flag), "{flag} in {errors}");
    }
}

#[tokio::test]
async fn what_cannot_be_configured_exits_64() {
    for arguments in [
        &["serve"][..],
        &["serve", "--upstream-url=http://vbs.example"],
        &["serve", "--sandbox", "--upstream-url=https://vbs.example"],
        &["serve", "--sandbox", "--no-such-flag"],
        &["serve", "--upstream-url=https://vbs.example/?x=1"],
        &["get"],
        &["get", "--project-id=p", SHARE, "--deadline=5"],
        &["get", "--project-id=p", SHARE, "--deadline=4294967295h"],
        &["no-such-command"],
        &[],
    ] {
        let refused = output(gateway(arguments)).await;
        assert_eq!(refused.status.code(), Some(64), "{arguments:?}");
        assert!(!refused.stderr.is_empty(), "{arguments:?}");
    }
    for asked in [&["--help"][..], &["--version"], &["serve", "--help"], &["get", "--help"]] {
        assert_eq!(output(gateway(asked)).await.status.code(), Some(0), "{asked:?}");
    }
}

#[tokio::test]
async fn an_empty_variable_counts_as_none_and_one_that_is_no_text_is_named() {
    let mut command = gateway(&["serve", "--sandbox", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
    for name in [
        "UPSTREAM_URL",
        "WORKERS",
        "LOG_FORMAT",
        "UPSTREAM_CA",
        "UPSTREAM_PROXY",
        "NO_REFLECTION",
        "ALLOW",
        "TLS_CERT",
    ] {
        command.env(format!("GATEWAY_{name}"), "");
    }
    Served::spawn(command).await;
    let mut command = gateway(&["serve", "--sandbox"]);
    command.env("GATEWAY_LOG", <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff"));
    let refused = output(command).await;
    assert_eq!((refused.status.code(), text(&refused.stderr).trim()), (Some(64), "GATEWAY_LOG is not UTF-8"));
}

#[tokio::test]
async fn a_port_that_is_taken_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("--listen={}", taken.local_addr().unwrap());
    let refused = output(gateway(&["serve", "--sandbox", &address, "--admin-listen=127.0.0.1:0"])).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("cannot listen on 127.0.0.1:"));
}

#[tokio::test]
async fn every_flag_has_a_variable_and_proxy_variables_are_not_read() {
    let upstream = Upstream::scripted(|_, _| documented()).await;
    let mut command = gateway(&["serve"]);
    command
        .env("GATEWAY_LISTEN", "127.0.0.1:0")
        .env("GATEWAY_ADMIN_LISTEN", "127.0.0.1:0")
        .env("GATEWAY_UPSTREAM_URL", upstream.url())
        .env("GATEWAY_ALLOW_PLAINTEXT_UPSTREAM", "true")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
        .env("ALL_PROXY", "http://127.0.0.1:1");
    let served = Served::spawn(command).await;
    assert!(served.get(PROJECT, SHARE).await.status.success());
}

//! The command line: `get` and `health`, flags, variables and exit codes.

use serde_json::Value;

use crate::support::process::*;
use crate::support::*;

#[tokio::test]
async fn get_prints_share_as_proto_json() {
    let gateway = GatewayProcess::start(&["--sandbox"]).await;
    let reply = gateway.get(PROJECT, SHARE).await;
    assert!(reply.status.success());
    let printed: Value = serde_json::from_slice(&reply.stdout).unwrap();
    let expected: Value = serde_json::from_str(include_str!("fixtures/documented_share.proto.json")).unwrap();
    assert_eq!(printed, expected);
}

#[tokio::test]
async fn get_prints_status_details_and_exits_1() {
    let gateway = GatewayProcess::start(&["--sandbox"]).await;
    let not_found = gateway.get_command(PROJECT, "00000000-0000-4000-8000-000000000404", &[]);
    let details = ["NOT_FOUND", "BACKUP_SHARE_NOT_FOUND", "httpStatus: 404", "attempts: 1", "service: vbs"];
    run_error(not_found, 1, &[&details[..], &["request ID: "]].concat()).await;
    let parts = ["INVALID_ARGUMENT", "INVALID_REQUEST", "project_id: must be", "id: must be"];
    run_error(gateway.get_command("a/b", "detail", &[]), 1, &parts).await;
}

#[tokio::test]
async fn get_reads_token_from_file_or_variable() {
    let gateway = GatewayProcess::start(&["--sandbox"]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let get = ["get", "--address", &gateway.grpc, "--project-id", PROJECT, SHARE];
    let with_file = [&get[..], &["--token-file", file.to_str().unwrap()]].concat();
    assert!(run(gateway_command(&with_file)).await.status.success());
    run_error(gateway_command(&get), 1, &["TOKEN_MISSING"]).await;
    let mut invalid = gateway_command(&get);
    invalid.env("OS_TOKEN", "se cret");
    assert!(!run_error(invalid, 64, &[]).await.contains("se cret"));
}

#[tokio::test]
async fn health_exit_code_follows_serving_status() {
    let gateway = GatewayProcess::start(&["--sandbox"]).await;
    let check = |service: &'static str| {
        run(gateway_command(&["health", "--address", &gateway.grpc, "--service", service]))
    };
    for service in ["", "vbs.v2.BackupShareService"] {
        let reply = check(service).await;
        assert_eq!((reply.status.code(), to_text(&reply.stdout).trim()), (Some(0), "SERVING"));
    }
    assert_eq!(check("nope").await.status.code(), Some(1));
    let closed_port = gateway_command(&["health", "--address", "127.0.0.1:1"]);
    run_error(closed_port, 1, &["cannot connect"]).await;
}

#[tokio::test]
async fn configuration_errors_are_reported_together() {
    let command = gateway_command(&[
        "serve",
        "--listen=nowhere",
        "--drain-timeout=20",
        "--max-response-bytes=1MB",
        "--max-attempts=0",
        "--upstream-url=https://user:hunter2@vbs.example",
        "--log-format=xml",
        "--upstream-ca=/no/such/file",
        "--log=a=b=c",
    ]);
    let stderr = run_error(command, 64, &[]).await;
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
        let named = format!("{flag} ({variable}): ");
        assert!(stderr.lines().any(|line| line.starts_with(&named)), "{named} in {stderr}");
    }
    assert!(!stderr.contains("hunter2"));
}

#[tokio::test]
async fn missing_keys_and_unknown_scheme_are_reported_together() {
    let command = gateway_command(&["serve", "--sandbox", "--auth=aksk", "--aksk-scheme=q"]);
    let names = ["--aksk-scheme (GATEWAY_AKSK_SCHEME)", "OS_ACCESS_KEY", "--tls-client-ca"];
    run_error(command, 64, &names).await;
}

#[tokio::test]
async fn ipv6_upstream_behind_a_proxy_names_both_flags() {
    let proxy = "--upstream-proxy=http://127.0.0.1:3128";
    let command = gateway_command(&["serve", "--upstream-url=https://[::1]:8443/vbs", proxy]);
    let names = ["--upstream-url (GATEWAY_UPSTREAM_URL)", "--upstream-proxy (GATEWAY_UPSTREAM_PROXY)"];
    run_error(command, 64, &names).await;
}

#[tokio::test]
async fn invalid_arguments_exit_64() {
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
        let stderr = run_error(gateway_command(arguments), 64, &[]).await;
        assert!(!stderr.is_empty(), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["serve", "--help"], &["get", "--help"]] {
        assert_eq!(run(gateway_command(arguments)).await.status.code(), Some(0), "{arguments:?}");
    }
}

#[tokio::test]
async fn empty_variable_counts_as_unset_and_invalid_utf8_is_named() {
    let mut command = serve_command(&["--sandbox"]);
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
    GatewayProcess::spawn(command).await;
    let mut command = gateway_command(&["serve", "--sandbox"]);
    command.env("GATEWAY_LOG", <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff"));
    assert_eq!(run_error(command, 64, &[]).await.trim(), "--log (GATEWAY_LOG): the value is not UTF-8");
}

#[tokio::test]
async fn port_in_use_is_reported() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("--listen={}", taken.local_addr().unwrap());
    let command = gateway_command(&["serve", "--sandbox", &address, "--admin-listen=127.0.0.1:0"]);
    run_error(command, 1, &["cannot listen on 127.0.0.1:"]).await;
}

#[tokio::test]
async fn gateway_variables_are_read_and_proxy_variables_ignored() {
    let upstream = Upstream::documented().await;
    let mut command = gateway_command(&["serve"]);
    command
        .env("GATEWAY_LISTEN", "127.0.0.1:0")
        .env("GATEWAY_ADMIN_LISTEN", "127.0.0.1:0")
        .env("GATEWAY_UPSTREAM_URL", upstream.url())
        .env("GATEWAY_ALLOW_PLAINTEXT_UPSTREAM", "true")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
        .env("ALL_PROXY", "http://127.0.0.1:1");
    let gateway = GatewayProcess::spawn(command).await;
    assert!(gateway.get(PROJECT, SHARE).await.status.success());
}

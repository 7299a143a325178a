//! The command line: `get` and `health`, flags, variables and exit codes.

use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::support::certificates::{TlsFiles, dns, start_sandbox};
use crate::support::process::*;
use crate::support::tls_upstream::tls_upstream;
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
    run_error(gateway_command(&get), 1, &["TOKEN_MISSING", "OS_TOKEN", "--token-file"]).await;
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
    let version = to_text(&run(gateway_command(&["--version"])).await.stdout);
    assert!(
        version.starts_with("backup-share-gateway ") && version.contains(env!("CARGO_PKG_VERSION")),
        "{version}"
    );
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
async fn port_in_use_is_reported_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    for (flag, other, name) in [
        ("--listen", "--admin-listen", "--listen (GATEWAY_LISTEN): cannot listen on 127.0.0.1:"),
        ("--admin-listen", "--listen", "--admin-listen (GATEWAY_ADMIN_LISTEN): cannot listen on 127.0.0.1:"),
    ] {
        let (flag, other) = (format!("{flag}={taken}"), format!("{other}=127.0.0.1:0"));
        let stderr = run_error(gateway_command(&["serve", "--sandbox", &flag, &other]), 1, &[]).await;
        assert!(stderr.starts_with(name), "{stderr}");
    }
    let listen = format!("--listen={taken}");
    run_error(gateway_command(&["sandbox", &listen]), 1, &["--listen: cannot listen on"]).await;
    let both = gateway_command(&["serve", "--sandbox", &listen, &format!("--admin-listen={taken}")]);
    run_error(both, 64, &["--listen (GATEWAY_LISTEN) and --admin-listen (GATEWAY_ADMIN_LISTEN)"]).await;
}

/// Each line of standard error, for a command line with one fault.
#[tokio::test]
async fn error_names_the_flag_the_path_and_what_to_do() {
    let files = TlsFiles::new();
    std::fs::write(files.path("empty.pem"), "").unwrap();
    std::fs::write(files.path("rules"), "# callers\nspiffe://example.org/a=*\nreader\n").unwrap();
    let other = TlsFiles::new();
    let [certificate, key, client_ca] = files.mutual_tls_flags().try_into().unwrap();
    let empty = |flag| files.flag(flag, "empty.pem");
    let (rules, other_key) = (files.flag("allow-file", "rules"), other.flag("tls-key", "tls.key"));
    let path = |name: &str| files.path(name).display().to_string();
    let upstream = "--upstream-url (GATEWAY_UPSTREAM_URL): ";
    for (flags, name, parts) in [
        (vec!["--tls-cert=nope.crt"], "--tls-cert (GATEWAY_TLS_CERT): ", vec!["cannot read nope.crt"]),
        (vec!["--tls-cert=nope.crt", &key], "--tls-cert (GATEWAY_TLS_CERT): ", vec!["cannot read nope.crt"]),
        (vec![&empty("tls-cert"), &key], "--tls-cert (GATEWAY_TLS_CERT): ", vec![&*path("empty.pem")]),
        (vec![&certificate, &empty("tls-key")], "--tls-key (GATEWAY_TLS_KEY): ", vec![&*path("empty.pem")]),
        (
            vec![&certificate, &key, &empty("tls-client-ca")],
            "--tls-client-ca (GATEWAY_TLS_CLIENT_CA): ",
            vec![&*path("empty.pem")],
        ),
        (
            vec![&certificate, &other_key],
            "--tls-cert (GATEWAY_TLS_CERT), --tls-key (GATEWAY_TLS_KEY): ",
            vec![&*path("tls.crt"), "do not match"],
        ),
        (vec![&certificate], "--tls-key (GATEWAY_TLS_KEY) is missing", vec![]),
        (
            vec![&client_ca],
            "--tls-client-ca (GATEWAY_TLS_CLIENT_CA) needs --tls-cert (GATEWAY_TLS_CERT) and --tls-key",
            vec![],
        ),
        (vec![&empty("upstream-ca")], "--upstream-ca (GATEWAY_UPSTREAM_CA): ", vec![&*path("empty.pem")]),
        (
            vec![&certificate, &key, &client_ca, &rules],
            "--allow-file (GATEWAY_ALLOW_FILE): ",
            vec![&*path("rules"), "line 3"],
        ),
        (
            vec![&certificate, &key, &client_ca, "--allow=reader"],
            "--allow (GATEWAY_ALLOW): ",
            vec!["'reader'", "CALLER=PROJECT"],
        ),
        (vec!["--secrets-dir=/etc/hostname"], "--secrets-dir (GATEWAY_SECRETS_DIR): ", vec!["/etc/hostname"]),
        (vec!["--max-in-flight", "-1"], "--max-in-flight (GATEWAY_MAX_IN_FLIGHT): ", vec!["'-1'"]),
        (vec!["--drain-delay", "-1s"], "--drain-delay (GATEWAY_DRAIN_DELAY): ", vec!["'-1s'", "250ms"]),
        (
            vec!["--max-response-bytes", "-1MiB"],
            "--max-response-bytes (GATEWAY_MAX_RESPONSE_BYTES): ",
            vec!["1MiB"],
        ),
        (vec!["--log=warning"], "--log (GATEWAY_LOG): ", vec!["'warning'", "warn"]),
        (vec!["--log=info,h2"], "--log (GATEWAY_LOG): ", vec!["'h2'", "target=level"]),
        (vec!["--upstream-url=vbs.example.com"], upstream, vec!["put https:// before it"]),
        (vec!["--upstream-url=vbs.example.com:443"], upstream, vec!["put https:// before it"]),
        (
            vec!["--upstream-url=http://vbs.example.com"],
            upstream,
            vec!["--allow-plaintext-upstream (GATEWAY_ALLOW_PLAINTEXT_UPSTREAM)"],
        ),
        (vec!["--upstream-url=https://vbs.example.com/v2/17fbda95"], upstream, vec!["remove '/v2/17fbda95'"]),
    ] {
        let sandbox = if flags.iter().any(|flag| flag.starts_with("--upstream-url")) {
            None
        } else {
            Some("--sandbox")
        };
        for command in ["serve", "check"] {
            let arguments: Vec<&str> =
                [command].into_iter().chain(sandbox).chain(flags.iter().copied()).collect();
            let stderr = run_error(gateway_command(&arguments), 64, &[&[name], &parts[..]].concat()).await;
            assert!(stderr.starts_with(name) && stderr.lines().count() == 1, "{arguments:?}: {stderr}");
        }
    }
}

#[tokio::test]
async fn plaintext_identity_service_names_the_flag_that_accepts_it() {
    let mut command = gateway_command(&["check", "--auth=keystone"]);
    command.env("OS_AUTH_URL", "http://iam.example/v3");
    run_error(command, 64, &["OS_AUTH_URL", "--allow-plaintext-upstream (GATEWAY_ALLOW_PLAINTEXT_UPSTREAM)"])
        .await;
}

#[tokio::test]
async fn get_says_what_is_wrong_with_address_or_tls() {
    let files = TlsFiles::new();
    let caller: Vec<String> = files.client_flags();
    let (ca, server_name) = (caller.first().unwrap(), "--tls-server-name=localhost");
    let stranger = TlsFiles::new();
    let other_ca = stranger.client_flags().first().unwrap().clone();
    let plaintext = Gateway::start(&["--sandbox"]).await;
    let tls = start_sandbox(files.tls_flags(), &[]).await;
    let mutual = start_sandbox(files.mutual_tls_flags(), &[]).await;
    let expired = tls_upstream(&files.servers.issue_until(&[dns("localhost")], 2020)).await;
    let expired = SocketAddr::from(([127, 0, 0, 1], expired));
    for (address, flags, parts) in [
        (plaintext.admin, vec![], vec!["HTTP status 404", "admin port"]),
        (plaintext.grpc, vec![ca.as_str(), server_name], vec!["leave out --tls-ca"]),
        (tls.grpc, vec![], vec!["uses TLS", "--tls-ca"]),
        (mutual.grpc, vec![], vec!["uses TLS", "--tls-ca"]),
        (tls.grpc, vec![ca, "--tls-server-name=gateway.example"], vec!["another name", "--tls-server-name"]),
        (tls.grpc, vec![&other_ca, server_name], vec!["not from the CA of --tls-ca"]),
        (mutual.grpc, vec![ca, server_name], vec!["client certificate", "--tls-cert"]),
        (expired, vec![ca, server_name], vec!["expired", "renew"]),
    ] {
        let address = address.to_string();
        let get = ["get", "--address", &address, "--project-id", PROJECT, SHARE];
        let command = gateway_command(&[&get, &flags[..]].concat());
        run_error(command, 1, &[&["--address: ", &*address], &parts[..]].concat()).await;
    }
    for address in ["http://127.0.0.1:50051", "https://gateway.example", "gateway.example", "::1:50051"] {
        for command in [&["get", "--project-id", PROJECT, SHARE][..], &["health"]] {
            let command = gateway_command(&[command, &["--address", address]].concat());
            run_error(command, 64, &["--address", "a host and a port, such as 127.0.0.1:50051"]).await;
        }
    }
    let key = stranger.flag("tls-key", "tls.key");
    let mismatch = gateway_command(&["health", ca, &files.flag("tls-cert", "tls.crt"), &key]);
    run_error(mismatch, 1, &["--tls-cert, --tls-key"]).await;
    let invalid = gateway_command(&["health", ca, "--tls-server-name", "two words"]);
    run_error(invalid, 64, &["--tls-server-name", "a DNS name or an IP address"]).await;
    let sandbox = gateway_command(&["sandbox", "--listen=localhost:8080"]);
    run_error(sandbox, 64, &["--listen", "'localhost:8080' must be an IP address and a port"]).await;
    for flag in ["--tls-ca", "--token-file"] {
        let get = gateway_command(&["get", "--project-id", PROJECT, SHARE, flag, "/no/such/file"]);
        run_error(get, 64, &[flag, "/no/such/file"]).await;
    }
}

/// A peer that accepts the connection and stays silent, before and after a TLS handshake could begin.
#[tokio::test]
async fn deadline_limits_the_whole_command() {
    let files = TlsFiles::new();
    let ca = files.client_flags().first().unwrap().clone();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let limit = ["--address", &address, "--deadline", "200ms"];
    for tls in [&[][..], &[&*ca, "--tls-server-name=localhost"]] {
        for command in [&["get", "--project-id", PROJECT, SHARE][..], &["health"]] {
            let command = gateway_command(&[command, &limit, tls].concat());
            run_error(command, 1, &["DEADLINE_EXCEEDED", &address, "200ms (--deadline)"]).await;
        }
    }
    let negative = gateway_command(&["health", "--deadline", "-1s"]);
    run_error(negative, 64, &["--deadline", "'-1s'"]).await;
}

/// A server that answers every call alike.
async fn server(respond: impl Fn() -> Response<Body> + Clone + Send + 'static) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let respond = respond.clone();
            let reply = service_fn(move |_: http::Request<Incoming>| {
                let response = respond();
                async { Ok::<_, std::convert::Infallible>(response) }
            });
            let connection = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), reply));
        }
    });
    address
}

#[tokio::test]
async fn text_of_a_server_has_no_control_characters() {
    let hostile = "a\x1b[2J\u{9b}31mb\r\nOK\u{7}\u{202e}c";
    let mut details = ErrorDetails::new();
    details
        .set_error_info(hostile, hostile, HashMap::from([(hostile.to_owned(), hostile.to_owned())]))
        .add_bad_request_violation(hostile, hostile)
        .set_request_info(hostile, hostile);
    let status = Status::with_error_details(Code::NotFound, hostile, details);
    let address = server(move || status.clone().into_http()).await;
    for command in [&["get", "--project-id", PROJECT, SHARE][..], &["health"]] {
        let command = gateway_command(&[command, &["--address", &address]].concat());
        let stderr =
            run_error(command, 1, &["NOT_FOUND", "message: a[2J31mb OKc", "request ID: a[2J31mb OKc"]).await;
        assert!(stderr.chars().all(|char| char == '\n' || !char.is_control()), "{stderr:?}");
        assert!(
            stderr.lines().skip(1).all(|line| line.starts_with("  ")) && !stderr.contains('\u{202e}'),
            "{stderr:?}"
        );
    }
    let description = "\u{9b}31m\u{7f}\u{202e}\u{1b}[2J\n";
    let body = DOCUMENTED
        .replace("\"description\": null", &format!("\"description\": {}", Value::from(description)));
    assert_ne!(body, DOCUMENTED);
    let upstream = Upstream::replying(200, &[], body).await;
    let gateway = GatewayProcess::with_upstream(&upstream, &[]).await;
    let printed = to_text(&gateway.get(PROJECT, SHARE).await.stdout);
    assert!(printed.chars().all(|char| char == '\n' || !char.is_control()), "{printed:?}");
    let share: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(share["backupShare"]["backup"]["description"], description);
}

/// tonic's client panics over details that are not base64, allocates what a server announces, and says of its own time limit no
/// more than a server can.
#[tokio::test]
async fn response_of_any_server_is_a_status_or_an_error() {
    let status = |code: &'static str, message: &'static str| {
        HeaderMap::from_iter([
            (HeaderName::from_static("grpc-status"), HeaderValue::from_static(code)),
            (HeaderName::from_static("grpc-message"), HeaderValue::from_static(message)),
            (HeaderName::from_static("grpc-status-details-bin"), HeaderValue::from_static("!!!")),
        ])
    };
    let response =
        |body| Response::builder().header(http::header::CONTENT_TYPE, "application/grpc").body(body).unwrap();
    let in_headers = server(move || {
        let mut response = response(Body::empty());
        response.headers_mut().extend(status("5", "gone"));
        response
    });
    let in_trailers = server(move || {
        let trailers = Frame::<Bytes>::trailers(status("1", "Timeout expired"));
        response(Body::new(StreamBody::new(tokio_stream::once(Ok::<_, Status>(trailers)))))
    });
    let other_protocol = server(move || {
        let mut response = response(Body::empty());
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc-web"));
        response
    });
    let announces_4_gib =
        server(move || response(Body::new(http_body_util::Full::from(&b"\0\xff\xff\xff\xff"[..]))));
    let (in_headers, in_trailers) = (in_headers.await, in_trailers.await);
    let (other_protocol, announces_4_gib) = (other_protocol.await, announces_4_gib.await);
    for command in [&["get", "--project-id", PROJECT, SHARE][..], &["health"]] {
        for (address, parts) in [
            (&in_headers, ["NOT_FOUND", "message: gone"]),
            (&in_trailers, ["CANCELLED", "message: Timeout expired"]),
            (&other_protocol, ["HTTP status 200", "not with gRPC"]),
            (&announces_4_gib, ["OUT_OF_RANGE", "too large"]),
        ] {
            run_error(gateway_command(&[command, &["--address", address]].concat()), 1, &parts).await;
        }
    }
}

#[tokio::test]
async fn get_prints_share_of_more_than_4_mib() {
    let description = "x".repeat(5 << 20);
    let body = DOCUMENTED.replace("\"description\": null", &format!("\"description\": \"{description}\""));
    let upstream = Upstream::replying(200, &[], body).await;
    let gateway = GatewayProcess::with_upstream(&upstream, &["--max-response-bytes=8MiB"]).await;
    let reply = gateway.get(PROJECT, SHARE).await;
    assert!(reply.status.success() && reply.stdout.len() > 5 << 20, "{}", to_text(&reply.stderr));
}

#[tokio::test]
async fn switches_take_true_and_false_in_any_case_or_as_a_number() {
    for (value, exit_code) in
        [("1", 0), ("TRUE", 0), ("True", 0), ("true", 0), ("0", 64), ("FALSE", 64), ("yes", 64)]
    {
        let mut by_variable = gateway_command(&["check"]);
        by_variable.env("GATEWAY_SANDBOX", value);
        for command in [by_variable, gateway_command(&["check", &format!("--sandbox={value}")])] {
            assert_eq!(run(command).await.status.code(), Some(exit_code), "{value}");
        }
    }
}

#[tokio::test]
async fn variable_of_another_command_may_have_any_bytes() {
    let bytes = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff");
    for (arguments, exit_code) in [
        (&["--version"][..], 0),
        (&["--help"], 0),
        (&["get", "--help"], 0),
        (&["serve", "--help"], 0),
        (&["health", "--address=127.0.0.1:1"], 1),
        (&["get", "--address=127.0.0.1:1", "--project-id=p", SHARE, "--token-file=/dev/null"], 64),
    ] {
        let mut command = gateway_command(arguments);
        for name in
            ["GATEWAY_TLS_KEY", "GATEWAY_LISTEN", "GATEWAY_ADDRESS", "OS_PASSWORD", "OTEL_TRACES_EXPORTER"]
        {
            command.env(name, bytes);
        }
        let output = run(command).await;
        let stderr = to_text(&output.stderr);
        assert_eq!(output.status.code(), Some(exit_code), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("UTF-8"), "{arguments:?}: {stderr}");
    }
    let mut check = gateway_command(&["check", "--sandbox"]);
    for name in ["GATEWAY_ADDRESS", "GATEWAY_DEADLINE", "OS_TOKEN", "OS_PASSWORD", "OTEL_TRACES_EXPORTER"] {
        check.env(name, bytes);
    }
    assert_eq!(run(check).await.status.code(), Some(0));
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

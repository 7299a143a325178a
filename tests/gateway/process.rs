//! The process: commands, flags and variables, exit statuses, signals, and the log on standard output.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::child::*;
use crate::harness::*;
use crate::peer::Raw;

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
async fn every_call_has_one_flat_line_without_the_token() {
    let mut served = Served::start(&["--sandbox", "--log=trace,backup_share_gateway=trace"]).await;
    let mut lines = Vec::new();
    for id in [SHARE, "00000000-0000-4000-8000-000000000404", "detail"] {
        served.get(PROJECT, id).await;
        loop {
            let line = served.line().await;
            assert!(!line.to_string().contains(TOKEN), "{line}");
            if line["message"] == "call" {
                lines.push(line);
                break;
            }
        }
    }
    let [found, missing, invalid] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!(found["rpc.method"], "vbs.v2.BackupShareService/GetBackupShare");
    assert_eq!(
        (&found["rpc.code"], &found["http.status"], &found["attempts"]),
        (&"OK".into(), &200.into(), &1.into())
    );
    assert_eq!((&found["project_id"], &found["share_id"]), (&PROJECT.into(), &SHARE.into()));
    for key in ["request_id", "peer", "upstream_request_id", "duration_ms", "upstream_ms", "deadline_ms"] {
        assert!(!found[key].is_null(), "{key} in {found}");
    }
    assert!(found["reason"].is_null());
    assert_eq!(
        (&missing["rpc.code"], &missing["reason"]),
        (&"NOT_FOUND".into(), &"BACKUP_SHARE_NOT_FOUND".into())
    );
    assert_eq!(
        (&invalid["rpc.code"], &invalid["reason"]),
        (&"INVALID_ARGUMENT".into(), &"INVALID_REQUEST".into())
    );
    for key in ["project_id", "share_id", "http.status", "upstream_ms", "attempts"] {
        assert!(invalid[key].is_null(), "{key} in {invalid}");
    }
}

#[tokio::test]
async fn a_cancelled_call_has_its_line_with_all_that_is_known() {
    let upstream = Upstream::scripted(|_, _| vec![Step::Stall]).await;
    let url = format!("--upstream-url={}", upstream.url());
    let mut served = Served::start(&[&url, "--allow-plaintext-upstream", "--attempt-timeout=60s"]).await;
    let mut call = gateway(&["get", "--address", &served.grpc, "--project-id", PROJECT, SHARE]);
    let mut call = call.env("OS_TOKEN", TOKEN).stderr(Stdio::null()).spawn().unwrap();
    upstream.received(1).await;
    call.kill().await.unwrap();
    let line = served.line().await;
    assert_eq!(
        (&line["message"], &line["rpc.code"], &line["attempts"]),
        (&"call".into(), &"CANCELLED".into(), &1.into())
    );
    assert_eq!((&line["project_id"], &line["share_id"]), (&PROJECT.into(), &SHARE.into()));
    assert!(line["upstream_ms"].is_number() && line["reason"].is_null(), "{line}");
}

#[tokio::test]
async fn a_call_that_is_refused_or_out_of_time_has_its_line_too() {
    let upstream = Upstream::scripted(|_, _| vec![Step::Stall]).await;
    let url = format!("--upstream-url={}", upstream.url());
    let flags = ["--allow-plaintext-upstream", "--attempt-timeout=60s", "--max-in-flight=1"];
    let mut served = Served::start(&[&flags[..], &[&url]].concat()).await;
    let address = served.grpc.clone();
    let ask = || {
        let mut call = gateway(&["get", "--address", &address, "--project-id", PROJECT, SHARE]);
        call.args(["--deadline", "60s"]).env("OS_TOKEN", TOKEN).stderr(Stdio::null());
        call
    };
    let mut waiting = ask().spawn().unwrap();
    upstream.received(1).await;
    output(ask()).await;
    let shed = served.line().await;
    assert_eq!(
        (&shed["rpc.code"], &shed["reason"]),
        (&"RESOURCE_EXHAUSTED".into(), &"OVERLOADED".into()),
        "{shed}"
    );
    assert!(shed["attempts"].is_null() && shed["project_id"].is_null(), "refused before it was read: {shed}");
    waiting.kill().await.unwrap();
    assert_eq!(served.line().await["rpc.code"], "CANCELLED");
    // A client that keeps the deadline itself might be the first to go.
    soon("a call", Raw::call().header("grpc-timeout", "200m").send(address.parse().unwrap())).await;
    let line = served.line().await;
    assert_eq!(
        (&line["rpc.code"], &line["reason"], &line["attempts"]),
        (&"DEADLINE_EXCEEDED".into(), &"DEADLINE_EXCEEDED".into(), &1.into()),
        "{line}"
    );
    for key in ["request_id", "peer", "duration_ms", "upstream_ms", "deadline_ms"] {
        assert!(!line[key].is_null(), "{key} in {line}");
    }
    assert!((metric(served.admin, "shed_total").await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn an_unknown_key_is_logged_once_and_64_of_them_at_most() {
    let keys: String = (0..100).map(|number| format!(r#""new_{number}_{}": 1,"#, "x".repeat(100))).collect();
    let body = DOCUMENTED.replacen("\"shared\": {", &format!("\"shared\": {{{keys}"), 1);
    let upstream = Upstream::replying(200, &[], body).await;
    let url = format!("--upstream-url={}", upstream.url());
    let mut served = Served::start(&[&url, "--allow-plaintext-upstream"]).await;
    let (mut logged, mut calls) = (Vec::new(), 0);
    for _ in 0..2 {
        assert!(served.get(PROJECT, SHARE).await.status.success());
    }
    while calls < 2 {
        let line = served.line().await;
        match line["key"].as_str() {
            Some(key) => logged.push(key.to_owned()),
            None => calls += usize::from(line["message"] == "call"),
        }
    }
    assert_eq!(logged.len(), 64);
    assert!(logged.iter().all(|key| key.starts_with("shared.new_") && key.len() == 64), "{logged:?}");
    assert!((metric(served.admin, "upstream_unknown_fields_total").await - 200.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn sigterm_and_sigint_end_it_in_order() {
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut served = Served::start(&["--sandbox"]).await;
        served.signal(signal);
        let status = soon("the end", served.child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

#[tokio::test]
async fn the_sandbox_says_what_to_type() {
    let mut command = gateway(&["serve", "--sandbox", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut text = String::new();
    while !text.contains("vbs.v2.BackupShareService/GetBackupShare") {
        text += &soon("what to type", told.next_line()).await.unwrap().expect("a line");
    }
    assert!(text.contains("backup-share-gateway get") && text.contains("grpcurl -plaintext"));
}

#[tokio::test]
async fn the_sandbox_runs_alone_and_wants_a_token() {
    let mut command = gateway(&["sandbox", "--listen=127.0.0.1:0"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = soon("its address", told.next_line()).await.unwrap().unwrap();
    let url = line.rsplit(' ').next().unwrap();
    let served = Served::start(&["--upstream-url", url, "--allow-plaintext-upstream"]).await;
    assert!(served.get(PROJECT, SHARE).await.status.success());
    let http = tokio::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    let (mut reading, mut writing) = http.into_split();
    let request = format!(
        "GET /v2/{PROJECT}/os-vendor-backup-sharing/{SHARE} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    );
    tokio::io::AsyncWriteExt::write_all(&mut writing, request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut reading, &mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 401 "), "{reply}");
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
        let named = format!("{flag} ({variable}): ");
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
async fn empty_rule_is_an_error_in_every_mode() {
    for mode in ["passthrough", "aksk"] {
        for rule in ["", "  "] {
            let flags = ["serve", "--sandbox", &format!("--auth={mode}"), &format!("--allow={rule}")];
            let refused = output(gateway(&flags)).await;
            assert_eq!(refused.status.code(), Some(64), "{mode}, '{rule}'");
            let errors = text(&refused.stderr);
            assert!(errors.contains("--allow (GATEWAY_ALLOW): an empty rule"), "{errors}");
        }
    }
}

#[tokio::test]
async fn missing_secrets_dir_is_an_error_in_every_mode() {
    for mode in ["passthrough", "keystone", "aksk"] {
        let flags = ["serve", "--sandbox", &format!("--auth={mode}"), "--secrets-dir=/no/such/directory"];
        let refused = output(gateway(&flags)).await;
        assert_eq!(refused.status.code(), Some(64), "{mode}");
        let errors = text(&refused.stderr);
        assert!(
            errors.contains("--secrets-dir (GATEWAY_SECRETS_DIR): cannot read /no/such/directory"),
            "{errors}"
        );
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
    assert_eq!(
        (refused.status.code(), text(&refused.stderr).trim()),
        (Some(64), "--log (GATEWAY_LOG): the value is not UTF-8")
    );
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

#[tokio::test]
async fn a_second_signal_ends_it_at_once_whatever_runs() {
    let upstream = Upstream::scripted(|_, _| vec![Step::Stall]).await;
    let flags =
        ["--allow-plaintext-upstream", "--drain-timeout=10m", "--attempt-timeout=10m", "--max-deadline=10m"];
    let url = format!("--upstream-url={}", upstream.url());
    let mut served = Served::start(&[&flags[..], &[&url]].concat()).await;
    let mut call =
        gateway(&["get", "--address", &served.grpc, "--project-id", PROJECT, SHARE, "--deadline=10m"]);
    let _call = call.env("OS_TOKEN", TOKEN).stderr(Stdio::null()).spawn().unwrap();
    upstream.received(1).await;
    served.signal(rustix::process::Signal::TERM);
    while served.line().await["message"] != "draining: not serving any more" {}
    served.signal(rustix::process::Signal::TERM);
    let status = soon("the end", served.child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(1));
    let line = served.line().await;
    assert_eq!(
        (&line["message"], &line["rpc.code"]),
        (&"call".into(), &"CANCELLED".into()),
        "cut off, but not unsaid"
    );
}

#[tokio::test]
async fn a_second_signal_ends_it_though_nobody_reads_what_it_says() {
    // Standard output and error are one, as behind `2>&1 |`.
    let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
    let end = || Stdio::from(std::os::fd::OwnedFd::from(writer.try_clone().unwrap()));
    let mut command = gateway(&[
        "serve",
        "--upstream-url=https://vbs.example",
        "--listen=127.0.0.1:0",
        "--admin-listen=127.0.0.1:0",
        "--drain-delay=10m",
    ]);
    let mut child = command.stdout(end()).stderr(end()).spawn().unwrap();
    reader.set_nonblocking(true).unwrap();
    let mut log = BufReader::new(tokio::net::UnixStream::from_std(reader).unwrap()).lines();
    soon("the first line", log.next_line()).await.unwrap().unwrap();
    writer.set_nonblocking(true).unwrap();
    while std::io::Write::write(&mut &writer, &[b'x'; 1024]).is_ok() {}
    writer.set_nonblocking(false).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        rustix::process::kill_process(pid, signal).unwrap();
    }
    assert_eq!(soon("the end", child.wait()).await.unwrap().code(), Some(1));
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_no_call_and_what_is_lost_is_counted() {
    // At its most talkative, so that it soon has more lines than a pipe and the writer's queue hold; none is read.
    let served = Served::start(&["--sandbox", "--log=trace"]).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", served.grpc)).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut client =
        backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient::new(channel);
    assert!(metric(served.admin, "log_lines_dropped_total").await.abs() < f64::EPSILON);
    let mut calls = 0;
    while metric(served.admin, "log_lines_dropped_total").await < 1.0 {
        assert!(calls < 20_000, "{calls} calls, and no line is lost");
        for _ in 0..100 {
            soon("a call", client.get_backup_share(request(PROJECT, SHARE))).await.unwrap();
            calls += 1;
        }
    }
    served.signal(rustix::process::Signal::TERM);
    let mut served = served;
    assert_eq!(soon("the end", served.child.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn out_of_descriptors_it_waits_and_goes_on() {
    // The hard limit cannot be raised again.
    let program = env!("CARGO_BIN_EXE_backup-share-gateway");
    let line = format!(
        "ulimit -n 48; exec {program} serve --sandbox --listen=127.0.0.1:0 --admin-listen=127.0.0.1:0"
    );
    let mut command = Command::new("sh");
    command.args(["-c", &line]).kill_on_drop(true);
    let mut served = Served::spawn(command).await;
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(tokio::net::TcpStream::connect(&served.grpc).await.unwrap());
    }
    let line = served.line().await;
    assert!(line["message"].as_str().unwrap().starts_with("cannot accept connections"), "{line}");
    drop(held);
    assert!(served.get(PROJECT, SHARE).await.status.success());
    let mut warnings = 1;
    loop {
        let line = served.line().await;
        match line["message"].as_str() {
            Some("call") => break,
            _ => warnings += 1,
        }
    }
    assert!(warnings < 20, "{warnings} lines: that was no backing off");
}

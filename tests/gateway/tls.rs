//! TLS and mutual TLS on the gRPC port, and certificates that are replaced under load.

use std::path::Path;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::support::certificates::*;
use crate::support::process;
use crate::support::*;
use backup_share_gateway::proto::backup_share_service_client::BackupShareServiceClient;

#[tokio::test]
async fn certificate_makes_port_tls_only() {
    let files = TlsFiles::new();
    let gateway = start_sandbox(files.tls_flags(), &[]).await;
    get_over_tls(&gateway, files.client_tls(None)).await.unwrap();
    let stranger = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&files.callers.pem))
        .domain_name("localhost");
    get_over_tls(&gateway, stranger).await.unwrap_err();
    let plaintext = Endpoint::from_shared(format!("http://{}", gateway.grpc)).unwrap().connect_lazy();
    let mut plaintext_client = BackupShareServiceClient::new(plaintext);
    with_timeout("a plaintext call", plaintext_client.get_backup_share(request(PROJECT, SHARE)))
        .await
        .unwrap_err();
    assert_eq!(gateway.admin_get("/livez").await.0, 200, "the admin port has no TLS");
    // 2099-01-01T00:00:00Z
    assert!((gateway.metric("tls_certificate_expiry_timestamp_seconds").await - 4_070_908_800.0).abs() < 1.0);
}

#[tokio::test]
async fn handshake_timeout_closes_unfinished_tls_handshake() {
    let files = TlsFiles::new();
    let gateway = start_sandbox(files.tls_flags(), &["--handshake-timeout=300ms"]).await;
    // No byte; half a ClientHello; its bytes one by one.
    let hello: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for (what, bytes, pause) in
        [("silence", &hello[..0], 0), ("half a hello", hello, 0), ("a byte at a time", hello, 100)]
    {
        let mut peer = tokio::net::TcpStream::connect(gateway.grpc).await.unwrap();
        for byte in bytes {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if tokio::io::AsyncWriteExt::write_all(&mut peer, &[*byte]).await.is_err() {
                break;
            }
        }
        let mut rest = Vec::new();
        let _ = with_timeout(what, tokio::io::AsyncReadExt::read_to_end(&mut peer, &mut rest)).await;
        gateway.metric_becomes("server_connections", 0.0).await;
    }
    get_over_tls(&gateway, files.client_tls(None)).await.unwrap();
}

#[tokio::test]
async fn client_ca_requires_valid_client_certificate() {
    let files = TlsFiles::new();
    let gateway = start_sandbox(files.mutual_tls_flags(), &[]).await;
    get_over_tls(&gateway, files.client_tls(Some(&files.callers.issue(&[uri(SPIFFE)])))).await.unwrap();
    get_over_tls(&gateway, files.client_tls(None)).await.expect_err("no certificate");
    let other = CertificateAuthority::new().issue(&[uri(SPIFFE)]);
    get_over_tls(&gateway, files.client_tls(Some(&other))).await.expect_err("of another authority");
    let expired = files.callers.issue_until(&[uri(SPIFFE)], 2001);
    get_over_tls(&gateway, files.client_tls(Some(&expired))).await.expect_err("expired");
    let two = files.callers.issue(&[uri(SPIFFE), uri("spiffe://example.org/another")]);
    get_over_tls(&gateway, files.client_tls(Some(&two))).await.expect_err("two SPIFFE IDs");
}

/// Calls on new connections and on an old one until the drain; returns the number of calls, none of which may fail.
fn load(gateway: &Gateway, tls: ClientTlsConfig) -> tokio::task::JoinHandle<usize> {
    let grpc = gateway.grpc;
    let drain = gateway.shutdown.drain.clone();
    tokio::spawn(async move {
        let endpoint = Endpoint::from_shared(format!("https://{grpc}")).unwrap().tls_config(tls).unwrap();
        let mut old = BackupShareServiceClient::new(endpoint.connect().await.unwrap());
        let mut calls = 0;
        while !drain.is_cancelled() {
            let mut new = BackupShareServiceClient::new(endpoint.connect().await.unwrap());
            new.get_backup_share(request(PROJECT, SHARE)).await.unwrap();
            old.get_backup_share(request(PROJECT, SHARE)).await.unwrap();
            calls += 2;
        }
        calls
    })
}

async fn expiry_becomes(gateway: &Gateway, seconds: f64) {
    gateway.metric_becomes("tls_certificate_expiry_timestamp_seconds", seconds).await;
}

#[tokio::test]
async fn certificate_reload_fails_no_call_and_refuses_invalid_pair() {
    let files = TlsFiles::new();
    let gateway = start_sandbox(files.tls_flags(), &["--drain-delay=5s"]).await;
    let load = load(&gateway, files.client_tls(None));
    // Replaced in place. 2090-01-01T00:00:00Z
    files.write_server_pair(&files.servers.issue_until(&[dns("localhost")], 2090));
    expiry_becomes(&gateway, 3_786_912_000.0).await;
    let before = gateway.metric("tls_reload_failures_total").await;
    std::fs::write(files.path("tls.crt"), "half a certif").unwrap();
    // A pair may be read while it is written.
    let at_least = async |count: f64| {
        let failures = async || gateway.metric("tls_reload_failures_total").await;
        poll_until("a failed reload", async || (failures().await >= count).then_some(())).await;
    };
    at_least(before + 1.0).await;
    // A certificate without its key.
    std::fs::write(files.path("tls.crt"), files.servers.issue(&[dns("localhost")]).certificate).unwrap();
    at_least(before + 2.0).await;
    // A certificate that has expired; one that is not valid yet; one with a block that is not read.
    let names = [dns("localhost")];
    files.write_server_pair(&files.servers.issue_until(&names, 2020));
    at_least(before + 3.0).await;
    let not_before = rcgen::date_time_ymd(2095, 1, 1);
    files.write_server_pair(&files.servers.issue_with(&names, |params| params.not_before = not_before));
    at_least(before + 4.0).await;
    let mut pair = files.servers.issue(&names);
    pair.certificate += &files.servers.pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE");
    files.write_server_pair(&pair);
    at_least(before + 5.0).await;
    expiry_becomes(&gateway, 3_786_912_000.0).await;
    // 2080-01-01T00:00:00Z
    files.write_server_pair(&files.servers.issue_until(&[dns("localhost")], 2080));
    expiry_becomes(&gateway, 3_471_292_800.0).await;
    gateway.shutdown.drain.cancel();
    assert!(with_timeout("the load", load).await.unwrap() > 0);
}

fn link(target: &Path, link: &Path) {
    let temporary = link.with_file_name("fresh");
    std::os::unix::fs::symlink(target, &temporary).unwrap();
    std::fs::rename(temporary, link).unwrap();
}

#[tokio::test]
async fn swapped_mounted_secret_is_reloaded() {
    // As the kubelet does it: tls.crt -> ..data/tls.crt, ..data -> a directory; the update replaces the link ..data.
    let files = TlsFiles::new();
    let root = files.directory.path().join("mounted");
    for (directory, year) in [("one", 2090), ("two", 2080)] {
        let pair = files.servers.issue_until(&[dns("localhost")], year);
        std::fs::create_dir_all(root.join(directory)).unwrap();
        std::fs::write(root.join(directory).join("tls.crt"), pair.certificate).unwrap();
        std::fs::write(root.join(directory).join("tls.key"), pair.key).unwrap();
    }
    link(Path::new("one"), &root.join("..data"));
    for name in ["tls.crt", "tls.key"] {
        link(&Path::new("..data").join(name), &root.join(name));
    }
    let flags = vec![
        format!("--tls-cert={}", root.join("tls.crt").display()),
        format!("--tls-key={}", root.join("tls.key").display()),
    ];
    let gateway = start_sandbox(flags, &["--drain-delay=5s"]).await;
    expiry_becomes(&gateway, 3_786_912_000.0).await;
    let load = load(&gateway, files.client_tls(None));
    link(Path::new("two"), &root.join("..data"));
    expiry_becomes(&gateway, 3_471_292_800.0).await;
    assert_eq!(gateway.metric("tls_reload_failures_total").await, 0.0);
    gateway.shutdown.drain.cancel();
    assert!(with_timeout("the load", load).await.unwrap() > 0);
}

#[tokio::test]
async fn get_and_health_commands_use_tls() {
    let files = TlsFiles::new();
    let reader = files.callers.issue(&[dns("reader.example")]);
    std::fs::write(files.path("reader.crt"), &reader.certificate).unwrap();
    std::fs::write(files.path("reader.key"), &reader.key).unwrap();
    std::fs::write(files.path("ca.pem"), &files.servers.pem).unwrap();
    let gateway = start_sandbox(files.mutual_tls_flags(), &["--allow=reader.example=*"]).await;
    let address = gateway.grpc.to_string();
    let tls = [
        files.flag("tls-ca", "ca.pem"),
        files.flag("tls-cert", "reader.crt"),
        files.flag("tls-key", "reader.key"),
        "--tls-server-name=localhost".to_owned(),
    ];
    let run = |arguments: &[&str], tls: &[String]| {
        let all: Vec<&str> = arguments.iter().copied().chain(tls.iter().map(String::as_str)).collect();
        let mut command = process::gateway_command(&all);
        command.env("OS_TOKEN", TOKEN);
        process::run(command)
    };
    let get = ["get", "--address", &address, "--project-id", PROJECT, SHARE];
    assert!(run(&get, &tls).await.status.success());
    assert!(run(&["health", "--address", &address], &tls).await.status.success());
    assert_eq!(run(&get, &tls[..1]).await.status.code(), Some(1), "no client certificate");
    assert_eq!(run(&get, &[]).await.status.code(), Some(1), "plaintext");
    assert_eq!(run(&get, &[tls[0].clone(), tls[1].clone()]).await.status.code(), Some(64), "no key");
}

#[tokio::test]
async fn inconsistent_tls_flags_exit_64() {
    let files = TlsFiles::new();
    let other = files.servers.issue(&[dns("localhost")]);
    std::fs::write(files.path("other.key"), &other.key).unwrap();
    std::fs::write(files.path("empty.pem"), "").unwrap();
    std::fs::write(files.path("rules"), "a=b\nnonsense\n").unwrap();
    let (cert, key, ca) = (
        files.flag("tls-cert", "tls.crt"),
        files.flag("tls-key", "tls.key"),
        files.flag("tls-client-ca", "clients.pem"),
    );
    for (flags, part) in [
        (vec![cert.clone()], "go together"),
        (vec![ca.clone()], "go together"),
        (vec![cert.clone(), files.flag("tls-key", "other.key")], "do not match"),
        (
            vec![cert.clone(), files.flag("tls-key", "no-such.key")],
            "--tls-key (GATEWAY_TLS_KEY): cannot read",
        ),
        (vec![files.flag("tls-cert", "empty.pem"), key.clone()], "contains no certificate"),
        (
            vec![cert.clone(), key.clone(), files.flag("tls-client-ca", "empty.pem")],
            "contains no certificate",
        ),
        (vec!["--allow=a=b".into()], "need --tls-client-ca"),
        (vec![cert.clone(), key.clone(), "--allow=a=b".into()], "need --tls-client-ca"),
        (vec![cert.clone(), key.clone(), ca.clone(), "--allow=a".into()], "must be CALLER=PROJECT"),
        (vec![cert, key, ca, files.flag("allow-file", "rules")], "line 2"),
    ] {
        let command = process::gateway_command(&[&["serve", "--sandbox"], &strs(&flags)[..]].concat());
        process::run_error(command, 64, &[part]).await;
    }
}

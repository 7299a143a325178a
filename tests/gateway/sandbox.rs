//! The command `sandbox`, and the sandbox within `serve`.

use std::ffi::OsString;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::certificates::TlsFiles;
use crate::support::process::*;
use crate::support::*;
use backup_share_gateway::config::{self, Config};

/// What the gateway prints on standard error, up to the end of the example commands.
async fn example_commands(flags: &[&str]) -> String {
    let mut command = serve_command(&[&["--sandbox"], flags].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut text = String::new();
    while !text.contains("vbs.v2.BackupShareService/GetBackupShare") {
        text += &with_timeout("the example commands", stderr.next_line()).await.unwrap().expect("a line");
        text += "\n";
    }
    text
}

#[tokio::test]
async fn example_commands_match_the_tls_flags_and_the_address() {
    let text = example_commands(&[]).await;
    assert!(
        text.contains("backup-share-gateway get --address 127.0.0.1:") && text.contains("grpcurl -plaintext")
    );
    assert!(!text.contains("--tls"), "{text}");
    let files = TlsFiles::new();
    let text = example_commands(&strs(&files.tls_flags())).await;
    assert!(text.contains(" --tls-ca ca.pem --tls-server-name localhost --project-id"), "{text}");
    assert!(text.contains("grpcurl -cacert ca.pem -authority localhost -H"), "{text}");
    assert!(!text.contains("-plaintext") && !text.contains("client.pem"), "{text}");
    let text = example_commands(&strs(&files.mutual_tls_flags())).await;
    assert!(text.contains(" --tls-cert client.pem --tls-key client.key --project-id"), "{text}");
    assert!(text.contains(" -cert client.pem -key client.key -H"), "{text}");
    // The flags of `serve_command` come first; a variable cannot replace them.
    let mut any = gateway_command(&["serve", "--sandbox", "--admin-listen=127.0.0.1:0"]);
    any.env("GATEWAY_LISTEN", "0.0.0.0:0");
    let gateway = GatewayProcess::spawn(any).await;
    assert!(gateway.grpc.starts_with("0.0.0.0:"), "a variable counts as given: {}", gateway.grpc);
}

fn config(flags: &[&str]) -> Config {
    let line = ["backup-share-gateway", "serve"].iter().chain(flags).map(OsString::from);
    match config::parse(line) {
        Ok(config::Command::Serve(config)) => *config,
        other => panic!("{flags:?}: {other:?}"),
    }
}

#[test]
fn sandbox_is_on_this_machine_only_unless_a_flag_says_otherwise() {
    let (grpc, admin) = ("--listen=0.0.0.0:50051", "--admin-listen=0.0.0.0:9090");
    for (flags, grpc_ip, admin_ip, delay_s) in [
        (vec!["--sandbox"], "127.0.0.1", "127.0.0.1", 0),
        (vec!["--sandbox=TRUE", "--drain-delay=5s"], "127.0.0.1", "127.0.0.1", 5),
        (vec!["--sandbox", grpc], "0.0.0.0", "127.0.0.1", 5),
        (vec!["--sandbox", admin], "127.0.0.1", "0.0.0.0", 5),
        (vec!["--sandbox", grpc, admin], "0.0.0.0", "0.0.0.0", 5),
        (vec!["--upstream-url=https://vbs.example"], "0.0.0.0", "0.0.0.0", 5),
    ] {
        let config = config(&flags);
        assert_eq!(config.listen, format!("{grpc_ip}:50051").parse().unwrap(), "{flags:?}");
        assert_eq!(config.admin_listen, format!("{admin_ip}:9090").parse().unwrap(), "{flags:?}");
        assert_eq!(config.drain_delay.as_secs(), delay_s, "{flags:?}");
    }
}

#[tokio::test]
async fn sandbox_command_serves_alone_and_requires_token() {
    let mut command = gateway_command(&["sandbox", "--listen=127.0.0.1:0"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = with_timeout("its address", stderr.next_line()).await.unwrap().unwrap();
    let url = line.rsplit(' ').next().unwrap();
    let served = GatewayProcess::start(&["--upstream-url", url, PLAINTEXT]).await;
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

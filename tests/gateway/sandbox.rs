//! The command `sandbox`, and the sandbox within `serve`.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::process::*;
use crate::support::*;

#[tokio::test]
async fn sandbox_prints_example_commands() {
    let mut command = serve_command(&["--sandbox"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut text = String::new();
    while !text.contains("vbs.v2.BackupShareService/GetBackupShare") {
        text += &with_timeout("the example commands", stderr.next_line()).await.unwrap().expect("a line");
    }
    assert!(text.contains("backup-share-gateway get") && text.contains("grpcurl -plaintext"));
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

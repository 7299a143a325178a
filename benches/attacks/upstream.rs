//! An upstream that answers with the documented share, and misbehaves for some IDs.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::common::DOCUMENTED;

pub(crate) const LONG_ERROR: &str = "00000000-0000-4000-8000-000000000001";
pub(crate) const ENDLESS_INTERIM: &str = "00000000-0000-4000-8000-000000000002";
pub(crate) const ENDLESS_CHUNK_SIZE: &str = "00000000-0000-4000-8000-000000000003";

pub(crate) async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = Vec::with_capacity(4096);
    while stream.read_buf(&mut request).await? != 0 {
        if request.ends_with(b"\r\n\r\n") {
            reply(&mut stream, &String::from_utf8_lossy(&request)).await?;
            request.clear();
        }
    }
    Ok(())
}

async fn reply(stream: &mut TcpStream, request: &str) -> std::io::Result<()> {
    let is_for = |id: &str| request.lines().next().is_some_and(|line| line.contains(id));
    if is_for(LONG_ERROR) {
        let body = format!("{{\"itemNotFound\":{{\"code\":404,\"message\":\"{}\"}}}}", "x".repeat(1 << 20));
        return stream.write_all(with_body("404 Not Found", &body).as_bytes()).await;
    }
    if is_for(ENDLESS_INTERIM) {
        return forever(stream, "HTTP/1.1 102 Processing\r\n\r\n").await;
    }
    if is_for(ENDLESS_CHUNK_SIZE) {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        return forever(stream, "0").await;
    }
    stream.write_all(with_body("200 OK", DOCUMENTED).as_bytes()).await
}

fn with_body(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

async fn forever(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    let batch = text.repeat(64 * 1024 / text.len());
    loop {
        stream.write_all(batch.as_bytes()).await?;
    }
}

//! An upstream that answers with the documented share, and misbehaves for some IDs.

use std::io;
use std::net::SocketAddr;

use super::common::DOCUMENTED;
use super::common::http::{self, Connection, response};

pub(crate) const LONG_ERROR: &str = "00000000-0000-4000-8000-000000000001";
pub(crate) const ENDLESS_INTERIM: &str = "00000000-0000-4000-8000-000000000002";
pub(crate) const ENDLESS_CHUNK_SIZE: &str = "00000000-0000-4000-8000-000000000003";

pub(crate) async fn start() -> SocketAddr {
    http::listen(serve).await
}

async fn serve(mut connection: Connection) -> io::Result<()> {
    while let Some(request) = connection.request().await? {
        let line = String::from_utf8_lossy(request).lines().next().unwrap_or_default().to_owned();
        reply(&mut connection, &line).await?;
    }
    Ok(())
}

async fn reply(connection: &mut Connection, line: &str) -> io::Result<()> {
    if line.contains(LONG_ERROR) {
        let body = format!("{{\"itemNotFound\":{{\"code\":404,\"message\":\"{}\"}}}}", "x".repeat(1 << 20));
        return connection.send(response("404 Not Found", "", &body).as_bytes()).await;
    }
    if line.contains(ENDLESS_INTERIM) {
        return forever(connection, "HTTP/1.1 102 Processing\r\n\r\n").await;
    }
    if line.contains(ENDLESS_CHUNK_SIZE) {
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        return forever(connection, "0").await;
    }
    connection.send(response("200 OK", "", DOCUMENTED).as_bytes()).await
}

async fn forever(connection: &mut Connection, text: &str) -> io::Result<()> {
    let batch = text.repeat(64 * 1024 / text.len());
    loop {
        connection.send(batch.as_bytes()).await?;
    }
}

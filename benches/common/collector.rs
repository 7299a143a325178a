//! A collector that takes spans by OTLP over HTTP and forgets them: it is not what is measured.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Starts it on a loopback port.
pub(crate) async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(take(stream));
        }
    });
    address
}

async fn take(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(1 << 20);
    while stream.read_buf(&mut request).await? != 0 {
        if is_complete(&request) {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
            request.clear();
        }
    }
    Ok(())
}

/// Whether a head and as many bytes as it promises have come.
pub(crate) fn is_complete(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|part| part == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap_or("0");
    request.len() >= end + 4 + length.trim().parse::<usize>().unwrap()
}

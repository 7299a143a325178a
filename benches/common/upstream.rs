//! An upstream that answers every request with the documented share under the ID that was asked for, as cheaply as it can: it is not
//! what is measured.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{DOCUMENTED, SHARE};

/// Starts it on a loopback port.
pub(crate) async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

/// A request has no body and ends with an empty line, as does Envoy's empty body in chunks, which comes with the head; none
/// comes before the one before it was answered.
async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reply = format!(
        "HTTP/1.1 200 OK\r\ndate: Mon, 23 Nov 2026 10:00:00 GMT\r\ncontent-type: application/json\r\n\
         x-request-id: req-33ef81757085d719bc5f684fec028912\r\ncontent-length: {}\r\n\r\n{DOCUMENTED}",
        DOCUMENTED.len()
    )
    .into_bytes();
    let place = reply.windows(SHARE.len()).position(|part| part == SHARE.as_bytes()).unwrap();
    stream.set_nodelay(true)?;
    let mut request = Vec::with_capacity(4096);
    while stream.read_buf(&mut request).await? != 0 {
        if request.ends_with(b"\r\n\r\n") {
            let asked = asked(&request).ok_or(std::io::ErrorKind::InvalidData)?;
            reply[place..place + SHARE.len()].copy_from_slice(asked);
            stream.write_all(&reply).await?;
            request.clear();
        }
    }
    Ok(())
}

/// The ID at the end of the path.
fn asked(request: &[u8]) -> Option<&[u8]> {
    let target = request.split(|b| *b == b' ').nth(1)?;
    target.rsplit(|b| *b == b'/').next().filter(|id| id.len() == SHARE.len())
}

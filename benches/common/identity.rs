//! An identity service with the API of Keystone, which issues a token for the project that a request names: it is not what is
//! measured.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{collector, token};

/// Starts it on a loopback port. Its tokens are valid for `lifetime`.
pub(crate) async fn start(lifetime: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(issue(stream, lifetime));
        }
    });
    address
}

async fn issue(mut stream: TcpStream, lifetime: Duration) -> std::io::Result<()> {
    let mut request = Vec::new();
    while stream.read_buf(&mut request).await? != 0 {
        if collector::is_complete(&request) {
            let document = document(&request, lifetime);
            let head = format!(
                "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nx-subject-token: {}\r\ncontent-length: {}\r\n\r\n",
                token(),
                document.len()
            );
            stream.write_all((head + &document).as_bytes()).await?;
            request.clear();
        }
    }
    Ok(())
}

/// The body of the response to this request. The body of a request is its last line.
fn document(request: &[u8], lifetime: Duration) -> String {
    let body = request.rsplit(|b| *b == b'\n').next().unwrap();
    let body: Value = serde_json::from_slice(body).unwrap();
    let now = Timestamp::now();
    let mut token =
        json!({"issued_at": now.to_string(), "expires_at": (now + lifetime).to_string(), "catalog": []});
    let project = &body["auth"]["scope"]["project"]["id"];
    if project.is_string() {
        token["project"] = json!({"id": project});
    }
    json!({"token": token}).to_string()
}

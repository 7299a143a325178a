//! An identity service with the API of Keystone, which issues a token for the project that a request names: it is not what is
//! measured.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::http::{self, Connection};
use super::token;

/// Starts it on a loopback port. Its tokens are valid for `lifetime`.
pub(crate) async fn start(lifetime: Duration) -> SocketAddr {
    start_counting(lifetime, Arc::default()).await
}

/// The same, which counts the tokens that it has issued.
pub(crate) async fn start_counting(lifetime: Duration, issued: Arc<AtomicU64>) -> SocketAddr {
    http::listen(move |connection| issue(connection, lifetime, Arc::clone(&issued))).await
}

async fn issue(mut connection: Connection, lifetime: Duration, issued: Arc<AtomicU64>) -> io::Result<()> {
    while let Some(request) = connection.request().await? {
        let document = document(request, lifetime);
        issued.fetch_add(1, Ordering::Relaxed);
        let token = format!("x-subject-token: {}\r\n", token());
        connection.send(http::response("201 Created", &token, &document).as_bytes()).await?;
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

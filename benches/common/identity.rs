//! An identity service with the API of Keystone, which issues a token for the project that a request names: it is not what is
//! measured.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::http::{self, Connection};
use super::token;

/// A lifetime of tokens after which no benchmark runs any more.
pub(crate) const LONG: Duration = Duration::from_secs(24 * 3600);

/// An account of the gateway at an identity service. It belongs to no project, so that each project gets a token.
pub(crate) struct Account {
    url: String,
    issued: Arc<AtomicU64>,
}

impl Account {
    /// Starts an identity service for this account. Its tokens are valid for `lifetime`.
    pub(crate) async fn start(lifetime: Duration) -> Self {
        let issued = Arc::default();
        let counter = Arc::clone(&issued);
        let identity =
            http::listen(move |connection| issue(connection, lifetime, Arc::clone(&counter))).await;
        Self { url: format!("http://{identity}/v3"), issued }
    }

    /// The gateway's variables.
    pub(crate) fn variables(&self) -> [(&str, &str); 4] {
        [
            ("OS_AUTH_URL", &self.url),
            ("OS_USERNAME", "reader"),
            ("OS_PASSWORD", "password"),
            ("OS_USER_DOMAIN_NAME", "domain"),
        ]
    }

    /// The tokens that were issued so far.
    pub(crate) fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }
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

//! An upstream that answers every request with the documented share under the ID that was asked for, as cheaply as it can: it is
//! not what is measured. For the IDs of a [`Behaviour`] it does something else.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::http::{self, Connection};
use super::{DOCUMENTED, SHARE};

/// Starts it on a loopback port.
pub(crate) async fn start() -> SocketAddr {
    Upstream::new(DOCUMENTED).start().await
}

/// What the upstream does for some IDs. The number is the beginning of such an ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub(crate) enum Behaviour {
    Unauthorized = 0x0401,
    NotFound = 0x0404,
    Unavailable = 0x0503,
    /// The first request for an ID gets 503, the second one the share.
    UnavailableOnce = 0x1503,
    /// A 200 that is not JSON.
    Malformed = 0x0bad,
    /// The connection is closed within the response.
    ConnectionLost = 0x0105,
    /// The share, after [`SLOW`].
    Slow = 0x0510,
}

pub(crate) const SLOW: Duration = Duration::from_secs(1);

impl Behaviour {
    const ALL: [Self; 7] = [
        Self::Unauthorized,
        Self::NotFound,
        Self::Unavailable,
        Self::UnavailableOnce,
        Self::Malformed,
        Self::ConnectionLost,
        Self::Slow,
    ];

    /// An ID with this behaviour.
    pub(crate) fn id(self) -> String {
        format!("{:08x}-0000-4000-8000-{:012x}", self as u32, fastrand::u64(..1 << 48))
    }

    fn of(id: &[u8]) -> Option<Self> {
        if !id.starts_with(b"0000") {
            return None;
        }
        let number = u32::from_str_radix(str::from_utf8(id.get(..8)?).ok()?, 16).ok()?;
        Self::ALL.into_iter().find(|behaviour| *behaviour as u32 == number)
    }
}

/// One of so many calls is retried: three of 128 in flight, which the throttle of retries allows at once.
pub(crate) const RETRIED: usize = 40;

/// The ID of a call with this number, of which one in [`RETRIED`] gets a 503 first.
pub(crate) fn some_retried(number: usize) -> String {
    if number.is_multiple_of(RETRIED) { Behaviour::UnavailableOnce.id() } else { plain_id() }
}

/// An ID without a behaviour.
pub(crate) fn plain_id() -> String {
    format!("{:08x}-0000-4000-8000-{:012x}", fastrand::u32(1 << 16..), fastrand::u64(..1 << 48))
}

pub(crate) struct Upstream {
    response: Vec<u8>,
    /// Where the ID is in the response.
    place: usize,
    requests: AtomicU64,
    /// The IDs that have had their 503.
    refused_once: Mutex<HashSet<Vec<u8>>>,
}

impl Upstream {
    /// One that answers with this share.
    pub(crate) fn new(share: &str) -> Arc<Self> {
        let headers =
            "date: Mon, 23 Nov 2026 10:00:00 GMT\r\nx-request-id: req-33ef81757085d719bc5f684fec028912\r\n";
        let response = http::response("200 OK", headers, share).into_bytes();
        let place = response.windows(SHARE.len()).position(|part| part == SHARE.as_bytes()).unwrap();
        Arc::new(Self { response, place, requests: AtomicU64::default(), refused_once: Mutex::default() })
    }

    pub(crate) async fn start(self: &Arc<Self>) -> SocketAddr {
        let upstream = Arc::clone(self);
        http::listen(move |connection| Arc::clone(&upstream).answer(connection)).await
    }

    pub(crate) async fn start_tls(self: &Arc<Self>, tls: TlsAcceptor) -> SocketAddr {
        let upstream = Arc::clone(self);
        http::listen_tls(tls, move |connection| Arc::clone(&upstream).answer(connection)).await
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    async fn answer(self: Arc<Self>, mut connection: Connection) -> io::Result<()> {
        let mut response = self.response.clone();
        while let Some(request) = connection.request().await? {
            let id = requested_id(request).ok_or(io::ErrorKind::InvalidData)?;
            self.requests.fetch_add(1, Ordering::Relaxed);
            response[self.place..self.place + id.len()].copy_from_slice(&id);
            let behaviour = Behaviour::of(&id);
            if behaviour == Some(Behaviour::Slow) {
                sleep(SLOW).await;
            }
            if behaviour == Some(Behaviour::ConnectionLost) {
                return connection.send(&response[..response.len() / 2]).await;
            }
            match behaviour.and_then(|behaviour| self.refusal(behaviour, &id)) {
                Some(refusal) => connection.send(refusal.as_bytes()).await?,
                None => connection.send(&response).await?,
            }
        }
        Ok(())
    }

    /// What is sent in place of the share.
    fn refusal(&self, behaviour: Behaviour, id: &[u8]) -> Option<String> {
        let error = |status, wrapper: &str, code: u16| {
            let body = format!(r#"{{"{wrapper}":{{"message":"As the benchmark wants it.","code":{code}}}}}"#);
            Some(http::response(status, "", &body))
        };
        let unavailable = || error("503 Service Unavailable", "serviceUnavailable", 503);
        match behaviour {
            Behaviour::Unauthorized => error("401 Unauthorized", "unauthorized", 401),
            Behaviour::NotFound => error("404 Not Found", "itemNotFound", 404),
            Behaviour::Unavailable => unavailable(),
            Behaviour::UnavailableOnce => {
                let mut refused = self.refused_once.lock().unwrap();
                if refused.remove(id) {
                    return None;
                }
                refused.insert(id.to_vec());
                unavailable()
            }
            Behaviour::Malformed => Some(http::response("200 OK", "", "<html></html>")),
            Behaviour::ConnectionLost | Behaviour::Slow => None,
        }
    }
}

/// The documented share as a document of this size: with fewer fields, or with a longer description.
pub(crate) fn share_of(size: usize) -> String {
    let mut document: Value = serde_json::from_str(DOCUMENTED).unwrap();
    let backup = document["shared"]["backup"].as_object_mut().unwrap();
    backup.insert("description".into(), "".into());
    let names: Vec<String> = backup.keys().filter(|name| *name != "description").cloned().collect();
    for name in names {
        if document.to_string().len() <= size {
            break;
        }
        document["shared"]["backup"].as_object_mut().unwrap().remove(&name);
    }
    let rest = size.checked_sub(document.to_string().len()).expect("a share needs more bytes");
    document["shared"]["backup"]["description"] = "x".repeat(rest).into();
    document.to_string()
}

/// The ID at the end of the path.
fn requested_id(request: &[u8]) -> Option<[u8; SHARE.len()]> {
    let target = request.split(|b| *b == b' ').nth(1)?;
    target.rsplit(|b| *b == b'/').next()?.try_into().ok()
}

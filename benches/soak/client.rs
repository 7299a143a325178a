//! A client that behaves as those of gRPC libraries do: when the gateway ends a connection in order (GOAWAY), it opens another
//! one and repeats the calls that the gateway has not begun. And clients that behave badly.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::client::{Builder, SendRequest};
use h2::{Error, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;
use tonic::Code;

use super::common::load::{Call, connect_tcp, sender};
use super::common::tls::Dialer;

/// Connections that stay open, as far as the gateway lets them.
const CONNECTIONS: usize = 8;
/// How often a call is repeated that the gateway has not begun.
const REPEATS: usize = 3;
/// After this time a caller gives up.
const PATIENCE: Duration = Duration::from_millis(50);
/// The time between two steps of a slow reader.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct Client {
    server: SocketAddr,
    dialer: Dialer,
    senders: [Mutex<Option<SendRequest<Bytes>>>; CONNECTIONS],
    next: AtomicUsize,
}

/// How a call ended, or a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Status(Code),
    /// The caller has gone before there was a status.
    Cancelled,
    /// The stream was reset by the gateway.
    Reset(Option<Reason>),
    /// The connection was closed by the gateway.
    Closed,
    /// Anything else.
    Failed(String),
}

impl Client {
    pub(crate) fn new(server: SocketAddr, dialer: Dialer) -> Self {
        Self { server, dialer, senders: Default::default(), next: AtomicUsize::default() }
    }

    /// Makes a call on one connection after the other.
    pub(crate) async fn call(&self, call: &Call) -> End {
        self.repeat(call).await.unwrap_or_else(|end| end)
    }

    async fn repeat(&self, call: &Call) -> Result<End, End> {
        let slot = &self.senders[self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS];
        for _ in 0..REPEATS {
            match call.exchange(self.sender(slot).await?, |_| ()).await {
                Ok(code) => return Ok(End::Status(code)),
                Err(error) if is_not_begun(&error) => *slot.lock().unwrap() = None,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(End::Failed("not begun, several times".to_owned()))
    }

    async fn sender(&self, slot: &Mutex<Option<SendRequest<Bytes>>>) -> Result<SendRequest<Bytes>, End> {
        let open = slot.lock().unwrap().clone();
        if let Some(open) = open
            && let Ok(ready) = open.ready().await
        {
            return Ok(ready);
        }
        let opened = sender(self.connect().await?).await?;
        *slot.lock().unwrap() = Some(opened.clone());
        Ok(opened)
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, End> {
        let stream = connect_tcp(Ipv4Addr::LOCALHOST, self.server).await?;
        Ok(self.dialer.handshake(stream).await?)
    }

    /// Closes the connections that are open.
    pub(crate) fn close(&self) {
        self.senders.iter().for_each(|sender| *sender.lock().unwrap() = None);
    }

    /// Gives a call up before its response.
    pub(crate) async fn cancel(&self, call: &Call) -> End {
        timeout(PATIENCE, self.call(call)).await.unwrap_or(End::Cancelled)
    }

    /// Reads a response a few bytes at a time, with pauses, on a separate connection.
    pub(crate) async fn read_slowly(&self, call: &Call) -> End {
        self.with_window(16, call).await.unwrap_or_else(|end| end)
    }

    /// Never reads the message of a response.
    pub(crate) async fn read_nothing(&self, call: &Call) -> End {
        self.with_window(0, call).await.unwrap_or_else(|end| end)
    }

    async fn with_window(&self, window: u32, call: &Call) -> Result<End, End> {
        let (sender, connection) =
            Builder::new().initial_window_size(window).handshake(self.connect().await?).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(End::Status(call.exchange_slowly(sender, PAUSE, |_| ()).await?))
    }

    /// Resets a connection on which calls are in flight.
    pub(crate) async fn reset(&self, call: &Call) -> End {
        self.try_reset(call).await.unwrap_or_else(|end| end)
    }

    async fn try_reset(&self, call: &Call) -> Result<End, End> {
        let stream = self.connect().await?;
        stream.get_ref().0.set_zero_linger()?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        let calls = join_all((0..4).map(|_| call.exchange(sender.clone(), |_| ())));
        let ended = timeout(PATIENCE, calls).await;
        connection.abort();
        Ok(ended.map_or(End::Cancelled, |ended| End::Failed(format!("{ended:?}"))))
    }

    /// Sends something else than TLS.
    pub(crate) async fn plaintext(&self) -> End {
        match self.try_plaintext().await {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => End::from(error),
            _ => End::Closed,
        }
    }

    async fn try_plaintext(&self) -> io::Result<()> {
        let mut stream = connect_tcp(Ipv4Addr::LOCALHOST, self.server).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: gateway.example\r\n\r\n").await?;
        stream.read_to_end(&mut Vec::new()).await?;
        Ok(())
    }

    /// Opens a connection, sends nothing and goes.
    pub(crate) async fn silent(&self) -> End {
        match connect_tcp(Ipv4Addr::LOCALHOST, self.server).await {
            Err(error) => End::from(error),
            Ok(_open) => {
                sleep(PATIENCE).await;
                End::Cancelled
            }
        }
    }
}

/// Whether the gateway reports that it has not processed the call.
fn is_not_begun(error: &Error) -> bool {
    (error.is_remote() && error.is_go_away()) || error.reason() == Some(Reason::REFUSED_STREAM)
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        if error.is_reset() { Self::Reset(error.reason()) } else { Self::Failed(error.to_string()) }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

//! A client that behaves as those of gRPC libraries do: when the gateway ends a connection in order (GOAWAY), it opens another
//! one and repeats the calls that the gateway has not begun. And clients that behave badly.

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
use tonic::Code;

use super::common::load::{Call, connect_tcp, sender};
use super::common::tls::Dialer;

/// Connections that stay open, as far as the gateway lets them.
const CONNECTIONS: usize = 8;
/// How often a call is repeated that the gateway has not begun.
const REPEATS: usize = 3;
/// After this time a caller gives up.
const PATIENCE: Duration = Duration::from_millis(50);

pub(crate) struct Client {
    server: SocketAddr,
    dialer: Dialer,
    senders: [Mutex<Option<SendRequest<Bytes>>>; CONNECTIONS],
    next: AtomicUsize,
}

/// How a call ended, or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Status(Code),
    /// The caller has gone before there was a status.
    Cancelled,
    /// The stream was reset by the gateway.
    Reset(Option<Reason>),
    /// The connection was closed by the gateway.
    Closed,
    /// An error of the connection.
    Failed,
}

impl Client {
    pub(crate) fn new(server: SocketAddr, dialer: Dialer) -> Self {
        Self { server, dialer, senders: Default::default(), next: AtomicUsize::default() }
    }

    /// Makes a call on one connection after the other.
    pub(crate) async fn call(&self, call: &Call) -> End {
        let slot = &self.senders[self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS];
        let mut end = End::Failed;
        for _ in 0..REPEATS {
            let sender = self.sender(slot).await;
            match call.exchange(sender, |_| ()).await {
                Ok(code) => return End::Status(code),
                Err(error) if is_not_begun(&error) => *slot.lock().unwrap() = None,
                Err(error) => return end_of(&error),
            }
            end = End::Closed;
        }
        end
    }

    async fn sender(&self, slot: &Mutex<Option<SendRequest<Bytes>>>) -> SendRequest<Bytes> {
        let open = slot.lock().unwrap().clone();
        if let Some(open) = open
            && let Ok(ready) = open.ready().await
        {
            return ready;
        }
        let opened = sender(self.connect().await).await;
        *slot.lock().unwrap() = Some(opened.clone());
        opened
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        self.dialer.handshake(connect_tcp(Ipv4Addr::LOCALHOST, self.server).await).await
    }

    /// Closes the connections that are open.
    pub(crate) fn close(&self) {
        self.senders.iter().for_each(|sender| *sender.lock().unwrap() = None);
    }

    /// Gives a call up before its response.
    pub(crate) async fn cancel(&self, call: &Call) -> End {
        timeout(PATIENCE, self.call(call)).await.unwrap_or(End::Cancelled)
    }

    /// Reads a response in steps of a few bytes, with pauses, on a connection of its own.
    pub(crate) async fn read_slowly(&self, call: &Call) -> End {
        self.with_window(16, call, Duration::from_millis(10)).await
    }

    /// Never reads the message of a response.
    pub(crate) async fn read_nothing(&self, call: &Call) -> End {
        self.with_window(0, call, Duration::ZERO).await
    }

    async fn with_window(&self, window: u32, call: &Call, pause: Duration) -> End {
        let (sender, connection) =
            Builder::new().initial_window_size(window).handshake(self.connect().await).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        match call.exchange_slowly(sender, pause, |_| ()).await {
            Ok(code) => End::Status(code),
            Err(error) => end_of(&error),
        }
    }

    /// Resets a connection on which calls are in flight.
    pub(crate) async fn reset(&self, call: &Call) -> End {
        let stream = connect_tcp(Ipv4Addr::LOCALHOST, self.server).await;
        stream.set_zero_linger().unwrap();
        let (sender, connection) = h2::client::handshake(self.dialer.handshake(stream).await).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        let calls = join_all((0..4).map(|_| call.exchange(sender.clone(), |_| ())));
        let end = timeout(PATIENCE, calls).await;
        connection.abort();
        if end.is_err() { End::Cancelled } else { End::Failed }
    }

    /// Sends something else than TLS.
    pub(crate) async fn plaintext(&self) -> End {
        let mut stream = connect_tcp(Ipv4Addr::LOCALHOST, self.server).await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: gateway.example\r\n\r\n").await.unwrap();
        read_to_end(stream).await
    }

    /// Opens a connection, sends nothing and goes.
    pub(crate) async fn silent(&self) -> End {
        let stream = connect_tcp(Ipv4Addr::LOCALHOST, self.server).await;
        sleep(PATIENCE).await;
        drop(stream);
        End::Cancelled
    }
}

async fn read_to_end(mut stream: TcpStream) -> End {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        Ok(_) => End::Closed,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => End::Closed,
        Err(_) => End::Failed,
    }
}

/// Whether the gateway has said that it has not begun the call.
fn is_not_begun(error: &Error) -> bool {
    (error.is_remote() && error.is_go_away()) || error.reason() == Some(Reason::REFUSED_STREAM)
}

fn end_of(error: &Error) -> End {
    if error.is_reset() { End::Reset(error.reason()) } else { End::Failed }
}

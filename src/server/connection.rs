//! One connection: the handshakes, HTTP on it, and how long it may stay.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

use super::activity::{Activity, Counted};
use super::prefixed::Prefixed;
use super::tls::{Tls, peer_names};
use super::{Config, Peer, Protocol, Service, Stop};

/// The longest list of request headers, in bytes: twice the longest token.
const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;
/// Streams that the peer opened and reset before they were accepted, and streams that broke a rule, before the
/// connection is closed: hyper's defaults, which bound a rapid-reset flood.
const MAX_PENDING_RESETS: usize = 20;
const MAX_ERROR_RESETS: usize = 1024;
/// How long a connection that has nothing to do any more may take to close. A peer that acknowledges the GOAWAY is
/// quicker; one that does not cannot hold us.
const CLOSING: Duration = Duration::from_secs(1);

/// How HTTP is carried: the same for all connections of a port.
pub(super) type Builder = auto::Builder<Tracked>;

/// A connection that was accepted.
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) config: Arc<Config>,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) stop: Stop,
    pub(super) builder: Arc<Builder>,
}

/// A connection whose peer has shown what it speaks.
enum Shaken {
    Plain(Prefixed<TcpStream>),
    Tls(Box<Prefixed<TlsStream<TcpStream>>>, Arc<[String]>),
}

impl Connection {
    /// Serves the connection until it ends.
    pub(super) async fn run(self, stream: TcpStream, service: impl Service) {
        // An error says that the peer is gone, which the handshake finds out as well.
        let _ = stream.set_nodelay(true);
        let shaken = tokio::select! {
            // Boxed, so that its memory does not stay as long as the connection.
            shaken = timeout(self.config.handshake_timeout, Box::pin(self.handshake(stream))) => shaken,
            () = self.stop.graceful.cancelled() => return,
        };
        match shaken {
            Ok(Ok(Shaken::Plain(io))) => self.carry(io, Arc::default(), service).await,
            Ok(Ok(Shaken::Tls(io, names))) => self.carry(io, names, service).await,
            Ok(Err(error)) => {
                tracing::debug!(peer = %self.peer, %error, "connection closed: the handshake failed")
            }
            Err(_) => tracing::debug!(peer = %self.peer, "connection closed: no handshake in time"),
        }
    }

    async fn handshake(&self, stream: TcpStream) -> io::Result<Shaken> {
        let protocol = self.config.protocol;
        let Some(tls) = &self.tls else { return Ok(Shaken::Plain(preface(stream, protocol).await?)) };
        let stream = tls.acceptor().accept(stream).await?;
        let names = peer_names(stream.get_ref().1.peer_certificates())?;
        Ok(Shaken::Tls(Box::new(preface(stream, protocol).await?), names))
    }

    fn identify(&self, names: Arc<[String]>) -> Peer {
        Peer { address: self.peer, shown: self.peer.to_string().into(), names }
    }

    async fn carry<T>(&self, io: T, names: Arc<[String]>, service: impl Service)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::new();
        let (counting, peer) = (activity.clone(), self.identify(names));
        let service = service_fn(move |request| {
            let running = counting.begin();
            let response = service.clone().answer(request, peer.clone());
            async move { Ok::<_, Infallible>(response.await.map(|body| Counted::new(body, running))) }
        });
        let mut serving = pin!(self.builder.serve_connection(TokioIo::new(io), service));
        let mut lease = Lease::new(&self.config, activity);
        loop {
            let ended = tokio::select! {
                // An error is the peer's: it broke the protocol or went away.
                _ = serving.as_mut() => true,
                () = self.stop.graceful.cancelled(), if !lease.is_closing() => lease.begin_closing(self.config.linger),
                () = sleep_until(lease.next_look(&self.config)) => lease.look(&self.config),
            };
            if ended {
                return;
            }
            if lease.must_say_goaway() {
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Waits until the peer has shown which protocol it speaks, and that the port speaks it too.
async fn preface<T: AsyncRead + Unpin>(mut stream: T, protocol: Protocol) -> io::Result<Prefixed<T>> {
    const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut head = BytesMut::with_capacity(PREFACE.len());
    while head.len() < PREFACE.len() && PREFACE.starts_with(&head) {
        let missing = PREFACE.len() - head.len();
        if (&mut stream).take(missing as u64).read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if protocol == Protocol::Http2 && head != PREFACE[..] {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Prefixed::new(head.freeze(), stream))
}

pub(super) fn builder(config: &Config, executor: Tracked) -> Builder {
    let builder = auto::Builder::new(executor);
    let mut builder = if config.protocol == Protocol::Http2 { builder.http2_only() } else { builder };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(config.handshake_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_streams)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        // No gRPC server sends one: each second's would be one more entry in the HPACK table of each connection.
        .auto_date_header(false)
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout);
    builder
}

/// How long a connection may stay.
struct Lease {
    activity: Activity,
    expires: Instant,
    closing: Option<Closing>,
}

struct Closing {
    /// When the requests that still run are cut off.
    ends: Instant,
    said_goaway: bool,
}

impl Lease {
    fn new(config: &Config, activity: Activity) -> Self {
        let jitter = 0.9 + 0.2 * fastrand::f64();
        Self { activity, expires: Instant::now() + config.max_age.mul_f64(jitter), closing: None }
    }

    fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Asks the peer to go. Whatever then takes longer than `linger` is cut off. Never says that all has ended.
    fn begin_closing(&mut self, linger: Duration) -> bool {
        self.closing = Some(Closing { ends: Instant::now() + linger, said_goaway: false });
        false
    }

    /// Whether this is the time to send the GOAWAY; true once.
    fn must_say_goaway(&mut self) -> bool {
        self.closing.as_mut().is_some_and(|closing| !std::mem::replace(&mut closing.said_goaway, true))
    }

    fn next_look(&self, config: &Config) -> Instant {
        match &self.closing {
            Some(closing) => closing.ends.min(Instant::now() + CLOSING / 4),
            None => {
                self.expires.min(self.activity.quiet_since().unwrap_or_else(Instant::now) + config.max_idle)
            }
        }
    }

    /// Looks whether the time has come to close; true means now.
    fn look(&mut self, config: &Config) -> bool {
        let now = Instant::now();
        let quiet = self.activity.quiet_since();
        match &self.closing {
            Some(closing) => closing.ends <= now || quiet.is_some_and(|since| since + CLOSING <= now),
            None => {
                let is_idle = quiet.is_some_and(|since| since + config.max_idle <= now);
                if self.expires <= now || is_idle { self.begin_closing(config.linger) } else { false }
            }
        }
    }
}

/// Runs hyper's tasks, one a request, where they are waited for.
#[derive(Clone)]
pub(super) struct Tracked(pub(super) TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

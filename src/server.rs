//! The transport: accepts connections and carries HTTP on them, within limits, until it is told to stop. It knows no
//! gRPC service and no VBS; what answers is a function from a request to a response.
//!
//! Why not tonic's server: its shutdown waits for ever for a silent peer, its age limit sends no GOAWAY and cuts calls,
//! and it switches hyper's safe limits off.

mod activity;
mod prefixed;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus::IntGauge;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use activity::{Activity, Counted};
use prefixed::Prefixed;

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 from the first byte on, as gRPC clients do.
    Http2,
    /// HTTP/1.1 and HTTP/2, as curl, Prometheus and the kubelet do.
    Http1And2,
}

/// Limits of one port's connections.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the port speaks.
    pub protocol: Protocol,
    /// Connections at once; one more is closed at once.
    pub max_connections: usize,
    /// Requests at once on one connection.
    pub max_streams: u32,
    /// The age at which a connection is asked to go, give or take a tenth, so that clients find new replicas.
    pub max_age: Duration,
    /// How long a connection may have nothing to do.
    pub max_idle: Duration,
    /// How long a peer may take until it has said which protocol it speaks.
    pub handshake_timeout: Duration,
    /// How often a peer that says nothing is asked whether it is there.
    pub keepalive_interval: Duration,
    /// How long it may take to answer that.
    pub keepalive_timeout: Duration,
    /// How long the requests on a connection that was asked to go may take: as long as a call may.
    pub linger: Duration,
}

/// The longest list of request headers, in bytes: twice the longest token.
const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;
/// Streams that the peer opened and reset before they were accepted, and streams that broke a rule, before the
/// connection is closed: hyper's defaults, which bound a rapid-reset flood.
const MAX_PENDING_RESETS: usize = 20;
const MAX_ERROR_RESETS: usize = 1024;
/// How long a connection that has nothing to do any more may take to close. A peer that acknowledges the GOAWAY is
/// quicker; one that does not cannot hold us.
const CLOSING: Duration = Duration::from_secs(1);
/// Backoff while the process is out of file descriptors or memory.
const FIRST_ACCEPT_BACKOFF: Duration = Duration::from_millis(10);
const MAX_ACCEPT_BACKOFF: Duration = Duration::from_secs(1);
/// Connections that the kernel may hold for us to accept.
const BACKLOG: u32 = 1024;

/// When a port has to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Accept no more, send GOAWAY, finish what runs.
    pub graceful: CancellationToken,
    /// Close what is still open.
    pub forced: CancellationToken,
}

/// A bound port.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    config: Arc<Config>,
    stop: Stop,
    connections: IntGauge,
}

impl Server {
    /// Binds the address; port 0 takes any. `connections` is kept at the number of open ones.
    pub fn bind(address: SocketAddr, config: Config, stop: Stop, connections: IntGauge) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Inherited by the accepted ones.
        socket.set_keepalive(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        Ok(Self { listener, config: Arc::new(config), stop, connections })
    }

    /// The address with the port that was taken.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is told to stop and every connection is closed.
    pub async fn serve<S, F, B>(self, service: S)
    where
        S: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let tasks = TaskTracker::new();
        let mut backoff = FIRST_ACCEPT_BACKOFF;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.stop.graceful.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff = FIRST_ACCEPT_BACKOFF;
                    self.spawn(&tasks, stream, peer, service.clone());
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; waiting for file descriptors or memory");
                    tokio::select! {
                        () = tokio::time::sleep(backoff) => backoff = MAX_ACCEPT_BACKOFF.min(backoff * 2),
                        () = self.stop.graceful.cancelled() => break,
                    }
                }
            }
        }
        drop(self.listener);
        tasks.close();
        tasks.wait().await;
    }

    fn spawn<S, F, B>(&self, tasks: &TaskTracker, stream: TcpStream, peer: SocketAddr, service: S)
    where
        S: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let open = Open::new(&self.connections);
        if open.count() > self.config.max_connections {
            tracing::debug!(%peer, "connection refused: too many are open");
            return;
        }
        let (config, stop, executor) = (Arc::clone(&self.config), self.stop.clone(), Tracked(tasks.clone()));
        tasks.spawn(async move {
            let _open = open;
            let forced = stop.forced.clone();
            tokio::select! {
                () = connection(stream, peer, &config, &stop, executor, service) => {}
                () = forced.cancelled() => {}
            }
        });
    }
}

/// The others (out of descriptors, out of memory) concern all, and pass.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

async fn connection<S, F, B>(
    stream: TcpStream,
    peer: SocketAddr,
    config: &Config,
    stop: &Stop,
    executor: Tracked,
    service: S,
) where
    S: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // An error says that the peer is gone, which the handshake finds out as well.
    let _ = stream.set_nodelay(true);
    let shaken = tokio::select! {
        shaken = timeout(config.handshake_timeout, handshake(stream, config.protocol)) => shaken,
        () = stop.graceful.cancelled() => return,
    };
    let Ok(Ok(io)) = shaken else {
        tracing::debug!(%peer, "connection closed: no handshake in time, or of another protocol");
        return;
    };
    let activity = Activity::new();
    let counting = activity.clone();
    let service = service_fn(move |request| {
        let running = counting.begin();
        let response = service(request, peer);
        async move { Ok::<_, Infallible>(response.await.map(|body| Counted::new(body, running))) }
    });
    let builder = builder(config, executor);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut lease = Lease::new(config, activity);
    loop {
        let ended = tokio::select! {
            // An error is the peer's: it broke the protocol or went away.
            _ = serving.as_mut() => true,
            () = stop.graceful.cancelled(), if !lease.is_closing() => lease.begin_closing(config.linger),
            () = sleep_until(lease.next_look(config)) => lease.look(config),
        };
        if ended {
            return;
        }
        if lease.must_say_goaway() {
            serving.as_mut().graceful_shutdown();
        }
    }
}

/// Waits until the peer has shown which protocol it speaks, and that the port speaks it too.
async fn handshake(mut stream: TcpStream, protocol: Protocol) -> io::Result<Prefixed<TcpStream>> {
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

fn builder(config: &Config, executor: Tracked) -> auto::Builder<Tracked> {
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

/// Counts an open connection as long as it lives.
struct Open(IntGauge);

impl Open {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }

    fn count(&self) -> usize {
        usize::try_from(self.0.get()).unwrap_or_default()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Runs hyper's tasks, one a request, where they are waited for.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

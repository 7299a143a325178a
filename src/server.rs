//! The transport: accepts connections and carries HTTP on them, within limits, until it is told to stop. It knows no
//! gRPC service and no VBS; what answers is a function from a request to a response.
//!
//! Why not tonic's server: its shutdown waits for ever for a silent peer, its age limit sends no GOAWAY and cuts calls,
//! and it switches hyper's safe limits off.

mod activity;
mod connection;
mod prefixed;
mod tls;
pub mod workers;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::workers::WorkerPool;
use connection::{Builder, Connection, Tracked};
pub use tls::{Config as TlsConfig, Files as TlsFiles, Tls};

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The address in words: written once, said of every call.
    pub shown: Arc<str>,
    /// The names that its certificate proves: its SPIFFE ID, or else its DNS names. None without mutual TLS.
    pub names: Arc<[String]>,
}

/// What answers a request: any function from it to a response.
pub trait Service: Clone + Send + Sync + 'static {
    /// The body of the response.
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    /// Answers. Dropping the future means that the peer does not wait any more.
    fn answer(
        self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + Send + 'static;
}

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
    tls: Option<Arc<Tls>>,
    stop: Stop,
    connections: IntGauge,
    workers: WorkerPool,
}

impl Server {
    /// Binds the address; port 0 takes any. `connections` is kept at the number of open ones, which are assigned to `workers`.
    pub fn bind(
        address: SocketAddr,
        config: Config,
        tls: Option<Arc<Tls>>,
        stop: Stop,
        connections: IntGauge,
        workers: WorkerPool,
    ) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Inherited by the accepted ones.
        socket.set_keepalive(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        Ok(Self { listener, config: Arc::new(config), tls, stop, connections, workers })
    }

    /// The address with the port that was taken.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is told to stop and every connection is closed.
    pub async fn serve(self, service: impl Service) {
        let tasks = TaskTracker::new();
        let builder = Arc::new(connection::builder(&self.config, Tracked(tasks.clone())));
        let mut backoff = FIRST_ACCEPT_BACKOFF;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.stop.graceful.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff = FIRST_ACCEPT_BACKOFF;
                    self.spawn(&tasks, &builder, stream, peer, service.clone());
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

    fn spawn(
        &self,
        tasks: &TaskTracker,
        builder: &Arc<Builder>,
        stream: TcpStream,
        peer: SocketAddr,
        service: impl Service,
    ) {
        let open = Open::new(&self.connections);
        if open.count() > self.config.max_connections {
            tracing::debug!(%peer, "connection refused: too many are open");
            return;
        }
        let connection = Connection {
            peer,
            config: Arc::clone(&self.config),
            tls: self.tls.clone(),
            stop: self.stop.clone(),
            builder: Arc::clone(builder),
        };
        let forced = self.stop.forced.clone();
        let place = self.workers.least_loaded();
        // The runtime that carries the connection must be the one that hears of its socket.
        let Ok(stream) = stream.into_std() else { return };
        let runtime = place.runtime().clone();
        let carried = async move {
            let _counted = (open, place);
            let Ok(stream) = TcpStream::from_std(stream) else { return };
            tokio::select! {
                () = connection.run(stream, service) => {}
                () = forced.cancelled() => {}
            }
        };
        tasks.spawn_on(carried, &runtime);
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

//! A bound port and its accept loop.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::connection::ConnectionHandler;
use super::handshake_failures::HandshakeFailures;
use super::tls::Tls;
use super::workers::WorkerPool;
use super::{Config, ConnectionMetrics, ServerShutdown, Service};
use crate::sync::lock;

/// The back-off while the process has no file descriptors or memory left.
const MIN_ACCEPT_BACKOFF: Duration = Duration::from_millis(10);
const MAX_ACCEPT_BACKOFF: Duration = Duration::from_secs(1);
/// The shortest time between two log lines about refused connections.
const WARNING_INTERVAL: Duration = Duration::from_secs(1);
/// The most connections that the kernel queues until they are accepted.
const LISTEN_BACKLOG: u32 = 1024;

/// A bound port.
pub struct Server {
    listener: TcpListener,
    handler: Arc<ConnectionHandler>,
    open_connections: IntGauge,
    refused_connections: IntCounter,
    /// When a refused connection may be logged again.
    next_warning: Mutex<Instant>,
    workers: WorkerPool,
    /// The connections, and hyper's tasks.
    tasks: TaskTracker,
}

impl Server {
    /// Binds `address`; port 0 selects a free port. The connections are assigned to `workers`.
    pub fn bind(
        address: SocketAddr,
        config: Config,
        tls: Option<Arc<Tls>>,
        shutdown: ServerShutdown,
        metrics: ConnectionMetrics,
        workers: WorkerPool,
    ) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Accepted connections inherit it.
        socket.set_keepalive(true)?;
        socket.bind(address)?;
        let listener = socket.listen(LISTEN_BACKLOG)?;
        let tasks = TaskTracker::new();
        let failures = HandshakeFailures::new(metrics.tls_handshake_failures);
        let handler = Arc::new(ConnectionHandler::new(config, tls, shutdown, failures, tasks.clone()));
        Ok(Self {
            listener,
            handler,
            open_connections: metrics.open,
            refused_connections: metrics.refused,
            next_warning: Mutex::new(Instant::now()),
            workers,
            tasks,
        })
    }

    /// The bound address, with the selected port.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until shutdown, and until every connection is closed.
    pub async fn serve(self, service: impl Service) {
        tokio::select! {
            () = self.accept_until_shutdown(service) => {}
            () = self.handler.failures.log_task() => {}
        }
        self.handler.failures.log();
        drop(self.listener);
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn accept_until_shutdown(&self, service: impl Service) {
        let mut backoff = MIN_ACCEPT_BACKOFF;
        let shutdown = &self.handler.shutdown.graceful;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff = MIN_ACCEPT_BACKOFF;
                    self.spawn(stream, peer, service.clone());
                }
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; retrying after a back-off");
                    tokio::select! {
                        () = sleep(backoff) => backoff = MAX_ACCEPT_BACKOFF.min(backoff * 2),
                        () = shutdown.cancelled() => return,
                    }
                }
            }
        }
    }

    /// Serves one connection in a task of the worker that it is assigned to.
    fn spawn(&self, stream: TcpStream, peer: SocketAddr, service: impl Service) {
        self.open_connections.inc();
        let gauge = ConnectionGauge(self.open_connections.clone());
        let open = usize::try_from(self.open_connections.get()).unwrap_or_default();
        if open > self.handler.config.max_connections {
            self.refuse(peer);
            return;
        }
        let handler = Arc::clone(&self.handler);
        let worker = self.workers.least_loaded();
        let runtime = Handle::clone(&worker);
        // A socket belongs to the runtime that created it, so it is created again on the worker's.
        let Ok(stream) = stream.into_std() else { return };
        let task = async move {
            let _guards = (gauge, worker);
            let Ok(stream) = TcpStream::from_std(stream) else { return };
            tokio::select! {
                () = handler.run(stream, peer, service) => {}
                () = handler.shutdown.forced.cancelled() => {}
            }
        };
        self.tasks.spawn_on(task, &runtime);
    }

    /// Counts a connection beyond the limit. Any peer can cause them, so not each one is logged.
    fn refuse(&self, peer: SocketAddr) {
        self.refused_connections.inc();
        let mut next_warning = lock(&self.next_warning);
        if *next_warning <= Instant::now() {
            *next_warning = Instant::now() + WARNING_INTERVAL;
            let limit = self.handler.config.max_connections;
            let refused = self.refused_connections.get();
            tracing::warn!(%peer, limit, refused, "connections are refused: the port has as many as it may have");
        }
    }
}

/// Whether an accept error concerns one connection. Others, such as too many open files, concern all and are temporary.
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// A connection that the gauge counts until this is dropped.
struct ConnectionGauge(IntGauge);

impl Drop for ConnectionGauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

//! A bound port and its accept loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::config::{Config, ServerShutdown};
use super::connection::ConnectionHandler;
use super::service::Service;
use super::tls::Tls;
use super::workers::WorkerPool;

/// The back-off while the process has no file descriptors or memory left.
const MIN_ACCEPT_BACKOFF: Duration = Duration::from_millis(10);
const MAX_ACCEPT_BACKOFF: Duration = Duration::from_secs(1);
/// The most connections that the kernel queues until they are accepted.
const LISTEN_BACKLOG: u32 = 1024;

/// A bound port.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    config: Config,
    tls: Option<Arc<Tls>>,
    shutdown: ServerShutdown,
    connections: IntGauge,
    workers: WorkerPool,
}

impl Server {
    /// Binds `address`; port 0 selects a free port. `connections` counts the open connections, which are assigned to
    /// `workers`.
    pub fn bind(
        address: SocketAddr,
        config: Config,
        tls: Option<Arc<Tls>>,
        shutdown: ServerShutdown,
        connections: IntGauge,
        workers: WorkerPool,
    ) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Accepted connections inherit it.
        socket.set_keepalive(true)?;
        socket.bind(address)?;
        let listener = socket.listen(LISTEN_BACKLOG)?;
        Ok(Self { listener, config, tls, shutdown, connections, workers })
    }

    /// The bound address, with the selected port.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until shutdown, and until every connection is closed.
    pub async fn serve(self, service: impl Service) {
        let tasks = TaskTracker::new();
        let handler = Arc::new(ConnectionHandler::new(
            self.config.clone(),
            self.tls.clone(),
            self.shutdown.graceful.clone(),
            tasks.clone(),
            service,
        ));
        let mut backoff = MIN_ACCEPT_BACKOFF;
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.shutdown.graceful.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    backoff = MIN_ACCEPT_BACKOFF;
                    self.spawn(&tasks, Arc::clone(&handler), stream, peer);
                }
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections; retrying after a back-off");
                    tokio::select! {
                        () = sleep(backoff) => backoff = MAX_ACCEPT_BACKOFF.min(backoff * 2),
                        () = self.shutdown.graceful.cancelled() => break,
                    }
                }
            }
        }
        drop(self.listener);
        tasks.close();
        tasks.wait().await;
    }

    /// Serves one connection in a task of the worker that it is assigned to.
    fn spawn(
        &self,
        tasks: &TaskTracker,
        handler: Arc<ConnectionHandler<impl Service>>,
        stream: TcpStream,
        peer: SocketAddr,
    ) {
        let gauge = ConnectionGauge::new(&self.connections);
        if gauge.open_connections() > self.config.max_connections {
            tracing::debug!(%peer, "connection closed: --max-connections is reached");
            return;
        }
        let forced_shutdown = self.shutdown.forced.clone();
        let worker = self.workers.least_loaded();
        let runtime = worker.runtime().clone();
        // A socket belongs to the runtime that created it, so it is created again on the worker's.
        let Ok(stream) = stream.into_std() else { return };
        let task = async move {
            let _guards = (gauge, worker);
            let Ok(stream) = TcpStream::from_std(stream) else { return };
            tokio::select! {
                () = handler.run(stream, peer) => {}
                () = forced_shutdown.cancelled() => {}
            }
        };
        tasks.spawn_on(task, &runtime);
    }
}

/// Whether an accept error concerns one connection. Others, such as too many open files, concern all and are temporary.
fn is_connection_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Counts a connection in the gauge until it is dropped.
struct ConnectionGauge(IntGauge);

impl ConnectionGauge {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }

    fn open_connections(&self) -> usize {
        usize::try_from(self.0.get()).unwrap_or_default()
    }
}

impl Drop for ConnectionGauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

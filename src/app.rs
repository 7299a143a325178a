//! Composition: puts the parts together, owns every task, and ends them in order.
//!
//! `bind` takes the ports, so that the addresses are known; `run` serves until it is told to stop.

pub(crate) mod reload;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::credentials::Mode;
use crate::health::Readiness;
use crate::rpc::{self, Access, Rpc};
use crate::sandbox::Sandbox;
use crate::server::{self, Peer, Server, Tls};
use crate::telemetry::Metrics;
use crate::upstream::{self, BaseUrl, Upstream};
use crate::workers::Team;

/// All that a gateway is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// The gRPC port.
    pub listen: SocketAddr,
    /// The admin port.
    pub admin_listen: SocketAddr,
    /// The gRPC port's connections.
    pub server: server::Config,
    /// TLS on the gRPC port; without it, it speaks in the clear.
    pub tls: Option<Arc<Tls>>,
    /// The calls.
    pub rpc: rpc::Config,
    /// Where the upstream is.
    pub upstream_at: UpstreamAt,
    /// How it is asked.
    pub upstream: upstream::Config,
    /// How long calls are taken after the first signal to stop, so that callers have time to hear of it.
    pub drain_delay: Duration,
    /// How long calls that run may take after that.
    pub drain_timeout: Duration,
}

/// Where the upstream is.
#[derive(Clone, Debug)]
pub enum UpstreamAt {
    /// At a URL.
    Url(BaseUrl),
    /// In this process: the embedded one, on a loopback port, over real HTTP.
    Sandbox,
    /// Where the identity service's catalog says.
    Catalog,
}

/// How a gateway is told to stop.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// In order: calls finish.
    pub drain: CancellationToken,
    /// At once.
    pub now: CancellationToken,
}

/// Why a gateway did not start, or did not end in order.
#[derive(Debug)]
pub enum Error {
    /// A port could not be taken.
    Bind {
        /// Which one.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// A part could not be made.
    Setup(String),
    /// A task that must run as long as the process ended before it.
    Died(&'static str),
    /// Stopped at once, with calls still running.
    Cut,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { address, error } => write!(f, "cannot listen on {address}: {error}"),
            Self::Setup(what) => f.write_str(what),
            Self::Died(task) => write!(f, "the {task} task died; this is a fault of the gateway"),
            Self::Cut => f.write_str("stopped at once by a second signal"),
        }
    }
}

impl std::error::Error for Error {}

/// Calls that are cut off get this long to bring their status to the caller.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// The admin port has few connections, and none that waits for long between two scrapes.
const ADMIN_CONNECTIONS: usize = 256;
const ADMIN_IDLE: Duration = Duration::from_secs(120);

/// A gateway with its ports taken.
pub struct Gateway {
    tls: Option<Arc<Tls>>,
    access: Option<Arc<Access>>,
    credentials: Mode,
    metrics: Metrics,
    team: Team,
    grpc: Server,
    admin: Server,
    sandbox: Option<Sandbox>,
    rpc: Rpc,
    admin_pages: Admin,
    readiness: Readiness,
    stop: StopAll,
    drain_delay: Duration,
    drain_timeout: Duration,
}

/// The ends, in the order in which they come.
#[derive(Default)]
struct StopAll {
    rpc: rpc::Stop,
    grpc: server::Stop,
    admin: server::Stop,
}

impl Gateway {
    /// Takes the ports and puts the parts together. gRPC connections are dealt out to `team`; the rest stays here.
    pub async fn bind(config: Config, team: Team) -> Result<Self, Error> {
        let metrics = Metrics::new().map_err(|error| Error::Setup(error.to_string()))?;
        let readiness = Readiness::new();
        let stop = StopAll::default();
        let at = |address| move |error| Error::Bind { address, error };

        let admin_config = server::Config {
            protocol: server::Protocol::Http1And2,
            max_connections: ADMIN_CONNECTIONS,
            max_idle: ADMIN_IDLE,
            ..config.server.clone()
        };
        let (tls, connections) = (config.tls.clone(), metrics.connections.clone());
        let grpc =
            Server::bind(config.listen, config.server, tls, stop.grpc.clone(), connections, team.clone())
                .map_err(at(config.listen))?;
        let admin = Server::bind(
            config.admin_listen,
            admin_config,
            None,
            stop.admin.clone(),
            metrics.admin_connections.clone(),
            Team::alone(),
        )
        .map_err(at(config.admin_listen))?;

        let (access, credentials) = (config.rpc.access.clone(), config.rpc.credentials.clone());
        let (base_url, sandbox) = match config.upstream_at {
            UpstreamAt::Url(url) => (Some(url), None),
            UpstreamAt::Catalog => (None, None),
            UpstreamAt::Sandbox => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let sandbox = Sandbox::bind(address).await.map_err(at(address))?;
                let address = sandbox.local_addr().map_err(at(address))?;
                let url = BaseUrl::parse(&format!("http://{address}"), true).map_err(Error::Setup)?;
                (Some(url), Some(sandbox))
            }
        };
        let upstream = Upstream::new(base_url, config.upstream, metrics.clone()).map_err(Error::Setup)?;
        let rpc = Rpc::new(config.rpc, upstream, &readiness, metrics.clone(), stop.rpc.clone())
            .map_err(Error::Setup)?;
        Ok(Self {
            tls: config.tls,
            access,
            credentials,
            metrics: metrics.clone(),
            team,
            grpc,
            admin,
            sandbox,
            rpc,
            admin_pages: Admin::new(readiness.clone(), metrics, &[rpc::SERVICE]),
            readiness,
            stop,
            drain_delay: config.drain_delay,
            drain_timeout: config.drain_timeout,
        })
    }

    /// The gRPC port's address.
    pub fn grpc_address(&self) -> Result<SocketAddr, Error> {
        self.grpc.local_addr().map_err(|error| Error::Setup(error.to_string()))
    }

    /// The admin port's address.
    pub fn admin_address(&self) -> Result<SocketAddr, Error> {
        self.admin.local_addr().map_err(|error| Error::Setup(error.to_string()))
    }

    /// Serves until `shutdown` says so. `Ok` means that it ended in order.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let draining = self.metrics.draining.clone();
        let (grpc_address, admin_address) = (self.grpc_address()?, self.admin_address()?);
        self.readiness.set(self.credentials.is_ready());
        tracing::info!(grpc.address = %grpc_address, admin.address = %admin_address, "listening");
        let mut tasks = Tasks {
            workers: tokio::spawn(async move { self.team.died().await }),
            grpc: tokio::spawn(self.grpc.serve(GrpcPort(self.rpc))),
            admin: tokio::spawn(self.admin.serve(AdminPort(self.admin_pages))),
            reload: tokio::spawn(keep_fresh(
                self.tls,
                self.access,
                self.credentials.clone(),
                self.metrics.clone(),
            )),
            tokens: tokio::spawn(keep_token(self.credentials.clone(), self.metrics)),
            sandbox: tokio::spawn(async move {
                match self.sandbox {
                    Some(sandbox) => sandbox.serve().await,
                    None => std::future::pending().await,
                }
            }),
        };
        let serve = async {
            self.credentials.ready().await;
            self.readiness.set(true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = shutdown.drain.cancelled() => {}
            () = shutdown.now.cancelled() => return Err(Error::Cut),
            died = tasks.died() => return Err(died),
            () = serve => {}
        }
        self.readiness.set(false);
        draining.set(1);
        tracing::info!(delay_s = self.drain_delay.as_secs_f64(), "draining: not serving any more");
        tokio::select! {
            () = sleep(self.drain_delay) => {}
            () = shutdown.now.cancelled() => return Err(Error::Cut),
            died = tasks.died() => return Err(died),
        }
        tokio::select! {
            () = finish(&mut tasks.grpc, &self.stop, self.drain_timeout) => {}
            () = shutdown.now.cancelled() => return Err(Error::Cut),
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Lets the calls that run finish, cuts off what takes too long, and closes every connection.
async fn finish(grpc: &mut JoinHandle<()>, stop: &StopAll, drain_timeout: Duration) {
    stop.grpc.graceful.cancel();
    stop.rpc.streams.cancel();
    if timeout(drain_timeout, &mut *grpc).await.is_err() {
        tracing::warn!("calls still ran at the end of the drain timeout and are cut off");
        stop.rpc.calls.cancel();
        if timeout(LAST_WORDS, &mut *grpc).await.is_err() {
            stop.grpc.forced.cancel();
            // What is left are drops; a peer has no part in them.
            let _ = grpc.await;
        }
    }
    stop.admin.forced.cancel();
}

/// What answers on the gRPC port.
#[derive(Clone)]
struct GrpcPort(Rpc);

impl server::Service for GrpcPort {
    type Body = tonic::body::Body;

    fn answer(
        self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + 'static {
        self.0.handle(
            request,
            rpc::Caller { address: Some(peer.address), shown: peer.shown, names: peer.names },
        )
    }
}

/// What answers on the admin port.
#[derive(Clone)]
struct AdminPort(Admin);

impl server::Service for AdminPort {
    type Body = tonic::body::Body;

    fn answer(
        self,
        request: Request<Incoming>,
        _: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + 'static {
        self.0.handle(request)
    }
}

/// Takes new certificates, rules and keys when their files change. Never ends.
async fn keep_fresh(tls: Option<Arc<Tls>>, access: Option<Arc<Access>>, credentials: Mode, metrics: Metrics) {
    let certificates = async {
        let Some(tls) = tls else { return std::future::pending().await };
        metrics.certificate_expiry.set(tls.expires());
        reload::on_change(tls.snapshot(), || match tls.reload() {
            Ok(()) => {
                metrics.certificate_expiry.set(tls.expires());
                tracing::info!("the new certificate is in use");
            }
            Err(error) => {
                metrics.reload_failures.inc();
                tracing::error!(error, "the new certificate is refused, the old one stays in use");
            }
        })
        .await;
    };
    let rules = async {
        let Some(access) = access else { return std::future::pending().await };
        reload::on_change(access.snapshot(), || match access.reload() {
            Ok(()) => tracing::info!("the new rules are in force"),
            Err(error) => tracing::error!(error, "the new rules are refused, the old ones stay in force"),
        })
        .await;
    };
    let credential = async {
        let said = |result: Result<(), String>| match result {
            Ok(()) => tracing::info!("the new credential is in use"),
            Err(error) => tracing::error!(error, "the new credential is refused, the old one stays in use"),
        };
        match credentials {
            Mode::PassThrough => std::future::pending().await,
            Mode::Keystone(keystone) => {
                reload::on_change(keystone.snapshot(), || said(keystone.reload())).await;
            }
            Mode::AkSk(aksk) => reload::on_change(aksk.snapshot(), || said(aksk.reload())).await,
        }
    };
    tokio::join!(certificates, rules, credential);
}

/// Gets and renews the gateway's own token, where it has an account. Never ends.
async fn keep_token(credentials: Mode, metrics: Metrics) {
    match credentials {
        Mode::Keystone(keystone) => keystone.run(&metrics).await,
        Mode::PassThrough | Mode::AkSk(_) => std::future::pending().await,
    }
}

/// The tasks that run as long as the process; they end with it.
struct Tasks {
    workers: JoinHandle<()>,
    grpc: JoinHandle<()>,
    admin: JoinHandle<()>,
    reload: JoinHandle<()>,
    tokens: JoinHandle<()>,
    sandbox: JoinHandle<()>,
}

impl Tasks {
    /// Waits until one of them ends, which none should.
    async fn died(&mut self) -> Error {
        tokio::select! {
            _ = &mut self.workers => Error::Died("worker"),
            _ = &mut self.grpc => Error::Died("gRPC server"),
            _ = &mut self.admin => Error::Died("admin server"),
            _ = &mut self.reload => Error::Died("reload"),
            _ = &mut self.tokens => Error::Died("token renewal"),
            _ = &mut self.sandbox => Error::Died("sandbox"),
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.workers.abort();
        self.grpc.abort();
        self.admin.abort();
        self.reload.abort();
        self.tokens.abort();
        self.sandbox.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_dies_is_named() {
        for dead in 0..6 {
            let task = |number| match number == dead {
                true => tokio::spawn(async { panic!("for the test") }),
                false => tokio::spawn(std::future::pending()),
            };
            let (workers, grpc, admin) = (task(0), task(1), task(2));
            let (reload, tokens, sandbox) = (task(3), task(4), task(5));
            let mut tasks = Tasks { workers, grpc, admin, reload, tokens, sandbox };
            let Error::Died(name) = tasks.died().await else { panic!("another error") };
            let names = ["worker", "gRPC server", "admin server", "reload", "token renewal", "sandbox"];
            assert_eq!(name, names[dead]);
        }
    }
}

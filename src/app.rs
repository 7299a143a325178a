//! The only composition: makes the parts out of a [`Config`], takes the ports, owns every task, and ends them in order.
//!
//! ```text
//! build(config)          the parts: certificates, rules, credentials, upstream, gRPC service
//!   .bind()              the ports, so that the addresses are known before the first call
//!   .run(shutdown)       serve, drain, stop
//! ```
//!
//! The parts get to know each other here and nowhere else. Nothing below may import this module. It must not know flags,
//! variables, signals or exit codes.

mod reload;
mod run;
mod services;
mod tasks;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::config::{Config, UpstreamLocation};
use crate::credentials::CredentialProvider;
use crate::grpc::health::Readiness;
use crate::grpc::{self, AuthorizationPolicy, Router};
use crate::metrics::Metrics;
use crate::sandbox::Sandbox;
use crate::server::workers::WorkerPool;
use crate::server::{self, Server, Tls};
use crate::upstream::{BaseUrl, Upstream};
pub use run::BoundApp;
use services::{AdminService, GrpcService, Services};
pub use tasks::TaskName;

/// The signals that stop a gateway.
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
        error: io::Error,
    },
    /// A part could not be made.
    Setup(String),
    /// A task that must run as long as the process ended before it.
    TaskExited(TaskName),
    /// Stopped at once, with calls still running.
    ForcedShutdown,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { address, error } => write!(f, "cannot listen on {address}: {error}"),
            Self::Setup(what) => f.write_str(what),
            Self::TaskExited(task) => write!(f, "the {task} task died; this is a fault of the gateway"),
            Self::ForcedShutdown => f.write_str("stopped at once by a second signal"),
        }
    }
}

impl std::error::Error for Error {}

/// The admin port has few connections, and none that waits for long between two scrapes.
const ADMIN_CONNECTIONS: usize = 256;
const ADMIN_IDLE: Duration = Duration::from_secs(120);

/// A gateway whose parts are made and whose ports are not taken yet.
pub struct App {
    listen: SocketAddr,
    admin_listen: SocketAddr,
    server: server::Config,
    services: Services,
    parts: Parts,
}

/// What the process needs besides the services as long as it runs.
struct Parts {
    tls: Option<Arc<Tls>>,
    authorization: Option<Arc<AuthorizationPolicy>>,
    credentials: CredentialProvider,
    metrics: Metrics,
    readiness: Readiness,
    tokens: ShutdownTokens,
    workers: WorkerPool,
    drain_delay: Duration,
    drain_timeout: Duration,
    reload_interval: Duration,
}

/// What ends each part, in the order in which it is used.
#[derive(Default)]
struct ShutdownTokens {
    calls: grpc::Stop,
    grpc_port: server::ServerShutdown,
    admin_port: server::ServerShutdown,
}

/// Makes the parts. The current runtime is that of the first worker; the others are started here. The embedded upstream is
/// bound here, too: its address is the URL that the upstream client calls.
pub async fn build(config: Config) -> Result<App, Error> {
    let metrics = Metrics::new(crate::telemetry::dropped_log_lines).map_err(setup)?;
    let readiness = Readiness::default();
    let tokens = ShutdownTokens::default();
    let workers = WorkerPool::start(config.workers)
        .map_err(|error| Error::Setup(format!("cannot start the runtime: {error}")))?;
    let tls = config.tls.map(Arc::new);
    let authorization = config.authorization.map(|config| Arc::new(AuthorizationPolicy::new(config)));
    let credentials = CredentialProvider::new(config.credentials).map_err(Error::Setup)?;
    let (base_url, sandbox) = match config.upstream_location {
        UpstreamLocation::Url(url) => (Some(url), None),
        UpstreamLocation::Catalog => (None, None),
        UpstreamLocation::Sandbox => {
            let (url, sandbox) = bind_sandbox().await?;
            (Some(url), Some(sandbox))
        }
    };
    let upstream = Upstream::new(base_url, config.upstream, credentials.clone(), metrics.clone())
        .map_err(Error::Setup)?;
    let router = Router::new(
        config.grpc,
        authorization.clone(),
        upstream,
        &readiness,
        metrics.clone(),
        tokens.calls.clone(),
    )
    .map_err(Error::Setup)?;
    let admin = Admin::new(readiness.clone(), metrics.clone(), &[grpc::SERVICE]);
    Ok(App {
        listen: config.listen,
        admin_listen: config.admin_listen,
        server: config.server,
        services: Services { grpc: GrpcService(router), admin: AdminService(admin), sandbox },
        parts: Parts {
            tls,
            authorization,
            credentials,
            metrics,
            readiness,
            tokens,
            workers,
            drain_delay: config.drain_delay,
            drain_timeout: config.drain_timeout,
            reload_interval: config.reload_interval,
        },
    })
}

/// The embedded upstream on a free loopback port, and its URL.
async fn bind_sandbox() -> Result<(BaseUrl, Sandbox), Error> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bind_error = |error| Error::Bind { address, error };
    let sandbox = Sandbox::bind(address).await.map_err(bind_error)?;
    let bound = sandbox.local_addr().map_err(bind_error)?;
    let url = BaseUrl::parse(&format!("http://{bound}"), true).map_err(Error::Setup)?;
    Ok((url, sandbox))
}

impl App {
    /// Takes the ports. gRPC connections are spread over the workers; admin connections stay on the current one.
    pub fn bind(self) -> Result<BoundApp, Error> {
        let parts = self.parts;
        let admin_config = server::Config {
            protocol: server::Protocol::Http1And2,
            max_connections: ADMIN_CONNECTIONS,
            max_connection_idle: ADMIN_IDLE,
            ..self.server.clone()
        };
        let grpc = Server::bind(
            self.listen,
            self.server,
            parts.tls.clone(),
            parts.tokens.grpc_port.clone(),
            parts.metrics.connections.clone(),
            parts.workers.clone(),
        )
        .map_err(|error| Error::Bind { address: self.listen, error })?;
        let admin = Server::bind(
            self.admin_listen,
            admin_config,
            None,
            parts.tokens.admin_port.clone(),
            parts.metrics.admin_connections.clone(),
            WorkerPool::current(),
        )
        .map_err(|error| Error::Bind { address: self.admin_listen, error })?;
        Ok(BoundApp {
            grpc_address: grpc.local_addr().map_err(setup)?,
            admin_address: admin.local_addr().map_err(setup)?,
            grpc,
            admin,
            services: self.services,
            parts,
        })
    }
}

fn setup(error: impl fmt::Display) -> Error {
    Error::Setup(error.to_string())
}

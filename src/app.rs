//! The only composition: builds the parts from a [`Config`], binds the ports, owns every task, and ends them in order.
//!
//! ```text
//! build(config)          the parts: certificates, rules, credentials, upstream, gRPC service
//!   .bind()              the ports, so that the addresses are known before the first call
//!   .run(shutdown)       serve, drain, stop
//! ```
//!
//! The parts meet here and nowhere else. Nothing below may import this module. It must not know flags, variables, signals or
//! exit codes. Most tests in `tests/gateway/` start a gateway by these three steps.

mod error;
mod reload;
mod run;
mod served_rules;
mod tasks;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::admin::Admin;
use crate::config::{Config, Summary, UpstreamLocation};
use crate::credentials::CredentialProvider;
use crate::files::Reload;
use crate::grpc::Router;
use crate::grpc::health::Readiness;
use crate::metrics::Metrics;
use crate::sandbox::Sandbox;
use crate::server::workers::WorkerPool;
use crate::server::{self, ConnectionMetrics, Server, Tls};
use crate::upstream::{BaseUrl, RootsFile, Upstream};
pub use error::Error;
use reload::Watch;
pub use run::{BoundApp, Control};
use run::{Process, Services, ShutdownTokens};
use served_rules::ServedRules;

/// The admin port has few connections, and none that is idle for long between two scrapes.
const ADMIN_CONNECTIONS: usize = 256;
const ADMIN_IDLE: Duration = Duration::from_secs(120);

/// A gateway whose parts are built and whose ports are not bound yet.
pub struct App {
    listen: SocketAddr,
    admin_listen: SocketAddr,
    server: server::Config,
    summary: Summary,
    services: Services,
    process: Process,
}

/// Builds the parts, and starts the workers. The embedded upstream is
/// bound here, too: its address is the URL that the upstream client calls.
pub async fn build(config: Config) -> Result<App, Error> {
    let metrics = Metrics::new(crate::telemetry::dropped_log_lines).map_err(setup)?;
    let readiness = Readiness::default();
    let tokens = ShutdownTokens::default();
    let workers = WorkerPool::start(config.workers)
        .map_err(|error| Error::Setup(format!("cannot start the runtime: {error}")))?;
    let tls = config.tls.map(Arc::new);
    let authorization = config.authorization.map(Arc::new);
    let credentials =
        CredentialProvider::new(config.credentials, &config.upstream.http).map_err(Error::Setup)?;
    let ca_file = config.upstream.ca_file.clone().map(Arc::new);
    let rules = authorization.clone().map(|rules| ServedRules { rules, credentials: credentials.clone() });
    let watches = watches(tls.clone(), rules.clone(), &credentials, ca_file);
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
    let router =
        Router::new(config.grpc, authorization, upstream, &readiness, metrics.clone(), tokens.grpc.clone())
            .map_err(Error::Setup)?;
    let admin = Admin::new(readiness.clone(), metrics.clone(), config.server.handshake_timeout);
    Ok(App {
        listen: config.listen,
        admin_listen: config.admin_listen,
        server: config.server,
        summary: config.summary,
        services: Services { grpc: router, admin, sandbox },
        process: Process {
            tls,
            watches,
            credentials,
            rules,
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

/// The files that are read again when they change.
fn watches(
    tls: Option<Arc<Tls>>,
    rules: Option<ServedRules>,
    credentials: &CredentialProvider,
    ca_file: Option<Arc<RootsFile>>,
) -> Vec<Watch> {
    let credential: Option<Arc<dyn Reload>> = match credentials {
        CredentialProvider::PassThrough => None,
        CredentialProvider::Keystone(keystone) => Some(Arc::clone(keystone) as _),
        CredentialProvider::AkSk(keys, _) => Some(Arc::clone(keys) as _),
    };
    let files = [
        tls.map(|tls| tls as _),
        rules.map(|rules| Arc::new(rules) as _),
        credential,
        ca_file.map(|file| file as _),
    ];
    files.into_iter().flatten().map(Watch::new).collect()
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
    /// Binds the ports. gRPC connections are spread over the workers; admin connections stay on the current one.
    pub fn bind(self) -> Result<BoundApp, Error> {
        let process = self.process;
        let admin_config = server::Config {
            http1: true,
            max_connections: ADMIN_CONNECTIONS,
            max_connection_idle: ADMIN_IDLE,
            ..self.server.clone()
        };
        let grpc = Server::bind(
            self.listen,
            self.server,
            process.tls.clone(),
            process.tokens.grpc_port.clone(),
            ConnectionMetrics {
                open: process.metrics.connections.clone(),
                refused: process.metrics.refused_connections.clone(),
                tls_handshake_failures: process.metrics.handshake_failures.clone(),
            },
            process.workers.clone(),
        )
        .map_err(|error| Error::Bind { address: self.listen, error })?;
        let admin = Server::bind(
            self.admin_listen,
            admin_config,
            None,
            process.tokens.admin_port.clone(),
            ConnectionMetrics {
                open: process.metrics.admin_connections.clone(),
                refused: process.metrics.refused_connections.clone(),
                // It has no TLS.
                tls_handshake_failures: process.metrics.handshake_failures.clone(),
            },
            WorkerPool::current(),
        )
        .map_err(|error| Error::Bind { address: self.admin_listen, error })?;
        Ok(BoundApp {
            grpc_address: grpc.local_addr().map_err(setup)?,
            admin_address: admin.local_addr().map_err(setup)?,
            grpc,
            admin,
            summary: self.summary,
            services: self.services,
            process,
        })
    }
}

fn setup(error: impl fmt::Display) -> Error {
    Error::Setup(error.to_string())
}

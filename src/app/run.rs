//! Runs a gateway: starts the tasks, serves, drains and stops.
//!
//! Draining, in order: report NOT_SERVING; keep serving for the drain delay; accept no connection, send GOAWAY and finish
//! the calls in flight; after the drain timeout cancel them; then close what is still open. `tests/gateway/` tests it in process and
//! with signals.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::reload::{Watch, reload_task};
use super::served_rules::ServedRules;
use super::tasks::Tasks;
use crate::admin::Admin;
use crate::config::Summary;
use crate::credentials::CredentialProvider;
use crate::grpc::health::Readiness;
use crate::grpc::{self, Router};
use crate::metrics::Metrics;
use crate::sandbox::Sandbox;
use crate::server::workers::WorkerPool;
use crate::server::{self, Server, Tls};
use crate::upstream::Upstream;

/// How long cancelled calls have to send their status to the caller.
const CANCEL_GRACE: Duration = Duration::from_millis(500);
/// How long the workers have to drop their tasks.
const WORKERS_TIMEOUT: Duration = Duration::from_millis(200);
/// The task whose end is the end of a drain.
const GRPC_SERVER: &str = "gRPC server";

/// Controls a running gateway.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Look at the files at once, which are otherwise read when they have changed.
    pub reload: Arc<Notify>,
    /// Finish the calls in flight.
    pub drain: CancellationToken,
    /// Cancel them, now or during a drain.
    pub now: CancellationToken,
}

/// A gateway with its ports bound.
pub struct BoundApp {
    pub(super) grpc_address: SocketAddr,
    pub(super) admin_address: SocketAddr,
    pub(super) grpc: Server,
    pub(super) admin: Server,
    pub(super) summary: Summary,
    pub(super) services: Services,
    pub(super) process: Process,
}

/// What the ports serve.
pub(super) struct Services {
    pub(super) grpc: Arc<Router<Upstream>>,
    pub(super) admin: Admin,
    /// The embedded upstream, if there is one.
    pub(super) sandbox: Option<Sandbox>,
}

/// What runs the servers and services, and stops them.
pub(super) struct Process {
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) watches: Vec<Watch>,
    pub(super) credentials: CredentialProvider,
    pub(super) rules: Option<ServedRules>,
    pub(super) metrics: Metrics,
    pub(super) readiness: Readiness,
    pub(super) tokens: ShutdownTokens,
    pub(super) workers: WorkerPool,
    pub(super) drain_delay: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) reload_interval: Duration,
}

/// The tokens that end each part.
#[derive(Default)]
pub(super) struct ShutdownTokens {
    pub(super) grpc: grpc::CancelTokens,
    pub(super) grpc_port: server::ServerShutdown,
    pub(super) admin_port: server::ServerShutdown,
}

impl BoundApp {
    /// The gRPC port's address.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// The admin port's address.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Serves until `control` ends it. `Ok` means that the gateway ended in order.
    pub async fn run(self, control: Control) -> Result<(), Error> {
        let mut process = self.process;
        process.readiness.set(process.credentials.is_ready());
        let Summary { auth, upstream_host, tls } = self.summary;
        tracing::info!(
            grpc.address = %self.grpc_address,
            admin.address = %self.admin_address,
            version = env!("CARGO_PKG_VERSION"),
            revision = env!("SOURCE_REVISION"),
            auth,
            upstream.host = upstream_host,
            tls,
            "listening"
        );
        let tasks = process.start(self.grpc, self.admin, self.services, control.reload);
        let result = tokio::select! {
            result = process.serve_and_drain(tasks, control.drain) => result,
            () = control.now.cancelled() => Err(Error::ForcedShutdown),
        };
        process.workers.shutdown_timeout(WORKERS_TIMEOUT).await;
        result
    }
}

impl Process {
    /// Starts every task.
    fn start(&mut self, grpc: Server, admin: Server, services: Services, reload: Arc<Notify>) -> Tasks {
        let mut tasks = Tasks::default();
        let pool = self.workers.clone();
        tasks.spawn("worker", async move { pool.terminated().await });
        tasks.spawn(GRPC_SERVER, grpc.serve(services.grpc));
        tasks.spawn("admin server", admin.serve(services.admin));
        let reload = reload_task(
            self.reload_interval,
            reload,
            std::mem::take(&mut self.watches),
            self.tls.clone(),
            self.metrics.clone(),
        );
        tasks.spawn("reload", reload);
        let token_refresh = token_refresh_task(self.credentials.clone(), self.metrics.clone());
        tasks.spawn("token renewal", token_refresh);
        if let Some(sandbox) = services.sandbox {
            tasks.spawn("sandbox", sandbox.serve());
        }
        tasks
    }

    /// Serves until `drain` is cancelled, then drains. The end of a task before that is an error.
    async fn serve_and_drain(&self, mut tasks: Tasks, drain: CancellationToken) -> Result<(), Error> {
        tokio::select! {
            () = drain.cancelled() => {}
            () = self.report_ready() => {}
            Some(task) = tasks.next_exit() => return Err(Error::TaskExited(task)),
        }
        self.readiness.set(false);
        self.metrics.draining.set(1);
        tracing::info!(delay_s = self.drain_delay.as_secs_f64(), "draining: not serving any more");
        tokio::select! {
            () = sleep(self.drain_delay) => {}
            Some(task) = tasks.next_exit() => return Err(Error::TaskExited(task)),
        }
        self.drain(&mut tasks).await;
        tracing::info!("stopped");
        Ok(())
    }

    /// Reports SERVING once calls can be served. Never ends.
    async fn report_ready(&self) {
        self.credentials.ready().await;
        self.readiness.set(true);
        if let Some(rules) = &self.rules {
            rules.warn_of_conflict();
        }
        std::future::pending().await
    }

    /// Finishes the calls in flight, cancels them after the timeout, and closes every connection.
    async fn drain(&self, tasks: &mut Tasks) {
        self.tokens.grpc_port.graceful.cancel();
        self.tokens.grpc.streams.cancel();
        if timeout(self.drain_timeout, tasks.join(GRPC_SERVER)).await.is_err() {
            tracing::warn!("calls were still in flight at the end of the drain timeout and are cancelled");
            self.tokens.grpc.calls.cancel();
            if timeout(CANCEL_GRACE, tasks.join(GRPC_SERVER)).await.is_err() {
                self.tokens.grpc_port.forced.cancel();
                // No peer can delay this: connections are only dropped.
                tasks.join(GRPC_SERVER).await;
            }
        }
        self.tokens.admin_port.forced.cancel();
    }
}

/// Gets and renews the gateway's own tokens, in the mode with an account. Never ends.
async fn token_refresh_task(credentials: CredentialProvider, metrics: Metrics) {
    match credentials {
        CredentialProvider::Keystone(keystone) => keystone.run(&metrics).await,
        CredentialProvider::PassThrough | CredentialProvider::AkSk(..) => std::future::pending().await,
    }
}

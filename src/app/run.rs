//! A gateway at work: starts the tasks, serves, drains and stops.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::reload::reload_task;
use super::services::Services;
use super::tasks::{TaskName, Tasks};
use super::{Error, Parts, Shutdown};
use crate::credentials::CredentialProvider;
use crate::metrics::Metrics;
use crate::server::Server;

/// How long calls that are cancelled get to send their status to the caller.
const CANCEL_GRACE: Duration = Duration::from_millis(500);
/// How long the workers may take to drop what they still do.
const WORKERS_TIMEOUT: Duration = Duration::from_millis(200);

/// A gateway with its ports taken.
pub struct BoundApp {
    pub(super) grpc_address: SocketAddr,
    pub(super) admin_address: SocketAddr,
    pub(super) grpc: Server,
    pub(super) admin: Server,
    pub(super) services: Services,
    pub(super) parts: Parts,
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

    /// Serves until `shutdown` says so. `Ok` means that it ended in order.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let parts = self.parts;
        parts.readiness.set(parts.credentials.is_ready());
        tracing::info!(grpc.address = %self.grpc_address, admin.address = %self.admin_address, "listening");
        let tasks = parts.start(self.grpc, self.admin, self.services);
        let ended = parts.serve(tasks, shutdown).await;
        parts.workers.shutdown_timeout(WORKERS_TIMEOUT).await;
        ended
    }
}

impl Parts {
    /// Starts every task.
    fn start(&self, grpc: Server, admin: Server, services: Services) -> Tasks {
        let mut tasks = Tasks::default();
        let pool = self.workers.clone();
        tasks.spawn(TaskName::Worker, async move { pool.terminated().await });
        tasks.spawn(TaskName::GrpcServer, grpc.serve(services.grpc));
        tasks.spawn(TaskName::AdminServer, admin.serve(services.admin));
        let reload = reload_task(
            self.reload_interval,
            self.tls.clone(),
            self.authorization.clone(),
            self.credentials.clone(),
            self.metrics.clone(),
        );
        tasks.spawn(TaskName::Reload, reload);
        let token_refresh = token_refresh_task(self.credentials.clone(), self.metrics.clone());
        tasks.spawn(TaskName::TokenRefresh, token_refresh);
        if let Some(sandbox) = services.sandbox {
            tasks.spawn(TaskName::Sandbox, sandbox.serve());
        }
        tasks
    }

    async fn serve(&self, mut tasks: Tasks, shutdown: Shutdown) -> Result<(), Error> {
        tokio::select! {
            () = shutdown.drain.cancelled() => {}
            () = shutdown.now.cancelled() => return Err(Error::ForcedShutdown),
            error = tasks.exited() => return Err(error),
            () = self.report_ready() => {}
        }
        self.readiness.set(false);
        self.metrics.draining.set(1);
        tracing::info!(delay_s = self.drain_delay.as_secs_f64(), "draining: not serving any more");
        tokio::select! {
            () = sleep(self.drain_delay) => {}
            () = shutdown.now.cancelled() => return Err(Error::ForcedShutdown),
            error = tasks.exited() => return Err(error),
        }
        tokio::select! {
            () = self.drain(&mut tasks) => {}
            () = shutdown.now.cancelled() => return Err(Error::ForcedShutdown),
        }
        tracing::info!("stopped");
        Ok(())
    }

    /// Reports SERVING once there is a credential. Never ends.
    async fn report_ready(&self) {
        self.credentials.ready().await;
        self.readiness.set(true);
        std::future::pending().await
    }

    /// Lets calls in flight finish, cancels those that take too long, and closes every connection.
    async fn drain(&self, tasks: &mut Tasks) {
        self.tokens.grpc_port.graceful.cancel();
        self.tokens.calls.streams.cancel();
        if timeout(self.drain_timeout, tasks.join(TaskName::GrpcServer)).await.is_err() {
            tracing::warn!("calls still ran at the end of the drain timeout and are cut off");
            self.tokens.calls.calls.cancel();
            if timeout(CANCEL_GRACE, tasks.join(TaskName::GrpcServer)).await.is_err() {
                self.tokens.grpc_port.forced.cancel();
                // It does not depend on a peer any more: connections are only dropped.
                tasks.join(TaskName::GrpcServer).await;
            }
        }
        self.tokens.admin_port.forced.cancel();
    }
}

/// Gets and renews the gateway's own token, where it has an account. Never ends.
async fn token_refresh_task(credentials: CredentialProvider, metrics: Metrics) {
    match credentials {
        CredentialProvider::Keystone(keystone) => keystone.run(&metrics).await,
        CredentialProvider::PassThrough | CredentialProvider::AkSk(_) => std::future::pending().await,
    }
}

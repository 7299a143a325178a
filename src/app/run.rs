//! A gateway at work: starts the tasks, serves, drains and stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::reload::reload_task;
use super::services::{AdminService, GrpcService};
use super::tasks::{TaskName, Tasks};
use super::{Error, Shutdown, ShutdownTokens};
use crate::admin::Admin;
use crate::credentials::Mode;
use crate::health::Readiness;
use crate::rpc::{Access, Rpc};
use crate::sandbox::Sandbox;
use crate::server::{Server, Tls};
use crate::telemetry::Metrics;
use crate::workers::Workers;

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
    pub(super) rpc: Rpc,
    pub(super) admin_pages: Admin,
    pub(super) sandbox: Option<Sandbox>,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) access: Option<Arc<Access>>,
    pub(super) credentials: Mode,
    pub(super) metrics: Metrics,
    pub(super) readiness: Readiness,
    pub(super) tokens: ShutdownTokens,
    pub(super) workers: Workers,
    pub(super) drain_delay: Duration,
    pub(super) drain_timeout: Duration,
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
        self.readiness.set(self.credentials.is_ready());
        tracing::info!(grpc.address = %self.grpc_address, admin.address = %self.admin_address, "listening");
        let (tasks, running) = self.start();
        let ended = running.serve(tasks, shutdown).await;
        running.workers.end(WORKERS_TIMEOUT).await;
        ended
    }

    /// Starts the tasks. What is not theirs alone is needed to stop them in order.
    fn start(self) -> (Tasks, Running) {
        let team = self.workers.team();
        let sandbox = self.sandbox;
        let mut tasks = Tasks::default();
        tasks.spawn(TaskName::Worker, async move { team.exited().await });
        tasks.spawn(TaskName::GrpcServer, self.grpc.serve(GrpcService(self.rpc)));
        tasks.spawn(TaskName::AdminServer, self.admin.serve(AdminService(self.admin_pages)));
        let reload = reload_task(self.tls, self.access, self.credentials.clone(), self.metrics.clone());
        tasks.spawn(TaskName::Reload, reload);
        let token_refresh = token_refresh_task(self.credentials.clone(), self.metrics.clone());
        tasks.spawn(TaskName::TokenRefresh, token_refresh);
        tasks.spawn(TaskName::Sandbox, async move {
            match sandbox {
                Some(sandbox) => sandbox.serve().await,
                None => std::future::pending().await,
            }
        });
        let running = Running {
            credentials: self.credentials,
            metrics: self.metrics,
            readiness: self.readiness,
            tokens: self.tokens,
            workers: self.workers,
            drain_delay: self.drain_delay,
            drain_timeout: self.drain_timeout,
        };
        (tasks, running)
    }
}

/// What it takes to serve and to stop.
struct Running {
    credentials: Mode,
    metrics: Metrics,
    readiness: Readiness,
    tokens: ShutdownTokens,
    workers: Workers,
    drain_delay: Duration,
    drain_timeout: Duration,
}

impl Running {
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
        self.tokens.grpc.graceful.cancel();
        self.tokens.rpc.streams.cancel();
        if timeout(self.drain_timeout, tasks.join(TaskName::GrpcServer)).await.is_err() {
            tracing::warn!("calls still ran at the end of the drain timeout and are cut off");
            self.tokens.rpc.calls.cancel();
            if timeout(CANCEL_GRACE, tasks.join(TaskName::GrpcServer)).await.is_err() {
                self.tokens.grpc.forced.cancel();
                // It does not depend on a peer any more: connections are only dropped.
                tasks.join(TaskName::GrpcServer).await;
            }
        }
        self.tokens.admin.forced.cancel();
    }
}

/// Gets and renews the gateway's own token, where it has an account. Never ends.
async fn token_refresh_task(credentials: Mode, metrics: Metrics) {
    match credentials {
        Mode::Keystone(keystone) => keystone.run(&metrics).await,
        Mode::PassThrough | Mode::AkSk(_) => std::future::pending().await,
    }
}

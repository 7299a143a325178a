//! `grpc.health.v1` (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>): NOT_SERVING until the gateway is
//! ready, and again from the first shutdown signal on. It never depends on the upstream.
//!
//! tonic-health's own service is not used: it ends a `Watch` of an unknown service with NOT_FOUND, where the protocol
//! requires SERVICE_UNKNOWN and an open stream, and it starts as SERVING. Tests: `tests/gateway/grpc_health.rs`.

use std::pin::Pin;

use futures_util::Stream;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

/// Whether the gateway is serving; at first it is not. Clones share the state; there is one for the process.
#[derive(Clone, Debug, Default)]
pub struct Readiness(watch::Sender<bool>);

impl Readiness {
    /// Changes the state and notifies every `Watch`.
    pub fn set(&self, serving: bool) {
        self.0.send_replace(serving);
    }

    /// The current state.
    pub fn is_serving(&self) -> bool {
        *self.0.borrow()
    }

    /// The health service for the server as a whole (`""`) and for `services`.
    pub fn service(&self, services: &'static [&'static str]) -> HealthServer<HealthService> {
        HealthServer::new(HealthService { readiness: self.clone(), services })
    }
}

/// The service that [`Readiness::service`] returns.
#[derive(Clone, Debug)]
pub struct HealthService {
    readiness: Readiness,
    services: &'static [&'static str],
}

impl HealthService {
    fn is_known(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.is_known(&request.get_ref().service) {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(health_response(serving_status(self.readiness.is_serving()))))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if !self.is_known(&request.get_ref().service) {
            let unknown = tokio_stream::once(Ok(health_response(ServingStatus::ServiceUnknown)));
            return Ok(Response::new(Box::pin(unknown.chain(tokio_stream::pending()))));
        }
        let changes = WatchStream::new(self.readiness.0.subscribe());
        let responses = changes.map(|serving| Ok(health_response(serving_status(serving))));
        Ok(Response::new(Box::pin(responses)))
    }
}

fn serving_status(serving: bool) -> ServingStatus {
    if serving { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn health_response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

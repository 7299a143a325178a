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
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

use crate::proto::backup_share_service_server::SERVICE_NAME;

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

    fn is_known(service: &str) -> bool {
        service.is_empty() || service == SERVICE_NAME
    }
}

/// The health of the server as a whole (`""`) and of the service.
#[tonic::async_trait]
impl Health for Readiness {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !Self::is_known(&request.get_ref().service) {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(response(self.is_serving())))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if !Self::is_known(&request.get_ref().service) {
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
            return Ok(Response::new(Box::pin(
                tokio_stream::once(Ok(unknown)).chain(tokio_stream::pending()),
            )));
        }
        let changes = WatchStream::new(self.0.subscribe());
        let responses = changes.map(|serving| Ok(response(serving)));
        Ok(Response::new(Box::pin(responses)))
    }
}

fn response(serving: bool) -> HealthCheckResponse {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

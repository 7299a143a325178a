//! `grpc.health.v1` as the gateway answers it: NOT_SERVING until it is ready and from the first signal to stop on. It
//! never depends on the upstream.
//!
//! tonic's own health service starts as SERVING and ends a `Watch` of an unknown service with NOT_FOUND, where the
//! protocol wants SERVICE_UNKNOWN and an open stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};

/// Whether the gateway serves; one for the process.
#[derive(Clone, Debug)]
pub struct Readiness(watch::Sender<bool>);

impl Readiness {
    /// Not ready yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Tells every prober and watcher.
    pub fn set(&self, serving: bool) {
        self.0.send_replace(serving);
    }

    /// What probers are told.
    pub fn is_serving(&self) -> bool {
        *self.0.borrow()
    }

    /// The health service for the server as a whole (`""`) and for `services`.
    pub fn service(&self, services: &'static [&'static str]) -> HealthServer<HealthService> {
        HealthServer::new(HealthService { readiness: self.clone(), services })
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

/// The service behind [`Readiness::service`].
#[derive(Clone, Debug)]
pub struct HealthService {
    readiness: Readiness,
    services: &'static [&'static str],
}

impl HealthService {
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

fn reply(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

fn of_serving(serving: bool) -> HealthCheckResponse {
    reply(if serving { ServingStatus::Serving } else { ServingStatus::NotServing })
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = WatchStream;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.knows(&request.get_ref().service) {
            return Err(Status::not_found("the gateway has no such service"));
        }
        Ok(Response::new(of_serving(self.readiness.is_serving())))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<WatchStream>, Status> {
        let known = self.knows(&request.get_ref().service);
        let changes =
            stream::unfold((self.readiness.0.subscribe(), true), move |(mut changes, first)| async move {
                if !first {
                    changes.changed().await.ok()?;
                }
                let serving = *changes.borrow_and_update();
                Some((serving, (changes, false)))
            });
        Ok(Response::new(if known {
            WatchStream::new(stream::StreamExt::map(changes, of_serving))
        } else {
            let unknown = stream::iter([reply(ServingStatus::ServiceUnknown)]);
            WatchStream::new(stream::StreamExt::chain(unknown, stream::pending()))
        }))
    }
}

/// The states of one service, as they change; it does not end by itself.
pub struct WatchStream(Pin<Box<dyn Stream<Item = HealthCheckResponse> + Send>>);

impl WatchStream {
    fn new(states: impl Stream<Item = HealthCheckResponse> + Send + 'static) -> Self {
        Self(Box::pin(states))
    }
}

impl Stream for WatchStream {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context).map(|state| state.map(Ok))
    }
}

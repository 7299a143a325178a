//! The admin port: `/livez`, `/readyz` and `/metrics` over HTTP/1.1 and HTTP/2, and `grpc.health.v1` for the kubelet's gRPC
//! probes. It is read-only.
//!
//! It must not know the upstream: a gateway whose upstream is down is still live and ready. `server` accepts its
//! connections, with the limits of every port. Tests: `tests/gateway/admin.rs`.

use std::future::ready;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::{get, post_service};
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tonic_health::pb::health_server::{HealthServer, SERVICE_NAME as HEALTH_SERVICE};
use tower_service::Service;

use crate::grpc::endpoint_limits::{EndpointLimits, PeerLimits};
use crate::grpc::health::Readiness;
use crate::metrics::Metrics;
use crate::server::{self, Peer, Reply};

const INDEX: &str = "backup-share-gateway, admin port

/livez    200 while the process runs
/readyz   200 while it accepts calls, 503 before that and from the first shutdown signal on
/metrics  Prometheus, text format
grpc.health.v1.Health is served here too, for the kubelet's gRPC probes
";

/// The routes of the admin port, and its limits.
#[derive(Clone)]
pub struct Admin {
    router: Router,
    limits: EndpointLimits,
}

impl Admin {
    /// Creates the routes. A message of a health request may take `message_timeout`.
    pub fn new(readiness: Readiness, metrics: Metrics, message_timeout: Duration) -> Self {
        let health = HealthServer::new(readiness.clone());
        let router = Router::new()
            .route("/", get(INDEX))
            .route("/livez", get("ok\n"))
            .route("/readyz", get(readyz).with_state(readiness))
            .route("/metrics", get(metrics_text).with_state(metrics))
            .route(&format!("/{HEALTH_SERVICE}/{{*method}}"), post_service(health))
            .fallback((StatusCode::NOT_FOUND, "not found; / lists the paths\n"))
            .method_not_allowed_fallback(method_not_allowed);
        Self { router, limits: EndpointLimits::new(message_timeout) }
    }
}

impl server::Service for Admin {
    type Connection = Connection;

    fn connect(&self, peer: Peer) -> Connection {
        Connection { router: self.router.clone(), limits: self.limits.of_peer(&peer) }
    }
}

/// Handles the requests of one connection.
pub struct Connection {
    router: Router,
    limits: PeerLimits,
}

impl server::ConnectionService for Connection {
    type Body = Body;

    fn call(
        &self,
        request: Request<Incoming>,
    ) -> Reply<Body, impl Future<Output = Response<Body>> + Send + 'static> {
        let Some(slot) = self.limits.try_acquire() else { return Reply::Left(ready(refuse(&request))) };
        let mut router = self.router.clone();
        let request = self.limits.guard(request, true);
        Reply::Right(async move {
            let Ok(response) = router.call(request).await;
            response.map(|body| Body::new(server::hold(body, slot)))
        })
    }

    fn is_misused(&self) -> bool {
        self.limits.is_misused()
    }
}

impl server::ResponseBody for Body {}

/// Refuses a request beyond the limits.
fn refuse<B>(request: &Request<B>) -> Response<Body> {
    if request.uri().path().contains(HEALTH_SERVICE) {
        return PeerLimits::refusal().map(Body::new);
    }
    (StatusCode::TOO_MANY_REQUESTS, "too many requests at once\n").into_response()
}

async fn readyz(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    if readiness.is_serving() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not serving\n")
    }
}

async fn metrics_text(State(metrics): State<Metrics>) -> Response<Body> {
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// axum adds the `Allow` header.
async fn method_not_allowed() -> (StatusCode, &'static str) {
    (StatusCode::METHOD_NOT_ALLOWED, "method not allowed: the admin port is read-only\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn other_methods_are_answered_with_405_and_allow() {
        let metrics = Metrics::new(|| 0).unwrap();
        let Admin { mut router, .. } = Admin::new(Readiness::default(), metrics, Duration::from_secs(10));
        for (method, path, status, allow) in [
            ("HEAD", "/livez", 200, None),
            ("POST", "/livez", 405, Some("GET,HEAD")),
            ("DELETE", "/metrics", 405, Some("GET,HEAD")),
            ("GET", "/grpc.health.v1.Health/Check", 405, Some("POST")),
            ("POST", "/nope", 404, None),
        ] {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            let Ok(response) = router.call(request).await;
            assert_eq!(response.status(), status, "{method} {path}");
            let found = response.headers().get(header::ALLOW).map(|value| value.to_str().unwrap());
            assert_eq!(found, allow, "{method} {path}");
        }
    }
}

//! The admin port: probes and metrics, read only. It never asks the upstream: a gateway whose upstream is down is alive
//! and ready, and says so in its statuses.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;

use crate::grpc::health::Readiness;
use crate::metrics::Metrics;

const INDEX: &str = "backup-share-gateway, admin port

/livez    200 while the process runs
/readyz   200 while it takes calls, 503 before and from the first signal to stop on
/metrics  Prometheus, text format
grpc.health.v1.Health answers here too, for the kubelet's gRPC probes
";

/// Everything that answers on the admin port.
#[derive(Clone)]
pub struct Admin {
    readiness: Readiness,
    metrics: Metrics,
    health: Routes,
}

impl Admin {
    /// Puts it together; `services` are the names that health knows beside `""`.
    pub fn new(readiness: Readiness, metrics: Metrics, services: &'static [&'static str]) -> Self {
        let health = Routes::new(readiness.service(services)).prepare();
        Self { readiness, metrics, health }
    }

    /// Answers one HTTP request.
    pub async fn handle(mut self, request: Request<Incoming>) -> Response<Body> {
        if request.method() == Method::POST && request.uri().path().starts_with("/grpc.health.v1.Health/") {
            return match self.health.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "the admin port is read only\n".into());
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/" => text(StatusCode::OK, INDEX.into()),
            "/livez" => text(StatusCode::OK, "ok\n".into()),
            "/readyz" if self.readiness.is_serving() => text(StatusCode::OK, "ok\n".into()),
            "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not serving\n".into()),
            "/metrics" => match self.metrics.text() {
                Ok(metrics) => text(StatusCode::OK, metrics),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            _ => text(StatusCode::NOT_FOUND, "not found; / tells what is here\n".into()),
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::from(body)));
    *response.status_mut() = status;
    // The version is that of Prometheus's text format, which any text is.
    let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

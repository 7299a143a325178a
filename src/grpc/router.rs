//! Routes each HTTP request of the gRPC port: calls of the service, health, reflection, or an error.
//!
//! `app` makes one [`Router`] and passes it every request of every connection.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::{BodyStream, StreamBody};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tower_service::Service;

use super::Config;
use super::admission::{Admission, Caller};
use super::authorization::AuthorizationPolicy;
use super::call::CallHandler;
use super::call_body::CallBody;
use super::context::{generate_request_id, request_id};
use super::health::Readiness;
use super::status::RpcError;
use crate::domain::BackupShares;
use crate::metrics::Metrics;
use crate::proto::{FILE_DESCRIPTOR_SET, METHODS};
use crate::server::{self, Peer};

const HEALTH_PATHS: [&str; 2] = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];
const REFLECTION_PATHS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// What ends the requests that do not end by themselves when the process drains.
#[derive(Clone, Debug, Default)]
pub struct CancelTokens {
    /// Ends the streams of health and reflection.
    pub streams: CancellationToken,
    /// Ends the calls that are still in flight, with `DRAINING`.
    pub calls: CancellationToken,
}

/// A boxed response future: the connection moves it several times before it is polled, and a pointer is cheap to move.
type ResponseFuture = Pin<Box<dyn Future<Output = Response<CallBody>> + Send>>;

/// Everything that the gRPC port serves.
pub struct Router<S> {
    calls: Arc<CallHandler<S>>,
    admission: Arc<Admission>,
    /// Health and reflection.
    routes: Routes,
    /// The paths of their methods.
    route_paths: Vec<&'static str>,
    cancel_streams: CancellationToken,
}

impl<S: BackupShares> Router<S> {
    /// Puts the services together. Without a policy, every caller may name every project.
    pub fn new(
        config: Config,
        authorization: Option<Arc<AuthorizationPolicy>>,
        shares: S,
        readiness: &Readiness,
        metrics: Metrics,
        cancel: CancelTokens,
    ) -> Result<Arc<Self>, String> {
        let mut routes = Routes::new(HealthServer::new(readiness.clone()));
        let mut route_paths = HEALTH_PATHS.to_vec();
        if config.reflection {
            routes = routes
                .add_service(reflection().build_v1().map_err(|error| error.to_string())?)
                .add_service(reflection().build_v1alpha().map_err(|error| error.to_string())?);
            route_paths.extend(REFLECTION_PATHS);
        }
        let admission = Admission::new(config.max_in_flight);
        let calls = Arc::new(CallHandler::new(config, authorization, shares, metrics, cancel.calls));
        let routes = routes.prepare();
        Ok(Arc::new(Self { calls, admission, routes, route_paths, cancel_streams: cancel.streams }))
    }

    /// What handles the requests of one connection.
    pub fn connect(self: &Arc<Self>, peer: Peer) -> Connection<S> {
        let caller = self.admission.caller(&peer);
        Connection { router: Arc::clone(self), peer: Arc::new(peer), caller }
    }
}

/// Handles the requests of one connection.
pub struct Connection<S> {
    router: Arc<Router<S>>,
    peer: Arc<Peer>,
    caller: Arc<Caller>,
}

impl<S: BackupShares> Connection<S> {
    /// Handles one HTTP request. Dropping the future, or the body of the response, cancels the call, at the upstream too.
    pub fn handle<B>(&self, request: Request<B>) -> ResponseFuture
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        if request.method() != Method::POST {
            let mut response = http_error(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return ready(response);
        }
        if !is_grpc(request.headers()) {
            return ready(http_error(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let path = request.uri().path();
        // Not through `routes`: its matching costs some thousand instructions.
        if let Some(method) = METHODS.into_iter().find(|method| path.strip_prefix('/') == Some(method)) {
            let calls = Arc::clone(&self.router.calls);
            return Box::pin(calls.call(method, request, Arc::clone(&self.peer), &self.caller));
        }
        if !self.router.route_paths.contains(&path) {
            return ready(RpcError::MethodNotFound.response(&request_id(request.headers())));
        }
        let response = self.router.routes.clone().call(request);
        let cancel = self.router.cancel_streams.clone();
        Box::pin(async move {
            let Ok(response) = response.await;
            response.map(|body| cancellable(body, cancel).into())
        })
    }
}

impl<S: BackupShares + 'static> server::Service for Arc<Router<S>> {
    type Connection = Connection<S>;

    fn connect(&self, peer: Peer) -> Connection<S> {
        Router::connect(self, peer)
    }
}

impl<S: BackupShares + 'static> server::ConnectionService for Connection<S> {
    type Body = CallBody;

    fn call(&self, request: Request<Incoming>) -> impl Future<Output = Response<CallBody>> + Send + 'static {
        self.handle(request)
    }
}

/// Whether the content type is `application/grpc`, alone or followed by `+proto` or a parameter. `application/grpc-web` is
/// another protocol, and protobuf is the only message format.
fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"].iter().any(|known| media_type.eq_ignore_ascii_case(known))
}

/// A response body that ends with `DRAINING` when `cancel` is cancelled. The stream of a health `Watch` would never end.
fn cancellable(body: Body, cancel: CancellationToken) -> Body {
    // A response without a body must stay one: its status is in the headers.
    if body.is_end_stream() {
        return body;
    }
    let frames = stream::unfold(Some(BodyStream::new(body)), move |body| {
        let cancel = cancel.clone();
        async move {
            let mut body = body?;
            tokio::select! {
                biased;
                frame = body.next() => Some((frame?, Some(body))),
                () = cancel.cancelled() => Some((draining_trailers(), None)),
            }
        }
    });
    Body::new(StreamBody::new(Box::pin(frames)))
}

fn draining_trailers() -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    let status = RpcError::Draining.status(&generate_request_id());
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

fn ready(response: Response<Body>) -> ResponseFuture {
    Box::pin(std::future::ready(response.map(CallBody::from)))
}

/// The response to a request that is not gRPC.
fn http_error(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Reflection over everything that the port serves.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

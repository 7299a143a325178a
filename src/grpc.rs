//! The inbound edge: gRPC requests in, gRPC responses out. It knows [`crate::domain`] and not the upstream, and no socket.
//!
//! Read `service.rs` first: it implements the trait that tonic generates. `call.rs` is the layer around it, and
//! `message_guard.rs` what it sees of the request's body. Health and reflection are tonic's own services.
//!
//! Sources: gRPC over HTTP/2 (`PROTOCOL-HTTP2.md`), `google.rpc.Code` and `google/rpc/error_details.proto`.

mod access_log;
mod authorization;
mod call;
mod context;
mod convert;
mod deadline;
mod headers;
pub mod health;
mod message_guard;
mod service;
mod status;

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use prost::Message;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;

pub use authorization::{AuthorizationPolicy, Config as AuthorizationConfig};
pub use context::{Config, PeerIdentity};
pub use deadline::{Limits as DeadlineLimits, Malformed as MalformedTimeout, timeout as grpc_timeout};
pub use status::{DOMAIN, RpcError, Violation, code_name};

use self::health::Readiness;
use crate::domain::BackupShares;
use crate::metrics::Metrics;
use crate::proto::FILE_DESCRIPTOR_SET;
use crate::proto::backup_share_service_server::SERVICE_NAME;
use call::CallHandler;
use context::METHOD;

/// The gRPC service, as health and reflection name it.
pub const SERVICE: &str = SERVICE_NAME;
/// When the edge has to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Streams that do not end by themselves, such as `Watch`, end.
    pub streams: CancellationToken,
    /// Calls that are still in flight end with `DRAINING`.
    pub calls: CancellationToken,
}

/// A boxed response future: the connection moves it several times before it is polled, and a pointer is cheap to move.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Everything that answers on the gRPC port.
pub struct Router<S>(Arc<Inner<S>>);

struct Inner<S> {
    calls: Arc<CallHandler<S>>,
    /// Health and reflection, and the paths of their methods.
    routes: Routes,
    route_paths: HashSet<String>,
    stop: Stop,
}

impl<S> Clone for Router<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: BackupShares> Router<S> {
    /// Puts the services together. Without a policy, every caller may name every project.
    pub fn new(
        config: Config,
        authorization: Option<Arc<AuthorizationPolicy>>,
        shares: S,
        readiness: &Readiness,
        metrics: Metrics,
        stop: Stop,
    ) -> Result<Self, String> {
        let mut descriptor_sets = vec![tonic_health::pb::FILE_DESCRIPTOR_SET];
        let mut routes = Routes::new(readiness.service(&[SERVICE]));
        if config.reflection {
            use tonic_reflection::pb;
            routes = routes
                .add_service(reflection().build_v1().map_err(|error| error.to_string())?)
                .add_service(reflection().build_v1alpha().map_err(|error| error.to_string())?);
            descriptor_sets.extend([pb::v1::FILE_DESCRIPTOR_SET, pb::v1alpha::FILE_DESCRIPTOR_SET]);
        }
        let mut route_paths = HashSet::new();
        for set in descriptor_sets {
            route_paths.extend(method_paths(set)?);
        }
        let calls = CallHandler::new(config, authorization, shares, metrics, stop.calls.clone());
        let routes = routes.prepare();
        Ok(Self(Arc::new(Inner { calls: Arc::new(calls), routes, route_paths, stop })))
    }

    /// Answers one HTTP request. Dropping the future cancels the call, at the upstream too.
    pub fn handle<B>(self, request: Request<B>, peer: PeerIdentity) -> ResponseFuture
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let ready = |response| Box::pin(std::future::ready(response));
        if request.method() != Method::POST {
            return ready(http_error(StatusCode::METHOD_NOT_ALLOWED, Some((header::ALLOW, "POST"))));
        }
        if !headers::is_grpc(request.headers()) {
            return ready(http_error(StatusCode::UNSUPPORTED_MEDIA_TYPE, None));
        }
        let path = request.uri().path();
        // Not through `routes`: its matching costs some thousand instructions.
        if path.strip_prefix('/') == Some(METHOD) {
            return Box::pin(Arc::clone(&self.0.calls).call(request, peer));
        }
        if !self.0.route_paths.contains(path) {
            let request_id = headers::request_id(request.headers());
            return ready(RpcError::MethodNotFound.response(&request_id));
        }
        let response = self.0.routes.clone().call(request);
        Box::pin(async move {
            let Ok(response) = response.await;
            response.map(|body| Body::new(CancellableBody::new(body, self.0.stop.streams.clone())))
        })
    }
}

/// Reflection over everything that the port serves.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// The response to a request that is not gRPC.
fn http_error(status: StatusCode, header: Option<(HeaderName, &'static str)>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if let Some((name, value)) = header {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The paths of all methods in an encoded descriptor set.
fn method_paths(set: &[u8]) -> Result<Vec<String>, String> {
    let set = prost_types::FileDescriptorSet::decode(set).map_err(|error| error.to_string())?;
    let paths = set.file.iter().flat_map(|file| {
        file.service.iter().flat_map(|service| {
            service
                .method
                .iter()
                .map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name()))
        })
    });
    Ok(paths.collect())
}

/// A response body that ends with UNAVAILABLE when the process drains. A `Watch` would never end by itself.
struct CancellableBody {
    body: Body,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    is_ended: bool,
}

impl CancellableBody {
    fn new(body: Body, cancel: CancellationToken) -> Self {
        Self { body, cancelled: Box::pin(cancel.cancelled_owned()), is_ended: false }
    }
}

impl http_body::Body for CancellableBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        std::task::ready!(self.cancelled.as_mut().poll(context));
        self.is_ended = true;
        let mut trailers = HeaderMap::new();
        let status = RpcError::Draining.status(&headers::request_id(&HeaderMap::new()));
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended || self.body.is_end_stream()
    }
}

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
use super::admission::{Admission, Caller, CallerId, Policy, Slot};
use super::authorization::AuthorizationPolicy;
use super::call::CallHandler;
use super::call_body::CallBody;
use super::context::{generate_request_id, request_id};
use super::endpoint_limits::{EndpointLimits, PeerLimits};
use super::health::Readiness;
use super::message_guard::MessageGuard;
use super::reflection;
use super::status::RpcError;
use crate::domain::BackupShares;
use crate::metrics::Metrics;
use crate::proto::METHODS;
use crate::server::{self, Peer};

const HEALTH_PATHS: [&str; 2] = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];

/// What ends the requests that do not end by themselves when the process drains.
#[derive(Clone, Debug, Default)]
pub struct CancelTokens {
    /// Ends the streams of health and reflection.
    pub streams: CancellationToken,
    /// Ends the calls that are still in flight, with `DRAINING`.
    pub calls: CancellationToken,
}

/// The response future is boxed: the connection moves it several times before it is polled, and a pointer is cheap to move.
type Reply = server::Reply<CallBody, Pin<Box<dyn Future<Output = Response<CallBody>> + Send>>>;

/// Everything that the gRPC port serves.
pub struct Router<S> {
    calls: Arc<CallHandler<S>>,
    admission: Arc<Admission>,
    health: HealthServer<Readiness>,
    reflection: Option<Routes>,
    limits: EndpointLimits,
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
        let reflection = if config.reflection { Some(reflection::routes()?) } else { None };
        let limits = EndpointLimits::new(config.message_timeout);
        let admission = Admission::new(Policy::FairShares { limit: config.max_in_flight });
        let calls = Arc::new(CallHandler::new(config, authorization, shares, metrics, cancel.calls));
        let health = HealthServer::new(readiness.clone());
        Ok(Arc::new(Self { calls, admission, health, reflection, limits, cancel_streams: cancel.streams }))
    }

    /// What handles the requests of one connection.
    pub fn connect(self: &Arc<Self>, peer: Peer) -> Connection<S> {
        let caller = self.admission.caller(CallerId::of(&peer));
        let limits = self.limits.of_peer(&peer);
        Connection { router: Arc::clone(self), peer: Arc::new(peer), caller, limits }
    }
}

/// Handles the requests of one connection.
pub struct Connection<S> {
    router: Arc<Router<S>>,
    peer: Arc<Peer>,
    caller: Arc<Caller>,
    limits: PeerLimits,
}

impl<S: BackupShares> Connection<S> {
    /// Handles one HTTP request. Dropping the future, or the body of the response, cancels the call, at the upstream too.
    pub fn handle<B>(&self, request: Request<B>) -> Reply
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
        if let Some(method) = METHODS.into_iter().find(|method| path.strip_prefix('/') == Some(method)) {
            let calls = Arc::clone(&self.router.calls);
            return match calls.call(method, request, Arc::clone(&self.peer), &self.caller) {
                server::Reply::Left(refusal) => Reply::Left(refusal),
                server::Reply::Right(response) => Reply::Right(Box::pin(response)),
            };
        }
        let is_health = HEALTH_PATHS.contains(&path);
        let reflection = self.router.reflection.clone().filter(|_| reflection::PATHS.contains(&path));
        if !is_health && reflection.is_none() {
            return ready(RpcError::MethodNotFound.response(&request_id(request.headers())));
        }
        let Some(slot) = self.limits.try_acquire() else {
            return ready(PeerLimits::refusal());
        };
        let cancel = self.router.cancel_streams.clone();
        Reply::Right(match reflection {
            Some(routes) => Box::pin(reflect(routes, self.limits.guard(request, false), cancel, slot)),
            None => {
                let response = self.router.health.clone().call(self.limits.guard(request, true));
                Box::pin(async move {
                    let Ok(response) = response.await;
                    response.map(|body| ended_by(body, draining(cancel), slot))
                })
            }
        })
    }
}

/// Handles one stream of reflection.
async fn reflect<B>(
    mut routes: Routes,
    request: Request<MessageGuard<B>>,
    cancel: CancellationToken,
    slot: Slot,
) -> Response<CallBody>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    let (head, body) = request.into_parts();
    let (body, first_error) = reflection::read_ahead(body);
    let Ok(response) = routes.call(Request::from_parts(head, body)).await;
    let end = async move {
        tokio::select! {
            Ok(status) = first_error => status,
            status = draining(cancel) => status,
        }
    };
    response.map(|body| ended_by(body, end, slot))
}

impl<S: BackupShares + 'static> server::Service for Arc<Router<S>> {
    type Connection = Connection<S>;

    fn connect(&self, peer: Peer) -> Connection<S> {
        Router::connect(self, peer)
    }
}

impl<S: BackupShares + 'static> server::ConnectionService for Connection<S> {
    type Body = CallBody;

    fn call(
        &self,
        request: Request<Incoming>,
    ) -> server::Reply<CallBody, impl Future<Output = Response<CallBody>> + Send + 'static> {
        self.handle(request)
    }

    fn is_misused(&self) -> bool {
        self.limits.is_misused()
    }
}

/// Whether the content type is `application/grpc`, alone or followed by `+proto` or a parameter. `application/grpc-web` is
/// another protocol, and protobuf is the only message format.
fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"].iter().any(|known| media_type.eq_ignore_ascii_case(known))
}

/// The status of a stream that is open when `cancel` is cancelled. A health `Watch` would never end.
async fn draining(cancel: CancellationToken) -> Status {
    cancel.cancelled().await;
    // First the last state of a `Watch`: NOT_SERVING.
    tokio::task::yield_now().await;
    RpcError::Draining.status(&generate_request_id())
}

/// A response body that holds a slot, and ends with the status of `end` if that is ready before.
fn ended_by(body: Body, end: impl Future<Output = Status> + Send + 'static, slot: Slot) -> CallBody {
    // A response without a body must stay one: its status is in the headers.
    if body.is_end_stream() {
        return body.into();
    }
    let state = Some((BodyStream::new(body), Box::pin(end), slot));
    let frames = stream::unfold(state, |state| async {
        let (mut body, mut end, slot) = state?;
        tokio::select! {
            biased;
            status = &mut end => Some((trailers(&status), None)),
            frame = body.next() => Some((frame?, Some((body, end, slot)))),
        }
    });
    Body::new(StreamBody::new(Box::pin(frames))).into()
}

fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

fn ready(response: Response<Body>) -> Reply {
    Reply::Left(std::future::ready(response.map(CallBody::from)))
}

/// The response to a request that is not gRPC.
fn http_error(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

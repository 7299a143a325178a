//! The inbound edge: gRPC over an HTTP request and back. It checks in the order overload, caller, token, request, asks the
//! upstream, and turns the answer into protobuf or a status; it must not know sockets.
//!
//! GetBackupShare does not go through tonic's generated server: that one merges trailers into the metadata after every
//! layer has run, ignores a second message, and leaves deadlines and details to chance. Health and reflection do.

mod access_log;
mod allow;
mod deadline;
mod request;
mod response;
mod status;

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use prost::Message;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;

pub use allow::{Access, Config as AccessConfig};
pub use deadline::{Limits as DeadlineLimits, Malformed as MalformedTimeout, timeout as grpc_timeout};
pub use status::{DOMAIN, Failure, Violation, code_name};

use crate::credentials::{self, Credential};
use crate::health::Readiness;
use crate::proto::{FILE_DESCRIPTOR_SET, GetBackupShareRequest, GetBackupShareResponse};
use crate::telemetry::{Metrics, Traces};
use crate::upstream::{Found, Query, Upstream};
use access_log::Record;

/// The gRPC service, as health and reflection name it.
pub const SERVICE: &str = "vbs.v2.BackupShareService";
/// The method, as OpenTelemetry names it.
const METHOD: &str = "vbs.v2.BackupShareService/GetBackupShare";

/// Set by a gRPC client that tries a call again.
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// Limits of the calls.
#[derive(Clone, Debug)]
pub struct Config {
    /// Calls that may be in flight at once in the whole process.
    pub max_in_flight: usize,
    /// How long a call may take.
    pub deadlines: DeadlineLimits,
    /// Whether clients may ask which services and types there are.
    pub reflection: bool,
}

/// The live parts that calls use besides the upstream.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Who may read what; without rules, whoever reaches the port may read what its token lets it.
    pub access: Option<Arc<Access>>,
    /// Where the credentials for the upstream come from.
    pub credentials: credentials::Mode,
    /// The spans of the calls.
    pub traces: Traces,
}

/// Who calls.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The address that the connection comes from.
    pub address: Option<SocketAddr>,
    /// The address in words.
    pub shown: Arc<str>,
    /// The names that its certificate proves.
    pub names: Arc<[String]>,
}

/// When the edge has to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Streams that do not end by themselves, such as `Watch`, end.
    pub streams: CancellationToken,
    /// Calls that still run end with `DRAINING`.
    pub calls: CancellationToken,
}

/// An answer under way. Boxed once, here: it is moved some times until it runs.
pub type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Everything that answers on the gRPC port.
#[derive(Clone)]
pub struct Rpc(Arc<Inner>);

struct Inner {
    config: Config,
    parts: Parts,
    in_flight: Semaphore,
    upstream: Upstream,
    metrics: Metrics,
    stop: Stop,
    /// Health and reflection, and the paths of their methods.
    others: Routes,
    other_paths: HashSet<String>,
}

impl Rpc {
    /// Puts the service together.
    pub fn new(
        config: Config,
        parts: Parts,
        upstream: Upstream,
        readiness: &Readiness,
        metrics: Metrics,
        stop: Stop,
    ) -> Result<Self, String> {
        let mut described = vec![tonic_health::pb::FILE_DESCRIPTOR_SET];
        let mut others = Routes::new(readiness.service(&[SERVICE]));
        if config.reflection {
            use tonic_reflection::{pb, server::Builder};
            let types = [
                FILE_DESCRIPTOR_SET,
                tonic_health::pb::FILE_DESCRIPTOR_SET,
                tonic_types::pb::FILE_DESCRIPTOR_SET,
            ];
            let builder = || {
                types.iter().fold(Builder::configure(), |builder, set| {
                    builder.register_encoded_file_descriptor_set(set)
                })
            };
            others = others
                .add_service(builder().build_v1().map_err(|error| error.to_string())?)
                .add_service(builder().build_v1alpha().map_err(|error| error.to_string())?);
            described.extend([pb::v1::FILE_DESCRIPTOR_SET, pb::v1alpha::FILE_DESCRIPTOR_SET]);
        }
        let mut other_paths = HashSet::new();
        for set in described {
            other_paths.extend(method_paths(set)?);
        }
        let in_flight = Semaphore::new(config.max_in_flight.min(Semaphore::MAX_PERMITS));
        Ok(Self(Arc::new(Inner {
            config,
            parts,
            in_flight,
            upstream,
            metrics,
            stop,
            others: others.prepare(),
            other_paths,
        })))
    }

    /// Answers one HTTP request. Dropping the future cancels the call, at the upstream too.
    pub fn handle<B>(self, request: Request<B>, caller: Caller) -> Answer
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let at_once = |response| Box::pin(std::future::ready(response));
        if request.method() != Method::POST {
            return at_once(refuse(StatusCode::METHOD_NOT_ALLOWED, Some((header::ALLOW, "POST"))));
        }
        if !is_grpc(request.headers()) {
            return at_once(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, None));
        }
        let path = request.uri().path();
        if path.strip_prefix('/') == Some(METHOD) {
            return Box::pin(self.0.get_backup_share(request, caller));
        }
        if !self.0.other_paths.contains(path) {
            let request_id = request::request_id(request.headers());
            return at_once(Failure::MethodNotFound.response(&request_id));
        }
        let answer = self.0.others.clone().call(request);
        Box::pin(async move {
            let Ok(response) = answer.await;
            response.map(|body| Body::new(EndOnStop::new(body, self.0.stop.streams.clone())))
        })
    }
}

impl Inner {
    /// No `async fn`, which would keep the request beside its parts: memory that every call has to touch.
    fn get_backup_share<B>(
        self: Arc<Self>,
        request: Request<B>,
        caller: Caller,
    ) -> impl Future<Output = Response<Body>> + Send
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    {
        let arrival = Instant::now();
        let (http::request::Parts { headers, .. }, body) = request.into_parts();
        let call = Call::read(&headers, arrival, &self.config.deadlines);
        let span = self.parts.traces.call(METHOD, request::trace_context(&headers), caller.address);
        let (time, id) = (call.deadline - arrival, request::request_id(&headers));
        let mut record = Record::begin(&self.metrics, arrival, id, span, caller, time);
        async move {
            let answer = self.answer(&call, &headers, body, &record);
            let result = AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(|_| {
                self.metrics.panics.inc();
                Err(Failure::Panic)
            });
            match result {
                Ok(found) => {
                    record.found(found.request_id);
                    succeed(found.share.into(), &record.request_id)
                }
                Err(failure) => {
                    record.failed(&failure);
                    failure.response(&record.request_id)
                }
            }
        }
    }

    async fn answer<B>(
        &self,
        call: &Call,
        headers: &HeaderMap,
        body: B,
        record: &Record,
    ) -> Result<Found, Failure>
    where
        B: http_body::Body<Data = Bytes>,
    {
        let _permit = self.admit()?;
        let access = self.parts.access.as_deref();
        if access.is_some_and(|access| !access.knows(&record.caller.names)) {
            return Err(Failure::CallerNotAllowed);
        }
        // A rule is about a project, which only the message tells; without rules a bad token needs no message.
        let read_credential = || self.parts.credentials.credential(headers).map_err(Failure::Token);
        let credential = access.is_none().then(read_credential).transpose()?;
        let answer = async {
            let message = request::message(headers, body).await?;
            if access.is_some_and(|access| !access.allows(&record.caller.names, &message.project_id)) {
                return Err(Failure::CallerNotAllowed);
            }
            let query = call.query(message, credential.map_or_else(read_credential, Ok)?, record)?;
            let result = self.upstream.get_backup_share(&query).await;
            result.map_err(|error| Failure::Upstream(Box::new(error)))
        };
        tokio::select! {
            result = timeout_at(call.deadline, answer) => result.unwrap_or(Err(Failure::DeadlineExceeded)),
            () = self.stop.calls.cancelled() => Err(Failure::Draining),
        }
    }

    /// A place among the calls in flight, at once or not at all.
    fn admit(&self) -> Result<SemaphorePermit<'_>, Failure> {
        self.in_flight.try_acquire().map_err(|_| {
            self.metrics.shed.inc();
            Failure::Overloaded
        })
    }
}

/// What the headers of a call say of time and attempts.
struct Call {
    deadline: Instant,
    timeout_is_malformed: bool,
    may_retry: bool,
}

impl Call {
    fn read(headers: &HeaderMap, arrival: Instant, limits: &DeadlineLimits) -> Self {
        let timeout = deadline::timeout(headers);
        Self {
            deadline: arrival + limits.clamp(timeout.ok().flatten()),
            timeout_is_malformed: timeout.is_err(),
            // A client that retries by itself would multiply our attempts with its own.
            may_retry: !headers.contains_key(PREVIOUS_ATTEMPTS),
        }
    }

    /// What to ask the upstream, if the request passes its check.
    fn query<'a>(
        &self,
        message: GetBackupShareRequest,
        credential: Credential,
        record: &'a Record,
    ) -> Result<Query<'a>, Failure> {
        let checked = request::check(message, self.timeout_is_malformed)?;
        record.asks(&checked.project_id, &checked.id);
        Ok(Query {
            project_id: checked.project_id,
            id: checked.id,
            credential,
            request_id: &record.request_id,
            span: &record.span,
            deadline: self.deadline,
            may_retry: self.may_retry,
            progress: &record.progress,
        })
    }
}

fn succeed(reply: GetBackupShareResponse, request_id: &HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::new(Reply { unsent: framed(&reply), is_ended: false }));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
    headers.insert(request::REQUEST_ID_HEADER, request_id.clone());
    response
}

/// A message and the status OK.
struct Reply {
    unsent: Bytes,
    is_ended: bool,
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    /// In pieces that h2 copies behind what else is to be sent (see `server::prefixed`), if they fit there: one that it does
    /// not copy is a system call, and the trailers behind it another one.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        const COPIED: usize = 1023;
        const BUFFER: usize = 16 * 1024;
        if self.is_ended {
            return Poll::Ready(None);
        }
        let length = self.unsent.len();
        if length == 0 {
            self.is_ended = true;
            let trailers = HeaderMap::from_iter([(status::HEADER, HeaderValue::from_static("0"))]);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let piece = if length < BUFFER { length.min(COPIED) } else { length };
        Poll::Ready(Some(Ok(Frame::data(self.unsent.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended
    }
}

/// A message as gRPC frames it: not compressed, its length, its bytes.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    // No reply is near 4 GiB: the upstream's body has a limit.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut frame);
    frame.freeze()
}

/// What is no gRPC gets an answer of HTTP.
fn refuse(status: StatusCode, header: Option<(HeaderName, &'static str)>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    if let Some((name, value)) = header {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// `application/grpc`, alone or followed by `+proto` or a parameter; `application/grpc-web` is another protocol, and
/// other message formats than protobuf are not understood.
fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(essence.as_str(), "application/grpc" | "application/grpc+proto")
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

/// A body that ends with UNAVAILABLE when the process stops: a `Watch` would go on for ever.
struct EndOnStop {
    body: Body,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl EndOnStop {
    fn new(body: Body, stop: CancellationToken) -> Self {
        Self { body, stop: Box::pin(stop.cancelled_owned()), ended: false }
    }
}

impl http_body::Body for EndOnStop {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        std::task::ready!(self.stop.as_mut().poll(context));
        self.ended = true;
        let mut trailers = HeaderMap::new();
        let status = Failure::Draining.status(&request::request_id(&HeaderMap::new()));
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}

//! The call layer: everything around GetBackupShare that tonic's generated server does not do.
//!
//! In this order: read the headers (request ID, deadline, trace context, token), admit the call or refuse it as overload,
//! refuse an unknown caller, refuse a missing or invalid token; then the service, until the deadline or the end of the
//! drain; then the details of its status, and the access log. A panic becomes a status. tonic has the reasons: it merges
//! the trailers into the metadata after every layer has run, and reports its own deadline as CANCELLED.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;
use tracing::Instrument;

use super::access_log::CallRecord;
use super::authorization::AuthorizationPolicy;
use super::context::{Call, Config, METHOD, PeerIdentity};
use super::headers;
use super::message_guard::{MAX_MESSAGE_BYTES, MessageGuard};
use super::service::BackupShareGateway;
use super::status::RpcError;
use crate::domain::BackupShares;
use crate::metrics::Metrics;
use crate::proto::backup_share_service_server::BackupShareServiceServer;
use crate::telemetry::spans::CallSpan;

/// Handles calls of GetBackupShare.
pub(super) struct CallHandler<S> {
    config: Config,
    authorization: Option<Arc<AuthorizationPolicy>>,
    in_flight: Semaphore,
    service: BackupShareServiceServer<BackupShareGateway<S>>,
    metrics: Metrics,
    /// Ends the calls that are still in flight, with DRAINING.
    cancel: CancellationToken,
}

impl<S: BackupShares> CallHandler<S> {
    pub(super) fn new(
        config: Config,
        authorization: Option<Arc<AuthorizationPolicy>>,
        shares: S,
        metrics: Metrics,
        cancel: CancellationToken,
    ) -> Self {
        let gateway = BackupShareGateway::new(shares, authorization.clone());
        Self {
            in_flight: Semaphore::new(config.max_in_flight.min(Semaphore::MAX_PERMITS)),
            config,
            authorization,
            service: BackupShareServiceServer::new(gateway).max_decoding_message_size(MAX_MESSAGE_BYTES),
            metrics,
            cancel,
        }
    }

    /// Handles one call. Dropping the future cancels it, at the upstream too.
    ///
    /// Not an `async fn`: its future would store the request twice.
    pub(super) fn call<B>(
        self: Arc<Self>,
        mut request: Request<B>,
        peer: PeerIdentity,
    ) -> impl Future<Output = Response<Body>> + Send
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let arrival = Instant::now();
        let call = Arc::new(Call::read(request.headers(), peer, arrival, &self.config));
        let context = &call.context;
        let call_span = CallSpan::start(METHOD, &context.request_id, &context.trace, call.peer.address);
        let span = call_span.span.clone();
        let mut record = CallRecord::new(&self.metrics, arrival, Arc::clone(&call), call_span);
        request.extensions_mut().insert(Arc::clone(&call));
        let request = request.map(MessageGuard::new);
        let respond = async move {
            let result = AssertUnwindSafe(self.serve(&call, request)).catch_unwind().await;
            let result = result.unwrap_or_else(|_| {
                self.metrics.panics.inc();
                Err(RpcError::Panic)
            });
            respond(&mut record, &call, result)
        };
        respond.instrument(span)
    }

    async fn serve<B>(
        &self,
        call: &Call,
        request: Request<MessageGuard<B>>,
    ) -> Result<Response<Body>, RpcError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let _permit = self.admit()?;
        match &self.authorization {
            Some(policy) if !policy.is_known(&call.peer.names) => return Err(RpcError::CallerNotAllowed),
            // The token is checked after the project, which only the message names.
            Some(_) => {}
            None => call.check_token()?,
        }
        let response = self.service.clone().call(request);
        tokio::select! {
            result = timeout_at(call.context.deadline, response) => match result {
                Ok(Ok(response)) => Ok(response),
                Err(_) => Err(RpcError::DeadlineExceeded),
            },
            () = self.cancel.cancelled() => Err(RpcError::Draining),
        }
    }

    /// A slot among the calls in flight, immediately or not at all.
    fn admit(&self) -> Result<SemaphorePermit<'_>, RpcError> {
        self.in_flight.try_acquire().map_err(|_| {
            self.metrics.shed.inc();
            RpcError::Overloaded
        })
    }
}

/// The response, with the details of its status; `record` keeps how the call ended.
fn respond(record: &mut CallRecord, call: &Call, result: Result<Response<Body>, RpcError>) -> Response<Body> {
    let request_id = &call.context.request_id;
    let mut fail = |error: &RpcError| {
        record.fail(error);
        error.response(request_id)
    };
    let mut response = match result {
        Ok(response) => response,
        Err(error) => return fail(&error),
    };
    // tonic keeps here the status of a response that is an error.
    if let Some(status) = response.extensions_mut().remove::<Status>() {
        return RpcError::with_source_of(&status, fail);
    }
    record.succeed();
    response.headers_mut().insert(headers::REQUEST_ID, request_id.clone());
    response
}

//! The call layer: everything around a call that tonic's generated server does not do.
//!
//! In this order: read the headers (request ID, deadline, trace context, token); refuse the call if the gateway is overloaded, the
//! caller unknown, or the token missing or invalid; run the service until the deadline or the end of the drain; add the
//! details to its status; write the access log. A panic becomes a status.
//!
//! tonic cannot do this: it merges the trailers into the metadata after every layer has run, and reports its own deadline as
//! CANCELLED. `tests/gateway/` tests the layer through a real server.

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
use super::config::Config;
use super::context::{Call, PeerIdentity};
use super::message_guard::{MAX_MESSAGE_BYTES, MessageGuard};
use super::service::BackupShareGateway;
use super::status::RpcError;
use crate::domain::{BackupShares, REQUEST_ID_HEADER};
use crate::metrics::Metrics;
use crate::proto::backup_share_service_server::BackupShareServiceServer;
use crate::telemetry::spans::CallSpan;

/// Handles the calls of the service's methods.
pub(super) struct CallHandler<S> {
    config: Config,
    authorization: Option<Arc<AuthorizationPolicy>>,
    in_flight: Semaphore,
    service: BackupShareServiceServer<BackupShareGateway<S>>,
    metrics: Metrics,
    /// Ends the calls that are still in flight, with `DRAINING`.
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

    /// Handles one call of `method`. Dropping the future cancels it, at the upstream too.
    ///
    /// Not an `async fn`: its future would store the request twice.
    pub(super) fn call<B>(
        self: Arc<Self>,
        method: &'static str,
        mut request: Request<B>,
        peer: PeerIdentity,
    ) -> impl Future<Output = Response<Body>> + Send
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let arrival = Instant::now();
        let call = Arc::new(Call::read(method, request.headers(), peer, arrival, &self.config));
        let context = &call.context;
        let call_span = CallSpan::start(method, &context.request_id, &context.trace, call.peer.address);
        let span = call_span.span.clone();
        let mut record = CallRecord::new(&self.metrics, arrival, Arc::clone(&call), call_span);
        request.extensions_mut().insert(Arc::clone(&call));
        let request = request.map(MessageGuard::new);
        let respond = async move {
            let result = AssertUnwindSafe(self.serve(&call, request)).catch_unwind().await;
            let result = result.unwrap_or_else(|_panic| {
                self.metrics.panics.inc();
                Err(RpcError::Internal)
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
            // The token is checked after the project, which only the message names: see `service.rs`.
            Some(policy) => check_caller(policy, call)?,
            None => call.check_token()?,
        }
        let response = self.service.clone().call(request);
        tokio::select! {
            result = timeout_at(call.context.deadline, response) => match result {
                Ok(Ok(response)) => Ok(response),
                Err(_elapsed) => Err(RpcError::DeadlineExceeded),
            },
            () = self.cancel.cancelled() => Err(RpcError::Draining),
        }
    }

    /// A permit for a call in flight, immediately or not at all.
    fn admit(&self) -> Result<SemaphorePermit<'_>, RpcError> {
        self.in_flight.try_acquire().map_err(|_| {
            self.metrics.shed.inc();
            RpcError::Overloaded
        })
    }
}

/// Refuses a caller that no rule names.
fn check_caller(policy: &AuthorizationPolicy, call: &Call) -> Result<(), RpcError> {
    if policy.is_known(&call.peer.names) { Ok(()) } else { Err(RpcError::CallerNotAllowed) }
}

/// The response with the details of its status. `record` gets the outcome of the call.
fn respond(record: &mut CallRecord, call: &Call, result: Result<Response<Body>, RpcError>) -> Response<Body> {
    let mut response = match result {
        Ok(response) => response,
        Err(error) => return respond_with_error(record, call, &error),
    };
    // tonic keeps the status of an error response in its extensions.
    if let Some(status) = response.extensions_mut().remove::<Status>() {
        return respond_with_error(record, call, RpcError::of_status(&status));
    }
    record.succeed();
    response.headers_mut().insert(REQUEST_ID_HEADER, call.context.request_id.clone());
    response
}

fn respond_with_error(record: &mut CallRecord, call: &Call, error: &RpcError) -> Response<Body> {
    record.fail(error);
    error.response(&call.context.request_id)
}

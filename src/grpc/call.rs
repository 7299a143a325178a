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
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;
use tracing::Instrument;

use super::Config;
use super::access_log::CallRecord;
use super::authorization::AuthorizationPolicy;
use super::context::Call;
use super::message_guard::{MAX_MESSAGE_BYTES, MessageGuard};
use super::service::BackupShareGateway;
use super::status::RpcError;
use crate::domain::{BackupShares, REQUEST_ID_HEADER};
use crate::metrics::Metrics;
use crate::proto::backup_share_service_server::BackupShareServiceServer;
use crate::server::Peer;
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
        let gateway = BackupShareGateway { shares, authorization: authorization.clone() };
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
        peer: Peer,
    ) -> impl Future<Output = Response<Body>> + Send
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let arrival = Instant::now();
        let call = Arc::new(Call::read(method, request.headers(), peer, arrival, &self.config));
        let context = &call.context;
        let call_span = CallSpan::start(method, &context.request_id, &context.trace, Some(call.peer.address));
        let span = call_span.span.clone();
        let mut record = CallRecord::new(&self.metrics, arrival, Arc::clone(&call), call_span);
        request.extensions_mut().insert(Arc::clone(&call));
        let request = request.map(MessageGuard::new);
        let respond = async move {
            let result = AssertUnwindSafe(self.serve(&call, request)).catch_unwind().await;
            let result = result.unwrap_or_else(|_panic| {
                self.metrics.panics.inc();
                Err(RpcError::Internal.into())
            });
            match result {
                Ok(mut response) => {
                    record.succeed();
                    response.headers_mut().insert(REQUEST_ID_HEADER, call.context.request_id.clone());
                    response
                }
                Err(status) => {
                    let error = RpcError::of_status(&status);
                    record.fail(error);
                    error.response(&call.context.request_id)
                }
            }
        };
        respond.instrument(span)
    }

    async fn serve<B>(&self, call: &Call, request: Request<MessageGuard<B>>) -> Result<Response<Body>, Status>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        // A permit immediately or not at all.
        let _permit = self.in_flight.try_acquire().map_err(|_| {
            self.metrics.shed.inc();
            RpcError::Overloaded
        })?;
        match &self.authorization {
            // The token is checked after the project, which only the message names: see `service.rs`.
            Some(policy) => call.identify(policy.known_name(&call.peer.names))?,
            None => call.check_token()?,
        }
        let response = self.service.clone().call(request);
        let mut response = tokio::select! {
            response = timeout_at(call.context.deadline, response) => match response {
                Ok(Ok(response)) => response,
                Err(_elapsed) => return Err(RpcError::DeadlineExceeded.into()),
            },
            () = self.cancel.cancelled() => return Err(RpcError::Draining.into()),
        };
        // tonic keeps the status of an error response in its extensions.
        match response.extensions_mut().remove::<Status>() {
            Some(status) => Err(status),
            None => Ok(response),
        }
    }
}

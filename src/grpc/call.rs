//! The call layer: everything around a call that tonic's generated server does not do.
//!
//! In this order: read the headers (request ID, deadline, trace context, token); refuse the call if it gets no slot, the caller is
//! unknown, or the token is missing or invalid; run the service until the deadline or the end of the drain; add the details to
//! its status. A panic becomes a status. The body of the response carries the record of the call to its end.
//!
//! tonic cannot do this: it merges the trailers into the metadata after every layer has run, and reports its own deadline as
//! CANCELLED. `tests/gateway/` tests the layer through a real server.

use std::future::ready;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::Config;
use super::access_log::CallRecord;
use super::admission::Caller;
use super::authorization::AuthorizationPolicy;
use super::call_body::CallBody;
use super::context::Call;
use super::message_guard::{MessageGuard, MessageLimits};
use super::service::BackupShareGateway;
use super::status::RpcError;
use crate::domain::{BackupShares, REQUEST_ID_HEADER};
use crate::metrics::Metrics;
use crate::proto::backup_share_service_server::BackupShareServiceServer;
use crate::server::{Peer, Reply};
use crate::telemetry::spans::CallSpan;

/// The longest request message, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Handles the calls of the service's methods.
pub(super) struct CallHandler<S> {
    config: Config,
    authorization: Option<Arc<AuthorizationPolicy>>,
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
            config,
            authorization,
            service: BackupShareServiceServer::new(gateway).max_decoding_message_size(MAX_MESSAGE_BYTES),
            metrics,
            cancel,
        }
    }

    /// Handles one call of `method`. Dropping the future, or the body of the response, cancels it, at the upstream too.
    ///
    /// Not an `async fn`: its future would store the request twice.
    pub(super) fn call<B>(
        self: Arc<Self>,
        method: &'static str,
        mut request: Request<B>,
        peer: Arc<Peer>,
        caller: &Arc<Caller>,
    ) -> Reply<CallBody, impl Future<Output = Response<CallBody>> + Send + use<B, S>>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let arrival = Instant::now();
        let call = Arc::new(Call::read(method, request.headers(), peer, arrival, &self.config));
        let context = &call.context;
        let call_span = CallSpan::start(method, &context.request_id, &context.trace, Some(call.peer.address));
        let slot = caller.try_acquire();
        let is_admitted = slot.is_some();
        let cancel = self.cancel.clone();
        let span = call_span.clone();
        let record = CallRecord::new(&self.metrics, arrival, Arc::clone(&call), call_span, cancel, slot);
        if !is_admitted {
            self.metrics.shed.inc();
            return Reply::Left(ready(respond(&call, record, Err(RpcError::Overloaded.into()))));
        }
        request.extensions_mut().insert(Arc::clone(&call));
        let timeout = self.config.message_timeout;
        let limits = MessageLimits { max_bytes: MAX_MESSAGE_BYTES, timeout, is_unary: true };
        let request = request.map(|body| MessageGuard::new(body, limits, arrival));
        let response = async move {
            let result = match catch_unwind(AssertUnwindSafe(|| self.serve(&call, request))) {
                Ok(response) => AssertUnwindSafe(response).catch_unwind().await,
                Err(panic) => Err(panic),
            };
            let result = result.unwrap_or_else(|_panic| {
                self.metrics.panics.inc();
                Err(RpcError::Internal.into())
            });
            respond(&call, record, result)
        };
        Reply::Right(span.instrument(response))
    }

    /// Not an `async fn`, whose future would store the request, which tonic's server has put into a box by then.
    fn serve<B>(
        &self,
        call: &Call,
        request: Request<MessageGuard<B>>,
    ) -> impl Future<Output = Result<Response<Body>, Status>> + use<'_, B, S>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let checked = match &self.authorization {
            // The token is checked after the project, which only the message names: see `service.rs`.
            Some(policy) => call.identify(policy.known_name(&call.peer.names)),
            None => call.check_token(),
        };
        let response = checked.map(|()| self.service.clone().call(request));
        let deadline = call.context.deadline;
        async move {
            let mut response = tokio::select! {
                // Polling the cancellation token takes a lock, so it is not polled if the response is ready.
                biased;
                response = timeout_at(deadline, response?) => match response {
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
}

/// The response to a call, which is recorded when its body ends.
fn respond(
    call: &Call,
    mut record: Box<CallRecord>,
    result: Result<Response<Body>, Status>,
) -> Response<CallBody> {
    match result {
        Ok(mut response) => {
            record.found();
            response.headers_mut().insert(REQUEST_ID_HEADER, call.context.request_id.clone());
            response.map(|body| CallBody::of_call(body, record))
        }
        Err(status) => {
            let error = RpcError::of_status(&status);
            record.fail(error);
            error.response(&call.context.request_id).map(CallBody::from)
        }
    }
}

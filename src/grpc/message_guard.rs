//! The body of a request as tonic gets it: messages within limits of size and time, and no trailers.
//!
//! tonic's server has no time limit for a message, ignores a second message of a unary call, reports a missing one as INTERNAL,
//! and merges the trailers into the metadata, from which a token must never be read. This module knows no method and decodes
//! nothing.
//!
//! Source: gRPC over HTTP/2, `Length-Prefixed-Message`: a byte for the compression, the length in four bytes, the message.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use super::status::RpcError;

/// What a request may send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageLimits {
    /// The longest message, in bytes.
    pub(crate) max_bytes: usize,
    /// How long a message may take from its first byte, and the first one from the start of the stream.
    pub(crate) timeout: Duration,
    /// Whether the request is exactly one message: then the time limit holds for its end, too.
    pub(crate) is_unary: bool,
}

/// The body of a request.
pub(crate) struct MessageGuard<B> {
    body: B,
    limits: MessageLimits,
    /// How many bytes of the prefix have not been received yet.
    prefix_remaining: usize,
    /// How many bytes of the message have not been received yet. While the prefix is read: its last bytes as a number.
    remaining: u32,
    /// When the message must be complete. `None` between the messages of a stream.
    expires_at: Option<Instant>,
    /// Runs if the message was not there at once.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> MessageGuard<B> {
    /// The guard of a request that arrived at `arrival`.
    pub(crate) fn new(body: B, limits: MessageLimits, arrival: Instant) -> Self {
        let expires_at = Some(arrival + limits.timeout);
        Self { body, limits, prefix_remaining: 5, remaining: 0, expires_at, timer: None }
    }

    /// Counts received bytes.
    fn receive(&mut self, mut data: &[u8]) -> Result<(), RpcError> {
        while !data.is_empty() {
            if self.expires_at.is_none() {
                // The next message of a stream begins.
                (self.prefix_remaining, self.remaining) = (5, 0);
                self.expires_at = Some(Instant::now() + self.limits.timeout);
            }
            data = self.receive_prefix(data);
            if self.prefix_remaining > 0 {
                return Ok(());
            }
            if self.remaining as usize > self.limits.max_bytes {
                return Err(RpcError::RequestTooLarge);
            }
            let (message, next) = data.split_at(data.len().min(self.remaining as usize));
            self.remaining -= u32::try_from(message.len()).unwrap_or(self.remaining);
            data = next;
            if self.remaining > 0 {
                return Ok(());
            }
            if !self.limits.is_unary {
                self.expires_at = None;
                self.timer = None;
            } else if !data.is_empty() {
                return Err(RpcError::NotOneMessage);
            }
        }
        Ok(())
    }

    /// Counts the bytes of the prefix, and returns those after it.
    fn receive_prefix<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let (prefix, rest) = data.split_at(data.len().min(self.prefix_remaining));
        for byte in prefix {
            // After five bytes, the compression flag has been shifted out.
            self.remaining = (self.remaining << 8) | u32::from(*byte);
        }
        self.prefix_remaining -= prefix.len();
        rest
    }

    /// Why a body must not end here, if it must not.
    fn error_at_end(&self) -> Option<RpcError> {
        match (self.prefix_remaining, self.remaining) {
            (0, 0) => None,
            (5, _) if self.limits.is_unary => Some(RpcError::NotOneMessage),
            (5, _) => None,
            _ => Some(RpcError::UndecodableMessage),
        }
    }

    /// Is ready when the time for the message is over.
    fn poll_expired(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(expires_at) = self.expires_at else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(expires_at)));
        timer.as_mut().poll(context)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for MessageGuard<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let frame = match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                // The stream or its connection has failed: the caller is gone, and the connection drops this call.
                Poll::Ready(Some(Err(_))) if self.limits.is_unary => return Poll::Pending,
                Poll::Ready(Some(Err(_))) => {
                    return Poll::Ready(Some(Err(Status::cancelled("the stream was reset"))));
                }
                Poll::Ready(None) => {
                    return Poll::Ready(self.error_at_end().map(|error| Err(error.into())));
                }
                Poll::Pending => {
                    let timeout = |()| Some(Err(RpcError::DeadlineExceeded.into()));
                    return self.poll_expired(context).map(timeout);
                }
            };
            // Trailers are dropped.
            let Ok(data) = frame.into_data() else { continue };
            let received = self.receive(&data);
            return Poll::Ready(Some(received.map(|()| Frame::data(data)).map_err(Status::from)));
        }
    }
}

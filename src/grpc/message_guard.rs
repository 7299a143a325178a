//! The body of a unary call's request, as tonic gets it: exactly one message, and no trailers.
//!
//! tonic's server ignores a second message of a unary call, reports a missing one as INTERNAL, and merges the trailers into
//! the metadata, from which a token must never be read. This module knows no method and decodes nothing.
//!
//! Source: gRPC over HTTP/2, `Length-Prefixed-Message`: a byte for the compression, the length in four bytes, the message.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use tonic::Status;

use super::status::RpcError;

/// The longest request message, in bytes.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// The compression flag and the length.
const PREFIX_BYTES: usize = 5;

/// The request body of a unary call.
pub(super) struct MessageGuard<B> {
    body: B,
    prefix: [u8; PREFIX_BYTES],
    /// How much of the prefix has been received.
    prefix_length: usize,
    /// How much of the message has not been received yet.
    remaining: u64,
}

impl<B> MessageGuard<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, prefix: [0; PREFIX_BYTES], prefix_length: 0, remaining: 0 }
    }

    /// Counts received bytes.
    fn receive(&mut self, data: &[u8]) -> Result<(), RpcError> {
        let free = self.prefix.get_mut(self.prefix_length..).unwrap_or_default();
        let (prefix, message) = data.split_at(data.len().min(free.len()));
        for (target, byte) in free.iter_mut().zip(prefix) {
            *target = *byte;
        }
        self.prefix_length += prefix.len();
        if !prefix.is_empty() && self.prefix_length == PREFIX_BYTES {
            let [_compressed, length @ ..] = self.prefix;
            self.remaining = u64::from(u32::from_be_bytes(length));
            if self.remaining > MAX_MESSAGE_BYTES as u64 {
                return Err(RpcError::RequestTooLarge);
            }
        }
        match self.remaining.checked_sub(message.len() as u64) {
            Some(remaining) => self.remaining = remaining,
            None => return Err(RpcError::NotOneMessage),
        }
        Ok(())
    }

    /// Why a body that ends here is not one message, if it is not.
    fn error_at_end(&self) -> Option<RpcError> {
        if self.prefix_length == 0 {
            return Some(RpcError::NotOneMessage);
        }
        let is_complete = self.prefix_length == PREFIX_BYTES && self.remaining == 0;
        if is_complete { None } else { Some(RpcError::UndecodableMessage) }
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
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                // The stream or its connection has failed: the caller is gone, and the connection drops this call.
                Some(Err(_)) => return Poll::Pending,
                None => return Poll::Ready(self.error_at_end().map(|error| Err(error.into()))),
            };
            // Trailers are dropped.
            let Ok(data) = frame.into_data() else { continue };
            let received = self.receive(&data);
            return Poll::Ready(Some(received.map(|()| Frame::data(data)).map_err(Status::from)));
        }
    }
}

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

/// The request body of a unary call.
pub(super) struct MessageGuard<B> {
    body: B,
    /// How many bytes of the prefix have not been received yet.
    prefix_remaining: usize,
    /// How many bytes of the message have not been received yet. While the prefix is read: its last bytes as a number.
    remaining: u32,
}

impl<B> MessageGuard<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, prefix_remaining: 5, remaining: 0 }
    }

    /// Counts received bytes.
    fn receive(&mut self, data: &[u8]) -> Result<(), RpcError> {
        let (prefix, message) = data.split_at(data.len().min(self.prefix_remaining));
        for byte in prefix {
            // After five bytes, the compression flag has been shifted out.
            self.remaining = (self.remaining << 8) | u32::from(*byte);
        }
        self.prefix_remaining -= prefix.len();
        if self.prefix_remaining > 0 {
            return Ok(());
        }
        if self.remaining as usize > MAX_MESSAGE_BYTES {
            return Err(RpcError::RequestTooLarge);
        }
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        self.remaining = self.remaining.checked_sub(length).ok_or(RpcError::NotOneMessage)?;
        Ok(())
    }

    /// Why a body that ends here is not one message, if it is not.
    fn error_at_end(&self) -> Option<RpcError> {
        match (self.prefix_remaining, self.remaining) {
            (0, 0) => None,
            (5, _) => Some(RpcError::NotOneMessage),
            _ => Some(RpcError::UndecodableMessage),
        }
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

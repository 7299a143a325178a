//! Lets exactly one request message through to tonic, and no trailers.
//!
//! tonic's server ignores a second message of a unary call, reports a missing one as INTERNAL, and merges the trailers into
//! the metadata, where a token must never be read from. The framing is that of gRPC over HTTP/2: a byte that tells whether
//! the message is compressed, its length in four bytes, the message.

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
    prefix: [u8; 5],
    /// How much of the prefix has been received.
    prefix_length: usize,
    /// How much of the message is still to be received.
    missing: usize,
}

impl<B> MessageGuard<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, prefix: [0; 5], prefix_length: 0, missing: 0 }
    }

    /// Counts received bytes.
    fn receive(&mut self, data: &[u8]) -> Result<(), RpcError> {
        let free = self.prefix.get_mut(self.prefix_length..).unwrap_or_default();
        let (prefix, message) = data.split_at(data.len().min(free.len()));
        free.iter_mut().zip(prefix).for_each(|(place, byte)| *place = *byte);
        self.prefix_length += prefix.len();
        if !prefix.is_empty() && self.prefix_length == self.prefix.len() {
            let [_, length @ ..] = self.prefix;
            self.missing = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            if self.missing > MAX_MESSAGE_BYTES {
                return Err(RpcError::RequestTooLarge);
            }
        }
        self.missing = self.missing.checked_sub(message.len()).ok_or(RpcError::NotOneMessage)?;
        Ok(())
    }

    /// Whether the body that has ended was one message.
    fn check_end(&self) -> Result<(), RpcError> {
        if self.prefix_length == 0 {
            return Err(RpcError::NotOneMessage);
        }
        let is_complete = self.prefix_length == self.prefix.len() && self.missing == 0;
        if is_complete { Ok(()) } else { Err(RpcError::UnreadableMessage) }
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
                // The stream or its connection has failed: the caller is gone, and this call is about to be dropped.
                Some(Err(_)) => return Poll::Pending,
                None => return Poll::Ready(self.check_end().err().map(|error| Err(error.into()))),
            };
            // Trailers are dropped.
            let Ok(data) = frame.into_data() else { continue };
            let received = self.receive(&data);
            return Poll::Ready(Some(received.map(|()| Frame::data(data)).map_err(Status::from)));
        }
    }
}

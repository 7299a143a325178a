//! The body of a response. A call ends with it: the [`CallRecord`] is in it, with the slot of the call, until the last byte has
//! been handed to the HTTP/2 connection or the stream is reset.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::access_log::CallRecord;
use crate::server::ResponseBody;

/// The longest DATA frame. hyper takes a whole frame as soon as the peer's window has room for a byte of it, so this is what
/// a peer that does not read can make it take.
const MAX_FRAME_BYTES: usize = 16 * 1024;

/// The body of a response, of a call or of another request.
pub struct CallBody {
    body: Body,
    /// What is left of a frame of `body`.
    rest: Bytes,
    record: Option<Box<CallRecord>>,
}

impl CallBody {
    /// The body of a call's response.
    pub(super) fn of_call(body: Body, record: Box<CallRecord>) -> Self {
        Self { body, rest: Bytes::new(), record: Some(record) }
    }

    /// The next DATA frame of `data`; keeps the rest.
    fn split(&mut self, mut data: Bytes) -> Frame<Bytes> {
        if data.len() > MAX_FRAME_BYTES {
            self.rest = data.split_off(MAX_FRAME_BYTES);
        }
        Frame::data(data)
    }
}

impl From<Body> for CallBody {
    fn from(body: Body) -> Self {
        Self { body, rest: Bytes::new(), record: None }
    }
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return Poll::Ready(Some(Ok(self.split(rest))));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) => self.split(data),
            // The trailers are the last frame.
            Err(trailers) => {
                if let Some(record) = &mut self.record {
                    record.complete();
                }
                trailers
            }
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl ResponseBody for CallBody {
    fn deadline(&self) -> Option<Instant> {
        self.record.as_ref().map(|record| record.deadline())
    }
}

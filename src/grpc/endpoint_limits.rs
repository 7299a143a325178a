//! Limits of the endpoints other than the calls: health and reflection on both ports, and the rest of the admin port.
//!
//! They need no token, and a stream of them may stay open for ever. So each port limits the streams, of one IP address and of all,
//! and the size and the time of their messages; a request keeps only the headers that tonic reads. Tests:
//! `tests/gateway/endpoint_limits.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use tokio::time::Instant;
use tonic::body::Body;

use super::admission::{Admission, Caller, CallerId, Policy, Slot};
use super::context::generate_request_id;
use super::message_guard::{MessageGuard, MessageLimits};
use super::status::RpcError;
use crate::server::Peer;

/// The longest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 4 * 1024;
/// The most streams of one port, and of one IP address on it.
const MAX_STREAMS: usize = 1024;
const MAX_STREAMS_PER_ADDRESS: usize = 256;
/// The refused streams after which a connection is closed.
const MAX_REFUSED: usize = 128;
/// The headers that tonic reads.
const HEADERS: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    header::TE,
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
];

/// The limits of one port.
#[derive(Clone, Debug)]
pub(crate) struct EndpointLimits {
    streams: Arc<Admission>,
    message_timeout: Duration,
}

/// The limits of one port, for one connection.
#[derive(Debug)]
pub(crate) struct PeerLimits {
    streams: Arc<Caller>,
    message_timeout: Duration,
    refused: AtomicUsize,
}

impl EndpointLimits {
    /// The time for a message is `message_timeout`.
    pub(crate) fn new(message_timeout: Duration) -> Self {
        let policy = Policy::PerCaller { limit: MAX_STREAMS, per_caller: MAX_STREAMS_PER_ADDRESS };
        Self { streams: Admission::new(policy), message_timeout }
    }

    /// The limits for a connection.
    pub(crate) fn of_peer(&self, peer: &Peer) -> PeerLimits {
        let streams = self.streams.caller(CallerId::address_of(peer));
        PeerLimits { streams, message_timeout: self.message_timeout, refused: AtomicUsize::new(0) }
    }
}

impl PeerLimits {
    /// The slot of a stream, to be held until its response has ended; `None` if there are too many.
    pub(crate) fn try_acquire(&self) -> Option<Slot> {
        let slot = self.streams.try_acquire();
        if slot.is_none() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        slot
    }

    /// Whether more streams were refused on this connection than a client would open by mistake.
    pub(crate) fn is_misused(&self) -> bool {
        self.refused.load(Ordering::Relaxed) >= MAX_REFUSED
    }

    /// The response to a stream that gets no slot.
    pub(crate) fn refusal() -> Response<Body> {
        RpcError::Overloaded.response(&generate_request_id())
    }

    /// The request with its messages limited.
    pub(crate) fn guard<B>(&self, request: Request<B>, is_unary: bool) -> Request<MessageGuard<B>> {
        let limits = MessageLimits { max_bytes: MAX_MESSAGE_BYTES, timeout: self.message_timeout, is_unary };
        let mut request = request.map(|body| MessageGuard::new(body, limits, Instant::now()));
        *request.headers_mut() = copy_headers(request.headers());
        request
    }
}

/// The headers that tonic reads, in memory of their own: the others may be 64 KiB, and would be held as long as the stream.
fn copy_headers(headers: &HeaderMap) -> HeaderMap {
    let copies = HEADERS.into_iter().filter_map(|name| {
        let value = HeaderValue::from_bytes(headers.get(&name)?.as_bytes());
        Some((name, value.ok()?))
    });
    copies.collect()
}

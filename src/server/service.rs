//! What handles the requests of a port.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// The address as text, formatted once for each connection: every call logs it.
    pub addr_display: Arc<str>,
    /// The names in its verified certificate: its SPIFFE ID, or else its DNS names. Empty without mutual TLS.
    pub names: Arc<[String]>,
}

/// Handles the requests of a port.
pub trait Service: Clone + Send + Sync + 'static {
    /// The body of a response.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    /// Handles one request. The future is dropped when the peer cancels the request or disconnects.
    fn call(
        self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + Send + 'static;
}

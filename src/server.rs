//! The transport of a port: accepts connections, and serves HTTP on them until shutdown, within limits.
//!
//! It must not know gRPC services or VBS: what handles the requests of a connection is a [`ConnectionService`]. The order of the parts:
//!
//! - `listener.rs` accepts connections and assigns each to a worker thread (`workers.rs`).
//! - `connection.rs` performs the handshakes (`tls.rs`, `client_verifier.rs`) and serves HTTP by hyper.
//! - `handshake_failures.rs` counts and logs TLS handshakes that failed.
//! - `connection_age.rs` decides when a connection is closed: maximum age with jitter, grace and idle time of gRFC A9
//!   (<https://github.com/grpc/proposal/blob/master/A9-server-side-conn-mgt.md>). It is pure: time comes in, and a decision
//!   comes out.
//!
//! tonic's server is not used: its shutdown waits forever for a silent peer, its age limit sends no GOAWAY and cuts off
//! calls, and it disables hyper's limits against floods. Tests: `tests/gateway/connection_limits.rs`, `tests/gateway/tls.rs`.

mod client_verifier;
mod connection;
mod connection_age;
mod handshake_failures;
mod in_flight;
mod listener;
mod rewind;
mod tls;
pub mod workers;

use std::future::Ready;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prometheus::{IntCounter, IntCounterVec, IntGauge};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use listener::Server;
pub use tls::{Files as TlsFiles, Tls};

/// Limits of one port's connections. The `max_connection_…` times are those of gRFC A9.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether HTTP/1.1 is served, too, for curl and Prometheus; otherwise HTTP/2 with prior knowledge, as gRPC clients use it.
    pub http1: bool,
    /// Concurrent connections. A connection beyond it is closed immediately.
    pub max_connections: usize,
    /// Concurrent requests on one connection.
    pub max_streams: u32,
    /// The age at which a connection gets a GOAWAY, ±10 %, so that clients find new replicas.
    pub max_connection_age: Duration,
    /// How long requests may continue after the GOAWAY: as long as a call may take.
    pub max_connection_age_grace: Duration,
    /// How long a connection may have no request in flight before it gets a GOAWAY.
    pub max_connection_idle: Duration,
    /// The longest time for the TLS handshake and the HTTP/2 preface together, and for the head of an HTTP/1.1 request.
    pub handshake_timeout: Duration,
    /// How often an HTTP/2 PING is sent.
    pub keepalive_interval: Duration,
    /// How long the peer may take to acknowledge a PING before the connection is closed.
    pub keepalive_timeout: Duration,
    /// How long a connection without requests stays open after its GOAWAY if the peer does not acknowledge the PING behind it.
    pub goaway_timeout: Duration,
}

/// The metrics of one port's connections.
#[derive(Clone, Debug)]
pub struct ConnectionMetrics {
    /// Open connections.
    pub open: IntGauge,
    /// Connections that were closed at once because of [`Config::max_connections`].
    pub refused: IntCounter,
    /// TLS handshakes that failed, by reason.
    pub tls_handshake_failures: IntCounterVec,
}

/// Stops a port.
#[derive(Clone, Debug, Default)]
pub struct ServerShutdown {
    /// Stop accepting, send GOAWAY, and finish the requests in flight.
    pub graceful: CancellationToken,
    /// Close the remaining connections.
    pub forced: CancellationToken,
}

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

/// What serves a port.
pub trait Service: Clone + Send + Sync + 'static {
    /// What handles the requests of one connection.
    type Connection: ConnectionService;

    /// Called once for each connection, after its handshakes.
    fn connect(&self, peer: Peer) -> Self::Connection;
}

/// A response that is ready at once, or a future of one.
pub type Reply<B, F> = Either<Ready<Response<B>>, F>;

/// Handles the requests of one connection.
pub trait ConnectionService: Send + Sync + 'static {
    /// The body of a response.
    type Body: ResponseBody;

    /// Handles one request. The future is dropped when the peer cancels the request or disconnects. A response that is ready at
    /// once gets no task: a request that is refused costs little.
    fn call(
        &self,
        request: Request<Incoming>,
    ) -> Reply<Self::Body, impl Future<Output = Response<Self::Body>> + Send + 'static>;

    /// Whether so many requests were refused that the connection is to be closed, when no request is in flight on it: hyper keeps
    /// the memory of the streams that were open at the same time until then.
    fn is_misused(&self) -> bool;
}

/// The body of a response.
pub trait ResponseBody:
    Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static
{
    /// When the stream is reset, unless the whole response has been handed to the HTTP/2 connection: a peer that does not read
    /// must not hold it for longer.
    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// A body that holds `guard` until it is dropped.
pub(crate) fn hold<B: Body, G>(body: B, guard: G) -> impl Body<Data = B::Data, Error = B::Error> + use<B, G> {
    body.map_err(move |error| {
        let _guard = &guard;
        error
    })
}

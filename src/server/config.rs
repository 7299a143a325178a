//! What a port is configured with, and how it is stopped.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The HTTP versions of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 with prior knowledge, as gRPC clients use it.
    Http2,
    /// HTTP/1.1 and HTTP/2, for curl, Prometheus and the kubelet.
    Http1And2,
}

/// Limits of one port's connections. The `max_connection_…` times are those of gRFC A9.
#[derive(Clone, Debug)]
pub struct Config {
    /// The HTTP versions.
    pub protocol: Protocol,
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
}

/// Stops a port.
#[derive(Clone, Debug, Default)]
pub struct ServerShutdown {
    /// Stop accepting, send GOAWAY, and finish the requests in flight.
    pub graceful: CancellationToken,
    /// Close the remaining connections.
    pub forced: CancellationToken,
}

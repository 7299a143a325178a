//! Why a gateway did not start, or did not end in order.

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// Why a gateway did not start, or did not end in order.
#[derive(Debug)]
pub enum Error {
    /// A port cannot be bound.
    Bind {
        /// The address of the port.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// A part cannot be built.
    Setup(String),
    /// The task with this name ended before the process; none should.
    TaskExited(&'static str),
    /// A forced shutdown, which cancels the calls in flight.
    ForcedShutdown,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { address, error } => write!(f, "cannot listen on {address}: {error}"),
            Self::Setup(problem) => f.write_str(problem),
            Self::TaskExited(task) => write!(f, "the {task} task ended; this is a bug in the gateway"),
            Self::ForcedShutdown => f.write_str("stopped immediately by a second signal"),
        }
    }
}

impl std::error::Error for Error {}

//! SIGTERM and SIGINT: the first signal drains the gateway, the second one ends the process immediately.

use std::convert::Infallible;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::Shutdown;

/// Receives the signals. Once it exists, they no longer end the process by themselves.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    pub(super) fn handle() -> Result<Self, String> {
        Self::new().map_err(|error| format!("cannot handle signals: {error}"))
    }

    fn new() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    /// Passes the signals on to `shutdown`. Never returns.
    pub(super) async fn forward(mut self, shutdown: Shutdown) -> Infallible {
        self.next().await;
        shutdown.drain.cancel();
        self.next().await;
        shutdown.now.cancel();
        std::future::pending().await
    }
}

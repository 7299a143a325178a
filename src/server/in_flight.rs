//! Counts the requests in flight on one connection, and notes since when there is none.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::sync::lock;

/// The requests in flight on one connection. It holds when the last one ended, and each request holds a clone.
pub(super) struct InFlight(Arc<Mutex<Instant>>);

/// A request in flight, until it is dropped.
pub(super) struct InFlightGuard(Arc<Mutex<Instant>>);

impl InFlight {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// Counts a request until the guard is dropped.
    pub(super) fn start(&self) -> InFlightGuard {
        InFlightGuard(Arc::clone(&self.0))
    }

    /// Since when no request is in flight, or `None` if one is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        if Arc::strong_count(&self.0) > 1 { None } else { Some(*lock(&self.0)) }
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        *lock(&self.0) = Instant::now();
    }
}

//! Counts the requests in flight on one connection, and notes since when there is none.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// The requests in flight on one connection. Clones share the count.
#[derive(Clone)]
pub(super) struct InFlight(Arc<Mutex<State>>);

struct State {
    requests: usize,
    last_change: Instant,
}

/// A request in flight, until it is dropped.
pub(super) struct InFlightGuard(InFlight);

impl InFlight {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { requests: 0, last_change: Instant::now() })))
    }

    /// Counts a request until the guard is dropped.
    pub(super) fn start(&self) -> InFlightGuard {
        let mut state = self.lock();
        state.requests += 1;
        state.last_change = Instant::now();
        InFlightGuard(self.clone())
    }

    /// Since when no request is in flight, or `None` if one is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        if state.requests == 0 { Some(state.last_change) } else { None }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.requests = state.requests.saturating_sub(1);
        state.last_change = Instant::now();
    }
}

/// A response body whose request is in flight until the body has been sent.
pub(super) struct GuardedBody<B> {
    body: B,
    _guard: InFlightGuard,
}

impl<B> GuardedBody<B> {
    pub(super) fn new(body: B, guard: InFlightGuard) -> Self {
        Self { body, _guard: guard }
    }
}

impl<B: Body + Unpin> Body for GuardedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

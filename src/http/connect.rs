//! A layer around the client's connector: it limits the connections that are being opened, and tells of each that is open.
//!
//! The client clones its connector several times for each request, and each of `tower`'s layers would be another box to clone:
//! two of them took 3 % of the instructions of a call. This one is cloned as a pointer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;
use tower::util::ServiceExt;
use tower::{BoxError, Layer};
use tower_service::Service;

/// Makes a [`Connect`] of a connector. Clones share the limit.
#[derive(Clone)]
pub(super) struct ConnectLayer {
    limit: Arc<Semaphore>,
    on_open: fn(),
}

/// A connector that waits until few enough connections are being opened.
pub(super) struct Connect<S> {
    shared: Arc<Shared<S>>,
    /// What the connection that is opened next waits for. Most requests open none.
    limit: Option<PollSemaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

struct Shared<S> {
    connector: S,
    layer: ConnectLayer,
}

impl ConnectLayer {
    /// Lets `max_connecting` connections be opened at the same time. `on_open` is called in the task that has opened one.
    pub(super) fn new(max_connecting: usize, on_open: fn()) -> Self {
        Self { limit: Arc::new(Semaphore::new(max_connecting)), on_open }
    }
}

impl<S> Layer<S> for ConnectLayer {
    type Service = Connect<S>;

    fn layer(&self, connector: S) -> Connect<S> {
        Connect { shared: Arc::new(Shared { connector, layer: self.clone() }), limit: None, permit: None }
    }
}

impl<S> Clone for Connect<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), limit: None, permit: None }
    }
}

impl<S, T> Service<T> for Connect<S>
where
    S: Service<T> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    T: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.permit.is_none() {
            let new = || PollSemaphore::new(Arc::clone(&self.shared.layer.limit));
            self.permit = ready!(self.limit.get_or_insert_with(new).poll_acquire(context));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: T) -> Self::Future {
        let (shared, permit) = (Arc::clone(&self.shared), self.permit.take());
        Box::pin(async move {
            let connection = shared.connector.clone().oneshot(target).await.map_err(Into::into)?;
            drop(permit);
            (shared.layer.on_open)();
            Ok(connection)
        })
    }
}

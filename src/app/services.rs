//! Adapters: the services in the form that `server` calls. `server` and the services do not know each other.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::admin::Admin;
use crate::grpc::Router;
use crate::sandbox::Sandbox;
use crate::server::{Peer, Service};
use crate::upstream::Upstream;

/// The services of the process.
pub(super) struct Services {
    pub(super) grpc: Arc<Router<Upstream>>,
    pub(super) admin: Admin,
    /// The embedded upstream, if there is one.
    pub(super) sandbox: Option<Sandbox>,
}

impl Service for Arc<Router<Upstream>> {
    type Body = tonic::body::Body;

    fn call(
        self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + 'static {
        self.handle(request, peer)
    }
}

impl Service for Admin {
    type Body = axum::body::Body;

    fn call(
        self,
        request: Request<Incoming>,
        _: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + 'static {
        self.handle(request)
    }
}

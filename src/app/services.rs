//! What answers on the ports, in the form that `server` calls: `server` and the services do not know each other.

use http::{Request, Response};
use hyper::body::Incoming;

use crate::admin::Admin;
use crate::grpc::{PeerIdentity, Router};
use crate::sandbox::Sandbox;
use crate::server::{Peer, Service};
use crate::upstream::Upstream;

/// Everything that answers requests.
pub(super) struct Services {
    pub(super) grpc: GrpcService,
    pub(super) admin: AdminService,
    /// The embedded upstream, if there is one.
    pub(super) sandbox: Option<Sandbox>,
}

/// What answers on the gRPC port.
#[derive(Clone)]
pub(super) struct GrpcService(pub(super) Router<Upstream>);

impl Service for GrpcService {
    type Body = tonic::body::Body;

    fn call(
        self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + 'static {
        let peer = PeerIdentity {
            address: Some(peer.address),
            address_display: peer.addr_display,
            names: peer.names,
        };
        self.0.handle(request, peer)
    }
}

/// What answers on the admin port.
#[derive(Clone)]
pub(super) struct AdminService(pub(super) Admin);

impl Service for AdminService {
    type Body = axum::body::Body;

    fn call(
        self,
        request: Request<Incoming>,
        _: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + 'static {
        self.0.handle(request)
    }
}

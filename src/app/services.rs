//! What answers on the two ports, as `server` asks for it: neither side knows the other one's types.

use http::{Request, Response};
use hyper::body::Incoming;

use crate::admin::Admin;
use crate::rpc::{Caller, Rpc};
use crate::server::{Peer, Service};

/// What answers on the gRPC port.
#[derive(Clone)]
pub(super) struct GrpcService(pub(super) Rpc);

impl Service for GrpcService {
    type Body = tonic::body::Body;

    fn answer(
        self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + 'static {
        let caller = Caller { address: Some(peer.address), shown: peer.shown, names: peer.names };
        self.0.handle(request, caller)
    }
}

/// What answers on the admin port.
#[derive(Clone)]
pub(super) struct AdminService(pub(super) Admin);

impl Service for AdminService {
    type Body = tonic::body::Body;

    fn answer(
        self,
        request: Request<Incoming>,
        _: Peer,
    ) -> impl Future<Output = Response<Self::Body>> + 'static {
        self.0.handle(request)
    }
}

//! The services of the process.

use std::sync::Arc;

use crate::admin::Admin;
use crate::grpc::Router;
use crate::sandbox::Sandbox;
use crate::upstream::Upstream;

/// The services of the process.
pub(super) struct Services {
    pub(super) grpc: Arc<Router<Upstream>>,
    pub(super) admin: Admin,
    /// The embedded upstream, if there is one.
    pub(super) sandbox: Option<Sandbox>,
}

//! The types that `grpc` and `upstream` share: a backup share, the call that reads it, and its errors.
//!
//! `grpc` makes a [`CallContext`] and a [`ShareRef`] from a request and calls [`BackupShares::get`]; `upstream` implements
//! it. This module must not know tonic, an HTTP client or a socket. A unit test of `grpc/service.rs` implements the trait in memory.

mod call;
mod error;
mod ids;
mod object;
mod share;
mod spiffe_id;
mod timestamp;
mod token;

pub use call::{CallContext, CallStats, REQUEST_ID_HEADER, TRACEPARENT, TRACESTATE, TraceContext};
pub(crate) use error::error_chain;
pub use error::{Error, ErrorKind};
pub use ids::{ProjectId, ShareId, ShareRef};
pub(crate) use object::Object;
pub use share::{Backup, BackupShare};
pub(crate) use share::{KNOWN_KEYS, REQUIRED_KEYS, expected_value};
pub(crate) use spiffe_id::spiffe_id;
pub use timestamp::Timestamp;
pub use token::{TOKEN_HEADER, Token, TokenError};

/// Reads backup shares.
pub trait BackupShares: Send + Sync + 'static {
    /// Reads one share, within the deadline of the call. Dropping the future cancels the read.
    fn get(
        &self,
        call: &CallContext,
        share: &ShareRef,
    ) -> impl Future<Output = Result<BackupShare, Error>> + Send;
}

//! What the program is about: a backup share, the call that asks for it, and why there may be none.
//!
//! `grpc` and `upstream` meet here and nowhere else: `grpc` makes a [`CallContext`] and a [`ShareRef`] of a request and
//! calls [`BackupShares::get`], `upstream` implements it. Nothing here knows gRPC, an HTTP client or a socket. A unit test of
//! `grpc/service.rs` implements the trait in memory.

mod call;
mod error;
mod ids;
mod share;
mod timestamp;
mod token;

pub use call::{CallContext, CallStats, TRACEPARENT, TRACESTATE, TraceContext};
pub use error::{Error, ErrorKind, MAX_MESSAGE_BYTES, MAX_METADATA_BYTES};
pub use ids::{ProjectId, ShareId, ShareRef};
pub(crate) use share::{Object, expected_value};
pub use share::{Backup, BackupShare};
pub use timestamp::Timestamp;
pub use token::{MAX_TOKEN_BYTES, TOKEN_HEADER, TOKEN_HEADER_NAME, Token, TokenError};

/// Where backup shares are read.
pub trait BackupShares: Send + Sync + 'static {
    /// Reads one share, within the deadline of the call. Dropping the future cancels the read.
    fn get(
        &self,
        call: &CallContext,
        share: &ShareRef,
    ) -> impl Future<Output = Result<BackupShare, Error>> + Send;
}

//! The result of a token request.

use std::time::Duration;

use crate::domain::Token;
use crate::http::BaseUrl;

/// A token as it was issued.
#[derive(Debug)]
pub(super) struct IssuedToken {
    pub(super) token: Token,
    /// How long it is valid, from the moment of the request.
    pub(super) lifetime: Duration,
    /// The upstream's URL in the catalog, if it was asked for.
    pub(super) endpoint: Option<BaseUrl>,
    /// The project that it is for.
    pub(super) project_id: Option<String>,
}

/// Why there is no token.
#[derive(Clone, Debug)]
pub struct IdentityError {
    /// The identity service rejected the account. Otherwise it could not be reached, or its response was not usable.
    pub is_refused: bool,
    /// The HTTP status, if there was a complete response.
    pub http_status: Option<u16>,
    /// The identity service's ID of the request.
    pub request_id: Option<String>,
    /// What happened and what to do, for the log.
    pub detail: String,
}

impl IdentityError {
    /// There was no response.
    pub(super) fn unreachable(detail: String) -> Self {
        Self { is_refused: false, http_status: None, request_id: None, detail }
    }
}

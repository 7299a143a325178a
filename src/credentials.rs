//! What authenticates the gateway's requests to the upstream.
//!
//! Three modes. *Pass-through*: the caller's own token, read from the request's HTTP headers and sent on as it came; the
//! gateway holds no credential and adds none. *Keystone*: the gateway has an account at the identity service, and a token
//! of its own that it renews in time. *AK/SK*: the gateway holds an access key and a secret key and signs each attempt with
//! them. In the last two, what token the caller sends is never looked at.
//!
//! This module must not know gRPC or VBS: it hands headers to whoever sends the request.

mod aksk;
mod keystone;
mod redact;
mod secret_source;

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

pub use aksk::{
    AkSk, Config as AkSkConfig, Keys, LoadedKeys, Scheme, SignableRequest, VARIABLES as AKSK_VARIABLES,
};
pub use keystone::{
    AccountConfig, CA_VARIABLE, CachedToken, Config as KeystoneConfig, IdentityError, Keystone,
    VARIABLES as KEYSTONE_VARIABLES,
};
pub use secret_source::SecretSource;

use crate::domain::{Error, ErrorKind, TOKEN_HEADER_NAME, Token};
use crate::http::BaseUrl;
use redact::redact;

/// Where the credential of a call comes from, as configured.
#[derive(Debug)]
pub enum Config {
    /// From the caller.
    PassThrough,
    /// From the gateway's own account at the identity service.
    Keystone(Box<KeystoneConfig>),
    /// From the gateway's own keys.
    AkSk(AkSkConfig),
}

/// Where the credential of a call comes from.
#[derive(Clone, Debug)]
pub enum CredentialProvider {
    /// The caller's own token.
    PassThrough,
    /// A token of the gateway's own account at the identity service.
    Keystone(Arc<Keystone>),
    /// Signatures with the gateway's own keys.
    AkSk(Arc<AkSk>),
}

impl CredentialProvider {
    /// Starts with what the configuration has read; connects to nothing yet. An error is a fault of the gateway.
    pub fn new(config: Config) -> Result<Self, String> {
        Ok(match config {
            Config::PassThrough => Self::PassThrough,
            Config::Keystone(keystone) => Self::Keystone(Arc::new(Keystone::new(*keystone)?)),
            Config::AkSk(aksk) => Self::AkSk(Arc::new(AkSk::new(aksk))),
        })
    }

    /// What authenticates a call with this token of its caller. It may have to wait for the identity service; the time is the
    /// caller's to limit.
    pub async fn resolve(&self, token: Option<&Token>) -> Result<AuthMaterial, Error> {
        match (self, token) {
            (Self::PassThrough, Some(token)) => Ok(AuthMaterial::Caller(token.clone())),
            (Self::PassThrough, None) => Err(Error::new(ErrorKind::Unauthenticated, "the call has no token")),
            (Self::Keystone(keystone), _) => Ok(AuthMaterial::Issued(keystone.current().await?)),
            (Self::AkSk(aksk), _) => Ok(AuthMaterial::Keys(aksk.keys(), aksk.scheme())),
        }
    }

    /// The upstream has rejected `material` with a 401.
    pub fn invalidate(&self, material: &AuthMaterial) {
        if let (Self::Keystone(keystone), AuthMaterial::Issued(rejected)) = (self, material) {
            keystone.cache().invalidate(rejected);
        }
    }

    /// What to try after `rejected`, if there is anything. It may have to wait, as [`CredentialProvider::resolve`].
    pub async fn refresh_after(
        &self,
        rejected: &AuthMaterial,
    ) -> Result<Option<AuthMaterial>, IdentityError> {
        match (self, rejected) {
            (Self::Keystone(keystone), AuthMaterial::Issued(rejected)) => {
                let successor = keystone.cache().wait_for_token(Some(rejected)).await?;
                Ok(successor.map(AuthMaterial::Issued))
            }
            _ => Ok(None),
        }
    }

    /// Whether there is a credential to begin with.
    pub fn is_ready(&self) -> bool {
        if let Self::Keystone(keystone) = self { keystone.cache().is_ready() } else { true }
    }

    /// Waits until there is.
    pub async fn ready(&self) {
        if let Self::Keystone(keystone) = self {
            keystone.cache().ready().await;
        }
    }
}

/// What authenticates one attempt, or a few.
#[derive(Clone, Debug)]
pub enum AuthMaterial {
    /// The caller's token.
    Caller(Token),
    /// The gateway's token.
    Issued(Arc<CachedToken>),
    /// The gateway's keys, and how they sign.
    Keys(Arc<Keys>, Scheme),
}

impl AuthMaterial {
    /// Adds the headers that authenticate a request which is sent now.
    pub fn add_to(&self, headers: &mut HeaderMap, request: SignableRequest<'_>, now: SystemTime) {
        match self {
            Self::Caller(token) => {
                headers.insert(TOKEN_HEADER_NAME, token.value());
            }
            Self::Issued(token) => {
                headers.insert(TOKEN_HEADER_NAME, token.token.value());
            }
            Self::Keys(keys, scheme) => headers.extend(keys.sign(*scheme, request, now)),
        }
    }

    /// The upstream's URL in the identity service's catalog, if it was asked for.
    pub fn endpoint(&self) -> Option<&BaseUrl> {
        if let Self::Issued(token) = self { token.endpoint.as_ref() } else { None }
    }

    /// The upstream has accepted it.
    pub fn mark_accepted(&self) {
        if let Self::Issued(issued) = self {
            issued.mark_accepted();
        }
    }

    /// Whether it is the gateway's own, so that only its operator can fix it.
    pub fn is_gateway_owned(&self) -> bool {
        !matches!(self, Self::Caller(_))
    }

    /// `text`, or `[redacted]` if it repeats a secret: one that the upstream echoes must not get into a status or a log.
    pub fn redact(&self, text: &str) -> String {
        match self {
            Self::Caller(token) => redact(text, [token.expose()]),
            Self::Issued(token) => redact(text, [token.token.expose()]),
            Self::Keys(keys, _) => redact(text, keys.secrets()),
        }
    }
}

impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        let kind = if error.is_refused { ErrorKind::IdentityRefused } else { ErrorKind::IdentityUnreachable };
        Self { http_status: error.http_status, request_id: error.request_id, ..Self::new(kind, error.detail) }
    }
}

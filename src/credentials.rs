//! What authenticates the gateway's requests to the upstream: the caller's token, a token of the gateway's own account, or
//! signatures with the gateway's own keys.
//!
//! - *Pass-through*: the caller's token is sent on. The gateway holds no credential and adds none.
//! - *Keystone* ([Identity API v3](https://docs.openstack.org/api-ref/identity/v3/)): the gateway's account gets a token, which is
//!   refreshed in the background.
//! - *AK/SK* (`SDK-HMAC-SHA256`): each attempt is signed with an access key and a secret key.
//!
//! In the last two modes the caller's token is never read. `tests/gateway/redaction.rs` shows that no mode leaks a secret.
//!
//! This module must not know gRPC or the upstream's API: it returns the headers that authenticate a request.

mod aksk;
mod keystone;
mod redact;
mod secret_source;

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

pub use aksk::{AkSk, Keys, Scheme, SignableRequest, VARIABLES as AKSK_VARIABLES};
pub use keystone::{
    AccountConfig, CA_VARIABLE, Config as KeystoneConfig, IdentityError, IssuedToken,
    KNOWN_VARIABLES as KEYSTONE_VARIABLES, Keystone, ignored_variables,
};
pub use secret_source::SecretSource;

use crate::domain::{Error, ErrorKind, TOKEN_HEADER, Token};
use crate::http::{BaseUrl, Config as HttpConfig};
use redact::redact;

/// The mode, with what the configuration has read for it.
#[derive(Debug)]
pub enum Config {
    /// The caller's token.
    PassThrough,
    /// A token of the gateway's own account at the identity service.
    Keystone(Box<KeystoneConfig>),
    /// Signatures with the gateway's own keys.
    AkSk(AkSk, Scheme),
}

/// Where the credential of a call comes from.
#[derive(Clone, Debug)]
pub enum CredentialProvider {
    /// The caller's own token.
    PassThrough,
    /// A token of the gateway's own account at the identity service.
    Keystone(Arc<Keystone>),
    /// Signatures with the gateway's own keys.
    AkSk(Arc<AkSk>, Scheme),
}

impl CredentialProvider {
    /// Starts with what the configuration has read. It connects to nothing yet; `http` is for the identity service. An error is a
    /// fault of the gateway.
    pub fn new(config: Config, http: &HttpConfig) -> Result<Self, String> {
        Ok(match config {
            Config::PassThrough => Self::PassThrough,
            Config::Keystone(keystone) => Self::Keystone(Arc::new(Keystone::new(*keystone, http.clone())?)),
            Config::AkSk(keys, scheme) => Self::AkSk(Arc::new(keys), scheme),
        })
    }

    /// What authenticates a call whose caller has sent `token`. This may wait for the identity service, with no time limit of
    /// its own.
    pub async fn resolve(&self, token: Option<&Token>) -> Result<AuthMaterial, Error> {
        match (self, token) {
            (Self::PassThrough, Some(token)) => Ok(AuthMaterial::Caller(token.clone())),
            (Self::PassThrough, None) => Err(Error::new(ErrorKind::Unauthenticated, "the call has no token")),
            (Self::Keystone(keystone), _) => Ok(AuthMaterial::Issued(keystone.cache.current().await?)),
            (Self::AkSk(aksk, scheme), _) => Ok(AuthMaterial::Keys(aksk.keys(), *scheme)),
        }
    }

    /// The upstream has rejected `material` with a 401.
    pub fn invalidate(&self, material: &AuthMaterial) {
        if let (Self::Keystone(keystone), AuthMaterial::Issued(rejected)) = (self, material) {
            keystone.cache.invalidate(rejected);
        }
    }

    /// What to retry with after `rejected`, if there is anything else. This may wait, as [`CredentialProvider::resolve`] does.
    pub async fn refresh_after(
        &self,
        rejected: &AuthMaterial,
    ) -> Result<Option<AuthMaterial>, IdentityError> {
        match (self, rejected) {
            (Self::Keystone(keystone), AuthMaterial::Issued(rejected)) => {
                let token = keystone.cache.wait_for_token(Some(rejected)).await?;
                Ok(token.map(AuthMaterial::Issued))
            }
            _ => Ok(None),
        }
    }

    /// Whether there is, or was, a credential, so that calls can be served.
    pub fn is_ready(&self) -> bool {
        if let Self::Keystone(keystone) = self { keystone.cache.is_ready() } else { true }
    }

    /// Waits until [`CredentialProvider::is_ready`] is true.
    pub async fn ready(&self) {
        if let Self::Keystone(keystone) = self {
            keystone.cache.ready().await;
        }
    }
}

/// What authenticates an attempt.
#[derive(Clone, Debug)]
pub enum AuthMaterial {
    /// The caller's token.
    Caller(Token),
    /// The gateway's token.
    Issued(Arc<IssuedToken>),
    /// The gateway's keys, and how they sign.
    Keys(Arc<Keys>, Scheme),
}

impl AuthMaterial {
    /// Adds the headers that authenticate a request which is sent at `now`.
    pub fn add_to(&self, headers: &mut HeaderMap, request: SignableRequest<'_>, now: SystemTime) {
        match self {
            Self::Caller(token) => {
                headers.insert(TOKEN_HEADER, token.value());
            }
            Self::Issued(token) => {
                headers.insert(TOKEN_HEADER, token.token.value());
            }
            Self::Keys(keys, scheme) => headers.extend(keys.sign(*scheme, request, now)),
        }
    }

    /// The upstream's URL in the identity service's catalog, if the gateway takes it from there.
    pub fn endpoint(&self) -> Option<&BaseUrl> {
        if let Self::Issued(token) = self { token.endpoint.as_ref() } else { None }
    }

    /// Whether it is the gateway's own: if it is rejected, only the operator can fix that.
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

//! What authenticates the gateway's requests to the upstream: the caller's token, a token of the gateway's own account, or
//! signatures with the gateway's own keys.
//!
//! - *Pass-through*: the caller's token is sent on. The gateway holds no credential and adds none.
//! - *Keystone* ([Identity API v3](https://docs.openstack.org/api-ref/identity/v3/)): the gateway's account gets a token for its
//!   project, or for each project that a call names. Tokens are renewed in the background.
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
    AccountConfig, CA_VARIABLE, Config as KeystoneConfig, IssuedToken, KNOWN_VARIABLES as KEYSTONE_VARIABLES,
    Keystone, ignored_variables, is_public,
};
pub use secret_source::SecretSource;

use crate::domain::{Error, ErrorKind, ProjectId, TOKEN_HEADER, Token};
use crate::http::{BaseUrl, Config as HttpConfig};
use redact::redact;

/// The mode, with what the configuration has read for it.
#[derive(Debug)]
pub enum Config {
    /// The caller's token.
    PassThrough,
    /// Tokens of the gateway's own account at the identity service.
    Keystone(Box<KeystoneConfig>),
    /// Signatures with the gateway's own keys.
    AkSk(AkSk, Scheme),
}

impl Config {
    /// The one project that the account is configured for, by its ID.
    pub(crate) fn configured_project(&self) -> Option<&ProjectId> {
        match self {
            Self::Keystone(keystone) => keystone.account.scope().project_id(),
            Self::PassThrough | Self::AkSk(..) => None,
        }
    }
}

/// Where the credential of a call comes from.
#[derive(Clone, Debug)]
pub enum CredentialProvider {
    /// The caller's own token.
    PassThrough,
    /// Tokens of the gateway's own account at the identity service.
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

    /// What authenticates a call for `project` whose caller has sent `token`. This may wait for the identity service, with no
    /// time limit of its own.
    pub async fn resolve(&self, token: Option<&Token>, project: &ProjectId) -> Result<AuthMaterial, Error> {
        match (self, token) {
            (Self::PassThrough, Some(token)) => Ok(AuthMaterial::Caller(token.clone())),
            (Self::PassThrough, None) => Err(Error::new(ErrorKind::Unauthenticated, "the call has no token")),
            (Self::Keystone(keystone), _) => Ok(AuthMaterial::Issued(keystone.token(project).await?)),
            (Self::AkSk(aksk, scheme), _) => Ok(AuthMaterial::Keys(aksk.keys(), *scheme)),
        }
    }

    /// The upstream has rejected `material` in a call for `project` with a 401.
    pub fn invalidate(&self, material: &AuthMaterial, project: &ProjectId) {
        if let (Self::Keystone(keystone), AuthMaterial::Issued(rejected)) = (self, material) {
            keystone.invalidate(project, rejected);
        }
    }

    /// What to retry with after `rejected`, if there is anything else. This may wait, as [`CredentialProvider::resolve`] does.
    pub async fn refresh_after(
        &self,
        rejected: &AuthMaterial,
        project: &ProjectId,
    ) -> Result<Option<AuthMaterial>, Error> {
        match (self, rejected) {
            (Self::Keystone(keystone), AuthMaterial::Issued(rejected)) => {
                let token = keystone.token_other_than(Some(rejected), project).await?;
                Ok(token.map(AuthMaterial::Issued))
            }
            _ => Ok(None),
        }
    }

    /// The one project that the gateway's account is for, if it has one and it is known.
    pub fn own_project(&self) -> Option<ProjectId> {
        if let Self::Keystone(keystone) = self { keystone.own_project() } else { None }
    }

    /// Whether calls can be served: a gateway with an account for one project waits for its first token.
    pub fn is_ready(&self) -> bool {
        if let Self::Keystone(keystone) = self { keystone.is_ready() } else { true }
    }

    /// Waits until [`CredentialProvider::is_ready`] is true.
    pub async fn ready(&self) {
        if let Self::Keystone(keystone) = self {
            keystone.ready().await;
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
    /// Adds the headers that authenticate a request. `now` is the time of a signature.
    pub fn add_to(&self, headers: &mut HeaderMap, request: SignableRequest<'_>, now: fn() -> SystemTime) {
        match self {
            Self::Caller(token) => {
                headers.insert(TOKEN_HEADER, token.value());
            }
            Self::Issued(token) => {
                headers.insert(TOKEN_HEADER, token.token.value());
            }
            Self::Keys(keys, scheme) => headers.extend(keys.sign(*scheme, request, now())),
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

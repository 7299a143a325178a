//! What proves to the upstream who asks.
//!
//! Three modes. *Pass-through*: the caller's own token, read from the request's HTTP headers and sent on as it came; the
//! gateway holds no credential and adds none. *Keystone*: the gateway has an account at the identity service, and a token
//! of its own that it renews in time. *AK/SK*: the gateway holds an access key and a secret key and signs each attempt with
//! them. In the last two, what token the caller sends is never looked at.
//!
//! This module must not know gRPC or VBS: it hands headers to whoever sends the request.

mod aksk;
mod keystone;
mod secret;
mod token;
mod variables;

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

pub use aksk::{AkSk, Config as AkSkConfig, Get, Keys, Scheme, VARIABLES as AKSK_VARIABLES};
pub use keystone::{
    AccountConfig, CA_VARIABLE, Config as KeystoneConfig, IdentityError, Issued, Keystone,
    VARIABLES as KEYSTONE_VARIABLES,
};
pub use secret::Secret;
use token::TOKEN_HEADER_NAME;
pub use token::{MAX_TOKEN_BYTES, TOKEN_HEADER, Token, TokenError};
pub use variables::Variables;

use crate::base_url::BaseUrl;
use secret::blot;

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
pub enum Mode {
    /// From the caller.
    PassThrough,
    /// From the gateway's own account at the identity service.
    Keystone(Arc<Keystone>),
    /// From the gateway's own keys.
    AkSk(Arc<AkSk>),
}

impl Mode {
    /// Starts with what the configuration has read; connects to nothing yet. An error is a fault of the gateway.
    pub fn new(config: Config) -> Result<Self, String> {
        Ok(match config {
            Config::PassThrough => Self::PassThrough,
            Config::Keystone(keystone) => Self::Keystone(Arc::new(Keystone::new(*keystone)?)),
            Config::AkSk(aksk) => Self::AkSk(Arc::new(AkSk::new(aksk))),
        })
    }

    /// The credential of the call with these HTTP headers.
    pub fn credential(&self, headers: &HeaderMap) -> Result<Credential, TokenError> {
        match self {
            Self::PassThrough => Token::from_headers(headers).map(Credential::Caller),
            Self::Keystone(keystone) => Ok(Credential::Keystone(Arc::clone(keystone))),
            Self::AkSk(aksk) => Ok(Credential::AkSk(Arc::clone(aksk))),
        }
    }

    /// Whether there is a credential to begin with.
    pub fn is_ready(&self) -> bool {
        if let Self::Keystone(keystone) = self { keystone.is_ready() } else { true }
    }

    /// Waits until there is.
    pub async fn ready(&self) {
        if let Self::Keystone(keystone) = self {
            keystone.ready().await;
        }
    }
}

/// The credential of one call.
#[derive(Clone, Debug)]
pub enum Credential {
    /// The caller's token.
    Caller(Token),
    /// Whatever token the gateway's account has.
    Keystone(Arc<Keystone>),
    /// Whatever keys the gateway has.
    AkSk(Arc<AkSk>),
}

impl Credential {
    /// What is sent to prove it. It may have to wait for the identity service; the time is the caller's to limit.
    pub async fn proof(&self) -> Result<Proof, IdentityError> {
        Ok(match self {
            Self::Caller(token) => Proof::Caller(token.clone()),
            Self::Keystone(keystone) => Proof::Issued(keystone.current().await?),
            Self::AkSk(aksk) => Proof::Keys(aksk.keys(), aksk.scheme()),
        })
    }

    /// The upstream has refused `proof` with a 401.
    pub fn was_refused(&self, proof: &Proof) {
        if let (Self::Keystone(keystone), Proof::Issued(refused)) = (self, proof) {
            keystone.was_refused(refused);
        }
    }

    /// What to try after `refused`, if there is something. It may have to wait, as [`Credential::proof`].
    pub async fn successor(&self, refused: &Proof) -> Result<Option<Proof>, IdentityError> {
        let (Self::Keystone(keystone), Proof::Issued(refused)) = (self, refused) else { return Ok(None) };
        Ok(keystone.successor(refused).await?.map(Proof::Issued))
    }
}

/// What proves to the upstream who asks, in one attempt or a few.
#[derive(Clone, Debug)]
pub enum Proof {
    /// The caller's token.
    Caller(Token),
    /// The gateway's token.
    Issued(Arc<Issued>),
    /// The gateway's keys, and how they sign.
    Keys(Arc<Keys>, Scheme),
}

impl Proof {
    /// Adds to `headers` what proves who asks, in this attempt.
    pub fn add_to(&self, headers: &mut HeaderMap, get: Get<'_>, now: SystemTime) {
        match self {
            Self::Caller(token) => drop(headers.insert(TOKEN_HEADER_NAME, token.value())),
            Self::Issued(issued) => drop(headers.insert(TOKEN_HEADER_NAME, issued.token().value())),
            Self::Keys(keys, scheme) => headers.extend(keys.sign(*scheme, get, now)),
        }
    }

    /// Where the identity service says that the upstream is, if it was asked.
    pub fn endpoint(&self) -> Option<&BaseUrl> {
        if let Self::Issued(issued) = self { issued.endpoint() } else { None }
    }

    /// The upstream has taken it.
    pub fn was_accepted(&self) {
        if let Self::Issued(issued) = self {
            issued.was_accepted();
        }
    }

    /// Whether it is the gateway's own, so that only its operator can mend it.
    pub fn is_own(&self) -> bool {
        !matches!(self, Self::Caller(_))
    }

    /// `text` with every place blotted out at which it repeats a secret, or a telling part of one: an upstream that
    /// echoes it must not bring it into a status or a log.
    pub fn redact(&self, text: &str) -> String {
        match self {
            Self::Caller(token) => blot(text, token.expose()),
            Self::Issued(issued) => blot(text, issued.token().expose()),
            Self::Keys(keys, _) => keys.secrets().fold(text.to_owned(), |text, secret| blot(&text, secret)),
        }
    }
}

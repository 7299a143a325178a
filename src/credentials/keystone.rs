//! Authentication with a token of the gateway's own account at the identity service: Keystone, or the IAM of either cloud.
//!
//! `keystone/account.rs` reads the account, `keystone/client.rs` requests a token, `keystone/token_document.rs` reads it, and
//! `keystone/token_cache.rs` holds it and decides when it is refreshed. Here they are connected: one task refreshes the token,
//! and calls wait for it in the cache. While the identity service is unavailable, a valid token stays in use.
//!
//! Source: [Identity API v3](https://docs.openstack.org/api-ref/identity/v3/). `tests/gateway/keystone.rs` shows it with a
//! scripted identity service, `tests/e2e/test_keystone.py` with Keystone itself. This module knows neither gRPC nor the
//! upstream's API.

mod account;
mod client;
mod ignored_variables;
mod token_cache;
mod token_document;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::secret_source::SecretSource;
use crate::files::{Loaded, Reload, Snapshot};
use crate::http::{BaseUrl, Config as HttpConfig, Roots};
use crate::metrics::Metrics;
use account::Account;
pub use account::CA_VARIABLE;
use client::IdentityClient;
pub use client::{IdentityError, IssuedToken};
pub use ignored_variables::{KNOWN_VARIABLES, ignored_variables};
use token_cache::TokenCache;

/// The account, and what its tokens are for.
#[derive(Debug)]
pub struct Config {
    /// The account.
    pub account: AccountConfig,
    /// Whether the upstream's endpoint is taken from the catalog.
    pub endpoint_from_catalog: bool,
}

/// The account as the configuration has read it, and where it was read from.
#[derive(Debug)]
pub struct AccountConfig {
    source: SecretSource,
    account: Loaded<Account>,
}

impl AccountConfig {
    /// Reads the account and the CA certificates of the identity service. With `allow_plaintext` the URL of the identity service,
    /// and the endpoint in its catalog, may be `http`. The error has a line for each problem.
    pub fn load(source: SecretSource, allow_plaintext: bool) -> Result<Self, Vec<String>> {
        let account = Loaded::read(account::files(&source), || Account::read(&source, allow_plaintext))?;
        Ok(Self { source, account })
    }

    /// The files of the account, among them that of `OS_CACERT`.
    pub(crate) fn files(source: &SecretSource) -> Vec<PathBuf> {
        account::files(source)
    }

    /// The CA certificates of the identity service: those of `OS_CACERT`, else the system's. A reload replaces them.
    pub(crate) fn roots(&self) -> &Roots {
        &self.account.value.roots
    }
}

/// The account and its token.
pub struct Keystone {
    source: SecretSource,
    endpoint_from_catalog: bool,
    /// With the CA certificates of the first account, which a reload replaces for everyone who uses them.
    http: HttpConfig,
    snapshot: Snapshot,
    client: ArcSwap<IdentityClient>,
    pub(super) cache: TokenCache,
}

impl Keystone {
    /// Starts with the account that the configuration has read. It connects to nothing yet. An error is a fault of the gateway.
    /// Of `http`, all but the CA certificates is used: these are the account's.
    pub fn new(config: Config, http: HttpConfig) -> Result<Self, String> {
        let Config { account: AccountConfig { source, account }, endpoint_from_catalog } = config;
        let Loaded { value: account, snapshot } = account;
        let http = HttpConfig { roots: account.roots.clone(), ..http };
        let client = IdentityClient::new(account, &http, endpoint_from_catalog)?;
        let client = ArcSwap::from_pointee(client);
        Ok(Self { source, endpoint_from_catalog, http, snapshot, client, cache: TokenCache::new() })
    }

    /// The URL of the identity service, and the CA certificates that its certificate is verified against.
    pub(crate) fn identity_service(&self) -> (BaseUrl, Roots) {
        let client = self.client.load();
        (client.account.auth_url.clone(), client.account.roots.clone())
    }

    /// Refreshes the token whenever that is due. Never ends.
    pub async fn run(&self, metrics: &Metrics) {
        // Only the first refusal in a row is diagnosed: that is another attempt with the password.
        let mut may_diagnose = true;
        loop {
            self.cache.refresh_due().await;
            let client = self.client.load_full();
            let result = client.fetch_token(may_diagnose).await;
            let outcome = match &result {
                Ok(_) => "success",
                Err(error) if error.is_refused => "refused",
                Err(_) => "unreachable",
            };
            metrics.renewal(outcome);
            may_diagnose = result.is_ok() || (may_diagnose && outcome != "refused");
            if !Arc::ptr_eq(&client, &self.client.load()) {
                // The account has been replaced meanwhile, and the next refresh is due at once.
                continue;
            }
            self.cache.finish_refresh(result.clone());
            match result {
                Ok(token) => {
                    let holds_s = token.lifetime.as_secs();
                    let endpoint = token.endpoint.as_ref().map(tracing::field::display);
                    tracing::info!(holds_s, endpoint, "the identity service issued a token");
                }
                Err(IdentityError { detail, http_status, .. }) => {
                    let next_s = (self.cache.refresh_at() - Instant::now()).as_secs_f64();
                    let in_use = self.cache.valid_token().is_some();
                    tracing::error!(
                        detail,
                        http_status,
                        next_s,
                        in_use,
                        "no token: the request for a new one failed"
                    );
                }
            }
        }
    }

    /// Requests one token, which is then the one in use. The error is for people.
    pub(crate) async fn fetch_token(&self) -> Result<Arc<IssuedToken>, String> {
        let result = self.client.load_full().fetch_token(true).await;
        self.cache.finish_refresh(result.clone());
        result.map_err(|error| error.detail)
    }
}

impl Reload for Keystone {
    fn subject(&self) -> &'static str {
        "credential"
    }

    fn files(&self) -> Vec<PathBuf> {
        account::files(&self.source)
    }

    fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// The new account requests a token at once.
    fn read(&self) -> Result<Box<dyn FnOnce() + '_>, String> {
        let allow_plaintext = self.client.load().account.catalog.allow_plaintext;
        let account = Account::read(&self.source, allow_plaintext).map_err(|problems| problems.join("; "))?;
        let roots = account.roots.clone();
        for warning in roots.warnings() {
            tracing::warn!("{warning}");
        }
        let client = IdentityClient::new(account, &self.http, self.endpoint_from_catalog)?;
        Ok(Box::new(move || {
            self.http.roots.replace(&roots);
            self.client.store(Arc::new(client));
            // In this order: a refresh that begins after the reset uses the new account.
            self.cache.reset();
        }))
    }
}

impl fmt::Debug for Keystone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keystone([redacted])")
    }
}

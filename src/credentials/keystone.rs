//! Authentication with tokens of the gateway's own account at the identity service: Keystone, or the IAM of either cloud.
//!
//! An account serves one project, or each project that a call names with a token for each. The first is the second with a set
//! of one, and differs in two things: its token is requested before a call needs it, and calls for other projects are refused.
//!
//! - `keystone/account.rs` reads the account, `keystone/client.rs` requests a token, `keystone/token_document.rs` reads it.
//! - `keystone/project_tokens.rs` holds the tokens, each in a `keystone/project_token.rs`, and calls wait there.
//! - `keystone/renewal.rs` decides when a token is requested, `keystone/backoff.rs` how long none is after a failure.
//!
//! Here they are connected: one task requests the tokens. While the identity service is unavailable, valid tokens stay in use.
//!
//! Source: [Identity API v3](https://docs.openstack.org/api-ref/identity/v3/). `tests/gateway/keystone.rs`,
//! `tests/gateway/keystone_renewal.rs` and `tests/gateway/keystone_projects.rs` show it with a scripted identity service,
//! `tests/e2e` with Keystone itself. This module knows neither gRPC nor the upstream's API.

mod account;
mod backoff;
mod client;
mod ignored_variables;
mod project_token;
mod project_tokens;
mod renewal;
mod token_document;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::secret_source::SecretSource;
use crate::domain::{Error, ErrorKind, ProjectId};
use crate::files::{Loaded, Reload, Snapshot};
use crate::http::{BaseUrl, Config as HttpConfig, Roots};
use crate::metrics::Metrics;
use account::{Account, Scope};
pub use account::{CA_VARIABLE, is_public};
use backoff::AccountBackoff;
pub use client::IssuedToken;
use client::{IdentityClient, IdentityError};
pub use ignored_variables::{KNOWN_VARIABLES, ignored_variables};
use project_token::ProjectToken;
use project_tokens::ProjectTokens;

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

    /// The projects that it is for.
    pub(crate) fn scope(&self) -> &Scope {
        self.account.value.scope()
    }

    /// The CA certificates of the identity service: those of `OS_CACERT`, else the system's. A reload replaces them.
    pub(crate) fn roots(&self) -> &Roots {
        &self.account.value.roots
    }
}

/// The account and its tokens.
pub struct Keystone {
    source: SecretSource,
    endpoint_from_catalog: bool,
    /// With the CA certificates of the first account, which a reload replaces for everyone who uses them.
    http: HttpConfig,
    snapshot: Snapshot,
    client: ArcSwap<IdentityClient>,
    tokens: ProjectTokens,
}

impl Keystone {
    /// Starts with the account that the configuration has read. It connects to nothing yet. An error is a fault of the gateway.
    /// Of `http`, all but the CA certificates is used: these are the account's.
    pub fn new(config: Config, http: HttpConfig) -> Result<Self, String> {
        let Config { account: AccountConfig { source, account }, endpoint_from_catalog } = config;
        let Loaded { value: account, snapshot } = account;
        let http = HttpConfig { roots: account.roots.clone(), ..http };
        let tokens = ProjectTokens::new(account.scope().is_each_project());
        let client = IdentityClient::new(account, &http, endpoint_from_catalog)?;
        let client = ArcSwap::from_pointee(client);
        Ok(Self { source, endpoint_from_catalog, http, snapshot, client, tokens })
    }

    /// The URL of the identity service, and the CA certificates that its certificate is verified against.
    pub(crate) fn identity_service(&self) -> (BaseUrl, Roots) {
        let client = self.client.load();
        (client.account.auth_url.clone(), client.account.roots.clone())
    }

    /// Whether there is a token for each project that a call names.
    pub(crate) fn serves_each_project(&self) -> bool {
        self.tokens.serves_each_project()
    }

    /// The one project that the account is for, if it is known: from the configuration, or once there is a token.
    pub(crate) fn own_project(&self) -> Option<ProjectId> {
        let client = self.client.load();
        client.account.scope().project_id().cloned().or_else(|| self.tokens.own_project())
    }

    /// The token of a project. Waits for one if there is none and a request is in progress or due soon.
    pub(super) async fn token(&self, project: &ProjectId) -> Result<Arc<IssuedToken>, Error> {
        if let Some(token) = self.tokens.valid_token(project) {
            return check_project(project, &token.project_id).map(|()| token);
        }
        // Boxed: it is rare, and the future of every call would have room for it.
        let token = Box::pin(self.token_other_than(None, project)).await?;
        token.ok_or_else(|| {
            IdentityError::unreachable("the identity service gave no token in time".into()).into()
        })
    }

    /// A token of a project other than `rejected`, which may be waited for. `None` if the upstream has rejected all its tokens
    /// lately.
    pub(super) async fn token_other_than(
        &self,
        rejected: Option<&Arc<IssuedToken>>,
        project: &ProjectId,
    ) -> Result<Option<Arc<IssuedToken>>, Error> {
        if let Some(own) = self.client.load().account.scope().project_id() {
            check_project(project, own)?;
        }
        let token = self.tokens.wait_for_token(project, rejected).await?;
        if let Some(token) = &token {
            check_project(project, &token.project_id)?;
        }
        Ok(token)
    }

    /// The upstream has rejected this token of a project.
    pub(super) fn invalidate(&self, project: &ProjectId, rejected: &Arc<IssuedToken>) {
        self.tokens.invalidate(project, rejected);
    }

    /// Whether calls can be served: at once with tokens on demand, otherwise from the first token on.
    pub(super) fn is_ready(&self) -> bool {
        self.tokens.is_ready()
    }

    /// Waits until [`Keystone::is_ready`] is true.
    pub(super) async fn ready(&self) {
        self.tokens.ready().await;
    }

    /// Requests tokens whenever that is due. Never ends.
    pub async fn run(&self, metrics: &Metrics) {
        loop {
            let client = self.client.load_full();
            self.run_with(&client, metrics).await;
            self.tokens.reset();
        }
    }

    /// Requests tokens with this account until another one replaces it. Requests in progress are cancelled then.
    async fn run_with(&self, client: &Arc<IdentityClient>, metrics: &Metrics) {
        let mut account = AccountBackoff::default();
        let may_diagnose = AtomicBool::new(true);
        let mut requests = FuturesUnordered::new();
        loop {
            let plan = self.tokens.plan(&account, requests.len(), Instant::now());
            metrics.auth_tokens.set(i64::try_from(plan.held).unwrap_or(i64::MAX));
            requests.extend(plan.start.into_iter().map(async |entry| {
                let result = client.fetch_token(entry.project.as_ref(), &may_diagnose).await;
                (entry, result)
            }));
            let ended = tokio::select! {
                Some(ended) = requests.next() => Some(ended),
                () = sleep_until(plan.wake_at) => None,
                () = self.tokens.changed() => None,
            };
            if !Arc::ptr_eq(client, &self.client.load()) {
                return;
            }
            if let Some((entry, result)) = ended {
                self.finish(&entry, result, &mut account, metrics);
                may_diagnose.fetch_or(account.may_diagnose(), Ordering::Relaxed);
            }
        }
    }

    /// Stores the result of a request, and logs it.
    fn finish(
        &self,
        entry: &ProjectToken,
        result: Result<Arc<IssuedToken>, IdentityError>,
        account: &mut AccountBackoff,
        metrics: &Metrics,
    ) {
        let (now, random) = (Instant::now(), fastrand::f64());
        entry.finish(result.clone(), now, random);
        match result {
            Ok(token) => {
                metrics.renewal("success");
                account.on_success();
                let project = token.project_id.as_str();
                let holds_s = token.lifetime.as_secs();
                let endpoint = token.endpoint.as_ref().map(tracing::field::display);
                tracing::info!(project, holds_s, endpoint, "the identity service issued a token");
            }
            Err(error) => {
                metrics.renewal(if error.is_refused { "refused" } else { "unreachable" });
                account.on_failure(entry.project.as_ref(), &error, now, random);
                let project = entry.project.clone().or_else(|| self.own_project());
                let next_s = (entry.refresh_at() - now).as_secs_f64();
                // Set if there is no request for any project before then.
                let account_wait = account.wait(now).filter(|_| self.serves_each_project());
                let account_next_s = account_wait.map(|wait| (wait.until - now).as_secs_f64());
                tracing::error!(
                    project = project.as_ref().map(ProjectId::as_str),
                    detail = error.detail,
                    http_status = error.http_status,
                    next_s,
                    account_next_s,
                    in_use = entry.is_valid(now),
                    "no token: the request for a new one failed"
                );
            }
        }
        self.tokens.set_account_wait(account.wait(now));
    }

    /// Requests one token, for `project` if there is a token for each, which is then the one in use. The error is for people.
    pub(crate) async fn fetch_token(&self, project: Option<&ProjectId>) -> Result<Arc<IssuedToken>, String> {
        let project = project.filter(|_| self.serves_each_project());
        let result = self.client.load_full().fetch_token(project, &AtomicBool::new(true)).await;
        let token = result.map_err(|error| error.detail)?;
        self.tokens.insert(Arc::clone(&token));
        Ok(token)
    }
}

/// An account with one project serves no call for another one.
fn check_project(requested: &ProjectId, own: &ProjectId) -> Result<(), Error> {
    if requested == own {
        return Ok(());
    }
    let detail = format!("the gateway's account is for the project {}", own.as_str());
    Err(Error::new(ErrorKind::ProjectNotServed, detail))
}

impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        let kind = if error.is_refused { ErrorKind::IdentityRefused } else { ErrorKind::IdentityUnreachable };
        Self { http_status: error.http_status, request_id: error.request_id, ..Self::new(kind, error.detail) }
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

    /// The new account requests tokens at once for those that are in use.
    fn read(&self) -> Result<Box<dyn FnOnce() + '_>, String> {
        let allow_plaintext = self.client.load().account.catalog.allow_plaintext;
        let account = Account::read(&self.source, allow_plaintext).map_err(|problems| problems.join("; "))?;
        if account.scope().is_each_project() != self.serves_each_project() {
            return Err("OS_PROJECT_ID or another OS_PROJECT_ variable was added or removed, or a password was replaced by an application credential: start the gateway again to serve each project in place of one, or the reverse".into());
        }
        let roots = account.roots.clone();
        for warning in roots.warnings() {
            tracing::warn!("{warning}");
        }
        let client = IdentityClient::new(account, &self.http, self.endpoint_from_catalog)?;
        Ok(Box::new(move || {
            self.http.roots.replace(&roots);
            self.client.store(Arc::new(client));
            self.tokens.notify();
        }))
    }
}

impl fmt::Debug for Keystone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keystone([redacted])")
    }
}

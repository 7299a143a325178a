//! Reads one share from the Volume Backup Service (VBS), within the call's deadline.
//!
//! It implements [`BackupShares`] over HTTP and JSON, and must not know gRPC. An attempt (`attempt.rs`) is one request; the
//! loop here repeats it as the policy in `retry.rs` decides. Tests: `upstream_retries.rs`, `upstream_faults.rs` and `upstream_replies.rs` in `tests/gateway`.
//!
//! Sources: the VBS API reference of Open Telekom Cloud ("Querying the Details of a Shared Backup"), RFC 9110 for statuses
//! and `Retry-After`, gRFC A6 for the retry throttle.

mod attempt;
mod error;
mod json;
mod retry;
mod unknown_fields;

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

pub use attempt::share_url;
pub use error::from_response;
pub use json::read_share;
pub use retry::FIRST_BACKOFF;

pub use crate::error_response::retry_after;
pub use crate::http::{BaseUrl, Config as HttpConfig, Proxy, Roots, RootsFile};

use crate::credentials::{AuthMaterial, CredentialProvider};
use crate::domain::{BackupShare, BackupShares, CallContext, Error, ErrorKind, ShareRef};
use crate::http::{HttpClient, Reuse};
use crate::metrics::Metrics;
use attempt::{AttemptClient, AttemptError};
use error::DEADLINE_EXPIRED;
use retry::{RetryState, RetryThrottle, Step};
use unknown_fields::UnknownFields;

/// How the upstream is called.
#[derive(Clone, Debug)]
pub struct Config {
    /// The connections.
    pub http: HttpConfig,
    /// The file of the CA certificates in `http`, if they are the upstream's own.
    pub ca_file: Option<RootsFile>,
    /// The longest time of one attempt.
    pub attempt_timeout: Duration,
    /// The most attempts of one call, 1 or more.
    pub max_attempts: u32,
    /// The bound of the first backoff. It doubles with each attempt, up to 1 s.
    pub first_backoff: Duration,
}

/// The upstream of the whole process: its connections, its credential, its retry tokens.
pub struct Upstream {
    attempt_client: AttemptClient,
    max_attempts: u32,
    first_backoff: Duration,
    credentials: CredentialProvider,
    throttle: RetryThrottle,
    metrics: Metrics,
}

impl Upstream {
    /// Creates the HTTP client, which does not connect yet. Without a `base_url` the endpoint comes with the credential.
    pub fn new(
        base_url: Option<BaseUrl>,
        config: Config,
        credentials: CredentialProvider,
        metrics: Metrics,
    ) -> Result<Self, String> {
        let attempt_client = AttemptClient {
            base_url,
            http: HttpClient::new(config.http)?,
            timeout: config.attempt_timeout,
            metrics: metrics.clone(),
            unknown_fields: UnknownFields::default(),
        };
        Ok(Self {
            attempt_client,
            max_attempts: config.max_attempts,
            first_backoff: config.first_backoff,
            credentials,
            throttle: RetryThrottle::full(metrics.retry_tokens.clone()),
            metrics,
        })
    }

    /// The credential for the retry of a call whose credential was rejected with `error`. It takes no retry token, since it
    /// happens once for each call; otherwise a revocation would fail every call in flight but the first five.
    async fn reauthenticate(
        &self,
        call: &CallContext,
        share: &ShareRef,
        rejected: &AuthMaterial,
        error: Error,
    ) -> Result<AuthMaterial, Error> {
        let attempts = error.attempts;
        let refreshed =
            call.stats.time_credential(self.credentials.refresh_after(rejected, &share.project_id)).await;
        match refreshed {
            Ok(Some(material)) => Ok(material),
            Ok(None) => Err(error),
            Err(failed) => Err(Error { attempts, ..failed }),
        }
    }
}

impl BackupShares for Upstream {
    async fn get(&self, call: &CallContext, share: &ShareRef) -> Result<BackupShare, Error> {
        let credential = self.credentials.resolve(call.token.as_ref(), &share.project_id);
        let mut material = call.stats.time_credential(credential).await?;
        let mut state = RetryState::new(self.max_attempts, self.first_backoff, call.may_retry);
        let mut reuse = Reuse::Pooled;
        loop {
            let now = Instant::now();
            if call.deadline <= now {
                let error = Error::new(ErrorKind::DeadlineExceeded, DEADLINE_EXPIRED);
                return Err(Error { attempts: state.attempts, ..error });
            }
            call.stats.attempts.store(state.attempts + 1, Ordering::Relaxed);
            let attempt = self.attempt_client.get(call, share, &material, reuse, state.requests, now);
            let failed = match attempt.await {
                Ok(share) => {
                    self.throttle.on_success();
                    return Ok(share);
                }
                Err(failed) => failed,
            };
            let retry_reason = failed.retry_reason();
            let AttemptError { error, is_stale, .. } = failed;
            if error.kind == ErrorKind::OwnCredentialRefused {
                self.credentials.invalidate(&material, &share.project_id);
            }
            let time_left = call.deadline.saturating_duration_since(Instant::now());
            let step;
            (state, step) = retry::next_step(state, &error, is_stale, time_left, fastrand::f64());
            let error = Error { attempts: state.attempts, ..error };
            match step {
                Step::RepeatStale => {
                    self.metrics.retry("stale");
                    reuse = Reuse::Fresh;
                }
                Step::RefreshCredential => {
                    // Boxed, since it is rare and would enlarge the future of every call.
                    material = Box::pin(self.reauthenticate(call, share, &material, error)).await?;
                    self.metrics.retry(retry_reason);
                }
                Step::Retry { delay, needs_new_connection } => {
                    if !self.throttle.try_acquire() {
                        return Err(error);
                    }
                    self.metrics.retry(retry_reason);
                    if needs_new_connection {
                        reuse = Reuse::Fresh;
                    }
                    tokio::time::sleep(delay).await;
                }
                Step::GiveUp => return Err(error),
            }
        }
    }
}

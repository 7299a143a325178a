//! The outbound edge: reads one share from the Volume Backup Service, within the call's deadline.
//!
//! It implements [`BackupShares`] over HTTP and JSON, and must not know gRPC. An attempt (`attempt.rs`) is one request; the
//! loop here repeats it as the policy in `retry.rs` decides. The HTTP status is looked at before the JSON: the body of a
//! 404 is never read as a share.
//!
//! Sources: the vendor's API reference for the request and the response, RFC 9110 for statuses and `Retry-After`, gRFC A6 for the
//! retry throttle.

mod attempt;
mod error;
mod error_body;
mod json;
mod retry;
mod unknown_fields;

use std::time::Duration;

use tokio::time::Instant;

pub use attempt::share_url;
pub use error::from_response;
pub use error_body::{ErrorBody, ErrorOrigin};
pub use json::{Malformed, read_share};
pub use retry::{FIRST_BACKOFF, retry_after};

pub use crate::http::{BaseUrl, Config as HttpConfig, Proxy, Roots};

use crate::credentials::{AuthMaterial, CredentialProvider};
use crate::domain::{BackupShare, BackupShares, CallContext, Error, ErrorKind, ShareRef};
use crate::http::{HttpClient, Reuse};
use crate::metrics::Metrics;
use attempt::{AttemptError, error_type};
use retry::{RetryState, RetryThrottle, Step};
use unknown_fields::UnknownFields;

/// How the upstream is called.
#[derive(Clone, Debug)]
pub struct Config {
    /// The connections.
    pub http: HttpConfig,
    /// The longest time of one attempt.
    pub attempt_timeout: Duration,
    /// The most attempts of one call, 1 or more.
    pub max_attempts: u32,
    /// The bound of the first backoff; that of each further one is twice as long, up to a second.
    pub first_backoff: Duration,
}

/// The upstream of the whole process: its connections, its credential, its retry tokens.
pub struct Upstream {
    /// Otherwise the endpoint comes with the credential.
    base_url: Option<BaseUrl>,
    config: Config,
    credentials: CredentialProvider,
    http: HttpClient,
    throttle: RetryThrottle,
    unknown_fields: UnknownFields,
    metrics: Metrics,
}

const DEADLINE_PASSED: &str = "the caller's deadline passed";

impl Upstream {
    /// Makes the HTTP client; it connects to nothing yet.
    pub fn new(
        base_url: Option<BaseUrl>,
        config: Config,
        credentials: CredentialProvider,
        metrics: Metrics,
    ) -> Result<Self, String> {
        let http = HttpClient::new(config.http.clone())?;
        let throttle = RetryThrottle::full();
        metrics.retry_tokens.set(throttle.tokens());
        let unknown_fields = UnknownFields::default();
        Ok(Self { base_url, config, credentials, http, throttle, unknown_fields, metrics })
    }

    /// What authenticates the retry of a call whose credential was rejected with `error`. No retry token is needed, since
    /// it happens once for each call; otherwise a revocation would fail every call in flight but the first five.
    async fn refresh(
        &self,
        call: &CallContext,
        rejected: &AuthMaterial,
        error: Error,
    ) -> Result<AuthMaterial, Error> {
        let attempts = error.attempts;
        let refreshed = call.stats.time_credential(self.credentials.refresh_after(rejected)).await;
        match refreshed {
            Ok(Some(material)) => {
                self.metrics.retry(retry_reason(&error));
                Ok(material)
            }
            Ok(None) => Err(error),
            Err(identity) => Err(Error { attempts, ..identity.into() }),
        }
    }

    /// Whether the throttle allows a retry after `error`.
    fn acquire_retry(&self, error: &Error) -> bool {
        let is_allowed = self.throttle.try_acquire();
        self.metrics.retry_tokens.set(self.throttle.tokens());
        if is_allowed {
            self.metrics.retry(retry_reason(error));
        }
        is_allowed
    }
}

impl BackupShares for Upstream {
    async fn get(&self, call: &CallContext, share: &ShareRef) -> Result<BackupShare, Error> {
        let credential = self.credentials.resolve(call.token.as_ref());
        let mut material = call.stats.time_credential(credential).await?;
        let mut state = RetryState::new(self.config.max_attempts, self.config.first_backoff, call.may_retry);
        let mut reuse = Reuse::Pooled;
        loop {
            if call.deadline <= Instant::now() {
                let passed = Error::new(ErrorKind::DeadlineExceeded, DEADLINE_PASSED);
                return Err(Error { attempts: state.attempts, ..passed });
            }
            call.stats.set_attempts(state.attempts + 1);
            let attempt = self.attempt(call, share, &material, reuse, state.requests);
            let AttemptError { error, is_stale } = match attempt.await {
                Ok(share) => {
                    material.mark_accepted();
                    self.throttle.on_success();
                    self.metrics.retry_tokens.set(self.throttle.tokens());
                    return Ok(share);
                }
                Err(failed) => failed,
            };
            if error.kind == ErrorKind::OwnCredentialRefused {
                self.credentials.invalidate(&material);
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
                    // Boxed: it is rare, and the future of every call would have room for it.
                    material = Box::pin(self.refresh(call, &material, error)).await?;
                }
                Step::Retry { delay, needs_new_connection } => {
                    if !self.acquire_retry(&error) {
                        return Err(error);
                    }
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

/// The metric's label for why there is another attempt.
fn retry_reason(error: &Error) -> &'static str {
    error_type(error).unwrap_or("status")
}

//! The outbound edge: asks the Volume Backup Service for one share, in time, and says what came of it.
//!
//! It knows HTTP, JSON and time; it must not know gRPC. A request is made of checked values only ([`ProjectId`],
//! [`ShareId`], [`Credential`]), an answer is the upstream's own [`Share`] or an [`Error`] whose [`Kind`] names the step that
//! failed. The status comes before the JSON: what a 404 says is never read as a share.

mod error;
mod error_body;
mod retry;
mod target;
mod wire;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::Instant;
use url::Url;

pub use error::{Error, Kind, MAX_MESSAGE_BYTES, MAX_METADATA_BYTES};
pub use error_body::{ErrorBody, Voice};
pub use retry::retry_after;
pub use target::{ProjectId, ShareId, share_url};
pub use wire::{Backup, Malformed, Share};

pub use crate::http::{BaseUrl, Config as HttpConfig, Proxy, Roots};
pub use crate::timestamp::Timestamp;

use crate::credentials::{self, Credential, IdentityError, Proof};
use crate::http::{Body, Error as HttpError, HttpClient, Response, Reuse, first_text, has_content_encoding};
use crate::telemetry::traces::AttemptSpan;
use crate::telemetry::{CallSpan, Metrics};

/// How the upstream is asked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The connections.
    pub http: HttpConfig,
    /// The longest time of one attempt.
    pub attempt_timeout: Duration,
    /// The most attempts at one call, 1 or more.
    pub max_attempts: u32,
}

/// One question, of checked values only.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    /// The project in whose name the share is read.
    pub project_id: ProjectId,
    /// The share.
    pub id: ShareId,
    /// What proves who asks.
    pub credential: Credential,
    /// Sent as `X-Request-Id`.
    pub request_id: &'a HeaderValue,
    /// What the attempts belong to, in traces.
    pub span: &'a CallSpan,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// Whether a failed attempt may be followed by another one.
    pub may_retry: bool,
    /// Kept up to date.
    pub progress: &'a Progress,
}

/// How far a call has come, known of one that was cancelled, too.
#[derive(Debug, Default)]
pub struct Progress {
    attempts: AtomicU32,
    credential_micros: AtomicU64,
}

impl Progress {
    /// Attempts made. One on a connection that turns out to be stale does not count.
    pub fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// How long the call has waited for a credential.
    pub fn waited_for_credential(&self) -> Duration {
        Duration::from_micros(self.credential_micros.load(Ordering::Relaxed))
    }

    async fn timed<T>(&self, waiting: impl Future<Output = T>) -> T {
        let since = Instant::now();
        let result = waiting.await;
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.credential_micros.fetch_add(micros, Ordering::Relaxed);
        result
    }
}

/// A share, and how it was got.
#[derive(Debug)]
pub struct Found {
    /// The share asked for.
    pub share: Share,
    /// The upstream's ID of the request.
    pub request_id: Option<String>,
}

/// The upstream, as the whole process sees it: its connections, its retry tokens, its unknown keys.
pub struct Upstream {
    /// Else it comes with the credential.
    base_url: Option<BaseUrl>,
    config: Config,
    http: HttpClient,
    bucket: retry::Bucket,
    unknown: UnknownKeys,
    metrics: Metrics,
}

/// Where services of this family put their ID of the request, the gateway's before the services' behind it.
const REQUEST_ID_HEADERS: [HeaderName; 4] = [
    REQUEST_ID,
    HeaderName::from_static("x-openstack-request-id"),
    HeaderName::from_static("x-compute-request-id"),
    HeaderName::from_static("x-iam-trace-id"),
];
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const DEADLINE_PASSED: &str = "the caller's deadline passed";

impl Upstream {
    /// Makes the client; it connects to nothing yet.
    pub fn new(base_url: Option<BaseUrl>, config: Config, metrics: Metrics) -> Result<Self, String> {
        let http = HttpClient::new(config.http.clone())?;
        let bucket = retry::Bucket::full();
        metrics.retry_tokens.set(bucket.tokens());
        Ok(Self { base_url, config, http, bucket, unknown: UnknownKeys::default(), metrics })
    }

    /// Asks until there is an answer, a final failure, or no more time.
    pub async fn get_backup_share(&self, query: &Query<'_>) -> Result<Found, Error> {
        let mut proof = query.progress.timed(query.credential.proof()).await?;
        let mut attempts = 0;
        let mut reuse = Reuse::Pooled;
        let (mut stale_before, mut refused_before) = (false, false);
        loop {
            if query.deadline <= Instant::now() {
                return Err(Error { attempts, ..Error::new(Kind::DeadlineExceeded, DEADLINE_PASSED) });
            }
            attempts += 1;
            query.progress.attempts.store(attempts, Ordering::Relaxed);
            let failure = match self.attempt(query, &proof, reuse).await {
                Ok(found) => {
                    proof.was_accepted();
                    self.bucket.reward();
                    self.metrics.retry_tokens.set(self.bucket.tokens());
                    return Ok(found);
                }
                Err(failure) => failure,
            };
            if failure.stale && !stale_before {
                // The upstream closed an idle connection: this does not count as an attempt and takes no retry token.
                stale_before = true;
                attempts -= 1;
                reuse = Reuse::Fresh;
                self.metrics.retry("stale");
                continue;
            }
            let error = Error { attempts, ..failure.error };
            if error.kind == Kind::OwnCredentialRefused {
                let may_renew = !std::mem::replace(&mut refused_before, true);
                // Boxed: it is rare, and every call would have room for it.
                proof = Box::pin(self.after_refusal(query, &proof, error, may_renew)).await?;
                continue;
            }
            let Some(wait) = self.wait_before_retry(query, &error) else { return Err(error) };
            if error.kind == Kind::ConnectionLost {
                reuse = Reuse::Fresh;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// What to prove it with after a 401, if there is something: once a call. No retry token pays for it, since it does not
    /// come again; or one revocation would fail every call in flight but the first five.
    async fn after_refusal(
        &self,
        query: &Query<'_>,
        refused: &Proof,
        error: Error,
        may_renew: bool,
    ) -> Result<Proof, Error> {
        query.credential.was_refused(refused);
        if !may_renew || !query.may_retry || error.attempts >= self.config.max_attempts {
            return Err(error);
        }
        let attempts = error.attempts;
        let renewed = query.progress.timed(query.credential.successor(refused)).await;
        match renewed.map_err(|why| Error { attempts, ..why.into() })? {
            Some(proof) => {
                self.metrics.retry(retry_reason(&error));
                Ok(proof)
            }
            None => Err(error),
        }
    }

    fn wait_before_retry(&self, query: &Query<'_>, error: &Error) -> Option<Duration> {
        if !query.may_retry || error.attempts >= self.config.max_attempts {
            return None;
        }
        let left = query.deadline.saturating_duration_since(Instant::now());
        let wait = retry::wait(error, left, fastrand::f64())?;
        let granted = self.bucket.take();
        self.metrics.retry_tokens.set(self.bucket.tokens());
        if granted {
            self.metrics.retry(retry_reason(error));
        }
        granted.then_some(wait)
    }

    async fn attempt(&self, query: &Query<'_>, proof: &Proof, reuse: Reuse) -> Result<Found, Failure> {
        let own_end = Instant::now() + self.config.attempt_timeout;
        let (mut record, exchange) = self.send(query, proof, reuse)?;
        let result = match tokio::time::timeout_at(query.deadline.min(own_end), exchange).await {
            // A tie is the deadline's.
            Err(_) if query.deadline <= own_end => {
                Err(Error::new(Kind::DeadlineExceeded, DEADLINE_PASSED).into())
            }
            Err(_) => Err(Error::new(Kind::Timeout, "no reply within the attempt's time").into()),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(response)) => self.read(query, proof, &response).map_err(Failure::from),
        };
        record.outcome = match &result {
            Ok(_) => (Some(200), ""),
            Err(failure) => {
                (failure.error.http_status, error_type(failure.error.kind, failure.error.http_status))
            }
        };
        result
    }

    /// Puts the request together, and the reply that will come.
    fn send<'a>(
        &'a self,
        query: &'a Query<'_>,
        proof: &Proof,
        reuse: Reuse,
    ) -> Result<(AttemptRecord<'a>, impl Future<Output = Result<Response, HttpError>> + use<'a>), Error> {
        let nowhere = || Error::new(Kind::Unreachable, "it is not known where the upstream is");
        let base_url = self.base_url.as_ref().or(proof.endpoint()).ok_or_else(nowhere)?;
        let url = share_url(base_url, &query.project_id, &query.id);
        let record = AttemptRecord {
            metrics: &self.metrics,
            since: Instant::now(),
            outcome: (None, "cancelled"),
            span: query.span.attempt(&url),
        };
        let headers = headers(query, proof, (base_url, &url), &record.span);
        Ok((record, self.http.get(url, headers, reuse)))
    }

    /// The status before the JSON.
    fn read(&self, query: &Query<'_>, proof: &Proof, response: &Response) -> Result<Found, Error> {
        let request_id = first_text(&response.headers, &REQUEST_ID_HEADERS);
        let is_encoded = has_content_encoding(&response.headers);
        let body = match &response.body {
            Body::Complete(bytes) => Some(bytes.as_ref()),
            Body::TooLarge => None,
        };
        if response.status != 200 {
            let error = Error::of_reply(response.status, request_id, body.filter(|_| !is_encoded), proof);
            let mut told = response.headers.get_all(header::RETRY_AFTER).iter();
            let retry_after = told.find_map(|value| retry_after(value.as_bytes(), SystemTime::now()));
            return Err(Error { retry_after, ..error });
        }
        let request_id = request_id.and_then(|id| error::safe_request_id(id, proof));
        let failed = |kind, detail: String| Error {
            http_status: Some(200),
            request_id: request_id.clone(),
            ..Error::new(kind, detail)
        };
        let body = body.ok_or_else(|| failed(Kind::TooLarge, "the body is longer than the limit".into()))?;
        if is_encoded {
            return Err(failed(
                Kind::Malformed,
                "the body has a content coding, which was not asked for".into(),
            ));
        }
        let note = |key: String| self.unknown.note(&key, proof, &self.metrics);
        let share = Share::read(body, &query.id, note)
            // A key may repeat the token, too.
            .map_err(|malformed| failed(Kind::Malformed, proof.redact(&malformed.to_string())))?;
        Ok(Found { share, request_id })
    }
}

/// All that the upstream gets.
fn headers(
    query: &Query<'_>,
    proof: &Proof,
    (base_url, url): (&BaseUrl, &Url),
    span: &AttemptSpan<'_>,
) -> HeaderMap {
    const ACCEPT: &str = "application/json";
    const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::HOST, base_url.host_header());
    headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(REQUEST_ID, query.request_id.clone());
    span.add_to(&mut headers);
    let get = credentials::Get {
        host: url.authority(),
        path: url.path(),
        project_id: query.project_id.as_str(),
        user_agent: USER_AGENT,
        accept: ACCEPT,
    };
    proof.add_to(&mut headers, get, SystemTime::now());
    headers
}

/// A failed attempt.
struct Failure {
    error: Error,
    /// A reused connection was lost before a complete response head came.
    stale: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, stale: false }
    }
}

impl From<IdentityError> for Error {
    fn from(error: IdentityError) -> Self {
        let kind = if error.refused { Kind::IdentityRefused } else { Kind::IdentityUnreachable };
        let (http_status, request_id) = (error.http_status, error.request_id);
        Self { http_status, request_id, ..Self::new(kind, error.detail) }
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Unreachable(detail) => Error::new(Kind::Unreachable, detail).into(),
            HttpError::ProxyAuthentication(detail) => {
                Error::new(Kind::ProxyAuthenticationRequired, detail).into()
            }
            HttpError::Lost { detail, stale } => {
                Self { error: Error::new(Kind::ConnectionLost, detail), stale }
            }
        }
    }
}

/// The metric's word for what an attempt died of; a reply with a status of its own has none.
fn error_type(kind: Kind, http_status: Option<u16>) -> &'static str {
    match (kind, http_status) {
        (Kind::Malformed, _) => "malformed",
        (Kind::TooLarge, _) => "too_large",
        (Kind::Unreachable | Kind::ProxyAuthenticationRequired, None) => "connect",
        (Kind::ConnectionLost, _) => "lost",
        (Kind::Timeout | Kind::DeadlineExceeded, None) => "timeout",
        (_, _) => "",
    }
}

/// The metric's word for why there is another attempt.
fn retry_reason(error: &Error) -> &'static str {
    match error_type(error.kind, error.http_status) {
        "" => "status",
        reason => reason,
    }
}

/// Counts an attempt when it ends, or when it is dropped because the caller went away.
struct AttemptRecord<'a> {
    metrics: &'a Metrics,
    since: Instant,
    outcome: (Option<u16>, &'static str),
    span: AttemptSpan<'a>,
}

impl Drop for AttemptRecord<'_> {
    fn drop(&mut self) {
        let (status, error_type) = self.outcome;
        self.metrics.attempt(status, error_type, self.since.elapsed());
        self.span.ended(status, error_type);
    }
}

/// The keys that nobody knows: every one is counted, the first [`UnknownKeys::MOST`] are logged once each.
#[derive(Debug, Default)]
struct UnknownKeys {
    /// Hashes of them: a key may hold anything, and there may be many in one reply.
    seen: Mutex<HashSet<u64>>,
}

impl UnknownKeys {
    const MOST: usize = 64;
    const LONGEST: usize = 64;

    fn note(&self, path: &str, proof: &Proof, metrics: &Metrics) {
        metrics.unknown_fields.inc();
        if self.is_new(path) {
            let plain: String = path.chars().filter(char::is_ascii_graphic).take(4 * Self::LONGEST).collect();
            let key: String = proof.redact(&plain).chars().take(Self::LONGEST).collect();
            tracing::warn!(key, "the upstream's reply has a key that this version does not know");
        }
    }

    fn is_new(&self, path: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.len() < Self::MOST && seen.insert(hasher.finish())
    }
}

//! The gateway's own account at the identity service, and the token that it has at the moment.
//!
//! One task asks for tokens: before the old one ends, when the upstream has refused it, and when the account has changed.
//! Calls only ever look at what it has got. While the identity service is away the old token stays in use for as long as
//! it holds. When to ask next is a matter of [`State`] alone, which is told the time and never sleeps.

mod account;
mod config;
mod issue;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::domain::Token;
use crate::files::Snapshot;
use crate::http::{BaseUrl, Config as HttpConfig, HttpClient, Roots};
use crate::metrics::Metrics;
use account::Account;
pub use account::{CA_VARIABLE, VARIABLES};
pub use config::{AccountConfig, Config};
use config::{AccountSource, ServiceAccount};
pub use issue::IdentityError;
use issue::{Answer, Wanted};

/// The longest reply that is read: a catalog of every service in every region.
const MAX_REPLY_BYTES: usize = 4 << 20;
/// A call waits this long for the next renewal when the last one has failed, and longer only while nothing has.
const PATIENCE: Duration = Duration::from_secs(1);
/// A token issued in the second of a revocation is revoked with the rest.
const REVOCATION: Duration = Duration::from_secs(1);
/// The longest time between two forced renewals, when the upstream takes none of the tokens.
const MAX_REFUSED: Duration = Duration::from_secs(60);

/// A token of the gateway's own.
#[derive(Debug)]
pub struct Issued {
    token: Token,
    endpoint: Option<BaseUrl>,
    project_id: Option<String>,
    asked_at: Instant,
    holds_until: Instant,
    renew_at: Instant,
    /// It was asked for because the upstream had refused the one before.
    forced: bool,
    accepted: AtomicBool,
}

impl Issued {
    pub(super) fn token(&self) -> &Token {
        &self.token
    }

    pub(crate) fn endpoint(&self) -> Option<&BaseUrl> {
        self.endpoint.as_ref()
    }

    /// The project that it is for.
    pub(crate) fn project_id(&self) -> Option<&str> {
        self.project_id.as_deref()
    }

    /// How long it holds, from when it was asked for.
    pub(crate) fn lifetime(&self) -> Duration {
        self.holds_until - self.asked_at
    }

    pub(super) fn was_accepted(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }
}

/// The account and its token.
pub struct Keystone {
    source: AccountSource,
    endpoint_from_catalog: bool,
    http: HttpConfig,
    snapshot: Snapshot,
    session: ArcSwap<Session>,
    state: watch::Sender<State>,
}

/// An account, and the connections to where it is.
struct Session {
    account: Account,
    roots: Roots,
    client: HttpClient,
}

impl Session {
    fn open(account: ServiceAccount, http: &HttpConfig) -> Result<Self, String> {
        let ServiceAccount { account, roots } = account;
        let http = HttpConfig { roots: roots.clone(), max_response_bytes: MAX_REPLY_BYTES, ..http.clone() };
        Ok(Self { account, roots, client: HttpClient::new(http)? })
    }
}

impl Keystone {
    /// Starts with the account that the configuration has read; connects to nothing yet. An error is a fault of the
    /// gateway: what users can get wrong was found when the configuration was read.
    pub fn new(config: Config) -> Result<Self, String> {
        let Config { account: AccountConfig { source, account }, endpoint_from_catalog, http } = config;
        let session = ArcSwap::from_pointee(Session::open(account.value, &http)?);
        let state = watch::Sender::new(State::new(Instant::now()));
        Ok(Self { source, endpoint_from_catalog, http, snapshot: account.snapshot, session, state })
    }

    /// Reads the account again, and asks for a token with it. After an error the one that was in use stays.
    pub fn reload(&self) -> Result<(), String> {
        let account = ServiceAccount::read(&self.source).map_err(|problems| problems.join("; "))?;
        self.session.store(Arc::new(Session::open(account, &self.http)?));
        self.state.send_modify(|state| state.begin_anew(Instant::now()));
        Ok(())
    }

    /// The folder's files as they were when they were read for the first time.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// Keeps the token fresh. Never ends.
    pub async fn run(&self, metrics: &Metrics) {
        let mut changes = self.state.subscribe();
        let mut diagnosed = false;
        loop {
            let next = changes.borrow_and_update().next;
            if Instant::now() < next {
                tokio::select! {
                    () = sleep_until(next) => {}
                    // The sender is ours.
                    _ = changes.changed() => {}
                }
                continue;
            }
            self.state.send_modify(State::begin);
            let asked_at = Instant::now();
            let session = self.session.load_full();
            let result = self.ask(&session).await;
            let is_refused = result.as_ref().is_err_and(|error| error.refused);
            if is_refused && !std::mem::replace(&mut diagnosed, true) {
                explain(&session).await;
            }
            diagnosed &= result.is_err();
            metrics.renewal(outcome(&result));
            self.note(&session, asked_at, result);
        }
    }

    /// Where the identity service is, and who may sign its certificate.
    pub(crate) fn identity_service(&self) -> (BaseUrl, Roots) {
        let session = self.session.load();
        (session.account.auth_url.clone(), session.roots.clone())
    }

    /// Asks for one token, which is then the one in use. The error is for people.
    pub(crate) async fn try_once(&self) -> Result<Arc<Issued>, String> {
        let (session, asked_at) = (self.session.load_full(), Instant::now());
        match self.ask(&session).await {
            Ok(answer) => {
                self.state.send_modify(|state| state.succeeded(answer, asked_at, fastrand::f64()));
                self.current().await.map_err(|error| error.detail)
            }
            Err(error) if error.refused => {
                let why = issue::diagnose(&session.client, &session.account).await;
                Err(why.map(|why| format!("{}: {why}", error.detail)).unwrap_or(error.detail))
            }
            Err(error) => Err(error.detail),
        }
    }

    async fn ask(&self, session: &Session) -> Result<Answer, IdentityError> {
        let wanted = Wanted { endpoint: self.endpoint_from_catalog, plaintext: self.source.allow_plaintext };
        issue::issue(&session.client, &session.account, wanted).await
    }

    fn note(&self, session: &Arc<Session>, asked_at: Instant, result: Result<Answer, IdentityError>) {
        // Of an account that has changed meanwhile, neither a token nor a failure counts.
        if !Arc::ptr_eq(session, &self.session.load()) {
            self.state.send_modify(State::abandon);
            return;
        }
        let now = Instant::now();
        match result {
            Ok(answer) => {
                let holds_s = answer.lifetime.as_secs();
                let endpoint = answer.endpoint.as_ref().map(tracing::field::display);
                tracing::info!(holds_s, endpoint, "the identity service issued a token");
                self.state.send_modify(|state| state.succeeded(answer, asked_at, fastrand::f64()));
            }
            Err(error) => {
                let (detail, http_status) = (error.detail.clone(), error.http_status);
                self.state.send_modify(|state| state.failed(error, now, fastrand::f64()));
                let state = self.state.borrow();
                let next_s = (state.next - now).as_secs_f64();
                let in_use = state.holding(now).is_some();
                tracing::error!(
                    detail,
                    http_status,
                    next_s,
                    in_use,
                    "no token: the old one stays while it holds"
                );
            }
        }
    }

    /// Whether there has been a token.
    pub(super) fn is_ready(&self) -> bool {
        self.state.borrow().issued.is_some()
    }

    /// Waits for the first token.
    pub(super) async fn ready(&self) {
        // The sender is ours.
        let _ = self.state.subscribe().wait_for(|state| state.issued.is_some()).await;
    }

    /// The token to use now; waits for it while there is hope.
    pub(super) async fn current(&self) -> Result<Arc<Issued>, IdentityError> {
        if let Some(issued) = self.state.borrow().holding(Instant::now()) {
            return Ok(Arc::clone(issued));
        }
        // Boxed: it is rare, and every call would have room for it.
        let found = Box::pin(self.wait(|state, now| state.holding(now).cloned())).await;
        found.and_then(|issued| {
            issued.ok_or_else(|| unavailable("the identity service gave no token in time"))
        })
    }

    /// The upstream has refused this token: another one is asked for, unless there is one already.
    pub(super) fn was_refused(&self, refused: &Arc<Issued>) {
        self.state.send_if_modified(|state| state.refused(refused, Instant::now()));
    }

    /// The token after this one; waits for it while there is hope. `None` where the upstream takes none of them.
    pub(super) async fn successor(
        &self,
        refused: &Arc<Issued>,
    ) -> Result<Option<Arc<Issued>>, IdentityError> {
        self.wait(|state, now| state.holding(now).filter(|issued| !Arc::ptr_eq(issued, refused)).cloned())
            .await
    }

    /// Waits until `find` finds something. It is given up with the error of the last renewal when that failed and another
    /// one is far, and with nothing when the next one is far for another reason.
    async fn wait<T>(&self, find: impl Fn(&State, Instant) -> Option<T>) -> Result<Option<T>, IdentityError> {
        let mut changes = self.state.subscribe();
        let mut patience: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let failure = {
                let state = changes.borrow_and_update();
                if let Some(found) = find(&state, now) {
                    return Ok(Some(found));
                }
                if !state.renewing && state.next > now + PATIENCE {
                    return state.failure.clone().map_or(Ok(None), Err);
                }
                state.failure.clone()
            };
            let Some(failure) = failure else {
                // The sender is ours.
                let _ = changes.changed().await;
                continue;
            };
            let end = *patience.get_or_insert(now + PATIENCE);
            if timeout_at(end, changes.changed()).await.is_err() {
                return Err(failure);
            }
        }
    }
}

impl fmt::Debug for Keystone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keystone([redacted])")
    }
}

async fn explain(session: &Session) {
    if let Some(why) = issue::diagnose(&session.client, &session.account).await {
        tracing::error!("{why}");
    }
}

fn unavailable(detail: &str) -> IdentityError {
    IdentityError { refused: false, http_status: None, request_id: None, detail: detail.into() }
}

/// The metric's word for how a renewal ended.
fn outcome(result: &Result<Answer, IdentityError>) -> &'static str {
    match result {
        Ok(_) => "success",
        Err(error) if error.refused => "refused",
        Err(_) => "unreachable",
    }
}

/// What is known, and when to ask next. All times are arguments.
#[derive(Debug)]
struct State {
    issued: Option<Arc<Issued>>,
    /// Of the last renewal.
    failure: Option<IdentityError>,
    /// Failures in a row.
    failures: u32,
    /// Tokens in a row that the upstream never took.
    refusals: u32,
    /// The upstream has refused the token.
    is_refused: bool,
    renewing: bool,
    next: Instant,
}

impl State {
    fn new(now: Instant) -> Self {
        Self {
            issued: None,
            failure: None,
            failures: 0,
            refusals: 0,
            is_refused: false,
            renewing: false,
            next: now,
        }
    }

    /// The token, while it holds.
    fn holding(&self, now: Instant) -> Option<&Arc<Issued>> {
        self.issued.as_ref().filter(|issued| now < issued.holds_until)
    }

    fn begin(&mut self) {
        self.renewing = true;
    }

    /// The answer does not count, and the question is asked again at once.
    fn abandon(&mut self) {
        self.renewing = false;
    }

    /// There is another account.
    fn begin_anew(&mut self, now: Instant) {
        (self.failure, self.failures, self.refusals, self.next) = (None, 0, 0, now);
    }

    fn succeeded(&mut self, answer: Answer, asked_at: Instant, random: f64) {
        let renew_at = asked_at + answer.lifetime.mul_f64(0.5 + 0.2 * random);
        self.issued = Some(Arc::new(Issued {
            token: answer.token,
            endpoint: answer.endpoint,
            project_id: answer.project_id,
            asked_at,
            holds_until: asked_at + answer.lifetime,
            renew_at,
            forced: self.is_refused,
            accepted: AtomicBool::new(false),
        }));
        (self.failure, self.failures) = (None, 0);
        (self.is_refused, self.renewing, self.next) = (false, false, renew_at);
    }

    fn failed(&mut self, error: IdentityError, now: Instant, random: f64) {
        let wait = back_off(error.refused, self.failures).mul_f64(0.75 + 0.25 * random);
        self.failures = self.failures.saturating_add(1);
        self.failure = Some(error);
        (self.renewing, self.next) = (false, now + wait);
    }

    /// The upstream has refused this token. Whether that changes anything.
    fn refused(&mut self, refused: &Arc<Issued>, now: Instant) -> bool {
        let is_current = self.issued.as_ref().is_some_and(|issued| Arc::ptr_eq(issued, refused));
        if !is_current || self.is_refused {
            return false;
        }
        self.is_refused = true;
        let earliest = if refused.forced && !refused.accepted.load(Ordering::Relaxed) {
            let wait = REVOCATION * 2u32.saturating_pow(self.refusals.min(16));
            self.refusals += 1;
            refused.asked_at + wait.min(MAX_REFUSED)
        } else {
            self.refusals = 0;
            now
        };
        // An identity service that is away is not asked more often for that.
        if self.failure.is_none() {
            self.next = earliest.min(refused.renew_at).max(now);
        }
        true
    }
}

/// How long to wait after a failure, with `before` others right before it. An account whose password is refused again and
/// again gets locked (five times in a quarter of an hour are enough for that), so this one grows fast.
fn back_off(refused: bool, before: u32) -> Duration {
    let (first, factor, most): (u64, u64, u64) = if refused { (10, 4, 600) } else { (1, 2, 15) };
    Duration::from_secs(u64::saturating_mul(first, factor.saturating_pow(before)).min(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn answer(seconds: u64) -> Answer {
        let token = Token::issued(&HeaderValue::from_static("gAAAAABl-of-the-gateway")).unwrap();
        Answer { token, lifetime: Duration::from_secs(seconds), endpoint: None, project_id: None }
    }

    fn failure(refused: bool) -> IdentityError {
        IdentityError { refused, ..unavailable("for the test") }
    }

    fn current(state: &State) -> Arc<Issued> {
        Arc::clone(state.issued.as_ref().unwrap())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_token_is_renewed_between_half_and_seven_tenths_of_its_life() {
        let now = Instant::now();
        for (random, seconds) in [(0.0, 500), (1.0, 700)] {
            let mut state = State::new(now);
            assert_eq!(state.next, now);
            state.succeeded(answer(1000), now, random);
            assert!((state.next - now).abs_diff(seconds * SECOND) < Duration::from_millis(1));
            assert!(state.holding(now + 999 * SECOND).is_some());
            assert!(state.holding(now + 1000 * SECOND).is_none());
        }
    }

    #[test]
    fn failures_back_off_and_the_old_token_stays() {
        let now = Instant::now();
        for (refused, waits) in [(false, [1, 2, 4, 8, 15, 15]), (true, [10, 40, 160, 600, 600, 600])] {
            let mut state = State::new(now);
            state.succeeded(answer(1000), now, 0.0);
            for seconds in waits {
                state.failed(failure(refused), now, 1.0);
                assert_eq!(state.next - now, seconds * SECOND);
                assert!(state.holding(now).is_some());
            }
            assert!(
                !state.refused(&Arc::new(Issued { forced: true, ..issued(now) }), now),
                "not the current one"
            );
            let (before, token) = (state.next, current(&state));
            assert!(state.refused(&token, now));
            assert_eq!(state.next, before, "a refusal by the upstream does not shorten a back-off");
            state.begin_anew(now);
            assert_eq!(state.next, now, "another account is tried at once");
        }
    }

    fn issued(now: Instant) -> Issued {
        let mut state = State::new(now);
        state.succeeded(answer(10), now, 0.0);
        Arc::into_inner(state.issued.unwrap()).unwrap()
    }

    #[test]
    fn a_refused_token_is_replaced_at_once_and_its_successor_in_the_next_second() {
        let now = Instant::now();
        let mut state = State::new(now);
        state.succeeded(answer(1000), now, 0.0);
        let first = current(&state);
        assert!(state.refused(&first, now));
        assert!(!state.refused(&first, now), "many calls, one renewal");
        assert_eq!(state.next, now);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            state.succeeded(answer(1000), now, 0.0);
            let token = current(&state);
            assert!(!state.refused(&first, now), "a late refusal of an old token");
            assert!(state.refused(&token, now));
            assert_eq!(state.next - now, seconds * SECOND);
        }
        state.succeeded(answer(1000), now, 0.0);
        let token = current(&state);
        token.was_accepted();
        assert!(state.refused(&token, now));
        assert_eq!(state.next, now, "one that was in use for a while is replaced at once");
    }
}

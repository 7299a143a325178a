//! Holds one token of one scope, and decides when it is refreshed.
//!
//! Calls read the token of a [`TokenCache`], and wait on its watch channel while there is none. One task refreshes it: before
//! the token expires, after the upstream has rejected it, and after the account has changed. All decisions are made by
//! [`State`], which is pure: times and results come in, and it neither sleeps nor sends requests.
//!
//! This module does not know how a token is requested.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::token::{IdentityError, IssuedToken};
use crate::domain::Token;
use crate::http::BaseUrl;

/// After a failed refresh, a call waits this long for the next one.
const MAX_REFRESH_WAIT: Duration = Duration::from_secs(1);
/// Tokens have whole seconds: one that is issued in the second of a revocation is revoked as well.
const REVOCATION_GRANULARITY: Duration = Duration::from_secs(1);
/// The longest interval between forced refreshes, while the upstream rejects every token.
const MAX_FORCED_INTERVAL: Duration = Duration::from_secs(60);

/// A token of the gateway's own account.
#[derive(Debug)]
pub struct CachedToken {
    pub(crate) token: Token,
    /// How long it is valid, from the moment of the request.
    pub(crate) lifetime: Duration,
    /// The upstream's URL in the catalog, if the gateway takes it from there.
    pub(crate) endpoint: Option<BaseUrl>,
    /// The project that it is for.
    pub(crate) project_id: Option<String>,
    requested_at: Instant,
    valid_until: Instant,
    refresh_at: Instant,
    /// It was requested because the upstream had rejected the one before.
    is_forced: bool,
    was_accepted: AtomicBool,
}

impl CachedToken {
    /// The upstream has accepted it.
    pub(crate) fn mark_accepted(&self) {
        self.was_accepted.store(true, Ordering::Relaxed);
    }
}

/// One token, shared by the calls that use it and the task that refreshes it.
pub(crate) struct TokenCache {
    state: watch::Sender<State>,
}

impl TokenCache {
    /// An empty cache, whose first refresh is due at once.
    pub(super) fn new() -> Self {
        Self { state: watch::Sender::new(State::new(Instant::now())) }
    }

    /// The token, if there is a valid one.
    pub(super) fn valid_token(&self) -> Option<Arc<CachedToken>> {
        self.state.borrow().valid_token(Instant::now()).cloned()
    }

    /// Waits for a token other than `rejected`. `None` if the upstream has rejected all tokens lately, and the next one is not
    /// requested soon. The error is that of the last refresh.
    pub(crate) async fn wait_for_token(
        &self,
        rejected: Option<&Arc<CachedToken>>,
    ) -> Result<Option<Arc<CachedToken>>, IdentityError> {
        let mut changes = self.state.subscribe();
        let mut give_up_at = None;
        loop {
            let now = Instant::now();
            let lookup = changes.borrow_and_update().lookup(rejected, now);
            match lookup {
                Lookup::Found(token) => return Ok(Some(token)),
                Lookup::NotSoon(None) => return Ok(None),
                Lookup::NotSoon(Some(error)) => return Err(error),
                Lookup::Pending(None) => {
                    // The sender is `self`, so it still exists.
                    let _ = changes.changed().await;
                }
                Lookup::Pending(Some(error)) => {
                    let end = *give_up_at.get_or_insert(now + MAX_REFRESH_WAIT);
                    if timeout_at(end, changes.changed()).await.is_err() {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The upstream has rejected this token: a refresh is due, unless another token has replaced it.
    pub(crate) fn invalidate(&self, rejected: &Arc<CachedToken>) {
        self.state.send_if_modified(|state| state.invalidate(rejected, Instant::now()));
    }

    /// The account has changed: a refresh is due at once, and the result of one in progress is discarded.
    pub(super) fn reset(&self) {
        self.state.send_modify(|state| state.reset(Instant::now()));
    }

    /// Whether there has been a token.
    pub(crate) fn is_ready(&self) -> bool {
        self.state.borrow().token.is_some()
    }

    /// Waits for the first token.
    pub(crate) async fn ready(&self) {
        // The sender is `self`, so it still exists.
        let _ = self.state.subscribe().wait_for(|state| state.token.is_some()).await;
    }

    /// Waits until a refresh is due, and begins it.
    pub(super) async fn begin_refresh(&self) -> Refresh {
        let mut changes = self.state.subscribe();
        loop {
            let refresh_at = changes.borrow_and_update().refresh_at;
            if refresh_at <= Instant::now() {
                break;
            }
            // A change may bring the refresh forward.
            let _ = timeout_at(refresh_at, changes.changed()).await;
        }
        let mut generation = 0;
        self.state.send_modify(|state| generation = state.begin_refresh());
        Refresh { generation, requested_at: Instant::now() }
    }

    /// Stores the result of a refresh. Returns when the next one is due, or `None` if the result was discarded.
    pub(super) fn finish_refresh(
        &self,
        refresh: &Refresh,
        result: Result<IssuedToken, IdentityError>,
    ) -> Option<Duration> {
        let now = Instant::now();
        let mut is_current = false;
        self.state
            .send_modify(|state| is_current = state.finish_refresh(refresh, result, now, fastrand::f64()));
        is_current.then(|| self.state.borrow().refresh_at - now)
    }
}

/// A refresh in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refresh {
    /// Which account it belongs to.
    generation: u64,
    requested_at: Instant,
}

/// What a call that needs a token has to do.
#[derive(Debug)]
enum Lookup {
    Found(Arc<CachedToken>),
    /// There is none, and the next refresh is far away. With the error of the last one.
    NotSoon(Option<IdentityError>),
    /// A refresh is in progress or due soon. With the error of the last one.
    Pending(Option<IdentityError>),
}

/// What is known, and when the next refresh is due. All times are arguments.
#[derive(Debug)]
struct State {
    token: Option<Arc<CachedToken>>,
    /// Of the last refresh.
    last_error: Option<IdentityError>,
    /// Failed refreshes in a row.
    failures: u32,
    /// Tokens in a row that the upstream never accepted.
    rejections: u32,
    /// The upstream has rejected `token`.
    is_rejected: bool,
    is_refreshing: bool,
    refresh_at: Instant,
    /// Counts the accounts.
    generation: u64,
}

impl State {
    fn new(now: Instant) -> Self {
        Self {
            token: None,
            last_error: None,
            failures: 0,
            rejections: 0,
            is_rejected: false,
            is_refreshing: false,
            refresh_at: now,
            generation: 0,
        }
    }

    fn valid_token(&self, now: Instant) -> Option<&Arc<CachedToken>> {
        self.token.as_ref().filter(|token| now < token.valid_until)
    }

    fn lookup(&self, rejected: Option<&Arc<CachedToken>>, now: Instant) -> Lookup {
        let is_rejected = |token: &Arc<CachedToken>| rejected.is_some_and(|other| Arc::ptr_eq(token, other));
        match self.valid_token(now) {
            Some(token) if !is_rejected(token) => Lookup::Found(Arc::clone(token)),
            _ if self.is_refreshing || self.refresh_at <= now + MAX_REFRESH_WAIT => {
                Lookup::Pending(self.last_error.clone())
            }
            _ => Lookup::NotSoon(self.last_error.clone()),
        }
    }

    fn begin_refresh(&mut self) -> u64 {
        self.is_refreshing = true;
        self.generation
    }

    /// Whether the result counts: that of an account that has been replaced does not.
    fn finish_refresh(
        &mut self,
        refresh: &Refresh,
        result: Result<IssuedToken, IdentityError>,
        now: Instant,
        random: f64,
    ) -> bool {
        self.is_refreshing = false;
        if refresh.generation != self.generation {
            return false;
        }
        match result {
            Ok(issued) => self.store(issued, refresh.requested_at, random),
            Err(error) => {
                let wait = backoff(error.is_refused, self.failures);
                self.refresh_at = now + wait.mul_f64(0.75 + 0.25 * random);
                self.failures = self.failures.saturating_add(1);
                self.last_error = Some(error);
            }
        }
        true
    }

    fn store(&mut self, issued: IssuedToken, requested_at: Instant, random: f64) {
        self.refresh_at = requested_at + issued.lifetime.mul_f64(0.5 + 0.2 * random);
        self.token = Some(Arc::new(CachedToken {
            requested_at,
            valid_until: requested_at + issued.lifetime,
            refresh_at: self.refresh_at,
            is_forced: self.is_rejected,
            was_accepted: AtomicBool::new(false),
            token: issued.token,
            lifetime: issued.lifetime,
            endpoint: issued.endpoint,
            project_id: issued.project_id,
        }));
        self.last_error = None;
        self.failures = 0;
        self.is_rejected = false;
    }

    /// There is another account. Its first refresh is due at once.
    fn reset(&mut self, now: Instant) {
        self.generation += 1;
        self.last_error = None;
        self.failures = 0;
        self.rejections = 0;
        self.refresh_at = now;
    }

    /// The upstream has rejected this token. Whether that changes anything: it may have been replaced already.
    fn invalidate(&mut self, rejected: &Arc<CachedToken>, now: Instant) -> bool {
        let is_current = self.token.as_ref().is_some_and(|token| Arc::ptr_eq(token, rejected));
        if !is_current || self.is_rejected {
            return false;
        }
        self.is_rejected = true;
        let earliest = if rejected.is_forced && !rejected.was_accepted.load(Ordering::Relaxed) {
            let interval = REVOCATION_GRANULARITY * 2u32.saturating_pow(self.rejections.min(16));
            self.rejections += 1;
            rejected.requested_at + interval.min(MAX_FORCED_INTERVAL)
        } else {
            self.rejections = 0;
            now
        };
        // An identity service that is unavailable gets no more requests for that.
        if self.last_error.is_none() {
            self.refresh_at = earliest.min(rejected.refresh_at).max(now);
        }
        true
    }
}

/// The time to wait after a failed refresh, with `failures` others just before it. Identity services lock an account after a few
/// wrong passwords (five in 15 minutes are enough), so this grows fast if the account was refused.
fn backoff(is_refused: bool, failures: u32) -> Duration {
    let (first, factor, longest): (u64, u64, u64) = if is_refused { (10, 4, 600) } else { (1, 2, 15) };
    Duration::from_secs(first.saturating_mul(factor.saturating_pow(failures)).min(longest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const SECOND: Duration = Duration::from_secs(1);

    fn issued(seconds: u64) -> IssuedToken {
        let token = Token::issued(&HeaderValue::from_static("gAAAAABl-of-the-gateway")).unwrap();
        IssuedToken { token, lifetime: Duration::from_secs(seconds), endpoint: None, project_id: None }
    }

    fn error(is_refused: bool) -> IdentityError {
        IdentityError { is_refused, ..IdentityError::unreachable("for the test".into()) }
    }

    fn refresh(state: &mut State, result: Result<IssuedToken, IdentityError>, now: Instant, random: f64) {
        let refresh = Refresh { generation: state.begin_refresh(), requested_at: now };
        assert!(state.finish_refresh(&refresh, result, now, random));
    }

    /// A state with a token of 1,000 s, and the token.
    fn with_token(now: Instant) -> (State, Arc<CachedToken>) {
        let mut state = State::new(now);
        refresh(&mut state, Ok(issued(1000)), now, 0.0);
        let token = current(&state);
        (state, token)
    }

    fn current(state: &State) -> Arc<CachedToken> {
        Arc::clone(state.token.as_ref().unwrap())
    }

    #[test]
    fn token_is_refreshed_between_half_and_seven_tenths_of_its_lifetime() {
        let now = Instant::now();
        for (random, seconds) in [(0.0, 500), (1.0, 700)] {
            let mut state = State::new(now);
            assert_eq!(state.refresh_at, now);
            refresh(&mut state, Ok(issued(1000)), now, random);
            assert!((state.refresh_at - now).abs_diff(seconds * SECOND) < Duration::from_millis(1));
            assert!(state.valid_token(now + 999 * SECOND).is_some());
            assert!(state.valid_token(now + 1000 * SECOND).is_none());
        }
    }

    #[test]
    fn failures_back_off_and_the_old_token_stays() {
        let now = Instant::now();
        for (is_refused, waits) in [(false, [1, 2, 4, 8, 15, 15]), (true, [10, 40, 160, 600, 600, 600])] {
            let (mut state, token) = with_token(now);
            for seconds in waits {
                refresh(&mut state, Err(error(is_refused)), now, 1.0);
                assert_eq!(state.refresh_at - now, seconds * SECOND);
                assert!(state.valid_token(now).is_some());
            }
            let (_, another) = with_token(now);
            assert!(!state.invalidate(&another, now), "not the current one");
            let before = state.refresh_at;
            assert!(state.invalidate(&token, now));
            assert_eq!(state.refresh_at, before, "a rejection by the upstream does not shorten a backoff");
            state.reset(now);
            assert_eq!(state.refresh_at, now, "another account is tried at once");
        }
    }

    #[test]
    fn rejected_token_is_replaced_at_once_and_its_successor_in_the_next_second() {
        let now = Instant::now();
        let (mut state, first) = with_token(now);
        assert!(state.invalidate(&first, now));
        assert!(!state.invalidate(&first, now), "many calls, one refresh");
        assert_eq!(state.refresh_at, now);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            refresh(&mut state, Ok(issued(1000)), now, 0.0);
            let token = current(&state);
            assert!(!state.invalidate(&first, now), "a late rejection of an old token");
            assert!(state.invalidate(&token, now));
            assert_eq!(state.refresh_at - now, seconds * SECOND);
        }
        refresh(&mut state, Ok(issued(1000)), now, 0.0);
        let token = current(&state);
        token.mark_accepted();
        assert!(state.invalidate(&token, now));
        assert_eq!(state.refresh_at, now, "one that was in use for a while is replaced at once");
    }

    #[test]
    fn result_for_a_replaced_account_is_discarded() {
        let now = Instant::now();
        for result in [Ok(issued(10)), Err(error(true))] {
            let (mut state, token) = with_token(now);
            let refresh = Refresh { generation: state.begin_refresh(), requested_at: now };
            state.reset(now);
            assert!(!state.finish_refresh(&refresh, result, now, 0.0));
            assert!(Arc::ptr_eq(&current(&state), &token) && state.last_error.is_none());
            assert_eq!((state.refresh_at, state.is_refreshing), (now, false), "the next one is due at once");
        }
    }

    #[test]
    fn call_waits_only_for_a_refresh_that_is_soon() {
        let now = Instant::now();
        let (mut state, token) = with_token(now);
        assert!(matches!(state.lookup(None, now), Lookup::Found(_)));
        assert!(matches!(state.lookup(Some(&token), now), Lookup::NotSoon(None)), "due in 500 s");
        assert!(state.invalidate(&token, now));
        assert!(matches!(state.lookup(Some(&token), now), Lookup::Pending(None)));
        refresh(&mut state, Err(error(false)), now, 1.0);
        assert!(matches!(state.lookup(Some(&token), now), Lookup::Pending(Some(_))), "due in 1 s");
        refresh(&mut state, Err(error(false)), now, 1.0);
        assert!(matches!(state.lookup(Some(&token), now), Lookup::NotSoon(Some(_))), "due in 2 s");
        state.begin_refresh();
        assert!(matches!(state.lookup(Some(&token), now), Lookup::Pending(Some(_))), "in progress");
    }
}

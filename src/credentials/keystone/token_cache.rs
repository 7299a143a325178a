//! Holds one token of one scope, and decides when it is refreshed.
//!
//! Calls read the token of a [`TokenCache`], and wait on its watch channel while there is none. One task refreshes it: before
//! the token expires, after the upstream has rejected it, and after the account has changed. All decisions are made by
//! [`State`], which is pure: times and results come in, and it neither sleeps nor sends requests.
//!
//! This module does not know how a token is requested.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::client::{IdentityError, IssuedToken};

/// After a failed refresh, a call waits this long for the next one.
const MAX_REFRESH_WAIT: Duration = Duration::from_secs(1);
/// Tokens have whole seconds: one that is issued in the second of a revocation is revoked as well.
const REVOCATION_GRANULARITY: Duration = Duration::from_secs(1);
/// The longest interval between forced refreshes, while the upstream rejects tokens.
const MAX_FORCED_INTERVAL: Duration = Duration::from_secs(60);
/// So long after a forced refresh, the next one begins a new series.
const FORCED_MEMORY: Duration = Duration::from_secs(120);
/// The longest `Retry-After` that is honoured.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// One token, shared by the calls that use it and the task that refreshes it.
pub(crate) struct TokenCache {
    state: watch::Sender<State>,
}

impl TokenCache {
    /// An empty cache, whose first refresh is due at once.
    pub(super) fn new() -> Self {
        Self { state: watch::Sender::new(State::new(None, Instant::now())) }
    }

    /// The token, if there is a valid one.
    pub(super) fn valid_token(&self) -> Option<Arc<IssuedToken>> {
        self.state.borrow().valid_token(Instant::now()).cloned()
    }

    /// The token to use now. Waits for one if there is none and a refresh is in progress or due soon.
    pub(crate) async fn current(&self) -> Result<Arc<IssuedToken>, IdentityError> {
        if let Some(token) = self.valid_token() {
            return Ok(token);
        }
        // Boxed: it is rare, and the future of every call would have room for it.
        let token = Box::pin(self.wait_for_token(None)).await?;
        token.ok_or_else(|| IdentityError::unreachable("the identity service gave no token in time".into()))
    }

    /// Waits for a token other than `rejected`. `None` if the upstream has rejected all tokens lately, and the next one is not
    /// requested soon. The error is that of the last refresh.
    pub(crate) async fn wait_for_token(
        &self,
        rejected: Option<&Arc<IssuedToken>>,
    ) -> Result<Option<Arc<IssuedToken>>, IdentityError> {
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
    pub(crate) fn invalidate(&self, rejected: &Arc<IssuedToken>) {
        self.state.send_if_modified(|state| state.invalidate(rejected, Instant::now()));
    }

    /// The account has changed: a refresh is due at once. The old token stays in use until then.
    pub(super) fn reset(&self) {
        self.state.send_modify(|state| *state = State::new(state.token.take(), Instant::now()));
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

    /// When the next refresh is due.
    pub(super) fn refresh_at(&self) -> Instant {
        self.state.borrow().refresh_at
    }

    /// Waits until a refresh is due. It is in progress from then until [`TokenCache::finish_refresh`].
    pub(super) async fn refresh_due(&self) {
        let mut changes = self.state.subscribe();
        loop {
            let refresh_at = changes.borrow_and_update().refresh_at;
            if refresh_at <= Instant::now() {
                return;
            }
            // A change may bring the refresh forward.
            let _ = timeout_at(refresh_at, changes.changed()).await;
        }
    }

    /// Stores the result of a refresh.
    pub(super) fn finish_refresh(&self, result: Result<Arc<IssuedToken>, IdentityError>) {
        self.state.send_modify(|state| state.finish_refresh(result, Instant::now(), fastrand::f64()));
    }
}

/// What a call that needs a token has to do.
#[derive(Debug)]
enum Lookup {
    Found(Arc<IssuedToken>),
    /// There is none, and the next refresh is far away. With the error of the last one.
    NotSoon(Option<IdentityError>),
    /// A refresh is in progress or due soon. With the error of the last one.
    Pending(Option<IdentityError>),
}

/// What is known, and when the next refresh is due. All times are arguments.
#[derive(Debug)]
struct State {
    token: Option<Arc<IssuedToken>>,
    /// Of the last refresh.
    last_error: Option<IdentityError>,
    /// Failed refreshes in a row.
    failures: u32,
    /// The upstream has rejected `token`.
    is_rejected: bool,
    /// Refreshes that a rejection forced, each within [`FORCED_MEMORY`] of the one before. Calls that succeed meanwhile do not
    /// matter: the upstream may reject every token in one project, and accept it in others.
    forced: u32,
    /// When the last of them was due.
    forced_at: Instant,
    /// The end of the last successful refresh.
    refreshed_at: Instant,
    /// In the past while a refresh is in progress.
    refresh_at: Instant,
}

impl State {
    /// The state of an account that has not had a token yet; `token` is that of another account.
    fn new(token: Option<Arc<IssuedToken>>, now: Instant) -> Self {
        Self {
            token,
            last_error: None,
            failures: 0,
            is_rejected: false,
            forced: 0,
            forced_at: now,
            refreshed_at: now,
            refresh_at: now,
        }
    }

    fn valid_token(&self, now: Instant) -> Option<&Arc<IssuedToken>> {
        self.token.as_ref().filter(|token| now < token.requested_at + token.lifetime)
    }

    fn lookup(&self, rejected: Option<&Arc<IssuedToken>>, now: Instant) -> Lookup {
        let is_rejected = |token: &Arc<IssuedToken>| rejected.is_some_and(|other| Arc::ptr_eq(token, other));
        match self.valid_token(now) {
            Some(token) if !is_rejected(token) => Lookup::Found(Arc::clone(token)),
            _ if self.refresh_at <= now + MAX_REFRESH_WAIT => Lookup::Pending(self.last_error.clone()),
            _ => Lookup::NotSoon(self.last_error.clone()),
        }
    }

    fn finish_refresh(&mut self, result: Result<Arc<IssuedToken>, IdentityError>, now: Instant, random: f64) {
        match result {
            Ok(token) => {
                self.refresh_at = token.requested_at + token.lifetime.mul_f64(0.5 + 0.2 * random);
                self.refreshed_at = now;
                self.token = Some(token);
                self.is_rejected = false;
                self.last_error = None;
                self.failures = 0;
            }
            Err(error) => {
                let wait = backoff(error.is_refused, self.failures).mul_f64(0.75 + 0.25 * random);
                self.refresh_at = now + wait.max(error.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER));
                self.failures = self.failures.saturating_add(1);
                self.last_error = Some(error);
            }
        }
    }

    /// The upstream has rejected this token. Whether that changes anything: it may have been replaced already.
    fn invalidate(&mut self, rejected: &Arc<IssuedToken>, now: Instant) -> bool {
        let is_current = self.token.as_ref().is_some_and(|token| Arc::ptr_eq(token, rejected));
        if !is_current || self.is_rejected {
            return false;
        }
        self.is_rejected = true;
        if now > self.forced_at + FORCED_MEMORY {
            self.forced = 0;
        }
        self.forced_at = if self.forced == 0 {
            now
        } else {
            // 1 s twice, so that a call still waits for the token after a third revocation, then twice as long each time.
            let interval = REVOCATION_GRANULARITY * 2u32.pow(self.forced.saturating_sub(2).min(16));
            // The token may have been revoked just now, and then so is one that is issued in this second.
            (self.refreshed_at + interval.min(MAX_FORCED_INTERVAL)).max(now + REVOCATION_GRANULARITY)
        };
        self.forced = self.forced.saturating_add(1);
        // An identity service that is unavailable gets no more requests for that.
        if self.last_error.is_none() {
            self.refresh_at = self.refresh_at.min(self.forced_at);
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
    use crate::domain::Token;
    use http::HeaderValue;

    const SECOND: Duration = Duration::from_secs(1);

    fn error(is_refused: bool) -> IdentityError {
        IdentityError { is_refused, ..IdentityError::unreachable("for the test".into()) }
    }

    /// A token of 1,000 s.
    fn issued(requested_at: Instant) -> Arc<IssuedToken> {
        Arc::new(IssuedToken {
            token: Token::issued(&HeaderValue::from_static("gAAAAABl-of-the-gateway")).unwrap(),
            requested_at,
            lifetime: 1000 * SECOND,
            endpoint: None,
            project_id: None,
        })
    }

    fn refresh(state: &mut State, now: Instant) -> Arc<IssuedToken> {
        let token = issued(now);
        state.finish_refresh(Ok(Arc::clone(&token)), now, 0.0);
        token
    }

    /// A state with a token, and the token.
    fn with_token(now: Instant) -> (State, Arc<IssuedToken>) {
        let mut state = State::new(None, now);
        let token = refresh(&mut state, now);
        (state, token)
    }

    #[test]
    fn token_is_refreshed_between_half_and_seven_tenths_of_its_lifetime() {
        let now = Instant::now();
        for (random, seconds) in [(0.0, 500), (1.0, 700)] {
            let mut state = State::new(None, now);
            assert_eq!(state.refresh_at, now);
            state.finish_refresh(Ok(issued(now)), now, random);
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
                state.finish_refresh(Err(error(is_refused)), now, 1.0);
                assert_eq!(state.refresh_at - now, seconds * SECOND);
                assert!(state.valid_token(now).is_some());
            }
            let (_, another) = with_token(now);
            assert!(!state.invalidate(&another, now), "not the current one");
            let before = state.refresh_at;
            assert!(state.invalidate(&token, now));
            assert_eq!(state.refresh_at, before, "a rejection by the upstream does not shorten a backoff");
            let mut state = State::new(state.token, now);
            assert_eq!(state.refresh_at, now, "another account is tried at once");
            assert!(state.valid_token(now).is_some(), "until then the old token is used");
            state.finish_refresh(Err(error(is_refused)), now, 1.0);
            assert_eq!(state.refresh_at - now, waits[0] * SECOND);
        }
    }

    #[test]
    fn rejected_token_is_replaced_at_once_and_its_successor_in_the_next_second() {
        let now = Instant::now();
        let (mut state, first) = with_token(now);
        assert!(state.invalidate(&first, now));
        assert!(!state.invalidate(&first, now), "many calls, one refresh");
        assert_eq!(state.refresh_at, now);
        for seconds in [1, 1, 2, 4, 8, 16, 32, 60, 60] {
            let token = refresh(&mut state, now);
            assert!(!state.invalidate(&first, now), "a late rejection of an old token");
            assert!(state.invalidate(&token, now));
            assert_eq!(state.refresh_at - now, seconds * SECOND);
        }
        let token = refresh(&mut state, now);
        let later = now + 60 * SECOND + FORCED_MEMORY + SECOND;
        assert!(state.invalidate(&token, later));
        assert_eq!(state.refresh_at, later, "one that was in use for a while is replaced at once");
    }

    #[test]
    fn second_rejection_waits_for_the_second_after_it() {
        let now = Instant::now();
        let (mut state, token) = with_token(now);
        assert!(state.invalidate(&token, now));
        let token = refresh(&mut state, now);
        let later = now + 30 * SECOND;
        assert!(state.invalidate(&token, later));
        assert_eq!(
            state.refresh_at,
            later + SECOND,
            "it may have been revoked in the second of its rejection"
        );
    }

    #[test]
    fn call_waits_for_the_token_after_each_of_three_revocations_in_a_row() {
        let mut now = Instant::now();
        let (mut state, mut token) = with_token(now);
        for _ in 0..3 {
            now += SECOND / 3;
            assert!(state.invalidate(&token, now));
            assert!(matches!(state.lookup(Some(&token), now), Lookup::Pending(None)));
            now = state.refresh_at;
            token = refresh(&mut state, now);
        }
    }

    #[test]
    fn upstream_that_always_rejects_some_calls_gets_a_token_a_minute() {
        let start = Instant::now();
        let (mut state, mut token) = with_token(start);
        let mut refreshes = Vec::new();
        for tenths in 0..36_000 {
            let now = start + Duration::from_millis(100 * tenths);
            // Other calls succeed at any time, which changes nothing.
            state.invalidate(&token, now);
            if state.refresh_at <= now {
                token = refresh(&mut state, now);
                refreshes.push((now - start).as_secs());
            }
        }
        assert_eq!(refreshes[..8], [0, 1, 2, 4, 8, 16, 32, 64]);
        assert!(refreshes.len() <= 67, "{} refreshes in an hour", refreshes.len());
    }

    #[test]
    fn retry_after_lengthens_a_backoff_up_to_an_hour_and_never_shortens_it() {
        let now = Instant::now();
        for (is_refused, retry_after, seconds) in [
            (false, 0, 1),
            (false, 30, 30),
            (false, 3_600, 3_600),
            (false, 86_400, 3_600),
            (true, 1, 10),
            (true, 60, 60),
        ] {
            let (mut state, _) = with_token(now);
            let error = IdentityError { retry_after: Some(retry_after * SECOND), ..error(is_refused) };
            state.finish_refresh(Err(error), now, 1.0);
            assert_eq!(state.refresh_at - now, seconds * SECOND, "{is_refused} {retry_after}");
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
        state.finish_refresh(Err(error(false)), now, 1.0);
        assert!(matches!(state.lookup(Some(&token), now), Lookup::Pending(Some(_))), "due in 1 s");
        state.finish_refresh(Err(error(false)), now, 1.0);
        assert!(matches!(state.lookup(Some(&token), now), Lookup::NotSoon(Some(_))), "due in 2 s");
        let due = now + 2 * SECOND;
        assert!(matches!(state.lookup(Some(&token), due), Lookup::Pending(Some(_))), "in progress");
        assert!(matches!(state.lookup(Some(&token), due + SECOND), Lookup::Pending(Some(_))), "still");
    }
}

//! Decides when the token of one project is requested: before it expires, after the upstream has rejected it, and when a call
//! waits for one. Pure: times and results are arguments, and nothing here sleeps or sends.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::{AccountWait, wait_after};
use super::client::{IdentityError, IssuedToken};

/// After a failed request, a call waits this long for the next one.
pub(super) const MAX_REFRESH_WAIT: Duration = Duration::from_secs(1);
/// Tokens have whole seconds: one that is issued in the second of a revocation is revoked as well.
const REVOCATION_GRANULARITY: Duration = Duration::from_secs(1);
/// The longest interval between forced renewals, while the upstream rejects tokens.
const MAX_FORCED_INTERVAL: Duration = Duration::from_secs(60);
/// So long after a forced renewal, the next one begins a new series.
const FORCED_MEMORY: Duration = Duration::from_secs(120);

/// What a call that needs a token has to do.
#[derive(Debug)]
pub(super) enum Lookup {
    Found(Arc<IssuedToken>),
    /// There is none, and the next request is far away. With the error of the last one.
    NotSoon(Option<IdentityError>),
    /// A request is in progress or due soon. With the error of the last one.
    Pending(Option<IdentityError>),
}

/// Who needs the token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// It is the only one of the account, which is renewed whether it is used or not.
    pub(super) is_permanent: bool,
    /// Calls wait for it.
    pub(super) is_awaited: bool,
    /// When a call last needed it.
    pub(super) last_used: Instant,
}

/// What is to be done about a token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: a request is in progress.
    InProgress,
    /// Request one.
    Request,
    /// Nothing before this time.
    Wait(Instant),
    /// A renewal is due, but the token was not used lately: it expires at this time, unless a call uses it before.
    Idle(Instant),
    /// There is no token. Remember that the last request failed.
    Remember,
    /// There is nothing to keep.
    Forget,
}

/// What is known of a token, and when the next one is requested.
#[derive(Debug)]
pub(super) struct Renewal {
    token: Option<Arc<IssuedToken>>,
    /// Of the last request.
    last_error: Option<IdentityError>,
    /// Failed requests in a row.
    failures: u32,
    /// The upstream has rejected `token`.
    is_rejected: bool,
    /// Renewals that a rejection forced, each within [`FORCED_MEMORY`] of the one before. Calls that succeed meanwhile do not
    /// matter: the upstream may reject every token in some of its servers, and accept it in others.
    forced: u32,
    /// When the last of them was due.
    forced_at: Instant,
    /// The end of the last successful request.
    refreshed_at: Instant,
    /// When the next request is due. In the past while it is in progress.
    refresh_at: Instant,
    is_in_progress: bool,
}

impl Renewal {
    /// The state for an account that has not had a token yet; `token` is that of another account.
    pub(super) fn new(token: Option<Arc<IssuedToken>>, now: Instant) -> Self {
        Self {
            token,
            last_error: None,
            failures: 0,
            is_rejected: false,
            forced: 0,
            forced_at: now,
            refreshed_at: now,
            refresh_at: now,
            is_in_progress: false,
        }
    }

    /// The account has changed: a request is due at once. The old token stays in use until then.
    pub(super) fn reset(&mut self, now: Instant) {
        *self = Self::new(self.token.take(), now);
    }

    /// The last token, valid or not.
    pub(super) fn token(&self) -> Option<&Arc<IssuedToken>> {
        self.token.as_ref()
    }

    pub(super) fn refresh_at(&self) -> Instant {
        self.refresh_at
    }

    /// Whether the identity service has issued a token that works, and is likely to issue another one.
    pub(super) fn is_healthy(&self, now: Instant) -> bool {
        self.valid_token(now).is_some() && self.failures == 0 && !self.is_rejected && !self.is_in_progress
    }

    /// What is to be done now.
    pub(super) fn next_step(&self, demand: Demand, now: Instant) -> Step {
        if self.is_in_progress {
            return Step::InProgress;
        }
        let is_due = self.refresh_at <= now;
        let is_needed = demand.is_permanent || demand.is_awaited;
        match self.valid_token(now) {
            Some(token) if !is_due => Step::Wait(self.refresh_at.min(token.expires_at())),
            Some(token) if is_needed || now < demand.last_used + token.lifetime / 2 => Step::Request,
            Some(token) => Step::Idle(token.expires_at()),
            None if is_needed && is_due => Step::Request,
            None if is_needed => Step::Wait(self.refresh_at),
            None if self.failures > 0 => Step::Remember,
            None => Step::Forget,
        }
    }

    /// A request has begun.
    pub(super) fn start(&mut self) {
        self.is_in_progress = true;
    }

    pub(super) fn valid_token(&self, now: Instant) -> Option<&Arc<IssuedToken>> {
        self.token.as_ref().filter(|token| now < token.expires_at())
    }

    /// What a call has to do that needs a token other than `rejected`, while the whole account may wait.
    pub(super) fn lookup(
        &self,
        rejected: Option<&Arc<IssuedToken>>,
        account: Option<&AccountWait>,
        now: Instant,
    ) -> Lookup {
        let is_rejected = |token: &Arc<IssuedToken>| rejected.is_some_and(|other| Arc::ptr_eq(token, other));
        let (due_at, error) = match account {
            Some(wait) if !self.is_in_progress => (self.refresh_at.max(wait.until), Some(&wait.error)),
            _ => (self.refresh_at, self.last_error.as_ref()),
        };
        match self.valid_token(now) {
            Some(token) if !is_rejected(token) => Lookup::Found(Arc::clone(token)),
            _ if due_at <= now + MAX_REFRESH_WAIT => Lookup::Pending(error.cloned()),
            _ => Lookup::NotSoon(error.cloned()),
        }
    }

    /// A request has ended. `random` is 0 to 1.
    pub(super) fn finish(
        &mut self,
        result: Result<Arc<IssuedToken>, IdentityError>,
        now: Instant,
        random: f64,
    ) {
        self.is_in_progress = false;
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
                self.refresh_at = now + wait_after(&error, self.failures, random);
                self.failures = self.failures.saturating_add(1);
                self.last_error = Some(error);
            }
        }
    }

    /// The upstream has rejected this token. Whether that changes anything: it may have been replaced already.
    pub(super) fn invalidate(&mut self, rejected: &Arc<IssuedToken>, now: Instant) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ProjectId, Token};
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
            project_id: ProjectId::parse("p".into()).unwrap(),
        })
    }

    fn refresh(state: &mut Renewal, now: Instant) -> Arc<IssuedToken> {
        let token = issued(now);
        state.finish(Ok(Arc::clone(&token)), now, 0.0);
        token
    }

    /// A state with a token, and the token.
    fn with_token(now: Instant) -> (Renewal, Arc<IssuedToken>) {
        let mut state = Renewal::new(None, now);
        let token = refresh(&mut state, now);
        (state, token)
    }

    #[test]
    fn token_is_refreshed_between_half_and_seven_tenths_of_its_lifetime() {
        let now = Instant::now();
        for (random, seconds) in [(0.0, 500), (1.0, 700)] {
            let mut state = Renewal::new(None, now);
            assert_eq!(state.refresh_at, now);
            state.finish(Ok(issued(now)), now, random);
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
                state.finish(Err(error(is_refused)), now, 1.0);
                assert_eq!(state.refresh_at - now, seconds * SECOND);
                assert!(state.valid_token(now).is_some());
            }
            let (_, another) = with_token(now);
            assert!(!state.invalidate(&another, now), "not the current one");
            let before = state.refresh_at;
            assert!(state.invalidate(&token, now));
            assert_eq!(state.refresh_at, before, "a rejection by the upstream does not shorten a backoff");
            let mut state = Renewal::new(state.token, now);
            assert_eq!(state.refresh_at, now, "another account is tried at once");
            assert!(state.valid_token(now).is_some(), "until then the old token is used");
            state.finish(Err(error(is_refused)), now, 1.0);
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
            assert!(matches!(state.lookup(Some(&token), None, now), Lookup::Pending(None)));
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
    fn call_waits_only_for_a_refresh_that_is_soon() {
        let now = Instant::now();
        let (mut state, token) = with_token(now);
        assert!(matches!(state.lookup(None, None, now), Lookup::Found(_)));
        assert!(matches!(state.lookup(Some(&token), None, now), Lookup::NotSoon(None)), "due in 500 s");
        assert!(state.invalidate(&token, now));
        assert!(matches!(state.lookup(Some(&token), None, now), Lookup::Pending(None)));
        state.finish(Err(error(false)), now, 1.0);
        assert!(matches!(state.lookup(Some(&token), None, now), Lookup::Pending(Some(_))), "due in 1 s");
        state.finish(Err(error(false)), now, 1.0);
        assert!(matches!(state.lookup(Some(&token), None, now), Lookup::NotSoon(Some(_))), "due in 2 s");
        let due = now + 2 * SECOND;
        assert!(matches!(state.lookup(Some(&token), None, due), Lookup::Pending(Some(_))), "in progress");
        assert!(matches!(state.lookup(Some(&token), None, due + SECOND), Lookup::Pending(Some(_))), "still");
    }

    /// The demand of calls that have used the token last at this time, and of others that wait for it now.
    fn demand(last_used: Instant, is_awaited: bool) -> Demand {
        Demand { is_permanent: false, is_awaited, last_used }
    }

    #[test]
    fn token_is_renewed_while_it_was_used_in_the_last_half_of_its_lifetime() {
        let now = Instant::now();
        let (state, _) = with_token(now);
        let step =
            |used: u32, at: u32| state.next_step(demand(now + used * SECOND, false), now + at * SECOND);
        assert_eq!(step(0, 1), Step::Wait(now + 500 * SECOND));
        assert_eq!(step(1, 500), Step::Request);
        assert_eq!(step(0, 500), Step::Idle(now + 1000 * SECOND), "it was not used for 500 s");
        assert_eq!(step(800, 801), Step::Request, "a call has used it after all");
        assert_eq!(step(0, 1000), Step::Forget);
        let only = Demand { is_permanent: true, ..demand(now, false) };
        assert_eq!(state.next_step(only, now + 600 * SECOND), Step::Request);
        assert_eq!(state.next_step(only, now + 2000 * SECOND), Step::Request);
    }

    #[test]
    fn project_without_a_token_is_requested_only_while_a_call_waits() {
        let now = Instant::now();
        let mut state = Renewal::new(None, now);
        assert_eq!(state.next_step(demand(now, true), now), Step::Request);
        assert_eq!(state.next_step(demand(now, false), now), Step::Forget, "the caller is gone");
        state.start();
        assert_eq!(state.next_step(demand(now, true), now), Step::InProgress);
        state.finish(Err(error(true)), now, 1.0);
        assert_eq!(state.next_step(demand(now, true), now), Step::Wait(now + 10 * SECOND));
        assert_eq!(state.next_step(demand(now, false), now), Step::Remember);
        assert_eq!(state.next_step(demand(now, false), now + 60 * SECOND), Step::Remember);
        assert_eq!(state.next_step(demand(now, true), now + 60 * SECOND), Step::Request);
    }

    #[test]
    fn call_does_not_wait_for_the_end_of_the_back_off_of_the_account() {
        let now = Instant::now();
        let mut state = Renewal::new(None, now);
        let wait = AccountWait { until: now + 10 * SECOND, error: error(true) };
        assert!(matches!(state.lookup(None, Some(&wait), now), Lookup::NotSoon(Some(_))));
        assert!(matches!(state.lookup(None, Some(&wait), now + 9 * SECOND), Lookup::Pending(Some(_))));
        assert!(matches!(state.lookup(None, None, now), Lookup::Pending(None)));
        state.start();
        assert!(
            matches!(state.lookup(None, Some(&wait), now), Lookup::Pending(None)),
            "its request has begun"
        );
        let (state, _) = with_token(now);
        assert!(matches!(state.lookup(None, Some(&wait), now), Lookup::Found(_)));
    }
}

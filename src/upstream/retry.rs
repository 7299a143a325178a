//! The retry policy: whether and when another attempt follows a failed one. It is pure: time and randomness are arguments, and
//! it neither sleeps nor sends.
//!
//! Sources: gRFC A6 for the throttle and for no retry of a call that its client repeats; RFC 9110, sections 9.2.2 (a GET is
//! idempotent) and 10.2.3 (`Retry-After`); "Exponential Backoff And Jitter" of the AWS Architecture Blog for full jitter.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use prometheus::Gauge;

use crate::domain::{Error, ErrorKind};

/// The default of `Config::first_backoff`.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The bound of every backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// The progress of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RetryState {
    /// Failed attempts that count against `max_attempts`.
    pub(super) attempts: u32,
    /// Requests sent, including those that do not count.
    pub(super) requests: u32,
    max_attempts: u32,
    first_backoff: Duration,
    may_retry: bool,
    has_repeated_stale: bool,
    has_refreshed_credential: bool,
}

impl RetryState {
    /// A call before its first attempt.
    pub(super) fn new(max_attempts: u32, first_backoff: Duration, may_retry: bool) -> Self {
        Self {
            attempts: 0,
            requests: 0,
            max_attempts,
            first_backoff,
            may_retry,
            has_repeated_stale: false,
            has_refreshed_credential: false,
        }
    }
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send the request again on a new connection, without a retry token: the upstream had closed the pooled one.
    RepeatStale,
    /// Retry immediately with a new credential.
    RefreshCredential,
    /// Retry after the delay, if the throttle allows it.
    Retry {
        /// How long to wait.
        delay: Duration,
        /// All pooled connections may be broken.
        needs_new_connection: bool,
    },
    /// The error is the result of the call.
    GiveUp,
}

/// Decides what follows an attempt that failed with `error`.
///
/// `is_stale` means that the upstream closed a pooled connection. A delay of `time_left` (until the caller's deadline) or more ends the
/// call immediately. `random` is in 0..1.
pub(super) fn next_step(
    mut state: RetryState,
    error: &Error,
    is_stale: bool,
    time_left: Duration,
    random: f64,
) -> (RetryState, Step) {
    state.requests += 1;
    if is_stale && !state.has_repeated_stale {
        state.has_repeated_stale = true;
        return (state, Step::RepeatStale);
    }
    state.attempts += 1;
    if !state.may_retry || state.attempts >= state.max_attempts {
        return (state, Step::GiveUp);
    }
    if error.kind == ErrorKind::OwnCredentialRefused && !state.has_refreshed_credential {
        state.has_refreshed_credential = true;
        return (state, Step::RefreshCredential);
    }
    match retry_delay(error, backoff(state.first_backoff, state.attempts, random)) {
        Some(delay) if delay < time_left => {
            // A 408 or 504 is a timeout behind a working connection.
            let is_own_timeout = error.kind == ErrorKind::Timeout && error.http_status.is_none();
            let needs_new_connection = is_own_timeout || error.kind == ErrorKind::ConnectionLost;
            (state, Step::Retry { delay, needs_new_connection })
        }
        Some(_) | None => (state, Step::GiveUp),
    }
}

/// How long to wait before a retry. `None` if there is none: only errors that are temporary by their nature are retried. A
/// `Retry-After` of 0, or in the past, does not shorten the backoff.
fn retry_delay(error: &Error, backoff: Duration) -> Option<Duration> {
    use ErrorKind as Kind;

    match error.kind {
        Kind::Timeout | Kind::BadGateway | Kind::Unavailable | Kind::Unreachable | Kind::ConnectionLost => {
            Some(error.retry_after.unwrap_or_default().max(backoff))
        }
        Kind::RateLimited => error.retry_after.map(|delay| delay.max(backoff)),
        Kind::BadRequest
        | Kind::Unauthenticated
        | Kind::OwnCredentialRefused
        | Kind::Forbidden
        | Kind::ShareNotFound
        | Kind::RouteNotFound
        | Kind::MethodNotAllowed
        | Kind::NotImplemented
        | Kind::NotAcceptable
        | Kind::ProxyAuthenticationRequired
        | Kind::Conflict
        | Kind::PreconditionFailed
        | Kind::Internal
        | Kind::ClientError
        | Kind::ServerError
        | Kind::UnexpectedStatus
        | Kind::Malformed
        | Kind::TooLarge
        | Kind::DeadlineExceeded
        | Kind::ProjectNotServed
        | Kind::IdentityRefused
        | Kind::IdentityUnreachable => None,
    }
}

/// Full jitter: from 0 to the exponential bound.
fn backoff(first: Duration, attempts: u32, random: f64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    MAX_BACKOFF.min(first * 2u32.pow(doublings)).mul_f64(random)
}

/// The retry throttle of the process (gRFC A6: `maxTokens` 10, `tokenRatio` 0.1). A retry takes one token, a success returns a tenth,
/// and at 5 tokens or fewer there is no retry. So an upstream that is down gets a few per cent of additional requests.
///
/// In gRFC A6 each failed RPC takes a token; here each retry does.
pub(super) struct RetryThrottle {
    tenths: AtomicU32,
    /// The metric of the tokens left, 0 to 10.
    gauge: Gauge,
}

impl RetryThrottle {
    const MAX_TOKENS: u32 = 100;
    const MIN_FOR_RETRY: u32 = 51;
    const RETRY_COST: u32 = 10;
    const TOKEN_RATIO: u32 = 1;

    pub(super) fn full(gauge: Gauge) -> Self {
        gauge.set(f64::from(Self::MAX_TOKENS) / 10.0);
        Self { tenths: AtomicU32::new(Self::MAX_TOKENS), gauge }
    }

    /// Takes a token, if there are enough.
    pub(super) fn try_acquire(&self) -> bool {
        self.update(|tenths| (tenths >= Self::MIN_FOR_RETRY).then(|| tenths - Self::RETRY_COST))
    }

    /// Returns a part of a token after a successful call.
    pub(super) fn on_success(&self) {
        self.update(|tenths| (tenths < Self::MAX_TOKENS).then(|| tenths + Self::TOKEN_RATIO));
    }

    /// Whether `change` returned another number of tokens.
    fn update(&self, change: impl FnMut(u32) -> Option<u32>) -> bool {
        let is_changed = self.tenths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change).is_ok();
        self.gauge.set(f64::from(self.tenths.load(Ordering::Relaxed)) / 10.0);
        is_changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn error(kind: ErrorKind, retry_after: Option<u64>) -> Error {
        Error { retry_after: retry_after.map(Duration::from_secs), ..Error::new(kind, "") }
    }

    /// A call after this number of failed attempts.
    fn after(attempts: u32) -> RetryState {
        RetryState { attempts, requests: attempts, ..RetryState::new(3, FIRST_BACKOFF, true) }
    }

    fn step(state: RetryState, error: &Error) -> Step {
        next_step(state, error, false, MINUTE, 1.0).1
    }

    fn retry(millis: u64, needs_new_connection: bool) -> Step {
        Step::Retry { delay: Duration::from_millis(millis), needs_new_connection }
    }

    #[test]
    fn next_step_follows_from_state_and_error() {
        use ErrorKind::{
            BadGateway, ConnectionLost, Internal, Malformed, OwnCredentialRefused, RateLimited,
            ShareNotFound, Timeout, Unauthenticated, Unavailable, Unreachable,
        };
        let no_retry = RetryState::new(3, FIRST_BACKOFF, false);
        let refreshed = RetryState { has_refreshed_credential: true, ..after(0) };
        let status = |kind| Error { http_status: Some(504), ..error(kind, None) };
        for (state, error, expected) in [
            (after(0), error(Unavailable, None), retry(100, false)),
            (after(1), error(Unavailable, None), retry(200, false)),
            (after(2), error(Unavailable, None), Step::GiveUp),
            (after(0), error(BadGateway, None), retry(100, false)),
            (after(0), error(Unreachable, None), retry(100, false)),
            (after(0), error(ConnectionLost, None), retry(100, true)),
            (after(0), error(Timeout, None), retry(100, true)),
            (after(0), status(Timeout), retry(100, false)),
            (after(0), error(Unavailable, Some(7)), retry(7_000, false)),
            (after(0), error(Unavailable, Some(60)), Step::GiveUp),
            (after(0), error(RateLimited, Some(1)), retry(1_000, false)),
            (after(0), error(RateLimited, None), Step::GiveUp),
            (after(0), error(RateLimited, Some(0)), retry(100, false)),
            (after(1), error(RateLimited, Some(0)), retry(200, false)),
            (after(0), error(Unavailable, Some(0)), retry(100, false)),
            (after(0), error(Internal, Some(1)), Step::GiveUp),
            (after(0), error(ShareNotFound, None), Step::GiveUp),
            (after(0), error(Malformed, None), Step::GiveUp),
            (after(0), error(Unauthenticated, None), Step::GiveUp),
            (after(0), error(OwnCredentialRefused, None), Step::RefreshCredential),
            (refreshed, error(OwnCredentialRefused, None), Step::GiveUp),
            (after(2), error(OwnCredentialRefused, None), Step::GiveUp),
            (no_retry, error(OwnCredentialRefused, None), Step::GiveUp),
            (no_retry, error(Unavailable, Some(1)), Step::GiveUp),
        ] {
            assert_eq!(step(state, &error), expected, "{state:?} {error:?}");
        }
    }

    #[test]
    fn stale_connection_is_repeated_once_and_does_not_count() {
        let lost = error(ErrorKind::ConnectionLost, None);
        let (state, step) = next_step(after(0), &lost, true, MINUTE, 1.0);
        assert_eq!((state.attempts, state.requests, step), (0, 1, Step::RepeatStale));
        let (state, step) = next_step(state, &lost, true, MINUTE, 1.0);
        assert_eq!((state.attempts, state.requests, step), (1, 2, retry(100, true)));
        let (_, step) = next_step(RetryState::new(1, FIRST_BACKOFF, false), &lost, true, MINUTE, 1.0);
        assert_eq!(step, Step::RepeatStale, "also where nothing is retried");
    }

    #[test]
    fn backoff_doubles_up_to_its_bound_with_full_jitter() {
        for (attempts, bound) in [(1, 100), (2, 200), (3, 400), (5, 1000), (40, 1000)] {
            assert_eq!(backoff(FIRST_BACKOFF, attempts, 0.0), Duration::ZERO);
            assert_eq!(backoff(FIRST_BACKOFF, attempts, 1.0), Duration::from_millis(bound));
        }
    }

    #[test]
    fn delay_that_does_not_fit_the_deadline_ends_the_call() {
        let unavailable = error(ErrorKind::Unavailable, Some(2));
        let step = |error: &Error, left| next_step(after(0), error, false, left, 0.6).1;
        assert_eq!(step(&unavailable, Duration::from_millis(2_001)), retry(2_000, false));
        assert_eq!(step(&unavailable, Duration::from_secs(2)), Step::GiveUp);
        assert_eq!(step(&error(ErrorKind::Timeout, None), Duration::from_millis(50)), Step::GiveUp);
    }

    #[test]
    fn throttle_gives_half_its_tokens_and_ten_successes_return_one() {
        let throttle = RetryThrottle::full(Gauge::new("tokens", "Tokens left.").unwrap());
        for _ in 0..5 {
            assert!(throttle.try_acquire());
        }
        assert!((throttle.gauge.get() - 5.0).abs() < f64::EPSILON);
        assert!(!throttle.try_acquire());
        throttle.on_success();
        assert!(throttle.try_acquire(), "5.1 tokens are more than 5");
        for _ in 0..1000 {
            throttle.on_success();
        }
        assert!((throttle.gauge.get() - 10.0).abs() < f64::EPSILON, "never more than 10");
    }
}

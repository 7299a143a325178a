//! When to try again: a pure policy. Clock and randomness come in as arguments; nothing here sleeps.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use super::error::{Error, Kind};

/// The first backoff is at most this; each further one at most twice as much as the one before, up to [`MAX_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// How long to wait before the next attempt, or `None` where this failure is final.
///
/// `left` is what is left of the caller's deadline: a wait that does not fit into it whole ends the call at once.
/// `random` is in 0..1.
pub(super) fn wait(error: &Error, left: Duration, random: f64) -> Option<Duration> {
    let wait = match (is_retried(error.kind), error.retry_after) {
        (Retried::Never, _) | (Retried::WhenTold, None) => return None,
        (Retried::WhenTold | Retried::Always, Some(told)) => told,
        (Retried::Always, None) => backoff(error.attempts, random),
    };
    (wait < left).then_some(wait)
}

enum Retried {
    Never,
    /// Only when the upstream says after what time.
    WhenTold,
    Always,
}

fn is_retried(kind: Kind) -> Retried {
    match kind {
        Kind::Timeout | Kind::BadGateway | Kind::Unavailable | Kind::Unreachable | Kind::ConnectionLost => {
            Retried::Always
        }
        Kind::RateLimited => Retried::WhenTold,
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
        | Kind::IdentityRefused
        | Kind::IdentityUnreachable => Retried::Never,
    }
}

/// Full jitter: anything from nothing to the exponential bound.
fn backoff(attempts: u32, random: f64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    MAX_BACKOFF.min(FIRST_BACKOFF * 2u32.pow(doublings)).mul_f64(random)
}

/// Reads `Retry-After`: seconds, or an HTTP date, which is in the past when it asks for no wait. What cannot be read
/// counts as none.
pub fn retry_after(value: &[u8], now: SystemTime) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit are a very long time, not an unreadable one.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

/// The process's retry tokens, so that a dead upstream costs a few per cent more load and not three times as much:
/// a retry takes one, a success gives back a tenth, and with half of them gone there is no retry.
#[derive(Debug)]
pub(super) struct Bucket {
    tenths: AtomicU32,
}

impl Bucket {
    const FULL: u32 = 100;
    const HALF: u32 = 50;
    const RETRY: u32 = 10;
    const SUCCESS: u32 = 1;

    pub(super) fn full() -> Self {
        Self { tenths: AtomicU32::new(Self::FULL) }
    }

    /// Takes a token, if there are enough.
    pub(super) fn take(&self) -> bool {
        let take = |tenths| (tenths > Self::HALF).then(|| tenths - Self::RETRY);
        self.tenths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// A call succeeded.
    pub(super) fn reward(&self) {
        let give = |tenths| (tenths < Self::FULL).then(|| tenths + Self::SUCCESS);
        // An error says that it is full.
        let _ = self.tenths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
    }

    /// The tokens left, 0 to 10.
    pub(super) fn tokens(&self) -> f64 {
        f64::from(self.tenths.load(Ordering::Relaxed)) / 10.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn error(kind: Kind, attempts: u32, retry_after: Option<u64>) -> Error {
        Error { attempts, retry_after: retry_after.map(Duration::from_secs), ..Error::new(kind, "") }
    }

    #[test]
    fn the_backoff_doubles_up_to_its_bound_and_jitters_fully() {
        for (attempts, bound) in [(1, 100), (2, 200), (3, 400), (5, 1000), (40, 1000)] {
            let error = error(Kind::Unavailable, attempts, None);
            assert_eq!(wait(&error, MINUTE, 0.0), Some(Duration::ZERO));
            assert_eq!(wait(&error, MINUTE, 1.0), Some(Duration::from_millis(bound)));
        }
    }

    #[test]
    fn a_wait_that_does_not_fit_the_deadline_ends_the_call() {
        let told = error(Kind::Unavailable, 1, Some(2));
        assert_eq!(wait(&told, Duration::from_secs(3), 0.5), Some(Duration::from_secs(2)));
        assert_eq!(wait(&told, Duration::from_secs(2), 0.5), None);
        assert_eq!(wait(&error(Kind::Timeout, 1, None), Duration::from_millis(50), 0.5), None);
    }

    #[test]
    fn a_rate_limit_is_retried_only_when_told_after_what_time() {
        assert_eq!(wait(&error(Kind::RateLimited, 1, None), MINUTE, 0.5), None);
        assert_eq!(wait(&error(Kind::RateLimited, 1, Some(1)), MINUTE, 0.5), Some(Duration::from_secs(1)));
        assert_eq!(wait(&error(Kind::Internal, 1, Some(1)), MINUTE, 0.5), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // 1994-11-06T08:49:37Z, the example of RFC 9110.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, seconds) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("99999999999999999999", Some(u64::from(u32::MAX))),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", Some(10)),
            ("Sun Nov  6 08:49:47 1994", Some(10)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("+1", None),
            ("soon", None),
            ("1 s", None),
        ] {
            assert_eq!(retry_after(value.as_bytes(), now), seconds.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after(b"\xff", now), None);
    }

    #[test]
    fn half_the_tokens_are_for_retries_and_ten_successes_earn_one() {
        let bucket = Bucket::full();
        for _ in 0..5 {
            assert!(bucket.take());
        }
        assert!((bucket.tokens() - 5.0).abs() < f64::EPSILON);
        assert!(!bucket.take());
        bucket.reward();
        assert!(bucket.take(), "5.1 tokens are more than 5");
        for _ in 0..1000 {
            bucket.reward();
        }
        assert!((bucket.tokens() - 10.0).abs() < f64::EPSILON, "never more than 10");
    }
}

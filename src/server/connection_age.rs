//! When a connection is closed: maximum age, grace and idle time of gRFC A9, and graceful shutdown.
//!
//! A pure state machine: the time and the state of the connection come in, and an [`Action`] comes out.
//!
//! ```text
//! Serving --(age, idle time, shutdown)--> SendGoaway, Draining --(grace, no request left)--> Close
//! ```

use std::time::Duration;

use tokio::time::Instant;

use super::Config;

/// How often a draining connection is checked for requests, once it may be closed without any.
const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// The share of the maximum age that is added or subtracted at random, so that connections do not expire together.
const AGE_JITTER: f64 = 0.1;

/// What to do with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Continue,
    SendGoaway,
    Close,
}

/// The age of one connection.
pub(super) struct ConnectionAge {
    max_idle: Duration,
    grace: Duration,
    goaway_timeout: Duration,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Serving {
        expires_at: Instant,
    },
    /// Without requests it is closed from `goaway_expires_at` on: hyper closes it earlier if the peer acknowledges the PING that
    /// follows the GOAWAY, so that no request can be under way.
    Draining {
        ends_at: Instant,
        goaway_expires_at: Instant,
    },
}

impl ConnectionAge {
    /// The age of a connection that is opened now. `random` is from 0 to 1.
    pub(super) fn new(config: &Config, now: Instant, random: f64) -> Self {
        let jitter = 1.0 - AGE_JITTER + 2.0 * AGE_JITTER * random;
        Self {
            max_idle: config.max_connection_idle,
            grace: config.max_connection_age_grace,
            goaway_timeout: config.goaway_timeout,
            state: State::Serving { expires_at: now + config.max_connection_age.mul_f64(jitter) },
        }
    }

    /// Whether the GOAWAY has been sent.
    pub(super) fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining { .. })
    }

    /// Starts draining.
    pub(super) fn drain(&mut self, now: Instant) -> Action {
        self.drain_within(self.goaway_timeout, now)
    }

    /// Starts draining, with another time from the GOAWAY to the end of a connection without requests.
    pub(super) fn drain_within(&mut self, goaway_timeout: Duration, now: Instant) -> Action {
        if self.is_draining() {
            return Action::Continue;
        }
        self.state = State::Draining { ends_at: now + self.grace, goaway_expires_at: now + goaway_timeout };
        Action::SendGoaway
    }

    /// When to call [`Self::check_expiry`] next. `idle_since` is `None` while a request is in flight.
    pub(super) fn next_deadline(&self, now: Instant, idle_since: Option<Instant>) -> Instant {
        match self.state {
            State::Serving { expires_at } => expires_at.min(idle_since.unwrap_or(now) + self.max_idle),
            State::Draining { ends_at, goaway_expires_at } => {
                ends_at.min(goaway_expires_at.max(now + DRAIN_CHECK_INTERVAL))
            }
        }
    }

    /// Decides whether the time has come for the next step.
    pub(super) fn check_expiry(&mut self, now: Instant, idle_since: Option<Instant>) -> Action {
        match self.state {
            State::Serving { expires_at } => {
                let has_been_idle = idle_since.is_some_and(|since| since + self.max_idle <= now);
                if expires_at <= now || has_been_idle { self.drain(now) } else { Action::Continue }
            }
            State::Draining { ends_at, goaway_expires_at } => {
                let is_unused = idle_since.is_some() && goaway_expires_at <= now;
                if ends_at <= now || is_unused { Action::Close } else { Action::Continue }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MAX_AGE: Duration = Duration::from_secs(1000);
    const GRACE: Duration = Duration::from_secs(60);
    const MAX_IDLE: Duration = Duration::from_secs(300);

    fn connection_age(now: Instant, random: f64) -> ConnectionAge {
        let config = Config {
            http1: false,
            max_connections: 1,
            max_streams: 1,
            max_connection_age: MAX_AGE,
            max_connection_age_grace: GRACE,
            max_connection_idle: MAX_IDLE,
            handshake_timeout: SECOND,
            keepalive_interval: SECOND,
            keepalive_timeout: SECOND,
            goaway_timeout: 5 * SECOND,
        };
        ConnectionAge::new(&config, now, random)
    }

    #[test]
    fn maximum_age_has_a_jitter_of_ten_per_cent() {
        let start = Instant::now();
        for (random, seconds) in [(0.0, 900), (0.5, 1000), (1.0, 1100)] {
            let mut age = connection_age(start, random);
            let expiry = start + Duration::from_secs(seconds);
            // One millisecond for the rounding of the jitter.
            assert_eq!(age.check_expiry(expiry - Duration::from_millis(1), None), Action::Continue);
            assert_eq!(age.check_expiry(expiry + Duration::from_millis(1), None), Action::SendGoaway);
        }
    }

    #[test]
    fn idle_connection_gets_a_goaway_and_a_busy_one_does_not() {
        let start = Instant::now();
        let mut age = connection_age(start, 0.5);
        assert_eq!(age.next_deadline(start, Some(start)), start + MAX_IDLE);
        assert_eq!(age.check_expiry(start + MAX_IDLE, None), Action::Continue);
        assert_eq!(age.check_expiry(start + MAX_IDLE, Some(start + SECOND)), Action::Continue);
        assert_eq!(age.check_expiry(start + MAX_IDLE, Some(start)), Action::SendGoaway);
        assert!(age.is_draining());
    }

    #[test]
    fn goaway_is_sent_once() {
        let start = Instant::now();
        let mut age = connection_age(start, 0.5);
        assert_eq!(age.drain(start), Action::SendGoaway);
        assert_eq!(age.drain(start), Action::Continue);
        assert_eq!(age.check_expiry(start, None), Action::Continue);
    }

    #[test]
    fn draining_connection_is_closed_without_requests_or_after_the_grace() {
        let start = Instant::now();
        let mut age = connection_age(start, 0.5);
        age.drain(start);
        assert_eq!(age.next_deadline(start, Some(start)), start + 5 * SECOND);
        assert_eq!(age.check_expiry(start + 4 * SECOND, Some(start - MAX_IDLE)), Action::Continue);
        assert_eq!(age.check_expiry(start + 5 * SECOND, None), Action::Continue);
        assert_eq!(age.check_expiry(start + 5 * SECOND, Some(start + 4 * SECOND)), Action::Close);
        assert!(age.next_deadline(start + 5 * SECOND, None) < start + 6 * SECOND);
        assert_eq!(age.check_expiry(start + GRACE - SECOND, None), Action::Continue);
        assert_eq!(age.next_deadline(start + GRACE, None), start + GRACE);
        assert_eq!(age.check_expiry(start + GRACE, None), Action::Close);
    }
}

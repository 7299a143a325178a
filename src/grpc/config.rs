//! The configuration of the gRPC edge. Plain data: `config` parses it from flags.

use std::time::Duration;

/// Limits of the calls.
#[derive(Clone, Debug)]
pub struct Config {
    /// Calls in flight at once, in the whole process.
    pub max_in_flight: usize,
    /// How long a call may take.
    pub deadlines: DeadlineLimits,
    /// Whether the reflection services are enabled.
    pub reflection: bool,
    /// Whether a call needs the caller's own token, in `x-auth-token`; otherwise that header is ignored.
    pub uses_callers_token: bool,
}

/// How long a call may take, counted from its arrival.
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLimits {
    /// For a call without `grpc-timeout`.
    pub default: Duration,
    /// For every call.
    pub max: Duration,
}

impl DeadlineLimits {
    /// The time for a call with this `grpc-timeout`.
    pub fn clamp(&self, timeout: Option<Duration>) -> Duration {
        timeout.unwrap_or(self.default).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_limits_hold_for_every_timeout() {
        let limits = DeadlineLimits { default: Duration::from_secs(15), max: Duration::from_secs(60) };
        assert_eq!(limits.clamp(None), Duration::from_secs(15));
        assert_eq!(limits.clamp(Some(Duration::from_secs(3))), Duration::from_secs(3));
        assert_eq!(limits.clamp(Some(Duration::from_secs(3600))), Duration::from_secs(60));
    }
}

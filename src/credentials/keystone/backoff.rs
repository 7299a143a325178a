//! How long no token is requested after a failure: for one project ([`wait_after`]), and for the whole account
//! ([`AccountBackoff`]). Pure: times and results are arguments.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::client::IdentityError;
use crate::domain::ProjectId;

/// The longest `Retry-After` that is honoured.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// After so many projects were refused in a row, the password itself may be wrong. It is also the number of requests that may
/// be in progress at once, unless others have just succeeded: with a wrong password, all of them are refused.
const MAX_REFUSALS: usize = 3;
/// The most requests in progress at once.
const MAX_REQUESTS: usize = 16;

/// How long a project waits after a request that failed with `error`, with `failures` others just before it. `random` is 0 to 1.
pub(super) fn wait_after(error: &IdentityError, failures: u32, random: f64) -> Duration {
    backoff(error.is_refused, failures).mul_f64(0.75 + 0.25 * random).max(retry_after(error))
}

/// Identity services lock an account after a few wrong passwords (five in 15 minutes are enough), so this grows fast if the
/// account was refused.
fn backoff(is_refused: bool, failures: u32) -> Duration {
    let (first, factor, longest): (u64, u64, u64) = if is_refused { (10, 4, 600) } else { (1, 2, 15) };
    Duration::from_secs(first.saturating_mul(factor.saturating_pow(failures)).min(longest))
}

fn retry_after(error: &IdentityError) -> Duration {
    error.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER)
}

/// No token is requested for any project.
#[derive(Clone, Debug)]
pub(super) struct AccountWait {
    /// Before this time.
    pub(super) until: Instant,
    /// Because of this error.
    pub(super) error: IdentityError,
}

/// What the failures of all projects say of their common account. An account that cannot use a project gets the same answer as
/// one with a wrong password, so the account is *in doubt* until the first token, and after [`MAX_REFUSALS`] different projects
/// were refused in a row. Then there is one request at a time, and one back-off covers all projects.
#[derive(Debug, Default)]
pub(super) struct AccountBackoff {
    /// It has got a token.
    is_proven: bool,
    /// The projects that were refused since the last token, at most [`MAX_REFUSALS`]. `None` is the account's own project.
    refused: HashSet<Option<ProjectId>>,
    /// Refusals in a row while the account was in doubt.
    failures: u32,
    wait: Option<AccountWait>,
    /// Further requests that may be in progress, because others have just succeeded.
    headroom: usize,
}

/// How many requests may begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// So many, now.
    Requests(usize),
    /// None before this time.
    NotBefore(Instant),
}

impl AccountBackoff {
    /// How many requests may begin while `in_progress` others have not ended.
    pub(super) fn permit(&self, in_progress: usize, now: Instant) -> Permit {
        if let Some(wait) = self.wait(now) {
            return Permit::NotBefore(wait.until);
        }
        let limit = if self.is_in_doubt() {
            1
        } else {
            (MAX_REFUSALS - self.refused.len() + self.headroom).min(MAX_REQUESTS)
        };
        Permit::Requests(limit.saturating_sub(in_progress))
    }

    /// Whether the next refusal may be the fault of the account and not of a project.
    pub(super) fn is_in_doubt(&self) -> bool {
        !self.is_proven || self.refused.len() >= MAX_REFUSALS
    }

    /// Whether no project was refused since the last token.
    pub(super) fn has_no_refusal(&self) -> bool {
        self.refused.is_empty()
    }

    /// The back-off that covers all projects now.
    pub(super) fn wait(&self, now: Instant) -> Option<&AccountWait> {
        self.wait.as_ref().filter(|wait| now < wait.until)
    }

    /// The account got a token while `in_progress` other requests have not ended.
    pub(super) fn on_success(&mut self, in_progress: usize) {
        let headroom = if in_progress == 0 { 0 } else { (self.headroom + 1).min(MAX_REQUESTS) };
        *self = Self { is_proven: true, headroom, ..Self::default() };
    }

    /// A request for `project` failed. `random` is 0 to 1.
    pub(super) fn on_failure(
        &mut self,
        project: Option<&ProjectId>,
        error: &IdentityError,
        now: Instant,
        random: f64,
    ) {
        self.headroom = 0;
        if error.is_password_right {
            self.on_success(0);
        }
        let wait = if error.is_refused {
            if self.refused.len() < MAX_REFUSALS {
                self.refused.insert(project.cloned());
            }
            if !self.is_in_doubt() {
                return;
            }
            let wait = wait_after(error, self.failures, random);
            self.failures = self.failures.saturating_add(1);
            wait
        } else {
            // What an identity service that is overloaded or away says is for every project.
            retry_after(error)
        };
        if !wait.is_zero() {
            self.wait = Some(AccountWait { until: now + wait, error: error.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn error(is_refused: bool) -> IdentityError {
        IdentityError { is_refused, ..IdentityError::unreachable("for the test".into()) }
    }

    fn project(name: &str) -> ProjectId {
        ProjectId::parse(name.into()).unwrap()
    }

    fn refuse(account: &mut AccountBackoff, name: &str, now: Instant) {
        account.on_failure(Some(&project(name)), &error(true), now, 1.0);
    }

    #[test]
    fn project_waits_longer_after_each_failure() {
        for (is_refused, waits) in [(false, [1, 2, 4, 8, 15, 15]), (true, [10, 40, 160, 600, 600, 600])] {
            for (failures, seconds) in (0..).zip(waits) {
                assert_eq!(wait_after(&error(is_refused), failures, 1.0), seconds * SECOND);
                assert_eq!(wait_after(&error(is_refused), failures, 0.0), (seconds * SECOND).mul_f64(0.75));
            }
        }
    }

    #[test]
    fn retry_after_lengthens_a_wait_up_to_an_hour_and_never_shortens_it() {
        for (is_refused, retry_after, seconds) in [
            (false, 0, 1),
            (false, 30, 30),
            (false, 3_600, 3_600),
            (false, 86_400, 3_600),
            (true, 1, 10),
            (true, 60, 60),
        ] {
            let error = IdentityError { retry_after: Some(retry_after * SECOND), ..error(is_refused) };
            assert_eq!(wait_after(&error, 0, 1.0), seconds * SECOND, "{is_refused} {retry_after}");
        }
    }

    #[test]
    fn account_without_a_token_yet_waits_as_a_whole() {
        let mut now = Instant::now();
        let mut account = AccountBackoff::default();
        assert_eq!(account.permit(0, now), Permit::Requests(1));
        assert_eq!(account.permit(1, now), Permit::Requests(0), "one shows whether the password is right");
        for (name, seconds) in [("a", 10), ("b", 40), ("a", 160), ("c", 600), ("d", 600)] {
            refuse(&mut account, name, now);
            assert_eq!(account.permit(0, now), Permit::NotBefore(now + seconds * SECOND));
            now += seconds * SECOND;
            assert_eq!(account.permit(0, now), Permit::Requests(1));
        }
        account.on_success(0);
        assert_eq!(account.permit(0, now), Permit::Requests(3));
        assert!(account.wait(now).is_none());
    }

    #[test]
    fn three_refused_projects_in_a_row_cover_the_account() {
        let now = Instant::now();
        let mut account = AccountBackoff::default();
        account.on_success(0);
        for _ in 0..10 {
            refuse(&mut account, "a", now);
            refuse(&mut account, "b", now);
            assert_eq!(account.permit(0, now), Permit::Requests(1), "two projects, whatever their number");
        }
        account.on_success(0);
        refuse(&mut account, "a", now);
        refuse(&mut account, "b", now);
        assert_eq!(account.permit(1, now), Permit::Requests(0), "a third one is in progress");
        refuse(&mut account, "c", now);
        assert_eq!(account.permit(0, now), Permit::NotBefore(now + 10 * SECOND));
        let later = now + 10 * SECOND;
        assert_eq!(account.permit(0, later), Permit::Requests(1));
        refuse(&mut account, "d", later);
        assert_eq!(account.permit(0, later), Permit::NotBefore(later + 40 * SECOND));
        account.on_success(0);
        refuse(&mut account, "a", later);
        assert_eq!(account.permit(0, later), Permit::Requests(2), "a success begins a new row");
    }

    #[test]
    fn password_that_is_right_is_a_success_before_the_refusal() {
        let now = Instant::now();
        let mut account = AccountBackoff::default();
        let error = IdentityError { is_password_right: true, ..error(true) };
        account.on_failure(Some(&project("a")), &error, now, 1.0);
        assert_eq!(account.permit(0, now), Permit::Requests(2));
    }

    #[test]
    fn successes_in_a_row_allow_more_requests_at_once() {
        let now = Instant::now();
        let mut account = AccountBackoff::default();
        for _ in 0..100 {
            account.on_success(2);
        }
        assert_eq!(account.permit(2, now), Permit::Requests(14));
        refuse(&mut account, "a", now);
        assert_eq!(account.permit(2, now), Permit::Requests(0));
        account.on_success(1);
        account.on_success(0);
        assert_eq!(account.permit(0, now), Permit::Requests(3), "nothing is known after a pause");
    }

    #[test]
    fn retry_after_of_an_unavailable_identity_service_is_for_every_project() {
        let now = Instant::now();
        let mut account = AccountBackoff::default();
        account.on_success(0);
        account.on_failure(None, &error(false), now, 1.0);
        assert_eq!(account.permit(0, now), Permit::Requests(3), "without it each project waits by itself");
        let error = IdentityError { retry_after: Some(60 * SECOND), ..error(false) };
        account.on_failure(None, &error, now, 1.0);
        assert_eq!(account.permit(0, now), Permit::NotBefore(now + 60 * SECOND));
    }
}

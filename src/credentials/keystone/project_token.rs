//! The token of one project, shared by the calls that use it and the task that renews it. Its decisions are those of [`Renewal`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::client::{IdentityError, IssuedToken};
use super::renewal::{Demand, Renewal, Step};
use crate::domain::ProjectId;

/// The token of one project.
pub(super) struct ProjectToken {
    /// `None` is the account's own project, whose token is held as long as the process runs.
    pub(super) project: Option<ProjectId>,
    renewal: watch::Sender<Renewal>,
    created_at: Instant,
    /// When a call last needed it, in milliseconds since `created_at`.
    last_used: AtomicU64,
    /// A renewal is due, and the next call that uses it is to report that.
    is_idle: AtomicBool,
}

impl ProjectToken {
    /// No token yet. The first request is due when a call waits, or at once for the account's own project.
    pub(super) fn new(project: Option<ProjectId>) -> Self {
        let now = Instant::now();
        Self {
            project,
            renewal: watch::Sender::new(Renewal::new(None, now)),
            created_at: now,
            last_used: AtomicU64::new(0),
            is_idle: AtomicBool::new(false),
        }
    }

    /// The token, if there is a valid one.
    pub(super) fn valid_token(&self, now: Instant) -> Option<Arc<IssuedToken>> {
        self.renewal.borrow().valid_token(now).cloned()
    }

    /// Whether there is a valid token.
    pub(super) fn is_valid(&self, now: Instant) -> bool {
        self.renewal.borrow().valid_token(now).is_some()
    }

    /// Whether there is, or was, a token.
    pub(super) fn has_had_token(&self) -> bool {
        self.renewal.borrow().token().is_some()
    }

    /// The project that its token is for.
    pub(super) fn project_of_token(&self) -> Option<ProjectId> {
        self.renewal.borrow().token().map(|token| token.project_id.clone())
    }

    /// Notes that a call needs it. Whether its renewal waits for that.
    pub(super) fn mark_used(&self, now: Instant) -> bool {
        let millis = now.duration_since(self.created_at).as_millis();
        self.last_used.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
        // A write would take the cache line from the other threads.
        self.is_idle.load(Ordering::Relaxed) && self.is_idle.swap(false, Ordering::Relaxed)
    }

    /// When a call last needed it.
    pub(super) fn last_used(&self) -> Instant {
        self.created_at + Duration::from_millis(self.last_used.load(Ordering::Relaxed))
    }

    /// Its changes, for a call that waits. While a receiver exists, the project is not forgotten.
    pub(super) fn subscribe(&self) -> watch::Receiver<Renewal> {
        self.renewal.subscribe()
    }

    /// Whether calls wait for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.renewal.receiver_count() > 0
    }

    /// Whether the identity service has issued a token that works, and is likely to issue another one.
    pub(super) fn is_healthy(&self, now: Instant) -> bool {
        self.renewal.borrow().is_healthy(now)
    }

    /// When the next request is due.
    pub(super) fn refresh_at(&self) -> Instant {
        self.renewal.borrow().refresh_at()
    }

    /// What is to be done now.
    pub(super) fn next_step(&self, now: Instant) -> Step {
        let is_permanent = self.project.is_none();
        let demand = Demand { is_permanent, is_awaited: self.is_awaited(), last_used: self.last_used() };
        let step = self.renewal.borrow().next_step(demand, now);
        self.is_idle.store(matches!(step, Step::Idle(_)), Ordering::Relaxed);
        step
    }

    /// A request has begun. Calls that wait need not know.
    pub(super) fn start(&self) {
        self.renewal.send_if_modified(|renewal| {
            renewal.start();
            false
        });
    }

    /// A request has ended. `random` is 0 to 1.
    pub(super) fn finish(&self, result: Result<Arc<IssuedToken>, IdentityError>, now: Instant, random: f64) {
        self.renewal.send_modify(|renewal| renewal.finish(result, now, random));
    }

    /// The upstream has rejected this token. Whether that makes a renewal due.
    pub(super) fn invalidate(&self, rejected: &Arc<IssuedToken>) -> bool {
        self.renewal.send_if_modified(|renewal| renewal.invalidate(rejected, Instant::now()))
    }

    /// Makes calls that wait look again.
    pub(super) fn wake(&self) {
        self.renewal.send_modify(|_| ());
    }

    /// The account has changed.
    pub(super) fn reset(&self) {
        self.renewal.send_modify(|renewal| renewal.reset(Instant::now()));
    }
}

//! The tokens of all projects that an account serves: one that it is made for, or each one that calls name.
//!
//! Calls read a token here, and wait here while there is none. They neither request nor forget one: a single task does, as
//! [`ProjectTokens::plan`] says. No lock is held while anything waits. In a call's path there are two read locks, that of the
//! map and that of the project's watch channel, and only the second one for an account with one project.
//!
//! This module does not know how a token is requested.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::backoff::{AccountBackoff, AccountWait, Permit};
use super::client::{IdentityError, IssuedToken};
use super::project_token::ProjectToken;
use super::renewal::{Lookup, MAX_REFRESH_WAIT, Renewal, Step};
use crate::domain::ProjectId;

/// The most tokens that are held. It is also the most projects whose failed requests are remembered, apart from these: a
/// project that the account may not use never takes the place of a token.
const MAX_PROJECTS: usize = 256;
/// The longest time without a look at the tokens.
const MAX_PAUSE: Duration = Duration::from_secs(3600);

type ProjectMap = HashMap<ProjectId, Arc<ProjectToken>>;

/// The tokens of an account.
pub(super) struct ProjectTokens {
    projects: Projects,
    /// The back-off of the account. It may be over.
    account_wait: ArcSwapOption<AccountWait>,
    /// Something has changed that may make a request due.
    changed: Notify,
}

enum Projects {
    /// The account's own project.
    One(Arc<ProjectToken>),
    /// Each project that a call names.
    Each(RwLock<ProjectMap>),
}

/// What is to be done now.
pub(super) struct Plan {
    /// The projects for which a request begins now.
    pub(super) start: Vec<Arc<ProjectToken>>,
    /// When the next look is due, unless something changes before.
    pub(super) wake_at: Instant,
    /// How many valid tokens there are.
    pub(super) held: usize,
}

impl ProjectTokens {
    /// No token yet. With `serves_each_project` there is one for each project that a call names.
    pub(super) fn new(serves_each_project: bool) -> Self {
        let projects = if serves_each_project {
            Projects::Each(RwLock::default())
        } else {
            Projects::One(Arc::new(ProjectToken::new(None)))
        };
        Self { projects, account_wait: ArcSwapOption::empty(), changed: Notify::new() }
    }

    /// Whether there is a token for each project.
    pub(super) fn serves_each_project(&self) -> bool {
        matches!(self.projects, Projects::Each(_))
    }

    /// The one project of the account, once there is a token.
    pub(super) fn own_project(&self) -> Option<ProjectId> {
        match &self.projects {
            Projects::One(entry) => entry.project_of_token(),
            Projects::Each(_) => None,
        }
    }

    /// The token of a project, if there is a valid one. It is that of the account's own project, if the account has one.
    pub(super) fn valid_token(&self, project: &ProjectId) -> Option<Arc<IssuedToken>> {
        let now = Instant::now();
        let map;
        let entry = match &self.projects {
            Projects::One(entry) => entry,
            Projects::Each(projects) => {
                map = read(projects);
                map.get(project)?
            }
        };
        let token = entry.valid_token(now)?;
        if entry.mark_used(now) {
            self.changed.notify_one();
        }
        Some(token)
    }

    /// Waits for a token of a project other than `rejected`. `None` if the upstream has rejected all its tokens lately, and the
    /// next one is not requested soon. The error is that of the last request.
    pub(super) async fn wait_for_token(
        &self,
        project: &ProjectId,
        rejected: Option<&Arc<IssuedToken>>,
    ) -> Result<Option<Arc<IssuedToken>>, IdentityError> {
        // While the receiver exists, the project is not forgotten.
        let (_entry, mut changes) = self.subscribe(project)?;
        let mut give_up_at = None;
        loop {
            let now = Instant::now();
            let lookup = {
                let renewal = changes.borrow_and_update();
                // In this order: a back-off that begins later wakes this call.
                renewal.lookup(rejected, self.account_wait(now).as_deref(), now)
            };
            let error = match lookup {
                Lookup::Found(token) => return Ok(Some(token)),
                Lookup::NotSoon(None) => return Ok(None),
                Lookup::NotSoon(Some(error)) => return Err(error),
                Lookup::Pending(error) => error,
            };
            self.changed.notify_one();
            match error {
                None => {
                    // The sender is in `_entry`, so it still exists.
                    let _ = changes.changed().await;
                }
                Some(error) => {
                    let end = *give_up_at.get_or_insert(now + MAX_REFRESH_WAIT);
                    if timeout_at(end, changes.changed()).await.is_err() {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// The entry of a project, which is new if there was none, and its changes. The lock is held meanwhile: a project that is
    /// awaited is not forgotten. There is no new entry while the account waits, whatever number of projects calls name.
    fn subscribe(
        &self,
        project: &ProjectId,
    ) -> Result<(Arc<ProjectToken>, watch::Receiver<Renewal>), IdentityError> {
        let now = Instant::now();
        let subscribe = |entry: &Arc<ProjectToken>| {
            entry.mark_used(now);
            Ok((Arc::clone(entry), entry.subscribe()))
        };
        match &self.projects {
            Projects::One(entry) => subscribe(entry),
            Projects::Each(projects) => {
                if let Some(entry) = read(projects).get(project) {
                    return subscribe(entry);
                }
                if let Some(wait) = self.account_wait(now + MAX_REFRESH_WAIT) {
                    return Err(wait.error.clone());
                }
                let mut projects = write(projects);
                let new = || Arc::new(ProjectToken::new(Some(project.clone())));
                subscribe(projects.entry(project.clone()).or_insert_with(new))
            }
        }
    }

    /// The back-off of the account, if it is not over at this time.
    fn account_wait(&self, at: Instant) -> Option<Arc<AccountWait>> {
        self.account_wait.load_full().filter(|wait| at < wait.until)
    }

    /// The back-off of the account has begun, or has ended. Calls that wait learn the first.
    pub(super) fn set_account_wait(&self, wait: Option<&AccountWait>) {
        self.account_wait.store(wait.cloned().map(Arc::new));
        if wait.is_some() {
            self.entries().iter().filter(|entry| entry.is_awaited()).for_each(|entry| entry.wake());
        }
    }

    /// The upstream has rejected this token of a project: a renewal is due, unless another token has replaced it.
    pub(super) fn invalidate(&self, project: &ProjectId, rejected: &Arc<IssuedToken>) {
        let entry = match &self.projects {
            Projects::One(entry) => Some(Arc::clone(entry)),
            Projects::Each(projects) => read(projects).get(project).cloned(),
        };
        if entry.is_some_and(|entry| entry.invalidate(rejected)) {
            self.changed.notify_one();
        }
    }

    /// Stores a token that was requested apart from the plan.
    pub(super) fn insert(&self, token: Arc<IssuedToken>) {
        if let Ok((entry, _changes)) = self.subscribe(&token.project_id) {
            entry.finish(Ok(token), Instant::now(), fastrand::f64());
        }
    }

    /// Waits until calls can be served: at once with a token for each project, otherwise for the first token.
    pub(super) async fn ready(&self) {
        if let Projects::One(entry) = &self.projects {
            // The sender is in `entry`, so it still exists.
            let _ = entry.subscribe().wait_for(|renewal| renewal.token().is_some()).await;
        }
    }

    /// Whether calls can be served.
    pub(super) fn is_ready(&self) -> bool {
        match &self.projects {
            Projects::One(entry) => entry.has_had_token(),
            Projects::Each(_) => true,
        }
    }

    /// Waits until something has changed that may make a request due.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Makes the next look due at once.
    pub(super) fn notify(&self) {
        self.changed.notify_one();
    }

    /// The account has changed: requests are due at once for all tokens in use. No request may be in progress.
    pub(super) fn reset(&self) {
        self.set_account_wait(None);
        self.entries().iter().for_each(|entry| entry.reset());
    }

    /// Forgets what is not needed, and decides which requests begin now, while `in_progress` others have not ended. Calls change
    /// what entries are sorted by at any time, so each sort reads it once (a sort panics if the order is not total).
    pub(super) fn plan(&self, account: &AccountBackoff, in_progress: usize, now: Instant) -> Plan {
        let with_step = |entry: Arc<ProjectToken>| (entry.next_step(now), entry);
        let steps = self.forget(self.entries().into_iter().map(with_step).collect(), now);
        let mut plan = Plan { start: Vec::new(), wake_at: now + MAX_PAUSE, held: 0 };
        let mut due = Vec::new();
        for (step, entry) in &steps {
            if let Some(token) = entry.valid_token(now) {
                plan.held += 1;
                plan.wake_at = plan.wake_at.min(token.expires_at());
            }
            match step {
                Step::Request => due.push(entry),
                Step::Wait(until) | Step::Idle(until) => plan.wake_at = plan.wake_at.min(*until),
                Step::InProgress | Step::Remember | Step::Forget => {}
            }
        }
        match account.permit(in_progress, now) {
            Permit::Requests(count) => {
                if account.is_in_doubt() {
                    due = in_order_of_trust(due, &steps, now);
                } else {
                    // Calls that wait go before renewals, and what was refused last of all.
                    due.sort_by_cached_key(|entry| {
                        (entry.is_refused(), !entry.is_awaited(), entry.refresh_at())
                    });
                }
                plan.start = due.into_iter().take(count).map(Arc::clone).collect();
                plan.start.iter().for_each(|entry| entry.start());
            }
            Permit::NotBefore(until) => plan.wake_at = plan.wake_at.min(until),
        }
        plan
    }

    /// Removes projects that are not needed, and the least recently used ones beyond [`MAX_PROJECTS`]. Returns the others.
    fn forget(
        &self,
        mut steps: Vec<(Step, Arc<ProjectToken>)>,
        now: Instant,
    ) -> Vec<(Step, Arc<ProjectToken>)> {
        let Projects::Each(projects) = &self.projects else { return steps };
        steps.sort_by_cached_key(|(_, entry)| Reverse(entry.last_used()));
        let (mut tokens, mut failures) = (0, 0);
        let mut is_surplus = |step: &Step, entry: &ProjectToken| {
            let count = match step {
                Step::Forget => return true,
                Step::InProgress => return false,
                Step::Remember => &mut failures,
                Step::Request | Step::Wait(_) | Step::Idle(_) if entry.is_valid(now) => &mut tokens,
                // A call waits for the first token.
                Step::Request | Step::Wait(_) | Step::Idle(_) => return false,
            };
            *count += 1;
            *count > MAX_PROJECTS
        };
        let (surplus, mut kept): (Vec<_>, Vec<_>) =
            steps.into_iter().partition(|(step, entry)| is_surplus(step, entry));
        if !surplus.is_empty() {
            let mut map = write(projects);
            for (step, entry) in surplus {
                // Under the lock, since a call may have begun to wait.
                if let Some(project) = entry.project.as_ref().filter(|_| !entry.is_awaited()) {
                    map.remove(project);
                } else {
                    kept.push((step, entry));
                }
            }
        }
        kept
    }

    fn entries(&self) -> Vec<Arc<ProjectToken>> {
        match &self.projects {
            Projects::One(entry) => vec![Arc::clone(entry)],
            Projects::Each(projects) => read(projects).values().cloned().collect(),
        }
    }
}

/// The requests that are due while the account is in doubt. A project that has a token shows best whether the password is right,
/// so it goes first, even if it is not due.
fn in_order_of_trust<'a>(
    mut due: Vec<&'a Arc<ProjectToken>>,
    all: &'a [(Step, Arc<ProjectToken>)],
    now: Instant,
) -> Vec<&'a Arc<ProjectToken>> {
    if !due.is_empty() && !due.iter().any(|entry| entry.is_healthy(now)) {
        let healthy = all.iter().map(|(_, entry)| entry).filter(|entry| entry.is_healthy(now));
        due.extend(healthy.max_by_key(|entry| entry.last_used()));
    }
    due.sort_by_cached_key(|entry| {
        (!entry.is_healthy(now), entry.is_refused(), !entry.has_had_token(), entry.refresh_at())
    });
    due
}

fn read(projects: &RwLock<ProjectMap>) -> RwLockReadGuard<'_, ProjectMap> {
    projects.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(projects: &RwLock<ProjectMap>) -> RwLockWriteGuard<'_, ProjectMap> {
    projects.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Token;
    use http::HeaderValue;

    const SECOND: Duration = Duration::from_secs(1);

    fn project(name: &str) -> ProjectId {
        ProjectId::parse(name.into()).unwrap()
    }

    fn refusal() -> IdentityError {
        IdentityError { is_refused: true, ..IdentityError::unreachable("for the test".into()) }
    }

    /// Tokens of 1,000 s for these projects.
    fn holding(projects: &[&str]) -> ProjectTokens {
        let tokens = ProjectTokens::new(true);
        for name in projects {
            tokens.insert(Arc::new(IssuedToken {
                token: Token::issued(&HeaderValue::from_static("gAAAAABl-of-the-gateway")).unwrap(),
                requested_at: Instant::now(),
                lifetime: 1000 * SECOND,
                endpoint: None,
                project_id: project(name),
            }));
        }
        tokens
    }

    /// The account after its first token and the refusal of three projects.
    fn in_doubt(now: Instant) -> AccountBackoff {
        let mut account = AccountBackoff::default();
        account.on_success();
        for name in ["x", "y", "z"] {
            account.on_failure(Some(&project(name)), &refusal(), now, 0.0);
        }
        account
    }

    fn started(plan: &Plan) -> Vec<&str> {
        plan.start.iter().map(|entry| entry.project.as_ref().unwrap().as_str()).collect()
    }

    #[tokio::test]
    async fn nothing_is_stored_for_calls_while_the_account_waits() {
        let now = Instant::now();
        let tokens = holding(&["a"]);
        tokens.set_account_wait(in_doubt(now).wait(now));
        for number in 0..1000 {
            tokens.wait_for_token(&project(&format!("p{number}")), None).await.unwrap_err();
        }
        assert_eq!(tokens.entries().len(), 1);
        assert!(tokens.valid_token(&project("a")).is_some());
    }

    #[test]
    fn project_with_a_token_is_asked_for_first_while_the_account_is_in_doubt() {
        let now = Instant::now();
        let tokens = holding(&["a"]);
        let later = now + 10 * SECOND;
        let account = in_doubt(now);
        assert_eq!(started(&tokens.plan(&account, 0, later)), [""; 0], "no call waits");
        let _waiting = tokens.subscribe(&project("b")).unwrap();
        assert_eq!(started(&tokens.plan(&account, 0, now)), [""; 0], "the account waits");
        assert_eq!(started(&tokens.plan(&account, 0, later)), ["a"]);
        assert_eq!(started(&tokens.plan(&account, 1, later)), [""; 0], "one at a time");
    }

    #[test]
    fn calls_that_wait_go_before_renewals() {
        let tokens = holding(&["a"]);
        let mut account = AccountBackoff::default();
        account.on_success();
        tokens.valid_token(&project("a")).unwrap();
        let (b, _waiting) = tokens.subscribe(&project("b")).unwrap();
        let due = Instant::now() + 700 * SECOND;
        for entry in tokens.entries() {
            entry.mark_used(due);
        }
        assert_eq!(started(&tokens.plan(&account, 2, due)), ["b"], "of two that are due, one may begin");
        assert!(b.is_awaited());
    }

    #[test]
    fn refused_project_waits_for_the_others_and_shows_least_of_the_account() {
        let tokens = holding(&[]);
        let (refused, _waiting) = tokens.subscribe(&project("refused")).unwrap();
        refused.finish(Err(refusal()), Instant::now(), 0.0);
        let _new = tokens.subscribe(&project("new")).unwrap();
        let later = Instant::now() + 10 * SECOND;
        assert_eq!(started(&tokens.plan(&in_doubt(later - 10 * SECOND), 0, later)), ["new"]);
        let _newer = tokens.subscribe(&project("newer")).unwrap();
        let mut account = AccountBackoff::default();
        account.on_success();
        assert_eq!(started(&tokens.plan(&account, 2, later)), ["newer"]);
    }

    #[test]
    fn calls_may_use_tokens_while_the_plan_is_made() {
        let names: Vec<String> = (0..300).map(|number| format!("p{number}")).collect();
        let tokens = holding(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let entries = tokens.entries();
        let use_one = |entry: &Arc<ProjectToken>| {
            entry.mark_used(Instant::now() + SECOND.mul_f64(fastrand::f64()));
        };
        std::thread::scope(|scope| {
            let calls = scope.spawn(|| (0..1000).for_each(|_| entries.iter().for_each(use_one)));
            while !calls.is_finished() {
                tokens.plan(&AccountBackoff::default(), 1, Instant::now());
            }
        });
        tokens.plan(&AccountBackoff::default(), 1, Instant::now());
        assert_eq!(tokens.entries().len(), MAX_PROJECTS);
    }

    #[test]
    fn next_look_is_not_after_the_end_of_a_token() {
        let now = Instant::now();
        let tokens = holding(&["a"]);
        let mut account = AccountBackoff::default();
        let error = IdentityError { retry_after: Some(2000 * SECOND), ..refusal() };
        account.on_failure(None, &error, now, 0.0);
        for entry in tokens.entries() {
            entry.mark_used(now + 700 * SECOND);
        }
        let plan = tokens.plan(&account, 0, now + 800 * SECOND);
        assert_eq!((plan.held, plan.start.len()), (1, 0));
        assert!(plan.wake_at < now + 1001 * SECOND, "{:?}", plan.wake_at - now);
    }

    #[test]
    fn project_is_forgotten_once_no_call_waits_for_its_first_token() {
        let tokens = holding(&[]);
        let account = AccountBackoff::default();
        let waiting = tokens.subscribe(&project("a")).unwrap();
        tokens.plan(&account, 1, Instant::now());
        assert_eq!(tokens.entries().len(), 1);
        drop(waiting);
        tokens.plan(&account, 1, Instant::now());
        assert_eq!(tokens.entries().len(), 0);
    }
}

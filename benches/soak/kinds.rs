//! The kinds of calls, how often each occurs, and how each must end.

use h2::Reason;
use tonic::Code;

use super::client::{Client, End};
use super::common::load::Call;
use super::common::upstream::{Behaviour, plain_id};
use super::common::{PROJECT, SHARE, token};

/// The gateway of a kind, by its place among the targets.
const RULES: usize = 0;
const KEYSTONE: usize = 1;
/// Projects with tokens.
const PROJECTS: u32 = 32;

pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) target: usize,
    /// So many of all weights together.
    weight: i64,
    pub(crate) action: Action,
    /// Each of these is right.
    pub(crate) expected: Vec<End>,
}

/// What a caller does.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    Call(fn() -> Call),
    Cancel(fn() -> Call),
    ReadSlowly(fn() -> Call),
    ReadNothing(fn() -> Call),
    ResetConnection(fn() -> Call),
    Plaintext,
    Silent,
}

impl Action {
    pub(crate) async fn run(self, client: &Client) -> End {
        match self {
            Self::Call(call) => client.call(&call()).await,
            Self::Cancel(call) => client.cancel(&call()).await,
            Self::ReadSlowly(call) => client.read_slowly(&call()).await,
            Self::ReadNothing(call) => client.read_nothing(&call()).await,
            Self::ResetConnection(call) => client.reset(&call()).await,
            Self::Plaintext => client.plaintext().await,
            Self::Silent => client.silent().await,
        }
    }
}

fn share() -> Call {
    Call::of_share(&plain_id())
}

fn of_some_project() -> Call {
    Call::new(&format!("project-{}", fastrand::u32(..PROJECTS)), &plain_id(), &token())
}

fn slow() -> Call {
    Call::of_share(&Behaviour::Slow.id())
}

fn unavailable_once() -> Call {
    Call::of_share(&Behaviour::UnavailableOnce.id())
}

fn not_found() -> Call {
    Call::of_share(&Behaviour::NotFound.id())
}

fn unauthorized() -> Call {
    Call::of_share(&Behaviour::Unauthorized.id())
}

fn unavailable() -> Call {
    Call::of_share(&Behaviour::Unavailable.id())
}

fn connection_lost() -> Call {
    Call::of_share(&Behaviour::ConnectionLost.id())
}

fn denied() -> Call {
    Call::new("denied", SHARE, &token())
}

fn malformed() -> Call {
    Call::of_share(&Behaviour::Malformed.id())
}

/// All kinds. Retries must never be throttled: a success gives back a tenth of the token that a retry takes, so the retried
/// calls are few, and [`Sequence`] spreads them.
pub(crate) fn all() -> Vec<Kind> {
    use Action::{Call as Ask, Cancel, Plaintext, ReadNothing, ReadSlowly, ResetConnection, Silent};
    let kind = |name, target, weight, action, expected| Kind { name, target, weight, action, expected };
    let of = |code| vec![End::Status(code)];
    let cancelled = || vec![End::Cancelled];
    // The deadline may pass before there is a response.
    let not_read = vec![End::Reset(Some(Reason::CANCEL)), End::Status(Code::DeadlineExceeded)];
    vec![
        kind("rules: success", RULES, 250, Ask(share), of(Code::Ok)),
        kind("rules: 404", RULES, 30, Ask(not_found), of(Code::NotFound)),
        kind("rules: 401", RULES, 15, Ask(unauthorized), of(Code::Unauthenticated)),
        kind("rules: malformed response", RULES, 10, Ask(malformed), of(Code::Internal)),
        kind("rules: 503, then success", RULES, 4, Ask(unavailable_once), of(Code::Ok)),
        kind("rules: 503 to every attempt", RULES, 1, Ask(unavailable), of(Code::Unavailable)),
        kind("rules: connection to VBS lost", RULES, 1, Ask(connection_lost), of(Code::Unavailable)),
        kind("rules: deadline exceeded", RULES, 4, Ask(|| slow().within("200m")), of(Code::DeadlineExceeded)),
        kind("rules: project denied", RULES, 10, Ask(denied), of(Code::PermissionDenied)),
        kind("rules: invalid ID", RULES, 10, Ask(|| Call::of_share("detail")), of(Code::InvalidArgument)),
        kind("rules: no token", RULES, 5, Ask(|| Call::new(PROJECT, SHARE, "")), of(Code::Unauthenticated)),
        kind("rules: cancelled", RULES, 8, Cancel(slow), cancelled()),
        kind("rules: slow reader", RULES, 2, ReadSlowly(share), of(Code::Ok)),
        kind("rules: response not read", RULES, 1, ReadNothing(|| share().within("500m")), not_read),
        kind("rules: connection reset", RULES, 1, ResetConnection(slow), cancelled()),
        kind("rules: plaintext", RULES, 1, Plaintext, vec![End::Closed]),
        kind("rules: silent connection", RULES, 1, Silent, cancelled()),
        kind("keystone: success", KEYSTONE, 100, Ask(of_some_project), of(Code::Ok)),
        kind("keystone: 404", KEYSTONE, 10, Ask(not_found), of(Code::NotFound)),
        kind("keystone: malformed response", KEYSTONE, 5, Ask(malformed), of(Code::Internal)),
        kind("keystone: 503, then success", KEYSTONE, 1, Ask(unavailable_once), of(Code::Ok)),
        kind("keystone: cancelled", KEYSTONE, 4, Cancel(slow), cancelled()),
        kind("keystone: connection reset", KEYSTONE, 1, ResetConnection(slow), cancelled()),
    ]
}

/// The kinds in turn, each as often as its weight says, and evenly spread: smooth weighted round robin.
pub(crate) struct Sequence {
    credits: Vec<i64>,
}

impl Sequence {
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        Self { credits: vec![0; kinds.len()] }
    }

    /// The index of the next kind.
    pub(crate) fn next(&mut self, kinds: &[Kind]) -> usize {
        for (credit, kind) in self.credits.iter_mut().zip(kinds) {
            *credit += kind.weight;
        }
        let next = (0..kinds.len()).max_by_key(|index| self.credits[*index]).unwrap();
        self.credits[next] -= kinds.iter().map(|kind| kind.weight).sum::<i64>();
        next
    }
}

//! What calls cost that do not succeed at the first attempt, next to those that do.
//!
//! The process has a throttle of retries: an upstream that answers 503 to everything gets five more requests, and then one for
//! each call. So a call that is retried is measured among calls that succeed, which allow one retry for ten of them.

use std::time::Duration;

use tonic::Code;

use super::common::DOCUMENTED;
use super::common::load::{Call, Callers};
use super::common::process::Process;
use super::common::turn::{TESTED, Turn, cpu_ratio, median, middle, pinned, until, warm_up};
use super::common::upstream::{Behaviour, RETRIED, Upstream, plain_id, some_retried};
use super::report::Outcome;
use super::{LOADED, Options};

/// A kind of calls, the gateway for them, and what was measured.
struct Kind {
    name: String,
    gateway: usize,
    /// The call with this number.
    call: fn(usize) -> Call,
    code: Code,
    turns: Vec<Turn>,
    /// Of a call, in each turn.
    attempts: Vec<f64>,
}

impl Kind {
    fn new(name: impl Into<String>, call: fn(usize) -> Call, code: Code) -> Self {
        Self { name: name.into(), gateway: 0, call, code, turns: Vec::new(), attempts: Vec::new() }
    }
}

/// Successful calls come first.
fn kinds() -> Vec<Kind> {
    let unavailable = |_| Call::of_share(&Behaviour::Unavailable.id());
    let name = format!("success; one call in {RETRIED} after a 503 and a retry");
    vec![
        Kind::new("success", |_| Call::of_share(&plain_id()), Code::Ok),
        Kind::new(name, |number| Call::of_share(&some_retried(number)), Code::Ok),
        Kind::new("404", |_| Call::of_share(&Behaviour::NotFound.id()), Code::NotFound),
        Kind::new("503 to every request", unavailable, Code::Unavailable),
        Kind {
            gateway: 1,
            ..Kind::new("503 to every request, `--max-attempts 1`", unavailable, Code::Unavailable)
        },
    ]
}

pub(crate) async fn measure(options: &Options) -> Vec<Outcome> {
    let upstream = Upstream::new(DOCUMENTED);
    let address = upstream.start().await;
    let gateways = [&[][..], &["--max-attempts=1"]]
        .map(|flags| pinned(TESTED, || Process::gateway(address, flags, &[])));
    let mut callers = Vec::new();
    for gateway in &gateways {
        callers.push(Callers::connect(gateway.grpc, LOADED.1).await);
    }
    for callers in &callers {
        warm_up(callers, LOADED.0).await;
    }
    let mut kinds = kinds();
    for _ in 0..options.rounds {
        for kind in &mut kinds {
            let requests = upstream.requests();
            let calls = callers[kind.gateway].keep_each(LOADED.0, calls_for(options.turn(), kind.call));
            let turn = Turn::of(&gateways[kind.gateway], options.turn(), calls).await;
            turn.assert_all(kind.code);
            kind.attempts.push((upstream.requests() - requests) as f64 / turn.ended.len() as f64);
            kind.turns.push(turn);
        }
    }
    kinds
        .iter()
        .map(|kind| Outcome {
            name: kind.name.clone(),
            attempts: median(kind.attempts.iter().copied()),
            cpu_us: middle(&kind.turns, |turn| turn.cpu),
            cpu_ratio: cpu_ratio(&kind.turns, &kinds[0].turns),
        })
        .collect()
}

fn calls_for(time: Duration, call: fn(usize) -> Call) -> impl FnMut() -> Option<Call> {
    let (mut enough, mut numbers) = (until(time), 1..);
    move || if enough() { None } else { numbers.next().map(call) }
}

//! One turn of a program under test: calls kept under way on its core for a time, and what they cost it.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::Code;

use super::load::{Callers, Ended, percentile, times};
use super::process::{Process, pin};

/// The cores of the program under test, and that of the caller and the upstream.
pub(crate) const TESTED: &[usize] = &[0];
pub(crate) const CALLER: &[usize] = &[1];

/// Runs `start` with this process, and what it starts, on some cores.
pub(crate) fn pinned<T>(cores: &[usize], start: impl FnOnce() -> T) -> T {
    pin(cores);
    let started = start();
    pin(CALLER);
    started
}

/// What a process spent in one turn, of one call.
pub(crate) struct Turn {
    pub(crate) ended: Vec<Ended>,
    /// In microseconds.
    pub(crate) cpu: f64,
    pub(crate) switches: f64,
    pub(crate) rate: f64,
}

impl Turn {
    /// Keeps the calls of a turn under way, which takes `time`, and sees what they cost the process.
    pub(crate) async fn of(
        process: &Process,
        time: Duration,
        calls: impl Future<Output = Vec<Ended>>,
    ) -> Self {
        let (cpu, switches, since) = (process.cpu(), process.switches(), Instant::now());
        let ended = timeout(time + Duration::from_secs(10), calls).await.expect("calls hang");
        let count = ended.len() as f64;
        Self {
            cpu: (process.cpu() - cpu).as_secs_f64() * 1e6 / count,
            switches: (process.switches() - switches) as f64 / count,
            rate: count / since.elapsed().as_secs_f64(),
            ended,
        }
    }

    /// As many calls as the process answers, `in_flight` at a time.
    pub(crate) async fn saturate(
        process: &Process,
        callers: &Callers,
        in_flight: usize,
        time: Duration,
    ) -> Self {
        Self::saturate_with(Code::Ok, process, callers, in_flight, time).await
    }

    /// The same with calls that end with `code`.
    pub(crate) async fn saturate_with(
        code: Code,
        process: &Process,
        callers: &Callers,
        in_flight: usize,
        time: Duration,
    ) -> Self {
        let turn = Self::of(process, time, callers.keep(in_flight, until(time))).await;
        turn.assert_all(code);
        turn
    }

    /// Every call must have ended with `code`.
    pub(crate) fn assert_all(&self, code: Code) {
        let other = self.ended.iter().find(|call| call.code != code);
        assert!(other.is_none(), "a call ended with {:?}, not {code:?}", other.map(|call| call.code));
    }
}

/// Whether that much time has gone since now.
pub(crate) fn until(time: Duration) -> impl FnMut() -> bool {
    let end = Instant::now() + time;
    move || Instant::now() >= end
}

/// Connections to the upstream are made, and the memory that goes with them.
pub(crate) async fn warm_up(callers: &Callers, in_flight: usize) {
    callers.keep(in_flight, until(Duration::from_millis(200))).await;
}

/// The share of the calls that succeeded: at a rate that is too high for a moment the gateway refuses some.
pub(crate) fn answered(turns: &[Turn]) -> f64 {
    let ended = || turns.iter().flat_map(|turn| &turn.ended);
    ended().filter(|call| call.code == Code::Ok).count() as f64 / ended().count() as f64
}

/// The middle turn's.
pub(crate) fn middle(turns: &[Turn], of: impl Fn(&Turn) -> f64) -> f64 {
    median(turns.iter().map(of))
}

/// The CPU of a call to that of the other's, of each round: what disturbs a round disturbs both sides of it.
pub(crate) fn cpu_ratio(turns: &[Turn], others: &[Turn]) -> f64 {
    median(turns.iter().zip(others).map(|(turn, other)| turn.cpu / other.cpu))
}

/// p50, p90, p99 and p99.9 of all turns together, in milliseconds.
pub(crate) fn percentiles(turns: &[Turn]) -> [f64; 4] {
    let mut all: Vec<Duration> = turns.iter().flat_map(|turn| times(&turn.ended, Code::Ok)).collect();
    all.sort_unstable();
    [500, 900, 990, 999].map(|per_mille| percentile(&all, per_mille))
}

/// p50, p90, p99 and p99.9 in one cell.
pub(crate) fn quantiles(latency: &[f64; 4]) -> String {
    latency.map(|ms| format!("{ms:.2}")).join(" / ")
}

/// The middle one.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

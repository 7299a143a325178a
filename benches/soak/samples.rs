//! Memory, descriptors and threads of a gateway, once a second, and whether they have grown.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::common::process::Process;

/// How much more the last quarter may be than the second one: a part, and an amount.
const MEMORY: (f64, f64) = (0.05, 1.0);
const DESCRIPTORS: (f64, f64) = (0.05, 8.0);
const THREADS: (f64, f64) = (0.0, 0.0);
/// Time in which the descriptors of the load are closed: idle connections to VBS stay for 15 s.
const CLOSED: Duration = Duration::from_secs(40);

pub(crate) struct Samples {
    /// Descriptors before the load.
    at_rest: usize,
    taken: Vec<Sample>,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Sample {
    memory_mib: f64,
    descriptors: f64,
    threads: f64,
}

/// One number of a sample.
type Part = fn(&Sample) -> f64;

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory_mib, descriptors, threads } = self;
        write!(f, "{memory_mib:.1} MiB, {descriptors:.0} descriptors, {threads:.0} threads")
    }
}

impl Samples {
    pub(crate) fn new(process: &Process) -> Self {
        Self { at_rest: process.descriptors(), taken: Vec::new() }
    }

    pub(crate) fn take(&mut self, process: &Process) {
        let sample = Sample {
            memory_mib: process.memory(),
            descriptors: process.descriptors() as f64,
            threads: process.threads() as f64,
        };
        self.taken.push(sample);
    }

    pub(crate) fn last(&self) -> Sample {
        self.taken.last().copied().unwrap_or_default()
    }

    /// Prints what has become of `process`, which has no more load, and says whether nothing has grown.
    pub(crate) async fn judge(&self, process: &Process, name: &str) -> bool {
        println!("| {name}, least of | second quarter | last quarter | |\n|---|---|---|---|");
        let mut is_flat = true;
        let rows: [(&str, Part, (f64, f64)); 3] = [
            ("memory, MiB", |sample| sample.memory_mib, MEMORY),
            ("descriptors", |sample| sample.descriptors, DESCRIPTORS),
            ("threads", |sample| sample.threads, THREADS),
        ];
        for (what, of, (part, amount)) in rows {
            let (before, after) = (self.quarter(1, of), self.quarter(3, of));
            let has_grown = after > before * (1.0 + part) + amount;
            println!("| {what} | {before:.1} | {after:.1} | {} |", if has_grown { "grown" } else { "flat" });
            is_flat &= !has_grown;
        }
        let is_closed = self.waits_for_rest(process).await;
        println!(
            "| descriptors without load | {} before | {} after | {} |\n",
            self.at_rest,
            process.descriptors(),
            if is_closed { "flat" } else { "grown" }
        );
        is_flat && is_closed
    }

    /// The least of a quarter of the samples: what is lost raises it, and what a busy moment takes does not.
    fn quarter(&self, number: usize, of: Part) -> f64 {
        let length = self.taken.len() / 4;
        self.taken.iter().skip(number * length).take(length).map(of).fold(f64::INFINITY, f64::min)
    }

    async fn waits_for_rest(&self, process: &Process) -> bool {
        let end = Instant::now() + CLOSED;
        while process.descriptors() > self.at_rest {
            if Instant::now() > end {
                return false;
            }
            sleep(Duration::from_millis(100)).await;
        }
        true
    }
}

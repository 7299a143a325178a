//! `cargo bench --bench soak`: an hour (`--minutes`) of mixed load at a bounded rate on two gateways, one with rules in
//! pass-through mode and TLS on both sides, one in Keystone mode with tokens that live for half a minute. Successes and errors,
//! retries, cancelled calls, slow readers and reset connections go on while rules, certificates, CA bundles and the password are
//! replaced every ten seconds.
//!
//! It exits with 1 if a call has not ended as expected, if memory, descriptors or threads have grown (`samples.rs`), or if a
//! gateway does not come back to its descriptors after the load. Loopback only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing
)]

mod client;
#[path = "../common/mod.rs"]
mod common;
mod kinds;
mod load;
mod samples;
mod tally;
mod target;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use common::process::raise_descriptor_limit;
use samples::Samples;
use tally::Tally;
use target::Target;
use tokio::time::{Instant, MissedTickBehavior, interval};

#[derive(Parser)]
#[command(about = "A long run of mixed load, with memory, descriptors and threads flat at its end")]
struct Options {
    /// How long it takes.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Calls a second, of both gateways together.
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    raise_descriptor_limit();
    let files = Arc::new(target::Files::new());
    let targets = [Target::rules(&files).await, Target::keystone(&files).await].map(Arc::new);
    let tally = Arc::new(Tally::default());
    let mut samples = targets.each_ref().map(|target| Samples::new(&target.process));

    let load = load::Load::start(&targets, &files, &tally, options.rate);
    let end = Instant::now() + Duration::from_secs_f64(60.0 * options.minutes);
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for count in 0_u64.. {
        second.tick().await;
        if Instant::now() >= end {
            break;
        }
        for (target, samples) in targets.iter().zip(&mut samples) {
            samples.take(&target.process);
            target.process.empty_log();
        }
        if count > 0 && count % 60 == 0 {
            println!("minute {}: {}{}", count / 60, tally.line(), states(&targets, &samples));
        }
    }
    load.stop().await;

    println!("\n{tally}{}\n", states(&targets, &samples).trim_start_matches("; "));
    let mut is_flat = true;
    for (target, samples) in targets.iter().zip(&samples) {
        is_flat &= samples.judge(&target.process, target.name).await;
    }
    if is_flat && tally.is_as_expected() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The last sample of each gateway, and the tokens that it has got.
fn states(targets: &[Arc<Target>], samples: &[Samples]) -> String {
    let state = |(target, samples): (&Arc<Target>, &Samples)| {
        format!("; {}: {}, {} tokens", target.name, samples.last(), target.tokens())
    };
    targets.iter().zip(samples).map(state).collect()
}

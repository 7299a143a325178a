//! `cargo bench --bench growth`: how the cost of a call and the memory of the gateway grow with the calls in flight, the
//! connections, the size of the response, the length of the token, the rules, and the projects with tokens. It prints a table
//! and draws a plot (`--svg`). Loopback only; about six minutes. It needs two cores, as `benches/call` does.
//!
//! Each point has a separate gateway, whose memory is measured. The points of a series are measured alternately, so that a
//! temporary slowdown of the machine affects all of them alike.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
mod report;
mod series;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use common::plot;
use common::process::{output, pin, raise_descriptor_limit};
use common::tls::Pki;
use common::turn::{CALLER, Turn, middle, warm_up};
use report::{Curve, Report, Row};
use series::{Kind, Series};

#[derive(Parser)]
#[command(about = "How the cost of a call and the memory grow")]
struct Options {
    /// One series only.
    #[arg(long, value_enum)]
    only: Option<Kind>,
    /// Rounds; in each of them the points of a series take turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one turn.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Where the plot goes; without it, below `target`.
    #[arg(long, value_name = "PATH")]
    svg: Option<PathBuf>,
    /// Print JSON in place of the tables.
    #[arg(long)]
    json: bool,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    raise_descriptor_limit();
    pin(CALLER);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (pki, mut curves) = (Pki::new(), Vec::new());
    for kind in Kind::ALL {
        if options.only.is_none_or(|only| only == kind) {
            curves.push(runtime.block_on(async { measure(&options, kind.start(&pki).await).await }));
        }
    }
    let report = Report { curves };
    let plot = options.svg.clone().unwrap_or_else(|| output("growth.svg"));
    if let Some(folder) = plot.parent() {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(&plot, plot::svg(&report.charts(), 2)).unwrap();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap());
    } else {
        println!("{report}The plot: {}", plot.display());
    }
}

async fn measure(options: &Options, series: Series) -> Curve {
    for point in &series.points {
        warm_up(&point.callers, point.in_flight).await;
        point.callers.each_once(point.in_flight).await;
    }
    let time = Duration::from_secs_f64(options.seconds);
    let mut turns: Vec<Vec<Turn>> = series.points.iter().map(|_| Vec::new()).collect();
    for _ in 0..options.rounds {
        for (point, turns) in series.points.iter().zip(&mut turns) {
            turns.push(Turn::saturate(&point.gateway, &point.callers, point.in_flight, time).await);
        }
    }
    let row = |(point, turns): (&series::Point, &Vec<Turn>)| Row {
        x: point.x,
        cpu_us: middle(turns, |turn| turn.cpu),
        memory_mib: point.gateway.memory(),
    };
    let rows = series.points.iter().zip(&turns).map(row).collect();
    Curve { title: series.title, x: series.x, rows }
}

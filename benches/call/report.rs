//! What was measured, as tables, as JSON and as a plot.

use std::fmt;

use serde::Serialize;

use crate::common::plot::{Chart, Line, Scale};
use crate::common::turn::quantiles;

#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) shapes: Vec<Cost>,
    pub(crate) latencies: Vec<Latency>,
    pub(crate) memory: Memory,
    /// KiB of a connection without calls.
    pub(crate) idle_connection: Sides<f64>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) tls: Tls,
    /// Milliseconds from the start of the process to the first answer.
    pub(crate) started: f64,
    pub(crate) cores: Vec<Cores>,
    pub(crate) ids: Vec<Varied>,
}

/// The same of both programs.
#[derive(Serialize)]
pub(crate) struct Sides<T> {
    pub(crate) gateway: T,
    pub(crate) floor: T,
}

impl<T> Sides<T> {
    pub(crate) fn each<R>(&self, of: impl Fn(&T) -> R) -> Sides<R> {
        Sides { gateway: of(&self.gateway), floor: of(&self.floor) }
    }
}

/// One call, with so many under way at a time.
#[derive(Serialize)]
pub(crate) struct Cost {
    pub(crate) in_flight: usize,
    pub(crate) connections: usize,
    pub(crate) cpu_us: Sides<f64>,
    pub(crate) cpu_ratio: f64,
    pub(crate) context_switches: Sides<f64>,
    pub(crate) calls_per_second: Sides<f64>,
    /// p50, p90, p99, p99.9.
    pub(crate) latency_ms: Sides<[f64; 4]>,
}

/// One call, at a rate.
#[derive(Serialize)]
pub(crate) struct Latency {
    /// Of what the gateway can carry.
    pub(crate) fraction: f64,
    pub(crate) calls_per_second: f64,
    /// The share of the calls that was not refused.
    pub(crate) answered: Sides<f64>,
    /// p50, p90, p99, p99.9.
    pub(crate) latency_ms: Sides<[f64; 4]>,
    pub p99_ratio: f64,
}

/// In MiB.
#[derive(Serialize)]
pub(crate) struct Memory {
    pub(crate) idle: Sides<f64>,
    /// Of other processes, with 128 calls in flight on 500 connections.
    pub(crate) crowded: Sides<f64>,
    pub(crate) after: Sides<f64>,
}

/// CPU of a call in microseconds with one worker and with two, and how much more two can carry.
#[derive(Serialize)]
pub(crate) struct Cores {
    pub(crate) connections: usize,
    pub(crate) one_us: f64,
    pub(crate) two_us: f64,
    pub(crate) factor: f64,
}

/// Calls that end in some way.
#[derive(Serialize)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    /// Requests to the upstream for a call.
    pub(crate) attempts: f64,
    pub(crate) cpu_us: f64,
    /// To calls that succeed.
    pub(crate) cpu_ratio: f64,
}

/// CPU of a call with TLS on both sides and without.
#[derive(Serialize)]
pub(crate) struct Tls {
    pub(crate) plain_us: f64,
    pub(crate) tls_us: f64,
    pub(crate) cpu_ratio: f64,
}

/// After so many calls, each for another share.
#[derive(Serialize)]
pub(crate) struct Varied {
    pub(crate) calls: usize,
    pub(crate) cpu_us: f64,
    pub(crate) memory_mib: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "One core, as many calls as it answers. Latency is p50 / p90 / p99 / p99.9 in ms.\n")?;
        writeln!(
            f,
            "| in flight | connections | CPU µs a call: gateway | floor | ratio | context switches a call: gateway | floor | calls/s: gateway | floor | latency: gateway | floor |"
        )?;
        writeln!(f, "|{}", "---|".repeat(11))?;
        for cost in &self.shapes {
            writeln!(
                f,
                "| {} | {} | {:.1} | {:.1} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {} | {} |",
                cost.in_flight,
                cost.connections,
                cost.cpu_us.gateway,
                cost.cpu_us.floor,
                cost.cpu_ratio,
                cost.context_switches.gateway,
                cost.context_switches.floor,
                cost.calls_per_second.gateway,
                cost.calls_per_second.floor,
                quantiles(&cost.latency_ms.gateway),
                quantiles(&cost.latency_ms.floor),
            )?;
        }
        self.at_a_rate(f)?;
        self.process(f)?;
        self.of_gateway(f)
    }
}

impl Report {
    fn at_a_rate(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nOne core, calls offered at a rate, whether earlier ones have been answered or not.\n"
        )?;
        writeln!(
            f,
            "| of what the gateway carries | calls/s | answered: gateway | floor | latency: gateway | floor | p99, ratio |"
        )?;
        writeln!(f, "|{}", "---|".repeat(7))?;
        for row in &self.latencies {
            let (gateway, floor) = (quantiles(&row.latency_ms.gateway), quantiles(&row.latency_ms.floor));
            let percent = 100.0 * row.fraction;
            writeln!(
                f,
                "| {percent:.0} % | {:.0} | {:.1} % | {:.1} % | {gateway} | {floor} | {:.2} |",
                row.calls_per_second,
                100.0 * row.answered.gateway,
                100.0 * row.answered.floor,
                row.p99_ratio
            )?;
        }
        Ok(())
    }

    fn process(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Memory { idle, crowded, after } = &self.memory;
        writeln!(f, "\n| | gateway | floor | ratio |\n|---|---|---|---|")?;
        let rows = [
            ("idle", idle),
            ("128 in flight on 500 connections and nothing before", crowded),
            ("after all of the above", after),
        ];
        for (what, memory) in rows {
            let ratio = memory.gateway / memory.floor;
            writeln!(
                f,
                "| memory, {what}, MiB | {:.1} | {:.1} | {ratio:.2} |",
                memory.gateway, memory.floor
            )?;
        }
        let Sides { gateway, floor } = &self.idle_connection;
        writeln!(
            f,
            "| memory of each of 10,000 idle connections, KiB | {gateway:.1} | {floor:.1} | {:.2} |",
            gateway / floor
        )
    }

    fn of_gateway(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nStart of the process to the first answer: {:.1} ms.", self.started)?;
        writeln!(
            f,
            "\n| 128 in flight on 8 connections | attempts | CPU µs a call | to a success |\n|---|---|---|---|"
        )?;
        for Outcome { name, attempts, cpu_us, cpu_ratio } in &self.outcomes {
            writeln!(f, "| {name} | {attempts:.2} | {cpu_us:.1} | {cpu_ratio:.2} |")?;
        }
        let Tls { plain_us, tls_us, cpu_ratio } = &self.tls;
        writeln!(
            f,
            "| success, TLS on both sides ({plain_us:.1} µs without) | 1.00 | {tls_us:.1} | {cpu_ratio:.2} |"
        )?;
        writeln!(
            f,
            "\n| 128 in flight, connections | CPU µs a call: one worker | two | two cores carry |\n|---|---|---|---|"
        )?;
        for Cores { connections, one_us, two_us, factor } in &self.cores {
            writeln!(f, "| {connections} | {one_us:.1} | {two_us:.1} | {factor:.2} times as much |")?;
        }
        writeln!(
            f,
            "\nEach call for another share:\n\n| calls so far | CPU µs a call | memory, MiB |\n|---|---|---|"
        )?;
        self.ids
            .iter()
            .try_for_each(|row| writeln!(f, "| {} | {:.1} | {:.1} |", row.calls, row.cpu_us, row.memory_mib))
    }

    /// p50 and p99 against the offered rate.
    pub(crate) fn latency_chart(&self) -> Chart {
        let line = |name: &str, of: fn(&Latency) -> f64| Line {
            name: name.to_owned(),
            points: self.latencies.iter().map(|row| (row.calls_per_second, of(row))).collect(),
        };
        Chart {
            title: "Latency against the offered rate".to_owned(),
            x: "calls/s".to_owned(),
            scale: Scale::Linear,
            y: "ms".to_owned(),
            lines: vec![
                line("gateway, p50", |row| row.latency_ms.gateway[0]),
                line("floor, p50", |row| row.latency_ms.floor[0]),
                line("gateway, p99", |row| row.latency_ms.gateway[2]),
                line("floor, p99", |row| row.latency_ms.floor[2]),
            ],
        }
    }
}

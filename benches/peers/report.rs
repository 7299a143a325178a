//! What was measured, as tables and as JSON.

use std::fmt;

use serde::Serialize;

use crate::common::turn::quantiles;

#[derive(Serialize)]
pub(crate) struct Report {
    /// Its version.
    pub(crate) envoy: String,
    pub(crate) shapes: Vec<Shape>,
    pub(crate) memory_mib: Memory,
}

/// The same of all of them.
#[derive(Serialize)]
pub(crate) struct Sides<T> {
    pub(crate) gateway: T,
    pub(crate) envoy: T,
    /// Envoy with an access log.
    pub(crate) logging: T,
    pub(crate) floor: T,
}

impl<T> Sides<T> {
    pub(crate) fn each<R>(&self, of: impl Fn(&T) -> R) -> Sides<R> {
        Sides {
            gateway: of(&self.gateway),
            envoy: of(&self.envoy),
            logging: of(&self.logging),
            floor: of(&self.floor),
        }
    }
}

/// So many calls under way at a time.
#[derive(Serialize)]
pub(crate) struct Shape {
    pub(crate) in_flight: usize,
    pub(crate) connections: usize,
    pub(crate) sides: Sides<Cost>,
    /// The gateway's CPU of a call to theirs.
    pub(crate) cpu_to_envoy: f64,
    pub(crate) cpu_to_logging: f64,
    pub(crate) cpu_to_floor: f64,
}

/// One call, on one side.
#[derive(Serialize)]
pub(crate) struct Cost {
    pub(crate) cpu_us: f64,
    pub(crate) calls_per_second: f64,
    /// p50, p90, p99, p99.9.
    pub(crate) latency_ms: [f64; 4],
}

#[derive(Serialize)]
pub(crate) struct Memory {
    pub(crate) idle: Sides<f64>,
    pub(crate) after: Sides<f64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Envoy {}. One core. Latency is p50 / p90 / p99 / p99.9 in ms.\n", self.envoy)?;
        writeln!(
            f,
            "| in flight | connections | | CPU µs a call | the gateway's to it | calls/s | latency |"
        )?;
        writeln!(f, "|{}", "---|".repeat(7))?;
        for shape in &self.shapes {
            let Sides { gateway, envoy, logging, floor } = &shape.sides;
            let rows = [
                ("gateway", gateway, 1.0),
                ("Envoy", envoy, shape.cpu_to_envoy),
                ("Envoy, access log", logging, shape.cpu_to_logging),
                ("floor", floor, shape.cpu_to_floor),
            ];
            for (side, cost, ratio) in rows {
                writeln!(
                    f,
                    "| {} | {} | {side} | {:.1} | {ratio:.2} | {:.0} | {} |",
                    shape.in_flight,
                    shape.connections,
                    cost.cpu_us,
                    cost.calls_per_second,
                    quantiles(&cost.latency_ms),
                )?;
            }
        }
        writeln!(f, "\n| memory, MiB | gateway | Envoy | with access log | floor |\n|---|---|---|---|---|")?;
        let Memory { idle, after } = &self.memory_mib;
        for (what, Sides { gateway, envoy, logging, floor }) in
            [("idle", idle), ("after all of the above", after)]
        {
            writeln!(f, "| {what} | {gateway:.1} | {envoy:.1} | {logging:.1} | {floor:.1} |")?;
        }
        Ok(())
    }
}

//! What was measured, as tables and as JSON.

use std::fmt;

use serde::Serialize;

use crate::common::turn::quantiles;

#[derive(Serialize)]
pub(crate) struct Report {
    /// Of Envoy and Go.
    pub(crate) versions: Vec<String>,
    pub(crate) shapes: Vec<Shape>,
    pub(crate) memory: Vec<Memory>,
}

/// So many calls in flight.
#[derive(Serialize)]
pub(crate) struct Shape {
    pub(crate) in_flight: usize,
    pub(crate) connections: usize,
    /// The gateway's comes first.
    pub(crate) costs: Vec<Cost>,
}

/// One call, in one program.
#[derive(Serialize)]
pub(crate) struct Cost {
    pub(crate) name: &'static str,
    pub(crate) cpu_us: f64,
    /// The gateway's CPU of a call to that of this program.
    pub(crate) gateway_to_it: f64,
    pub(crate) calls_per_second: f64,
    /// p50, p90, p99, p99.9.
    pub(crate) latency_ms: [f64; 4],
}

#[derive(Serialize)]
pub(crate) struct Memory {
    pub(crate) name: &'static str,
    pub(crate) idle_mib: f64,
    /// After all calls.
    pub(crate) after_mib: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let versions = self.versions.join(", ");
        writeln!(f, "{versions}. One core. Latency is p50 / p90 / p99 / p99.9 in ms.\n")?;
        writeln!(
            f,
            "| in flight | connections | | CPU µs a call | the gateway's to it | calls/s | latency |"
        )?;
        writeln!(f, "|{}", "---|".repeat(7))?;
        for Shape { in_flight, connections, costs } in &self.shapes {
            for cost in costs {
                writeln!(
                    f,
                    "| {in_flight} | {connections} | {} | {:.1} | {:.2} | {:.0} | {} |",
                    cost.name,
                    cost.cpu_us,
                    cost.gateway_to_it,
                    cost.calls_per_second,
                    quantiles(&cost.latency_ms),
                )?;
            }
        }
        writeln!(f, "\n| memory, MiB | idle | after all of the above |\n|---|---|---|")?;
        for Memory { name, idle_mib, after_mib } in &self.memory {
            writeln!(f, "| {name} | {idle_mib:.1} | {after_mib:.1} |")?;
        }
        Ok(())
    }
}

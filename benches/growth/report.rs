//! What was measured, as tables, as JSON and as charts.

use std::fmt;

use serde::Serialize;

use crate::common::plot::{Chart, Line, Scale};

#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) curves: Vec<Curve>,
}

#[derive(Serialize)]
pub(crate) struct Curve {
    pub(crate) title: &'static str,
    /// What `x` of the rows is.
    pub(crate) x: &'static str,
    pub(crate) rows: Vec<Row>,
}

#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) x: usize,
    /// Of a call.
    pub(crate) cpu_us: f64,
    pub(crate) memory_mib: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Curve { title, x, rows } in &self.curves {
            writeln!(
                f,
                "{title}:\n\n| {x} | CPU µs a call | to the first | memory, MiB |\n|---|---|---|---|"
            )?;
            for Row { x, cpu_us, memory_mib } in rows {
                writeln!(f, "| {x} | {cpu_us:.1} | {:.2} | {memory_mib:.1} |", cpu_us / rows[0].cpu_us)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Report {
    /// Two for each curve: CPU and memory.
    pub(crate) fn charts(&self) -> Vec<Chart> {
        self.curves
            .iter()
            .flat_map(|curve| {
                [
                    curve.chart("CPU of a call, µs", |row| row.cpu_us),
                    curve.chart("memory, MiB", |row| row.memory_mib),
                ]
            })
            .collect()
    }
}

impl Curve {
    fn chart(&self, y: &str, of: fn(&Row) -> f64) -> Chart {
        let points = self.rows.iter().map(|row| (row.x as f64, of(row))).collect();
        Chart {
            title: self.title.to_owned(),
            x: self.x.to_owned(),
            scale: Scale::Logarithmic,
            y: y.to_owned(),
            lines: vec![Line { name: String::new(), points }],
        }
    }
}

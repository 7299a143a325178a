//! The OTLP export of spans.

mod exporter;

pub use exporter::{Config, Exporter};

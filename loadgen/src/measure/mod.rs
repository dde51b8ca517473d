//! Measurements: samples of rounds, and the medians that are reported.

mod quantity;
mod sample;

pub use quantity::{Quantity, Spread, Unit};
pub use sample::{Figure, Measured, Sample, Unfinished};

/// Returns the load average of the last minute, for the report: on a busy machine throughput and latency get worse,
/// and CPU time per request a little.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

//! What was measured: samples of rounds, and the medians that are reported.

mod quantity;
mod sample;

pub use quantity::{Quantity, Spread, Unit};
pub use sample::{Figure, Measured, Sample, Unfinished};

/// The average number of runnable threads of the last minute, for the report: a busy machine
/// makes throughput and latency worse, and CPU per request a little.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

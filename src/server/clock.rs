//! The workers' clock.

use std::time::Instant;

/// A source of the present time: `Instant::now`, or virtual time in a simulation.
pub type Clock = fn() -> Instant;

//! Reproducible randomness: a test prints its seed, and `XENSTORED_SEED` replays it.

/// A generator of pseudo-random numbers. A seed gives the same numbers on every machine until another version of
/// `fastrand` is locked.
pub struct Random(fastrand::Rng);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(fastrand::Rng::with_seed(seed))
    }

    /// Returns a number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.usize(..bound)
    }

    pub fn byte(&mut self) -> u8 {
        self.0.u8(..)
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Returns true in `percent` of a hundred cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Returns the seeds to run: the one of `XENSTORED_SEED`, or the first `count`.
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("XENSTORED_SEED") {
        Ok(seed) => vec![seed.parse().expect("XENSTORED_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

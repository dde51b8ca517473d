//! Numbers in no order, the same in every run.

/// A generator of pseudo-random numbers. A seed gives the same numbers until another version of
/// `fastrand` is locked.
#[derive(Clone, Debug)]
pub struct Random(fastrand::Rng);

impl Random {
    /// One that differs for each seed.
    pub fn new(seed: u64) -> Random {
        Random(fastrand::Rng::with_seed(seed))
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0.usize(..limit)
    }

    /// Whether something happens that happens so often of a hundred times.
    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    /// One of these, of which there is one at least.
    pub fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

//! Reproducible randomness: a test prints its seed, and `XENSTORED_SEED` plays it again.

/// xorshift64*: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        // Neighbouring seeds must not begin alike, and zero is the generator's fixed point.
        Random((seed.wrapping_add(1)).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap();
        usize::try_from((self.next() >> 11) % bound).unwrap()
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// The seeds to run: the one of `XENSTORED_SEED`, or the first `count`.
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("XENSTORED_SEED") {
        Ok(seed) => vec![seed.parse().expect("XENSTORED_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

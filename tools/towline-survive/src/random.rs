//! Choices: the same seed gives the same ones.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

pub(crate) struct Random(SmallRng);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(SmallRng::seed_from_u64(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.random()
    }

    /// Below the limit; 0 where that is 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0.random_range(0..limit.max(1))
    }
}

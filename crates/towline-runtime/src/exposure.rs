//! How exposure was distributed: a histogram with fixed buckets, so that counting costs no allocation.

use serde::{Deserialize, Serialize};

/// Upper bounds of the buckets, inclusive, in bytes; what lies above the last is in a bucket of its own.
pub const EXPOSURE_BOUNDS_BYTES: [u64; 12] = [
    0,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
    64 << 20,
    256 << 20,
    1 << 30,
];

/// Exposure of one stage, observed at the end of every turn that acknowledged something: that is when it is largest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ExposureHistogram {
    /// Observations per bucket of [`EXPOSURE_BOUNDS_BYTES`], then those above all bounds.
    pub counts: [u64; EXPOSURE_BOUNDS_BYTES.len() + 1],
    /// Sum of all observations, bytes.
    pub sum_bytes: u64,
}

impl ExposureHistogram {
    pub(crate) fn observe(&mut self, bytes: u64) {
        let bucket = EXPOSURE_BOUNDS_BYTES.partition_point(|bound| *bound < bytes);
        self.counts[bucket] += 1;
        self.sum_bytes = self.sum_bytes.saturating_add(bytes);
    }

    /// Observations in all buckets.
    pub fn observations(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let mut histogram = ExposureHistogram::default();
        for (bytes, bucket) in
            [(0, 0), (1, 1), (1024, 1), (1025, 2), (1 << 30, 11), ((1 << 30) + 1, 12), (u64::MAX, 12)]
        {
            let before = histogram.counts[bucket];
            histogram.observe(bytes);
            assert_eq!(histogram.counts[bucket], before + 1, "{bytes}");
        }
        assert_eq!((histogram.observations(), histogram.sum_bytes), (7, u64::MAX));
    }
}

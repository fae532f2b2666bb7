//! Intended start times of an open load. They depend on the rate and the seed alone, never on how the log does.

use crate::plan::Arrivals;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// An endless series of start times, ns from the start of the load.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    mean_ns: f64,
    arrivals: Arrivals,
    rng: SmallRng,
    /// In whole and part: a constant load of 3 per µs must not drift.
    next_ns: f64,
    /// How many of the burst have been due.
    in_burst: u32,
}

impl Schedule {
    pub(crate) fn new(rate_per_s: f64, arrivals: Arrivals, seed: u64) -> Self {
        Self {
            mean_ns: 1e9 / rate_per_s,
            arrivals,
            rng: SmallRng::seed_from_u64(seed),
            next_ns: 0.0,
            in_burst: 0,
        }
    }
}

impl Iterator for Schedule {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let due_ns = self.next_ns as u64;
        // 1 − u is never 0, so the logarithm is finite.
        let mut exponential = |mean_ns: f64| -mean_ns * (1.0 - self.rng.random::<f64>()).ln();
        self.next_ns += match self.arrivals {
            Arrivals::Constant => self.mean_ns,
            Arrivals::Poisson => exponential(self.mean_ns),
            Arrivals::Bursts(count) => {
                self.in_burst += 1;
                if self.in_burst < count {
                    0.0
                } else {
                    self.in_burst = 0;
                    exponential(self.mean_ns * f64::from(count))
                }
            }
        };
        Some(due_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(arrivals: Arrivals, seed: u64, n: usize) -> Vec<u64> {
        Schedule::new(1000.0, arrivals, seed).take(n).collect()
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_and_do_not_drift() {
        assert_eq!(starts(Arrivals::Constant, 1, 3), [0, 1_000_000, 2_000_000]);
        let last = Schedule::new(3_000_000.0, Arrivals::Constant, 1).nth(3_000_000).unwrap();
        assert!(last.abs_diff(1_000_000_000) < 1_000, "{last}");
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_an_exponential() {
        let starts = starts(Arrivals::Poisson, 7, 100_001);
        assert!(starts.is_sorted());
        let gaps: Vec<f64> = starts.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean / 1e6 - 1.0).abs() < 0.02, "mean {mean}");
        // An exponential's standard deviation is its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "deviation {}", variance.sqrt());
    }

    #[test]
    fn bursts_are_due_at_once_and_keep_the_rate() {
        let starts = starts(Arrivals::Bursts(8), 3, 80_000);
        for burst in starts.chunks(8) {
            assert!(burst.iter().all(|due| due == &burst[0]), "{burst:?}");
        }
        let distinct = starts.chunks(8).map(|burst| burst[0]).collect::<std::collections::BTreeSet<_>>();
        assert!(distinct.len() > 9_990, "{}", distinct.len());
        let rate_per_s = 80_000.0 / (starts[79_999] as f64 / 1e9);
        assert!((rate_per_s / 1000.0 - 1.0).abs() < 0.05, "{rate_per_s}");
    }

    #[test]
    fn the_same_seed_gives_the_same_load_and_another_one_does_not() {
        assert_eq!(starts(Arrivals::Poisson, 3, 50), starts(Arrivals::Poisson, 3, 50));
        assert_ne!(starts(Arrivals::Poisson, 3, 50), starts(Arrivals::Poisson, 4, 50));
    }
}

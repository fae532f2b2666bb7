//! Medians, spreads, paired ratios, bootstrap intervals, and the merging of histograms.
//!
//! Percentiles are never averaged: within a repetition they come from one merged histogram; over repetitions the
//! median repetition stands, with its spread.

use crate::schema::{Interval, LatencyNs, Spread};
use hdrhistogram::Histogram;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// The seed of every bootstrap: the same figures give the same interval.
const BOOTSTRAP_SEED: u64 = 0x70_77_6c_69_6e_65;
/// Resamples of a bootstrap.
const RESAMPLES: usize = 2_000;
/// Fewer pairs of repetitions carry no claim.
pub const ENOUGH_PAIRS: usize = 5;

/// A sample of few values, one per repetition.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// How many values.
    pub count: usize,
    /// Middle value; the mean of the middle two where there is an even number.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
    /// Lower quartile.
    pub q1: f64,
    /// Upper quartile.
    pub q3: f64,
}

impl Summary {
    /// `None` for no values; values that are no numbers are left out.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        Some(Self {
            count: values.len(),
            median: quantile_of_sorted(&values, 0.5),
            min,
            max,
            q1: quantile_of_sorted(&values, 0.25),
            q3: quantile_of_sorted(&values, 0.75),
        })
    }

    /// Interquartile range.
    pub fn iqr(&self) -> f64 {
        self.q3 - self.q1
    }

    /// From the smallest to the largest.
    pub fn range(&self) -> Interval {
        Interval { low: self.min, high: self.max }
    }
}

/// The middle value, `None` for none.
pub fn median(values: &[f64]) -> Option<f64> {
    Summary::of(values.iter().copied()).map(|summary| summary.median)
}

/// Ratios of two measurements taken side by side, repetition by repetition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedRatio {
    /// Of the ratios.
    pub summary: Summary,
    /// 95 % bootstrap interval of their median.
    pub interval: Interval,
}

impl PairedRatio {
    /// `above[i] / below[i]`; `None` unless both have the same length and at least one pair with `below > 0`.
    pub fn of(above: &[f64], below: &[f64]) -> Option<Self> {
        if above.len() != below.len() {
            return None;
        }
        let pairs = above.iter().zip(below).filter(|(_, below)| **below > 0.0);
        let ratios: Vec<f64> = pairs.map(|(above, below)| above / below).collect();
        Some(Self {
            summary: Summary::of(ratios.iter().copied())?,
            interval: bootstrap_median(&ratios, 0.95)?,
        })
    }

    /// A difference may be claimed: the interval excludes 1, and there were enough repetitions for one.
    pub fn differs(&self) -> bool {
        self.summary.count >= ENOUGH_PAIRS && (self.interval.low > 1.0 || self.interval.high < 1.0)
    }
}

/// Bootstrap interval of the median over repetitions, by resampling with a fixed seed. `None` for no values.
pub fn bootstrap_median(values: &[f64], confidence: f64) -> Option<Interval> {
    if values.is_empty() {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(BOOTSTRAP_SEED);
    let mut resample = vec![0.0; values.len()];
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            resample.fill_with(|| values[rng.random_range(0..values.len())]);
            resample.sort_by(f64::total_cmp);
            quantile_of_sorted(&resample, 0.5)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence.clamp(0.0, 1.0)) / 2.0;
    Some(Interval { low: quantile_of_sorted(&medians, tail), high: quantile_of_sorted(&medians, 1.0 - tail) })
}

/// All recorded values of all histograms in one, with three digits. Values out of range are kept at the limit.
pub fn merge<'a>(histograms: impl IntoIterator<Item = &'a Histogram<u64>>) -> Histogram<u64> {
    let mut merged = new_histogram();
    for histogram in histograms {
        for value in histogram.iter_recorded() {
            merged.saturating_record_n(value.value_iterated_to(), value.count_since_last_iteration());
        }
    }
    merged
}

/// An empty histogram as this project records latencies: 1 ns to 1 hour, three digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3)
        .expect("the bounds are constants: the low one at least 1, the high one twice that, digits up to 5")
}

/// The quantiles that every point carries.
pub fn latency_of(histogram: &Histogram<u64>) -> LatencyNs {
    LatencyNs {
        p50: histogram.value_at_quantile(0.5),
        p90: histogram.value_at_quantile(0.9),
        p99: histogram.value_at_quantile(0.99),
        p999: histogram.value_at_quantile(0.999),
        max: histogram.max(),
        samples: histogram.len(),
    }
}

/// The quantiles of a gauge.
pub fn spread_of(histogram: &Histogram<u64>) -> Spread {
    Spread {
        p50: histogram.value_at_quantile(0.5),
        p99: histogram.value_at_quantile(0.99),
        max: histogram.max(),
    }
}

/// Linear between neighbours; `sorted` holds at least one value.
fn quantile_of_sorted(sorted: &[f64], quantile: f64) -> f64 {
    let place = quantile * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_known_values() {
        let summary = Summary::of([5.0, 1.0, 4.0, 2.0, 3.0, f64::NAN]).unwrap();
        assert_eq!((summary.count, summary.median, summary.min, summary.max), (5, 3.0, 1.0, 5.0));
        assert_eq!((summary.q1, summary.q3, summary.iqr()), (2.0, 4.0, 2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert!(Summary::of([]).is_none());
    }

    #[test]
    fn paired_ratios_cancel_what_moves_both() {
        // The machine slows down by half over the run; the ratio stays 1.2.
        let below: Vec<f64> = (0..10).map(|n| 100.0 + 10.0 * f64::from(n)).collect();
        let above: Vec<f64> = below.iter().map(|value| 1.2 * value).collect();
        let ratio = PairedRatio::of(&above, &below).unwrap();
        assert!((ratio.summary.median - 1.2).abs() < 1e-9);
        assert!(ratio.interval.high - ratio.interval.low < 1e-9 && ratio.differs());
        assert!(PairedRatio::of(&above, &below[1..]).is_none());
        assert!(PairedRatio::of(&[1.0], &[0.0]).is_none());
    }

    #[test]
    fn noise_around_one_is_no_difference() {
        let above = [1.04, 0.96, 1.02, 0.98, 1.01, 0.99, 1.03, 0.97, 1.0, 1.0];
        let ratio = PairedRatio::of(&above, &[1.0; 10]).unwrap();
        assert!(!ratio.differs(), "{ratio:?}");
    }

    #[test]
    fn the_bootstrap_covers_the_median_and_repeats_itself() {
        let values: Vec<f64> = (1..=21).map(f64::from).collect();
        let interval = bootstrap_median(&values, 0.95).unwrap();
        assert!(interval.low > 4.0 && interval.low < 11.0 && interval.high > 11.0 && interval.high < 18.0);
        assert_eq!(bootstrap_median(&values, 0.95), Some(interval));
        assert_eq!(bootstrap_median(&[7.0], 0.95), Some(Interval { low: 7.0, high: 7.0 }));
    }

    #[test]
    fn merged_percentiles_are_those_of_all_samples_and_not_their_mean() {
        let (mut fast, mut slow) = (new_histogram(), new_histogram());
        (0..990).for_each(|_| fast.record(100).unwrap());
        (0..10).for_each(|_| slow.record(10_000).unwrap());
        let merged = merge([&fast, &slow]);
        let latency = latency_of(&merged);
        assert_eq!((latency.samples, latency.p50, latency.p99), (1000, 100, 100));
        assert!(latency.p999 >= 10_000 && latency.p999 < 10_020);
        assert!(latency.max >= 10_000);
    }
}

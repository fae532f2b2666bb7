//! A series of figures in the order they were measured: where it becomes steady, and whether its values hang together.

use crate::stats::median;

/// Pearson's correlation of each value with the one before it. `None` for fewer than three values or equal ones.
///
/// Near 0: each value tells something new. Near 1: the series drifts, and an interval over it is too narrow.
pub fn lag1_autocorrelation(values: &[f64]) -> Option<f64> {
    if values.len() < 3 || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let mean = mean(values);
    let variance: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let shared: f64 = values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum();
    (variance > 0.0).then(|| shared / variance)
}

/// The autocorrelation that independent values stay below in 95 of 100 series of this length: 2 / √n.
pub fn autocorrelation_bound(count: usize) -> f64 {
    2.0 / (count.max(1) as f64).sqrt()
}

/// How many values at the start belong to the warm-up: the cut that leaves the mean of the rest with the smallest
/// standard error (the rule MSER: variance of the rest over its length), looked for in the first half.
///
/// `None`: there is no such cut, so the series does not become steady, or it has fewer than [`ENOUGH_VALUES`].
pub fn steady_from(values: &[f64]) -> Option<usize> {
    if values.len() < ENOUGH_VALUES || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let error = |cut: usize| {
        let rest = &values[cut..];
        let mean = mean(rest);
        rest.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (rest.len() as f64).powi(2)
    };
    // Into the second half too: a series whose best cut lies there was not steady when it ended.
    let last = values.len() - ENOUGH_VALUES / 2;
    let best = (0..=last).min_by(|a, b| error(*a).total_cmp(&error(*b)))?;
    (best <= values.len() / 2).then_some(best)
}

/// How far the start of a series lies off the rest: the median of its first quarter over that of the rest, where the
/// two differ by more than chance (the rank test of Mann and Whitney, two-sided 1 %) and by more than a tenth.
///
/// `None`: they do not differ, so the warm-up was long enough and nothing drifted far; or there are fewer than twice
/// [`ENOUGH_VALUES`].
pub fn start_over_rest(values: &[f64]) -> Option<f64> {
    if values.len() < 2 * ENOUGH_VALUES || values.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let (start, rest) = values.split_at(values.len() / 4);
    // How often a value of the start lies above one of the rest; ties count half.
    let above: f64 = start
        .iter()
        .flat_map(|one| rest.iter().map(move |other| one.total_cmp(other)))
        .map(|order| [0.0, 0.5, 1.0][(order as i8 + 1) as usize])
        .sum();
    let (m, n) = (start.len() as f64, rest.len() as f64);
    let deviations = (above - m * n / 2.0).abs() / (m * n * (m + n + 1.0) / 12.0).sqrt();
    let ratio = median(start)? / median(rest).filter(|rest| *rest > 0.0)?;
    (deviations > BEYOND_CHANCE && (ratio - 1.0).abs() > NEGLIGIBLE).then_some(ratio)
}

/// Standard deviations that chance exceeds once in a hundred, either way.
const BEYOND_CHANCE: f64 = 2.576;
/// A difference of a tenth is no reason to distrust a figure.
const NEGLIGIBLE: f64 = 0.1;
/// Fewer values say nothing about where a series becomes steady.
pub const ENOUGH_VALUES: usize = 10;

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::ChaCha8Rng;
    use rand::{RngExt, SeedableRng};

    fn noise(seed: u64, count: usize) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| rng.random_range(-1.0..1.0f64)).collect()
    }

    #[test]
    fn independent_values_are_below_the_bound_and_a_walk_is_above() {
        let below =
            |seed| lag1_autocorrelation(&noise(seed, 100)).unwrap().abs() < autocorrelation_bound(100);
        let kept = (0..200).filter(|seed| below(*seed)).count();
        assert!((180..=199).contains(&kept), "95 of 100 by design, {kept} of 200 here");
        let walk: Vec<f64> = noise(1, 100)
            .iter()
            .scan(0.0, |sum, step| {
                *sum += step;
                Some(*sum)
            })
            .collect();
        assert!(lag1_autocorrelation(&walk).unwrap() > 0.8);
    }

    #[test]
    fn known_autocorrelations() {
        // x_t = 0.6 x_{t-1} + e_t has 0.6.
        let series: Vec<f64> = noise(3, 20_000)
            .iter()
            .scan(0.0, |value, shock| {
                *value = 0.6 * *value + shock;
                Some(*value)
            })
            .collect();
        assert!((lag1_autocorrelation(&series).unwrap() - 0.6).abs() < 0.02);
        let alternating: Vec<f64> = (0..100).map(|n| f64::from(n % 2)).collect();
        assert!(lag1_autocorrelation(&alternating).unwrap() < -0.95);
        assert_eq!(lag1_autocorrelation(&[5.0; 9]), None);
        assert_eq!(lag1_autocorrelation(&[1.0, 2.0]), None);
    }

    #[test]
    fn a_warm_up_of_known_length_is_cut_off() {
        for (seed, warm_up) in [(1, 12usize), (2, 20), (3, 30)] {
            let mut values: Vec<f64> = noise(seed, 100).iter().map(|noise| 100.0 + noise).collect();
            for (index, value) in values.iter_mut().take(warm_up).enumerate() {
                *value += 50.0 * (1.0 - index as f64 / warm_up as f64);
            }
            let found = steady_from(&values).unwrap();
            // The last of a decay is lost in the noise.
            assert!(found + 3 >= warm_up && found <= warm_up + 3, "{found} for {warm_up}");
        }
    }

    #[test]
    fn a_steady_series_loses_little_and_a_ramp_never_gets_steady() {
        let small =
            (0..20).filter(|seed| steady_from(&noise(*seed, 100)).is_some_and(|cut| cut <= 25)).count();
        assert!(small >= 14, "{small} of 20");
        let ramp: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(steady_from(&ramp), None);
        assert_eq!(steady_from(&[1.0; 9]), None, "too short to say");
        assert_eq!(steady_from(&[1.0; 10]), Some(0));
    }

    #[test]
    fn a_start_that_differs_is_found_with_its_size() {
        // Twenty parts of 100 with a spread of 5, the first quarter slower by a known share.
        for share in [1.3, 2.0, 0.7] {
            let found = (0..200)
                .filter_map(|seed| {
                    let mut values: Vec<f64> =
                        noise(seed, 20).iter().map(|noise| 100.0 + 5.0 * noise).collect();
                    values[..5].iter_mut().for_each(|value| *value *= share);
                    start_over_rest(&values)
                })
                .collect::<Vec<_>>();
            assert!(found.len() >= 195, "{} of 200 at {share}", found.len());
            let middle = median(&found).unwrap();
            assert!((middle / share - 1.0).abs() < 0.05, "{middle} for {share}");
        }
        // A warm-up that ends within the first quarter still shows; a ramp too.
        let warm: Vec<f64> = (0..20).map(|part| if part < 4 { 200.0 } else { 100.0 }).collect();
        assert_eq!(start_over_rest(&warm), Some(2.0));
        let ramp: Vec<f64> = (0..20).map(|part| 100.0 + 10.0 * f64::from(part)).collect();
        assert!(start_over_rest(&ramp).unwrap() < 0.7);
    }

    #[test]
    fn a_steady_series_is_marked_as_seldom_as_stated() {
        // A spread wide enough that chance alone moves medians by more than a tenth.
        let marked = (0..2000)
            .filter(|seed| {
                let values: Vec<f64> = noise(*seed, 20).iter().map(|noise| 100.0 + 40.0 * noise).collect();
                start_over_rest(&values).is_some()
            })
            .count();
        assert!(marked <= 30, "{marked} of 2000, of which a hundredth is stated");
        assert_eq!(start_over_rest(&[5.0; 20]), None);
        assert_eq!(start_over_rest(&[1.0; 19]), None, "too short to say");
        // By more than chance, yet by less than a tenth.
        let little: Vec<f64> = (0..20).map(|part| if part < 5 { 105.0 } else { 100.0 }).collect();
        assert_eq!(start_over_rest(&little), None);
    }
}

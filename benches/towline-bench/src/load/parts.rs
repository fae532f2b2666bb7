//! Whether a point was steady while it was measured: the medians of equal parts of its time.

use super::Timing;
use super::record::nanos;
use hdrhistogram::Histogram;
use std::time::Instant;
use towline_report::series::start_over_rest;

/// Latencies by the part of the measured time in which their appends were due.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// Two digits: a median to a hundredth is enough, and small enough to stay in the processor's caches.
    histograms: Vec<Histogram<u32>>,
}

impl Parts {
    pub(crate) fn new() -> Self {
        // The bounds are constants that the library accepts: 1 ≤ low, 2 × low ≤ high, digits ≤ 5.
        let histogram =
            || Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("constant bounds are valid");
        Self { histograms: (0..PARTS).map(|_| histogram()).collect() }
    }

    /// An append that was due at `since`, inside the measured time, and acknowledged at `now`.
    pub(crate) fn record(&mut self, timing: &Timing, since: Instant, now: Instant) {
        let passed_ns = nanos(since.saturating_duration_since(timing.measure_from));
        let part = (passed_ns.saturating_mul(PARTS as u64) / nanos(timing.duration())) as usize;
        if let Some(histogram) = self.histograms.get_mut(part) {
            histogram.saturating_record(nanos(now - since));
        }
    }

    /// Adds those of another thread under the same load.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, more) in self.histograms.iter_mut().zip(&other.histograms) {
            // The same bounds everywhere, so adding cannot fail.
            let _ = own.add(more);
        }
    }

    /// How far the p50 of the first quarter lies off that of the rest, where it does by more than chance. `None`:
    /// steady, or too few latencies to say.
    pub(crate) fn start_over_rest(&self) -> Option<f64> {
        if self.histograms.iter().any(|part| part.len() < ENOUGH) {
            return None;
        }
        let medians: Vec<f64> =
            self.histograms.iter().map(|part| part.value_at_quantile(0.5) as f64).collect();
        start_over_rest(&medians)
    }
}

/// Parts of the measured time: a quarter of them must be able to differ from the rest by more than chance.
const PARTS: usize = 20;
/// Fewer latencies have no median worth the name.
const ENOUGH: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// One append each 100 µs for a second, the latency a function of the time.
    fn parts(latency_us: impl Fn(u64) -> u64) -> Parts {
        let timing = Timing::from_now(Duration::from_millis(10), Duration::from_secs(1));
        let mut parts = Parts::new();
        for number in 0..10_000 {
            let since = timing.measure_from + Duration::from_micros(100 * number);
            parts.record(&timing, since, since + Duration::from_micros(latency_us(number)));
        }
        parts
    }

    #[test]
    fn a_slow_start_is_found_with_its_size_and_a_steady_load_is_not() {
        // Some spread of no order.
        let spread = |n: u64| 100 + (n * 7919) % 41;
        assert_eq!(parts(spread).start_over_rest(), None);
        let found = parts(|n| if n < 2500 { 2 * spread(n) } else { spread(n) }).start_over_rest().unwrap();
        assert!((found - 2.0).abs() < 0.1, "{found}");
        // A queue that grows: the start is faster than the rest.
        assert!(parts(|n| 100 + n / 10).start_over_rest().unwrap() < 0.5);
    }

    #[test]
    fn the_parts_of_all_threads_count_and_few_latencies_say_nothing() {
        let mut both = parts(|_| 100);
        both.merge(&parts(|n| if n < 2500 { 400 } else { 100 }));
        both.merge(&parts(|n| if n < 2500 { 400 } else { 100 }));
        assert!(both.start_over_rest().unwrap() > 3.0);
        assert_eq!(Parts::new().start_over_rest(), None);
    }
}

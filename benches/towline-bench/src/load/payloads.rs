//! What is appended: payloads that do not compress, of one size or of a distribution of sizes.

use super::Work;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Sizes of records with their weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(Vec<(usize, u32)>);

impl Sizes {
    /// From (bytes, weight); `None` unless every weight is positive and there is at least one.
    pub(crate) fn new(pairs: Vec<(usize, u32)>) -> Option<Self> {
        (!pairs.is_empty() && pairs.iter().all(|(_, weight)| *weight > 0)).then_some(Self(pairs))
    }

    /// Mean of the distribution, bytes.
    pub(crate) fn mean_bytes(&self) -> f64 {
        let sum: f64 = self.0.iter().map(|(bytes, weight)| *bytes as f64 * f64::from(*weight)).sum();
        sum / self.weights() as f64
    }

    /// The smallest and the largest.
    pub(crate) fn bounds(&self) -> (usize, usize) {
        let sizes = || self.0.iter().map(|(bytes, _)| *bytes);
        (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0))
    }

    /// As points say it: `64 × 6, 4096 × 1`.
    pub(crate) fn words(&self) -> String {
        let words: Vec<_> = self.0.iter().map(|(bytes, weight)| format!("{bytes} × {weight}")).collect();
        words.join(", ")
    }

    fn weights(&self) -> u64 {
        self.0.iter().map(|(_, weight)| u64::from(*weight)).sum()
    }

    fn draw(&self, rng: &mut SmallRng) -> usize {
        let mut left = rng.random_range(0..self.weights());
        for (bytes, weight) in &self.0 {
            match left.checked_sub(u64::from(*weight)) {
                Some(rest) => left = rest,
                None => return *bytes,
            }
        }
        self.bounds().1
    }
}

/// Payloads of one generator thread, each beginning with its own number.
pub struct Payloads<'a> {
    bytes: Vec<u8>,
    sizes: Option<(&'a Sizes, SmallRng)>,
    next: u64,
}

impl<'a> Payloads<'a> {
    /// Numbered from `first` on; sizes, where they vary, are drawn anew in the same order by every generator that
    /// starts with the same number.
    pub fn of(work: &Work<'a>, first: u64) -> Self {
        let largest = work.sizes.map_or(work.record_bytes, |sizes| sizes.bounds().1);
        let sizes = work.sizes.map(|sizes| (sizes, SmallRng::seed_from_u64(first)));
        Self { sizes, ..Self::of_size(largest, first) }
    }

    /// All of one size, at least 8 bytes.
    pub fn of_size(record_bytes: usize, first: u64) -> Self {
        let mut bytes = vec![0; record_bytes.max(8)];
        SmallRng::seed_from_u64(first ^ 0x9e37_79b9).fill(&mut bytes[..]);
        Self { bytes, sizes: None, next: first }
    }

    /// The next payload.
    #[inline]
    #[allow(clippy::should_implement_trait)] // It lends.
    pub fn next(&mut self) -> &[u8] {
        self.bytes[..8].copy_from_slice(&self.next.to_le_bytes());
        self.next += 1;
        match &mut self.sizes {
            None => &self.bytes,
            Some((sizes, rng)) => &self.bytes[..sizes.draw(rng)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Timing;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;
    use towline_core::types::Level;

    #[test]
    fn sizes_come_by_their_weights_and_numbers_in_order() {
        let sizes = Sizes::new(vec![(64, 6), (256, 3), (4096, 1)]).unwrap();
        assert_eq!((sizes.mean_bytes(), sizes.bounds()), (524.8, (64, 4096)));
        assert_eq!(sizes.words(), "64 × 6, 256 × 3, 4096 × 1");
        let stop = AtomicBool::new(false);
        let work = Work {
            level: Level::On,
            window: None,
            record_bytes: 525,
            sizes: Some(&sizes),
            trim: false,
            timing: Timing::from_now(Duration::ZERO, Duration::ZERO),
            stop: &stop,
        };
        let mut payloads = Payloads::of(&work, 7);
        let mut counts = std::collections::BTreeMap::new();
        for number in 7..10_007u64 {
            let payload = payloads.next();
            assert_eq!(payload[..8], number.to_le_bytes());
            *counts.entry(payload.len()).or_insert(0u32) += 1;
        }
        let share = |bytes: usize| f64::from(counts[&bytes]) / 10_000.0;
        assert!((share(64) - 0.6).abs() < 0.03 && (share(4096) - 0.1).abs() < 0.03, "{counts:?}");
        assert_eq!(counts.len(), 3);
        assert_eq!((Sizes::new(Vec::new()), Sizes::new(vec![(64, 0)])), (None, None));
    }
}

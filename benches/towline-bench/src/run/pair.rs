//! Two points that must equal each other, as a window of 0 and the plain level: measured in short slices that alternate
//! on one cluster, so that both see the same disk, with the very same arrivals.

use super::cluster_points::Planned;
use super::point::{PointBench, describe};
use super::session::{EqualPair, Session};
use crate::cluster::RunningCluster;
use crate::error::BenchError;
use crate::load::Timing;
use crate::measure::Measured;
use crate::plan::Experiment;
use crate::publish::PointSpec;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use towline_core::types::Window;
use towline_report::stats::PairedRatio;

impl Session {
    /// Measures a pair: a point for each, and how far they are from equal.
    pub(super) fn equal_pair(
        &mut self,
        experiment: &Experiment,
        link_rtt_us: u64,
        cluster: &RunningCluster,
        pair: Pair<'_>,
        repetition: u32,
    ) -> Result<(), BenchError> {
        self.go_on()?;
        let (one, other) = (describe(pair.windowed), describe(pair.plain));
        self.say(Self::label(experiment, link_rtt_us, &format!("{one} beside {other}")));
        cluster.settle()?;
        let stop = self.stop_flag();
        let bench = PointBench { experiment, link_rtt_us, cluster, wal: None, stop: &stop };
        let seed = self.seed.wrapping_mul(31).wrapping_add(u64::from(repetition)) << 8;
        let (sides, p50s_ns) = bench.in_turn(&pair, repetition, seed)?;
        self.go_on()?;
        for (spec, measured) in [pair.windowed, pair.plain].into_iter().zip(&sides) {
            self.results.push(bench.result(spec, repetition, measured));
            self.point_done();
        }
        // A load that was not offered says nothing about the log.
        let kept_up = sides.iter().all(|side| side.recorder.kept_up());
        if let Some(ratio) = PairedRatio::of(&p50s_ns[0], &p50s_ns[1]).filter(|_| kept_up) {
            self.facts.equal_pairs.push(EqualPair {
                infinite: pair.windowed.window == Some(Window::Infinite),
                link_rtt_us,
                ratio: ratio.summary.median,
                plain_p50_ns: sides[1].recorder.latency_ns.value_at_quantile(0.5) as f64,
                slices: ratio.summary.count,
            });
        }
        Ok(())
    }
}

/// A window, and the plain level that it must equal.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    windowed: &'a PointSpec,
    plain: &'a PointSpec,
}

/// A group of two of which one has a window.
pub(super) fn of_group<'a>(group: &[&'a Planned]) -> Option<Pair<'a>> {
    let [one, other] = *group else { return None };
    match (&one.spec, &other.spec) {
        (windowed, plain) if windowed.window.is_some() && plain.window.is_none() => {
            Some(Pair { windowed, plain })
        }
        (plain, windowed) if windowed.window.is_some() && plain.window.is_none() => {
            Some(Pair { windowed, plain })
        }
        _ => None,
    }
}

/// Whose turn a slice is: each side goes first in every second pair (0 1, 1 0, 0 1, …), so that a drift falls on both.
pub(super) fn side(number: u32) -> usize {
    ((number / 2 + number) % 2) as usize
}

impl PointBench<'_> {
    /// What each side saw, the windowed one first, and the p50s of its slices in the order of the pairs, ns.
    fn in_turn(
        &self,
        pair: &Pair<'_>,
        repetition: u32,
        arrivals_seed: u64,
    ) -> Result<([Measured; 2], [Vec<f64>; 2]), BenchError> {
        let mut sides: [Option<Measured>; 2] = [None, None];
        let mut p50s_ns = [Vec::new(), Vec::new()];
        let between = SLICE_WARM_UP + Duration::from_micros(2 * self.link_rtt_us);
        for number in 0..2 * PAIRS {
            if self.stop.load(Relaxed) {
                return Err(BenchError::Interrupted);
            }
            let side = (side(number) + repetition as usize) % 2;
            let spec = if side == 0 { pair.windowed } else { pair.plain };
            let warm_up = if number < 2 { self.experiment.warm_up } else { between };
            let timing = Timing::from_now(warm_up, self.experiment.duration / SLICES_OF_A_POINT);
            let measured = self.slice(spec, timing, arrivals_seed.wrapping_add(u64::from(number / 2)))?;
            let recorder = &measured.recorder;
            // Of a slice without a latency there is no p50; as 0 its pair is left out.
            let p50_ns =
                if recorder.latency_ns.is_empty() { 0 } else { recorder.latency_ns.value_at_quantile(0.5) };
            p50s_ns[side].push(p50_ns as f64);
            match &mut sides[side] {
                Some(earlier) => earlier.merge(&measured),
                empty => *empty = Some(measured),
            }
        }
        let [Some(windowed), Some(plain)] = sides else { return Err(BenchError::Interrupted) };
        // Both of a pair, or neither.
        let whole = |at: &usize| p50s_ns.iter().all(|of_side| of_side.get(*at).is_some_and(|p50| *p50 > 0.0));
        let wholes: Vec<usize> = (0..PAIRS as usize).filter(whole).collect();
        let kept = |of_side: &[f64]| -> Vec<f64> { wholes.iter().map(|at| of_side[*at]).collect() };
        let kept = [kept(&p50s_ns[0]), kept(&p50s_ns[1])];
        Ok(([windowed, plain], kept))
    }
}

/// Slices of each side.
pub(crate) const PAIRS: u32 = 10;
/// A slice takes this part of a point's time.
pub(crate) const SLICES_OF_A_POINT: u32 = 8;
/// Until the slice before is forgotten and the open load is what it will be.
pub(crate) const SLICE_WARM_UP: Duration = Duration::from_millis(40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drift_falls_on_both_sides() {
        let sides: Vec<usize> = (0..8).map(side).collect();
        assert_eq!(sides, [0, 1, 1, 0, 0, 1, 1, 0]);
        // A machine that slows down by a tenth from slice to slice: the median of the pairs stays at 1.
        let mut p50s = [Vec::new(), Vec::new()];
        for number in 0..2 * PAIRS {
            p50s[side(number)].push(1.1f64.powi(number as i32));
        }
        let ratio = PairedRatio::of(&p50s[0], &p50s[1]).unwrap();
        assert!((ratio.summary.median - 1.0).abs() < 0.01, "{ratio:?}");
    }
}

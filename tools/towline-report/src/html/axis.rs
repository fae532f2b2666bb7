//! Axes: plotters places what it is given; ticks and their words come from here.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

/// One axis with its ticks. Positions are places: the value itself, or its logarithm.
#[derive(Clone)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) ticks: Vec<(f64, String)>,
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, place: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (place - self.low) / (self.high - self.low);
        from + (share * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let finer_ones = hint.weight().allow_light_points();
        if finer_ones { Vec::new() } else { self.ticks.iter().map(|tick| tick.0).collect() }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, place: &f64) -> String {
        let tick = self.ticks.iter().find(|tick| tick.0 == *place);
        tick.map_or(String::new(), |tick| tick.1.clone())
    }
}

/// A linear or a logarithmic axis over durations or rates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Log,
    Linear,
}

impl Scale {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Linear => "linear",
        }
    }

    /// Where a value lies on the axis.
    pub(super) fn place(self, value: f64) -> f64 {
        match self {
            Self::Log => value.max(1e-9).log10(),
            Self::Linear => value,
        }
    }

    /// An axis that holds these values.
    pub(super) fn axis(
        self,
        values: impl Iterator<Item = f64> + Clone,
        most_ticks: usize,
        text: &dyn Fn(f64) -> String,
    ) -> Axis {
        let (low, high, ticks) = self.ends_and_ticks(values, most_ticks);
        Axis { low, high, ticks: ticks.into_iter().map(|tick| (self.place(tick), text(tick))).collect() }
    }

    fn ends_and_ticks(
        self,
        values: impl Iterator<Item = f64> + Clone,
        most_ticks: usize,
    ) -> (f64, f64, Vec<f64>) {
        let values = values.filter(|value| value.is_finite() && *value > 0.0);
        let low = values.clone().fold(f64::INFINITY, f64::min).min(1e15);
        let high = values.fold(0.0, f64::max).max(low * 1.01);
        match self {
            Self::Linear => {
                let step = nice_step(high * 1.06 / (most_ticks as f64 - 1.0));
                let ticks = (0..).map(|n| f64::from(n) * step).take_while(|tick| *tick <= high * 1.06);
                (0.0, high * 1.06, ticks.collect())
            }
            Self::Log => {
                let (from, to) = (low * 0.8, high * 1.25);
                let decades = (to / from).log10();
                let factors: &[f64] = match () {
                    () if decades * 8.0 <= most_ticks as f64 => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
                    () if decades * 3.0 <= most_ticks as f64 => &[1.0, 2.0, 5.0],
                    () if decades * 2.0 <= most_ticks as f64 => &[1.0, 3.0],
                    () => &[1.0],
                };
                let first = from.log10().floor() as i32;
                let last = to.log10().ceil() as i32;
                let ticks = (first..=last)
                    .flat_map(|decade| factors.iter().map(move |factor| factor * 10f64.powi(decade)))
                    .filter(|tick| (from..=to).contains(tick));
                (from.log10(), to.log10(), ticks.collect())
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, at least `least`.
fn nice_step(least: f64) -> f64 {
    let decade = 10f64.powf(least.max(1e-12).log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|factor| factor * decade)
        .find(|step| *step >= least)
        .unwrap_or(10.0 * decade)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_their_values_and_have_round_ticks() {
        let values = [98.0, 1_000.0, 5_300.0];
        let (low, high, ticks) = Scale::Log.ends_and_ticks(values.into_iter(), 7);
        assert!(low < 98f64.log10() && high > 5_300f64.log10());
        assert_eq!(ticks, [100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0]);
        let (low, high, ticks) = Scale::Linear.ends_and_ticks(values.into_iter(), 6);
        assert!(low == 0.0 && high > 5_300.0);
        assert_eq!(ticks, [0.0, 2000.0, 4000.0]);
        let (_, _, ticks) = Scale::Linear.ends_and_ticks([1.0].into_iter(), 6);
        assert!(ticks.len() >= 3, "{ticks:?}");
        let (low, high, _) = Scale::Log.ends_and_ticks(std::iter::empty(), 6);
        assert!(low.is_finite() && high.is_finite() && high > low, "nothing to draw is no crash");
    }
}

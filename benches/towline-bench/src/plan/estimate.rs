//! How long an experiment will take, so that nobody has to guess.

use super::{Experiment, Kind, Windows};
use crate::run::{LOOKS_OF_A_SWEEP, pair};

impl Experiment {
    /// Seconds that it will take, about: what is measured, and what stands around it.
    pub fn estimated_s(&self) -> f64 {
        let links = self.link_rtts_us.len() as f64;
        let repetitions = f64::from(self.repetitions);
        let around = match self.kind {
            // A log of its own for each repetition: its segments are made before, and read afterwards.
            Kind::Off | Kind::Stream => repetitions * (CLUSTER_S + 2.0 * FLOORS_S + SEGMENTS_S),
            Kind::Memory => repetitions * (CLUSTER_S + CATCH_UP_S),
            _ => links * (CLUSTER_S + self.looks_before() * LOOK_S + (repetitions + 1.0) * FLOORS_S),
        };
        self.measured_s() + self.pairs_s() + around
    }

    /// Short looks at a cluster that decide what its points will be.
    fn looks_before(&self) -> f64 {
        let of_rates = if self.rates.iter().any(|rate| matches!(rate, super::Rate::OfSaturation(_))) {
            self.levels.len() as f64
        } else {
            0.0
        };
        match self.kind {
            Kind::Window => of_rates + if matches!(self.windows, Windows::Sweep { .. }) { 2.0 } else { 0.0 },
            Kind::Rates | Kind::Stall => of_rates,
            Kind::Knee => of_rates * f64::from(LOOKS_OF_A_SWEEP),
            // A closed loop has no rate to look for.
            _ => 0.0,
        }
    }

    /// What pairs that must equal each other take longer than two points; a sweep has two of them.
    fn pairs_s(&self) -> f64 {
        if self.kind != Kind::Window || !matches!(self.windows, Windows::Sweep { .. }) {
            return 0.0;
        }
        let slices = 2.0 * f64::from(pair::PAIRS);
        let slice_s = self.duration.as_secs_f64() / f64::from(pair::SLICES_OF_A_POINT);
        let two_points_s = 2.0 * (self.warm_up + self.duration).as_secs_f64();
        let links = self.link_rtts_us.iter().map(|rtt_us| {
            let between_s = pair::SLICE_WARM_UP.as_secs_f64() + 3e-6 * *rtt_us as f64;
            2.0 * (slices * (slice_s + between_s) + 2.0 * self.warm_up.as_secs_f64() - two_points_s)
        });
        links.sum::<f64>() * f64::from(self.repetitions)
    }
}

/// To start a cluster, settle it and stop it, on two cores.
const CLUSTER_S: f64 = 2.5;
/// One set of floors.
const FLOORS_S: f64 = 1.0;
/// One look.
const LOOK_S: f64 = 0.8;
/// To make segments for seconds of a full disk and to verify them.
const SEGMENTS_S: f64 = 20.0;
/// For a stopped standby to be where the others are, and for both logs to be compared.
const CATCH_UP_S: f64 = 20.0;

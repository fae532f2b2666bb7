//! Ladder, replay, window and rates: one cluster per link, its points in a shuffled order in every repetition, floors
//! between the repetitions.

use super::pair;
use super::point::{PointBench, describe};
use super::session::Session;
use super::sweep;
use crate::cluster::{Cluster, NodeSizes, RunningCluster};
use crate::error::BenchError;
use crate::measure::Measured;
use crate::plan::{Experiment, Generator, Kind, Rate, Windows};
use crate::publish::{PointLoad, PointSpec};
use crate::replay::Wal;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use std::time::Duration;
use towline_core::types::{Level, Window};

impl Session {
    /// Runs all points of an experiment, for each of its links.
    pub(super) fn cluster_points(&mut self, experiment: &Experiment) -> Result<(), BenchError> {
        for &link_rtt_us in &experiment.link_rtts_us {
            self.go_on()?;
            self.say(Session::label(experiment, link_rtt_us, "starting the cluster"));
            let sizes = NodeSizes::usual(self.data_dir(), self.buffered, self.flushing);
            let dir = self.next_cluster_dir();
            let mut cluster = Cluster::start(experiment, link_rtt_us, &sizes, &dir, self.allocations)?;
            self.note_durability(cluster.primary()?);
            let result = self.points_of_one_link(experiment, link_rtt_us, &mut cluster);
            let stopped = cluster.stop();
            result?;
            stopped?;
        }
        Ok(())
    }

    fn points_of_one_link(
        &mut self,
        experiment: &Experiment,
        link_rtt_us: u64,
        cluster: &mut RunningCluster,
    ) -> Result<(), BenchError> {
        let wal = if experiment.kind == Kind::Replay { Some(Wal::bundled()?) } else { None };
        let specs = self.specs(experiment, link_rtt_us, cluster)?;
        let mut before = self.measure_floors(0, false)?;
        for repetition in 0..experiment.repetitions {
            let first = self.results.len();
            let measured =
                self.repetition(experiment, link_rtt_us, cluster, &specs, wal.as_ref(), repetition);
            // After Ctrl-C or a failure the floors before are all there is: better than none.
            let after = if measured.is_ok() { self.measure_floors(repetition, false) } else { Ok(before) };
            let floors = self.floors_between(before, *after.as_ref().unwrap_or(&before));
            for result in &mut self.results[first..] {
                result.hold_against(&floors);
            }
            measured?;
            before = after?;
        }
        Ok(())
    }

    fn repetition(
        &mut self,
        experiment: &Experiment,
        link_rtt_us: u64,
        cluster: &mut RunningCluster,
        specs: &[Planned],
        wal: Option<&Wal>,
        repetition: u32,
    ) -> Result<(), BenchError> {
        let mut rng = SmallRng::seed_from_u64(self.seed ^ (u64::from(repetition) << 32) ^ link_rtt_us);
        for group in shuffled(specs, &mut rng) {
            if let Some(pair) = pair::of_group(&group) {
                self.equal_pair(experiment, link_rtt_us, cluster, pair, repetition)?;
                continue;
            }
            for planned in group {
                self.single(experiment, link_rtt_us, cluster, planned, wal, repetition)?;
            }
        }
        Ok(())
    }

    fn single(
        &mut self,
        experiment: &Experiment,
        link_rtt_us: u64,
        cluster: &mut RunningCluster,
        planned: &Planned,
        wal: Option<&Wal>,
        repetition: u32,
    ) -> Result<(), BenchError> {
        let Planned { spec, of_saturation } = planned;
        let stop = self.stop_flag();
        self.go_on()?;
        self.say(Session::label(experiment, link_rtt_us, &describe(spec)));
        cluster.settle()?;
        let arrivals_seed = self.seed.wrapping_mul(31).wrapping_add(u64::from(repetition));
        let mut victim = if experiment.kind == Kind::Stall { cluster.take_standby() } else { None };
        let bench = PointBench { experiment, link_rtt_us, cluster, wal, stop: &stop };
        let (measured, timeline, stall) = match (experiment.kind, &mut victim) {
            (Kind::Timeline, _) => {
                let (measured, timeline) = bench.timeline(spec, repetition)?;
                (measured, Some(timeline), None)
            }
            (Kind::Stall, Some(victim)) => {
                let (measured, stall) = bench.stall(spec, arrivals_seed, victim)?;
                (measured, None, Some(stall))
            }
            _ => (bench.point(spec, arrivals_seed)?, None, None),
        };
        if self.is_stopped() {
            // Cut short: its figures would be those of another duration.
            return Err(BenchError::Interrupted);
        }
        let mut result = bench.result(spec, repetition, &measured);
        if experiment.kind == Kind::Mixed {
            // One load, two points: what each level saw of it.
            self.results.push(bench.strong_part(spec, repetition, &measured));
        }
        if let Some(victim) = victim {
            cluster.give_back(victim);
        }
        result.point.detail.of_saturation = *of_saturation;
        result.point.detail.stall = stall;
        self.results.push(result);
        if let (Some(cost), PointLoad::Closed(clients, _)) =
            (timeline.as_ref().and_then(|seen| seen.instrument), spec.load)
        {
            self.facts.instrument.push((clients, cost));
        }
        self.timelines.extend(timeline);
        self.point_done();
        Ok(())
    }

    /// The points of one repetition; for a sweep, after a look at what this cluster can take.
    fn specs(
        &mut self,
        experiment: &Experiment,
        link_rtt_us: u64,
        cluster: &RunningCluster,
    ) -> Result<Vec<Planned>, BenchError> {
        let mut specs = Vec::new();
        match experiment.kind {
            Kind::Rates | Kind::Knee => return self.rate_specs(experiment, link_rtt_us, cluster),
            Kind::Timeline => {
                for &level in &experiment.levels {
                    let loads =
                        experiment.clients.iter().map(|&n| PointLoad::Closed(n, Generator::OneThread));
                    specs.extend(loads.map(|load| PointSpec { level, window: None, load }));
                }
            }
            Kind::Stall => {
                for &level in &experiment.levels {
                    let rate = experiment.rates.first().copied().unwrap_or(Rate::OfSaturation(0.2));
                    let rate_per_s = self.rate_per_s(experiment, link_rtt_us, cluster, level, rate)?;
                    specs.push(PointSpec { level, window: None, load: PointLoad::Open(rate_per_s) });
                }
            }
            Kind::Mixed => {
                let weak = experiment.levels.first().copied().unwrap_or(Level::Local);
                let loads = experiment.clients.iter().map(|&n| PointLoad::Closed(n, Generator::OneThread));
                specs.extend(loads.map(|load| PointSpec { level: weak, window: None, load }));
            }
            Kind::Ladder => {
                for &level in &experiment.levels {
                    for &clients in &experiment.clients {
                        for &generator in &experiment.generators {
                            let load = PointLoad::Closed(clients, generator);
                            specs.push(PointSpec { level, window: None, load });
                        }
                    }
                }
            }
            Kind::Replay => {
                let spec = |level| PointSpec { level, window: None, load: PointLoad::Replay };
                specs.extend(experiment.levels.iter().copied().map(spec));
            }
            Kind::Window => specs = self.window_specs(experiment, link_rtt_us, cluster)?,
            Kind::Off | Kind::Stream | Kind::Memory => {}
        }
        Ok(specs.into_iter().map(|spec| Planned { spec, of_saturation: None }).collect())
    }

    /// Each level by each load; saturation is looked for once for a level.
    fn rate_specs(
        &mut self,
        experiment: &Experiment,
        link_rtt_us: u64,
        cluster: &RunningCluster,
    ) -> Result<Vec<Planned>, BenchError> {
        let mut specs = Vec::new();
        for &level in &experiment.levels {
            let mut saturation = None;
            for &rate in &experiment.rates {
                let (rate_per_s, of_saturation) = match rate {
                    Rate::PerS(rate_per_s) => (rate_per_s, None),
                    Rate::OfSaturation(share) => {
                        let most_per_s = match saturation {
                            Some(known) => known,
                            None => self.saturation_per_s(experiment, link_rtt_us, cluster, level)?,
                        };
                        saturation = Some(most_per_s);
                        (sweep::two_digits((most_per_s * share).max(1.0)), Some(share))
                    }
                };
                let load = PointLoad::Open(rate_per_s);
                specs.push(Planned { spec: PointSpec { level, window: None, load }, of_saturation });
            }
        }
        Ok(specs)
    }

    fn window_specs(
        &mut self,
        experiment: &Experiment,
        link_rtt_us: u64,
        cluster: &RunningCluster,
    ) -> Result<Vec<PointSpec>, BenchError> {
        let strongest = experiment.levels.iter().copied().max().unwrap_or(Level::On);
        let rate = experiment.rates.first().copied().unwrap_or(Rate::OfSaturation(0.5));
        let rate_per_s = self.rate_per_s(experiment, link_rtt_us, cluster, strongest, rate)?;
        let load = PointLoad::Open(rate_per_s);
        let windows = match &experiment.windows {
            Windows::List(windows) => windows.clone(),
            Windows::Sweep { steps } => {
                // The knee at this load: how much later the level is than `local`, times the load.
                let mut p50_ns = [0.0; 2];
                for (slot, level) in p50_ns.iter_mut().zip([strongest, Level::Local]) {
                    let spec = PointSpec { level, window: None, load };
                    let measured = self.trial(experiment, link_rtt_us, cluster, &spec, TRIAL)?;
                    *slot = measured.recorder.latency_ns.value_at_quantile(0.5) as f64;
                }
                // A trial is short: the floors say what the difference is at least.
                let excess_ns =
                    (p50_ns[0] - p50_ns[1]).max(self.latest_floors().remote_excess_ns(link_rtt_us));
                let knee_bytes = rate_per_s * experiment.record_bytes as f64 * excess_ns * 1e-9;
                sweep::windows(*steps, knee_bytes, experiment.record_bytes as u64)
            }
        };
        let mut specs = Vec::new();
        for &level in &experiment.levels {
            specs.extend(windows.iter().map(|window| PointSpec { level, window: Some(*window), load }));
        }
        // What ω = 0 and ω = ∞ must equal, at the very same load.
        specs.push(PointSpec { level: strongest, window: None, load });
        specs.push(PointSpec { level: Level::Local, window: None, load });
        Ok(specs)
    }

    /// A rate in records per second, measured first where it is a share of saturation.
    fn rate_per_s(
        &mut self,
        experiment: &Experiment,
        link_rtt_us: u64,
        cluster: &RunningCluster,
        level: Level,
        rate: Rate,
    ) -> Result<f64, BenchError> {
        let share = match rate {
            Rate::PerS(rate) => return Ok(rate),
            Rate::OfSaturation(share) => share,
        };
        let most_per_s = self.saturation_per_s(experiment, link_rtt_us, cluster, level)?;
        // Two digits: the same on the axis and in the table.
        Ok(sweep::two_digits((most_per_s * share).max(1.0)))
    }

    /// What a closed loop gets from this cluster, records per second. A sweep past saturation looks more than once: the
    /// first look at a new log may have met segments that were still being prepared.
    fn saturation_per_s(
        &mut self,
        experiment: &Experiment,
        link_rtt_us: u64,
        cluster: &RunningCluster,
        level: Level,
    ) -> Result<f64, BenchError> {
        self.say(Session::label(experiment, link_rtt_us, "looking for saturation"));
        // Enough outstanding to cover the link as well; a sweep past saturation needs all that the log can take.
        let least = if experiment.kind == Kind::Knee { 512 } else { 32 };
        let clients = (least + link_rtt_us / 5).min(4096) as u32;
        let spec = PointSpec { level, window: None, load: PointLoad::Closed(clients, Generator::OneThread) };
        let looks = if experiment.kind == Kind::Knee { LOOKS_OF_A_SWEEP } else { 1 };
        let mut most_per_s = 0.0_f64;
        for _ in 0..looks {
            most_per_s = most_per_s.max(self.trial(experiment, link_rtt_us, cluster, &spec, TRIAL)?.per_s());
        }
        Ok(most_per_s)
    }

    /// A short look that is no point.
    fn trial(
        &mut self,
        experiment: &Experiment,
        link_rtt_us: u64,
        cluster: &RunningCluster,
        spec: &PointSpec,
        duration: Duration,
    ) -> Result<Measured, BenchError> {
        self.go_on()?;
        cluster.settle()?;
        let stop = self.stop_flag();
        let short = Experiment { warm_up: duration / 2, duration, ..experiment.clone() };
        let bench = PointBench { experiment: &short, link_rtt_us, cluster, wal: None, stop: &stop };
        let measured = bench.point(spec, self.seed)?;
        self.go_on()?;
        Ok(measured)
    }
}

/// A random order: a drift of the machine must not fall on the same points every time. Points that must equal each
/// other stay side by side, or the drift between them would be taken for their difference.
fn shuffled<'a, S: AsRef<PointSpec>>(specs: &'a [S], rng: &mut SmallRng) -> Vec<Vec<&'a S>> {
    let mut groups: Vec<Vec<&S>> = Vec::new();
    for spec in specs {
        let equal = groups
            .iter_mut()
            .find(|group| group.iter().any(|other| must_equal(spec.as_ref(), other.as_ref())));
        match equal {
            Some(group) => group.push(spec),
            None => groups.push(vec![spec]),
        }
    }
    groups.iter_mut().for_each(|group| group.shuffle(rng));
    groups.shuffle(rng);
    groups
}

/// ω = 0 is the plain level, and ω = ∞ is `local`.
fn must_equal(one: &PointSpec, other: &PointSpec) -> bool {
    let plain = |spec: &PointSpec| match spec.window {
        None => Some(spec.level),
        Some(Window::Infinite) => Some(Level::Local),
        Some(window) => window.is_zero().then_some(spec.level),
    };
    one.load == other.load && plain(one).is_some() && plain(one) == plain(other)
}

/// A point to be measured, and where its load stands against saturation.
pub(super) struct Planned {
    pub(super) spec: PointSpec,
    of_saturation: Option<f64>,
}

impl AsRef<PointSpec> for Planned {
    fn as_ref(&self) -> &PointSpec {
        &self.spec
    }
}

/// At what a cluster can take, before a sweep past it.
pub(crate) const LOOKS_OF_A_SWEEP: u32 = 3;
/// Of a look that is no point.
const TRIAL: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_differs_by_repetition_and_keeps_what_must_be_equal_side_by_side() {
        let load = PointLoad::Open(1000.0);
        let windows = [Some(Window::Bytes(0)), Some(Window::Bytes(4096)), Some(Window::Infinite), None];
        let planned =
            |level, window, load| Planned { spec: PointSpec { level, window, load }, of_saturation: None };
        let mut specs: Vec<_> = windows.into_iter().map(|window| planned(Level::On, window, load)).collect();
        specs.push(planned(Level::Local, None, load));
        specs.push(planned(Level::Local, None, PointLoad::Open(2000.0)));
        let mut first_places = std::collections::HashSet::new();
        for seed in 0..50 {
            let groups = shuffled(&specs, &mut SmallRng::seed_from_u64(seed));
            assert_eq!(groups.iter().filter(|group| pair::of_group(group).is_some()).count(), 2);
            let order: Vec<_> = groups.into_iter().flatten().collect();
            assert_eq!(order.len(), specs.len());
            assert!(specs.iter().all(|spec| order.iter().any(|placed| std::ptr::eq(spec, *placed))));
            let place = |at: usize| {
                order.iter().position(|placed| std::ptr::eq(*placed, &specs[at])).unwrap_or(usize::MAX)
            };
            assert_eq!(place(0).abs_diff(place(3)), 1, "omega 0 and the plain level");
            assert_eq!(place(2).abs_diff(place(4)), 1, "omega infinity and local");
            first_places.insert((place(0), place(3) < place(0)));
        }
        assert!(first_places.len() >= 6, "{first_places:?}");
    }
}

//! One point of a cluster: its load, its measurement, its result.

use crate::cluster::RunningCluster;
use crate::error::BenchError;
use crate::load::schedule::Schedule;
use crate::load::{Recorder, Timing, Work, closed, flood, mixed, open, replay, threads};
use crate::measure::{Measured, measure};
use crate::plan::{Experiment, Generator, Kind};
use crate::publish::{PointLoad, PointResult, PointSpec};
use crate::replay::Wal;
use crate::target::Watch;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use towline_core::types::{Level, Window};

/// One cluster and what its points have in common.
pub(super) struct PointBench<'a> {
    pub(super) experiment: &'a Experiment,
    pub(super) link_rtt_us: u64,
    pub(super) cluster: &'a RunningCluster,
    pub(super) wal: Option<&'a Wal>,
    pub(super) stop: &'a AtomicBool,
}

impl PointBench<'_> {
    /// Measures one point; again where not one append was acknowledged in the measured time, which says nothing about
    /// latency. How often stands in what it returns.
    pub(super) fn point(&self, spec: &PointSpec, arrivals_seed: u64) -> Result<Measured, BenchError> {
        let Experiment { warm_up, duration, .. } = *self.experiment;
        let mut without_ack = 0;
        loop {
            let mut measured = self.slice(spec, Timing::from_now(warm_up, duration), arrivals_seed)?;
            measured.tries_without_ack = without_ack;
            let none = measured.recorder.acked == 0 && !self.stop.load(Relaxed);
            if !none || without_ack == MOST_TRIES - 1 {
                measured.tries_without_ack += u32::from(none);
                return Ok(measured);
            }
            without_ack += 1;
        }
    }

    /// The load of a point at one level and window, trimming as it goes.
    pub(super) fn work(&self, spec: &PointSpec, timing: Timing) -> Work<'_> {
        Work {
            level: spec.level,
            window: spec.window,
            record_bytes: self.experiment.record_bytes,
            sizes: self.experiment.record_sizes.as_ref(),
            trim: true,
            timing,
            stop: self.stop,
        }
    }

    /// The load of a point for a time of its own.
    pub(super) fn slice(
        &self,
        spec: &PointSpec,
        timing: Timing,
        arrivals_seed: u64,
    ) -> Result<Measured, BenchError> {
        let experiment = self.experiment;
        let primary = self.cluster.primary()?;
        let watch = Watch { primary, level: spec.level };
        let work = self.work(spec, timing);
        let load = || -> Result<Recorder, BenchError> {
            match spec.load {
                // At `off` the append is the acknowledgement: nothing is ever outstanding, however many clients.
                PointLoad::Closed(_, Generator::OneThread) if spec.level == Level::Off => {
                    Ok(flood::run(primary, &work, 1, None)?.0)
                }
                PointLoad::Closed(clients, _) if experiment.kind == Kind::Mixed => {
                    let strong = experiment.levels.last().copied().unwrap_or(spec.level);
                    let parts = mixed::run(primary, &work, clients as usize, strong, experiment.one_in)?;
                    let [mut weak, strong] = parts;
                    weak.strong = Some(Box::new(strong));
                    Ok(weak)
                }
                PointLoad::Closed(clients, Generator::OneThread) => {
                    closed::run(primary, &work, clients as usize)
                }
                PointLoad::Closed(clients, Generator::Threads) => {
                    threads::run(primary, &work, clients as usize)
                }
                PointLoad::Open(rate_per_s) => {
                    open::run(primary, &work, Schedule::new(rate_per_s, experiment.arrivals, arrivals_seed))
                }
                PointLoad::Replay => match self.wal {
                    Some(wal) => replay::run(primary, &work, wal),
                    None => Err(BenchError::Failed("the replay has no data".into())),
                },
                PointLoad::Flood { sample_every, exposure_limit } => {
                    Ok(flood::run(primary, &work, sample_every, exposure_limit)?.0)
                }
            }
        };
        measure(&watch, timing, load)
            .map_err(|error| BenchError::Failed(format!("{}: {error}", describe(spec))))
    }

    /// The records of a mixed stream that were appended at the strong level.
    pub(super) fn strong_part(&self, spec: &PointSpec, repetition: u32, measured: &Measured) -> PointResult {
        let level = self.experiment.levels.last().copied().unwrap_or(spec.level);
        let mut strong = measured.clone();
        if let Some(recorder) = strong.recorder.strong.take() {
            strong.recorder = *recorder;
        }
        self.result(&PointSpec { level, ..spec.clone() }, repetition, &strong)
    }

    /// The point as the report keeps it.
    pub(super) fn result(&self, spec: &PointSpec, repetition: u32, measured: &Measured) -> PointResult {
        let record_bytes = match self.wal {
            // What one acknowledgement carries: a commit and what rides along with it.
            Some(wal) => wal.bytes_per_commit(),
            None => self.experiment.record_bytes as f64,
        };
        PointResult::new(
            self.experiment,
            self.link_rtt_us,
            spec,
            repetition,
            measured,
            record_bytes,
            self.cluster,
        )
    }
}

/// A point in a few words.
pub(super) fn describe(spec: &PointSpec) -> String {
    let load = match spec.load {
        PointLoad::Closed(clients, Generator::OneThread) => format!("{clients} clients"),
        PointLoad::Closed(clients, Generator::Threads) => format!("{clients} threads"),
        PointLoad::Open(rate) => format!("{rate:.0}/s"),
        PointLoad::Replay => "replay".into(),
        PointLoad::Flood { .. } => "as fast as it goes".into(),
    };
    match spec.window {
        Some(Window::Infinite) => format!("{}, {load}, ω = ∞", spec.level),
        Some(window) => format!("{}, {load}, ω = {window}", spec.level),
        None => format!("{}, {load}", spec.level),
    }
}

/// Tries of a point whose appends are not acknowledged in its time.
const MOST_TRIES: u32 = 3;

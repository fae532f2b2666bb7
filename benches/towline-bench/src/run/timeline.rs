//! The stage timeline: slices of one closed load with every record timed at every watermark, in alternation with
//! slices of the same load without, so that the price of the instrument is known from the same minute.

use super::pair;
use super::point::PointBench;
use crate::error::BenchError;
use crate::level;
use crate::load::timeline::{OWN_MARKS, STANDBY_MARKS, Stages, Tracker};
use crate::load::{Recorder, Target, Timing, closed};
use crate::measure::{Measured, measure};
use crate::publish::{PointLoad, PointSpec};
use crate::rule;
use crate::target::Watch;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use towline_core::types::Level;
use towline_report::schema::{InstrumentCost, LevelTime, Load, StageTime, Timeline, TimelineStage};
use towline_report::stats::{PairedRatio, latency_of};

impl PointBench<'_> {
    /// One load. The point is made of the slices that were timed.
    pub(super) fn timeline(
        &self,
        spec: &PointSpec,
        repetition: u32,
    ) -> Result<(Measured, Timeline), BenchError> {
        let experiment = self.experiment;
        let PointLoad::Closed(clients, _) = spec.load else {
            return Err(BenchError::Failed("a timeline has a closed load".into()));
        };
        let primary = self.cluster.primary()?;
        let names = experiment.standby_names();
        let quorum = match &experiment.sync_rule {
            Some(text) => Some(rule::parse(text, &names).map_err(BenchError::Failed)?),
            None => None,
        };
        let mut tracker = Tracker::new(primary.shards(), names.len());
        let mut stages = Stages::new(names.len());
        let slice = experiment.duration / (2 * PAIRS);
        let mut timed: Option<Measured> = None;
        let mut without = Recorder::new();
        let mut p50s_ns = [Vec::new(), Vec::new()];
        for number in 0..2 * PAIRS {
            if self.stop.load(Relaxed) {
                break;
            }
            let with = pair::side(number) == 0;
            let warm_up = if number == 0 { experiment.warm_up } else { SLICE_WARM_UP };
            let timing = Timing::from_now(warm_up, slice);
            let work = self.work(spec, timing);
            let watch = Watch { primary, level: spec.level };
            let measured = measure(&watch, timing, || {
                if !with {
                    return closed::run(primary, &work, clients as usize);
                }
                tracker.begin(timing);
                let recorder = closed::run_watched(primary, &work, clients as usize, &mut tracker)?;
                tracker.finish(primary);
                Ok(recorder)
            })?;
            p50s_ns[usize::from(!with)].push(measured.recorder.latency_ns.value_at_quantile(0.5) as f64);
            if !with {
                without.merge(&measured.recorder);
                continue;
            }
            tracker.fold(&mut stages, quorum.as_ref());
            match &mut timed {
                Some(timed) => timed.merge(&measured),
                None => timed = Some(measured),
            }
        }
        let Some(measured) = timed else { return Err(BenchError::Interrupted) };
        let instrument = PairedRatio::of(&p50s_ns[0], &p50s_ns[1]).map(|paired| InstrumentCost {
            with_p50_ns: measured.recorder.latency_ns.value_at_quantile(0.5),
            without_p50_ns: without.latency_ns.value_at_quantile(0.5),
            ratio: paired.summary.median,
            interval: paired.interval,
            pairs: p50s_ns[0].len() as u32,
        });
        let timeline = Timeline {
            experiment: experiment.name.clone(),
            level: level::shown(spec.level),
            sync_rule: experiment.sync_rule.clone().unwrap_or_default(),
            standbys: names.len() as u32,
            load: Load::closed(clients),
            record_bytes: experiment.record_bytes as f64,
            repetition,
            records: stages.accepted_ns.len(),
            left_out: stages.left_out,
            stages: stage_times(&stages, &names),
            levels: Level::ALL
                .into_iter()
                .map(|level| LevelTime {
                    level: level::shown(level),
                    after_ns: latency_of(&stages.levels_ns[level as usize]),
                })
                .collect(),
            acknowledged_ns: latency_of(&measured.recorder.latency_ns),
            look_every_ns: latency_of(&stages.look_every_ns),
            instrument,
        };
        Ok((measured, timeline))
    }
}

/// In the order of a record's way.
fn stage_times(stages: &Stages, names: &[String]) -> Vec<StageTime> {
    let time = |node: &str, stage, histogram| StageTime {
        node: node.to_owned(),
        stage,
        after_ns: latency_of(histogram),
    };
    let mut times = vec![
        time("primary", TimelineStage::Accepted, &stages.accepted_ns),
        time("primary", TimelineStage::Batched, &stages.marks_ns[0]),
        time("primary", TimelineStage::Flushed, &stages.marks_ns[1]),
    ];
    for (name, marks) in names.iter().zip(stages.marks_ns[OWN_MARKS..].chunks(STANDBY_MARKS)) {
        let of_standby = [TimelineStage::Written, TimelineStage::Flushed, TimelineStage::Applied];
        times.extend(of_standby.into_iter().zip(marks).map(|(stage, marks)| time(name, stage, marks)));
    }
    times
}

/// Slices with and as many without.
const PAIRS: u32 = 10;
/// Until the closed loop is full again.
const SLICE_WARM_UP: Duration = Duration::from_millis(30);

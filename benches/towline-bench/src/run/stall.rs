//! A standby that takes nothing for a moment in the middle of an open load: what the sync rule makes of it.

use super::point::PointBench;
use crate::error::BenchError;
use crate::load::record::new_histogram;
use crate::load::schedule::Schedule;
use crate::load::{Recorder, Timing, open};
use crate::measure::{Measured, measure};
use crate::process::Process;
use crate::publish::{PointLoad, PointSpec};
use crate::target::Watch;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use towline_report::schema::{LatencyNs, Slice, Stall};
use towline_report::stats::latency_of;

impl PointBench<'_> {
    /// One load; the first standby is stopped after a third of it.
    pub(super) fn stall(
        &self,
        spec: &PointSpec,
        arrivals_seed: u64,
        victim: &mut Process,
    ) -> Result<(Measured, Stall), BenchError> {
        let experiment = self.experiment;
        let PointLoad::Open(rate_per_s) = spec.load else {
            return Err(BenchError::Failed("a stall has an open load".into()));
        };
        let primary = self.cluster.primary()?;
        let timing = Timing::from_now(experiment.warm_up, experiment.duration);
        let work = self.work(spec, timing);
        let schedule = Schedule::new(rate_per_s, experiment.arrivals, arrivals_seed);
        let (measured, stopped) = std::thread::scope(|scope| {
            let stopping = scope.spawn(|| {
                self.sleep_until(timing.measure_from + experiment.duration / 3);
                victim.stop()?;
                let from = Instant::now();
                self.sleep_until(from + experiment.stopped);
                // Before it goes on, or what comes after would count as during.
                let until = Instant::now();
                victim.resume()?;
                Ok::<_, BenchError>((from, until))
            });
            let watch = Watch { primary, level: spec.level };
            let measured = measure(&watch, timing, || {
                open::run_into(Recorder::new().traced(), primary, &work, schedule)
            });
            (measured, stopping.join())
        });
        let (from, until) = match stopped {
            Ok(times) => times?,
            Err(_) => return Err(BenchError::Failed("the stopping thread panicked".into())),
        };
        let measured = measured?;
        let since_start = |at: Instant| at.saturating_duration_since(timing.measure_from);
        let trace = measured.recorder.trace.as_deref().unwrap_or_default();
        let name = experiment.standby_names().into_iter().next().unwrap_or_default();
        let stall = parts(trace, name, since_start(from), since_start(until));
        Ok((measured, stall))
    }

    fn sleep_until(&self, when: Instant) {
        while let Some(left) = when.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.stop.load(Relaxed) {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
    }
}

/// Latencies by the part, and by the slice, in which their records were due.
fn parts(trace: &[(u64, u64)], standby: String, from: Duration, until: Duration) -> Stall {
    let (from_ns, until_ns) = (from.as_nanos() as u64, until.as_nanos() as u64);
    let of = |range: std::ops::Range<u64>| -> LatencyNs {
        let mut histogram = new_histogram();
        for (_, latency_ns) in trace.iter().filter(|(due_ns, _)| range.contains(due_ns)) {
            histogram.saturating_record(*latency_ns);
        }
        latency_of(&histogram)
    };
    let end_ns = trace.iter().map(|(due_ns, _)| *due_ns).max().unwrap_or(0);
    let slice_ns = SLICE.as_nanos() as u64;
    let slices = (0..=end_ns / slice_ns)
        .map(|number| Slice {
            at_s: (number * slice_ns) as f64 / 1e9,
            latency_ns: of(number * slice_ns..(number + 1) * slice_ns),
        })
        .filter(|slice| slice.latency_ns.samples > 0)
        .collect();
    Stall {
        standby,
        from_s: from.as_secs_f64(),
        until_s: until.as_secs_f64(),
        before_ns: of(0..from_ns),
        during_ns: of(from_ns..until_ns),
        after_ns: of(until_ns..u64::MAX),
        slices,
    }
}

const SLICE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_belongs_to_the_part_in_which_it_was_due_however_late_it_came() {
        let ms = |n: u64| n * 1_000_000;
        // One record every 10 ms; those due while the standby is stopped wait for its end.
        let trace: Vec<(u64, u64)> = (0..100)
            .map(|n| (ms(10 * n), if (30..60).contains(&n) { ms(600 - 10 * n) } else { ms(1) }))
            .collect();
        let stall = parts(&trace, "a".into(), Duration::from_millis(300), Duration::from_millis(600));
        assert_eq!((stall.before_ns.samples, stall.during_ns.samples, stall.after_ns.samples), (30, 30, 40));
        assert!(stall.before_ns.max < ms(2) && stall.after_ns.max < ms(2));
        assert!(stall.during_ns.max.abs_diff(ms(300)) < ms(1), "{}", stall.during_ns.max);
        assert_eq!(stall.slices.len(), 10);
        let worst = stall.slices.iter().max_by_key(|slice| slice.latency_ns.p99).unwrap();
        assert_eq!(worst.at_s, 0.3);
        assert_eq!(parts(&[], String::new(), Duration::ZERO, Duration::ZERO).slices.len(), 0);
    }
}

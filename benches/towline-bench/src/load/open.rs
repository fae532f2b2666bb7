//! Open loop: appends are due at intended times, whether the log keeps up or not; latency counts from those times.

use super::schedule::Schedule;
use super::{Outstanding, Payloads, Recorder, Target, Trimmer, Work};
use crate::error::BenchError;
use crate::load::record::nanos;
use std::time::{Duration, Instant};
use towline_core::format::Committed;

/// Runs one open load from this thread, which polls and yields while nothing is due.
pub(crate) fn run<T: Target>(
    target: &T,
    work: &Work<'_>,
    schedule: Schedule,
) -> Result<Recorder, BenchError> {
    run_into(Recorder::new(), target, work, schedule)
}

/// The same with a recorder that may keep more.
pub(crate) fn run_into<T: Target>(
    mut recorder: Recorder,
    target: &T,
    work: &Work<'_>,
    schedule: Schedule,
) -> Result<Recorder, BenchError> {
    let shards = target.shards();
    let mut lag_ns = recorder.lag_ns.clone();
    let mut offered = 0u64;
    let mut outstanding = Outstanding::new(shards, 4096);
    let mut trimmer = Trimmer::new(shards, work.trim);
    let mut payloads = Payloads::of(work, 0);
    let mut turn = 0usize;
    let start = work.timing.start;
    // Where a generator would be whose own work takes no time: what is late because the log had no room is the log's
    // lateness, not the generator's.
    let mut ideal = start;
    let mut due_times = schedule.map(|due_ns| start + Duration::from_nanos(due_ns));
    let mut due = due_times.next().unwrap_or(work.timing.until);
    let mut on_ack = |shard, since, now, outcome: Result<Committed, String>| {
        if let Ok(committed) = &outcome {
            trimmer.acked(target, shard, committed.end);
        }
        recorder.ack(&work.timing, since, now, outcome);
    };
    // What was due before the end is offered, also when its turn comes late: leaving it out would hide the lateness.
    while due < work.timing.until && !work.is_over_by_far(Instant::now()) {
        let mut now = Instant::now();
        let mut made = 0;
        while due <= now && due < work.timing.until && made < AT_ONCE && outstanding.len < MAX_OUTSTANDING {
            let shard = turn % shards;
            turn += 1;
            let pending = target
                .append(shard, payloads.next(), work.level, work.window)
                .map_err(|why| BenchError::failed("an append was refused while measuring", why))?;
            ideal = ideal.max(due);
            if work.timing.counts(due) {
                offered += 1;
                lag_ns.saturating_record(nanos(now.saturating_duration_since(ideal)));
            }
            outstanding.push(shard, pending, due);
            due = due_times.next().unwrap_or(work.timing.until);
            made += 1;
            let made_at = Instant::now();
            if made_at - now > NO_ROOM {
                ideal += made_at - now;
            }
            now = made_at;
        }
        if outstanding.len >= MAX_OUTSTANDING {
            ideal = now;
        }
        if outstanding.poll(&mut on_ack) == 0 && made == 0 {
            std::thread::yield_now();
        }
    }
    // Appends that were due and never made. While the log was full, that is overload; else the load was not what it
    // claims to be.
    let left_out_with_room = due < work.timing.until && ideal + OVERTIME < Instant::now();
    let missed = if due < work.timing.until {
        let mut missed = u64::from(work.timing.counts(due));
        missed += due_times
            .take_while(|due| *due < work.timing.until)
            .filter(|due| work.timing.counts(*due))
            .count() as u64;
        missed
    } else {
        0
    };
    outstanding.drain(target, &mut on_ack)?;
    recorder.lag_ns = lag_ns;
    recorder.left_out_with_room = left_out_with_room;
    recorder.offered = offered + missed;
    Ok(recorder)
}

impl Work<'_> {
    /// An open load may lag; one that lags this much has failed.
    fn is_over_by_far(&self, now: Instant) -> bool {
        now >= self.timing.until + OVERTIME || self.stop.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// An append that takes this long waited for the log: alone it takes less than a microsecond.
const NO_ROOM: Duration = Duration::from_micros(200);
/// Appends between two polls.
const AT_ONCE: usize = 32;
/// Below the limit of tickets, so that the log's own limit is never what blocks.
const MAX_OUTSTANDING: usize = 60_000;
/// How long after its end a load that lags may go on.
const OVERTIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Timing, toy::Toy};
    use crate::plan::Arrivals;
    use std::sync::atomic::AtomicBool;
    use towline_core::types::Level;

    fn measure(toy: &Toy, rate_per_s: f64) -> Recorder {
        let stop = AtomicBool::new(false);
        let timing = Timing::from_now(Duration::from_millis(20), Duration::from_millis(200));
        let work = Work {
            level: Level::On,
            window: None,
            record_bytes: 64,
            sizes: None,
            trim: false,
            timing,
            stop: &stop,
        };
        run(toy, &work, Schedule::new(rate_per_s, Arrivals::Constant, 1)).unwrap()
    }

    #[test]
    fn the_load_is_offered_as_intended_whatever_the_log_does() {
        let recorder = measure(&Toy::new(2, Duration::from_millis(5)), 2000.0);
        assert_eq!(recorder.offered, 400);
        assert_eq!(recorder.latency_ns.len(), 400);
        assert!(recorder.latency_ns.min() >= 4_990_000, "{}", recorder.latency_ns.min());
    }

    #[test]
    fn a_log_that_stalls_is_charged_for_every_append_that_was_due_meanwhile() {
        // Appends block for 100 ms once: a closed loop would see one slow append, an open one sees all that were due.
        let toy = Toy::new(1, Duration::ZERO);
        toy.block_once(100, Duration::from_millis(100));
        let recorder = measure(&toy, 1000.0);
        assert_eq!(recorder.offered, 200);
        let slow = recorder.latency_ns.count_between(20_000_000, 200_000_000);
        assert!(slow >= 60, "only {slow} appends were charged");
        // The generator itself was never late: it was the log that took nothing.
        let own_ns = recorder.lag_ns.value_at_quantile(0.5);
        assert!(own_ns < 20_000_000, "{own_ns}");
    }

    #[test]
    fn a_generator_that_cannot_keep_up_is_refused_and_one_whose_log_is_slow_is_not() {
        // Each append costs the generator 100 µs of its own time: 4,000 in 200 ms are out of reach.
        let toy = Toy::new(1, Duration::ZERO);
        toy.slow_appends(Duration::from_micros(100));
        assert!(!measure(&toy, 20_000.0).kept_up());
        // The same lateness, made by a log that lets appends wait.
        toy.slow_appends(Duration::from_millis(2));
        let recorder = measure(&toy, 2000.0);
        // A busy machine may add some lateness of its own; the log's would be hundreds of milliseconds.
        let own_ns = recorder.lag_ns.value_at_quantile(0.9);
        assert!(own_ns < 50_000_000 && recorder.latency_ns.value_at_quantile(0.9) > 4 * own_ns, "{own_ns}");
    }
}

//! `off` as fast as one thread can: the append itself is the acknowledgement.

use super::{Payloads, Pending, Recorder, Target, Trimmer, Work};
use crate::error::BenchError;
use std::time::Instant;

/// Appends until the time is over. Every `sample_every`-th latency is recorded (a power of two); with 1, the end of an
/// append is the start of the next, and the generator's own work counts. With `exposure_limit` it waits while more
/// payload than that is not safe yet, outside the latencies: appends at `off` would otherwise leave any standby behind.
///
/// Returns what was measured, and how many were appended in all.
///
/// # Errors
/// An append was refused, or was not acknowledged at once.
pub fn run<T: Target>(
    target: &T,
    work: &Work<'_>,
    sample_every: u64,
    exposure_limit: Option<u64>,
) -> Result<(Recorder, u64), BenchError> {
    let shards = target.shards();
    let mut recorder = Recorder::new();
    let mut trimmer = Trimmer::new(shards, work.trim);
    let mut payloads = Payloads::of(work, 0);
    let mut appended = 0u64;
    let mut counted = 0u64;
    let mut measuring = false;
    let mut last = Instant::now();
    'load: loop {
        for turn in 0..BETWEEN_CHECKS {
            let sampled = turn & (sample_every - 1) == 0;
            if sampled && sample_every > 1 {
                last = Instant::now();
            }
            let shard = turn as usize % shards;
            let mut pending = target
                .append(shard, payloads.next(), work.level, work.window)
                .map_err(|why| BenchError::failed("an append was refused while measuring", why))?;
            appended += 1;
            counted += u64::from(measuring);
            if sampled {
                let now = Instant::now();
                if measuring {
                    recorder.off(now - last);
                }
                last = now;
            }
            if turn + 1 == BETWEEN_CHECKS {
                match pending.try_get() {
                    Some(Ok(committed)) => {
                        trimmer.acked(target, shard, committed.end);
                        recorder.achieved[committed.level as usize] += u64::from(measuring) * BETWEEN_CHECKS;
                    }
                    Some(Err(why)) => return Err(BenchError::failed("an append at off failed", why)),
                    None => {
                        return Err(BenchError::Failed(
                            "an append at off was not acknowledged at once".into(),
                        ));
                    }
                }
            }
        }
        let mut now = Instant::now();
        if let Some(limit) = exposure_limit {
            while !work.is_over(now) && target.exposure_bytes().is_none_or(|exposed| exposed > limit) {
                std::thread::yield_now();
                now = Instant::now();
            }
        }
        if work.is_over(now) {
            break 'load;
        }
        measuring = now >= work.timing.measure_from;
        if sample_every == 1 {
            last = Instant::now();
        }
    }
    recorder.acked = counted;
    Ok((recorder, appended))
}

/// A latency in so many is recorded: the clock costs as much as a tenth of an append.
pub const SAMPLE_EVERY: u64 = 16;
/// Appends between two looks at the clock.
const BETWEEN_CHECKS: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Timing, toy::Toy};
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;
    use towline_core::types::Level;

    #[test]
    fn all_appends_are_counted_and_those_of_the_warm_up_are_not_measured() {
        let stop = AtomicBool::new(false);
        let toy = Toy::new(1, Duration::ZERO);
        let timing = Timing::from_now(Duration::from_millis(30), Duration::from_millis(60));
        let work = Work {
            level: Level::Off,
            window: None,
            record_bytes: 256,
            sizes: None,
            trim: true,
            timing,
            stop: &stop,
        };
        let (recorder, appended) = run(&toy, &work, 16, None).unwrap();
        assert_eq!(appended, toy.appended());
        assert!(recorder.acked > 0 && recorder.acked < appended, "{} of {appended}", recorder.acked);
        assert!(recorder.latency_ns.len() <= recorder.acked / 16 + 4);
    }
}

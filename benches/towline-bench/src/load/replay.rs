//! Replay of real WAL: COMMIT records at the level under test, up to 8 outstanding, all others at `off`.

use super::{Outstanding, Recorder, Target, Trimmer, Work};
use crate::error::BenchError;
use crate::replay::{OUTSTANDING, Wal};
use std::time::Instant;
use towline_core::format::Committed;
use towline_core::types::Level;

/// Replays the segment over and over until the time is over. One transaction log has one order: it goes to one shard.
pub(crate) fn run<T: Target>(target: &T, work: &Work<'_>, wal: &Wal) -> Result<Recorder, BenchError> {
    let mut recorder = Recorder::new();
    let mut outstanding = Outstanding::new(1, OUTSTANDING);
    let mut trimmer = Trimmer::new(1, work.trim);
    let mut on_ack = |shard, since, now, outcome: Result<Committed, String>| {
        if let Ok(committed) = &outcome {
            trimmer.acked(target, shard, committed.end);
        }
        recorder.ack(&work.timing, since, now, outcome);
    };
    let refused = |why| BenchError::failed("an append was refused while replaying", why);
    for row in wal.rows().iter().cycle() {
        if !row.commit {
            target.append(0, wal.bytes(row), Level::Off, None).map_err(refused)?;
            continue;
        }
        while outstanding.poll(&mut on_ack) == 0 && outstanding.len >= OUTSTANDING {
            std::thread::yield_now();
        }
        let since = Instant::now();
        if work.is_over(since) {
            break;
        }
        outstanding.push(
            0,
            target.append(0, wal.bytes(row), work.level, work.window).map_err(refused)?,
            since,
        );
    }
    outstanding.drain(target, &mut on_ack)?;
    Ok(recorder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Timing, toy::Toy};
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    #[test]
    fn commits_wait_and_everything_else_rides_along() {
        let stop = AtomicBool::new(false);
        let wal = Wal::bundled().unwrap();
        let toy = Toy::new(1, Duration::from_millis(1));
        let timing = Timing::from_now(Duration::ZERO, Duration::from_millis(60));
        let work = Work {
            level: Level::On,
            window: None,
            record_bytes: 8,
            sizes: None,
            trim: false,
            timing,
            stop: &stop,
        };
        let recorder = run(&toy, &work, &wal).unwrap();
        assert_eq!(toy.most_outstanding(), OUTSTANDING);
        let (on, off) = (toy.appended_at(Level::On), toy.appended_at(Level::Off));
        assert_eq!(on, recorder.latency_ns.len());
        // In the data set 4,219 of 29,344 records are commits.
        let share = on as f64 / (on + off) as f64;
        assert!((0.05..0.35).contains(&share), "{on} commits, {off} others");
    }
}

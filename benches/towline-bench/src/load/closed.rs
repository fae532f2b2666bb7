//! Closed loop: n outstanding appends of one thread, each replaced when it is acknowledged.

use super::timeline::Onlooker;
use super::{Outstanding, Payloads, Pending, Recorder, Target, Trimmer, Work};
use crate::error::BenchError;
use std::time::Instant;

/// Runs `clients` outstanding appends from this thread. It polls, yielding its core between polls: a thread that only
/// polls keeps the kernel's receive work off its core.
///
/// # Errors
/// An append was refused, or was not acknowledged in time.
pub fn run<T: Target>(target: &T, work: &Work<'_>, clients: usize) -> Result<Recorder, BenchError> {
    run_watched(target, work, clients, &mut ())
}

/// The same with somebody who looks at the log between the polls.
pub(crate) fn run_watched<T: Target>(
    target: &T,
    work: &Work<'_>,
    clients: usize,
    onlooker: &mut impl Onlooker<T>,
) -> Result<Recorder, BenchError> {
    let shards = target.shards();
    let mut recorder = Recorder::new();
    let mut outstanding = Outstanding::new(shards, clients);
    let mut trimmer = Trimmer::new(shards, work.trim);
    let mut payloads = Payloads::of(work, 0);
    let mut turn = 0usize;
    let mut on_ack = |shard, since, now, outcome: Result<_, _>| {
        if let Ok(committed) = &outcome {
            let committed: &towline_core::format::Committed = committed;
            trimmer.acked(target, shard, committed.end);
        }
        recorder.ack(&work.timing, since, now, outcome);
    };
    loop {
        let now = Instant::now();
        if work.is_over(now) {
            break;
        }
        while outstanding.len < clients {
            let since = Instant::now();
            let shard = turn % shards;
            turn += 1;
            let pending = target
                .append(shard, payloads.next(), work.level, work.window)
                .map_err(|why| BenchError::failed("an append was refused while measuring", why))?;
            onlooker.appended(shard, since, pending.end());
            outstanding.push(shard, pending, since);
        }
        onlooker.look(target);
        if outstanding.poll(&mut on_ack) == 0 {
            std::thread::yield_now();
        }
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
    use towline_core::types::Level;

    #[test]
    fn never_more_than_n_are_outstanding_and_latency_is_that_of_the_log() {
        let stop = AtomicBool::new(false);
        let toy = Toy::new(2, Duration::from_millis(2));
        let work = Work {
            level: Level::On,
            window: None,
            record_bytes: 64,
            sizes: None,
            trim: true,
            timing: Timing::from_now(Duration::from_millis(20), Duration::from_millis(100)),
            stop: &stop,
        };
        let recorder = run(&toy, &work, 5).unwrap();
        assert_eq!(toy.most_outstanding(), 5);
        // 5 clients at 2 ms each are 2,500 per second at most; a busy machine gives less.
        assert!((50..=260).contains(&recorder.acked), "{}", recorder.acked);
        assert!(recorder.latency_ns.min() >= 1_999_000, "{}", recorder.latency_ns.min());
        assert_eq!(recorder.achieved[Level::On as usize], recorder.latency_ns.len());
        assert_eq!(toy.outstanding(), 0);
    }
}

//! Closed loop with a thread for each client, parked while it waits: what an application without async does.

use super::{Payloads, Pending, Recorder, Target, Trimmer, Work};
use crate::error::BenchError;
use std::time::Instant;

/// Runs `clients` threads, each with one append at a time.
///
/// # Errors
/// An append was refused.
pub fn run<T: Target>(target: &T, work: &Work<'_>, clients: usize) -> Result<Recorder, BenchError> {
    let recorders = std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(clients);
        for client in 0..clients {
            let name = format!("client-{client}");
            let thread = std::thread::Builder::new().name(name).stack_size(256 << 10);
            threads.push(thread.spawn_scoped(scope, move || one(target, work, client)));
        }
        threads
            .into_iter()
            .map(|thread| match thread.map(|thread| thread.join()) {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(BenchError::Failed("a client thread panicked".into())),
                Err(error) => Err(BenchError::failed("cannot start a client thread", error)),
            })
            .collect::<Vec<_>>()
    });
    let mut merged = Recorder::new();
    for recorder in recorders {
        merged.merge(&recorder?);
    }
    Ok(merged)
}

fn one<T: Target>(target: &T, work: &Work<'_>, client: usize) -> Result<Recorder, BenchError> {
    let shard = client % target.shards();
    let mut recorder = Recorder::new();
    // One client per shard trims: acknowledgements of the others are near enough.
    let mut trimmer = Trimmer::new(target.shards(), work.trim && client < target.shards());
    let mut payloads = Payloads::of(work, (client as u64) << 40);
    loop {
        let since = Instant::now();
        if work.is_over(since) {
            return Ok(recorder);
        }
        let pending = target
            .append(shard, payloads.next(), work.level, work.window)
            .map_err(|why| BenchError::failed("an append was refused while measuring", why))?;
        let outcome = pending.wait();
        if let Ok(committed) = &outcome {
            trimmer.acked(target, shard, committed.end);
        }
        recorder.ack(&work.timing, since, Instant::now(), outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Timing, toy::Toy};
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;
    use towline_core::types::Level;

    #[test]
    fn every_client_has_a_thread_and_its_histogram_is_merged() {
        let stop = AtomicBool::new(false);
        let toy = Toy::new(1, Duration::from_millis(1));
        let timing = Timing::from_now(Duration::ZERO, Duration::from_millis(50));
        let work = Work {
            level: Level::Local,
            window: None,
            record_bytes: 64,
            sizes: None,
            trim: false,
            timing,
            stop: &stop,
        };
        let recorder = run(&toy, &work, 4).unwrap();
        assert_eq!(toy.most_outstanding(), 4);
        // Each thread's last acknowledgement comes after the end.
        assert_eq!(recorder.latency_ns.len(), toy.appended());
        assert!(recorder.acked < toy.appended());
    }
}

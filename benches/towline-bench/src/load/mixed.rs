//! One stream at two levels: most records at a weak one, one in n at a strong one, as an application uses levels that
//! are chosen per append. Closed loop; each level has its own latencies.

use super::{Outstanding, Payloads, Recorder, Target, Trimmer, Work};
use crate::error::BenchError;
use std::time::Instant;
use towline_core::types::Level;

/// Runs `clients` outstanding appends from this thread: at `work.level`, and every `one_in`-th at `strong`. Returns
/// what each saw, the weak one first. `acked` of each counts its own records.
pub(crate) fn run<T: Target>(
    target: &T,
    work: &Work<'_>,
    clients: usize,
    strong: Level,
    one_in: u32,
) -> Result<[Recorder; 2], BenchError> {
    let shards = target.shards();
    let mut recorders = [Recorder::new(), Recorder::new()];
    // Acknowledgements come in order within a shard and a level only: a queue for each of both.
    let mut outstanding = Outstanding::new(2 * shards, clients);
    let mut trimmer = Trimmer::new(shards, work.trim);
    let mut payloads = Payloads::of(work, 0);
    let mut turn = 0usize;
    let mut on_ack = |queue: usize, since, now, outcome: Result<_, _>| {
        if let Ok(committed) = &outcome {
            let committed: &towline_core::format::Committed = committed;
            trimmer.acked(target, queue / 2, committed.end);
        }
        recorders[queue % 2].ack(&work.timing, since, now, outcome);
    };
    loop {
        if work.is_over(Instant::now()) {
            break;
        }
        while outstanding.len < clients {
            let since = Instant::now();
            let (shard, is_strong) = (turn % shards, (turn / shards).is_multiple_of(one_in as usize));
            turn += 1;
            let level = if is_strong { strong } else { work.level };
            let pending = target
                .append(shard, payloads.next(), level, work.window)
                .map_err(|why| BenchError::failed("an append was refused while measuring", why))?;
            outstanding.push(2 * shard + usize::from(is_strong), pending, since);
        }
        if outstanding.poll(&mut on_ack) == 0 {
            std::thread::yield_now();
        }
    }
    outstanding.drain(target, &mut on_ack)?;
    Ok(recorders)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Timing, toy::Toy};
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    #[test]
    fn one_record_in_n_is_strong_and_each_level_has_its_own_latencies() {
        let stop = AtomicBool::new(false);
        let toy = Toy::new(2, Duration::from_millis(1));
        let work = Work {
            level: Level::Local,
            window: None,
            record_bytes: 64,
            sizes: None,
            trim: true,
            timing: Timing::from_now(Duration::ZERO, Duration::from_millis(120)),
            stop: &stop,
        };
        let [weak, strong] = run(&toy, &work, 8, Level::On, 10).unwrap();
        let (local, on) = (toy.appended_at(Level::Local), toy.appended_at(Level::On));
        assert_eq!((weak.latency_ns.len(), strong.latency_ns.len()), (local, on));
        let share = on as f64 / (on + local) as f64;
        assert!((0.08..0.14).contains(&share), "{share}");
        assert_eq!(weak.achieved[Level::Local as usize], local);
        assert_eq!(strong.achieved[Level::On as usize], on);
        assert_eq!((toy.most_outstanding(), toy.outstanding()), (8, 0));
    }
}

//! A shard on a thread of its own: spins for a while after the last event, then sleeps in its ring.

use rustix::thread::{CpuSet, sched_setaffinity, sched_yield};

use crate::shard::{Pace, Shard};

/// Carries the shard until it has ended.
pub(crate) fn carry(mut shard: Shard) -> Result<(), String> {
    loop {
        match shard.turn() {
            // A spin without a yield keeps the kernel's network threads off this core.
            Pace::Spin => sched_yield(),
            Pace::Park(limit) => shard.sleep(limit),
            Pace::Ended => return shard.finish(),
        }
    }
}

/// Binds this thread to a core. Where that is not allowed it runs anywhere: slower, not wrong.
pub(crate) fn pin(core: usize) {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let mut set = CpuSet::new();
    set.set(core % cores);
    let _ = sched_setaffinity(None, &set);
}

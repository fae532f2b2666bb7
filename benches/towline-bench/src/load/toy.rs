//! A log for the generators' own tests: it acknowledges after a fixed time and keeps nothing.

use super::{Pending, Target};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};
use towline_core::format::Committed;
use towline_core::types::{Level, Lsn, Window};

pub(crate) struct Toy {
    shards: usize,
    latency: Duration,
    counts: Arc<Counts>,
    block_at: AtomicU64,
    block_ns: AtomicU64,
    slow_ns: AtomicU64,
}

#[derive(Default)]
struct Counts {
    outstanding: AtomicU64,
    most: AtomicU64,
    by_level: [AtomicU64; 5],
}

impl Toy {
    pub(crate) fn new(shards: usize, latency: Duration) -> Self {
        let never = AtomicU64::new(u64::MAX);
        let (block_ns, slow_ns) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { shards, latency, counts: Arc::default(), block_at: never, block_ns, slow_ns }
    }

    pub(crate) fn block_once(&self, at_append: u64, duration: Duration) {
        self.block_at.store(at_append, SeqCst);
        self.block_ns.store(duration.as_nanos() as u64, SeqCst);
    }

    pub(crate) fn slow_appends(&self, duration: Duration) {
        self.slow_ns.store(duration.as_nanos() as u64, SeqCst);
    }

    pub(crate) fn appended(&self) -> u64 {
        self.counts.by_level.iter().map(|count| count.load(SeqCst)).sum()
    }

    pub(crate) fn appended_at(&self, level: Level) -> u64 {
        self.counts.by_level[level as usize].load(SeqCst)
    }

    pub(crate) fn outstanding(&self) -> u64 {
        self.counts.outstanding.load(SeqCst)
    }

    pub(crate) fn most_outstanding(&self) -> usize {
        self.counts.most.load(SeqCst) as usize
    }
}

impl Target for Toy {
    type Pending = ToyPending;

    fn shards(&self) -> usize {
        self.shards
    }

    fn append(
        &self,
        _: usize,
        payload: &[u8],
        level: Level,
        window: Option<Window>,
    ) -> Result<ToyPending, String> {
        let number = self.appended();
        self.counts.by_level[level as usize].fetch_add(1, SeqCst);
        if level > Level::Off {
            let outstanding = self.counts.outstanding.fetch_add(1, SeqCst) + 1;
            self.counts.most.fetch_max(outstanding, SeqCst);
        }
        if number == self.block_at.load(SeqCst) {
            std::thread::sleep(Duration::from_nanos(self.block_ns.load(SeqCst)));
        }
        // Not asleep: a sleep may take twice as long.
        let slow_until = Instant::now() + Duration::from_nanos(self.slow_ns.load(SeqCst));
        while Instant::now() < slow_until {
            std::hint::spin_loop();
        }
        let latency = if level == Level::Off { Duration::ZERO } else { self.latency };
        let end = Lsn((number + 1) * payload.len() as u64);
        Ok(ToyPending { ready: Instant::now() + latency, level, window, end, counts: self.counts.clone() })
    }

    fn trim(&self, shard: usize, _: Lsn) {
        assert!(shard < self.shards);
    }
}

pub(crate) struct ToyPending {
    ready: Instant,
    level: Level,
    window: Option<Window>,
    end: Lsn,
    counts: Arc<Counts>,
}

impl Pending for ToyPending {
    fn try_get(&mut self) -> Option<Result<Committed, String>> {
        if Instant::now() < self.ready {
            return None;
        }
        if self.level > Level::Off {
            self.counts.outstanding.fetch_sub(1, SeqCst);
        }
        Some(Ok(Committed {
            lsn: Lsn(0),
            end: self.end,
            level: self.level,
            window: self.window,
            rule_version: 1,
            fill_bytes: 0,
            waited_for_window: false,
        }))
    }

    fn wait(mut self) -> Result<Committed, String> {
        loop {
            match self.try_get() {
                Some(outcome) => return outcome,
                None => std::thread::sleep(Duration::from_micros(50)),
            }
        }
    }
}

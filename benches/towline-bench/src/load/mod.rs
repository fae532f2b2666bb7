//! Load generators: how appends are offered, and what each acknowledgement is recorded as.
//!
//! They know a log only as a [`Target`]. Start at [`flood`], [`closed`], [`threads`], `open`, `mixed`
//! and `replay`.

pub mod closed;
pub mod flood;
pub(crate) mod mixed;
pub(crate) mod open;
pub(crate) mod parts;
pub(crate) mod payloads;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod schedule;
pub mod threads;
pub(crate) mod timeline;
#[cfg(test)]
pub(crate) mod toy;

pub use payloads::Payloads;
pub use record::Recorder;

use crate::error::BenchError;
use payloads::Sizes;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use towline_core::format::Committed;
use towline_core::types::{Level, Lsn, Window};

/// A log under load.
pub trait Target: Sync {
    /// An append that waits for its acknowledgement.
    type Pending: Pending;

    /// How many logs there are; appends are spread over them.
    fn shards(&self) -> usize;

    /// Appends, waiting for room.
    ///
    /// # Errors
    /// The log refuses appends: the measurement is over.
    fn append(
        &self,
        shard: usize,
        payload: &[u8],
        level: Level,
        window: Option<Window>,
    ) -> Result<Self::Pending, String>;

    /// The records below are no longer needed.
    fn trim(&self, shard: usize, below: Lsn);

    /// Acknowledged payload that no standby has flushed, by the rule; `None` where that is not known.
    fn exposure_bytes(&self) -> Option<u64> {
        None
    }

    /// The watermarks of a shard: batched and flushed here, then written, flushed and applied of each standby, as many
    /// as `into` has places. Left as they are where they cannot be read for next to nothing.
    fn watermarks(&self, shard: usize, into: &mut [Lsn]) {
        let _ = (shard, into);
    }

    /// Where it stands, for an error.
    fn standing(&self) -> String {
        String::new()
    }
}

/// An append on its way to its acknowledgement.
pub trait Pending: Send {
    /// The acknowledgement, if it has come; never blocks. At `off` it has always come.
    fn try_get(&mut self) -> Option<Result<Committed, String>>;

    /// One past the record's last byte, where that is known before the acknowledgement.
    fn end(&self) -> Option<Lsn> {
        None
    }

    /// Sleeps until it comes.
    ///
    /// # Errors
    /// The append was refused, or its end is not known.
    fn wait(self) -> Result<Committed, String>;
}

/// When a load starts, when measuring starts, and when it ends.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// When the load starts.
    pub start: Instant,
    /// The end of the warm-up.
    pub measure_from: Instant,
    /// The end of the load.
    pub until: Instant,
}

impl Timing {
    /// A load that starts now.
    pub fn from_now(warm_up: Duration, duration: Duration) -> Self {
        let start = Instant::now();
        Self { start, measure_from: start + warm_up, until: start + warm_up + duration }
    }

    /// Measured time.
    pub fn duration(&self) -> Duration {
        self.until - self.measure_from
    }

    /// Whether `at` is in the measured time.
    pub fn counts(&self, at: Instant) -> bool {
        self.measure_from <= at && at < self.until
    }
}

/// One load on one log.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// Commit level of every append.
    pub level: Level,
    /// Its window, in any unit; `None`: the level itself.
    pub window: Option<Window>,
    /// Payload bytes of a record.
    pub record_bytes: usize,
    /// Sizes of the records, where they vary.
    pub sizes: Option<&'a Sizes>,
    /// Trim as acknowledgements come, so that retention is never what is measured.
    pub trim: bool,
    /// When.
    pub timing: Timing,
    /// Ctrl-C.
    pub stop: &'a AtomicBool,
}

impl Work<'_> {
    /// Whether the time is over, or Ctrl-C came.
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.timing.until || self.stop.load(Ordering::Relaxed)
    }
}

/// Appends of one thread in the order in which they were made, by shard. With one level and one window,
/// acknowledgements come in that order too: only the oldest needs to be asked.
pub(crate) struct Outstanding<P> {
    queues: Vec<VecDeque<(P, Instant)>>,
    pub(crate) len: usize,
}

impl<P: Pending> Outstanding<P> {
    pub(crate) fn new(shards: usize, capacity: usize) -> Self {
        Self { queues: (0..shards).map(|_| VecDeque::with_capacity(capacity)).collect(), len: 0 }
    }

    pub(crate) fn push(&mut self, shard: usize, pending: P, since: Instant) {
        self.queues[shard].push_back((pending, since));
        self.len += 1;
    }

    /// Hands every acknowledgement that has come to `on_ack`, with the shard, since when it was waited for and when
    /// it was seen. Returns how many.
    pub(crate) fn poll(
        &mut self,
        mut on_ack: impl FnMut(usize, Instant, Instant, Result<Committed, String>),
    ) -> usize {
        let before = self.len;
        for (shard, queue) in self.queues.iter_mut().enumerate() {
            while let Some((pending, since)) = queue.front_mut() {
                let Some(outcome) = pending.try_get() else { break };
                on_ack(shard, *since, Instant::now(), outcome);
                queue.pop_front();
                self.len -= 1;
            }
        }
        before - self.len
    }

    /// After the last append: waits for what is still on its way, up to [`DRAIN`].
    pub(crate) fn drain(
        &mut self,
        target: &impl Target,
        mut on_ack: impl FnMut(usize, Instant, Instant, Result<Committed, String>),
    ) -> Result<(), BenchError> {
        let deadline = Instant::now() + DRAIN;
        while self.len > 0 {
            if self.poll(&mut on_ack) == 0 {
                if Instant::now() > deadline {
                    // Asked while they still wait: a dropped ticket waits no more.
                    return Err(BenchError::Failed(format!(
                        "{} appends were not acknowledged within {} s after the load ended: {}",
                        self.len,
                        DRAIN.as_secs(),
                        target.standing()
                    )));
                }
                std::thread::yield_now();
            }
        }
        Ok(())
    }
}

/// Trims one shard after the other as acknowledgements come.
pub(crate) struct Trimmer {
    trimmed: Vec<Lsn>,
    on: bool,
}

impl Trimmer {
    pub(crate) fn new(shards: usize, on: bool) -> Self {
        Self { trimmed: vec![Lsn::default(); shards], on }
    }

    pub(crate) fn acked<T: Target>(&mut self, target: &T, shard: usize, end: Lsn) {
        if self.on && end.bytes_since(self.trimmed[shard]) >= TRIM_EVERY_BYTES {
            self.trimmed[shard] = end;
            target.trim(shard, end);
        }
    }
}

/// How long an acknowledgement may still come after the load has ended.
pub const DRAIN: Duration = Duration::from_secs(20);
/// A segment's worth.
const TRIM_EVERY_BYTES: u64 = 32 << 20;

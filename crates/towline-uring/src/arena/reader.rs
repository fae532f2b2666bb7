//! Readers: copies of published log bytes, taken while the owner goes on releasing.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Shared;

/// Readers that may exist at a time in one arena.
pub const MAX_READERS: usize = 16;

/// Copies published bytes out of the arena, from its own thread.
pub struct ArenaReader {
    shared: Arc<Shared>,
    index: usize,
}

impl ArenaReader {
    pub(super) fn new(shared: &Arc<Shared>) -> Option<Self> {
        let index = shared.readers.slots.iter().position(|slot| {
            slot.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })?;
        Some(Self { shared: Arc::clone(shared), index })
    }

    /// The positions a copy may name at this moment; the lower end moves on as the owner releases.
    pub fn readable(&self) -> Range<u64> {
        let to = self.shared.readable_to.load(Ordering::Acquire);
        self.shared.readable_from.load(Ordering::Acquire).min(to)..to
    }

    /// Appends the bytes of `range` to `out`. The owner cannot reuse them during the copy, and is never
    /// kept waiting: it postpones the release.
    ///
    /// # Errors
    /// [`Gone`] when the range is not, or no longer, in the arena; `out` is unchanged.
    pub fn copy_out(&mut self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), Gone> {
        if range.start > range.end || range.end - range.start > self.shared.map.size() {
            return Err(Gone);
        }
        // Growing the vector may panic or take long: not under the announcement.
        out.reserve((range.end - range.start) as usize);
        let slot = &self.shared.readers.slots[self.index];
        // Announce first, then look: with both sides sequentially consistent, either the owner sees the
        // announcement before it reuses the range, or we see that the range is released.
        slot.end.store(range.end, Ordering::SeqCst);
        slot.start.store(range.start, Ordering::SeqCst);
        let here = range.start >= self.shared.readable_from.load(Ordering::SeqCst)
            && range.end <= self.shared.readable_to.load(Ordering::SeqCst);
        if here {
            let len = (range.end - range.start) as usize;
            // SAFETY: the range is published and announced, so that nobody writes to it until the
            // announcement is withdrawn below; publication made its bytes visible (acquire above).
            out.extend_from_slice(unsafe { self.shared.slice(range.start, len) });
        }
        slot.start.store(IDLE, Ordering::Release);
        if here { Ok(()) } else { Err(Gone) }
    }
}

impl Drop for ArenaReader {
    fn drop(&mut self) {
        let slot = &self.shared.readers.slots[self.index];
        slot.taken.store(false, Ordering::Release);
    }
}

/// The range is not in the arena: released, or not published yet. Read it from the segment files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the range is not in the arena")]
pub struct Gone;

/// What each reader is copying this moment.
pub(super) struct ReaderTable {
    slots: [Slot; MAX_READERS],
}

struct Slot {
    taken: AtomicBool,
    start: AtomicU64,
    end: AtomicU64,
}

impl ReaderTable {
    pub(super) fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| Slot {
                taken: AtomicBool::new(false),
                start: AtomicU64::new(IDLE),
                end: AtomicU64::new(0),
            }),
        }
    }

    /// Lowest position under a copy, `u64::MAX` when there is none.
    pub(super) fn lowest(&self) -> u64 {
        self.slots.iter().map(|slot| slot.start.load(Ordering::SeqCst)).min().unwrap_or(IDLE)
    }

    /// Highest end of a range under a copy, 0 when there is none.
    pub(super) fn highest(&self) -> u64 {
        self.slots
            .iter()
            .filter(|slot| slot.start.load(Ordering::SeqCst) != IDLE)
            .map(|slot| slot.end.load(Ordering::SeqCst))
            .max()
            .unwrap_or(0)
    }
}

const IDLE: u64 = u64::MAX;

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

    /// Copies the bytes of `range`, which `out` is as long as. The owner cannot reuse them during the copy, and is never
    /// kept waiting: it postpones the release.
    ///
    /// # Errors
    /// [`Gone`] when the range is not, or no longer, in the arena, or not as long as `out`, which is unchanged.
    pub fn copy_out(&mut self, range: Range<u64>, out: &mut [u8]) -> Result<(), Gone> {
        if range.end.checked_sub(range.start) != Some(out.len() as u64)
            || out.len() as u64 > self.shared.map.size()
        {
            return Err(Gone);
        }
        let slot = &self.shared.readers.slots[self.index];
        // Announce first, then look: with both sides sequentially consistent, either the owner sees the
        // announcement before it reuses the range, or we see that the range is released.
        slot.end.store(range.end, Ordering::SeqCst);
        slot.start.store(range.start, Ordering::SeqCst);
        let here = range.start >= self.shared.readable_from.load(Ordering::SeqCst)
            && range.end <= self.shared.readable_to.load(Ordering::SeqCst);
        if here {
            // SAFETY: the range is published and announced, so that nobody writes to it until the
            // announcement is withdrawn below; publication made its bytes visible (acquire above).
            out.copy_from_slice(unsafe { self.shared.slice(range.start, out.len()) });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::{ArenaConfig, ArenaError, ArenaOwner, Backing};

    /// A copy in the middle, as the owner sees it: the announcement stands, the bytes are being read.
    #[test]
    fn a_copy_under_way_holds_back_release_and_rewind_but_not_the_owner() {
        let mut owner = ArenaOwner::new(ArenaConfig {
            size: 64 * 1024,
            backing: Backing::Anonymous,
            block: 4096,
            header_len: 128,
            void_header: |len| (len as u64).to_le_bytes(),
            start: 0,
        })
        .unwrap();
        owner.bytes_mut(0..32_768).unwrap().fill(3);
        owner.publish(32_768).unwrap();
        let mut reader = owner.reader().unwrap();
        let shared = Arc::clone(&reader.shared);
        let slot = &shared.readers.slots[reader.index];
        slot.end.store(12_288, Ordering::SeqCst);
        slot.start.store(8192, Ordering::SeqCst);
        assert_eq!(owner.release(16_384), 8192, "up to the copy, at once");
        assert_eq!(owner.set_limit(u64::MAX), 8192 + 65_536, "producers stay out of it too");
        assert!(owner.bytes(8192..12_288).unwrap().iter().all(|byte| *byte == 3), "not poisoned");
        assert!(matches!(owner.rewind(8192), Err(ArenaError::Busy)));
        assert!(owner.bytes_mut(8192..12_288).is_none());
        slot.start.store(IDLE, Ordering::SeqCst);
        assert_eq!(owner.release(16_384), 16_384);
        owner.rewind(16_384).unwrap();
        let mut out = vec![1; 4096];
        assert_eq!(reader.copy_out(8192..12_288, &mut out), Err(Gone));
        assert_eq!(reader.copy_out(16_384..16_392, &mut out[..8]), Err(Gone), "cut off by the rewind");
        assert_eq!(out, [1; 4096]);
    }

    #[test]
    fn readers_are_limited_and_their_slots_return() {
        let mut config = ArenaConfig {
            size: 64 * 1024,
            backing: Backing::Anonymous,
            block: 4096,
            header_len: 128,
            void_header: |len| (len as u64).to_le_bytes(),
            start: 4096,
        };
        let owner = ArenaOwner::new(config.clone()).unwrap();
        let mut readers: Vec<_> = (0..MAX_READERS).map(|_| owner.reader().unwrap()).collect();
        assert!(owner.reader().is_none());
        assert_eq!(readers[0].copy_out(0..u64::MAX, &mut []), Err(Gone));
        assert_eq!(readers[0].copy_out(4096..4104, &mut [0; 4]), Err(Gone), "not as long");
        readers.pop();
        assert!(owner.reader().is_some());
        config.size = 100_000;
        assert!(matches!(ArenaOwner::new(config), Err(ArenaError::Config(_))));
    }
}

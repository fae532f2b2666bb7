//! Long-lived zero-copy reservations, which the owner may void when they are forgotten.
#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::append::fill_void;
use super::{Appender, ReserveError, Shared};

/// Held reservations that may exist at a time in one arena.
pub const MAX_HELD: usize = 64;

impl Appender {
    /// Reserves `len` bytes that may be built in place over a longer time. `now_ns` is the clock that
    /// [`ArenaOwner::void_overdue`](super::ArenaOwner::void_overdue) is called with.
    ///
    /// # Errors
    /// [`ReserveError`]; nothing was reserved.
    pub fn hold(&self, len: usize, now_ns: u64) -> Result<Held, ReserveError> {
        let holds = &self.shared.holds;
        let Some((index, generation)) = holds.take() else { return Err(ReserveError::TooManyHeld) };
        let slot = &holds.slots[index];
        match self.shared.reserve(len) {
            Ok((position, epoch)) => {
                slot.position.store(position, Ordering::Relaxed);
                slot.len.store(len as u64, Ordering::Relaxed);
                slot.epoch.store(epoch as u64, Ordering::Relaxed);
                slot.since_ns.store(now_ns, Ordering::Relaxed);
                slot.state.store(word(generation, IDLE), Ordering::Release);
                Ok(Held { shared: Arc::clone(&self.shared), index, generation, position, len, epoch })
            }
            Err(error) => {
                slot.state.store(word(generation.wrapping_add(1), FREE), Ordering::Release);
                Err(error)
            }
        }
    }
}

/// A reservation that outlives the call that made it. Dropping it makes it a void record.
///
/// The owner may void it while nobody writes to it; after that [`Held::fill`] answers `None`. It is
/// never taken from a writer in the middle of [`FillGuard`]: the writer could not be stopped, and one
/// position would have two contents. A guard that is never dropped therefore stops the log.
#[must_use = "a held reservation that is dropped becomes a void record"]
pub struct Held {
    shared: Arc<Shared>,
    index: usize,
    generation: u64,
    position: u64,
    len: usize,
    epoch: usize,
}

impl Held {
    /// Position of the first byte.
    pub fn pos(&self) -> u64 {
        self.position
    }

    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a reservation is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Opens the span for writing; `None` when it was voided.
    pub fn fill(&mut self) -> Option<FillGuard<'_>> {
        // Not `then_some`: a guard that is built gives the slot back when it is dropped.
        if self.claim() { Some(FillGuard { held: self }) } else { None }
    }

    /// Gives the span to the owner; returns its end position.
    ///
    /// # Errors
    /// [`Voided`]: the owner made it a void record before.
    pub fn commit(self) -> Result<u64, Voided> {
        // The drop finds the slot no longer its own and does nothing.
        if !self.claim() {
            return Err(Voided);
        }
        self.finish();
        Ok(self.position + self.len as u64)
    }

    /// Takes the span from the owner's reach; false when the owner voided it. A word left at WRITING by
    /// a leaked guard is ours too: the guard's borrow has ended.
    fn claim(&self) -> bool {
        let slot = &self.shared.holds.slots[self.index];
        let writing = word(self.generation, WRITING);
        match slot.state.compare_exchange(
            word(self.generation, IDLE),
            writing,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => true,
            Err(now) => now == writing,
        }
    }

    fn finish(&self) {
        self.shared.commit(self.len, self.epoch);
        self.shared.holds.free(self.index, self.generation);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.claim() {
            let header = (self.shared.void_header)(self.len);
            // SAFETY: the span is claimed (WRITING), so that the owner does not touch it before the
            // commit in `finish`; no guard is alive, because `self` is borrowed exclusively.
            fill_void(unsafe { self.shared.slice_mut(self.position, self.len) }, header);
            self.finish();
        }
    }
}

/// Write access to a held span; the owner cannot void it meanwhile.
pub struct FillGuard<'a> {
    held: &'a mut Held,
}

impl Deref for FillGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the guard's WRITING word gives the span to it alone until it is dropped, and writing
        // needs `&mut self`.
        unsafe { self.held.shared.slice(self.held.position, self.held.len) }
    }
}

impl DerefMut for FillGuard<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { self.held.shared.slice_mut(self.held.position, self.held.len) }
    }
}

impl Drop for FillGuard<'_> {
    fn drop(&mut self) {
        let slot = &self.held.shared.holds.slots[self.held.index];
        // Release: what was written is visible to whoever claims or voids the span next.
        slot.state.store(word(self.held.generation, IDLE), Ordering::Release);
    }
}

/// The owner made the held reservation a void record; what was written to it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reservation was held too long and has been voided")]
pub struct Voided;

/// A fixed table of held reservations. A slot's word is a generation and a state; whoever swaps IDLE
/// for another state has the span alone.
pub(super) struct HoldTable {
    slots: [Slot; MAX_HELD],
}

#[derive(Default)]
struct Slot {
    state: AtomicU64,
    position: AtomicU64,
    len: AtomicU64,
    epoch: AtomicU64,
    since_ns: AtomicU64,
}

impl HoldTable {
    pub(super) fn new() -> Self {
        Self { slots: std::array::from_fn(|_| Slot::default()) }
    }

    fn take(&self) -> Option<(usize, u64)> {
        self.slots.iter().enumerate().find_map(|(index, slot)| {
            let seen = slot.state.load(Ordering::Relaxed);
            let generation = seen >> STATE_BITS;
            (seen & STATE_MASK == FREE
                && slot
                    .state
                    .compare_exchange(seen, word(generation, TAKEN), Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok())
            .then_some((index, generation))
        })
    }

    fn free(&self, index: usize, generation: u64) {
        self.slots[index].state.store(word(generation.wrapping_add(1), FREE), Ordering::Release);
    }
}

impl Shared {
    /// Voids idle holds that are at least `limit_ns` old; returns how many.
    pub(super) fn void_overdue(&self, now_ns: u64, limit_ns: u64) -> usize {
        let mut voided = 0;
        for (index, slot) in self.holds.slots.iter().enumerate() {
            let seen = slot.state.load(Ordering::Acquire);
            if seen & STATE_MASK != IDLE
                || now_ns.saturating_sub(slot.since_ns.load(Ordering::Relaxed)) < limit_ns
            {
                continue;
            }
            let generation = seen >> STATE_BITS;
            // The swap fails when the holder began to write, committed or dropped it meanwhile; the
            // generation keeps it from hitting the slot's next user.
            if slot
                .state
                .compare_exchange(seen, word(generation, VOIDING), Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                continue;
            }
            let position = slot.position.load(Ordering::Relaxed);
            let len = slot.len.load(Ordering::Relaxed) as usize;
            let epoch = slot.epoch.load(Ordering::Relaxed) as usize;
            // SAFETY: the swap from IDLE took the span from its holder, who sees it as voided from now on.
            fill_void(unsafe { self.slice_mut(position, len) }, (self.void_header)(len));
            self.commit(len, epoch);
            self.holds.free(index, generation);
            voided += 1;
        }
        voided
    }
}

fn word(generation: u64, state: u64) -> u64 {
    (generation << STATE_BITS) | state
}

const STATE_BITS: u32 = 3;
const STATE_MASK: u64 = (1 << STATE_BITS) - 1;
const FREE: u64 = 0;
const TAKEN: u64 = 1;
const IDLE: u64 = 2;
const WRITING: u64 = 3;
const VOIDING: u64 = 4;

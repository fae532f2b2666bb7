//! Ticket slots: a fixed slab, in which producers take slots and the shard puts outcomes. Nothing is allocated
//! per append.
//!
//! A slot's word is its generation and its state. `FREE → PENDING` by the producer, `PENDING → DONE` by the shard,
//! `DONE → FREE` by whoever reads the outcome; a ticket that is dropped before makes it `ABANDONED`, and the shard
//! frees it when the outcome comes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

use atomic_waker::AtomicWaker;
use towline_core::format::Committed;
use towline_core::node::TicketOutcome;
use towline_core::types::limits::MAX_TICKETS;
use towline_core::types::{Level, Lsn, TicketId, Window};

use crate::error::TicketError;

/// The slab.
pub(crate) struct Slots {
    slots: Box<[Slot]>,
    /// Head of the list of free slots: a count of changes above, the index below. Last in, first out: the slots
    /// in use stay in the caches.
    free: AtomicU64,
    next: Box<[AtomicU32]>,
    /// Texts of tickets that ended without an ack: rare, so not in the slots.
    failures: Mutex<HashMap<u64, TicketError>>,
    /// Threads that spin for an outcome at this moment.
    pub(crate) spinning: AtomicU32,
}

/// What a slot says.
#[derive(Clone, Debug)]
pub(crate) enum SlotState {
    Pending,
    Done(Result<Committed, TicketError>),
}

#[repr(align(64))]
struct Slot {
    word: AtomicU64,
    /// Level, window kind and flags of the outcome, packed.
    flags: AtomicU64,
    window: AtomicU64,
    rule_version: AtomicU64,
    fill_bytes: AtomicU64,
    waker: AtomicWaker,
}

impl Slots {
    pub(crate) fn new(count: usize) -> Slots {
        let count = count.clamp(1, MAX_TICKETS);
        let slots = (0..count)
            .map(|_| Slot {
                word: AtomicU64::new(FREE),
                flags: AtomicU64::new(0),
                window: AtomicU64::new(0),
                rule_version: AtomicU64::new(0),
                fill_bytes: AtomicU64::new(0),
                waker: AtomicWaker::new(),
            })
            .collect();
        let next =
            (0..count).map(|at| AtomicU32::new(if at + 1 < count { at as u32 + 1 } else { NONE })).collect();
        Slots {
            slots,
            free: AtomicU64::new(0),
            next,
            failures: Mutex::new(HashMap::new()),
            spinning: AtomicU32::new(0),
        }
    }

    /// Takes a slot; `None` when as many tickets wait as may.
    pub(crate) fn take(&self) -> Option<TicketId> {
        let mut head = self.free.load(Ordering::Acquire);
        let index = loop {
            let index = head as u32;
            if index == NONE {
                return None;
            }
            let next = self.next[index as usize].load(Ordering::Relaxed);
            // The count in the upper half makes a head that left and returned meanwhile look different.
            let new = bump(head) | u64::from(next);
            match self.free.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break index,
                Err(now) => head = now,
            }
        };
        let slot = &self.slots[index as usize];
        let generation = slot.word.load(Ordering::Relaxed) >> STATE_BITS;
        slot.word.store(word(generation, PENDING), Ordering::Release);
        Some(TicketId((generation & GENERATION_MASK) << 32 | u64::from(index)))
    }

    /// Gives back a slot that nothing was done with.
    pub(crate) fn give_back(&self, id: TicketId) {
        if let Some((index, slot)) = self.slot(id) {
            self.free_slot(index, slot);
        }
    }

    /// The shard's: the ticket has ended. True when somebody may be waiting for it.
    pub(crate) fn complete(&self, id: TicketId, outcome: &TicketOutcome) -> bool {
        let Some((index, slot)) = self.slot(id) else { return false };
        match outcome {
            TicketOutcome::Committed(committed) => slot.put(committed),
            TicketOutcome::Indeterminate(why) => {
                self.put_failure(id, slot, TicketError::Indeterminate(why.clone()))
            }
            TicketOutcome::Refused(why) => self.put_failure(id, slot, TicketError::Refused(why.clone())),
        }
        let generation = generation_of(id);
        let done = word(generation, DONE);
        // Release: the outcome above is visible to whoever sees DONE.
        if slot
            .word
            .compare_exchange(word(generation, PENDING), done, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            slot.waker.wake();
            return true;
        }
        // Abandoned: nobody will read it.
        self.take_failure(id);
        self.free_slot(index, slot);
        false
    }

    /// The owner's look. `Done` is returned once; it frees the slot.
    pub(crate) fn poll(&self, id: TicketId, lsn: Lsn, end: Lsn) -> SlotState {
        let Some((index, slot)) = self.slot(id) else {
            return SlotState::Done(Err(TicketError::Indeterminate(
                "its outcome was taken before".to_owned(),
            )));
        };
        if slot.word.load(Ordering::Acquire) & STATE_MASK != DONE {
            return SlotState::Pending;
        }
        let outcome = match slot.get(lsn, end) {
            Some(committed) => Ok(committed),
            None => {
                Err(self.take_failure(id).unwrap_or_else(|| TicketError::Indeterminate("unknown".to_owned())))
            }
        };
        self.free_slot(index, slot);
        SlotState::Done(outcome)
    }

    /// Who is to be woken.
    pub(crate) fn register(&self, id: TicketId, waker: &Waker) {
        if let Some((_, slot)) = self.slot(id) {
            slot.waker.register(waker);
        }
    }

    /// The owner gives up. True when the ticket was still pending: the shard frees its slot later.
    pub(crate) fn abandon(&self, id: TicketId) -> bool {
        let Some((index, slot)) = self.slot(id) else { return false };
        let generation = generation_of(id);
        let pending = word(generation, PENDING);
        let abandoned = word(generation, ABANDONED);
        if slot.word.compare_exchange(pending, abandoned, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return true;
        }
        self.take_failure(id);
        self.free_slot(index, slot);
        false
    }

    /// The shard has ended: whatever waits ends with it.
    pub(crate) fn end_all(&self, why: &str) {
        for (index, slot) in self.slots.iter().enumerate() {
            let word = slot.word.load(Ordering::Acquire);
            if matches!(word & STATE_MASK, PENDING | ABANDONED) {
                let id = TicketId(((word >> STATE_BITS) & GENERATION_MASK) << 32 | index as u64);
                self.complete(id, &TicketOutcome::Indeterminate(why.to_owned()));
            }
        }
    }

    /// The slot, if `id` still names its present user.
    fn slot(&self, id: TicketId) -> Option<(u32, &Slot)> {
        let index = id.0 as u32;
        let slot = self.slots.get(index as usize)?;
        let now = slot.word.load(Ordering::Acquire);
        (now & STATE_MASK != FREE && (now >> STATE_BITS) & GENERATION_MASK == generation_of(id))
            .then_some((index, slot))
    }

    fn free_slot(&self, index: u32, slot: &Slot) {
        let generation = ((slot.word.load(Ordering::Relaxed) >> STATE_BITS) + 1) & GENERATION_MASK;
        slot.word.store(word(generation, FREE), Ordering::Release);
        let mut head = self.free.load(Ordering::Acquire);
        loop {
            self.next[index as usize].store(head as u32, Ordering::Relaxed);
            let new = bump(head) | u64::from(index);
            match self.free.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    fn put_failure(&self, id: TicketId, slot: &Slot, error: TicketError) {
        slot.flags.store(FAILED, Ordering::Relaxed);
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).insert(id.0, error);
    }

    fn take_failure(&self, id: TicketId) -> Option<TicketError> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&id.0)
    }
}

impl Slot {
    fn put(&self, committed: &Committed) {
        let (kind, window) = match committed.window {
            None => (0, 0),
            Some(Window::Bytes(n)) => (1, n),
            Some(Window::Records(n)) => (2, n),
            Some(Window::Micros(n)) => (3, n),
            Some(Window::Infinite) => (4, 0),
        };
        let waited = u64::from(committed.waited_for_window);
        let flags = u64::from(committed.level.to_wire()) | kind << 8 | waited << 16;
        self.flags.store(flags, Ordering::Relaxed);
        self.window.store(window, Ordering::Relaxed);
        self.rule_version.store(committed.rule_version, Ordering::Relaxed);
        self.fill_bytes.store(committed.fill_bytes, Ordering::Relaxed);
    }

    fn get(&self, lsn: Lsn, end: Lsn) -> Option<Committed> {
        let flags = self.flags.load(Ordering::Relaxed);
        let level = Level::from_wire(flags as u8)?;
        let n = self.window.load(Ordering::Relaxed);
        let window = match flags >> 8 & 0xff {
            1 => Some(Window::Bytes(n)),
            2 => Some(Window::Records(n)),
            3 => Some(Window::Micros(n)),
            4 => Some(Window::Infinite),
            _ => None,
        };
        Some(Committed {
            lsn,
            end,
            level,
            window,
            rule_version: self.rule_version.load(Ordering::Relaxed),
            fill_bytes: self.fill_bytes.load(Ordering::Relaxed),
            waited_for_window: flags >> 16 & 1 == 1,
        })
    }
}

fn generation_of(id: TicketId) -> u64 {
    id.0 >> 32
}

fn word(generation: u64, state: u64) -> u64 {
    generation << STATE_BITS | state
}

fn bump(head: u64) -> u64 {
    ((head >> 32).wrapping_add(1)) << 32
}

const STATE_BITS: u32 = 2;
const STATE_MASK: u64 = 0b11;
const FREE: u64 = 0;
const PENDING: u64 = 1;
const DONE: u64 = 2;
const ABANDONED: u64 = 3;
/// Below bit 31, so that a ticket's number never has its highest bit: that one marks the shard's own tickets.
const GENERATION_MASK: u64 = 0x7fff_ffff;
const NONE: u32 = u32::MAX;
/// No level has this number.
const FAILED: u64 = 0xff;

#[cfg(test)]
mod tests {
    use super::*;

    fn committed() -> Committed {
        Committed {
            lsn: Lsn(8),
            end: Lsn(16),
            level: Level::On,
            window: Some(Window::Records(3)),
            rule_version: 7,
            fill_bytes: 99,
            waited_for_window: true,
        }
    }

    #[test]
    fn an_outcome_is_read_once_as_it_was_put() {
        let slots = Slots::new(2);
        let id = slots.take().unwrap();
        assert!(matches!(slots.poll(id, Lsn(8), Lsn(16)), SlotState::Pending));
        assert!(slots.complete(id, &TicketOutcome::Committed(committed())));
        assert!(matches!(slots.poll(id, Lsn(8), Lsn(16)), SlotState::Done(Ok(c)) if c == committed()));
        assert!(matches!(slots.poll(id, Lsn(8), Lsn(16)), SlotState::Done(Err(_))));
        assert!(!slots.complete(id, &TicketOutcome::Committed(committed())), "late outcome of a reused slot");
    }

    #[test]
    fn slots_are_bounded_and_come_back() {
        let slots = Slots::new(2);
        let (a, b) = (slots.take().unwrap(), slots.take().unwrap());
        assert!(slots.take().is_none());
        assert!(slots.abandon(a), "pending");
        assert!(slots.take().is_none(), "an abandoned slot is the shard's until the outcome comes");
        assert!(!slots.complete(a, &TicketOutcome::Indeterminate("x".into())));
        assert!(slots.failures.lock().unwrap().is_empty());
        let c = slots.take().unwrap();
        assert_ne!(a, c);
        slots.complete(b, &TicketOutcome::Refused("y".into()));
        assert!(!slots.abandon(b), "done already: freed at once");
        assert!(slots.failures.lock().unwrap().is_empty());
        assert!(slots.take().is_some());
    }

    #[test]
    fn many_threads_never_share_a_slot() {
        let slots = Slots::new(8);
        let used: Vec<AtomicU32> = (0..8).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let Some(id) = slots.take() else { continue };
                        let at = id.0 as u32 as usize;
                        assert_eq!(used[at].fetch_add(1, Ordering::SeqCst), 0);
                        used[at].fetch_sub(1, Ordering::SeqCst);
                        slots.give_back(id);
                    }
                });
            }
        });
    }
}

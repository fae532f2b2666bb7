//! Memory for what is read of the log for clients, shared by all of a shard's: clients that ask for the log and do not
//! take it cannot fill the memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use towline_core::types::limits::MAX_BATCH_BYTES;

/// What is left of it.
pub(crate) struct ReadMemory {
    left: Mutex<Left>,
    more: Condvar,
}

struct Left {
    bytes: usize,
    /// Who waits, in the order of asking: whoever reads gets its turn, however many do not.
    waiting: VecDeque<u64>,
    turns: u64,
}

impl ReadMemory {
    pub(crate) fn new() -> Arc<ReadMemory> {
        let left = Mutex::new(Left { bytes: READ_BYTES, waiting: VecDeque::new(), turns: 0 });
        Arc::new(ReadMemory { left, more: Condvar::new() })
    }

    /// Room for `bytes`, taken before they are read: waits for it, and calls `waiting` meanwhile. `None`: stopped.
    pub(super) fn take(
        self: &Arc<ReadMemory>,
        bytes: usize,
        stopped: &AtomicBool,
        waiting: impl Fn(),
    ) -> Option<Lent> {
        let bytes = bytes.min(READ_BYTES);
        if bytes == 0 {
            return Some(Lent { memory: Arc::clone(self), bytes });
        }
        let mut left = self.left();
        let turn = left.turns;
        left.turns += 1;
        left.waiting.push_back(turn);
        let rest = loop {
            if left.waiting.front() == Some(&turn)
                && let Some(rest) = left.bytes.checked_sub(bytes)
            {
                break Some(rest);
            }
            if stopped.load(Ordering::Acquire) {
                break None;
            }
            waiting();
            left = self.more.wait_timeout(left, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        };
        left.waiting.retain(|other| *other != turn);
        left.bytes = rest.unwrap_or(left.bytes);
        drop(left);
        self.more.notify_all();
        rest.map(|_| Lent { memory: Arc::clone(self), bytes })
    }

    /// How long a client may hold some of it and take none; `None` while nobody waits for what others hold.
    pub(super) fn hold_limit(&self) -> Option<Duration> {
        let waiting = u32::try_from(self.left().waiting.len()).unwrap_or(u32::MAX);
        (waiting > 0).then(|| (HOLD_LIMIT / waiting.div_ceil(CROWD)).max(SHORTEST_HOLD))
    }

    fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.left().bytes += bytes;
            self.more.notify_all();
        }
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of it; given back when it is dropped.
pub(super) struct Lent {
    memory: Arc<ReadMemory>,
    bytes: usize,
}

impl Lent {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Less was needed than was taken.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        self.memory.give_back(self.bytes.saturating_sub(bytes));
        self.bytes = self.bytes.min(bytes);
    }

    /// Both are given back together.
    pub(super) fn join(&mut self, mut other: Lent) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

/// For all of a shard's clients together: four of the longest batches.
const READ_BYTES: usize = 4 * MAX_BATCH_BYTES as usize;
/// How long a client may hold some of it without taking anything while a few others wait; less the more there are.
const HOLD_LIMIT: Duration = Duration::from_secs(2);
const CROWD: u32 = 16;
const SHORTEST_HOLD: Duration = Duration::from_millis(500);
/// How often who waits says so.
const LOOK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_together_are_bounded_and_come_back() {
        let (memory, go_on) = (ReadMemory::new(), AtomicBool::new(false));
        let take = |bytes| memory.take(bytes, &go_on, || go_on.store(true, Ordering::Release));
        let mut first = take(READ_BYTES).expect("all of it");
        assert_eq!(memory.hold_limit(), None);
        assert!(take(1).is_none(), "nothing is left, and who waits is told that it was stopped");
        assert!(take(0).is_some(), "who needs nothing waits for nothing");
        first.shrink_to(READ_BYTES - 10);
        let second = take(10).expect("what was not needed");
        first.join(second);
        assert_eq!(first.bytes(), READ_BYTES);
        drop(first);
        assert!(take(READ_BYTES).is_some(), "everything has come back once");
    }

    #[test]
    fn who_waits_is_served_in_turn_and_holders_have_less_time_the_more_wait() {
        let (memory, served) = (ReadMemory::new(), Mutex::new(Vec::new()));
        let all = memory.take(READ_BYTES, &AtomicBool::new(false), || ()).expect("all of it");
        std::thread::scope(|scope| {
            for number in 0..2 * CROWD {
                let (memory, served) = (&memory, &served);
                // The first asks for the most: who asks later for less does not overtake it.
                let bytes = if number == 0 { READ_BYTES } else { READ_BYTES / 2 };
                scope.spawn(move || {
                    let lent = memory.take(bytes, &AtomicBool::new(false), || ());
                    served.lock().expect("a test").push((number, lent.is_some()));
                });
                while memory.left().waiting.len() <= number as usize {
                    std::thread::yield_now();
                }
                let limit = memory.hold_limit().expect("somebody waits");
                assert_eq!(limit, if number < CROWD { HOLD_LIMIT } else { HOLD_LIMIT / 2 });
            }
            drop(all);
        });
        let served = served.into_inner().expect("a test");
        assert_eq!((served.len(), served[0]), (2 * CROWD as usize, (0, true)));
        assert_eq!((memory.hold_limit(), memory.left().bytes), (None, READ_BYTES));
    }
}

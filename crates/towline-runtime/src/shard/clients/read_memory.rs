//! Memory for what is read of the log for clients, shared by all of a shard's: clients that ask for the log and do not
//! take it cannot fill the memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use towline_core::types::limits::MAX_BATCH_BYTES;

use crate::read_buf::ReadBuf;

/// What is left of it.
pub(crate) struct ReadMemory {
    left: Mutex<Left>,
    more: Condvar,
}

struct Left {
    bytes: usize,
    /// Memory that came back, to be lent again. Together never more than `bytes`.
    spare: VecDeque<ReadBuf>,
    /// Who waits, in the order of asking: whoever reads gets its turn, however many do not.
    waiting: VecDeque<u64>,
    turns: u64,
}

impl ReadMemory {
    pub(crate) fn new() -> Arc<ReadMemory> {
        let left = Mutex::new(Left {
            bytes: READ_BYTES,
            spare: VecDeque::new(),
            waiting: VecDeque::new(),
            turns: 0,
        });
        Arc::new(ReadMemory { left, more: Condvar::new() })
    }

    /// Room for `bytes`, if nobody has to wait for it.
    pub(super) fn take_now(self: &Arc<ReadMemory>, bytes: usize) -> Option<Lent> {
        let bytes = bytes.min(READ_BYTES);
        let mut left = self.left();
        if bytes > 0 && !left.waiting.is_empty() {
            return None;
        }
        let memory = left.take(bytes)?;
        drop(left);
        Some(self.lend(bytes, memory))
    }

    /// Room for `bytes`, taken before they are read: waits for it, and calls `waiting` meanwhile. `None`: stopped.
    pub(super) fn take(
        self: &Arc<ReadMemory>,
        bytes: usize,
        stopped: &AtomicBool,
        waiting: impl Fn(),
    ) -> Option<Lent> {
        let bytes = bytes.min(READ_BYTES);
        let mut left = self.left();
        let turn = left.turns;
        left.turns += 1;
        left.waiting.push_back(turn);
        let memory = loop {
            if (bytes == 0 || left.waiting.front() == Some(&turn))
                && let Some(memory) = left.take(bytes)
            {
                break Some(memory);
            }
            if stopped.load(Ordering::Acquire) {
                break None;
            }
            waiting();
            left = self.more.wait_timeout(left, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        };
        left.waiting.retain(|other| *other != turn);
        drop(left);
        self.more.notify_all();
        memory.map(|memory| self.lend(bytes, memory))
    }

    fn lend(self: &Arc<ReadMemory>, bytes: usize, memory: Option<ReadBuf>) -> Lent {
        let content = memory.unwrap_or_else(|| ReadBuf::with_capacity(bytes));
        Lent { memory: Arc::clone(self), bytes, content }
    }

    /// How long a client may hold some of it and take none; `None` while nobody waits for what others hold.
    pub(super) fn hold_limit(&self) -> Option<Duration> {
        let waiting = u32::try_from(self.left().waiting.len()).unwrap_or(u32::MAX);
        (waiting > 0).then(|| (HOLD_LIMIT / waiting.div_ceil(CROWD)).max(SHORTEST_HOLD))
    }

    fn give_back(&self, bytes: usize, memory: ReadBuf) {
        if bytes > 0 {
            let mut left = self.left();
            left.bytes += bytes;
            if memory.capacity() > 0 {
                left.spare.push_back(memory);
            }
            left.trim();
            drop(left);
            self.more.notify_all();
        }
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Left {
    /// Counts `bytes` as lent; with memory that was lent before, if some is of that size. `None`: so much is not left.
    fn take(&mut self, bytes: usize) -> Option<Option<ReadBuf>> {
        self.bytes = self.bytes.checked_sub(bytes)?;
        // Not much larger, or more would be held than is counted.
        let fits = |memory: &ReadBuf| (bytes..=bytes + bytes / 8).contains(&memory.capacity());
        let found = self.spare.iter().position(fits);
        let memory = found.and_then(|at| self.spare.remove(at));
        self.trim();
        Some(memory)
    }

    fn trim(&mut self) {
        let mut spare_bytes: usize = self.spare.iter().map(ReadBuf::capacity).sum();
        while spare_bytes > self.bytes || self.spare.len() > MAX_SPARE {
            spare_bytes -= self.spare.pop_front().map_or(spare_bytes, |memory| memory.capacity());
        }
    }
}

/// A part of it; given back when it is dropped.
pub(super) struct Lent {
    memory: Arc<ReadMemory>,
    bytes: usize,
    content: ReadBuf,
}

impl Lent {
    /// Memory of the size that was asked for.
    pub(super) fn take_memory(&mut self) -> ReadBuf {
        std::mem::take(&mut self.content)
    }

    /// What was read into it; given back when the last of these bytes is dropped.
    pub(super) fn with(mut self, content: ReadBuf) -> Bytes {
        self.content = content;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.content.as_ref()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let content = self.take_memory();
        self.memory.give_back(self.bytes, content);
    }
}

/// For all of a shard's clients together: four of the longest batches.
const READ_BYTES: usize = 4 * MAX_BATCH_BYTES as usize;
/// Pieces of memory that are kept, to look through them quickly.
const MAX_SPARE: usize = 256;
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
        let first = take(READ_BYTES - 10).expect("nearly all of it");
        let second = take(10).expect("the rest");
        assert_eq!(memory.hold_limit(), None);
        assert!(take(1).is_none(), "nothing is left, and who waits is told that it was stopped");
        assert!(take(0).is_some(), "who needs nothing waits for nothing");
        drop((first, second));
        assert!(take(READ_BYTES).is_some(), "everything has come back once");
    }

    #[test]
    fn memory_that_comes_back_is_lent_again_and_no_more_is_kept_than_is_left() {
        let (memory, go_on) = (ReadMemory::new(), AtomicBool::new(false));
        let take = |bytes| memory.take(bytes, &go_on, || ()).expect("there is room");
        let spare = || memory.left().spare.iter().map(ReadBuf::capacity).collect::<Vec<_>>();
        let mut lent = take(10_000);
        let mut content = lent.take_memory();
        content.fill(4).copy_from_slice(b"some");
        let at = content.as_ref().as_ptr();
        let bytes = lent.with(content);
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!((&part[..], spare()), (&b"ome"[..], vec![]));
        drop(part);
        assert_eq!(spare(), [10_000]);
        let again = take(9_000).take_memory();
        assert_eq!((again.as_ref().as_ptr(), again.capacity()), (at, 10_000));
        drop(take(5_000));
        assert!(spare().contains(&5_000), "it is too small or too large for another");
        let most = take(READ_BYTES - 3_000);
        assert_eq!(
            spare().iter().sum::<usize>(),
            0,
            "what is lent and what is spare is no more than the limit"
        );
        drop(most);
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

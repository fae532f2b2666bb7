//! What waits, in the order in which it will be released.
//!
//! Tickets live in a slab; queues hold 16-byte entries with a key. An entry whose slot has been given to another
//! ticket since (the ticket was cancelled, or released through its other queue) is stale and skipped; a sweep
//! removes stale entries before they outnumber the live ones.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use super::api::Stage;
use crate::bugs::{Bug, bug};
use crate::types::{Level, Lsn, TicketId, Window};

/// A ticket that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) id: TicketId,
    pub(super) lsn: Lsn,
    pub(super) end: Lsn,
    pub(super) records_through: u64,
    pub(super) payload_through: u64,
    /// Its own payload; 0 for a `wait`.
    pub(super) payload_bytes: u64,
    pub(super) level: Level,
    pub(super) window: Option<Window>,
    /// A `wait`: it has no record, and its counts are 0.
    pub(super) is_wait: bool,
    /// Flushed here, its window was not satisfied yet.
    pub(super) waited_for_window: bool,
    /// Version of the rule in force when it came: its group. `None` for what waits for no standby.
    pub(super) group: Option<u64>,
    /// Queues that hold an entry of it: what becomes stale when it ends elsewhere.
    pub(super) entries: u8,
}

/// A ticket's place in a queue; ordered by key, then by slot for a fixed order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Entry {
    pub(super) key: u64,
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// The tickets that wait, found by slot and by id.
#[derive(Debug, Default)]
pub(super) struct Slab {
    slots: Vec<(u32, Option<Waiting>)>,
    free: Vec<u32>,
    by_id: HashMap<TicketId, u32, BuildHasherDefault<IdHasher>>,
    /// How many of them are a `wait`.
    waits: usize,
}

impl Slab {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn waits(&self) -> usize {
        self.waits
    }

    pub(super) fn contains(&self, id: TicketId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Stores a ticket; the entry with `key` that names it.
    pub(super) fn insert(&mut self, waiting: Waiting, key: u64) -> Entry {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        self.by_id.insert(waiting.id, slot);
        self.waits += usize::from(waiting.is_wait);
        let (generation, place) = &mut self.slots[slot as usize];
        *place = Some(waiting);
        Entry { key, slot, generation: *generation }
    }

    pub(super) fn get_mut(&mut self, entry: Entry) -> Option<&mut Waiting> {
        let (generation, place) = self.slots.get_mut(entry.slot as usize)?;
        place.as_mut().filter(|_| *generation == entry.generation)
    }

    /// Removes the ticket of an entry; `None` when the entry is stale.
    pub(super) fn take(&mut self, entry: Entry) -> Option<Waiting> {
        self.get_mut(entry)?;
        self.remove(entry.slot)
    }

    pub(super) fn take_by_id(&mut self, id: TicketId) -> Option<Waiting> {
        let slot = *self.by_id.get(&id)?;
        self.remove(slot)
    }

    /// Removes any one ticket, from the highest slot down.
    pub(super) fn take_any(&mut self, below: &mut usize) -> Option<Waiting> {
        while *below > 0 {
            *below -= 1;
            if self.slots[*below].1.is_some() {
                return self.remove(*below as u32);
            }
        }
        None
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn is_current(&self, entry: &Entry) -> bool {
        self.slots
            .get(entry.slot as usize)
            .is_some_and(|(generation, place)| *generation == entry.generation && place.is_some())
    }

    fn remove(&mut self, slot: u32) -> Option<Waiting> {
        let (generation, place) = &mut self.slots[slot as usize];
        let waiting = place.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(slot);
        self.by_id.remove(&waiting.id);
        self.waits -= usize::from(waiting.is_wait);
        Some(waiting)
    }
}

/// Entries by rising key: those that come in order in a deque, the others in a heap.
#[derive(Debug, Default)]
pub(super) struct KeyQueue {
    ordered: VecDeque<Entry>,
    others: BinaryHeap<Reverse<Entry>>,
}

impl KeyQueue {
    pub(super) fn push(&mut self, entry: Entry) {
        if self.ordered.back().is_none_or(|last| last.key <= entry.key) {
            self.ordered.push_back(entry);
        } else {
            self.others.push(Reverse(entry));
        }
    }

    /// For a key that may lie far ahead of those to come: in the deque it would force all of them into the heap.
    pub(super) fn push_apart(&mut self, entry: Entry) {
        self.others.push(Reverse(entry));
    }

    /// Removes an entry with the least key, if that is at most `limit`.
    pub(super) fn pop_through(&mut self, limit: u64) -> Option<Entry> {
        let ordered = self.ordered.front().map(|entry| entry.key);
        let other = self.others.peek().map(|entry| entry.0.key);
        match (ordered, other) {
            (Some(key), other) if key <= limit && other.is_none_or(|other| key <= other) => {
                self.ordered.pop_front()
            }
            (_, Some(key)) if key <= limit => self.others.pop().map(|entry| entry.0),
            _ => None,
        }
    }

    /// The least key, of an entry that may be stale.
    fn least(&self) -> Option<u64> {
        let ordered = self.ordered.front().map(|entry| entry.key);
        ordered.into_iter().chain(self.others.peek().map(|entry| entry.0.key)).min()
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.ordered.retain(&keep);
        self.others.retain(|entry| keep(&entry.0));
    }

    fn clear(&mut self) {
        self.ordered.clear();
        self.others.clear();
    }
}

/// Windowed tickets of one stage that the primary has flushed.
#[derive(Debug, Default)]
pub(super) struct WindowQueues {
    /// By `payload_through − ω`: released when the safe payload reaches it.
    pub(super) bytes: KeyQueue,
    /// By `records_through − ω`.
    pub(super) records: KeyQueue,
    /// Time windows by their end: released when that is safe.
    pub(super) time_by_end: KeyQueue,
    /// The same by ω in nanoseconds, the widest first: released when the oldest unsafe record is young enough.
    pub(super) time_by_width: BinaryHeap<Entry>,
}

/// The tickets of one group that wait for standbys.
#[derive(Debug, Default)]
pub(super) struct GroupQueues {
    /// Tickets in the group.
    pub(super) waiting: usize,
    /// By stage: released when the end is flushed here and safe there.
    pub(super) plain: [KeyQueue; 3],
    /// Windowed tickets that the primary has not flushed.
    pub(super) unflushed: KeyQueue,
    /// By stage.
    pub(super) windows: [WindowQueues; 3],
}

impl GroupQueues {
    /// Puts a new ticket where it waits; the entry's key is its end.
    pub(super) fn push(&mut self, entry: Entry, waiting: &Waiting, stage: Stage, is_append: bool) {
        self.waiting += 1;
        let queue =
            if waiting.window.is_some() { &mut self.unflushed } else { &mut self.plain[stage as usize] };
        if is_append { queue.push(entry) } else { queue.push_apart(entry) }
    }

    /// Puts a flushed ticket where it waits for its window. Returns the entries made.
    pub(super) fn push_window(&mut self, mut entry: Entry, waiting: &Waiting, stage: Stage) -> u8 {
        let queues = &mut self.windows[stage as usize];
        match waiting.window {
            Some(Window::Bytes(bytes)) if bytes > 0 => {
                let more = if bug(Bug::WindowOffByOne) { waiting.payload_bytes } else { 0 };
                entry.key = waiting.payload_through.saturating_sub(bytes + more);
                queues.bytes.push(entry);
            }
            Some(Window::Records(records)) if records > 0 => {
                let more = u64::from(bug(Bug::WindowOneRecordMore));
                entry.key = waiting.records_through.saturating_sub(records + more);
                queues.records.push(entry);
            }
            Some(Window::Micros(micros)) if micros > 0 => {
                queues.time_by_end.push(entry);
                entry.key = micros.saturating_mul(1000);
                queues.time_by_width.push(entry);
                return 2;
            }
            // ω = 0 is the level itself.
            _ => self.plain[stage as usize].push(entry),
        }
        1
    }

    /// Whether a ticket that the primary has flushed may wait at the applied stage; a stale entry says yes until the
    /// log has passed it.
    pub(super) fn awaits_applied(&self, own_flushed: Lsn) -> bool {
        let windows = &self.windows[Stage::Applied as usize];
        self.plain[Stage::Applied as usize].least().is_some_and(|end| end <= own_flushed.0)
            || windows.bytes.least().is_some()
            || windows.records.least().is_some()
            || windows.time_by_end.least().is_some()
    }

    /// Removes any entry of a ticket that the primary has flushed.
    pub(super) fn pop_flushed(&mut self, own_flushed: Lsn) -> Option<Entry> {
        let limit = own_flushed.0;
        for stage in Stage::ALL {
            let plain = &mut self.plain[stage as usize];
            let windows = &mut self.windows[stage as usize];
            let entry = plain
                .pop_through(limit)
                .or_else(|| windows.bytes.pop_through(u64::MAX))
                .or_else(|| windows.records.pop_through(u64::MAX))
                .or_else(|| windows.time_by_end.pop_through(u64::MAX))
                .or_else(|| windows.time_by_width.pop());
            if entry.is_some() {
                return entry;
            }
        }
        self.unflushed.pop_through(limit)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.plain.iter_mut().for_each(|queue| queue.retain(&keep));
        self.unflushed.retain(&keep);
        for windows in &mut self.windows {
            windows.bytes.retain(&keep);
            windows.records.retain(&keep);
            windows.time_by_end.retain(&keep);
            windows.time_by_width.retain(&keep);
        }
    }

    pub(super) fn clear(&mut self) {
        self.waiting = 0;
        self.plain.iter_mut().for_each(KeyQueue::clear);
        self.unflushed.clear();
        for windows in &mut self.windows {
            windows.bytes.clear();
            windows.records.clear();
            windows.time_by_end.clear();
            windows.time_by_width.clear();
        }
    }
}

/// Queues of what waits for no standby.
#[derive(Debug, Default)]
pub(super) struct OwnQueues {
    /// `wait` at `off`: until the batch is sealed.
    pub(super) sealed: KeyQueue,
    /// Level `local`, and window ∞.
    pub(super) flushed: KeyQueue,
}

impl OwnQueues {
    pub(super) fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.sealed.retain(&keep);
        self.flushed.retain(&keep);
    }

    pub(super) fn clear(&mut self) {
        self.sealed.clear();
        self.flushed.clear();
    }
}

/// Ticket ids are chosen by the driver, in no hostile way: a multiplication spreads them.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

//! A bounded first-in first-out of bytes, each of which may leave only at its due time.

use std::collections::VecDeque;

/// Pieces with a due time of their own; more pieces than this wait in the sender's socket.
const MAX_MARKS: usize = 64 * 1024;
/// Pieces that fall due this close together share one mark.
const MERGE_NS: u64 = 500;

/// The bytes of one direction of one connection that are on their way.
///
/// Positions count bytes since the start of the connection; the ring holds `[head, tail)`. A mark says that the bytes
/// up to `end` may leave at `due_ns`. Due times never decrease, so a shorter delay does not overtake a longer one.
pub(crate) struct DelayLine {
    ring: Vec<u8>,
    head: u64,
    tail: u64,
    marks: VecDeque<Mark>,
    last_due_ns: u64,
}

struct Mark {
    end: u64,
    first_due_ns: u64,
    due_ns: u64,
}

impl DelayLine {
    /// The memory is zeroed lazily by the kernel: only what is used costs anything.
    pub(crate) fn new(capacity_bytes: usize) -> Self {
        Self { ring: vec![0; capacity_bytes], head: 0, tail: 0, marks: VecDeque::new(), last_due_ns: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Bytes held.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.tail - self.head
    }

    pub(crate) fn is_full(&self) -> bool {
        self.held_bytes() == self.ring.len() as u64 || self.marks.len() >= MAX_MARKS
    }

    /// Contiguous room for at most `limit_bytes`; empty when the line is full.
    pub(crate) fn room(&mut self, limit_bytes: usize) -> &mut [u8] {
        if self.is_full() {
            return &mut [];
        }
        let capacity = self.ring.len();
        let start = self.index(self.tail);
        let free = capacity - self.held_bytes() as usize;
        let len = free.min(capacity - start).min(limit_bytes);
        &mut self.ring[start..start + len]
    }

    /// Takes over `len` bytes just written into [`room`](Self::room).
    pub(crate) fn push(&mut self, len: usize, due_ns: u64) {
        self.tail += len as u64;
        let due_ns = due_ns.max(self.last_due_ns);
        self.last_due_ns = due_ns;
        match self.marks.back_mut() {
            // The earlier piece waits for the later one: late by at most MERGE_NS, never early.
            Some(mark) if due_ns - mark.first_due_ns <= MERGE_NS => {
                mark.end = self.tail;
                mark.due_ns = due_ns;
            }
            _ => self.marks.push_back(Mark { end: self.tail, first_due_ns: due_ns, due_ns }),
        }
    }

    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        self.marks.front().map(|mark| mark.due_ns)
    }

    /// When the last byte taken in may leave.
    pub(crate) fn last_due_ns(&self) -> u64 {
        self.last_due_ns
    }

    /// The contiguous bytes that may leave at `now_ns`.
    pub(crate) fn due(&self, now_ns: u64) -> &[u8] {
        let ripe = self.marks.iter().take_while(|mark| mark.due_ns <= now_ns).last();
        let Some(end) = ripe.map(|mark| mark.end) else { return &[] };
        let start = self.index(self.head);
        let len = ((end - self.head) as usize).min(self.ring.len() - start);
        &self.ring[start..start + len]
    }

    /// Forgets `len` bytes that have left.
    pub(crate) fn consume(&mut self, len: usize) {
        self.head += len as u64;
        while self.marks.front().is_some_and(|mark| mark.end <= self.head) {
            self.marks.pop_front();
        }
        if self.is_empty() {
            // Start over at the ring's first page, so that a quiet connection keeps touching the same few pages.
            self.head = 0;
            self.tail = 0;
        }
    }

    fn index(&self, position: u64) -> usize {
        (position % self.ring.len() as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(line: &mut DelayLine, bytes: &[u8], due_ns: u64) -> usize {
        let room = line.room(bytes.len());
        let len = room.len();
        room.copy_from_slice(&bytes[..len]);
        line.push(len, due_ns);
        len
    }

    #[test]
    fn bytes_leave_in_order_and_not_before_they_are_due() {
        let mut line = DelayLine::new(64);
        push(&mut line, b"one", 10_000);
        push(&mut line, b"two", 20_000);
        push(&mut line, b"six", 15_000); // a shorter delay does not overtake
        assert_eq!(line.due(9_999), b"");
        assert_eq!(line.due(10_000), b"one");
        assert_eq!(line.due(19_999), b"one");
        assert_eq!(line.due(20_000), b"onetwosix");
        line.consume(4);
        assert_eq!(line.due(20_000), b"wosix");
        assert_eq!(line.next_due_ns(), Some(20_000));
        line.consume(5);
        assert!(line.is_empty() && line.next_due_ns().is_none());
    }

    #[test]
    fn the_ring_wraps_and_refuses_what_does_not_fit() {
        let mut line = DelayLine::new(8);
        assert_eq!(push(&mut line, b"abcdef", 0), 6);
        line.consume(5);
        assert_eq!(push(&mut line, b"ghij", 0), 2, "up to the ring's end");
        assert_eq!(push(&mut line, b"ijklmn", 0), 5, "up to the head");
        assert!(line.is_full());
        assert!(line.room(1).is_empty());
        assert_eq!(line.due(0), b"fgh");
        line.consume(3);
        assert_eq!(line.due(0), b"ijklm");
    }
}

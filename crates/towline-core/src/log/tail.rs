//! The end of the log: which batches it has, which writes are in flight, and what is flushed without a gap.
//!
//! ```text
//!   flushed        issued            end
//!      |--in flight--|----pending-----|
//! ```

use std::collections::VecDeque;

use crate::bugs::{Bug, bug};
use crate::format::BatchHeader;
use crate::types::limits::{MAX_BATCH_BYTES, MAX_FLUSH_DEPTH, MAX_WRITE_BYTES};
use crate::types::{Geometry, Lsn, Position, Span};

/// The tail of one node's log.
#[derive(Debug)]
pub struct Tail {
    geometry: Geometry,
    depth: usize,
    end: Position,
    previous_hash: u64,
    flushed: Position,
    epoch: u64,
    /// Batches that no write has been issued for.
    pending: VecDeque<Pending>,
    /// Writes issued, in log order; done ones wait for their predecessors.
    in_flight: VecDeque<InFlight>,
}

#[derive(Debug)]
struct Pending {
    stored: Span,
    after: Position,
}

#[derive(Debug)]
struct InFlight {
    span: Span,
    /// Position behind its last batch; `None` for a piece of a batch whose rest follows.
    after: Option<Position>,
    done: bool,
}

impl Tail {
    /// A tail that ends, wholly flushed, at `end`. `depth` flushes may be in flight (clamped to the limit).
    pub fn new(geometry: Geometry, depth: usize, end: Position, previous_hash: u64) -> Tail {
        Tail {
            geometry,
            depth: depth.clamp(1, MAX_FLUSH_DEPTH),
            end,
            previous_hash,
            flushed: end,
            epoch: 0,
            pending: VecDeque::new(),
            in_flight: VecDeque::new(),
        }
    }

    /// Position behind the last batch.
    pub fn end(&self) -> Position {
        self.end
    }

    /// Where the next batch lies.
    pub fn next_batch(&self) -> Lsn {
        self.geometry.batch_place(self.end.lsn)
    }

    /// Hash of the last batch header.
    pub fn previous_hash(&self) -> u64 {
        self.previous_hash
    }

    /// Everything before is on stable storage.
    pub fn flushed(&self) -> Position {
        self.flushed
    }

    /// Completions of another epoch never count.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether every batch is flushed.
    pub fn is_flushed(&self) -> bool {
        self.pending.is_empty() && self.in_flight.is_empty()
    }

    /// Whether a write issued now would start now.
    pub fn has_free_slot(&self) -> bool {
        self.pending.is_empty() && self.in_flight.len() < self.depth
    }

    /// Whether a large write issued now would start now.
    pub fn has_bulk_slot(&self) -> bool {
        self.pending.is_empty() && self.in_flight.len() < self.depth.max(BULK_DEPTH)
    }

    /// Whether one more batch of the largest size keeps within the in-flight limit: what recovery may have to zero.
    pub fn has_room(&self) -> bool {
        self.end.lsn.bytes_since(self.flushed.lsn) + MAX_BATCH_BYTES <= self.geometry.in_flight_bytes
    }

    /// Takes a batch behind the end.
    pub fn push(&mut self, header: &BatchHeader, hash: u64) {
        debug_assert_eq!(header.start, self.next_batch());
        self.end = header.after();
        self.previous_hash = hash;
        self.pending.push_back(Pending { stored: header.stored(), after: self.end });
    }

    /// The next write, if a slot is free and its batch ends at or below `permitted`. Neighbouring batches of one
    /// segment are merged into one write: a standby that is behind writes few large pieces. A batch that is too large
    /// for one write goes in several, which may end in any order: it counts when all of it has.
    pub fn next_write(&mut self, permitted: Lsn) -> Option<Span> {
        if !self.may_write() {
            return None;
        }
        let first = self.pending.front_mut().filter(|batch| batch.stored.end <= permitted)?;
        if first.stored.len() > MAX_WRITE_BYTES {
            let piece = Span::new(first.stored.start, first.stored.start.plus(MAX_WRITE_BYTES));
            first.stored.start = piece.end;
            self.in_flight.push_back(InFlight { span: piece, after: None, done: false });
            return Some(piece);
        }
        let mut span = first.stored;
        let mut after = first.after;
        self.pending.pop_front();
        while let Some(next) = self.pending.pop_front_if(|next| {
            next.stored.start == span.end
                && self.geometry.offset_of(next.stored.start) != 0
                && next.stored.end.bytes_since(span.start) <= MAX_WRITE_BYTES
                && next.stored.end <= permitted
        }) {
            span.end = next.stored.end;
            after = next.after;
        }
        self.in_flight.push_back(InFlight { span, after: Some(after), done: false });
        Some(span)
    }

    /// The depth is what serves small writes best: more would only make each wait longer for its flush. A backlog of
    /// whole large writes is another matter: there the disk's bandwidth counts.
    fn may_write(&self) -> bool {
        let backlog = self.pending.front().map_or(0, |batch| self.end.lsn.bytes_since(batch.stored.start));
        let depth = if backlog >= MAX_WRITE_BYTES { self.depth.max(BULK_DEPTH) } else { self.depth };
        self.in_flight.len() < depth
    }

    /// A write is on stable storage. Returns whether the flushed watermark advanced.
    /// Flushes complete in any order; the watermark moves over an unbroken run only, because recovery reads the
    /// log from its start and stops at the first hole.
    pub fn complete(&mut self, span: Span, epoch: u64) -> bool {
        if epoch != self.epoch && !bug(Bug::LateCompletion) {
            return false;
        }
        if let Some(write) = self.in_flight.iter_mut().find(|write| write.span == span) {
            write.done = true;
        }
        let before = self.flushed;
        while let Some(write) = self.in_flight.pop_front_if(|write| write.done || bug(Bug::FlushedOverHole)) {
            self.flushed = write.after.unwrap_or(self.flushed);
        }
        self.flushed != before
    }

    /// The log was cut to `end`. Only called when nothing is in flight; the epoch keeps a late completion out.
    pub fn cut(&mut self, end: Position, previous_hash: u64) {
        self.epoch += 1;
        self.pending.clear();
        self.in_flight.clear();
        self.end = end;
        self.flushed = end;
        self.previous_hash = previous_hash;
    }
}

/// Large writes in flight while there is a backlog of them.
const BULK_DEPTH: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::BatchKind;
    use crate::types::{LogId, Term};

    const GEOMETRY: Geometry = Geometry { segment_bytes: 8 << 20, in_flight_bytes: 16 << 20 };

    fn batch(tail: &Tail, body: u32) -> BatchHeader {
        let start = tail.next_batch();
        BatchHeader {
            kind: BatchKind::Data,
            log: LogId([1; 16]),
            term: Term::default(),
            start,
            end: start.plus(128 + u64::from(body)).block_up(),
            body_bytes: body,
            records: 1,
            payload_bytes: u64::from(body),
            records_before: tail.end().records,
            payload_before: tail.end().payload_bytes,
            durable_before: tail.flushed().lsn,
            previous_hash: tail.previous_hash(),
            body_crc: 0,
        }
    }

    fn tail(depth: usize) -> Tail {
        Tail::new(GEOMETRY, depth, Position { lsn: Lsn(8192), ..Position::default() }, 0)
    }

    #[test]
    fn flushed_moves_only_over_an_unbroken_run() {
        let mut tail = tail(4);
        let mut spans = Vec::new();
        for n in 0..3 {
            let header = batch(&tail, 100);
            tail.push(&header, n);
            spans.extend(tail.next_write(Lsn(u64::MAX)));
        }
        assert!(!tail.complete(spans[2], 0));
        assert!(!tail.complete(spans[1], 0));
        assert_eq!(tail.flushed().lsn, Lsn(8192));
        assert!(tail.complete(spans[0], 0));
        assert_eq!(tail.flushed(), tail.end());
        assert_eq!(tail.flushed().records, 3);
        assert!(tail.is_flushed());
    }

    #[test]
    fn a_completion_from_before_a_cut_does_not_count() {
        let mut tail = tail(2);
        let header = batch(&tail, 100);
        tail.push(&header, 1);
        let span = tail.next_write(Lsn(u64::MAX)).expect("a slot is free");
        tail.cut(Position { lsn: Lsn(8192), ..Position::default() }, 0);
        let header = batch(&tail, 100);
        tail.push(&header, 2);
        assert_eq!(tail.next_write(Lsn(u64::MAX)), Some(span));
        assert!(!tail.complete(span, 0));
        assert!(tail.complete(span, 1));
    }

    #[test]
    fn a_large_batch_goes_in_pieces_and_counts_when_all_of_it_is_there() {
        let mut tail = tail(8);
        let header = batch(&tail, 3 * MAX_WRITE_BYTES as u32 / 2);
        tail.push(&header, 1);
        let small = batch(&tail, 100);
        tail.push(&small, 2);
        let spans: Vec<_> = std::iter::from_fn(|| tail.next_write(Lsn(u64::MAX))).collect();
        assert_eq!(spans[0].start, header.start);
        assert_eq!(spans.last().map(|span| span.end), Some(small.end));
        assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].start), "no gap, no overlap");
        assert!(spans.iter().all(|span| span.len() <= MAX_WRITE_BYTES));
        for span in spans[1..].iter().rev() {
            assert!(!tail.complete(*span, 0), "its first piece is not there");
        }
        assert!(tail.complete(spans[0], 0));
        assert_eq!(tail.flushed(), tail.end());
        assert!(tail.is_flushed());
    }

    #[test]
    fn a_backlog_of_large_writes_may_be_deeper_than_small_ones() {
        let mut tail = tail(1);
        for n in 0..3 {
            let header = batch(&tail, 2 * MAX_WRITE_BYTES as u32 - 200);
            tail.push(&header, n);
        }
        let writes = std::iter::from_fn(|| tail.next_write(Lsn(u64::MAX))).count();
        assert_eq!(writes, 6, "a small write more would have to wait");
        assert!(tail.has_bulk_slot() && !tail.has_free_slot());
        let header = batch(&tail, 100);
        tail.push(&header, 9);
        assert_eq!(tail.next_write(Lsn(u64::MAX)), None);
    }

    #[test]
    fn the_first_piece_alone_moves_nothing() {
        let mut tail = tail(8);
        let header = batch(&tail, 3 * MAX_WRITE_BYTES as u32 / 2);
        tail.push(&header, 1);
        let first = tail.next_write(Lsn(u64::MAX)).expect("a slot is free");
        assert!(!tail.complete(first, 0));
        assert_eq!(tail.flushed().lsn, Lsn(8192));
        assert!(!tail.is_flushed());
    }

    #[test]
    fn pending_neighbours_are_merged_and_the_permit_is_obeyed() {
        let mut tail = tail(1);
        for n in 0..4 {
            let header = batch(&tail, 100);
            tail.push(&header, n);
        }
        assert_eq!(tail.next_write(Lsn(8192 + 3 * 4096)), Some(Span::new(Lsn(8192), Lsn(8192 + 3 * 4096))));
        assert_eq!(tail.next_write(Lsn(u64::MAX)), None, "depth 1");
        assert!(tail.complete(Span::new(Lsn(8192), Lsn(8192 + 3 * 4096)), 0));
        assert_eq!(tail.next_write(Lsn(8192 + 3 * 4096)), None, "not permitted yet");
        assert!(tail.next_write(Lsn(8192 + 4 * 4096)).is_some());
    }
}

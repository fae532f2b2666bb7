//! Batches by position, with what lies before each, and the sums and minima that fills and exposures need.

use towline_core::types::{Lsn, Position};

/// A batch as the history gave it.
#[derive(Clone, Copy, Debug)]
struct Batch {
    end: Lsn,
    after: Position,
}

/// The log of a history, growing at its end.
#[derive(Debug)]
pub(crate) struct Batches {
    start: Position,
    list: Vec<Batch>,
    /// Minimum of acceptance times over ranges of batches; empty batches are `u64::MAX`.
    oldest: MinTree,
    /// Acknowledged payload per batch.
    acked: SumTree,
}

impl Batches {
    pub(crate) fn new(start: Position, capacity: usize) -> Batches {
        Batches { start, list: Vec::new(), oldest: MinTree::new(capacity), acked: SumTree::new(capacity) }
    }

    pub(crate) fn start(&self) -> Lsn {
        self.start.lsn
    }

    pub(crate) fn end(&self) -> Position {
        self.list.last().map_or(self.start, |batch| batch.after)
    }

    pub(crate) fn push(&mut self, end: Lsn, records: u64, payload_bytes: u64, accepted_ns: u64) {
        let before = self.end();
        let after = Position {
            lsn: end,
            records: before.records.saturating_add(records),
            payload_bytes: before.payload_bytes.saturating_add(payload_bytes),
        };
        if records > 0 {
            self.oldest.lower(self.list.len(), accepted_ns);
        }
        // Until a ticket claims them, bytes belong to appends that nobody waits for.
        self.acked.add(self.list.len(), i128::from(payload_bytes));
        self.list.push(Batch { end, after });
    }

    /// The batch that holds the byte before `end`.
    fn index_of(&self, end: Lsn) -> Option<usize> {
        let index = self.list.partition_point(|batch| batch.end < end);
        (index < self.list.len() && end > self.start.lsn).then_some(index)
    }

    /// The position of a watermark: the counts before it. `None`: no batch ends there.
    pub(crate) fn position(&self, lsn: Lsn) -> Option<Position> {
        if lsn == self.start.lsn {
            return Some(self.start);
        }
        self.index_of(lsn).map(|index| self.list[index].after).filter(|after| after.lsn == lsn)
    }

    pub(crate) fn lower_age(&mut self, end: Lsn, accepted_ns: u64) {
        if let Some(index) = self.index_of(end) {
            self.oldest.lower(index, accepted_ns);
        }
    }

    pub(crate) fn claim(&mut self, end: Lsn, payload_bytes: u64) {
        if let Some(index) = self.index_of(end) {
            self.acked.add(index, -i128::from(payload_bytes));
        }
    }

    pub(crate) fn acknowledge(&mut self, end: Lsn, payload_bytes: u64) {
        if let Some(index) = self.index_of(end) {
            self.acked.add(index, i128::from(payload_bytes));
        }
    }

    /// Acceptance of the oldest record in `(safe, end]`; `None`: unknown, it lies before the history.
    pub(crate) fn oldest_ns(&self, safe: Lsn, end: Lsn) -> Option<u64> {
        if safe < self.start.lsn {
            return None;
        }
        let from = self.list.partition_point(|batch| batch.end <= safe);
        let to = self.index_of(end)?;
        Some(self.oldest.least(from, to + 1))
    }

    /// Acknowledged payload past `safe`, of the batches that the history knows.
    pub(crate) fn exposure(&self, safe: Lsn) -> u64 {
        let from = self.list.partition_point(|batch| batch.end <= safe);
        u64::try_from(self.acked.total_from(from)).unwrap_or(0)
    }
}

/// Range minimum with updates that lower.
#[derive(Debug)]
struct MinTree {
    leaves: usize,
    nodes: Vec<u64>,
}

impl MinTree {
    fn new(capacity: usize) -> MinTree {
        let leaves = capacity.max(1).next_power_of_two();
        MinTree { leaves, nodes: vec![u64::MAX; 2 * leaves] }
    }

    fn lower(&mut self, index: usize, value: u64) {
        let mut node = self.leaves + index;
        while node > 0 && self.nodes[node] > value {
            self.nodes[node] = value;
            node /= 2;
        }
    }

    /// Least of `[from, to)`.
    fn least(&self, from: usize, to: usize) -> u64 {
        let (mut from, mut to) = (from + self.leaves, to + self.leaves);
        let mut least = u64::MAX;
        while from < to {
            if from % 2 == 1 {
                least = least.min(self.nodes[from]);
                from += 1;
            }
            if to % 2 == 1 {
                to -= 1;
                least = least.min(self.nodes[to]);
            }
            from /= 2;
            to /= 2;
        }
        least
    }
}

/// Suffix sums with updates (a Fenwick tree).
#[derive(Debug)]
struct SumTree {
    nodes: Vec<i128>,
    total: i128,
}

impl SumTree {
    fn new(capacity: usize) -> SumTree {
        SumTree { nodes: vec![0; capacity + 1], total: 0 }
    }

    fn add(&mut self, index: usize, value: i128) {
        self.total += value;
        let mut node = index + 1;
        while let Some(sum) = self.nodes.get_mut(node) {
            *sum += value;
            node += node & node.wrapping_neg();
        }
    }

    fn total_from(&self, index: usize) -> i128 {
        let (mut before, mut node) = (0, index);
        while node > 0 {
            before += self.nodes[node];
            node -= node & node.wrapping_neg();
        }
        self.total - before
    }
}

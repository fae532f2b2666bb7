//! Batches by position, with what lies before each, and the sums and minima that fills and exposures need.

use towline_core::types::{Lsn, Position};

/// A batch as the history gave it.
#[derive(Clone, Copy, Debug)]
struct Batch {
    end: Lsn,
    after: Position,
}

/// The log of a history: grows at its end, and loses its tail when a leader begins with less.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batches {
    start: Position,
    list: Vec<Batch>,
    /// Minimum of acceptance times over ranges of batches; empty batches are `u64::MAX`.
    oldest: MinTree,
    /// Acknowledged payload per batch.
    acked: SumTree,
}

impl Batches {
    pub(crate) fn new(start: Position) -> Batches {
        Batches { start, ..Batches::default() }
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
        self.oldest.push(if records > 0 { accepted_ns } else { u64::MAX });
        // Until a ticket claims them, bytes belong to appends that nobody waits for.
        self.acked.push(i128::from(payload_bytes));
        self.list.push(Batch { end, after });
    }

    /// Forgets what lies past `end`.
    pub(crate) fn cut(&mut self, end: Lsn) {
        let kept = self.list.partition_point(|batch| batch.end <= end);
        self.list.truncate(kept);
        self.oldest.truncate(kept);
        self.acked.truncate(kept);
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

/// Range minimum over a list that grows and shrinks at its end.
#[derive(Clone, Debug, Default)]
struct MinTree {
    len: usize,
    /// Room for leaves; a power of two, or 0.
    leaves: usize,
    nodes: Vec<u64>,
}

impl MinTree {
    fn push(&mut self, value: u64) {
        if self.len == self.leaves {
            self.grow();
        }
        self.len += 1;
        self.lower(self.len - 1, value);
    }

    /// Twice the leaves; each is paid for by the pushes that filled the half before.
    fn grow(&mut self) {
        let old: Vec<u64> = self.nodes.get(self.leaves..).unwrap_or_default().to_vec();
        self.leaves = (2 * self.leaves).max(64);
        self.nodes = vec![u64::MAX; 2 * self.leaves];
        self.nodes[self.leaves..self.leaves + old.len()].copy_from_slice(&old);
        for node in (1..self.leaves).rev() {
            self.nodes[node] = self.nodes[2 * node].min(self.nodes[2 * node + 1]);
        }
    }

    fn truncate(&mut self, len: usize) {
        for index in len..self.len {
            let mut node = self.leaves + index;
            self.nodes[node] = u64::MAX;
            while node > 1 {
                node /= 2;
                self.nodes[node] = self.nodes[2 * node].min(self.nodes[2 * node + 1]);
            }
        }
        self.len = self.len.min(len);
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

/// Suffix sums over a list that grows and shrinks at its end (a Fenwick tree, its first node unused).
#[derive(Clone, Debug)]
struct SumTree {
    nodes: Vec<i128>,
}

impl Default for SumTree {
    fn default() -> SumTree {
        SumTree { nodes: vec![0] }
    }
}

impl SumTree {
    fn push(&mut self, value: i128) {
        let node = self.nodes.len();
        let (mut sum, mut step) = (value, 1);
        while step < lowest_bit(node) {
            sum += self.nodes[node - step];
            step *= 2;
        }
        self.nodes.push(sum);
    }

    /// No node sums over what lies behind it.
    fn truncate(&mut self, len: usize) {
        self.nodes.truncate(len + 1);
    }

    fn add(&mut self, index: usize, value: i128) {
        let mut node = index + 1;
        while let Some(sum) = self.nodes.get_mut(node) {
            *sum += value;
            node += lowest_bit(node);
        }
    }

    fn total_from(&self, index: usize) -> i128 {
        self.sum_of_first(self.nodes.len() - 1) - self.sum_of_first(index)
    }

    fn sum_of_first(&self, count: usize) -> i128 {
        let (mut sum, mut node) = (0, count);
        while node > 0 {
            sum += self.nodes[node];
            node -= lowest_bit(node);
        }
        sum
    }
}

fn lowest_bit(node: usize) -> usize {
    node & node.wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_minima_are_those_of_a_plain_list_through_pushes_changes_and_cuts() {
        let (mut sums, mut minima) = (SumTree::default(), MinTree::default());
        let mut plain: Vec<(i128, u64)> = Vec::new();
        let mut state = 1u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..3000 {
            match next(10) {
                0 if !plain.is_empty() => {
                    let kept = plain.len() - next(1 + plain.len() as u64 / 8) as usize;
                    plain.truncate(kept);
                    sums.truncate(kept);
                    minima.truncate(kept);
                }
                1..4 if !plain.is_empty() => {
                    let (at, value) = (next(plain.len() as u64) as usize, next(1000));
                    plain[at].0 += i128::from(value);
                    plain[at].1 = plain[at].1.min(value);
                    sums.add(at, i128::from(value));
                    minima.lower(at, value);
                }
                _ => {
                    let value = next(1000);
                    plain.push((i128::from(value), value));
                    sums.push(i128::from(value));
                    minima.push(value);
                }
            }
            let from = next(plain.len() as u64 + 1) as usize;
            let to = from + next((plain.len() - from) as u64 + 1) as usize;
            assert_eq!(sums.total_from(from), plain[from..].iter().map(|item| item.0).sum::<i128>());
            let least = plain[from..to].iter().map(|item| item.1).min().unwrap_or(u64::MAX);
            assert_eq!(minima.least(from, to), least);
        }
    }
}

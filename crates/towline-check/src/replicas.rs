//! Copies of one log, held against each other.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use towline_core::types::Lsn;

use crate::violation::{Kind, Violation};

/// A batch as a copy stores it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoredBatch {
    /// First byte.
    pub start: Lsn,
    /// One past the last of its span.
    pub end: Lsn,
    /// Hash of all its bytes, or of its header (which holds the CRC of the others).
    pub hash: u64,
}

/// One copy: its batches in the order in which it stores them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Replica {
    /// Whose.
    pub name: String,
    /// Its batches, from wherever its log starts.
    pub batches: Vec<StoredBatch>,
}

/// Every copy is free of gaps, and where two of them reach they hold the same: each is a prefix of the longer ones
/// (a trimmed one, of what is left of them). `segment_bytes`: batches skip the headers at its multiples, 0: none.
/// O(n); a violation's index is that of the batch in its copy.
pub fn replicas_agree(replicas: &[Replica], segment_bytes: u64) -> Vec<Violation> {
    let mut violations = Vec::new();
    for replica in replicas {
        violations.extend(gaps(replica, segment_bytes));
    }
    // From the longest down: every copy adds what it has from before the others' start, and no hole can stay.
    let mut order: Vec<&Replica> = replicas.iter().collect();
    order.sort_by_key(|replica| std::cmp::Reverse(replica.batches.last().map(|last| last.end)));
    let mut known = HashMap::new();
    for replica in order {
        violations.extend(differences(replica, &mut known));
    }
    violations
}

fn gaps(replica: &Replica, segment_bytes: u64) -> Option<Violation> {
    let name = &replica.name;
    let pairs = replica.batches.windows(2).enumerate();
    pairs.into_iter().find_map(|(at, pair)| {
        let [before, batch] = pair else { return None };
        let is_segment_end = segment_bytes > 0 && before.end.0.is_multiple_of(segment_bytes);
        let header_bytes = towline_core::types::limits::SEGMENT_HEADER_BYTES;
        let due = if is_segment_end { before.end.plus(header_bytes) } else { before.end };
        let kind = match batch.start.cmp(&due) {
            std::cmp::Ordering::Equal => return None,
            std::cmp::Ordering::Greater => Kind::Gap,
            std::cmp::Ordering::Less => Kind::Overlap,
        };
        let detail = format!("{name}: a batch at {}, the one before ends at {due}", batch.start);
        Some(Violation { kind, at: at + 1, detail })
    })
}

/// The first difference of a copy: what lies behind it differs, too.
fn differences<'a>(
    replica: &'a Replica,
    known: &mut HashMap<Lsn, (StoredBatch, &'a str)>,
) -> Option<Violation> {
    let last = known.values().map(|(batch, _)| batch.end).max();
    let first = known.values().map(|(batch, _)| batch.start).min();
    for (at, batch) in replica.batches.iter().enumerate() {
        let (same, other) = match known.get(&batch.start) {
            Some((other, name)) => (other == batch, *name),
            // Between the batches of the others: a fork whose batches start elsewhere.
            None => (
                first.is_none_or(|first| batch.end <= first) || last.is_none_or(|last| batch.start >= last),
                "",
            ),
        };
        if !same {
            let (name, start, end) = (&replica.name, batch.start, batch.end);
            let detail = format!("{name} and {other}: the batch at {start} to {end} differs");
            return Some(Violation { kind: Kind::Diverged, at, detail });
        }
        known.entry(batch.start).or_insert((*batch, &replica.name));
    }
    None
}

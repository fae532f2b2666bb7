//! What a recovery found, against what was acknowledged.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use towline_core::types::{Lsn, Window};

use crate::violation::{Kind, Violation};

/// A record that was acknowledged at a level that should have survived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AckedRecord {
    /// Where the ack said it is.
    pub lsn: Lsn,
    /// What it holds, as a number that no other record of the run has.
    pub key: u64,
    /// Its payload bytes.
    pub payload_bytes: u64,
    /// Data records in the log up to its end.
    pub records_through: u64,
    /// Payload bytes in the log up to its end.
    pub payload_through: u64,
    /// When it was accepted, nanoseconds.
    pub accepted_ns: u64,
}

/// A record that was found, in the order in which it was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FoundRecord {
    /// Where.
    pub lsn: Lsn,
    /// What.
    pub key: u64,
}

/// No acknowledged record is lost, changed, doubled or out of order. Records that were found without an ack
/// (their outcome was indeterminate, or `off`) are fine, once each.
pub fn records_survive(acked: &[AckedRecord], found: &[FoundRecord]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut by_key: HashMap<u64, usize> = HashMap::with_capacity(found.len());
    let mut key_at: HashMap<Lsn, u64> = HashMap::with_capacity(found.len());
    let mut last: Option<Lsn> = None;
    for (at, record) in found.iter().enumerate() {
        if by_key.insert(record.key, at).is_some() {
            let detail = format!("record {} again at {}", record.key, record.lsn);
            violations.push(Violation { kind: Kind::Doubled, at, detail });
        }
        if key_at.insert(record.lsn, record.key).is_some() {
            let detail = format!("two records at {}", record.lsn);
            violations.push(Violation { kind: Kind::Doubled, at, detail });
        }
        if let Some(last) = last.filter(|last| record.lsn < *last) {
            let detail = format!("{} behind {last}", record.lsn);
            violations.push(Violation { kind: Kind::OutOfOrder, at, detail });
        }
        last = Some(record.lsn);
    }
    for (at, record) in acked.iter().enumerate() {
        let (lsn, key) = (record.lsn, record.key);
        match (key_at.get(&lsn), by_key.get(&key)) {
            (Some(there), _) if *there == key => {}
            (_, Some(place)) => {
                let detail = format!("record {key}, acknowledged at {lsn}, is at {}", found[*place].lsn);
                violations.push(Violation { kind: Kind::OutOfOrder, at, detail });
            }
            (Some(there), None) => {
                let detail = format!("record {key} at {lsn} is now record {there}");
                violations.push(Violation { kind: Kind::Changed, at, detail });
            }
            (None, None) => {
                let detail = format!("record {key} at {lsn}");
                violations.push(Violation { kind: Kind::Lost, at, detail });
            }
        }
    }
    violations
}

/// The span that the lost records lie in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LostSpan {
    /// Acknowledged records that are gone.
    pub lost: u64,
    /// Records from the first of them to the last, both included.
    pub records: u64,
    /// Payload bytes of that span.
    pub payload_bytes: u64,
    /// Spread of their acceptance, nanoseconds.
    pub accepted_spread_ns: u64,
}

impl LostSpan {
    /// The promise of a window: lost records that were acknowledged under it lie within one span of it.
    pub fn check(&self, window: Window) -> Option<Violation> {
        let (span, limit) = match window {
            Window::Bytes(limit) => (self.payload_bytes, limit),
            Window::Records(limit) => (self.records, limit),
            Window::Micros(limit) => (self.accepted_spread_ns, limit.saturating_mul(1000)),
            Window::Infinite => return None,
        };
        let detail = format!("{} records lost over a span of {span}, the window is {limit}", self.lost);
        let is_over = span > limit || (self.lost > 0 && window.is_zero());
        is_over.then_some(Violation { kind: Kind::LostBeyondWindow, at: 0, detail })
    }
}

/// What was lost of the records acknowledged under one window.
pub fn lost_span(acked: &[AckedRecord], found: &[FoundRecord]) -> LostSpan {
    let found: HashSet<(Lsn, u64)> = found.iter().map(|record| (record.lsn, record.key)).collect();
    acked
        .iter()
        .filter(|record| !found.contains(&(record.lsn, record.key)))
        .fold(None, |extent, record| Some(span_of(extent, record)))
        .map_or_else(LostSpan::default, |extent: Extent| extent.lost_span())
}

/// The outermost of some records, in the log and in time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    count: u64,
    first: AckedRecord,
    last: AckedRecord,
    earliest_ns: u64,
    latest_ns: u64,
}

/// The extent with one record more.
pub(crate) fn span_of(extent: Option<Extent>, record: &AckedRecord) -> Extent {
    let at = record.accepted_ns;
    let Some(old) = extent else {
        return Extent { count: 1, first: *record, last: *record, earliest_ns: at, latest_ns: at };
    };
    Extent {
        count: old.count + 1,
        first: if record.lsn < old.first.lsn { *record } else { old.first },
        last: if record.lsn > old.last.lsn { *record } else { old.last },
        earliest_ns: old.earliest_ns.min(at),
        latest_ns: old.latest_ns.max(at),
    }
}

impl Extent {
    pub(crate) fn lost_span(&self) -> LostSpan {
        let Extent { count, first, last, earliest_ns, latest_ns } = self;
        LostSpan {
            lost: *count,
            records: last.records_through.saturating_sub(first.records_through).saturating_add(1),
            payload_bytes: last
                .payload_through
                .saturating_sub(first.payload_through)
                .saturating_add(first.payload_bytes),
            accepted_spread_ns: latest_ns - earliest_ns,
        }
    }
}

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
    let mut lost: Vec<&AckedRecord> =
        acked.iter().filter(|record| !found.contains(&(record.lsn, record.key))).collect();
    lost.sort_unstable_by_key(|record| record.lsn);
    let (Some(first), Some(last)) = (lost.first(), lost.last()) else { return LostSpan::default() };
    let earliest_ns = lost.iter().map(|record| record.accepted_ns).min().unwrap_or(0);
    let latest_ns = lost.iter().map(|record| record.accepted_ns).max().unwrap_or(0);
    LostSpan {
        lost: lost.len() as u64,
        records: last.records_through.saturating_sub(first.records_through).saturating_add(1),
        payload_bytes: last
            .payload_through
            .saturating_sub(first.payload_through)
            .saturating_add(first.payload_bytes),
        accepted_spread_ns: latest_ns - earliest_ns,
    }
}

//! What a check found.

use serde::{Deserialize, Serialize};

use crate::violation::{Kind, Violation};

/// The verdict over one history.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// Broken promises, in order of the events that show them.
    pub violations: Vec<Violation>,
    /// What was looked at: a check that saw no windowed ack says nothing about windows.
    pub summary: Summary,
}

impl Verdict {
    /// Whether every promise held.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// Whether a promise of this kind was broken.
    pub fn has(&self, kind: Kind) -> bool {
        self.violations.iter().any(|violation| violation.kind == kind)
    }
}

/// Counts and recomputed figures.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Batches.
    pub batches: u64,
    /// Acks by level achieved (off, local, remote_write, on, remote_apply).
    pub acks: [u64; 5],
    /// Acks under a window that is not ∞.
    pub windowed_acks: u64,
    /// Of them, those that had to wait for it.
    pub waited_for_window: u64,
    /// Acks that were degraded.
    pub degraded_acks: u64,
    /// Acks without a window, or with window 0, that needed standbys.
    pub remote_acks: u64,
    /// Tickets that ended as indeterminate.
    pub indeterminate: u64,
    /// Tickets that had not ended.
    pub open: u64,
    /// Largest recomputed fill at an ack under a window in bytes.
    pub max_fill_bytes: u64,
    /// In records.
    pub max_fill_records: u64,
    /// In nanoseconds.
    pub max_fill_ns: u64,
    /// Largest recomputed exposure per stage (written, flushed, applied), at acks.
    pub max_exposure_bytes: [u64; 3],
    /// Gauges that were compared with the truth.
    pub gauges: u64,
    /// The most that one of them was above it.
    pub max_gauge_excess_bytes: u64,
    /// Leaderships after the first.
    pub leaderships: u64,
    /// What happened to nodes.
    pub damages: u64,
    /// Acks whose records a later leader does not have, by level achieved; those under a window count apart.
    pub lost: [u64; 5],
    /// Of acks under a window that is not ∞.
    pub lost_windowed: u64,
    /// Of all lost ones, those whose level did not promise to survive what happened.
    pub lost_excused: u64,
}

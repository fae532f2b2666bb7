//! Watermarks: how far one stage has come on one replica, and the chain of ≤ between them.
//!
//! ```text
//!   log start      applied      flushed        written        accepted
//!       |-------------|------------|--------------|---------------|
//!       durable and visible        in flight      in the open batches
//! ```

use serde::{Deserialize, Serialize};

use super::Lsn;

/// A place in a log with what lies before it. Each reported watermark carries the counts, so that fill and
/// exposure need no index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub struct Position {
    /// The place; always the end of a batch, which is the start of the next.
    pub lsn: Lsn,
    /// Data records before it, since the log began.
    pub records: u64,
    /// Payload bytes before it, since the log began.
    pub payload_bytes: u64,
}

/// What a standby reports in one session, capped at the point up to which it has verified its log equal to the
/// sender's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub struct StandbyWatermarks {
    /// Complete in memory that outlives the process.
    pub written: Position,
    /// On stable storage.
    pub flushed: Position,
    /// Visible to a read there.
    pub applied: Position,
}

impl StandbyWatermarks {
    /// Whether the chain applied ≤ flushed ≤ written holds, in every unit.
    pub fn is_ordered(&self) -> bool {
        let ordered = |a: &Position, b: &Position| {
            a.lsn <= b.lsn && a.records <= b.records && a.payload_bytes <= b.payload_bytes
        };
        ordered(&self.applied, &self.flushed) && ordered(&self.flushed, &self.written)
    }
}

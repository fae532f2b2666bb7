//! Log sequence numbers: byte positions in one log, padding and headers included.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::limits::{
    BLOCK_BYTES, MAX_BATCH_BYTES, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, SEGMENT_HEADER_BYTES,
};

/// Byte position in one log. Segment and offset follow from it by arithmetic ([`Geometry`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position `bytes` further on; saturates at the end of the number space.
    pub fn plus(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }

    /// Bytes from `earlier` to here; 0 where `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The start of the next block, or this position when it is one.
    pub fn block_up(self) -> Lsn {
        Lsn(self.0.saturating_add(BLOCK_BYTES - 1) & !(BLOCK_BYTES - 1))
    }

    /// Whether a block starts here.
    pub fn is_block_start(self) -> bool {
        self.0.is_multiple_of(BLOCK_BYTES)
    }
}

impl fmt::Display for Lsn {
    /// As PostgreSQL prints an LSN: high and low half in hex.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:08X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Bytes `[start, end)` of a log; how the state machine names payload that it never touches.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Span {
    /// First byte.
    pub start: Lsn,
    /// One past the last byte.
    pub end: Lsn,
}

impl Span {
    /// The span from `start` to `end`; empty where `end` is not after `start`.
    pub fn new(start: Lsn, end: Lsn) -> Span {
        Span { start, end: end.max(start) }
    }

    /// Length in bytes.
    pub fn len(self) -> u64 {
        self.end.bytes_since(self.start)
    }

    /// Whether it holds no byte.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether `lsn` lies inside.
    pub fn contains(self, lsn: Lsn) -> bool {
        self.start <= lsn && lsn < self.end
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start.0, self.end.0)
    }
}

/// How a log's positions fall into segments. Fixed in the log's identity; every replica obeys it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Geometry {
    /// Bytes in a segment file, header included; a power of two.
    pub segment_bytes: u64,
    /// Most bytes past the flushed watermark that may be in flight to the disk.
    pub in_flight_bytes: u64,
}

impl Geometry {
    /// Refuses sizes that no log can have.
    ///
    /// # Errors
    /// What is wrong, and which sizes would do.
    pub fn check(self) -> Result<(), GeometryError> {
        let Geometry { segment_bytes, in_flight_bytes } = self;
        let fits = (MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment_bytes);
        if !segment_bytes.is_power_of_two() || !fits {
            return Err(GeometryError::Segment { bytes: segment_bytes });
        }
        let fits = (LEAST_IN_FLIGHT_BYTES..=MAX_SEGMENT_BYTES).contains(&in_flight_bytes);
        if !in_flight_bytes.is_multiple_of(BLOCK_BYTES) || !fits {
            return Err(GeometryError::InFlight { bytes: in_flight_bytes });
        }
        Ok(())
    }

    /// Sequence number of the segment that holds `lsn`.
    pub fn segment_of(self, lsn: Lsn) -> u64 {
        lsn.0 / self.segment_bytes
    }

    /// Offset of `lsn` in its segment file.
    pub fn offset_of(self, lsn: Lsn) -> u64 {
        lsn.0 % self.segment_bytes
    }

    /// Where segment `seq` starts (its header; no batch lies there).
    pub fn segment_start(self, seq: u64) -> Lsn {
        Lsn(seq.saturating_mul(self.segment_bytes))
    }

    /// Where the first batch of segment `seq` lies.
    pub fn first_batch(self, seq: u64) -> Lsn {
        self.segment_start(seq).plus(SEGMENT_HEADER_BYTES)
    }

    /// One past the last byte of segment `seq`.
    pub fn segment_end(self, seq: u64) -> Lsn {
        self.segment_start(seq.saturating_add(1))
    }

    /// Where a batch that would start at `lsn` really starts: behind the header when `lsn` is a segment's start.
    pub fn batch_place(self, lsn: Lsn) -> Lsn {
        if self.offset_of(lsn) == 0 { lsn.plus(SEGMENT_HEADER_BYTES) } else { lsn }
    }
}

/// Sizes that no log can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GeometryError {
    /// Of a segment.
    #[error("segments of {bytes} bytes: use a power of two from {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES}")]
    Segment {
        /// The size given.
        bytes: u64,
    },
    /// Of what may be in flight.
    #[error(
        "{bytes} bytes in flight: use a multiple of {BLOCK_BYTES} from {LEAST_IN_FLIGHT_BYTES} to {MAX_SEGMENT_BYTES}"
    )]
    InFlight {
        /// The size given.
        bytes: u64,
    },
}

/// One of the largest batches on its way, and the next.
const LEAST_IN_FLIGHT_BYTES: u64 = 2 * MAX_BATCH_BYTES;

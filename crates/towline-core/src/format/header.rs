//! The batch header: what a batch says of itself before any of its bytes is believed.

use serde::{Deserialize, Serialize};

use crate::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES};
use crate::types::{LogId, Lsn, Position, Span, Term};

/// What a batch is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BatchKind {
    /// Records.
    Data,
    /// Empty (or only a restated rule): carries the watermark, so that the bytes before it can be told from a torn tail.
    Seal,
    /// Header only; its span reaches to the segment's end.
    Roll,
}

/// A batch header in memory. Its encoding is `BATCH_HEADER_BYTES` long and starts the batch's first block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BatchHeader {
    /// What the batch is for.
    pub kind: BatchKind,
    /// The log it belongs to.
    pub log: LogId,
    /// The term it was built in.
    pub term: Term,
    /// First byte: a block start.
    pub start: Lsn,
    /// One past the last byte: the next batch's place (for a roll, the segment's end).
    pub end: Lsn,
    /// Bytes of records behind the header, without the padding.
    pub body_bytes: u32,
    /// Data records in it.
    pub records: u32,
    /// Payload bytes in it.
    pub payload_bytes: u64,
    /// Data records before it in the log.
    pub records_before: u64,
    /// Payload bytes before it in the log.
    pub payload_before: u64,
    /// The leading node's flushed LSN when the batch was built.
    pub durable_before: Lsn,
    /// Hash of the previous batch header; 0 for the log's first.
    pub previous_hash: u64,
    /// CRC-32C of the body, seeded with log id, segment salt and LSN (see `body`).
    pub body_crc: u32,
}

impl BatchHeader {
    /// The bytes that are stored and shipped: whole blocks; a roll's is one block however far its span reaches.
    pub fn stored(&self) -> Span {
        Span::new(self.start, self.start.plus(BATCH_HEADER_BYTES + u64::from(self.body_bytes)).block_up())
    }

    /// The whole span in the log.
    pub fn span(&self) -> Span {
        Span::new(self.start, self.end)
    }

    /// The position before the batch.
    pub fn before(&self) -> Position {
        Position { lsn: self.start, records: self.records_before, payload_bytes: self.payload_before }
    }

    /// The position behind the batch.
    pub fn after(&self) -> Position {
        Position {
            lsn: self.end,
            records: self.records_before.saturating_add(u64::from(self.records)),
            payload_bytes: self.payload_before.saturating_add(self.payload_bytes),
        }
    }

    /// Where the first record header lies.
    pub fn body_start(&self) -> Lsn {
        self.start.plus(BATCH_HEADER_BYTES)
    }
}

const _: () = assert!(BATCH_HEADER_BYTES < BLOCK_BYTES);

//! A reader of logs of its own: what a log holds, found without the recovery that it judges.

use std::collections::BTreeMap;

use towline_check::FoundRecord;
use towline_core::format::{BatchHeader, RecordKind, verify_body, walk_headers};
use towline_core::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES};
use towline_core::types::{Geometry, LogId, Lsn, Position, TermHistory};

use crate::bytes::Bytes;

/// One batch of a walk.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its header.
    pub header: BatchHeader,
    /// The hash of its encoded header.
    pub hash: u64,
    /// Its data records: each begins with its number.
    pub records: Vec<FoundRecord>,
}

/// What a walk over a log found.
#[derive(Debug)]
pub struct Walk {
    /// Where it ended.
    pub end: Position,
    /// Hash of the last batch header.
    pub hash: u64,
    /// The batches, in order.
    pub batches: Vec<Batch>,
    /// Nobody counts here: the first batch of a trimmed log says what lay before it.
    any_first: bool,
}

impl Walk {
    /// A walk over a log that starts at `start`.
    pub fn new(start: Lsn) -> Walk {
        let end = Position { lsn: start, ..Position::default() };
        Walk { end, hash: 0, batches: Vec::new(), any_first: true }
    }

    /// A walk that goes on behind a batch with this hash.
    pub fn from(end: Position, hash: u64) -> Walk {
        Walk { end, hash, batches: Vec::new(), any_first: hash == 0 }
    }

    /// Goes on as long as batches are valid.
    pub fn extend(
        &mut self,
        log: LogId,
        segments: &BTreeMap<u64, u32>,
        history: &TermHistory,
        geometry: Geometry,
        bytes: &Bytes,
    ) {
        let mut block = vec![0; BLOCK_BYTES as usize];
        loop {
            let at = geometry.batch_place(self.end.lsn);
            let Some(salt) = segments.get(&geometry.segment_of(at)) else { return };
            bytes.read(at, &mut block);
            let Ok(header) = BatchHeader::decode(&block, log, *salt, geometry) else { return };
            let follows = self.any_first || header.previous_hash == self.hash;
            if header.start != at || !follows || history.owner(at) != Some(header.term) {
                return;
            }
            let stored = bytes.get(header.stored());
            let body = &stored[BATCH_HEADER_BYTES as usize..];
            if verify_body(&header, body, *salt).is_err() {
                return;
            }
            self.any_first = false;
            let base = at.plus(BATCH_HEADER_BYTES);
            let records = walk_headers(&body[..header.body_bytes as usize])
                .filter_map(Result::ok)
                .filter(|record| record.header.kind == RecordKind::Data)
                .map(|record| FoundRecord {
                    lsn: base.plus(u64::from(record.offset)),
                    key: record.payload.first_chunk().map_or(0, |number| u64::from_le_bytes(*number)),
                })
                .collect();
            self.hash = BatchHeader::hash(&header.encode(*salt));
            self.end = header.after();
            self.batches.push(Batch { header, hash: self.hash, records });
        }
    }

    /// All records, in order.
    pub fn records(&self) -> Vec<FoundRecord> {
        self.batches.iter().flat_map(|batch| batch.records.iter().copied()).collect()
    }
}

//! Batch headers read from segment files, one at a time: where a log stands at one place.

use towline_core::format::BatchHeader;
use towline_core::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES};
use towline_core::types::{Geometry, LogId, Lsn, Position};
use towline_uring::AlignedBuf;

use super::error::OpenError;
use super::segments::Segments;

/// Reads batch headers of one log.
pub(crate) struct Headers<'a> {
    segments: &'a Segments,
    log: LogId,
    geometry: Geometry,
    block: AlignedBuf,
}

impl<'a> Headers<'a> {
    pub(crate) fn new(segments: &'a Segments, log: LogId, geometry: Geometry) -> Headers<'a> {
        Headers { segments, log, geometry, block: AlignedBuf::zeroed(BLOCK_BYTES as usize) }
    }

    /// The sound header of a batch that starts at `place`, with its hash; `None` when there is none.
    pub(crate) fn at(&mut self, place: Lsn) -> Result<Option<(BatchHeader, u64)>, OpenError> {
        let seq = self.geometry.segment_of(place);
        let (Some(file), Some(salt)) = (self.segments.file(seq), self.segments.salt(seq)) else {
            return Ok(None);
        };
        file.pread_exact(self.geometry.offset_of(place), &mut self.block).map_err(OpenError::file)?;
        let Ok(header) = BatchHeader::decode(&self.block, self.log, salt, self.geometry) else {
            return Ok(None);
        };
        let mut encoded = [0; BATCH_HEADER_BYTES as usize];
        encoded.copy_from_slice(&self.block[..BATCH_HEADER_BYTES as usize]);
        Ok((header.start == place).then(|| (header, BatchHeader::hash(&encoded))))
    }

    /// The counts before `lsn`, the end of a batch, and the hash of that batch's header. The batch behind says both;
    /// where there is none, the batches of the segment before are walked.
    pub(crate) fn position_at(&mut self, lsn: Lsn) -> Result<(Position, u64), OpenError> {
        if let Some((next, _)) = self.at(self.geometry.batch_place(lsn))? {
            return Ok((Position { lsn, ..next.before() }, next.previous_hash));
        }
        let seq = self.geometry.segment_of(lsn);
        let first = self.geometry.first_batch(seq);
        let from = if lsn > first || seq == 0 { first } else { self.geometry.first_batch(seq - 1) };
        let mut found = (Position { lsn, ..Position::default() }, 0);
        let mut place = from;
        while place < lsn {
            let Some((header, hash)) = self.at(place)? else { break };
            found = (Position { lsn, ..header.after() }, hash);
            place = self.geometry.batch_place(header.end);
        }
        Ok(found)
    }
}

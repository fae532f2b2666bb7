//! Reading the log while it grows, from another thread than the shard's: out of the arena while the bytes are
//! there, out of segment files when they are not.

use towline_core::format::{BatchHeader, BatchKind, verify_body};
use towline_core::types::limits::BATCH_HEADER_BYTES;
use towline_core::types::{Geometry, LogId, Lsn, Position, Span};
use towline_uring::ArenaReader;

use crate::error::TailError;
use crate::storage::{MappedSegment, Segments};

/// A reader with a position of its own kind: it is told where to read, and how far it may.
pub(crate) struct BatchReader {
    arena: Option<ArenaReader>,
    segments: Segments,
    open: Option<std::sync::Arc<MappedSegment>>,
    bytes: Vec<u8>,
    /// Behind the last batch that was passed.
    passed: Option<Position>,
}

/// A whole batch; its records are in the reader's buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) header: BatchHeader,
    /// Where the batch behind it lies.
    pub(crate) next: Lsn,
}

impl BatchReader {
    pub(crate) fn new(arena: Option<ArenaReader>, segments: Segments) -> BatchReader {
        BatchReader { arena, segments, open: None, bytes: Vec::new(), passed: None }
    }

    /// The position behind the last batch that [`next`](Self::next) passed, with records or without.
    pub(crate) fn passed(&self) -> Option<Position> {
        self.passed
    }

    /// The records of the batch that was read last, without the padding.
    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes
    }

    /// Hands the records over.
    pub(crate) fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// The first batch with records at or behind `from` that ends at or below `upto`; `Err(next)` inside the `Ok`
    /// when there is none yet: where to look next time.
    ///
    /// # Errors
    /// [`TailError`].
    pub(crate) fn next(&mut self, from: Lsn, upto: Lsn) -> Result<Result<Found, Lsn>, TailError> {
        match self.next_header(from, upto)? {
            Ok((header, geometry)) => {
                self.read_body(&header, geometry)?;
                Ok(Ok(Found { header, next: geometry.batch_place(header.end) }))
            }
            Err(next) => Ok(Err(next)),
        }
    }

    /// How many bytes of memory [`next`](Self::next) takes for the batch that it would read; 0 when there is none yet.
    ///
    /// # Errors
    /// [`TailError`].
    pub(crate) fn next_bytes(&mut self, from: Lsn, upto: Lsn) -> Result<u64, TailError> {
        let next = self.next_header(from, upto)?;
        Ok(next.map_or(0, |(header, _)| header.stored().end.bytes_since(header.body_start())))
    }

    fn next_header(
        &mut self,
        from: Lsn,
        upto: Lsn,
    ) -> Result<Result<(BatchHeader, Geometry), Lsn>, TailError> {
        let Some((log, geometry)) = self.segments.log() else { return Ok(Err(from)) };
        let mut at = geometry.batch_place(from.max(geometry.first_batch(0)));
        loop {
            if at >= upto {
                return Ok(Err(at));
            }
            let header = self.read_header(at, log, geometry)?;
            if header.end > upto {
                return Ok(Err(at));
            }
            self.passed = Some(header.after());
            if header.kind == BatchKind::Data {
                return Ok(Ok((header, geometry)));
            }
            at = geometry.batch_place(header.end);
        }
    }

    /// The batch that holds `lsn` (any position in it), searched from its segment's first batch.
    ///
    /// # Errors
    /// [`TailError`].
    pub(crate) fn find(&mut self, lsn: Lsn, upto: Lsn) -> Result<Option<Lsn>, TailError> {
        let Some((log, geometry)) = self.segments.log() else { return Ok(None) };
        let mut at = geometry.first_batch(geometry.segment_of(lsn));
        while at <= lsn && at < upto {
            let header = self.read_header(at, log, geometry)?;
            if lsn < header.end {
                return Ok(Some(at));
            }
            at = geometry.batch_place(header.end);
        }
        Ok(None)
    }

    fn read_header(&mut self, at: Lsn, log: LogId, geometry: Geometry) -> Result<BatchHeader, TailError> {
        let seq = geometry.segment_of(at);
        let salt = self.salt(seq)?;
        self.read(at, BATCH_HEADER_BYTES, geometry)?;
        let header = BatchHeader::decode(&self.bytes, log, salt, geometry)
            .map_err(|error| TailError::NotABatch { at, why: error.to_string() })?;
        if header.start != at {
            return Err(TailError::NotABatch {
                at,
                why: format!("a batch of {} stands there", header.start),
            });
        }
        Ok(header)
    }

    fn read_body(&mut self, header: &BatchHeader, geometry: Geometry) -> Result<(), TailError> {
        let seq = geometry.segment_of(header.start);
        let stored = header.stored();
        let from_segment =
            self.read(header.body_start(), stored.end.bytes_since(header.body_start()), geometry)?;
        // What comes from the arena was checked on its way in, or made here; what comes from a disk was not.
        if from_segment {
            let salt = self.salt(seq)?;
            verify_body(header, &self.bytes, salt)
                .map_err(|error| TailError::NotABatch { at: header.start, why: error.to_string() })?;
        }
        self.bytes.truncate(header.body_bytes as usize);
        Ok(())
    }

    /// Fills the buffer; true when the bytes come from a segment file.
    fn read(&mut self, at: Lsn, len: u64, geometry: Geometry) -> Result<bool, TailError> {
        self.bytes.clear();
        if let Some(arena) = &mut self.arena
            && arena.copy_out(at.0..at.0 + len, &mut self.bytes).is_ok()
        {
            return Ok(false);
        }
        let segment = self.segment(geometry.segment_of(at))?;
        let bytes = segment.bytes(Span::new(at, at.plus(len)));
        let bytes =
            bytes.ok_or_else(|| TailError::Read(format!("{len} bytes at {at} leave their segment")))?;
        self.bytes.extend_from_slice(bytes);
        Ok(true)
    }

    fn salt(&mut self, seq: u64) -> Result<u32, TailError> {
        if let Some(open) = &self.open
            && open.seq() == seq
        {
            return Ok(open.salt());
        }
        match self.segments.salt(seq) {
            Some(salt) => Ok(salt),
            None => self.segment(seq).map(|segment| segment.salt()),
        }
    }

    fn segment(&mut self, seq: u64) -> Result<std::sync::Arc<MappedSegment>, TailError> {
        if let Some(open) = &self.open
            && open.seq() == seq
        {
            return Ok(std::sync::Arc::clone(open));
        }
        let segment = self.segments.map(seq).map_err(|error| TailError::Read(error.to_string()))?;
        self.open = Some(std::sync::Arc::clone(&segment));
        Ok(segment)
    }

    /// Gives the arena's part back.
    pub(crate) fn take_arena(&mut self) -> Option<ArenaReader> {
        self.arena.take()
    }

    /// The log was cut: what is open may have been replaced.
    pub(crate) fn forget(&mut self) {
        self.open = None;
    }
}

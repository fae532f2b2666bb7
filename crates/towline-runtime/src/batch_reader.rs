//! Reading the log while it grows, from another thread than the shard's: out of the arena while the bytes are
//! there, out of segment files when they are not.

use towline_core::format::{BatchHeader, BatchKind, verify_body};
use towline_core::types::limits::BATCH_HEADER_BYTES;
use towline_core::types::{Geometry, LogId, Lsn, Position, Span};
use towline_uring::ArenaReader;

use crate::error::TailError;
use crate::read_buf::ReadBuf;
use crate::storage::{SegmentReader, Segments};

/// A reader with a position of its own kind: it is told where to read, and how far it may.
pub(crate) struct BatchReader {
    arena: Option<ArenaReader>,
    segments: SegmentReader,
    bytes: ReadBuf,
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
        BatchReader { arena, segments: SegmentReader::new(segments), bytes: ReadBuf::default(), passed: None }
    }

    /// For the application's thread.
    pub(crate) fn with_wide_window(self) -> BatchReader {
        BatchReader { segments: self.segments.with_wide_window(), ..self }
    }

    /// The position behind the last batch that [`next`](Self::next) passed, with records or without.
    pub(crate) fn passed(&self) -> Option<Position> {
        self.passed
    }

    /// The records of the batch that was read last, without the padding.
    pub(crate) fn body(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// The memory that the next batch is read into.
    pub(crate) fn read_into(&mut self, memory: ReadBuf) {
        self.bytes = memory;
    }

    /// Hands the records over.
    pub(crate) fn take_body(&mut self) -> ReadBuf {
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
                self.read_body(&header, geometry, upto)?;
                Ok(Ok(Found { header, next: geometry.batch_place(header.end) }))
            }
            Err(next) => {
                self.rest();
                Ok(Err(next))
            }
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
        let Some((log, geometry)) = self.segments.segments().log() else { return Ok(Err(from)) };
        let mut at = geometry.batch_place(from.max(geometry.first_batch(0)));
        loop {
            if at >= upto {
                return Ok(Err(at));
            }
            let header = self.read_header(at, log, geometry, upto)?;
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
        let Some((log, geometry)) = self.segments.segments().log() else { return Ok(None) };
        let mut at = geometry.first_batch(geometry.segment_of(lsn));
        while at <= lsn && at < upto {
            let header = self.read_header(at, log, geometry, upto)?;
            if lsn < header.end {
                return Ok(Some(at));
            }
            at = geometry.batch_place(header.end);
        }
        Ok(None)
    }

    fn read_header(
        &mut self,
        at: Lsn,
        log: LogId,
        geometry: Geometry,
        upto: Lsn,
    ) -> Result<BatchHeader, TailError> {
        let salt = self.salt(geometry.segment_of(at))?;
        self.read(Span::new(at, at.plus(BATCH_HEADER_BYTES)), upto)?;
        let header = BatchHeader::decode(self.bytes.as_ref(), log, salt, geometry)
            .map_err(|error| TailError::NotABatch { at, why: error.to_string() })?;
        if header.start != at {
            return Err(TailError::NotABatch {
                at,
                why: format!("a batch of {} stands there", header.start),
            });
        }
        Ok(header)
    }

    fn read_body(&mut self, header: &BatchHeader, geometry: Geometry, upto: Lsn) -> Result<(), TailError> {
        let from_segment = self.read(Span::new(header.body_start(), header.stored().end), upto)?;
        // What comes from the arena was checked on its way in, or made here; what comes from a disk was not.
        if from_segment {
            let salt = self.salt(geometry.segment_of(header.start))?;
            verify_body(header, self.bytes.as_ref(), salt)
                .map_err(|error| TailError::NotABatch { at: header.start, why: error.to_string() })?;
        }
        self.bytes.truncate(header.body_bytes as usize);
        Ok(())
    }

    /// Fills the buffer; true when the bytes come from a segment file. Everything below `upto` is durable.
    fn read(&mut self, span: Span, upto: Lsn) -> Result<bool, TailError> {
        let into = self.bytes.fill(span.len() as usize);
        if let Some(arena) = &mut self.arena
            && arena.copy_out(span.start.0..span.end.0, into).is_ok()
        {
            return Ok(false);
        }
        self.segments.read(span, upto, into).map_err(read_error)?;
        Ok(true)
    }

    fn salt(&mut self, seq: u64) -> Result<u32, TailError> {
        self.segments.salt(seq).map_err(read_error)
    }

    /// Gives back what memory it has for reading from segments.
    pub(crate) fn rest(&mut self) {
        self.segments.rest();
    }

    /// Gives the arena's part back.
    pub(crate) fn take_arena(&mut self) -> Option<ArenaReader> {
        self.arena.take()
    }
}

fn read_error(error: std::io::Error) -> TailError {
    TailError::Read(error.to_string())
}

//! Where the bytes of a log come from, and what its segments say of themselves.

use std::collections::BTreeMap;

use crate::format::{SegmentHeader, SegmentVerdict};
use crate::types::limits::SEGMENT_HEADER_BYTES;
use crate::types::{Geometry, LogId, Lsn};

/// An error of a [`SegmentSource`].
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// A segment file that is in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentFile {
    /// Sequence number, by its name.
    pub seq: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// The segment files of one log. The runtime reads files, tests read memory. Flush a file before reading it: a
/// verdict on bytes that were not durable may be another one after the next crash.
pub trait SegmentSource {
    /// The files in place, in any order.
    ///
    /// # Errors
    /// The source's own.
    fn segments(&self) -> Result<Vec<SegmentFile>, SourceError>;

    /// Fills `buf` from `offset` of segment `seq` on. Never asked for bytes past the file's length.
    ///
    /// # Errors
    /// The source's own. An error ends the scan: it is never taken for damage.
    fn read(&self, seq: u64, offset: u64, buf: &mut [u8]) -> Result<(), SourceError>;
}

/// A log that could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The files could not be listed.
    #[error("the segments cannot be listed: {0}")]
    List(#[source] SourceError),
    /// A file could not be read.
    #[error("segment {seq} cannot be read at byte {offset}: {source}")]
    Read {
        /// Its sequence number.
        seq: u64,
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: SourceError,
    },
}

/// What one segment file says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentState {
    /// Its length in bytes.
    pub bytes: u64,
    /// Its header.
    pub header: SegmentVerdict,
}

impl SegmentState {
    /// The header, when it is of this place.
    pub fn ours(&self) -> Option<SegmentHeader> {
        match self.header {
            SegmentVerdict::Ours { header, .. } => Some(header),
            _ => None,
        }
    }
}

/// All segments from the log's start on, by sequence number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentTable {
    /// The states.
    pub states: BTreeMap<u64, SegmentState>,
    /// Sequence number of the log's first segment.
    pub first: u64,
}

impl SegmentTable {
    /// Reads the headers of all segments from the one that holds `log_start` on; older ones wait to be recycled.
    ///
    /// # Errors
    /// When the source has one.
    pub fn load(
        source: &dyn SegmentSource,
        geometry: Geometry,
        log: LogId,
        log_start: Lsn,
    ) -> Result<SegmentTable, ScanError> {
        let first = geometry.segment_of(log_start);
        let mut states = BTreeMap::new();
        let mut buf = vec![0; SEGMENT_HEADER_BYTES as usize];
        for SegmentFile { seq, bytes } in source.segments().map_err(ScanError::List)? {
            if seq < first {
                continue;
            }
            let readable = bytes.min(SEGMENT_HEADER_BYTES) as usize;
            let copies = &mut buf[..readable];
            source.read(seq, 0, copies).map_err(|source| ScanError::Read { seq, offset: 0, source })?;
            states.insert(seq, SegmentState { bytes, header: SegmentHeader::judge(copies, log, seq) });
        }
        Ok(SegmentTable { states, first })
    }

    /// The first sequence number that is missing although a later one is there.
    pub fn gap(&self) -> Option<u64> {
        let last = *self.states.last_key_value()?.0;
        (self.first..last).find(|seq| !self.states.contains_key(seq))
    }
}

/// Reads a segment forward in large pieces; at most [`WINDOW_BYTES`] are held.
pub(super) struct Window<'a> {
    source: &'a dyn SegmentSource,
    seq: u64,
    start: u64,
    held: usize,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(source: &'a dyn SegmentSource) -> Window<'a> {
        Window { source, seq: 0, start: 0, held: 0, bytes: Vec::new() }
    }

    /// `len` bytes at `offset` of segment `seq`, whose file is `file_bytes` long. The caller asks for at most
    /// [`WINDOW_BYTES`], and not past the file's end.
    pub(super) fn get(
        &mut self,
        seq: u64,
        offset: u64,
        len: usize,
        file_bytes: u64,
    ) -> Result<&[u8], ScanError> {
        let held_end = self.start + self.held as u64;
        let is_held = seq == self.seq && offset >= self.start && offset + len as u64 <= held_end;
        if !is_held {
            self.move_to(seq, offset, file_bytes)?;
        }
        let at = (offset - self.start) as usize;
        Ok(&self.bytes[at..at + len])
    }

    /// Holds the window that begins at `offset`: what it has of it already is moved, the rest is read.
    fn move_to(&mut self, seq: u64, offset: u64, file_bytes: u64) -> Result<(), ScanError> {
        let held_end = self.start + self.held as u64;
        let kept = if seq == self.seq && offset >= self.start && offset < held_end {
            let from = (offset - self.start) as usize;
            self.bytes.copy_within(from..self.held, 0);
            self.held - from
        } else {
            0
        };
        let want = file_bytes.saturating_sub(offset).min(WINDOW_BYTES as u64) as usize;
        if self.bytes.len() < want {
            self.bytes.resize(want, 0);
        }
        // Nothing is held should the read fail.
        (self.seq, self.start, self.held) = (seq, offset, 0);
        let read_at = offset + kept as u64;
        let rest = &mut self.bytes[kept..want.max(kept)];
        self.source.read(seq, read_at, rest).map_err(|source| ScanError::Read {
            seq,
            offset: read_at,
            source,
        })?;
        self.held = want.max(kept);
        Ok(())
    }
}

/// Holds the largest batch, and reads in pieces that keep a disk busy.
pub(super) const WINDOW_BYTES: usize = 4 << 20;
const _: () = assert!(WINDOW_BYTES as u64 >= 2 * crate::types::limits::MAX_BATCH_BYTES);

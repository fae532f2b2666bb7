//! Mending a log with a peer's bytes: what to ask for, and which of the answer may be written.
//!
//! Nothing of a peer's answer is believed. It is laid over the log, the log is walked from its start, and only the
//! batches that this walk then passes may be written: their place, owner, chain, counts and every CRC are as they
//! must be. So whatever is overwritten is damaged, or the same, and a crash in the middle leaves less damage.

use super::scan::{Scan, ScanInput, scan};
use super::source::{ScanError, SegmentFile, SegmentSource, SegmentTable, SourceError};
use super::verdict::{Standing, Verdict};
use crate::format::BatchHeader;
use crate::types::limits::{MAX_BATCH_BYTES, SEGMENT_HEADER_BYTES};
use crate::types::{Geometry, Lsn, Span};

/// What a peer is to be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The batches of this span, which lies in one segment.
    Batches(Span),
    /// The header of this segment: both copies of it are damaged.
    Header {
        /// Sequence number.
        seq: u64,
    },
    /// This whole segment: its file is missing, or too short.
    Segment {
        /// Sequence number.
        seq: u64,
    },
}

/// Bytes of a peer, in one segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patch {
    /// Where they lie in the log.
    pub start: Lsn,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Patch {
    /// What it covers.
    pub fn span(&self) -> Span {
        Span::new(self.start, self.start.plus(self.bytes.len() as u64))
    }

    /// Its bytes of `span`, which lies in it.
    pub fn bytes_of(&self, span: Span) -> Option<&[u8]> {
        let from = span.start.0.checked_sub(self.start.0)? as usize;
        self.bytes.get(from..from.checked_add(span.len() as usize)?)
    }
}

/// A log with a patch laid over it.
#[derive(Clone, Copy)]
pub struct Patched<'a> {
    source: &'a dyn SegmentSource,
    geometry: Geometry,
    patch: &'a Patch,
}

impl<'a> Patched<'a> {
    /// The log of `source` with `patch` over it.
    pub fn new(source: &'a dyn SegmentSource, geometry: Geometry, patch: &'a Patch) -> Patched<'a> {
        Patched { source, geometry, patch }
    }
}

impl SegmentSource for Patched<'_> {
    fn segments(&self) -> Result<Vec<SegmentFile>, SourceError> {
        self.source.segments()
    }

    fn read(&self, seq: u64, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        self.source.read(seq, offset, buf)?;
        let start = self.geometry.segment_start(seq).plus(offset);
        let asked = Span::new(start, start.plus(buf.len() as u64));
        let patch = self.patch.span();
        let common = Span::new(asked.start.max(patch.start), asked.end.min(patch.end));
        if common.start < common.end
            && let Some(bytes) = self.patch.bytes_of(common)
        {
            let at = common.start.bytes_since(start) as usize;
            buf[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }
}

/// What a peer is to be asked for, so that a log found corrupt can go on; `None` where none could help.
///
/// # Errors
/// When the source has one.
pub fn wanted(
    source: &dyn SegmentSource,
    input: ScanInput<'_>,
    found: &Scan,
) -> Result<Option<Wanted>, ScanError> {
    let Verdict::Corrupt { span, .. } = &found.verdict else { return Ok(None) };
    if found.evidence.standing == Standing::NewerFormat {
        return Ok(None);
    }
    let ScanInput { log, geometry, meta, .. } = input;
    let table = SegmentTable::load(source, geometry, log, meta.log_start)?;
    let at = found.evidence.at;
    let seq = geometry.segment_of(at);
    Ok(Some(match table.states.get(&seq) {
        None => Wanted::Segment { seq },
        Some(state) if state.bytes < geometry.segment_bytes => Wanted::Segment { seq },
        Some(state) if state.ours().is_none() => Wanted::Header { seq },
        // At least a whole batch: where the next valid one begins is not always known.
        Some(_) => {
            let end = span.end.max(at.plus(MAX_BATCH_BYTES)).min(at.plus(MAX_PATCH_BYTES));
            Wanted::Batches(Span::new(at, end.min(geometry.segment_end(seq))))
        }
    }))
}

/// The spans of `patch` that mend the log found as `before`: whole batches, each of which the log's own walk passes.
/// Empty when the patch is of no help.
///
/// # Errors
/// When the source has one.
pub fn mending(
    source: &dyn SegmentSource,
    input: ScanInput<'_>,
    before: &Scan,
    patch: &Patch,
) -> Result<Vec<Span>, ScanError> {
    let geometry = input.geometry;
    let after = scan(&Patched::new(source, geometry, patch), input)?;
    let (from, upto) = (before.evidence.at, after.evidence.at.min(patch.span().end));
    let mut spans = Vec::new();
    let mut at = from;
    while at < upto {
        let Some(block) = patch.bytes_of(Span::new(at, upto)) else { break };
        let Ok((header, _)) = BatchHeader::decode_any(block) else { break };
        let stored = header.stored();
        if stored.end > patch.span().end || header.start != at {
            break;
        }
        spans.push(stored);
        at = geometry.batch_place(header.end);
    }
    Ok(spans)
}

/// Bytes asked for at once at most; a larger range is mended piece by piece.
pub const MAX_PATCH_BYTES: u64 = 8 << 20;
const _: () = assert!(MAX_PATCH_BYTES >= 2 * MAX_BATCH_BYTES && MAX_PATCH_BYTES > SEGMENT_HEADER_BYTES);

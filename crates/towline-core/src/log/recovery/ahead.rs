//! Looking past the first bad place: valid batches there tell rot from a crash.

use super::source::{ScanError, SegmentSource, SegmentTable, WINDOW_BYTES, Window};
use super::walk::Place;
use crate::format::{BATCH_MAGIC, BatchHeader};
use crate::types::limits::{BLOCK_BYTES, MAX_BATCH_BYTES};
use crate::types::{Geometry, LogId, Lsn, Span, Term, TermHistory};

/// A valid batch behind the first bad place: its header is sound, of this place, and of the owning term. Its body
/// was not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaterBatch {
    /// Its stored bytes.
    pub stored: Span,
    /// Its term.
    pub term: Term,
    /// What its leader had flushed when it was built.
    pub durable_before: Lsn,
}

/// What lies behind X.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ahead {
    /// The first batches found, at most [`MAX_LATER_LISTED`].
    pub listed: Vec<LaterBatch>,
    /// How many were found in all.
    pub found: u64,
    /// From the start of the first to the end of the last.
    pub span: Option<Span>,
    /// The highest `durable_before` among them.
    pub durable_proof: Option<Lsn>,
}

/// Later batches that are listed at most.
pub const MAX_LATER_LISTED: usize = 256;

/// What a look ahead needs.
pub(super) struct Look<'a> {
    pub(super) source: &'a dyn SegmentSource,
    pub(super) table: &'a SegmentTable,
    pub(super) log: LogId,
    pub(super) geometry: Geometry,
    pub(super) history: &'a TermHistory,
}

impl Look<'_> {
    /// Finds valid batches behind `at`: in its own segment up to the end; in later ones as far as anything may have
    /// been in flight, and at least where their first batch would lie.
    pub(super) fn from(&self, at: Lsn, limit_end: Lsn) -> Result<Ahead, ScanError> {
        let mut ahead = Ahead::default();
        let mut window = Window::new(self.source);
        let own = self.geometry.segment_of(at);
        for (seq, state) in self.table.states.range(own..) {
            let first = self.geometry.first_batch(*seq);
            let file_end =
                self.geometry.segment_start(*seq).plus(state.bytes.min(self.geometry.segment_bytes));
            // Behind X itself, whose own header may be sound.
            let start = if at < first { first } else { at.plus(BLOCK_BYTES).min(file_end) };
            let end = if *seq == own { file_end } else { first.plus(2 * MAX_BATCH_BYTES).max(limit_end) };
            let salt = state.ours().map(|header| header.salt);
            self.search(&mut window, *seq, Span::new(start, end.min(file_end)), salt, &mut ahead)?;
        }
        Ok(ahead)
    }

    /// `salt`: `None` where the segment's header is damaged; then a batch's own word is all there is.
    fn search(
        &self,
        window: &mut Window<'_>,
        seq: u64,
        span: Span,
        salt: Option<u32>,
        ahead: &mut Ahead,
    ) -> Result<(), ScanError> {
        let file_end = self.geometry.offset_of(span.start) + span.len();
        let mut piece = span.start;
        while piece < span.end {
            // Whole blocks only: a file that is too short may end within one.
            let len = span.end.bytes_since(piece).min(WINDOW_BYTES as u64);
            let bytes = window.get(seq, self.geometry.offset_of(piece), len as usize, file_end)?;
            for (index, block) in bytes.chunks_exact(BLOCK_BYTES as usize).enumerate() {
                if block.starts_with(&BATCH_MAGIC) {
                    self.take(piece.plus(index as u64 * BLOCK_BYTES), block, salt, ahead);
                }
            }
            piece = piece.plus(len);
        }
        Ok(())
    }

    fn take(&self, at: Lsn, block: &[u8], salt: Option<u32>, ahead: &mut Ahead) {
        let own_word = || BatchHeader::decode_any(block).ok().map(|(_, salt)| salt);
        let Some(salt) = salt.or_else(own_word) else { return };
        let place = Place { at, salt, log: self.log, geometry: self.geometry, history: self.history };
        let Ok(header) = place.judge(block) else { return };
        let stored = header.stored();
        ahead.found += 1;
        if ahead.listed.len() < MAX_LATER_LISTED {
            ahead.listed.push(LaterBatch {
                stored,
                term: header.term,
                durable_before: header.durable_before,
            });
        }
        let start = ahead.span.map_or(stored.start, |span| span.start);
        ahead.span = Some(Span::new(start, stored.end.max(ahead.span.map_or(stored.end, |span| span.end))));
        ahead.durable_proof = ahead.durable_proof.max(Some(header.durable_before));
    }
}

//! Walking a log batch by batch from its start, checking everything, up to the first place that is not valid.

use super::source::{ScanError, SegmentSource, SegmentTable, WINDOW_BYTES, Window};
use super::verdict::Standing;
use crate::bugs::{Bug, bug};
use crate::format::{BATCH_MAGIC, BatchHeader, BatchKind, BodySummary, HeaderError, is_zero, verify_body};
use crate::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES, MAX_BATCH_BYTES};
use crate::types::{Geometry, LogId, Lsn, Position, TermHistory};

/// Reads the valid batches of a log in order.
///
/// For each: header CRC and bounds, place, owning term, hash chain, counts, then every byte of the body. Memory is
/// bounded by one window of a few MiB.
pub struct BatchWalk<'a> {
    log: LogId,
    geometry: Geometry,
    history: &'a TermHistory,
    table: &'a SegmentTable,
    window: Window<'a>,
    end: Position,
    /// Unknown before the first batch of a trimmed log.
    previous: Option<u64>,
    /// The last batch was a seal.
    sealed: bool,
    stopped: Option<Stop>,
}

/// One valid batch.
#[derive(Clone, Debug)]
pub struct BatchView<'w> {
    /// Its header.
    pub header: BatchHeader,
    /// Hash of its encoded header.
    pub hash: u64,
    /// Salt of its segment.
    pub salt: u32,
    /// Its records, without the padding: see [`crate::format::walk_headers`].
    pub body: &'w [u8],
    /// What it holds.
    pub summary: BodySummary,
}

/// Where the walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop {
    /// Where the next batch should start.
    pub at: Lsn,
    /// What stands there.
    pub standing: Standing,
}

/// One step of a walk.
#[derive(Clone, Debug)]
pub enum Step<'w> {
    /// The next batch.
    Batch(BatchView<'w>),
    /// There is no further valid batch; asked again, the answer is the same.
    Stop(Stop),
}

impl<'a> BatchWalk<'a> {
    /// A walk from `log_start` (0, or the place of a segment's first batch).
    pub fn new(
        source: &'a dyn SegmentSource,
        table: &'a SegmentTable,
        log: LogId,
        geometry: Geometry,
        history: &'a TermHistory,
        log_start: Lsn,
    ) -> BatchWalk<'a> {
        let start = geometry.batch_place(log_start);
        BatchWalk {
            log,
            geometry,
            history,
            table,
            window: Window::new(source),
            end: Position { lsn: start, ..Position::default() },
            previous: (start == geometry.first_batch(0)).then_some(0),
            sealed: false,
            stopped: None,
        }
    }

    /// The position behind the last batch.
    pub fn end(&self) -> Position {
        self.end
    }

    /// Hash of the last batch's header; 0 before the first.
    pub fn previous_hash(&self) -> u64 {
        self.previous.unwrap_or(0)
    }

    /// Whether the last batch was a seal.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The next batch, or where and why there is none.
    ///
    /// # Errors
    /// When the source has one.
    pub fn step(&mut self) -> Result<Step<'_>, ScanError> {
        if let Some(stop) = self.stopped {
            return Ok(Step::Stop(stop));
        }
        let at = self.geometry.batch_place(self.end.lsn);
        match self.check(at)? {
            Err(standing) => {
                let stop = Stop { at, standing };
                self.stopped = Some(stop);
                Ok(Step::Stop(stop))
            }
            Ok(found) => {
                let Found { header, hash, salt, summary } = found;
                self.end = header.after();
                self.previous = Some(hash);
                self.sealed = header.kind == BatchKind::Seal;
                // Held since it was checked: this reads nothing.
                let (seq, offset) = (self.geometry.segment_of(at), self.geometry.offset_of(at));
                let len = BATCH_HEADER_BYTES as usize + header.body_bytes as usize;
                let bytes = self.window.get(seq, offset, len, self.geometry.segment_bytes)?;
                let body = &bytes[BATCH_HEADER_BYTES as usize..];
                Ok(Step::Batch(BatchView { header, hash, salt, body, summary }))
            }
        }
    }

    fn check(&mut self, at: Lsn) -> Result<Result<Found, Standing>, ScanError> {
        let (seq, offset) = (self.geometry.segment_of(at), self.geometry.offset_of(at));
        let salt = match salt_of(self.table, self.geometry, seq) {
            Ok(salt) => salt,
            Err(standing) => return Ok(Err(standing)),
        };
        let file_bytes = self.geometry.segment_bytes;
        let block = self.window.get(seq, offset, BLOCK_BYTES as usize, file_bytes)?;
        let encoded: Option<[u8; BATCH_HEADER_BYTES as usize]> = block.first_chunk().copied();
        let place = Place { at, salt, log: self.log, geometry: self.geometry, history: self.history };
        let standing = match (place.judge(block), encoded) {
            (Ok(header), Some(encoded)) if self.follows(&header) => {
                let len = header.stored().len() as usize;
                let stored = self.window.get(seq, offset, len, file_bytes)?;
                match verify_body(&header, &stored[BATCH_HEADER_BYTES as usize..], salt) {
                    Ok(summary) => {
                        return Ok(Ok(Found { header, hash: BatchHeader::hash(&encoded), salt, summary }));
                    }
                    Err(why) => Standing::DamagedBody(why),
                }
            }
            (Ok(_), _) => Standing::BrokenChain,
            (Err(Standing::Zeros), _) if at == self.geometry.first_batch(seq) => Standing::Prepared,
            (Err(Standing::DamagedHeader), _) if self.sealed && self.is_old_content(at, salt)? => {
                Standing::OldContent
            }
            (Err(standing), _) => standing,
        };
        Ok(Err(standing))
    }

    fn follows(&self, header: &BatchHeader) -> bool {
        let counts = (header.records_before, header.payload_before);
        match self.previous {
            Some(previous) => {
                header.previous_hash == previous && counts == (self.end.records, self.end.payload_bytes)
            }
            // The first batch of a trimmed log: what it follows is gone.
            None => true,
        }
    }

    /// Whether the bytes at `at`, which begin no batch, are the middle of an old one: nothing like a batch header
    /// stands here, and the next header in this segment is a sound one from before it was recycled. Asked behind a
    /// seal only: elsewhere a torn write over old content must be reported.
    fn is_old_content(&mut self, at: Lsn, salt: u32) -> Result<bool, ScanError> {
        let (seq, offset) = (self.geometry.segment_of(at), self.geometry.offset_of(at));
        let len = (MAX_BATCH_BYTES + BLOCK_BYTES).min(self.geometry.segment_bytes - offset);
        let bytes = self.window.get(seq, offset, len as usize, self.geometry.segment_bytes)?;
        let magic = u64::from_le_bytes(BATCH_MAGIC);
        let first: Option<[u8; 8]> = bytes.first_chunk().copied();
        // A rotten magic differs in a few bits, old payload in about half of them.
        if first.is_none_or(|first| (u64::from_le_bytes(first) ^ magic).count_ones() < 16) {
            return Ok(false);
        }
        let next = bytes.chunks(BLOCK_BYTES as usize).find(|block| block.starts_with(&BATCH_MAGIC));
        let next = next.and_then(|block| BatchHeader::decode_any(block).ok());
        Ok(next.is_some_and(|(header, found)| header.log == self.log && found != salt))
    }
}

/// The salt of segment `seq`, or what is wrong with it.
pub(super) fn salt_of(table: &SegmentTable, geometry: Geometry, seq: u64) -> Result<u32, Standing> {
    let later = table.states.last_key_value().is_some_and(|(last, _)| *last > seq);
    match table.states.get(&seq) {
        None if later => Err(Standing::SequenceGap),
        None => Err(Standing::NoSegment),
        Some(state) if state.bytes < geometry.segment_bytes => Err(Standing::ShortFile),
        Some(state) => state.ours().map(|header| header.salt).ok_or(Standing::BadSegmentHeader),
    }
}

/// A place in the log, and what a batch there must be.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) at: Lsn,
    pub(super) salt: u32,
    pub(super) log: LogId,
    pub(super) geometry: Geometry,
    pub(super) history: &'a TermHistory,
}

impl Place<'_> {
    /// The header of a valid batch here, or what stands here instead. The body and the chain are not looked at.
    pub(super) fn judge(&self, block: &[u8]) -> Result<BatchHeader, Standing> {
        let (header, salt) = match BatchHeader::decode_any(block) {
            Ok(found) => found,
            Err(HeaderError::Version(_)) => return Err(Standing::NewerFormat),
            Err(_) if is_zero(block) => return Err(Standing::Zeros),
            Err(_) => return Err(Standing::DamagedHeader),
        };
        if header.log != self.log {
            return Err(Standing::Misplaced);
        }
        if salt != self.salt && !bug(Bug::RecycledBatch) {
            return Err(Standing::OtherSalt);
        }
        if header.start != self.at {
            return Err(if header.start < self.at { Standing::LowerLsn } else { Standing::Misplaced });
        }
        if self.history.owner(self.at) != Some(header.term) && !bug(Bug::TruncatedBatch) {
            return Err(Standing::NotOwner);
        }
        BatchHeader::decode(block, self.log, salt, self.geometry).map_err(|_| Standing::DamagedHeader)
    }
}

struct Found {
    header: BatchHeader,
    hash: u64,
    salt: u32,
    summary: BodySummary,
}

const _: () = assert!(WINDOW_BYTES as u64 >= MAX_BATCH_BYTES + BLOCK_BYTES);

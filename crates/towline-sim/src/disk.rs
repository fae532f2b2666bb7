//! A disk in memory that forgets: what was not flushed is kept or lost sector by sector at a power cut. It opens as
//! the runtime opens a directory: the core's own recovery judges what is there.

use std::collections::BTreeMap;

use towline_core::bugs::{Bug, bug};
use towline_core::format::{BatchHeader, SegmentHeader};
use towline_core::log::Recovered;
use towline_core::log::recovery::{Scan, ScanInput, SegmentFile, SegmentSource, SourceError, Verdict, scan};
use towline_core::types::limits::{BLOCK_BYTES, SEGMENT_HEADER_BYTES};
use towline_core::types::{Geometry, LogId, Lsn, Meta, Span};

use crate::bytes::Bytes;
use crate::marks::{Tally, sometimes};
use crate::rng::Rng;
use crate::walk::Walk;

const SECTOR: usize = 512;

/// One node's disk.
#[derive(Debug, Default, Clone)]
pub struct Disk {
    /// Durable content, by log position.
    pub bytes: Bytes,
    /// Segments in place, with their salts.
    pub segments: BTreeMap<u64, u32>,
    /// Writes issued and not flushed.
    pub pending: Vec<PendingWrite>,
    /// The meta block.
    pub meta: Meta,
    /// A meta write on its way.
    pub pending_meta: Option<Meta>,
    /// The log's identity; unset in an empty directory.
    pub log: LogId,
    /// Old segments that new ones may be made from, with their salts.
    pub spares: Vec<(u32, Bytes)>,
    /// How many of them are kept.
    pub max_spares: usize,
    /// A cut that had perhaps begun when the process ended.
    pub half_cut: Option<Cut>,
    /// Something durable was damaged behind the node's back.
    pub damaged: bool,
    /// The next read of it fails.
    pub read_fails: bool,
}

/// A write that may be lost, sector by sector.
#[derive(Clone, Debug)]
pub struct PendingWrite {
    /// Where.
    pub span: Span,
    /// The tail's epoch.
    pub epoch: u64,
    /// Into which file: a segment's number and salt. Whoever holds a file that was replaced writes to nobody's.
    pub file: (u64, u32),
    /// What.
    pub bytes: Vec<u8>,
}

/// A cut: what goes, and the last segment that stays.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// From the new end on, as far as anything may be in flight.
    pub span: Span,
    /// The segment of the new end.
    pub last: u64,
}

/// Why a directory does not open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// Durable data is damaged.
    Corrupt(String),
    /// A read failed; it may work the next time.
    Unreadable,
    /// What was just cut is not cut.
    NotClean(String),
}

impl Disk {
    /// The flush of pending write `n` completes.
    pub fn complete(&mut self, n: usize) -> PendingWrite {
        let write = self.pending.remove(n);
        if self.is_in_place(&write) {
            self.bytes.put(write.span.start, &write.bytes);
        }
        write
    }

    /// Each 512-byte sector of what was not flushed is kept or lost on its own. Overlapping writes land in any order.
    pub fn power_cut(&mut self, loss: f64, rng: &mut Rng) {
        while !self.pending.is_empty() {
            let write = self.pending.remove(rng.index(self.pending.len()));
            if !self.is_in_place(&write) {
                continue;
            }
            for (n, sector) in write.bytes.chunks(SECTOR).enumerate() {
                if !rng.chance(loss) {
                    self.bytes.put(write.span.start.plus((n * SECTOR) as u64), sector);
                }
            }
        }
        self.settle_meta(rng);
        self.settle_cut(rng);
    }

    /// The process dies, the kernel lives: what was issued lands.
    pub fn sigkill(&mut self, rng: &mut Rng) {
        while !self.pending.is_empty() {
            self.complete(0);
        }
        self.settle_meta(rng);
        self.settle_cut(rng);
    }

    fn is_in_place(&self, write: &PendingWrite) -> bool {
        let (seq, salt) = write.file;
        self.segments.get(&seq) == Some(&salt)
    }

    /// Four copies, written one after the other: a meta write is there as a whole or not at all.
    fn settle_meta(&mut self, rng: &mut Rng) {
        if let Some(meta) = self.pending_meta.take()
            && rng.chance(0.5)
        {
            self.meta = meta;
        }
    }

    /// A cut that was under way has come some way: later segments go from the last to the first, then pieces are zero.
    fn settle_cut(&mut self, rng: &mut Rng) {
        let Some(Cut { span, last }) = self.half_cut.take().filter(|_| rng.chance(0.5)) else { return };
        while self.segments.last_key_value().is_some_and(|(seq, _)| *seq > last) {
            if rng.chance(0.3) {
                return;
            }
            self.segments.pop_last();
        }
        for _ in 0..rng.below(16) {
            let sectors = span.len() / SECTOR as u64;
            let (from, count) = (rng.below(sectors), rng.within(1..64));
            let start = span.start.plus(from * SECTOR as u64);
            self.bytes.zero(Span::new(start, start.plus(count * SECTOR as u64).min(span.end)));
        }
    }

    /// Durable content changes behind the node's back, below `end`: a bit flips, a write was lost or went elsewhere.
    pub fn damage(&mut self, geometry: Geometry, end: Lsn, rng: &mut Rng) -> bool {
        let walk = self.walk(geometry);
        let durable: Vec<Span> =
            walk.batches.iter().map(|b| b.header.stored()).filter(|span| span.end <= end).collect();
        if durable.is_empty() {
            return false;
        }
        let victim = rng.pick(&durable);
        match rng.below(3) {
            0 => {
                let at = victim.start.plus(rng.below(victim.len()));
                let mut byte = self.bytes.get(Span::new(at, at.plus(1)));
                byte[0] ^= 1 << rng.below(8);
                self.bytes.put(at, &byte);
            }
            1 => self.bytes.zero(Span::new(victim.start, victim.start.plus(SECTOR as u64))),
            _ => {
                let other = rng.pick(&durable);
                let moved = self.bytes.get(Span::new(other.start, other.start.plus(BLOCK_BYTES)));
                self.bytes.put(victim.start, &moved);
            }
        }
        self.damaged = true;
        true
    }

    /// Puts a segment (number, salt) in place, zero-filled or from an old one.
    pub fn make(
        &mut self,
        geometry: Geometry,
        (seq, salt): (u64, u32),
        spare: Option<Bytes>,
        marks: &mut Tally,
    ) {
        let span = Span::new(geometry.segment_start(seq), geometry.segment_end(seq));
        self.bytes.zero(span);
        if let Some(old) = spare {
            sometimes!(marks, Recycled);
            self.bytes.move_in(span.start, old);
        }
        self.segments.insert(seq, salt);
    }

    /// An old file whose batches the new salt makes invalid.
    pub fn take_spare(&mut self, salt: Option<u32>) -> Option<Bytes> {
        let at = self.spares.iter().position(|(old, _)| Some(*old) != salt)?;
        Some(self.spares.swap_remove(at).1)
    }

    /// Whether the segment in place has a batch of its place, under any salt, of the term that owns it.
    pub fn holds_batch(&self, geometry: Geometry, seq: u64) -> bool {
        let first = geometry.first_batch(seq);
        let block = self.bytes.get(Span::new(first, first.plus(BLOCK_BYTES)));
        let found = BatchHeader::decode_any(&block).ok();
        let owner = self.meta.history.owner(first);
        found.is_some_and(|(header, salt)| {
            let is_owned = owner == Some(header.term) || bug(Bug::LeftoverHeld);
            let is_seen = !bug(Bug::BatchesReplaced) || self.segments.get(&seq) == Some(&salt);
            header.log == self.log && header.start == first && is_owned && is_seen
        })
    }

    /// Segments that end at `below` or before go; some of them may be made into new ones.
    pub fn recycle(&mut self, geometry: Geometry, below: Lsn) {
        let first = geometry.segment_of(below);
        let kept = self.segments.split_off(&first);
        for (seq, salt) in std::mem::replace(&mut self.segments, kept) {
            let span = Span::new(geometry.segment_start(seq), geometry.segment_end(seq));
            self.spares.push((salt, self.bytes.move_out(span)));
        }
        let excess = self.spares.len().saturating_sub(self.max_spares);
        self.spares.drain(..excess);
        self.bytes.zero(Span::new(Lsn(0), geometry.segment_start(first)));
    }

    /// The log ends where the span begins; segments behind go, and what was in flight is zero.
    pub fn cut(&mut self, geometry: Geometry, span: Span) {
        let last = geometry.segment_of(span.start);
        self.segments.retain(|seq, _| *seq <= last);
        self.bytes.zero(span);
    }

    /// A segment that is missing although a later one is there: no start would take that for a crash.
    pub fn gap(&self, geometry: Geometry) -> Option<u64> {
        let last = *self.segments.last_key_value()?.0;
        let first = geometry.segment_of(self.meta.log_start);
        (first..last).find(|seq| !self.segments.contains_key(seq))
    }

    /// Walks valid batches from the log's start.
    pub fn walk(&self, geometry: Geometry) -> Walk {
        let mut walk = Walk::new(self.meta.log_start.max(geometry.first_batch(0)));
        walk.extend(self.log, &self.segments, &self.meta.history, geometry, &self.bytes);
        walk
    }

    /// Opens the log as the runtime does: scan, take over what shared memory holds (a standby), record what is to be
    /// cut, zero it, scan again.
    ///
    /// # Errors
    /// When durable data is damaged or cannot be read.
    pub fn open(
        &mut self,
        geometry: Geometry,
        arena: Option<&Bytes>,
        marks: &mut Tally,
    ) -> Result<Recovered, OpenError> {
        let mut found = self.scan(geometry, marks)?;
        if let Some(arena) = arena {
            let mut walk = Walk::from(found.recovered.end, found.recovered.previous_hash);
            walk.extend(self.log, &self.segments, &self.meta.history, geometry, arena);
            for batch in &walk.batches {
                self.bytes.put(batch.header.start, &arena.get(batch.header.stored()));
            }
            if !walk.batches.is_empty() {
                sometimes!(marks, TakenOver);
                let reach = walk.end.lsn.plus(geometry.in_flight_bytes);
                self.meta.unfinished = vec![Span::new(found.recovered.end.lsn, reach)];
                found = self.scan(geometry, marks)?;
            }
        }
        let mut cut = None;
        if let Some(span) = found.verdict.cut() {
            self.meta.unfinished = vec![span];
            self.bytes.zero(span);
            cut = Some(span);
            found = self.scan(geometry, marks)?;
            if found.verdict != Verdict::CleanEnd {
                return Err(OpenError::NotClean(format!("{:?}", found.evidence)));
            }
        }
        let end = found.recovered.end.lsn;
        self.meta.unfinished.retain(|span| span.end > end);
        self.meta.unfinished.iter_mut().for_each(|span| span.start = span.start.max(end));
        self.meta.history.drop_beyond(end);
        Ok(Recovered { cut, ..found.recovered })
    }

    fn scan(&mut self, geometry: Geometry, marks: &mut Tally) -> Result<Scan, OpenError> {
        if std::mem::take(&mut self.read_fails) {
            sometimes!(marks, ReadFailed);
            return Err(OpenError::Unreadable);
        }
        let source = Files { disk: self, geometry };
        let input = ScanInput { log: self.log, geometry, meta: &self.meta, peer_holds: None };
        let found = scan(&source, input).map_err(|_| OpenError::Unreadable)?;
        match &found.verdict {
            Verdict::CleanEnd => sometimes!(marks, CleanEnd),
            Verdict::TornTail { .. } => sometimes!(marks, TornTail),
            Verdict::InFlight { .. } => sometimes!(marks, InFlight),
            Verdict::Corrupt { span, why } => {
                return Err(OpenError::Corrupt(format!("{span:?}: {why}; {:?}", found.evidence)));
            }
        }
        Ok(found)
    }
}

/// The disk as segment files.
struct Files<'a> {
    disk: &'a Disk,
    geometry: Geometry,
}

impl SegmentSource for Files<'_> {
    fn segments(&self) -> Result<Vec<SegmentFile>, SourceError> {
        let bytes = self.geometry.segment_bytes;
        Ok(self.disk.segments.keys().map(|seq| SegmentFile { seq: *seq, bytes }).collect())
    }

    fn read(&self, seq: u64, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        self.disk.bytes.read(self.geometry.segment_start(seq).plus(offset), buf);
        if offset < SEGMENT_HEADER_BYTES {
            let salt = self.disk.segments.get(&seq).copied().ok_or("no such segment")?;
            let header = SegmentHeader { log: self.disk.log, seq, salt, incarnation: 0 }.encode();
            for copy in [0, BLOCK_BYTES].into_iter().filter(|copy| *copy >= offset) {
                let from = (copy - offset) as usize;
                if from < buf.len() {
                    let len = header.len().min(buf.len() - from);
                    buf[from..from + len].copy_from_slice(&header[..len]);
                }
            }
        }
        Ok(())
    }
}

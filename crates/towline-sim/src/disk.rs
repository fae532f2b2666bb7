//! A disk in memory that forgets: what was not flushed is kept or lost sector by sector at a power cut. It opens as
//! the runtime opens a directory: the core's own recovery judges what is there.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::StdRng;
use towline_core::format::{BatchHeader, RecordKind, SegmentHeader, verify_body, walk_headers};
use towline_core::log::Recovered;
use towline_core::log::recovery::{Scan, ScanInput, SegmentFile, SegmentSource, SourceError, Verdict, scan};
use towline_core::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES, SEGMENT_HEADER_BYTES};
use towline_core::types::{Geometry, LogId, Lsn, Meta, Position, Span, TermHistory};

const SECTOR: u64 = 512;
const CHUNK: u64 = 64 << 10;

/// Bytes by position; what was never written is zero.
#[derive(Default, Clone)]
pub struct Bytes(BTreeMap<u64, Vec<u8>>);

impl Bytes {
    pub fn put(&mut self, start: Lsn, bytes: &[u8]) {
        let (mut at, mut rest) = (start.0, bytes);
        while !rest.is_empty() {
            let offset = (at % CHUNK) as usize;
            let take = rest.len().min(CHUNK as usize - offset);
            let chunk = self.0.entry(at / CHUNK).or_insert_with(|| vec![0; CHUNK as usize]);
            chunk[offset..offset + take].copy_from_slice(&rest[..take]);
            at += take as u64;
            rest = &rest[take..];
        }
    }

    pub fn read(&self, start: Lsn, into: &mut [u8]) {
        let (mut at, mut rest) = (start.0, into);
        while !rest.is_empty() {
            let offset = (at % CHUNK) as usize;
            let take = rest.len().min(CHUNK as usize - offset);
            let (head, tail) = rest.split_at_mut(take);
            match self.0.get(&(at / CHUNK)) {
                Some(chunk) => head.copy_from_slice(&chunk[offset..offset + take]),
                None => head.fill(0),
            }
            at += take as u64;
            rest = tail;
        }
    }

    pub fn get(&self, span: Span) -> Vec<u8> {
        let mut bytes = vec![0; span.len() as usize];
        self.read(span.start, &mut bytes);
        bytes
    }

    pub fn zero(&mut self, span: Span) {
        let whole = span.start.0.div_ceil(CHUNK)..span.end.0 / CHUNK;
        let touched: Vec<u64> =
            self.0.range(span.start.0 / CHUNK..span.end.0.div_ceil(CHUNK)).map(|(chunk, _)| *chunk).collect();
        for chunk in touched {
            if whole.contains(&chunk) {
                self.0.remove(&chunk);
            } else if let Some(bytes) = self.0.get_mut(&chunk) {
                let from = span.start.0.saturating_sub(chunk * CHUNK).min(CHUNK) as usize;
                let to = span.end.0.saturating_sub(chunk * CHUNK).min(CHUNK) as usize;
                bytes[from..to].fill(0);
            }
        }
    }
}

#[derive(Default, Clone)]
pub struct Disk {
    pub bytes: Bytes,
    pub segments: BTreeMap<u64, u32>,
    /// Issued, not flushed.
    pub pending: Vec<PendingWrite>,
    pub meta: Meta,
    pub pending_meta: Option<Meta>,
    pub log: LogId,
    /// What recoveries found.
    pub verdicts: BTreeMap<&'static str, u64>,
}

#[derive(Clone)]
pub struct PendingWrite {
    pub span: Span,
    pub epoch: u64,
    pub bytes: Vec<u8>,
}

/// One batch of a walk.
#[derive(Clone)]
pub struct Batch {
    pub header: BatchHeader,
    pub payloads: Vec<Vec<u8>>,
}

/// What a walk over a log found.
pub struct Walk {
    pub end: Position,
    pub hash: u64,
    pub batches: Vec<Batch>,
}

impl Disk {
    pub fn put(&mut self, start: Lsn, bytes: &[u8]) {
        self.bytes.put(start, bytes);
    }

    pub fn get(&self, span: Span) -> Vec<u8> {
        self.bytes.get(span)
    }

    pub fn zero(&mut self, span: Span) {
        self.bytes.zero(span);
    }

    /// The flush of pending write `n` completes.
    pub fn complete(&mut self, n: usize) -> PendingWrite {
        let write = self.pending.remove(n);
        self.put(write.span.start, &write.bytes);
        write
    }

    /// Each 512-byte sector of what was not flushed is kept or lost on its own.
    pub fn power_cut(&mut self, rng: &mut StdRng) {
        for write in std::mem::take(&mut self.pending) {
            for (n, sector) in write.bytes.chunks(SECTOR as usize).enumerate() {
                if rng.random_bool(0.5) {
                    self.bytes.put(write.span.start.plus(n as u64 * SECTOR), sector);
                }
            }
        }
        self.settle_meta(rng);
    }

    /// The process dies, the kernel lives: what was issued lands.
    pub fn sigkill(&mut self, rng: &mut StdRng) {
        while !self.pending.is_empty() {
            self.complete(0);
        }
        self.settle_meta(rng);
    }

    /// Four copies, written one after the other: a meta write is there as a whole or not at all.
    fn settle_meta(&mut self, rng: &mut StdRng) {
        if let Some(meta) = self.pending_meta.take()
            && rng.random_bool(0.5)
        {
            self.meta = meta;
        }
    }

    /// Walks valid batches from the log's start.
    pub fn walk(&self, geometry: Geometry) -> Walk {
        let start = Position { lsn: self.meta.log_start.max(geometry.first_batch(0)), ..Position::default() };
        let mut walk = Walk { end: start, hash: 0, batches: Vec::new() };
        walk.extend(self.log, &self.segments, &self.meta.history, geometry, |span| self.get(span));
        walk
    }

    /// Opens the log as the runtime does: scan, take over what shared memory holds (a standby), record what is to be
    /// cut, zero it, scan again.
    pub fn open(&mut self, geometry: Geometry, arena: Option<&Bytes>) -> Recovered {
        let mut found = self.scan(geometry);
        if let Some(arena) = arena {
            let (end, hash) = (found.recovered.end, found.recovered.previous_hash);
            let mut walk = Walk { end, hash, batches: Vec::new() };
            walk.extend(self.log, &self.segments, &self.meta.history, geometry, |span| arena.get(span));
            for batch in &walk.batches {
                self.bytes.put(batch.header.start, &arena.get(batch.header.stored()));
            }
            if !walk.batches.is_empty() {
                *self.verdicts.entry("taken over").or_default() += 1;
                let reach = walk.end.lsn.plus(geometry.in_flight_bytes);
                self.meta.unfinished = vec![Span::new(found.recovered.end.lsn, reach)];
                found = self.scan(geometry);
            }
        }
        let mut cut = None;
        if let Some(span) = found.verdict.cut() {
            self.meta.unfinished = vec![span];
            self.bytes.zero(span);
            cut = Some(span);
            found = self.scan(geometry);
            assert_eq!(found.verdict, Verdict::CleanEnd, "after a cut the log ends cleanly");
        }
        let end = found.recovered.end.lsn;
        self.meta.unfinished.retain(|span| span.end > end);
        self.meta.unfinished.iter_mut().for_each(|span| span.start = span.start.max(end));
        self.meta.history.drop_beyond(end);
        Recovered { cut, ..found.recovered }
    }

    fn scan(&mut self, geometry: Geometry) -> Scan {
        let source = Files { disk: self, geometry };
        let input = ScanInput { log: self.log, geometry, meta: &self.meta, peer_holds: None };
        let found = scan(&source, input).expect("memory can be read");
        let verdict = match &found.verdict {
            Verdict::CleanEnd => "clean end",
            Verdict::TornTail { .. } => "torn tail",
            Verdict::InFlight { .. } => "in flight",
            Verdict::Corrupt { span, why } => {
                panic!("nothing rots here: {span:?} {why}; {:?}\n{:?}", found.evidence, self.meta)
            }
        };
        *self.verdicts.entry(verdict).or_default() += 1;
        found
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
            let salt = self.disk.segments[&seq];
            let header = SegmentHeader { log: self.disk.log, seq, salt, incarnation: 0 }.encode();
            for copy in [0, BLOCK_BYTES] {
                let from = (copy - offset.min(copy)) as usize;
                if from < buf.len() && copy >= offset {
                    let len = header.len().min(buf.len() - from);
                    buf[from..from + len].copy_from_slice(&header[..len]);
                }
            }
        }
        Ok(())
    }
}

impl Walk {
    pub fn extend(
        &mut self,
        log: LogId,
        segments: &BTreeMap<u64, u32>,
        history: &TermHistory,
        geometry: Geometry,
        bytes: impl Fn(Span) -> Vec<u8>,
    ) {
        loop {
            let at = geometry.batch_place(self.end.lsn);
            let Some(salt) = segments.get(&geometry.segment_of(at)) else { return };
            let block = bytes(Span::new(at, at.plus(BLOCK_BYTES)));
            let Ok(header) = BatchHeader::decode(&block, log, *salt, geometry) else { return };
            let stored = bytes(header.stored());
            let body = &stored[BATCH_HEADER_BYTES as usize..];
            if verify_body(&header, body, *salt).is_err() {
                return;
            }
            let first = self.batches.is_empty() && self.hash == 0;
            // Nobody counts here: the first batch of a trimmed log says what lay before it.
            if header.start != at
                || (!first && header.previous_hash != self.hash)
                || history.owner(at) != Some(header.term)
            {
                return;
            }
            let payloads = walk_headers(&body[..header.body_bytes as usize])
                .filter_map(Result::ok)
                .filter(|record| record.header.kind == RecordKind::Data)
                .map(|record| record.payload.to_vec())
                .collect();
            self.hash = BatchHeader::hash(&header.encode(*salt));
            self.end = header.after();
            self.batches.push(Batch { header, payloads });
        }
    }

    pub fn payloads(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.batches.iter().flat_map(|batch| &batch.payloads)
    }
}

//! A disk in memory that forgets: what was not flushed is kept or lost sector by sector at a power cut.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::StdRng;
use towline_core::format::{BatchHeader, BatchKind, BodySummary, RecordKind, verify_body, walk_headers};
use towline_core::log::Recovered;
use towline_core::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES};
use towline_core::types::{Geometry, LogId, Lsn, Meta, Position, Span, TermHistory};

const SECTOR: u64 = 512;

#[derive(Default, Clone)]
pub struct Disk {
    pub sectors: BTreeMap<u64, Vec<u8>>,
    pub segments: BTreeMap<u64, u32>,
    /// Issued, not flushed.
    pub pending: Vec<PendingWrite>,
    pub meta: Meta,
    pub pending_meta: Option<Meta>,
    pub log: LogId,
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
    pub summary: BodySummary,
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
        for (n, sector) in bytes.chunks(SECTOR as usize).enumerate() {
            self.sectors.insert(start.0 / SECTOR + n as u64, sector.to_vec());
        }
    }

    pub fn get(&self, span: Span) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(span.len() as usize);
        for sector in span.start.0 / SECTOR..span.end.0.div_ceil(SECTOR) {
            match self.sectors.get(&sector) {
                Some(content) => bytes.extend_from_slice(content),
                None => bytes.extend_from_slice(&[0; SECTOR as usize]),
            }
        }
        bytes
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
                    self.sectors.insert(write.span.start.0 / SECTOR + n as u64, sector.to_vec());
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

    pub fn zero(&mut self, span: Span) {
        self.sectors
            .retain(|sector, _| *sector < span.start.0 / SECTOR || *sector >= span.end.0.div_ceil(SECTOR));
    }

    /// Walks valid batches from the log's start.
    pub fn walk(&self, geometry: Geometry) -> Walk {
        let start = Position { lsn: self.meta.log_start.max(geometry.first_batch(0)), ..Position::default() };
        let mut walk = Walk { end: start, hash: 0, batches: Vec::new() };
        walk.extend(self.log, &self.segments, &self.meta.history, geometry, |span| self.get(span));
        walk
    }

    pub fn recover(&mut self, geometry: Geometry) -> (Recovered, Walk) {
        let walk = self.walk(geometry);
        self.meta.history.drop_beyond(walk.end.lsn);
        let zero_to = walk.end.lsn.plus(geometry.in_flight_bytes);
        self.zero(Span::new(walk.end.lsn, zero_to));
        self.meta.unfinished = vec![Span::new(walk.end.lsn, zero_to)];
        (walk.recovered(&self.segments), walk)
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
            let Ok(summary) = verify_body(&header, body, *salt) else { return };
            let first = self.batches.is_empty() && self.hash == 0;
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
            self.batches.push(Batch { header, summary, payloads });
        }
    }

    pub fn recovered(&self, segments: &BTreeMap<u64, u32>) -> Recovered {
        let rules: Vec<_> = self.batches.iter().flat_map(|batch| batch.summary.rules.clone()).collect();
        let mut distinct = rules;
        distinct.dedup_by_key(|(version, _)| *version);
        let last = distinct.last().cloned();
        let before = distinct.len().checked_sub(2).map(|n| distinct[n].clone());
        let (rule, pending_rule) = if before.is_some() { (before, last) } else { (last, None) };
        Recovered {
            end: self.end,
            previous_hash: self.hash,
            sealed: self.batches.last().is_some_and(|batch| batch.header.kind == BatchKind::Seal),
            rule,
            pending_rule,
            segments: segments.iter().map(|(seq, salt)| (*seq, *salt)).collect(),
            rolls: self
                .batches
                .iter()
                .filter(|batch| batch.header.kind == BatchKind::Roll)
                .map(|batch| batch.header.stored().end)
                .collect(),
            leader_flushed: self
                .batches
                .iter()
                .map(|batch| batch.header.durable_before)
                .max()
                .unwrap_or_default(),
            cut: None,
        }
    }

    pub fn payloads(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.batches.iter().flat_map(|batch| &batch.payloads)
    }
}

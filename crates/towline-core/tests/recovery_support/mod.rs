//! A log in memory, built with the codec.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::collections::BTreeMap;

use towline_core::format::{
    BatchHeader, BatchKind, BodySeed, RecordKind, SegmentHeader, encode_record_header, encode_rule,
    payload_crc, summarize_sealed, walk_headers,
};
use towline_core::log::recovery::{
    BatchWalk, Scan, ScanInput, SegmentFile, SegmentSource, SegmentTable, SourceError, Step, scan,
};
use towline_core::types::limits::BATCH_HEADER_BYTES;
use towline_core::types::{Geometry, LogId, Lsn, Meta, NodeId, Position, Span, Term, TermHistory, TermStart};

pub const LOG: LogId = LogId([0xA7; 16]);
pub const BLOCK: usize = 4096;
/// Small, so that every case is cheap; the code knows no smallest segment.
pub const GEOMETRY: Geometry = Geometry { segment_bytes: 64 << 10, in_flight_bytes: 32 << 10 };
pub const TERM: Term = Term { number: 1, node: NodeId(1) };

/// Segment files in memory, and the writer's state.
#[derive(Clone)]
pub struct MemLog {
    pub files: BTreeMap<u64, Vec<u8>>,
    pub salts: BTreeMap<u64, u32>,
    pub meta: Meta,
    pub term: Term,
    pub end: Position,
    pub previous: u64,
    /// The leading node's flushed LSN, for the next batch.
    pub durable: Lsn,
}

impl SegmentSource for MemLog {
    fn segments(&self) -> Result<Vec<SegmentFile>, SourceError> {
        Ok(self.files.iter().map(|(seq, file)| SegmentFile { seq: *seq, bytes: file.len() as u64 }).collect())
    }

    fn read(&self, seq: u64, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        let file = self.files.get(&seq).ok_or("no such segment")?;
        let range = offset as usize..offset as usize + buf.len();
        buf.copy_from_slice(file.get(range).ok_or("read past the file")?);
        Ok(())
    }
}

pub fn history(entries: &[(Term, u64)]) -> TermHistory {
    let entries: Vec<TermStart> =
        entries.iter().map(|(term, start)| TermStart { term: *term, start: Lsn(*start) }).collect();
    TermHistory::from_entries(&entries).expect("rising")
}

impl MemLog {
    /// An empty log with its first segment prepared.
    pub fn new() -> MemLog {
        let meta = Meta { history: history(&[(TERM, 0)]), ..Meta::default() };
        let end = Position { lsn: GEOMETRY.first_batch(0), ..Position::default() };
        let mut log = MemLog {
            files: BTreeMap::new(),
            salts: BTreeMap::new(),
            meta,
            term: TERM,
            end,
            previous: 0,
            durable: end.lsn,
        };
        log.prepare(0, 0x100);
        log
    }

    /// A zero-filled segment.
    pub fn prepare(&mut self, seq: u64, salt: u32) {
        self.prepare_over(seq, salt, vec![0; GEOMETRY.segment_bytes as usize]);
    }

    /// A segment over old content.
    pub fn prepare_over(&mut self, seq: u64, salt: u32, mut file: Vec<u8>) {
        let copy = SegmentHeader { log: LOG, seq, salt, incarnation: 1 }.encode();
        file[..BLOCK].copy_from_slice(&copy);
        file[BLOCK..2 * BLOCK].copy_from_slice(&copy);
        self.files.insert(seq, file);
        self.salts.insert(seq, salt);
    }

    pub fn place(&self) -> Lsn {
        GEOMETRY.batch_place(self.end.lsn)
    }

    /// The next batch, encoded; the log advances, nothing is written.
    pub fn build(&mut self, kind: BatchKind, body: &[u8]) -> (Span, Vec<u8>) {
        let start = self.place();
        let seq = GEOMETRY.segment_of(start);
        let salt = self.salts[&seq];
        let summary = summarize_sealed(body, &BodySeed { log: LOG, salt, start }).expect("records");
        let mut header = BatchHeader {
            kind,
            log: LOG,
            term: self.term,
            start,
            end: start,
            body_bytes: body.len() as u32,
            records: summary.records,
            payload_bytes: summary.payload_bytes,
            records_before: self.end.records,
            payload_before: self.end.payload_bytes,
            durable_before: self.durable,
            previous_hash: self.previous,
            body_crc: summary.crc,
        };
        let stored = header.stored();
        header.end = if kind == BatchKind::Roll { GEOMETRY.segment_end(seq) } else { stored.end };
        let encoded = header.encode(salt);
        let mut bytes = encoded.to_vec();
        bytes.extend_from_slice(body);
        bytes.resize(stored.len() as usize, 0);
        self.previous = BatchHeader::hash(&encoded);
        self.end = header.after();
        (stored, bytes)
    }

    pub fn put(&mut self, at: Lsn, bytes: &[u8]) {
        let (seq, offset) = (GEOMETRY.segment_of(at), GEOMETRY.offset_of(at) as usize);
        self.files.get_mut(&seq).expect("in place")[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    pub fn bytes(&self, span: Span) -> &[u8] {
        let (seq, offset) = (GEOMETRY.segment_of(span.start), GEOMETRY.offset_of(span.start) as usize);
        &self.files[&seq][offset..offset + span.len() as usize]
    }

    /// Writes a batch of records; it is not durable yet as far as the log says.
    pub fn append(&mut self, payloads: &[&[u8]]) -> Span {
        let (span, bytes) = self.build(BatchKind::Data, &body(payloads));
        self.put(span.start, &bytes);
        span
    }

    /// A batch that restates or proposes rules.
    pub fn rules(&mut self, rules: &[(u64, &str)]) -> Span {
        let mut body = Vec::new();
        for (version, rule) in rules {
            record(&mut body, RecordKind::Rule, &encode_rule(*version, rule));
        }
        let (span, bytes) = self.build(BatchKind::Data, &body);
        self.put(span.start, &bytes);
        span
    }

    /// Everything so far is flushed.
    pub fn flush(&mut self) {
        self.durable = self.end.lsn;
    }

    pub fn seal(&mut self) -> Span {
        self.flush();
        let (span, bytes) = self.build(BatchKind::Seal, &[]);
        self.put(span.start, &bytes);
        span
    }

    pub fn roll(&mut self) -> Span {
        let (span, bytes) = self.build(BatchKind::Roll, &[]);
        self.put(span.start, &bytes);
        span
    }

    pub fn flip(&mut self, at: Lsn, bit: u8) {
        let (seq, offset) = (GEOMETRY.segment_of(at), GEOMETRY.offset_of(at) as usize);
        self.files.get_mut(&seq).expect("in place")[offset] ^= 1 << bit;
    }

    pub fn zero(&mut self, span: Span) {
        for (seq, file) in &mut self.files {
            let start = GEOMETRY.segment_start(*seq);
            let first = span.start.max(GEOMETRY.first_batch(*seq));
            let end = span.end.min(GEOMETRY.segment_end(*seq));
            if first < end {
                file[first.bytes_since(start) as usize..end.bytes_since(start) as usize].fill(0);
            }
        }
    }

    pub fn scan(&self) -> Scan {
        let input = ScanInput { log: LOG, geometry: GEOMETRY, meta: &self.meta, peer_holds: None };
        scan(self, input).expect("memory can be read")
    }

    /// All payloads that a reader gets.
    pub fn payloads(&self) -> Vec<Vec<u8>> {
        let table = SegmentTable::load(self, GEOMETRY, LOG, self.meta.log_start).expect("memory can be read");
        let mut walk = BatchWalk::new(self, &table, LOG, GEOMETRY, &self.meta.history, self.meta.log_start);
        let mut payloads = Vec::new();
        while let Step::Batch(batch) = walk.step().expect("memory can be read") {
            let records = walk_headers(batch.body).map(|record| record.expect("verified"));
            let data = records.filter(|record| record.header.kind == RecordKind::Data);
            payloads.extend(data.map(|record| record.payload.to_vec()));
            assert!(batch.header.span().len() >= BATCH_HEADER_BYTES);
        }
        payloads
    }
}

pub fn record(body: &mut Vec<u8>, kind: RecordKind, payload: &[u8]) {
    body.extend(encode_record_header(kind, payload.len() as u32, payload_crc(payload)));
    body.extend(payload);
    body.resize(body.len().next_multiple_of(8), 0);
}

pub fn body(payloads: &[&[u8]]) -> Vec<u8> {
    let mut body = Vec::new();
    payloads.iter().for_each(|payload| record(&mut body, RecordKind::Data, payload));
    body
}

/// Payload that is not zeros and different at every place.
pub fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as u8 | 1
        })
        .collect()
}

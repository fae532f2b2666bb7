//! What the codec costs per record and per batch: CRC, copy with CRC, sealing, verifying, headers, frames, and a
//! whole log read back.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use towline_core::format::{
    BatchHeader, BatchKind, BodySeed, Frame, RecordKind, SegmentHeader, copy_with_crc, decode_frame,
    encode_frame, encode_record_header, payload_crc, summarize_sealed, verify_body,
};
use towline_core::log::recovery::{ScanInput, SegmentFile, SegmentSource, SourceError, Verdict, scan};
use towline_core::types::limits::{BATCH_HEADER_BYTES, MIN_SEGMENT_BYTES};
use towline_core::types::{Geometry, LogId, Lsn, Meta, NodeId, StandbyWatermarks, Term, TermHistory};

const LOG: LogId = LogId([1; 16]);
const SALT: u32 = 7;
const GEOMETRY: Geometry = Geometry { segment_bytes: MIN_SEGMENT_BYTES, in_flight_bytes: 16 << 20 };
const TERM: Term = Term { number: 1, node: NodeId(1) };

fn crc(c: &mut Criterion) {
    let mut group = c.benchmark_group("crc");
    for len in [8, 64, 256, 1024, 4096, 65536] {
        let src = vec![0x5A; len];
        let mut dst = vec![0; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::new("payload", len), &src, |b, src| {
            b.iter(|| payload_crc(black_box(src)))
        });
        group.bench_with_input(BenchmarkId::new("copy_with_crc", len), &src, |b, src| {
            b.iter(|| copy_with_crc(black_box(&mut dst), black_box(src)));
        });
    }
    group.finish();
}

fn body(records: usize, len: usize) -> Vec<u8> {
    let payload = vec![0x5A; len];
    let mut body = Vec::new();
    for _ in 0..records {
        body.extend(encode_record_header(RecordKind::Data, len as u32, payload_crc(&payload)));
        body.extend(&payload);
        body.resize(body.len().next_multiple_of(8), 0);
    }
    body
}

fn batch(start: Lsn, before: &BatchHeader, hash: u64, body: &[u8]) -> BatchHeader {
    let summary = summarize_sealed(body, &BodySeed { log: LOG, salt: SALT, start }).expect("records");
    let mut header = BatchHeader {
        kind: BatchKind::Data,
        log: LOG,
        term: TERM,
        start,
        end: start,
        body_bytes: body.len() as u32,
        records: summary.records,
        payload_bytes: summary.payload_bytes,
        records_before: before.after().records,
        payload_before: before.after().payload_bytes,
        durable_before: start,
        previous_hash: hash,
        body_crc: summary.crc,
    };
    header.end = header.stored().end;
    header
}

fn empty() -> BatchHeader {
    BatchHeader {
        kind: BatchKind::Seal,
        log: LOG,
        term: TERM,
        start: Lsn(0),
        end: Lsn(0),
        body_bytes: 0,
        records: 0,
        payload_bytes: 0,
        records_before: 0,
        payload_before: 0,
        durable_before: Lsn(0),
        previous_hash: 0,
        body_crc: 0,
    }
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch");
    for (records, len) in [(1, 256), (32, 256), (1000, 256), (64, 4096)] {
        let mut body = body(records, len);
        let header = batch(GEOMETRY.first_batch(0), &empty(), 0, &body);
        let seed = BodySeed { log: LOG, salt: SALT, start: header.start };
        let name = format!("{records}x{len}");
        group.throughput(Throughput::Elements(records as u64));
        group.bench_function(BenchmarkId::new("summarize_sealed", &name), |b| {
            b.iter(|| summarize_sealed(black_box(&body), &seed));
        });
        body.resize((header.stored().len() - BATCH_HEADER_BYTES) as usize, 0);
        group.bench_function(BenchmarkId::new("verify_body", &name), |b| {
            b.iter(|| verify_body(&header, black_box(&body), SALT));
        });
    }
    let header = batch(GEOMETRY.first_batch(0), &empty(), 0, &body(32, 256));
    let encoded = header.encode(SALT);
    group.throughput(Throughput::Elements(1));
    group.bench_function("encode_header", |b| b.iter(|| black_box(&header).encode(SALT)));
    group.bench_function("decode_header", |b| {
        b.iter(|| BatchHeader::decode(black_box(&encoded), LOG, SALT, GEOMETRY));
    });
    group.bench_function("hash_header", |b| b.iter(|| BatchHeader::hash(black_box(&encoded))));
    group.finish();
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frame");
    let report = Frame::Report {
        term: TERM,
        watermarks: StandbyWatermarks::default(),
        credit: Lsn(1 << 30),
        failing: false,
    };
    let mut encoded = Vec::new();
    encode_frame(&report, &mut encoded).expect("small");
    group.bench_function("encode_report", |b| {
        b.iter_batched_ref(
            || Vec::with_capacity(256),
            |out| encode_frame(black_box(&report), out),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("decode_report", |b| b.iter(|| decode_frame(black_box(&encoded))));
    group.finish();
}

/// One segment in memory, full of batches.
struct OneSegment(Vec<u8>);

impl SegmentSource for OneSegment {
    fn segments(&self) -> Result<Vec<SegmentFile>, SourceError> {
        Ok(vec![SegmentFile { seq: 0, bytes: self.0.len() as u64 }])
    }

    fn read(&self, _seq: u64, offset: u64, buf: &mut [u8]) -> Result<(), SourceError> {
        buf.copy_from_slice(&self.0[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }
}

fn recovery(c: &mut Criterion) {
    let mut group = c.benchmark_group("recovery");
    group.sample_size(20);
    for (records, len) in [(32, 256), (60, 4096)] {
        let body = body(records, len);
        let mut file = vec![0; GEOMETRY.segment_bytes as usize];
        let copy = SegmentHeader { log: LOG, seq: 0, salt: SALT, incarnation: 1 }.encode();
        file[..4096].copy_from_slice(&copy);
        file[4096..8192].copy_from_slice(&copy);
        let (mut before, mut hash) = (empty(), 0);
        before.end = GEOMETRY.first_batch(0);
        loop {
            let header = batch(before.end, &before, hash, &body);
            if header.end > GEOMETRY.segment_end(0) {
                break;
            }
            let (at, encoded) = (header.start.0 as usize, header.encode(SALT));
            file[at..at + encoded.len()].copy_from_slice(&encoded);
            file[at + encoded.len()..][..body.len()].copy_from_slice(&body);
            hash = BatchHeader::hash(&encoded);
            before = header;
        }
        let mut history = TermHistory::default();
        history.push(TERM, Lsn(0)).expect("the first");
        let meta = Meta { history, ..Meta::default() };
        let source = OneSegment(file);
        let input = ScanInput { log: LOG, geometry: GEOMETRY, meta: &meta, peer_holds: None };
        let found = scan(&source, input).expect("memory can be read");
        assert_eq!((found.recovered.end, found.verdict), (before.after(), Verdict::CleanEnd));
        group.throughput(Throughput::Bytes(before.end.0));
        group.bench_function(BenchmarkId::new("scan", format!("{records}x{len}")), |b| {
            b.iter(|| scan(black_box(&source), input));
        });
    }
    group.finish();
}

criterion_group!(benches, crc, batches, frames, recovery);
criterion_main!(benches);

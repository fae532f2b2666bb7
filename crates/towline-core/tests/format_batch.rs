//! Batch headers and bodies: what is encoded is read back, and every single flipped bit is seen.

use proptest::collection::vec;
use proptest::prelude::*;
use towline_core::format::{
    BatchError, BatchHeader, BatchKind, BodySeed, HeaderError, RecordKind, encode_record_header, encode_rule,
    payload_crc, record_bytes, summarize_sealed, verify_body, void_header, walk_headers,
};
use towline_core::types::limits::{BATCH_HEADER_BYTES, MAX_BATCH_BYTES, MIN_SEGMENT_BYTES};
use towline_core::types::{Geometry, LogId, Lsn, NodeId, Term};

const LOG: LogId = LogId([3; 16]);
const SALT: u32 = 0x5A17;
const GEOMETRY: Geometry = Geometry { segment_bytes: MIN_SEGMENT_BYTES, in_flight_bytes: 4 << 20 };

fn put(body: &mut Vec<u8>, kind: RecordKind, payload: &[u8]) {
    match kind {
        RecordKind::Void => body.extend(void_header(record_bytes(payload.len() as u64))),
        _ => body.extend(encode_record_header(kind, payload.len() as u32, payload_crc(payload))),
    }
    body.extend(payload);
    body.resize(body.len().next_multiple_of(8), 0);
}

/// A batch at `start`: header and everything behind it up to the end of its last block.
fn batch(start: Lsn, body: &[u8]) -> (BatchHeader, Vec<u8>) {
    let summary = summarize_sealed(body, &BodySeed { log: LOG, salt: SALT, start }).expect("records");
    let mut header = BatchHeader {
        kind: BatchKind::Data,
        log: LOG,
        term: Term { number: 2, node: NodeId(7) },
        start,
        end: start,
        body_bytes: body.len() as u32,
        records: summary.records,
        payload_bytes: summary.payload_bytes,
        records_before: 10,
        payload_before: 1000,
        durable_before: start,
        previous_hash: 42,
        body_crc: summary.crc,
    };
    header.end = header.stored().end;
    let mut bytes = body.to_vec();
    bytes.resize((header.stored().len() - BATCH_HEADER_BYTES) as usize, 0);
    (header, bytes)
}

fn sample() -> (BatchHeader, Vec<u8>) {
    let mut body = Vec::new();
    put(&mut body, RecordKind::Rule, &encode_rule(3, "ANY 1 (a, b)"));
    put(&mut body, RecordKind::Data, b"hello");
    put(&mut body, RecordKind::Void, &[0; 13]);
    put(&mut body, RecordKind::Data, b"");
    put(&mut body, RecordKind::Data, &[9; 300]);
    batch(GEOMETRY.first_batch(1), &body)
}

#[test]
fn a_batch_is_read_back() {
    let (header, body) = sample();
    let bytes = header.encode(SALT);
    assert_eq!(BatchHeader::decode(&bytes, LOG, SALT, GEOMETRY), Ok(header));
    let summary = verify_body(&header, &body, SALT).expect("sound");
    assert_eq!((summary.records, summary.payload_bytes), (3, 305));
    assert_eq!(summary.rules, [(3, "ANY 1 (a, b)".to_owned())]);
    let payloads: Vec<&[u8]> = walk_headers(&body[..header.body_bytes as usize])
        .map(|record| record.expect("sound"))
        .filter(|record| record.header.kind == RecordKind::Data)
        .map(|record| record.payload)
        .collect();
    assert_eq!(payloads, [&b"hello"[..], b"", &[9; 300]]);
}

#[test]
fn every_flipped_bit_of_the_header_is_seen() {
    let (header, _) = sample();
    let bytes = header.encode(SALT);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = BatchHeader::decode(&flipped, LOG, SALT, GEOMETRY).expect_err("a flipped bit");
        let want = if bit < 64 { HeaderError::Magic } else { HeaderError::Crc };
        assert_eq!(error, want, "bit {bit}");
        assert_ne!(BatchHeader::hash(&flipped), BatchHeader::hash(&bytes));
    }
}

#[test]
fn every_flipped_bit_of_the_body_and_its_padding_is_seen() {
    let (header, body) = sample();
    for bit in 0..body.len() * 8 {
        let mut flipped = body.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(verify_body(&header, &flipped, SALT).is_err(), "bit {bit}");
    }
}

#[test]
fn a_body_is_tied_to_its_place() {
    let (header, body) = sample();
    let crc_fails = |header: &BatchHeader, salt| {
        matches!(verify_body(header, &body, salt), Err(BatchError::BodyCrc { .. }))
    };
    assert!(crc_fails(&header, SALT + 1), "another salt");
    assert!(crc_fails(&BatchHeader { start: header.start.plus(4096), ..header }, SALT), "another place");
    assert!(crc_fails(&BatchHeader { log: LogId([4; 16]), ..header }, SALT), "another log");
}

#[test]
fn records_that_change_places_are_seen() {
    let (mut one, mut two) = (Vec::new(), Vec::new());
    put(&mut one, RecordKind::Data, b"aaaa");
    put(&mut two, RecordKind::Data, b"bbbb");
    let (header, _) = batch(GEOMETRY.first_batch(0), &[one.clone(), two.clone()].concat());
    let (_, swapped) = batch(GEOMETRY.first_batch(0), &[two, one].concat());
    assert!(matches!(verify_body(&header, &swapped, SALT), Err(BatchError::BodyCrc { .. })));
}

#[test]
fn old_content_and_other_logs_are_told_from_damage() {
    let (header, _) = sample();
    let bytes = header.encode(SALT);
    let decode = |log, salt| BatchHeader::decode(&bytes, log, salt, GEOMETRY);
    assert_eq!(decode(LOG, SALT + 1), Err(HeaderError::OtherSalt { found: SALT }));
    assert_eq!(decode(LogId([4; 16]), SALT), Err(HeaderError::OtherLog(LOG)));
    assert_eq!(BatchHeader::decode(&[0; 128], LOG, SALT, GEOMETRY), Err(HeaderError::Magic));
    assert_eq!(BatchHeader::decode(&bytes[..127], LOG, SALT, GEOMETRY), Err(HeaderError::Short));
}

#[test]
fn impossible_headers_are_refused() {
    let (good, _) = sample();
    let segment_end = GEOMETRY.segment_end(1);
    let seal = BatchHeader { kind: BatchKind::Seal, ..good };
    let impossible = [
        BatchHeader { start: good.start.plus(512), end: good.end.plus(512), ..good },
        BatchHeader { start: GEOMETRY.segment_start(1), end: GEOMETRY.segment_start(1).plus(4096), ..good },
        BatchHeader { end: good.start, ..good },
        BatchHeader { end: good.end.plus(4096), ..good },
        BatchHeader { body_bytes: good.body_bytes + 4, ..good },
        BatchHeader {
            body_bytes: MAX_BATCH_BYTES as u32,
            end: good.start.plus(MAX_BATCH_BYTES + 4096),
            ..good
        },
        BatchHeader {
            start: Lsn(segment_end.0 - 4096),
            end: segment_end.plus(4096),
            body_bytes: 4096,
            ..good
        },
        BatchHeader { durable_before: good.end, ..good },
        BatchHeader { records: 100_000, ..good },
        BatchHeader { payload_bytes: u64::MAX, ..good },
        BatchHeader { records_before: u64::MAX, ..good },
        BatchHeader { payload_before: u64::MAX, ..good },
        BatchHeader { kind: BatchKind::Roll, ..good },
        seal,
        BatchHeader { kind: BatchKind::Roll, body_bytes: 0, records: 0, payload_bytes: 0, ..good },
    ];
    for (case, header) in impossible.into_iter().enumerate() {
        let result = BatchHeader::decode(&header.encode(SALT), LOG, SALT, GEOMETRY);
        assert!(matches!(result, Err(HeaderError::Bounds(_))), "case {case}: {result:?}");
    }
    let roll = BatchHeader {
        kind: BatchKind::Roll,
        body_bytes: 0,
        records: 0,
        payload_bytes: 0,
        end: segment_end,
        ..good
    };
    assert_eq!(BatchHeader::decode(&roll.encode(SALT), LOG, SALT, GEOMETRY), Ok(roll));
    assert_eq!(roll.stored().len(), 4096);
}

/// A header with wrong counts but a sound CRC (a bug at the sender) is refused.
#[test]
fn counts_are_compared() {
    let (header, body) = sample();
    for wrong in [
        BatchHeader { records: 2, ..header },
        BatchHeader { payload_bytes: 304, ..header },
        BatchHeader { kind: BatchKind::Seal, ..header },
    ] {
        assert!(verify_body(&wrong, &body, SALT).is_err());
    }
    assert!(matches!(verify_body(&header, &body[..100], SALT), Err(BatchError::Short { .. })));
}

fn records() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
    vec((any::<bool>(), vec(any::<u8>(), 0..200)), 0..200)
}

proptest! {
    #[test]
    fn any_records_are_read_back(records in records(), at in 0u64..1000) {
        let mut body = Vec::new();
        for (is_data, payload) in &records {
            if *is_data {
                put(&mut body, RecordKind::Data, payload);
            } else {
                put(&mut body, RecordKind::Void, &vec![0; payload.len()]);
            }
        }
        let (header, bytes) = batch(GEOMETRY.first_batch(2).plus(at * 4096), &body);
        prop_assert_eq!(BatchHeader::decode(&header.encode(SALT), LOG, SALT, GEOMETRY), Ok(header));
        let summary = verify_body(&header, &bytes, SALT).expect("sound");
        prop_assert_eq!(summary.records as usize, records.iter().filter(|(is_data, _)| *is_data).count());
        let seed = BodySeed { log: LOG, salt: SALT, start: header.start };
        prop_assert_eq!(summarize_sealed(&body, &seed), Ok(summary));
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in vec(any::<u8>(), 0..600), body_bytes in 0u32..700, kinds in vec(0u8..4, 0..80)) {
        let mut hostile = bytes;
        // Plausible kinds in the top bits, so that the walk gets past its first header.
        for (at, kind) in kinds.into_iter().enumerate() {
            if let Some(word) = hostile.get_mut(at * 8..at * 8 + 4) {
                word.copy_from_slice(&[word[0] % 32, 0, 0, kind << 4]);
            }
        }
        let (header, _) = sample();
        let header = BatchHeader { body_bytes, ..header };
        let _ = BatchHeader::decode(&hostile, LOG, SALT, GEOMETRY);
        prop_assert!(verify_body(&header, &hostile, SALT).is_err());
        let walked: u64 = walk_headers(&hostile).map_while(Result::ok).map(|record| record.header.total_bytes()).sum();
        prop_assert!(walked <= hostile.len() as u64);
    }
}

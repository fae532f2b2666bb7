//! What unit tests of a shard's parts stand on: a log's id and geometry, an arena, one segment in place.

use std::sync::Arc;

use tempfile::TempDir;
use towline_core::format::{
    BatchHeader, BatchKind, BodySeed, RecordKind, encode_record_header, payload_crc, record_bytes,
    summarize_sealed, void_header,
};
use towline_core::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES};
use towline_core::types::{Geometry, LogId, Lsn, NodeId, Term};
use towline_uring::{ArenaConfig, ArenaOwner, Backing, DataFile, FileMode};

use super::files::Files;
use crate::storage::{Layout, Segments};

pub(crate) const LOG: LogId = LogId([7; 16]);
pub(crate) const GEOMETRY: Geometry = Geometry { segment_bytes: 8 << 20, in_flight_bytes: 4 << 20 };
pub(crate) const SALT: u32 = 77;
pub(crate) const ARENA_BYTES: u64 = 4 << 20;
/// Where the first batch of the log lies.
pub(crate) const START: Lsn = Lsn(8192);

pub(crate) fn arena() -> ArenaOwner {
    ArenaOwner::new(ArenaConfig {
        size: ARENA_BYTES as usize,
        backing: Backing::Anonymous,
        block: BLOCK_BYTES,
        header_len: BATCH_HEADER_BYTES,
        void_header: |len| void_header(len as u64),
        start: START.0,
    })
    .unwrap()
}

/// Segment 0 in place, holding `content` from the log's start on. Nothing of it has to be durable.
pub(crate) fn files(folder: &TempDir, content: &[u8]) -> Files {
    let layout = Layout::new(folder.path());
    std::fs::create_dir_all(layout.segments()).unwrap();
    let file = DataFile::create(layout.segment(0), FileMode::Buffered).unwrap();
    file.pwrite_all(START.0, content).unwrap();
    let segments = Segments::new(layout, FileMode::Buffered, Some((LOG, GEOMETRY)));
    segments.insert(0, SALT, Arc::new(file));
    Files::new(segments)
}

/// A batch at `start` with one record of `len` bytes, and its stored bytes.
pub(crate) fn batch_at(start: Lsn, len: usize) -> (BatchHeader, Vec<u8>) {
    let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
    let mut body = encode_record_header(RecordKind::Data, len as u32, payload_crc(&payload)).to_vec();
    body.extend_from_slice(&payload);
    body.resize(record_bytes(len as u64) as usize, 0);
    build(BatchKind::Data, start, &body)
}

/// The roll that closes segment 0 at `start`, and its stored bytes.
pub(crate) fn roll_at(start: Lsn) -> (BatchHeader, Vec<u8>) {
    build(BatchKind::Roll, start, &[])
}

fn build(kind: BatchKind, start: Lsn, body: &[u8]) -> (BatchHeader, Vec<u8>) {
    let summary = summarize_sealed(body, &BodySeed { log: LOG, salt: SALT, start }).unwrap();
    let header = BatchHeader {
        kind,
        log: LOG,
        term: Term { number: 1, node: NodeId(1) },
        start,
        end: if kind == BatchKind::Roll {
            GEOMETRY.segment_end(GEOMETRY.segment_of(start))
        } else {
            start.plus(BATCH_HEADER_BYTES + body.len() as u64).block_up()
        },
        body_bytes: body.len() as u32,
        records: summary.records,
        payload_bytes: summary.payload_bytes,
        records_before: 0,
        payload_before: 0,
        durable_before: start,
        previous_hash: 0,
        body_crc: summary.crc,
    };
    let mut bytes = [header.encode(SALT).as_slice(), body].concat();
    bytes.resize(header.stored().len() as usize, 0);
    (header, bytes)
}

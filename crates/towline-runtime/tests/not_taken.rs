//! A batch that came whole, and that the node did not take, is in nobody's log: it does not stand in the way of a term
//! that begins at its place.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use common::*;
use towline_core::format::{
    BatchHeader, BatchKind, BodySeed, Frame, Hello, HelloRole, LogEnd, RecordKind, SegmentHeader,
    SegmentVerdict, Welcome, WireError, decode_frame, encode_frame, encode_record_header, payload_crc,
    record_bytes, summarize_sealed,
};
use towline_core::types::limits::{BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use towline_core::types::{Level, LogId, Lsn, Position};
use towline_runtime::{Promotion, ShardStatus};

#[test]
fn a_batch_that_was_not_taken_does_not_end_the_log_of_a_promoted_standby() {
    let folder = folder();
    let dir = folder.path().join("a");
    let standby = start(standby(&dir, "a"));
    let before = led_once(&folder.path().join("p"), &standby);

    let mut leader = Leader::greet(&standby, &before);
    let (place, follows) = leader.streams(&before);
    let geometry = before.geometry;
    let salt = salt_of(&dir, before.log, geometry.segment_of(place));
    // Sound in itself, of the term that owns its place; but it does not follow the log's last batch.
    let batch = batch(leader.welcome.history.owner(place).unwrap(), &before, place, salt, !follows);
    leader.socket.write_all(&batch).unwrap();
    let answer = leader.until_refused();
    assert!(answer.contains("does not follow"), "{answer}");

    let promotion =
        Promotion { standbys: Vec::new(), rule: None, force: true, timeout: Duration::from_secs(5) };
    let promoted = standby.handle(0).unwrap().promote(promotion).unwrap();
    assert_eq!(promoted.start, Lsn(place.0));
    let log = leading(&standby);
    let lsn = log.append(b"after", Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap().lsn;
    standby.stop().unwrap();
    let found = records(&dir);
    assert_eq!(found.iter().map(|(_, payload)| payload.as_slice()).collect::<Vec<_>>(), [b"first", b"after"]);
    assert_eq!(found[1].0, lsn);
}

/// A primary that ships one record to the standby and stops. What is known of it, and where its log ended.
fn led_once(dir: &Path, standby: &towline_runtime::RunningNode) -> ShardStatus {
    let mut options = primary(dir);
    options.standbys = vec![peer("a", standby)];
    options.sync_rule = Some("ANY 1 (a)".to_owned());
    let node = start(options);
    leading(&node).append(b"first", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    let shard = status(&node).shards.remove(0);
    node.stop().unwrap();
    shard
}

/// Somebody who speaks for the primary that has stopped.
struct Leader {
    socket: TcpStream,
    bytes: Vec<u8>,
    welcome: Welcome,
}

impl Leader {
    fn greet(standby: &towline_runtime::RunningNode, of: &ShardStatus) -> Leader {
        let socket = TcpStream::connect(standby.listen_address().unwrap()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let mut bytes = Vec::new();
        let hello = Hello {
            versions: (1, 1),
            role: HelloRole::Upstream,
            shard: 0,
            log: of.log,
            geometry: of.geometry,
            node: of.node_id,
            name: "p".to_owned(),
            nonce: 1,
            adopted: Default::default(),
            end: LogEnd::default(),
        };
        encode_frame(&Frame::Hello(hello), &mut bytes).unwrap();
        (&socket).write_all(&bytes).unwrap();
        let mut rest = Vec::new();
        let Frame::Welcome(welcome) = next(&socket, &mut rest) else { panic!("no welcome") };
        Leader { socket, bytes: rest, welcome }
    }

    /// Offers the log as the standby has it. Where its next batch belongs, and the hash of what that follows.
    fn streams(&mut self, of: &ShardStatus) -> (Lsn, u64) {
        let mut bytes = Vec::new();
        let stream = Frame::Stream {
            term: self.welcome.adopted,
            history: self.welcome.history.clone(),
            log_start: self.welcome.log_start,
            log_end: self.welcome.end.flushed,
            set_size: 1,
        };
        encode_frame(&stream, &mut bytes).unwrap();
        self.socket.write_all(&bytes).unwrap();
        match next(&self.socket, &mut self.bytes) {
            Frame::Ready { from, previous_hash } => (of.geometry.batch_place(from), previous_hash),
            other => panic!("{other:?}"),
        }
    }

    fn until_refused(&mut self) -> String {
        loop {
            if let Frame::Refused { message, .. } = next(&self.socket, &mut self.bytes) {
                return message;
            }
        }
    }
}

fn next(mut socket: &TcpStream, bytes: &mut Vec<u8>) -> Frame {
    loop {
        match decode_frame(bytes) {
            Ok(decoded) => {
                bytes.drain(..decoded.consumed);
                return decoded.frame;
            }
            Err(WireError::NeedMore(_)) => {}
            Err(error) => panic!("{error}"),
        }
        let mut more = [0; 4096];
        let count = socket.read(&mut more).unwrap();
        assert!(count > 0, "the connection has ended");
        bytes.extend_from_slice(&more[..count]);
    }
}

fn batch(
    term: towline_core::types::Term,
    of: &ShardStatus,
    start: Lsn,
    salt: u32,
    previous_hash: u64,
) -> Vec<u8> {
    let payload = [7; 5000];
    let mut body =
        encode_record_header(RecordKind::Data, payload.len() as u32, payload_crc(&payload)).to_vec();
    body.extend_from_slice(&payload);
    body.resize(record_bytes(payload.len() as u64) as usize, 0);
    let summary = summarize_sealed(&body, &BodySeed { log: of.log, salt, start }).unwrap();
    let before = Position::default();
    let header = BatchHeader {
        kind: BatchKind::Data,
        log: of.log,
        term,
        start,
        end: start.plus(BATCH_HEADER_BYTES + body.len() as u64).block_up(),
        body_bytes: body.len() as u32,
        records: summary.records,
        payload_bytes: summary.payload_bytes,
        records_before: before.records,
        payload_before: before.payload_bytes,
        durable_before: start,
        previous_hash,
        body_crc: summary.crc,
    };
    let mut bytes = [header.encode(salt).as_slice(), &body].concat();
    bytes.resize(header.stored().len() as usize, 0);
    bytes
}

/// What the standby's own segment was prepared with: the next batch in it stands under the same.
fn salt_of(dir: &Path, log: LogId, seq: u64) -> u32 {
    let path = shard_dir(dir, 0).join("segments").join(format!("{seq:016x}.seg"));
    let bytes = std::fs::read(path).unwrap();
    match SegmentHeader::judge(&bytes[..SEGMENT_HEADER_BYTES as usize], log, seq) {
        SegmentVerdict::Ours { header, .. } => header.salt,
        other => panic!("{other:?}"),
    }
}

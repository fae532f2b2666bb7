//! What hostile bytes are put through: one function for each place where bytes come in. Each takes any bytes and
//! panics where a promise is broken. The property tests beside this folder call them, and so do the fuzz targets in
//! `tools/fuzz`, which include this file.

#![allow(dead_code, unreachable_pub, reason = "each user calls its own part")]
#![allow(clippy::unwrap_used, reason = "a target that fails is a finding")]

#[path = "../recovery_support/mod.rs"]
pub mod recovery_support;

use recovery_support::{BLOCK, GEOMETRY, LOG, MemLog, noise};
use towline_core::format::{
    BatchHeader, BodySeed, Decoded, Frame, Hello, HelloRole, Lead, LogEnd, SegmentHeader, SegmentVerdict,
    WireError, decode_frame, encode_frame, encode_meta, payload_crc, read_meta, summarize_sealed,
    verify_body, walk_headers,
};
use towline_core::log::Recovered;
use towline_core::log::recovery::{Patch, ScanInput, Verdict, mending};
use towline_core::node::{Input, Node, NodeConfig, Output};
use towline_core::replication::SyncRule;
use towline_core::types::limits::{BATCH_HEADER_BYTES, MAX_BATCH_BYTES, SEGMENT_HEADER_BYTES};
use towline_core::types::{Geometry, Lsn, Meta, NodeId, Position, SessionId, Term, TermHistory};

/// A target and its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 9] = [
    ("frame", frame),
    ("stream", stream),
    ("batch_header", batch_header),
    ("batch_body", batch_body),
    ("segment_header", segment_header),
    ("meta", meta),
    ("recovery", recovery),
    ("sync_rule", sync_rule),
    ("session", session),
];

/// A control frame: refused, or it encodes to the very bytes it came from.
pub fn frame(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), forge(bytes)] {
        match decode_frame(&bytes) {
            Ok(Decoded { frame, consumed, .. }) => {
                let mut again = Vec::new();
                encode_frame(&frame, &mut again).unwrap();
                assert_eq!(again, bytes[..consumed]);
            }
            Err(WireError::NeedMore(need)) => {
                assert!(need > bytes.len() && need <= MAX_BATCH_BYTES as usize, "asks for {need}");
            }
            Err(_) => {}
        }
    }
}

/// A stream of frames and batches in pieces: what comes out does not depend on where the pieces end.
pub fn stream(bytes: &[u8]) {
    let (sizes, rest) = bytes.split_at(bytes.len().min(16));
    let mut stream = Vec::new();
    for part in rest.chunks(40) {
        stream.extend(forge(part));
    }
    stream.extend(rest);
    let whole = read_stream(&[&stream]);
    let mut pieces = Vec::new();
    let mut left = &stream[..];
    for size in sizes.iter().cycle().take(4096) {
        let (piece, behind) = left.split_at(left.len().min(usize::from(*size) + 1));
        pieces.push(piece);
        left = behind;
    }
    pieces.push(left);
    assert_eq!(read_stream(&pieces), whole);
}

/// The frames of a stream and why it ended, if it did before its bytes.
fn read_stream(pieces: &[&[u8]]) -> (Vec<Frame>, Option<WireError>) {
    let (mut frames, mut arrived, mut error) = (Vec::new(), Vec::new(), None);
    for piece in pieces {
        arrived.extend_from_slice(piece);
        while error.is_none() && !arrived.is_empty() {
            match decode_frame(&arrived) {
                Ok(decoded) => {
                    arrived.drain(..decoded.consumed);
                    frames.push(decoded.frame);
                }
                Err(WireError::NeedMore(_)) => break,
                Err(why) => error = Some(why),
            }
        }
    }
    (frames, error)
}

/// A batch header: refused, or within its bounds, and it encodes to the very bytes it came from.
pub fn batch_header(bytes: &[u8]) {
    let _ = Lead::of(bytes);
    let mut bytes = bytes.to_vec();
    for sound in [false, true] {
        if sound {
            bytes.resize(BATCH_HEADER_BYTES as usize, 0);
            sign_batch_header(&mut bytes);
        }
        let Ok((header, salt)) = BatchHeader::decode_any(&bytes) else { continue };
        assert_eq!(header.encode(salt)[..], bytes[..BATCH_HEADER_BYTES as usize]);
        if let Ok(again) = BatchHeader::decode(&bytes, header.log, salt, GEOMETRY) {
            assert_eq!(again, header);
            assert!(header.stored().len() <= MAX_BATCH_BYTES && header.start < header.end);
            assert_eq!(GEOMETRY.segment_of(header.start), GEOMETRY.segment_of(Lsn(header.end.0 - 1)));
        }
    }
}

/// Gives bytes the magic and the version of a batch header, and a CRC that fits them. Found by trying: where the CRC
/// stands is the format's own affair.
fn sign_batch_header(bytes: &mut [u8]) {
    let mut log = MemLog::new();
    let span = log.append(&[b"x"]);
    let sound = log.bytes(span)[..BATCH_HEADER_BYTES as usize].to_vec();
    bytes[..12].copy_from_slice(&sound[..12]);
    for at in (8..64).step_by(4) {
        let mut unsigned = sound.clone();
        unsigned[at..at + 4].fill(0);
        if payload_crc(&unsigned).to_le_bytes() == sound[at..at + 4] {
            bytes[at..at + 4].fill(0);
            let crc = payload_crc(bytes).to_le_bytes();
            bytes[at..at + 4].copy_from_slice(&crc);
            return;
        }
    }
}

/// A batch's body: the records that are walked lie in it, and it is accepted under its own sum alone.
pub fn batch_body(bytes: &[u8]) {
    let mut inside = 0;
    for record in walk_headers(bytes) {
        let Ok(record) = record else { break };
        inside += record.payload.len();
        assert!(inside <= bytes.len());
    }
    let start = GEOMETRY.first_batch(0);
    let seed = BodySeed { log: LOG, salt: 7, start };
    let mut log = MemLog::new();
    let span = log.append(&[b"x"]);
    let (sound, _) = BatchHeader::decode_any(log.bytes(span)).unwrap();
    let Ok(summary) = summarize_sealed(bytes, &seed) else { return };
    let header = BatchHeader {
        start,
        body_bytes: bytes.len() as u32,
        records: summary.records,
        payload_bytes: summary.payload_bytes,
        body_crc: summary.crc,
        ..sound
    };
    let mut stored = bytes.to_vec();
    stored.resize(header.stored().len() as usize - BATCH_HEADER_BYTES as usize, 0);
    if verify_body(&header, &stored, 7).is_ok() {
        assert!(verify_body(&header, &stored, 8).is_err(), "the salt counts");
    }
}

/// A segment's header: refused, or every copy it calls sound is what it encodes to.
pub fn segment_header(bytes: &[u8]) {
    let mut block = vec![0; SEGMENT_HEADER_BYTES as usize];
    let sound = SegmentHeader { log: LOG, seq: 3, salt: 9, incarnation: 0 }.encode();
    block[..BLOCK].copy_from_slice(&sound);
    block[BLOCK..].copy_from_slice(&sound);
    for patch in bytes.chunks(3) {
        let [low, high, value] = patch else { continue };
        let at = usize::from(u16::from_le_bytes([*low, *high])) % block.len();
        block[at] ^= value;
    }
    for bytes in [bytes, &block] {
        if let SegmentVerdict::Ours { header, damaged } = SegmentHeader::judge(bytes, LOG, 3) {
            assert_eq!((header.log, header.seq), (LOG, 3));
            for (copy, damaged) in bytes.chunks(BLOCK).zip(damaged) {
                assert_eq!(
                    copy != &header.encode()[..],
                    damaged,
                    "a damaged copy called sound, or the reverse"
                );
            }
        }
    }
}

/// The meta block's copies: refused, or it encodes and reads back as the same.
pub fn meta(bytes: &[u8]) {
    let mut block = encode_meta(&Meta { sequence: 5, ..Meta::default() }).unwrap().repeat(4);
    let copy = block.len() / 4;
    for patch in bytes.chunks(3) {
        let [low, high, value] = patch else { continue };
        let at = usize::from(u16::from_le_bytes([*low, *high])) % block.len();
        block[at] ^= value;
    }
    for bytes in [bytes, &block] {
        if let Ok(choice) = read_meta(bytes) {
            let again = encode_meta(&choice.meta).unwrap();
            assert!(again.len() <= copy.max(again.len()));
            assert_eq!(read_meta(&again.repeat(4)).map(|choice| choice.meta), Ok(choice.meta));
        }
    }
}

/// A log under arbitrary damage: what is read is a prefix of what was written, never changed or doubled; recovery is
/// a function of the bytes; after the cut that it asks for the log is clean and no longer; a peer's bytes mend with
/// nothing but what was there.
pub fn recovery(bytes: &[u8]) {
    let whole = written();
    let mut log = whole.clone();
    let (choice, patches) = bytes.split_first().unwrap_or((&0, &[]));
    log.meta.reported = if choice & 1 == 0 { Lsn(0) } else { whole.end.lsn };
    for patch in patches.chunks(6) {
        let [seq, low, high, len, value, kind] = patch else { continue };
        let file = log.files.get_mut(&u64::from(seq % 2)).unwrap();
        let at = usize::from(u16::from_le_bytes([*low, *high])) % file.len();
        let end = file.len().min(at + 1 + usize::from(*len) * 8);
        match kind % 4 {
            0 => file[at] ^= value,
            1 => file[at..end].fill(*value),
            // As from another place: a misdirected write.
            2 => file.copy_within(0..end - at, at),
            _ => file.truncate(file.len() - usize::from(*len)),
        }
    }
    let found = log.scan();
    assert_eq!(found, log.scan());
    let (payloads, all) = (log.payloads(), whole.payloads());
    assert!(all.starts_with(&payloads), "records are changed, doubled or out of order");
    assert!(found.recovered.end.lsn <= whole.end.lsn);
    match &found.verdict {
        Verdict::TornTail { cut } | Verdict::InFlight { cut } => {
            assert!(cut.start >= found.recovered.end.lsn);
            assert!(log.meta.reported <= cut.start, "what was reported would be cut");
            log.zero(*cut);
            let after = log.scan();
            assert_eq!((after.verdict, after.recovered.end), (Verdict::CleanEnd, found.recovered.end));
        }
        Verdict::CleanEnd => assert!(log.meta.reported <= found.recovered.end.lsn),
        Verdict::Corrupt { span, .. } => {
            let seq = GEOMETRY.segment_of(span.start);
            if let Some(sound) = whole.files.get(&seq) {
                let from = GEOMETRY.offset_of(span.start) as usize;
                let patch = Patch { start: span.start, bytes: sound[from..].to_vec() };
                let input = ScanInput { log: LOG, geometry: GEOMETRY, meta: &log.meta, peer_holds: None };
                let spans = mending(&log, input, &found, &patch).unwrap();
                assert!(spans.iter().all(|span| whole.bytes(*span) == patch.bytes_of(*span).unwrap()));
            }
        }
    }
}

/// Two segments with batches, rules, a roll and a seal.
fn written() -> MemLog {
    let mut log = MemLog::new();
    log.rules(&[(1, "ANY 1 (a)")]);
    for seed in 1..6 {
        log.append(&[&noise(seed as usize * 700, seed), b"", &noise(3, seed + 50)]);
        log.flush();
    }
    log.roll();
    log.prepare(1, 0x101);
    log.append(&[&noise(5000, 9)]);
    log.seal();
    log
}

/// A sync rule as text: refused, or it is written and read back as the same.
pub fn sync_rule(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(Some(rule)) = SyncRule::parse(text) {
        assert_eq!(SyncRule::parse(&rule.to_string()), Ok(Some(rule)));
    }
}

/// A session of a standby with somebody who knows the frames and means no good: whatever comes in whatever order,
/// the node goes on, its log is not lost, and what it puts out is bounded by what came in.
pub fn session(bytes: &[u8]) {
    let geometry = Geometry { segment_bytes: 8 << 20, in_flight_bytes: 16 << 20 };
    let term = Term { number: 1, node: NodeId(100) };
    let start = geometry.first_batch(0);
    let config =
        NodeConfig { node: NodeId(1), log: LOG, geometry, name: "s1".into(), ..NodeConfig::default() };
    let recovered = Recovered {
        end: Position { lsn: start.plus(8192), ..Position::default() },
        previous_hash: 77,
        segments: vec![(0, 7)],
        ..Recovered::default()
    };
    let history = TermHistory::from_entries(&[towline_core::types::TermStart { term, start }]).unwrap();
    let mut node = Node::new(config, recovered, Meta { adopted: term, history, ..Meta::default() });
    let session = SessionId(1);
    node.handle(Input::Tick { now_ns: 1 });
    node.handle(Input::Accepted { session });
    node.handle(Input::Frame { session, frame: Frame::Hello(upstream(geometry, term)) });
    for part in bytes.chunks(48) {
        let Ok(decoded) = decode_frame(&forge(part)) else { continue };
        node.handle(Input::Frame { session, frame: decoded.frame });
        let mut outputs = 0;
        while let Some(output) = node.poll_output() {
            if let Output::WriteMeta { meta } = &output {
                node.handle(Input::MetaWritten { sequence: meta.sequence });
            }
            outputs += 1;
            assert!(outputs < 1000, "one frame makes ever more outputs");
        }
    }
}

fn upstream(geometry: Geometry, adopted: Term) -> Hello {
    Hello {
        versions: (1, 1),
        role: HelloRole::Upstream,
        shard: 0,
        log: LOG,
        geometry,
        node: NodeId(100),
        name: "n100".to_owned(),
        nonce: 1,
        adopted,
        end: LogEnd::default(),
    }
}

/// A frame with sound CRCs and any content: the first byte is its kind.
pub fn forge(content: &[u8]) -> Vec<u8> {
    let (kind, body) = content.split_first().unwrap_or((&0, &[]));
    let kind = kind % 40;
    let header = |payload: u32| {
        let mut bytes = b"TOWLfrme".to_vec();
        bytes.extend(1u16.to_le_bytes());
        bytes.extend([kind, 0]);
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(payload_crc(body).to_le_bytes());
        bytes.extend(payload.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload_crc(&bytes).to_le_bytes());
        bytes.extend(body);
        bytes
    };
    // A body that announces payload needs a header that says as much.
    let announced = body.last_chunk::<4>().map_or(0, |last| u32::from_le_bytes(*last));
    let with = header(announced);
    if announced > 0 && decode_frame(&with).is_ok() { with } else { header(0) }
}

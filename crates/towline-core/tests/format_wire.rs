//! Every control frame round-trips; no bytes make the decoder panic, over-read or believe a damaged frame; other
//! protocols are named.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use towline_core::format::{
    Committed, FRAME_HEADER_BYTES, Foreign, Frame, Hello, HelloRole, Lead, LogEnd, MAX_APPEND_RECORDS,
    MAX_MESSAGE_BYTES, MAX_STATUS_BYTES, Outcome, RefusalCode, Welcome, WireError, decode_frame,
    encode_frame,
};
use towline_core::types::limits::{MAX_FRAME_BYTES, MAX_RECORD_BYTES, MAX_TERM_HISTORY};
use towline_core::types::{
    Geometry, Level, LogId, Lsn, NodeId, Position, StandbyWatermarks, Term, TermHistory, TermStart, Window,
};

fn encoded(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_frame(frame, &mut bytes).expect("within the limits");
    bytes
}

prop_compose! {
    fn lsn()(at: u64) -> Lsn { Lsn(at) }
}
prop_compose! {
    fn term()(number: u64, node: u64) -> Term { Term { number, node: NodeId(node) } }
}
prop_compose! {
    fn end()(last_term in term(), flushed in lsn()) -> LogEnd { LogEnd { last_term, flushed } }
}
prop_compose! {
    fn position()(lsn in lsn(), records: u64, payload_bytes: u64) -> Position {
        Position { lsn, records, payload_bytes }
    }
}
prop_compose! {
    fn history()(steps in vec((1u64..9, 0u64..99, any::<u64>()), 0..=MAX_TERM_HISTORY)) -> TermHistory {
        let (mut number, mut start) = (0, 0);
        let entries: Vec<TermStart> = steps.into_iter().map(|(term, lsn, node)| {
            number += term;
            start += lsn;
            TermStart { term: Term { number, node: NodeId(node) }, start: Lsn(start) }
        }).collect();
        TermHistory::from_entries(&entries).expect("rising entries")
    }
}

fn name() -> impl Strategy<Value = String> {
    "[a-zµ0-9]{0,31}"
}

fn level() -> impl Strategy<Value = Level> {
    proptest::sample::select(Level::ALL.to_vec())
}

fn window() -> impl Strategy<Value = Option<Window>> {
    option::of(prop_oneof![
        any::<u64>().prop_map(Window::Bytes),
        any::<u64>().prop_map(Window::Records),
        any::<u64>().prop_map(Window::Micros),
        Just(Window::Infinite),
    ])
}

prop_compose! {
    fn hello()(versions: (u16, u16), upstream: bool, shard: u16, log: [u8; 16], bytes: (u64, u64), node: u64,
               name in name(), nonce: u64, adopted in term(), end in end()) -> Hello {
        let role = if upstream { HelloRole::Upstream } else { HelloRole::Client };
        let geometry = Geometry { segment_bytes: bytes.0, in_flight_bytes: bytes.1 };
        Hello { versions, role, shard, log: LogId(log), geometry, node: NodeId(node), name, nonce, adopted, end }
    }
}
prop_compose! {
    fn welcome()(version: u16, log: [u8; 16], node: u64, name in name(), incarnation: u64, adopted in term(),
                 end in end(), log_start in lsn(), history in history(), leader_flushed in lsn(), applies: bool,
                 applies_safe: bool, set_size: u16)
                 -> Welcome {
        let (log, node) = (LogId(log), NodeId(node));
        Welcome { version, log, node, name, incarnation, adopted, end, log_start, history, leader_flushed, applies,
                  applies_safe, set_size }
    }
}
prop_compose! {
    fn committed()(lsn in lsn(), end in lsn(), level in level(), window in window(), rule_version: u64,
                   fill_bytes: u64, waited_for_window: bool) -> Committed {
        Committed { lsn, end, level, window, rule_version, fill_bytes, waited_for_window }
    }
}

fn refusal() -> impl Strategy<Value = RefusalCode> {
    proptest::sample::select(vec![
        RefusalCode::Version,
        RefusalCode::OtherLog,
        RefusalCode::OtherGeometry,
        RefusalCode::StaleTerm,
        RefusalCode::NoShard,
        RefusalCode::Busy,
        RefusalCode::Unavailable,
        RefusalCode::Resync,
        RefusalCode::Protocol,
    ])
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        committed().prop_map(Outcome::Committed),
        name().prop_map(Outcome::Refused),
        name().prop_map(Outcome::Indeterminate),
    ]
}

fn peer_frame() -> BoxedStrategy<Frame> {
    prop_oneof![
        hello().prop_map(Frame::Hello),
        welcome().prop_map(Frame::Welcome),
        (any::<u16>(), any::<[u8; 16]>(), any::<u64>(), any::<u16>()).prop_map(
            |(version, log, node, shards)| {
                Frame::WelcomeClient { version, log: LogId(log), node: NodeId(node), shards }
            }
        ),
        (refusal(), name()).prop_map(|(code, message)| Frame::Refused { code, message }),
        (term(), end()).prop_map(|(term, end)| Frame::Adopt { term, end }),
        (term(), term(), end()).prop_map(|(term, previous, end)| Frame::Adopted { term, previous, end }),
        (term(), end(), history()).prop_map(|(adopted, end, history)| Frame::NotAdopted {
            adopted,
            end,
            history
        }),
        lsn().prop_map(|from| Frame::Fetch { from }),
        lsn().prop_map(|end| Frame::FetchEnd { end }),
        (term(), history(), lsn(), lsn(), any::<u16>()).prop_map(
            |(term, history, log_start, log_end, set_size)| Frame::Stream {
                term,
                history,
                log_start,
                log_end,
                set_size
            }
        ),
        (lsn(), any::<u64>()).prop_map(|(from, previous_hash)| Frame::Ready { from, previous_hash }),
        any::<(u64, u32)>().prop_map(|(seq, salt)| Frame::Segment { seq, salt }),
        (lsn(), lsn(), lsn()).prop_map(|(flushed, safe, log_start)| Frame::Progress {
            flushed,
            safe,
            log_start
        }),
        (term(), [position(), position(), position()], lsn(), any::<bool>()).prop_map(
            |(term, [written, flushed, applied], credit, failing)| Frame::Report {
                term,
                watermarks: StandbyWatermarks { written, flushed, applied },
                credit,
                failing
            }
        ),
        term().prop_map(|term| Frame::Heartbeat { term }),
    ]
    .boxed()
}

fn client_frame() -> BoxedStrategy<Frame> {
    prop_oneof![
        (any::<u64>(), level(), window(), vec(0u32..2000, 0..=MAX_APPEND_RECORDS))
            .prop_map(|(request, level, window, lengths)| Frame::Append { request, level, window, lengths }),
        (any::<u64>(), outcome()).prop_map(|(request, outcome)| Frame::Appended { request, outcome }),
        (any::<u64>(), lsn(), level()).prop_map(|(request, lsn, level)| Frame::Wait { request, lsn, level }),
        (lsn(), any::<bool>()).prop_map(|(from, unsafe_too)| Frame::Tail { from, unsafe_too }),
        (lsn(), lsn(), 0u32..2 << 20).prop_map(|(start, next, bytes)| Frame::Records { start, next, bytes }),
        (lsn(), lsn()).prop_map(|(start, end)| Frame::ReadLog { start, end }),
        (lsn(), lsn(), 0u32..2 << 20).prop_map(|(start, flushed, bytes)| Frame::LogBytes {
            start,
            flushed,
            bytes
        }),
        (any::<u64>(), name()).prop_map(|(request, rule)| Frame::SetRule { request, rule }),
        (any::<u64>(), lsn()).prop_map(|(request, below)| Frame::Trim { request, below }),
        (any::<u64>(), name()).prop_map(|(request, error)| Frame::Done { request, error }),
        (
            any::<u64>(),
            vec((name(), name()), 0..=16),
            proptest::option::of(name()),
            any::<bool>(),
            any::<u64>()
        )
            .prop_map(|(request, standbys, rule, force, timeout_ms)| Frame::Promote {
                request,
                standbys,
                rule,
                force,
                timeout_ms
            }),
        (any::<u64>(), term(), lsn(), vec(name(), 0..=16), name()).prop_map(
            |(request, term, start, adopters, warnings)| Frame::Promoted {
                request,
                term,
                start,
                adopters,
                warnings
            }
        ),
        any::<(u64, u64)>().prop_map(|(request, limit_ms)| Frame::Pause { request, limit_ms }),
        (any::<u64>(), lsn()).prop_map(|(request, end)| Frame::Paused { request, end }),
        any::<u64>().prop_map(|request| Frame::Resume { request }),
        Just(Frame::StatusRequest),
        "[ -~]{0,9000}".prop_map(|json| Frame::Status { json }),
    ]
    .boxed()
}

fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![peer_frame(), client_frame()]
}

proptest! {
    #[test]
    fn every_frame_round_trips_with_others_behind_it(frame in any_frame(), next in any_frame()) {
        let mut bytes = encoded(&frame);
        let len = bytes.len();
        encode_frame(&next, &mut bytes).expect("within the limits");
        let decoded = decode_frame(&bytes).expect("a frame");
        prop_assert_eq!(decoded.consumed, len);
        let follows = match &frame {
            Frame::Append { lengths, .. } => lengths.iter().sum(),
            Frame::Records { bytes, .. } | Frame::LogBytes { bytes, .. } => *bytes,
            _ => 0,
        };
        prop_assert_eq!(decoded.payload_bytes, follows);
        prop_assert_eq!(decoded.frame, frame);
    }

    #[test]
    fn every_prefix_asks_for_more(frame in any_frame()) {
        let bytes = encoded(&frame);
        for len in 0..bytes.len() {
            match decode_frame(&bytes[..len]) {
                Err(WireError::NeedMore(need)) => prop_assert!(len < need && need <= bytes.len()),
                other => prop_assert!(false, "{len} bytes gave {other:?}"),
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_refused(frame in peer_frame(), at: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = encoded(&frame);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode_frame(&bytes).is_err());
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), with_magic: bool) {
        let mut hostile = bytes;
        if with_magic {
            hostile.splice(0..hostile.len().min(8), *b"TOWLfrme");
        }
        prop_assert!(decode_frame(&hostile).is_err());
        let _ = Lead::of(&hostile);
    }

    /// Sound CRCs over garbage: the field readers themselves. What is accepted encodes to the same bytes.
    #[test]
    fn a_hostile_peer_with_sound_crcs(kind: u8, body in vec(any::<u8>(), 0..300), payload in 0u32..99) {
        let bytes = forged(kind, &body, body.len() as u32, payload);
        if let Ok(decoded) = decode_frame(&bytes) {
            prop_assert_eq!(encoded(&decoded.frame), bytes);
        }
    }
}

proptest! {
    /// Each body byte of a sound frame made another, with sound CRCs: one meaning has one encoding, reserved fields
    /// included.
    #[test]
    fn a_frame_that_is_bent_is_refused_or_means_what_it_says(frame in any_frame(), by in 1u8..) {
        let sound = encoded(&frame);
        let payload = decode_frame(&sound).expect("it is sound").payload_bytes;
        for at in FRAME_HEADER_BYTES..sound.len().min(FRAME_HEADER_BYTES + 128) {
            let mut body = sound[FRAME_HEADER_BYTES..].to_vec();
            body[at - FRAME_HEADER_BYTES] ^= by;
            let bent = forged(sound[KIND_AT], &body, body.len() as u32, payload);
            if let Ok(decoded) = decode_frame(&bent) {
                prop_assert_eq!(encoded(&decoded.frame), bent, "byte {}", at);
            }
        }
    }
}

const KIND_AT: usize = 10;

/// A frame with sound CRCs and any content.
fn forged(kind: u8, body: &[u8], body_bytes: u32, payload: u32) -> Vec<u8> {
    let mut bytes = b"TOWLfrme".to_vec();
    bytes.extend(1u16.to_le_bytes());
    bytes.extend([kind, 0]);
    bytes.extend(body_bytes.to_le_bytes());
    bytes.extend(towline_core::format::payload_crc(body).to_le_bytes());
    bytes.extend(payload.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(towline_core::format::payload_crc(&bytes).to_le_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn a_length_over_its_cap_is_refused_before_its_body_comes() {
    let header = forged(1, &[], MAX_FRAME_BYTES as u32 + 1, 0);
    assert_eq!(header.len(), FRAME_HEADER_BYTES);
    assert!(matches!(decode_frame(&header), Err(WireError::TooLong { .. })));
    assert!(matches!(decode_frame(&forged(1, &[], u32::MAX, 0)), Err(WireError::TooLong { .. })));
    assert!(matches!(
        decode_frame(&forged(25, &[], MAX_STATUS_BYTES as u32 + 1, 0)),
        Err(WireError::TooLong { .. })
    ));
    assert!(matches!(decode_frame(&forged(20, &[], 20, u32::MAX)), Err(WireError::TooLong { .. })));
    assert_eq!(decode_frame(&forged(99, &[], 0, 0)), Err(WireError::Kind(99)));
}

#[test]
fn what_is_over_a_limit_is_not_encoded_and_leaves_the_buffer_alone() {
    let mut out = vec![1, 2, 3];
    let record_too_long = Frame::Append {
        request: 1,
        level: Level::On,
        window: None,
        lengths: vec![MAX_RECORD_BYTES as u32 + 1],
    };
    let too_many = Frame::Append { request: 1, level: Level::On, window: None, lengths: vec![1; 1001] };
    let rule = Frame::SetRule { request: 1, rule: "a".repeat(1025) };
    let status = Frame::Status { json: "a".repeat(MAX_STATUS_BYTES + 1) };
    for frame in [record_too_long, too_many, rule, status] {
        assert!(encode_frame(&frame, &mut out).is_err());
        assert_eq!(out, [1, 2, 3]);
    }
}

#[test]
fn a_long_message_loses_its_end_at_a_character() {
    let message = "µ".repeat(MAX_MESSAGE_BYTES);
    let decoded = decode_frame(&encoded(&Frame::Done { request: 1, error: message })).expect("a frame");
    assert_eq!(decoded.frame, Frame::Done { request: 1, error: "µ".repeat(MAX_MESSAGE_BYTES / 2) });
}

#[test]
fn other_protocols_are_named() {
    let tls = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC];
    assert_eq!(decode_frame(&tls), Err(WireError::Foreign(Foreign::Tls)));
    for request in
        ["GET / HTTP/1.1\r\n", "POST /x", "PRI * HTTP/2.0\r\n\r\n", "OPTIONS * HTTP/1.1", "HEAD / HTTP/1.0"]
    {
        assert_eq!(decode_frame(request.as_bytes()), Err(WireError::Foreign(Foreign::Http)), "{request}");
    }
    assert_eq!(decode_frame(b"SSH-2.0-OpenSSH_9.6\r\n"), Err(WireError::Foreign(Foreign::Ssh)));
    // In one piece or in several: the first four bytes decide.
    for request in [&b"CONNECT x"[..], b"CONNE\0\0\0\0", b"PATCHED 1"] {
        for len in 4..=request.len() {
            assert_eq!(Lead::of(&request[..len]), Lead::Foreign(Foreign::Http), "{len} bytes");
        }
    }
    assert_eq!(decode_frame(b"hello towline"), Err(WireError::Garbage));
    assert_eq!(decode_frame(b"G"), Err(WireError::NeedMore(FRAME_HEADER_BYTES)));
    assert_eq!(decode_frame(b"GETTY"), Err(WireError::Garbage));
    assert_eq!(decode_frame(b"x"), Err(WireError::Garbage));
    assert_eq!(decode_frame(b"TOWLbtch and more"), Err(WireError::Batch));
    assert_eq!(Lead::of(b"TOWL"), Lead::NeedMore);
    assert_eq!(Lead::of(b"TOWLfrme"), Lead::Frame);
    assert_eq!(Lead::of(b"TOWLbtch"), Lead::Batch);
}

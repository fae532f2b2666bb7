//! What a node may write, and into which file.

use std::collections::VecDeque;

use towline_core::format::{BatchHeader, BatchKind, Frame};
use towline_core::node::{Input, Output};
use towline_core::types::limits::SEGMENTS_ANNOUNCED;
use towline_core::types::{Lsn, Meta, SessionId, Span, StandbyWatermarks};

use crate::probe::*;

#[test]
fn what_is_written_waits_for_the_file_that_was_asked_for_last() {
    let end = GEOMETRY.segment_end(0);
    let mut standby = Probe::standby(end.0);
    standby.hello(1, 100);
    let start = GEOMETRY.first_batch(1);
    standby.stream(1, term(1, 100), OLD(), start.0 + 4096);
    let asks = |outputs: &[Output], wanted| {
        has(outputs, |o| matches!(o, Output::PrepareSegment { seq: 1, salt } if *salt == Some(wanted)))
    };
    assert!(asks(&standby.frame(1, Frame::Segment { seq: 1, salt: 21 }), 21));
    // Another leader's word, while the file is being made.
    assert!(asks(&standby.frame(1, Frame::Segment { seq: 1, salt: 22 }), 22));
    standby.feed(Input::SegmentReady { seq: 1, salt: 21 });
    let writes = |output: &Output| matches!(output, Output::Write { .. });
    assert!(!has(&standby.receive(1, term(1, 100), start.0, 77), writes), "that file goes again");
    let outputs = standby.feed(Input::SegmentReady { seq: 1, salt: 22 });
    assert_eq!(written(&outputs).0, Span::new(start, start.plus(4096)));
}

#[test]
fn a_segment_that_holds_log_bytes_is_not_made_anew_for_a_leaders_word() {
    let mut standby = Probe::standby(START.0 + 4096);
    standby.hello(1, 100);
    standby.stream(1, term(1, 100), OLD(), START.0 + 8192);
    let outputs = standby.frame(1, Frame::Segment { seq: 0, salt: 9 });
    let makes = |output: &Output| matches!(output, Output::PrepareSegment { .. });
    assert!(has(&outputs, |output| matches!(output, Output::Close { session: SessionId(1), .. })));
    assert!(!has(&outputs, makes), "{outputs:?}");
    // And what is there goes on being written to under the salt that it has.
    standby.hello(2, 100);
    standby.stream(2, term(1, 100), OLD(), START.0 + 8192);
    let outputs = standby.receive(2, term(1, 100), START.0 + 4096, 77);
    assert_eq!(written(&outputs).0.start, START.plus(4096));
}

#[test]
fn segments_are_made_in_the_order_of_the_log_and_not_far_ahead_of_it() {
    let following = || {
        let mut standby = Probe::standby(START.0 + 4096);
        standby.hello(1, 100);
        standby.stream(1, term(1, 100), OLD(), START.0 + 8192);
        standby
    };
    let makes = |output: &Output| matches!(output, Output::PrepareSegment { .. });
    let closes = |output: &Output| matches!(output, Output::Close { session: SessionId(1), .. });
    let outputs = following().frame(1, Frame::Segment { seq: 2, salt: 9 });
    assert!(has(&outputs, closes) && !has(&outputs, makes), "a crash would find a gap: {outputs:?}");
    let mut standby = following();
    let credit = towline_core::node::NodeConfig::default().arena_bytes;
    let most = SEGMENTS_ANNOUNCED + credit / GEOMETRY.segment_bytes + 2;
    for seq in 1..=most {
        assert!(has(&standby.frame(1, Frame::Segment { seq, salt: 9 }), makes), "segment {seq}");
    }
    let outputs = standby.frame(1, Frame::Segment { seq: most + 1, salt: 9 });
    assert!(
        has(&outputs, closes) && !has(&outputs, makes),
        "it fills no disk for a leader's word: {outputs:?}"
    );
}

#[test]
fn a_relay_ships_nothing_of_a_segment_that_it_has_not_announced() {
    let end = GEOMETRY.segment_end(0);
    let start = GEOMETRY.first_batch(1);
    let config = Probe::config(50, 1);
    let meta = Meta { adopted: term(1, 100), reported: end, history: OLD(), ..Meta::default() };
    let mut relay = Probe::new(config, at(end.0), 77, None, meta);
    relay.hello(9, 100);
    relay.stream(9, term(1, 100), OLD(), start.0 + 4096);
    relay.feed(Input::Tick { now_ns: 1 });
    relay.welcome(0, term(1, 100), end_of(term(1, 100), end.0), end.0);
    relay.adopted(0, term(1, 100));
    relay.frame(0, Frame::Ready { from: end, previous_hash: 77 });
    let credit = end.plus(1 << 30);
    let watermarks = StandbyWatermarks { written: at(end.0), flushed: at(end.0), applied: at(end.0) };
    relay.frame(0, Frame::Report { term: term(1, 100), watermarks, credit, failing: false });
    relay.frame(9, Frame::Segment { seq: 1, salt: 21 });
    // It has the batch, and not the file.
    let sends = |output: &Output| matches!(output, Output::Send { session: SessionId(0), .. });
    assert!(!has(&relay.receive(9, term(1, 100), start.0, 77), sends), "the salt is not known there");
    let outputs = relay.feed(Input::SegmentReady { seq: 1, salt: 21 });
    let told = outputs.iter().position(|output| {
        matches!(output, Output::Frame { frame: Frame::Segment { seq: 1, salt: 21 }, .. })
    });
    assert!(told.is_some() && told < outputs.iter().position(sends), "{outputs:?}");
}

/// A batch of a mebibyte, or a roll, fetched in session 0 and flushed.
fn fetch(primary: &mut Probe, kind: BatchKind, start: Lsn, previous_hash: &mut u64) {
    let is_roll = kind == BatchKind::Roll;
    let header = BatchHeader {
        kind,
        log: LOG,
        term: term(1, 100),
        start,
        end: if is_roll { GEOMETRY.segment_end(0) } else { start.plus(MIB) },
        body_bytes: if is_roll { 0 } else { (MIB - 4096) as u32 },
        records: 0,
        payload_bytes: 0,
        records_before: 0,
        payload_before: 0,
        durable_before: Lsn(0),
        previous_hash: *previous_hash,
        body_crc: 0,
    };
    *previous_hash = start.0;
    let received = Input::Received { session: SessionId(0), header, hash: start.0, rules: Vec::new() };
    let mut outputs: VecDeque<Output> = primary.feed(received).into();
    while let Some(output) = outputs.pop_front() {
        if let Output::Write { span, epoch } = output {
            outputs.extend(primary.feed(Input::Flushed { span, epoch }));
        }
    }
}

#[test]
fn a_permit_from_before_a_term_allows_nothing_after_it() {
    let begin = START.plus(4096);
    let mut primary = Probe::primary(2, Some("ANY 1 (s1, s2)"), begin.0);
    let ahead = end_of(term(1, 100), GEOMETRY.first_batch(1).0 + 2 * MIB);
    primary.welcome(0, term(1, 100), ahead, begin.0);
    primary.frame(0, Frame::NotAdopted { adopted: term(1, 100), end: ahead, history: OLD() });
    primary.frame(0, Frame::Segment { seq: 1, salt: 7 });
    primary.feed(Input::SegmentReady { seq: 1, salt: 7 });
    let mut previous_hash = 77;
    for piece in 0..7 {
        fetch(&mut primary, BatchKind::Data, begin.plus(piece * MIB), &mut previous_hash);
    }
    fetch(&mut primary, BatchKind::Roll, begin.plus(7 * MIB), &mut previous_hash);
    fetch(&mut primary, BatchKind::Data, GEOMETRY.first_batch(1), &mut previous_hash);
    // The last is flushed while the permit to go on behind it is on its way to the meta block.
    let first = primary.meta.sequence;
    primary.slow_meta = true;
    fetch(&mut primary, BatchKind::Data, GEOMETRY.first_batch(1).plus(MIB), &mut previous_hash);
    let permit = primary.meta.sequence;
    assert!(permit > first && primary.node.watermarks().flushed.lsn == ahead.flushed);
    primary.frame(0, Frame::FetchEnd { end: ahead.flushed });
    primary.adopted(0, term(1, 100));
    primary.feed(Input::MetaWritten { sequence: permit });
    assert!(primary.meta.unfinished.is_empty() && primary.meta.sequence > permit, "the term's start");
    primary.slow_meta = false;
    let sequence = primary.meta.sequence;
    let outputs = primary.feed(Input::MetaWritten { sequence });
    assert!(primary.leads());
    let seal = outputs.iter().find_map(|output| match output {
        Output::PutHeader { header } => Some(*header),
        _ => None,
    });
    let seal = seal.expect("a term begins with a seal");
    let (span, epoch) = written(&outputs);
    primary.feed(Input::Flushed { span, epoch });
    // Another one leads, and this node follows at once.
    primary.hello(9, 101);
    let end = end_of(seal.term, seal.end.0);
    assert!(says_adopted(&primary.frame(9, Frame::Adopt { term: term(9, 101), end })));
    let entries = [(term(1, 100), START.0), (seal.term, seal.start.0), (term(9, 101), seal.end.0)];
    primary.stream(9, term(9, 101), history(&entries), seal.end.0 + 4096);
    let outputs = primary.receive(9, term(9, 101), seal.end.0, BatchHeader::hash(&seal.encode(7)));
    let (span, _) = written(&outputs);
    let wrote = outputs.iter().position(|output| matches!(output, Output::Write { .. }));
    let covers = |known: &Span| known.start <= span.start && span.end <= known.end;
    let recorded = outputs.iter().position(
        |output| matches!(output, Output::WriteMeta { meta } if meta.unfinished.iter().any(covers)),
    );
    assert!(recorded.is_some() && recorded < wrote, "{outputs:?}");
}

const MIB: u64 = 1 << 20;

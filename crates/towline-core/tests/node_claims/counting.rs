//! Who counts, and what somebody waits for: a leader with one standby, told by hand.

use towline_core::format::{Frame, RefusalCode};
use towline_core::node::{Event, Input, NodeConfig, Output, StartRole, TicketOutcome};
use towline_core::types::limits::{MAX_LSN, MAX_WAITS};
use towline_core::types::{
    Level, Lsn, Meta, NodeId, RegisteredStandby, SessionId, Span, StandbyWatermarks, Term, TicketId,
};

use super::probe::*;
use super::{leading, report};

/// A leader whose term's first batch is flushed, and where its log ends.
fn with_seal() -> (Probe, Span) {
    let mut primary = Probe::primary(1, Some("ANY 1 (s1)"), START.0);
    let (seal, epoch) = written(&primary.out);
    primary.welcome(0, term(1, 100), end_of(term(1, 100), START.0), 0);
    primary.adopted(0, term(1, 100));
    primary.feed(Input::Flushed { span: seal, epoch });
    assert!(primary.leads());
    (primary, seal)
}

fn safe(primary: &Probe) -> Option<u64> {
    primary.node.status().gate.safe[1].map(|safe| safe.lsn.0)
}

#[test]
fn a_standby_whose_last_batch_is_another_is_told_to_resync() {
    let (mut primary, seal) = with_seal();
    let outputs = primary.frame(0, Frame::Ready { from: seal.end, previous_hash: 4711 });
    assert!(refused(&outputs, RefusalCode::Resync), "{outputs:?}");
    report(&mut primary, 0, seal.end.0);
    assert_eq!(safe(&primary), None, "and what it reports counts for nobody");
}

#[test]
fn what_only_the_histories_call_equal_counts_once_the_standby_has_taken_what_follows() {
    // Its log ends in this very term, before the leader's end: a copy of this directory could say so, too.
    let (mut primary, seal) = with_seal();
    primary.frame(0, Frame::Ready { from: seal.start, previous_hash: 4711 });
    let mark = at(seal.start.0);
    let watermarks = StandbyWatermarks { written: mark, flushed: mark, applied: at(0) };
    let of = primary.meta.adopted;
    primary.frame(0, Frame::Report { term: of, watermarks, credit: Lsn(64 << 20), failing: false });
    assert_eq!(safe(&primary), None);
    primary.feed(Input::Sent { session: SessionId(0), span: seal });
    report(&mut primary, 0, seal.end.0);
    assert_eq!(safe(&primary), Some(seal.end.0));
}

#[test]
fn a_standby_that_lost_durable_data_counts_again_when_it_holds_it_again() {
    let mut primary = leading(START.0);
    report(&mut primary, 0, START.0);
    let shipped = Span::new(START, START.plus(4096));
    primary.feed(Input::Sent { session: SessionId(0), span: shipped });
    report(&mut primary, 0, shipped.end.0);
    let before = safe(&primary);
    assert!(before.is_some());
    primary.feed(Input::Disconnected { session: SessionId(0), error: "gone".into(), jitter: 0 });
    let adopted = primary.meta.adopted;
    primary.welcome(0, adopted, end_of(term(1, 100), START.0), 0);
    primary.frame(0, Frame::Ready { from: START, previous_hash: 0 });
    report(&mut primary, 0, START.0);
    assert_eq!(safe(&primary), None);
    primary.feed(Input::Sent { session: SessionId(0), span: shipped });
    let outputs = report(&mut primary, 0, shipped.end.0);
    assert!(has(&outputs, |output| matches!(output, Output::Event(Event::StandbyIncluded { .. }))));
    assert_eq!(safe(&primary), before);
    let status = primary.node.status();
    assert!(!status.standbys[0].excluded && !status.gate.standbys[0].excluded);
}

#[test]
fn durable_data_that_a_standby_lost_across_the_leaders_restart_is_noticed() {
    let end = START.0 + 8192;
    let restarted = |standbys: &[&str], registered_in: Term, adopted: Term, holds: u64| {
        let config = NodeConfig {
            node: NodeId(100),
            log: LOG,
            geometry: GEOMETRY,
            name: "p".into(),
            role: StartRole::Primary,
            standbys: standbys.iter().map(|name| (*name).to_owned()).collect(),
            ..NodeConfig::default()
        };
        let registered = RegisteredStandby {
            node: NodeId(1),
            name: "s1".to_owned(),
            flushed: Lsn(end),
            term: registered_in,
        };
        let meta = Meta {
            adopted: term(1, 100),
            led: Some(term(1, 100)),
            history: OLD(),
            standbys: vec![registered],
            ..Meta::default()
        };
        let rule = format!("ANY 1 ({})", standbys.join(", "));
        let mut primary = Probe::new(config, at(end), 77, Some((1, rule)), meta);
        // With one standby it is a quorum by itself, and leads before it hears of it.
        assert_eq!(primary.leads(), standbys.len() == 1);
        let outputs = primary.welcome(0, adopted, end_of(term(1, 100), holds), 0);
        has(&outputs, |output| matches!(output, Output::Event(Event::StandbyExcluded { .. })))
    };
    let (before, last) = (Term { number: 0, node: NodeId(100) }, term(1, 100));
    for standbys in [&["s1"][..], &["s1", "s2"]] {
        assert!(restarted(standbys, last, last, START.0 + 4096));
        assert!(!restarted(standbys, last, last, end), "it has all that it said");
        let text = "it followed another, which may have cut it";
        assert!(!restarted(standbys, last, term(1, 101), START.0 + 4096), "{text}");
        assert!(!restarted(standbys, before, last, START.0 + 4096), "{text}, and then this one again");
    }
}

#[test]
fn a_wait_for_what_is_not_flushed_hurries_nobody_and_one_that_can_never_end_is_refused() {
    let mut primary = Probe::primary(1, Some("ANY 1 (s1)"), START.0);
    let (seal, epoch) = written(&primary.out);
    primary.welcome(0, term(1, 100), end_of(term(1, 100), START.0), 0);
    primary.adopted(0, term(1, 100));
    primary.frame(0, Frame::Ready { from: START, previous_hash: 77 });
    primary.feed(Input::Wait { ticket: TicketId(1), lsn: MAX_LSN, level: Level::RemoteApply });
    let outputs = primary.feed(Input::Flushed { span: seal, epoch });
    let told = |output: &Output| matches!(output, Output::Frame { frame: Frame::Progress { .. }, .. });
    assert!(!has(&outputs, told), "{outputs:?}");
    let outputs =
        primary.feed(Input::Wait { ticket: TicketId(2), lsn: MAX_LSN.plus(1), level: Level::Local });
    let is_refused =
        |output: &Output| matches!(output, Output::Ack { outcome: TicketOutcome::Refused(_), .. });
    assert!(has(&outputs, is_refused), "{outputs:?}");
}

#[test]
fn waits_leave_room_for_appends() {
    let (mut primary, seal) = with_seal();
    let far = seal.end.plus(1 << 30);
    for ticket in 0..MAX_WAITS as u64 {
        primary.node.handle(Input::Wait { ticket: TicketId(ticket), lsn: far, level: Level::On });
    }
    primary.poll();
    assert_eq!(primary.node.status().gate.waiting, MAX_WAITS as u64);
    let another = Input::Wait { ticket: TicketId(1 << 20), lsn: far, level: Level::On };
    let is_refused =
        |output: &Output| matches!(output, Output::Ack { outcome: TicketOutcome::Refused(_), .. });
    assert!(has(&primary.feed(another.clone()), is_refused));
    primary.feed(Input::Cancel { ticket: TicketId(0) });
    assert!(!has(&primary.feed(another), is_refused), "one has gone");
}

#[test]
fn a_standby_is_not_trimmed_at_its_own_port() {
    let end = GEOMETRY.first_batch(2).plus(4096);
    let mut standby = Probe::standby(end.0);
    assert!(standby.node.trim_refusal().is_some());
    standby.feed(Input::Trim { below: end });
    assert_eq!(standby.meta.log_start, Lsn(0), "nothing was trimmed");
}

fn flush_all(probe: &mut Probe, mut outputs: Vec<Output>) {
    while let Some(output) = outputs.pop() {
        if let Output::Write { span, epoch } = output {
            outputs.extend(probe.feed(Input::Flushed { span, epoch }));
        }
    }
}

#[test]
fn a_leader_cannot_make_a_standby_trim_beyond_what_it_has_sent() {
    let mut standby = Probe::standby(START.0 + 4096);
    standby.hello(1, 100);
    standby.stream(1, term(1, 100), OLD(), START.0 + 8192);
    let (flushed, safe) = (START, START);
    standby.frame(1, Frame::Progress { flushed, safe, log_start: MAX_LSN });
    // Its log goes on into the second segment; the leader has trimmed nothing more.
    for seq in 1..3 {
        standby.frame(1, Frame::Segment { seq, salt: 7 });
        standby.feed(Input::SegmentReady { seq, salt: 7 });
    }
    let mut start = START.0 + 4096;
    let mut hash = 77;
    while start < GEOMETRY.segment_end(0).0 {
        let outputs = standby.receive(1, term(1, 100), start, hash);
        flush_all(&mut standby, outputs);
        (hash, start) = (start, start + 4096);
    }
    let first = GEOMETRY.first_batch(1).0;
    let outputs = standby.receive(1, term(1, 100), first, hash);
    flush_all(&mut standby, outputs);
    assert_eq!(standby.node.watermarks().flushed.lsn.0, first + 4096);
    standby.frame(1, Frame::Progress { flushed, safe, log_start: START });
    assert_eq!(standby.node.watermarks().log_start, Lsn(START.0), "{:?}", standby.meta.log_start);
}

#[test]
fn what_a_standby_had_flushed_beyond_where_a_term_begins_is_no_loss_of_its_own() {
    let (end, cut) = (START.0 + 4096, START.0 + 8192);
    let start = |meta: Meta, end: u64| {
        let config = NodeConfig {
            node: NodeId(100),
            log: LOG,
            geometry: GEOMETRY,
            name: "p".into(),
            role: StartRole::Primary,
            standbys: vec!["s1".to_owned()],
            ..NodeConfig::default()
        };
        Probe::new(config, at(end), 77, Some((1, "ANY 1 (s1)".to_owned())), meta)
    };
    let registered =
        RegisteredStandby { node: NodeId(1), name: "s1".to_owned(), flushed: Lsn(cut), term: term(1, 100) };
    let of = term(1, 100);
    let standbys = vec![registered];
    let meta = Meta { adopted: of, led: Some(of), history: OLD(), standbys, ..Meta::default() };
    // Its own log ends earlier: the term begins there, and the standby cuts what lies behind.
    let mut primary = start(meta, end);
    assert!(primary.leads());
    primary.welcome(0, of, end_of(of, cut), 0);
    primary.adopted(0, of);
    // Both go down before the standby has taken more.
    let led = primary.meta.adopted;
    let mut primary = start(primary.meta, end);
    let outputs = primary.welcome(0, led, end_of(of, end), 0);
    let excluded = |output: &Output| matches!(output, Output::Event(Event::StandbyExcluded { .. }));
    assert!(!has(&outputs, excluded), "{outputs:?}");
}

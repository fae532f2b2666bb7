//! One claim per test: a single node, told by hand what the others say.

mod counting;
mod probe;
mod trimming;
mod writing;

use towline_core::format::{BatchKind, Frame, LogEnd, RefusalCode};
use towline_core::node::{Event, Input, NodeConfig, Output, StartRole};
use towline_core::types::{
    Level, Lsn, Meta, NodeId, RegisteredStandby, SessionId, Span, StandbyWatermarks, Term, TicketId,
};

use probe::*;

#[test]
fn of_two_terms_with_one_number_only_the_higher_node_streams() {
    let mut standby = Probe::standby(START.0);
    standby.hello(1, 100);
    standby.hello(2, 101);
    let end = end_of(term(1, 100), START.0);
    standby.frame(1, Frame::Adopt { term: term(2, 100), end });
    assert_eq!(standby.meta.adopted, term(2, 100));
    assert!(says_adopted(&standby.frame(2, Frame::Adopt { term: term(2, 101), end })));
    assert_eq!(standby.meta.adopted, term(2, 101));
    let entry = history(&[(term(1, 100), START.0), (term(2, 100), START.0)]);
    assert!(refused(&standby.stream(1, term(2, 100), entry, START.0), RefusalCode::StaleTerm));
}

#[test]
fn an_adoption_waits_for_the_flush_of_what_was_received() {
    let mut standby = Probe::standby(START.0);
    standby.hello(1, 100);
    standby.stream(1, term(1, 100), OLD(), START.0 + 8192);
    let outputs = standby.receive(1, term(1, 100), START.0, 0);
    let (span, epoch) = written(&outputs);
    standby.hello(2, 101);
    let behind = standby.frame(2, Frame::Adopt { term: term(2, 101), end: end_of(term(1, 100), START.0) });
    assert!(!says_adopted(&behind), "bytes in flight make this log longer");
    assert_eq!(standby.meta.adopted, term(1, 100));
    let outputs = standby.feed(Input::Flushed { span, epoch });
    let is_not_adopted = |output: &Output| matches!(output, Output::Frame { frame: Frame::NotAdopted { end, .. }, .. } if end.flushed == span.end);
    assert!(has(&outputs, is_not_adopted), "and now it is ahead");
    let longer = end_of(term(1, 100), span.end.0);
    assert!(says_adopted(&standby.frame(2, Frame::Adopt { term: term(2, 101), end: longer })));
}

#[test]
fn a_leader_does_not_step_down_for_a_term_that_its_writes_in_flight_will_refuse() {
    let mut primary = Probe::primary(1, Some("ANY 1 (s1)"), START.0);
    let (span, epoch) = written(&primary.out);
    let own = primary.meta.adopted;
    primary.hello(9, 101);
    let asked = Frame::Adopt { term: term(7, 101), end: end_of(own, START.0) };
    let answers = |output: &Output| {
        matches!(output, Output::Frame { frame: Frame::NotAdopted { .. } | Frame::Adopted { .. }, .. })
    };
    assert!(!has(&primary.frame(9, asked.clone()), answers), "its own end is not known yet");
    assert!(primary.leads());
    let outputs = primary.feed(Input::Flushed { span, epoch });
    let refuses = |output: &Output| matches!(output, Output::Frame { frame: Frame::NotAdopted { end, .. }, .. } if end.flushed == span.end);
    assert!(has(&outputs, refuses) && primary.leads(), "{outputs:?}");
    let longer = Frame::Adopt { term: term(7, 101), end: end_of(own, span.end.0) };
    assert!(says_adopted(&primary.frame(9, longer)) && !primary.leads(), "who has it all may depose it");
}

#[test]
fn an_adoption_is_said_only_when_it_is_durable_to_whomever_asks() {
    let mut standby = Probe::standby(START.0);
    standby.hello(1, 100);
    standby.slow_meta = true;
    let adopt = Frame::Adopt { term: term(2, 100), end: end_of(term(1, 100), START.0) };
    assert!(!says_adopted(&standby.frame(1, adopt.clone())));
    standby.hello(2, 100);
    assert!(!says_adopted(&standby.frame(2, adopt)), "asked again, it is no more durable than before");
    let sequence = standby.meta.sequence;
    standby.slow_meta = false;
    assert!(says_adopted(&standby.feed(Input::MetaWritten { sequence })));
}

#[test]
fn a_batch_that_does_not_follow_ends_the_session() {
    let mut standby = Probe::standby(START.0 + 4096);
    standby.hello(1, 100);
    standby.stream(1, term(1, 100), OLD(), START.0 + 8192);
    let outputs = standby.receive(1, term(1, 100), START.0 + 4096, 78);
    assert!(refused(&outputs, RefusalCode::Resync) && !halted(&outputs));
    let writes = |output: &Output| matches!(output, Output::Write { .. });
    assert!(!has(&standby.feed(Input::Tick { now_ns: 2 }), writes), "nothing of it is taken");
}

#[test]
fn a_batch_of_a_term_that_does_not_own_its_place_ends_the_session() {
    let mut standby = Probe::standby(START.0 + 4096);
    standby.hello(1, 100);
    standby.stream(1, term(1, 100), OLD(), START.0 + 8192);
    let outputs = standby.receive(1, term(0, 100), START.0 + 4096, 77);
    assert!(has(&outputs, |output| matches!(output, Output::Close { .. })) && !halted(&outputs));
}

#[test]
fn a_newer_session_of_a_node_ends_its_older_one() {
    let mut standby = Probe::standby(START.0);
    standby.hello(1, 100);
    standby.stream(1, term(1, 100), OLD(), START.0);
    let outputs = standby.hello(2, 100);
    assert!(has(&outputs, |output| matches!(output, Output::Close { session: SessionId(1), .. })));
    let late = standby.receive(1, term(1, 100), START.0, 0);
    assert!(late.is_empty(), "what the older one still sends is not taken");
    let of = |session| Input::Frame { session: SessionId(session), frame: Frame::FetchEnd { end: START } };
    assert!(!standby.node.hears(&of(1)) && standby.node.hears(&of(2)), "and it says so");
    assert_eq!(standby.node.watermarks().end.lsn, START);
}

#[test]
fn a_standby_too_far_behind_is_told_to_resync() {
    let mut standby = Probe::standby(START.0 + 4096);
    standby.hello(1, 100);
    let log_start = GEOMETRY.first_batch(1);
    let frame = Frame::Stream {
        term: term(1, 100),
        history: OLD(),
        log_start,
        log_end: log_start.plus(4096),
        set_size: 2,
    };
    assert!(refused(&standby.frame(1, frame), RefusalCode::Resync));
}

#[test]
fn a_cut_is_recorded_with_the_history_that_asks_for_it_and_a_late_write_marks_nothing() {
    let mut standby = Probe::standby(START.0);
    standby.hello(1, 100);
    standby.stream(1, term(1, 100), OLD(), START.0);
    let outputs = standby.receive(1, term(1, 100), START.0, 0);
    let (first, old) = written(&outputs);
    standby.feed(Input::Flushed { span: first, epoch: old });
    let end = end_of(term(1, 100), START.0 + 4096);
    standby.hello(2, 101);
    standby.frame(2, Frame::Adopt { term: term(2, 101), end });
    let forked = history(&[(term(1, 100), START.0), (term(2, 101), START.0)]);
    let outputs = standby.stream(2, term(2, 101), forked.clone(), START.0);
    let recorded = outputs.iter().position(|output| {
        matches!(output, Output::WriteMeta { meta } if meta.history == forked
            && meta.reported <= START && meta.unfinished.iter().any(|span| span.start <= START))
    });
    let cut = outputs.iter().position(|output| matches!(output, Output::Truncate { to, .. } if *to == START));
    assert!(recorded.is_some() && recorded < cut, "{outputs:?}");
    assert!(!has(&outputs, |output| matches!(output, Output::Frame { frame: Frame::Report { .. }, .. })));
    standby.feed(Input::Truncated { end: at(START.0), previous_hash: 0 });
    let outputs = standby.receive(2, term(2, 101), START.0, 0);
    let (again, epoch) = written(&outputs);
    assert_eq!(again, first);
    standby.feed(Input::Flushed { span: first, epoch: old });
    assert_eq!(standby.node.watermarks().flushed.lsn, START, "a completion of the old epoch");
    standby.feed(Input::Flushed { span: first, epoch });
    assert_eq!(standby.node.watermarks().flushed.lsn, first.end);
}

#[test]
fn a_condemned_tail_is_no_log_end() {
    let mut standby = Probe::standby(START.0 + 8192);
    standby.hello(2, 101);
    standby.frame(2, Frame::Adopt { term: term(2, 101), end: end_of(term(2, 101), START.0 + 4096) });
    let forked = history(&[(term(1, 100), START.0), (term(2, 101), START.0 + 4096)]);
    standby.stream(2, term(2, 101), forked, START.0 + 4096);
    assert_eq!(standby.meta.reported.0, START.0 + 4096, "nor a word on what is durable");
    let outputs = standby.hello(3, 102);
    let honest = |output: &Output| matches!(output, Output::Frame { frame: Frame::Welcome(welcome), .. } if welcome.end.flushed == Lsn(START.0 + 4096));
    assert!(has(&outputs, honest), "{outputs:?}");
}

#[test]
fn with_no_rule_a_restart_needs_nobody() {
    assert!(Probe::primary(2, None, START.0).leads());
}

#[test]
fn a_log_without_a_rule_that_another_led_may_end_before_the_first_one() {
    let config = NodeConfig {
        node: NodeId(50),
        log: LOG,
        geometry: GEOMETRY,
        role: StartRole::Primary,
        standbys: vec!["s1".into(), "s2".into(), "s3".into()],
        ..NodeConfig::default()
    };
    let meta = Meta { adopted: term(1, 100), history: OLD(), set_size: 3, ..Meta::default() };
    let mut primary = Probe::new(config, at(START.0), 77, None, meta);
    assert!(!primary.leads(), "what lies behind its end may hold a rule, and acknowledged records");
    for peer in [0, 1] {
        assert!(!primary.leads());
        primary.welcome(peer, term(1, 100), end_of(term(1, 100), START.0), 0);
        primary.adopted(peer, term(1, 100));
    }
    assert!(primary.leads(), "no rule asks for less than one standby: all but one have adopted");
}

#[test]
fn a_restart_needs_a_quorum_or_k_that_followed_its_last_term() {
    let rule = Some("ANY 1 (s1, s2, s3)");
    let end = end_of(term(1, 100), START.0);
    let mut primary = Probe::primary(3, rule, START.0);
    assert!(!primary.leads());
    primary.welcome(0, term(1, 100), end, 0);
    primary.adopted(0, term(0, 5));
    assert!(!primary.leads(), "k acknowledgements alone prove nothing");
    primary.adopted(0, term(0, 5));
    assert!(!primary.leads(), "one node counts once");
    primary.welcome(1, term(1, 100), end, 0);
    primary.adopted(1, term(0, 5));
    assert!(primary.leads(), "n - k + 1 nodes have adopted");
    let mut primary = Probe::primary(3, rule, START.0);
    primary.welcome(0, term(1, 100), end, 0);
    primary.adopted(0, term(1, 100));
    assert!(primary.leads(), "k standbys last followed this very term");
}

#[test]
fn an_empty_node_counts_in_a_restart_only_with_all_the_others() {
    let (rule, end) = (Some("ANY 1 (s1, s2)"), end_of(term(1, 100), START.0 + 4096));
    let with_one_empty = || {
        let mut primary = Probe::primary(2, rule, START.0 + 4096);
        primary.welcome_of(0, Term::default(), LogEnd::default(), 0, 0);
        primary.adopted(0, Term::default());
        assert!(!primary.leads(), "its lost disk may have acknowledged what only the other one still has");
        primary
    };
    let mut primary = with_one_empty();
    primary.welcome(1, term(1, 100), end, 0);
    primary.adopted(1, term(0, 5));
    assert!(primary.leads(), "one that has its log is enough");
    let mut primary = with_one_empty();
    primary.welcome_of(1, Term::default(), LogEnd::default(), 0, 0);
    primary.adopted(1, Term::default());
    assert!(primary.leads(), "nobody is left who could hold more");
}

#[test]
fn a_primary_that_lost_what_it_had_flushed_must_not_lead() {
    let mut primary = Probe::primary(2, Some("ANY 1 (s1, s2)"), START.0 + 4096);
    let outputs = primary.welcome(0, term(1, 100), end_of(term(1, 100), START.0 + 8192), START.0 + 8192);
    assert!(halted(&outputs), "{outputs:?}");
    assert!(!primary.leads());
}

#[test]
fn who_has_adopted_another_s_term_since_it_led_is_not_proven_right_by_k_that_have_not() {
    // Another led with its adoption, and may have acknowledged with one of those that are silent now.
    let leads = |adopted: Term| {
        let config = NodeConfig { role: StartRole::Primary, ..Probe::config(100, 4) };
        let meta = Meta { adopted, led: Some(term(1, 100)), history: OLD(), ..Meta::default() };
        let rule = Some((1, "ANY 1 (*)".to_owned()));
        let mut primary = Probe::new(config, at(START.0), 77, rule, meta);
        primary.welcome(0, term(1, 100), end_of(term(1, 100), START.0), 0);
        primary.adopted(0, term(1, 100));
        (primary.leads(), primary.meta)
    };
    assert!(leads(term(1, 100)).0, "nobody can have led since");
    let (has_led, meta) = leads(term(2, 101));
    assert!(!has_led && meta.adopted.node == NodeId(100), "its own new term hides the adoption");
    assert!(meta.led.is_some_and(|led| led != term(1, 100)), "and the directory does not forget it");
}

#[test]
fn what_is_left_of_a_claim_below_a_fork_is_its_own_node_s() {
    let (fork, end) = (START.0 + 4096, START.0 + 8192);
    // Node 101 led from the fork on, and said that it has flushed all of it; another led beside it from there.
    let here = history(&[(term(1, 100), START.0), (term(2, 101), fork)]);
    let mut standby = Probe::standby(fork);
    standby.hello(1, 101);
    standby.frame(1, Frame::Adopt { term: term(2, 101), end: end_of(term(2, 101), end) });
    standby.stream(1, term(2, 101), here, end);
    let flushed = Lsn(end);
    standby.frame(1, Frame::Progress { flushed, safe: flushed, log_start: START });
    standby.hello(2, 102);
    let there = history(&[(term(1, 100), START.0), (term(3, 102), fork)]);
    let ahead = end_of(term(3, 102), end);
    standby.frame(2, Frame::Adopt { term: term(3, 102), end: ahead });
    standby.stream(2, term(3, 102), there, end);
    let claims = |outputs: &[Output]| {
        outputs.iter().find_map(|output| match output {
            Output::Frame { frame: Frame::Welcome(welcome), .. } => Some(welcome.leader_flushed),
            _ => None,
        })
    };
    assert_eq!(
        claims(&standby.hello(3, 103)),
        Some(Lsn(0)),
        "of its own bytes below the fork there are none"
    );
}

#[test]
fn a_claim_of_a_term_that_was_cut_off_whole_is_no_loss_to_the_directory_that_led_it() {
    let start = START.0 + 4096;
    let claims = history(&[(term(1, 100), START.0), (term(2, 100), start)]);
    // Node 101 had its log cut to where term 2 began, and nothing of node 101's term came.
    let halts = |adopted, led, overruled| {
        let config = NodeConfig { role: StartRole::Primary, ..Probe::config(100, 2) };
        let meta = Meta { adopted, led: Some(led), overruled, history: OLD(), ..Meta::default() };
        let mut primary = Probe::new(config, at(start), 77, Some((1, "ANY 1 (s1, s2)".to_owned())), meta);
        halted(&primary.welcome_with(
            0,
            term(2, 100),
            end_of(term(2, 100), start + 4096),
            start + 4096,
            claims.clone(),
        ))
    };
    let (another, own) = (term(3, 101), term(5, 100));
    assert!(
        !halts(another, term(2, 100), Term::default()),
        "it led that term, and another came in its place"
    );
    assert!(!halts(own, own, term(2, 100)), "and has led again since");
    assert!(halts(another, term(1, 100), Term::default()), "an older copy of the directory");
    assert!(halts(own, own, term(1, 100)), "that has led again since");
}

#[test]
fn a_claim_that_lies_before_a_pruned_history_is_nobodys() {
    let mut primary = Probe::primary(2, Some("ANY 1 (s1, s2)"), START.0 + 4096);
    // Node 101 claimed that after node 100, whose log was cut there; node 102 has led since and trimmed both.
    let pruned = history(&[(term(3, 102), START.0 + 12288)]);
    let end = end_of(term(3, 102), START.0 + 16384);
    assert!(!halted(&primary.welcome_with(0, term(3, 102), end, START.0 + 8192, pruned)));
}

#[test]
fn a_tail_that_a_standby_holds_is_fetched_and_flushed_before_the_term_starts() {
    let mut primary = Probe::primary(2, Some("ANY 1 (s1, s2)"), START.0 + 4096);
    let ahead = end_of(term(1, 100), START.0 + 8192);
    primary.welcome(0, term(1, 100), ahead, START.0 + 4096);
    let outputs = primary.frame(0, Frame::NotAdopted { adopted: term(1, 100), end: ahead, history: OLD() });
    let fetches = |output: &Output| matches!(output, Output::Frame { frame: Frame::Fetch { from }, .. } if from.0 == START.0 + 4096);
    assert!(has(&outputs, fetches));
    let outputs = primary.receive(0, term(1, 100), START.0 + 4096, 77);
    let asks = |output: &Output| matches!(output, Output::Frame { frame: Frame::Adopt { .. }, .. });
    assert!(!has(&primary.frame(0, Frame::FetchEnd { end: ahead.flushed }), asks), "not flushed yet");
    let (span, epoch) = written(&outputs);
    assert!(has(&primary.feed(Input::Flushed { span, epoch }), asks));
    primary.adopted(0, term(1, 100));
    assert!(primary.leads());
    let start = primary.meta.history.last().map(|entry| entry.start);
    assert_eq!(start, Some(ahead.flushed), "the term starts behind the fetched tail");
}

#[test]
fn a_term_that_was_superseded_while_it_was_recorded_does_not_lead() {
    let mut primary = Probe::primary(2, Some("ANY 1 (s1, s2)"), START.0);
    primary.welcome(0, term(1, 100), end_of(term(1, 100), START.0), 0);
    primary.slow_meta = true;
    primary.adopted(0, term(1, 100));
    let sequence = primary.meta.sequence;
    assert!(!primary.leads(), "its start is not durable");
    primary.hello(9, 101);
    primary.frame(9, Frame::Adopt { term: term(7, 101), end: end_of(term(6, 101), START.0) });
    primary.slow_meta = false;
    primary.feed(Input::MetaWritten { sequence });
    assert!(!primary.leads());
}

#[test]
fn a_primary_that_learns_late_that_it_lost_flushed_bytes_stops_leading() {
    // n = 1, k = 1: it is a quorum by itself, and hears of its loss only when it leads.
    let mut primary = Probe::primary(1, Some("ANY 1 (s1)"), START.0 + 4096);
    assert!(primary.leads());
    let ahead = end_of(term(1, 100), START.0 + 8192);
    assert!(halted(&primary.welcome(0, term(1, 100), ahead, START.0 + 8192)));
}

/// A leader with standby 0 in session 0, streaming from `from`.
fn leading(from: u64) -> Probe {
    let mut primary = Probe::primary(1, Some("ANY 1 (s1)"), START.0 + 4096);
    primary.welcome(0, term(1, 100), end_of(term(1, 100), from), 0);
    primary.adopted(0, term(1, 100));
    primary.adopted(0, Term::default());
    primary.frame(0, Frame::Ready { from: Lsn(from), previous_hash: 0 });
    assert!(primary.leads());
    primary
}

fn report(primary: &mut Probe, session: u64, flushed: u64) -> Vec<Output> {
    let mark = at(flushed);
    let watermarks = StandbyWatermarks { written: mark, flushed: mark, applied: at(0) };
    let term = primary.meta.adopted;
    let credit = Lsn(64 << 20);
    primary.frame(session, Frame::Report { term, watermarks, credit, failing: false })
}

#[test]
fn a_report_counts_only_from_the_start_of_the_leaders_term() {
    let mut primary = Probe::primary(1, Some("ANY 1 (s1)"), START.0 + 8192);
    let (seal, _) = written(&primary.out);
    primary.welcome(0, term(1, 100), end_of(term(1, 100), START.0), 0);
    primary.adopted(0, term(1, 100));
    primary.adopted(0, Term::default());
    primary.frame(0, Frame::Ready { from: START, previous_hash: 0 });
    report(&mut primary, 0, START.0);
    primary.feed(Input::Sent { session: SessionId(0), span: Span::new(START, seal.start) });
    // It has taken a batch: its log is this one, as far as it goes.
    report(&mut primary, 0, START.0 + 4096);
    assert_eq!(primary.node.status().gate.safe[1], None, "below the term's start");
    primary.feed(Input::Sent { session: SessionId(0), span: seal });
    report(&mut primary, 0, seal.end.0);
    assert_eq!(primary.node.status().gate.safe[1].map(|safe| safe.lsn), Some(seal.end));
}

#[test]
fn what_is_not_flushed_here_is_acknowledged_at_no_level_although_standbys_are_ahead() {
    let mut primary = Probe::primary(1, Some("ANY 1 (s1)"), START.0 + 4096);
    let (seal, epoch) = written(&primary.out);
    primary.welcome(0, term(1, 100), end_of(term(1, 100), START.0), 0);
    primary.adopted(0, term(1, 100));
    primary.adopted(0, Term::default());
    primary.frame(0, Frame::Ready { from: START, previous_hash: 0 });
    report(&mut primary, 0, START.0);
    for span in [Span::new(START, seal.start), seal] {
        primary.feed(Input::Sent { session: SessionId(0), span });
    }
    report(&mut primary, 0, seal.end.0);
    assert_eq!(primary.node.status().gate.safe[1].map(|safe| safe.lsn), Some(seal.end));
    primary.feed(Input::Tick { now_ns: 10_000_000_000 });
    assert!(primary.meta.acknowledged <= seal.start, "a crash may still take it: {:?}", primary.meta);
    primary.feed(Input::Flushed { span: seal, epoch });
    primary.feed(Input::Tick { now_ns: 20_000_000_000 });
    assert_eq!(primary.meta.acknowledged, seal.end);
}

#[test]
fn a_standby_without_an_application_hears_at_once_what_is_flushed_while_somebody_waits_at_remote_apply() {
    for level in [Level::On, Level::RemoteApply] {
        let mut primary = Probe::primary(1, Some("ANY 1 (s1)"), START.0);
        let (seal, epoch) = written(&primary.out);
        primary.welcome(0, term(1, 100), end_of(term(1, 100), START.0), 0);
        primary.adopted(0, term(1, 100));
        primary.frame(0, Frame::Ready { from: START, previous_hash: 0 });
        primary.feed(Input::Wait { ticket: TicketId(1), lsn: seal.end, level });
        let outputs = primary.feed(Input::Flushed { span: seal, epoch });
        let told = |output: &Output| matches!(output, Output::Frame { frame: Frame::Progress { flushed, .. }, .. } if *flushed == seal.end);
        assert_eq!(has(&outputs, told), level == Level::RemoteApply, "{level}: {outputs:?}");
    }
}

#[test]
fn a_standby_that_lost_durable_data_no_longer_counts() {
    let mut primary = leading(START.0);
    report(&mut primary, 0, START.0);
    primary.feed(Input::Sent { session: SessionId(0), span: Span::new(START, START.plus(4096)) });
    report(&mut primary, 0, START.0 + 4096);
    assert!(primary.node.status().gate.safe[1].is_some());
    primary.feed(Input::Disconnected { session: SessionId(0), error: "gone".into(), jitter: 0 });
    let adopted = primary.meta.adopted;
    primary.welcome(0, adopted, end_of(term(1, 100), START.0), 0);
    let outputs = primary.frame(0, Frame::Ready { from: START, previous_hash: 0 });
    assert!(has(&outputs, |output| matches!(output, Output::Event(Event::StandbyExcluded { .. }))));
    report(&mut primary, 0, START.0);
    let status = primary.node.status();
    assert_eq!(status.gate.safe[1], None);
    assert!(status.standbys[0].excluded && status.gate.standbys[0].excluded);
}

#[test]
fn a_standby_that_must_resync_is_shown_so_until_it_comes_back_with_a_log_that_goes_on() {
    let state = |primary: &Probe| primary.node.status().standbys[0].state.clone();
    let mut primary = Probe::primary(1, Some("ANY 1 (s1)"), START.0 + 4096);
    primary.welcome(0, term(1, 100), end_of(term(1, 100), START.0), 0);
    primary.adopted(0, Term::default());
    let message = "the sender's log starts beyond this one".to_owned();
    primary.frame(0, Frame::Refused { code: RefusalCode::Resync, message });
    primary.feed(Input::Disconnected { session: SessionId(0), error: "closed".into(), jitter: 0 });
    assert_eq!(state(&primary), "must resync");
    let adopted = primary.meta.adopted;
    primary.welcome(0, adopted, end_of(term(1, 100), START.0), 0);
    primary.frame(0, Frame::Ready { from: START, previous_hash: 0 });
    assert_ne!(state(&primary), "must resync");
}

#[test]
fn a_segment_is_closed_only_when_the_next_is_in_place() {
    let rolls = |outputs: &[Output]| {
        has(outputs, |o| matches!(o, Output::PutHeader { header } if header.kind == BatchKind::Roll))
    };
    // The first batch of the term takes one block more, and what is left holds no batch.
    let end = GEOMETRY.segment_end(0).0 - 2 * 4096;
    let mut primary = Probe::primary(0, None, end);
    assert!(has(&primary.out, |o| matches!(o, Output::PutHeader { .. })), "it leads: {:?}", primary.out);
    assert!(!rolls(&primary.out), "the log could not go on");
    assert!(!rolls(&primary.feed(Input::Tick { now_ns: 1_000_000 })));
    let outputs = primary.feed(Input::SegmentReady { seq: 1, salt: 8 });
    assert!(rolls(&outputs), "{outputs:?}");
}

#[test]
fn a_trim_leaves_what_a_registered_standby_still_needs() {
    // A log that ends in its fourth segment, and a trim of all of it.
    let end = GEOMETRY.first_batch(3).plus(4096);
    let trimmed = |flushed: u64, hold_bytes: u64| {
        let config = NodeConfig {
            node: NodeId(100),
            log: LOG,
            geometry: GEOMETRY,
            name: "p".into(),
            role: StartRole::Primary,
            standbys: vec!["s1".to_owned()],
            hold_bytes,
            ..NodeConfig::default()
        };
        let registered = RegisteredStandby {
            node: NodeId(1),
            name: "s1".to_owned(),
            flushed: Lsn(flushed),
            term: term(1, 100),
        };
        let meta = Meta {
            adopted: term(1, 100),
            led: Some(term(1, 100)),
            history: history(&[(term(1, 100), START.0)]),
            standbys: vec![registered],
            ..Meta::default()
        };
        let rule = Some((1, "ANY 1 (s1)".to_owned()));
        let mut primary = Probe::new(config, at(end.0), 77, rule, meta);
        for seq in 1..5 {
            primary.feed(Input::SegmentReady { seq, salt: 7 });
        }
        assert!(primary.leads());
        primary.feed(Input::Trim { below: end });
        primary
    };
    let behind = GEOMETRY.first_batch(1).plus(8192);
    let mut primary = trimmed(behind.0, u64::MAX);
    assert_eq!(primary.meta.log_start, GEOMETRY.first_batch(1), "the standby's segment stays");
    assert_eq!(trimmed(end.0, u64::MAX).meta.log_start, GEOMETRY.first_batch(3), "it needs nothing any more");
    assert_eq!(trimmed(behind.0, 4096).meta.log_start, GEOMETRY.first_batch(3), "past the limit it resyncs");

    // It comes, and moves on: so does the trim.
    primary.welcome(0, term(1, 100), end_of(term(1, 100), behind.0), 0);
    primary.adopted(0, term(1, 100));
    primary.adopted(0, Term::default());
    primary.frame(0, Frame::Ready { from: behind, previous_hash: 0 });
    let mut starts = vec![primary.meta.log_start];
    let mut outputs = report(&mut primary, 0, behind.0);
    while let Some(span) = outputs.iter().find_map(|output| match output {
        Output::Send { span, .. } => Some(*span),
        _ => None,
    }) {
        outputs = primary.feed(Input::Sent { session: SessionId(0), span });
        starts.push(primary.meta.log_start);
        report(&mut primary, 0, span.end.0);
        starts.push(primary.meta.log_start);
    }
    starts.dedup();
    assert_eq!(starts, [1, 2, 3].map(|seq| GEOMETRY.first_batch(seq)));
}

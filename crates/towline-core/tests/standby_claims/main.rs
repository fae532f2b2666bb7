//! Claims about a single node that random worlds do not notice, or once found broken: what it may show to readers,
//! which term it calls its last, what it lost and what was cut, who degrades, what is recorded before it is written.

#![allow(clippy::unwrap_used)]

mod changed_leader;

use towline_core::format::{BatchHeader, BatchKind, Frame, Hello, HelloRole, LogEnd, RefusalCode, Welcome};
use towline_core::log::Recovered;
use towline_core::node::{Event, Input, Node, NodeConfig, Output, PromoteRequest, StartRole};
use towline_core::replication::Unmet;
use towline_core::types::{
    Geometry, LogId, Lsn, Meta, NodeId, PeerIndex, Position, SessionId, Span, Term, TermHistory, TermStart,
};

const LOG: LogId = LogId([9; 16]);
const GEOMETRY: Geometry = Geometry { segment_bytes: 8 << 20, in_flight_bytes: 16 << 20 };
const START: Lsn = Lsn(8192);
const UPSTREAM: SessionId = SessionId(1);

fn term(number: u64, node: u64) -> Term {
    Term { number, node: NodeId(node) }
}

fn history(entries: &[(Term, Lsn)]) -> TermHistory {
    let entries: Vec<TermStart> =
        entries.iter().map(|(term, start)| TermStart { term: *term, start: *start }).collect();
    TermHistory::from_entries(&entries).unwrap()
}

/// A standby whose meta writes are durable at once.
struct Standby(Node);

impl Standby {
    /// Its log of term 1, which node 100 led, ends at `end`.
    fn new(end: Lsn, history: TermHistory, change: impl Fn(&mut NodeConfig, &mut Recovered)) -> Standby {
        let mut config = NodeConfig {
            node: NodeId(1),
            log: LOG,
            geometry: GEOMETRY,
            name: "s1".into(),
            ..NodeConfig::default()
        };
        let mut recovered = Recovered {
            end: Position { lsn: end, ..Position::default() },
            previous_hash: if end > START { 77 } else { 0 },
            segments: vec![(0, 7)],
            ..Recovered::default()
        };
        change(&mut config, &mut recovered);
        let meta = Meta { adopted: term(1, 100), history, ..Meta::default() };
        let mut standby = Standby(Node::new(config, recovered, meta));
        standby.poll();
        standby
    }

    fn poll(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.0.poll_output() {
            if let Output::WriteMeta { meta } = &output {
                self.0.handle(Input::MetaWritten { sequence: meta.sequence });
            }
            outputs.push(output);
        }
        outputs
    }

    fn feed(&mut self, input: Input) -> Vec<Output> {
        self.0.handle(input);
        self.poll()
    }

    fn frame(&mut self, frame: Frame) -> Vec<Output> {
        self.feed(Input::Frame { session: UPSTREAM, frame })
    }

    fn hello(&mut self, node: u64) {
        self.hello_of(node, LOG, GEOMETRY);
    }

    fn hello_of(&mut self, node: u64, log: LogId, geometry: Geometry) -> Vec<Output> {
        self.feed(Input::Accepted { session: UPSTREAM });
        self.frame(Frame::Hello(Hello {
            versions: (1, 1),
            role: HelloRole::Upstream,
            shard: 0,
            log,
            geometry,
            node: NodeId(node),
            name: format!("n{node}"),
            nonce: 1,
            adopted: term(1, 100),
            end: LogEnd::default(),
        }))
    }

    /// Node 100 streams its log of one batch.
    fn follow(&mut self) {
        self.hello(100);
        let (log_start, log_end) = (START, START.plus(4096));
        let history = history(&[(term(1, 100), START)]);
        self.frame(Frame::Stream { term: term(1, 100), history, log_start, log_end, set_size: 2 });
    }

    /// Receives a batch of one block at the log's start.
    fn receive_one(&mut self) -> Vec<Output> {
        let end = START.plus(4096);
        let header = BatchHeader {
            kind: BatchKind::Data,
            log: LOG,
            term: term(1, 100),
            start: START,
            end,
            body_bytes: 0,
            records: 0,
            payload_bytes: 0,
            records_before: 0,
            payload_before: 0,
            durable_before: Lsn(0),
            previous_hash: 0,
            body_crc: 0,
        };
        self.feed(Input::Received { session: UPSTREAM, header, hash: 5, rules: Vec::new() })
    }

    /// Flushes what it writes.
    fn flush(&mut self, outputs: &[Output]) -> Vec<Output> {
        let write = outputs.iter().find_map(|output| match output {
            Output::Write { span, epoch } => Some((*span, *epoch)),
            _ => None,
        });
        let (span, epoch) = write.unwrap();
        assert_eq!(span, Span::new(START, START.plus(4096)));
        self.feed(Input::Flushed { span, epoch })
    }

    fn told(&mut self, flushed: Lsn, safe: Lsn) -> Option<Lsn> {
        let outputs = self.frame(Frame::Progress { flushed, safe, log_start: START });
        // Up to the log's start there is nothing to see.
        outputs.iter().find_map(|output| match output {
            Output::Apply { upto } => Some(*upto).filter(|upto| *upto > START),
            _ => None,
        })
    }
}

fn applying(apply_safe: bool) -> Standby {
    let own = history(&[(term(1, 100), START)]);
    let mut standby = Standby::new(START, own, |config, _| {
        config.applies = true;
        config.apply_safe = apply_safe;
    });
    standby.follow();
    let outputs = standby.receive_one();
    standby.flush(&outputs);
    standby
}

/// Written and flushed, as last reported.
fn reported(outputs: &[Output]) -> Option<(Lsn, Lsn)> {
    outputs.iter().rev().find_map(|output| match output {
        Output::Frame { frame: Frame::Report { watermarks, .. }, .. } => {
            Some((watermarks.written.lsn, watermarks.flushed.lsn))
        }
        _ => None,
    })
}

#[test]
fn a_reader_sees_what_both_have_flushed_and_with_apply_safe_only_what_the_rule_made_safe() {
    let end = START.plus(4096);
    let mut plain = applying(false);
    assert_eq!(plain.told(START, START), None, "the leader has not flushed it");
    assert_eq!(plain.told(end, START), Some(end), "safe or not");
    let mut safe = applying(true);
    assert_eq!(safe.told(end, START), None, "a failover could still take it back");
    assert_eq!(safe.told(end, end), Some(end));
}

#[test]
fn a_history_entry_beyond_the_end_of_the_log_is_not_its_last_term() {
    // It had recorded that term 2 starts at 16384, and never received a byte of it.
    let recorded = history(&[(term(1, 100), START), (term(2, 100), START.plus(8192))]);
    let mut standby = Standby::new(START.plus(4096), recorded, |_, _| {});
    standby.hello(101);
    let longer = LogEnd { last_term: term(1, 100), flushed: START.plus(8192) };
    let outputs = standby.frame(Frame::Adopt { term: term(3, 101), end: longer });
    let is_adopted = |output: &Output| matches!(output, Output::Frame { frame: Frame::Adopted { end, .. }, .. } if end.last_term == term(1, 100));
    assert!(outputs.iter().any(is_adopted), "a longer log of term 1 is not behind: {outputs:?}");
}

#[test]
fn written_is_what_a_killed_process_would_find_again() {
    let end = START.plus(4096);
    let standby = |outlives: bool, has_segment: bool| {
        let mut standby = Standby::new(START, history(&[(term(1, 100), START)]), |config, recovered| {
            config.arena_outlives = outlives;
            if !has_segment {
                recovered.segments.clear();
            }
        });
        standby.follow();
        standby
    };
    let mut shared = standby(true, true);
    let outputs = shared.receive_one();
    assert_eq!(reported(&outputs), Some((end, START)), "in shared memory, and its segment is in place");
    assert_eq!(reported(&shared.flush(&outputs)), Some((end, end)));
    let mut private = standby(false, true);
    let outputs = private.receive_one();
    assert!(reported(&outputs).is_none_or(|(written, _)| written == START), "{outputs:?}");
    assert_eq!(reported(&private.flush(&outputs)), Some((end, end)));
    let outputs = standby(true, false).receive_one();
    let is_kept = reported(&outputs).is_none_or(|(written, _)| written == START);
    assert!(is_kept, "without its segment's salt it could not be taken over: {outputs:?}");
}

fn refusal(outputs: &[Output]) -> Option<RefusalCode> {
    outputs.iter().find_map(|output| match output {
        Output::Frame { frame: Frame::Refused { code, .. }, .. } => Some(*code),
        _ => None,
    })
}

#[test]
fn an_empty_standby_takes_no_log_that_cannot_be() {
    let empty = || Standby::new(Lsn(0), TermHistory::default(), |config, _| config.log = LogId::default());
    let takes = |outputs: &[Output]| outputs.iter().any(|output| matches!(output, Output::AdoptLog { .. }));
    for (segment_bytes, in_flight_bytes) in [(0, 0), (8 << 20, 0), (12 << 20, 16 << 20), (8 << 20, u64::MAX)]
    {
        let geometry = Geometry { segment_bytes, in_flight_bytes };
        let outputs = empty().hello_of(100, LOG, geometry);
        assert_eq!(refusal(&outputs), Some(RefusalCode::OtherGeometry), "{geometry:?}: {outputs:?}");
        assert!(!takes(&outputs));
    }
    let outputs = empty().hello_of(100, LogId::default(), GEOMETRY);
    assert_eq!(refusal(&outputs), Some(RefusalCode::OtherLog), "{outputs:?}");
    assert!(takes(&empty().hello_of(100, LOG, GEOMETRY)));
}

#[test]
fn a_tail_is_fetched_from_where_a_batch_can_begin() {
    let own = history(&[(term(1, 100), START)]);
    let mut standby = Standby::new(START.plus(8192), own, |_, _| {});
    standby.hello(101);
    let outputs = standby.frame(Frame::Fetch { from: START.plus(1) });
    assert_eq!(refusal(&outputs), Some(RefusalCode::Resync), "{outputs:?}");
    let outputs = standby.frame(Frame::Fetch { from: START.plus(4096) });
    assert!(
        !outputs.iter().any(|output| matches!(output, Output::Send { .. })),
        "the session was told to go"
    );
    let mut standby = Standby::new(START.plus(8192), history(&[(term(1, 100), START)]), |_, _| {});
    standby.hello(101);
    let outputs = standby.frame(Frame::Fetch { from: START.plus(4096) });
    assert!(outputs.iter().any(|output| matches!(output, Output::Send { .. })), "{outputs:?}");
}

/// A restarted primary, node 1, whose log of this history ends one batch behind its start.
fn restarted(own: TermHistory, change: impl Fn(&mut NodeConfig)) -> Standby {
    Standby::new(START.plus(4096), own, |config, recovered| {
        config.role = StartRole::Primary;
        config.standbys = vec!["s1".into(), "s2".into()];
        recovered.rule = Some((1, "ANY 1 (s1, s2)".into()));
        change(config);
    })
}

impl Standby {
    /// Standby 0 comes, in session 0, with the history that it has and what it heard this node claim.
    fn welcome(&mut self, history: TermHistory, leader_flushed: Lsn) -> Vec<Output> {
        let (peer, session) = (PeerIndex(0), SessionId(0));
        self.feed(Input::Connected { peer, session, nonce: 0 });
        let last = history.last().unwrap().term;
        let welcome = Welcome {
            version: 1,
            log: LOG,
            node: NodeId(7),
            name: "s1".into(),
            incarnation: 0,
            adopted: Term::default(),
            end: LogEnd { last_term: last, flushed: leader_flushed },
            log_start: START,
            history,
            leader_flushed,
            applies: false,
            applies_safe: false,
            set_size: 2,
        };
        self.feed(Input::Frame { session, frame: Frame::Welcome(welcome) })
    }
}

fn says(outputs: &[Output], wanted: impl Fn(&Event) -> bool) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Event(event) if wanted(event)))
}

#[test]
fn what_another_leaders_term_took_the_place_of_is_cut_and_not_lost() {
    let fork = START.plus(4096);
    let claims_too_much = |own: &[(Term, Lsn)], claims: &[(Term, Lsn)]| {
        let outputs = restarted(history(own), |_| {}).welcome(history(claims), START.plus(8192));
        says(&outputs, |event| matches!(event, Event::Halted { .. }))
    };
    let mine = (term(1, 1), START);
    assert!(claims_too_much(&[mine], &[mine]), "nobody else led: the bytes are lost");
    assert!(!claims_too_much(&[mine, (term(2, 100), fork)], &[mine]), "a later leader began there");
    // Node 100 led term 2 there and lost it to this node's term 3, which lost it to a term 4 that went on with term
    // 2's log: the entry of term 4 lies beyond this log's end, and is gone.
    let superseded = [mine, (term(3, 1), fork)];
    assert!(!claims_too_much(&[mine, (term(2, 100), fork)], &superseded));
    assert!(claims_too_much(
        &[mine, (term(2, 100), START)],
        &[mine, (term(2, 100), START), (term(3, 1), fork)]
    ));
}

#[test]
fn only_a_leader_degrades() {
    let alone = || {
        restarted(history(&[(term(1, 1), START)]), |config| config.unmet = Unmet::DegradeAfter { ns: 1_000 })
    };
    let degraded = |event: &Event| matches!(event, Event::Degraded { .. });
    let mut primary = alone();
    for turn in 1..5 {
        let outputs = primary.feed(Input::Tick { now_ns: turn * 1_000_000 });
        assert!(!says(&outputs, degraded), "nobody leads here: {outputs:?}");
    }
    // It has waited for long, and leads in the very turn in which the clock says so.
    let mut primary = alone();
    primary.feed(Input::Tick { now_ns: 1_000_000 });
    primary.welcome(history(&[(term(1, 1), START)]), Lsn(0));
    let adopted = Frame::Adopted { term: term(2, 1), previous: Term::default(), end: LogEnd::default() };
    primary.0.handle(Input::Frame { session: SessionId(0), frame: adopted });
    let mut sequence = None;
    while let Some(output) = primary.0.poll_output() {
        if let Output::WriteMeta { meta } = &output {
            sequence = Some(meta.sequence);
        }
    }
    primary.0.handle(Input::Tick { now_ns: 2_000_000 });
    primary.0.handle(Input::MetaWritten { sequence: sequence.unwrap() });
    let outputs = primary.poll();
    assert!(says(&outputs, |event| matches!(event, Event::Leading { .. })), "{outputs:?}");
    assert!(!says(&outputs, degraded), "{outputs:?}");
}

#[test]
fn a_promoted_standby_that_follows_again_records_what_it_may_write() {
    let mut standby = Standby::new(START, history(&[(term(1, 100), START)]), |_, _| {});
    standby.follow();
    let outputs = standby.receive_one();
    standby.flush(&outputs);
    let request = PromoteRequest {
        request: 1,
        standbys: Vec::new(),
        rule: Some(String::new()),
        force: true,
        timeout_ns: 1_000_000_000,
    };
    let mut outputs = standby.feed(Input::Promote(request));
    for turn in 1..10 {
        outputs.extend(standby.feed(Input::Tick { now_ns: turn * 200_000_000 }));
    }
    assert!(says(&outputs, |event| matches!(event, Event::Leading { .. })), "{outputs:?}");
    let header = outputs.iter().find_map(|output| match output {
        Output::PutHeader { header } => Some(*header),
        _ => None,
    });
    let seal = header.unwrap();
    let (span, epoch) = outputs
        .iter()
        .find_map(|output| match output {
            Output::Write { span, epoch } => Some((*span, *epoch)),
            _ => None,
        })
        .unwrap();
    standby.feed(Input::Flushed { span, epoch });
    standby.feed(Input::Disconnected { session: UPSTREAM, error: "gone".into(), jitter: 0 });
    // Node 100 goes on with this log in a term of its own.
    standby.hello(100);
    let end = seal.end;
    let ahead = LogEnd { last_term: seal.term, flushed: end.plus(4096) };
    let outputs = standby.frame(Frame::Adopt { term: term(9, 100), end: ahead });
    let is_adopted = |output: &Output| matches!(output, Output::Frame { frame: Frame::Adopted { .. }, .. });
    assert!(outputs.iter().any(is_adopted), "{outputs:?}");
    let history = history(&[(term(1, 100), START), (seal.term, seal.start), (term(9, 100), end)]);
    let log_end = end.plus(4096);
    standby.frame(Frame::Stream { term: term(9, 100), history, log_start: START, log_end, set_size: 2 });
    let header = BatchHeader {
        term: term(9, 100),
        start: end,
        end: log_end,
        previous_hash: BatchHeader::hash(&seal.encode(7)),
        ..seal
    };
    let outputs = standby.feed(Input::Received { session: UPSTREAM, header, hash: 6, rules: Vec::new() });
    let wrote = outputs.iter().position(|output| matches!(output, Output::Write { .. }));
    let covers = |span: &Span| span.start <= end && log_end <= span.end;
    let recorded = outputs.iter().position(
        |output| matches!(output, Output::WriteMeta { meta } if meta.unfinished.iter().any(covers)),
    );
    assert!(recorded.is_some() && recorded < wrote, "{outputs:?}");
}

/// What a standby tells the next upstream of what leaders have claimed.
fn claimed(standby: &mut Standby) -> Lsn {
    standby.feed(Input::Disconnected { session: UPSTREAM, error: "gone".into(), jitter: 0 });
    let outputs = standby.hello_of(100, LOG, GEOMETRY);
    let welcome = outputs.into_iter().find_map(|output| match output {
        Output::Frame { frame: Frame::Welcome(welcome), .. } => Some(welcome.leader_flushed),
        _ => None,
    });
    welcome.unwrap()
}

/// Node 2 leads term 2 from `start` on, and streams.
fn follow_node_2(standby: &mut Standby, start: Lsn) {
    standby.feed(Input::Disconnected { session: UPSTREAM, error: "gone".into(), jitter: 0 });
    standby.hello(2);
    let end = LogEnd { last_term: term(1, 100), flushed: start };
    standby.frame(Frame::Adopt { term: term(2, 2), end });
    let history = history(&[(term(1, 100), START), (term(2, 2), start)]);
    let log_end = start.plus(4096);
    standby.frame(Frame::Stream { term: term(2, 2), history, log_start: START, log_end, set_size: 2 });
}

#[test]
fn what_a_leader_had_flushed_beyond_where_another_went_on_says_nothing_of_the_others_log() {
    let end = START.plus(4096);
    let mut standby = applying(false);
    assert_eq!(standby.told(end.plus(8192), Lsn(0)), Some(end));
    // Nothing is cut here: node 2 goes on exactly where this log ends.
    follow_node_2(&mut standby, end);
    let header = BatchHeader {
        kind: BatchKind::Data,
        log: LOG,
        term: term(2, 2),
        start: end,
        end: end.plus(4096),
        body_bytes: 0,
        records: 0,
        payload_bytes: 0,
        records_before: 0,
        payload_before: 0,
        durable_before: Lsn(0),
        previous_hash: 5,
        body_crc: 0,
    };
    let outputs = standby.feed(Input::Received { session: UPSTREAM, header, hash: 6, rules: Vec::new() });
    let write = outputs.iter().find_map(|output| match output {
        Output::Write { span, epoch } => Some((*span, *epoch)),
        _ => None,
    });
    let (span, epoch) = write.unwrap();
    let outputs = standby.feed(Input::Flushed { span, epoch });
    let is_applied = |output: &Output| matches!(output, Output::Apply { upto } if *upto > end);
    assert!(!outputs.iter().any(is_applied), "node 2 has not said that it flushed this: {outputs:?}");
    assert_eq!(claimed(&mut standby), end);
}

#[test]
fn what_a_leader_flushed_of_another_ones_term_is_no_claim_of_the_other() {
    let end = START.plus(4096);
    let mut standby = Standby::new(START, history(&[(term(1, 100), START)]), |_, _| {});
    standby.follow();
    let outputs = standby.receive_one();
    standby.flush(&outputs);
    // Node 100 has not flushed this batch, and loses it; node 2 had received it, flushed it and leads.
    follow_node_2(&mut standby, end);
    standby.told(end, Lsn(0));
    assert_eq!(claimed(&mut standby), Lsn(0));
    follow_node_2(&mut standby, end);
    standby.told(end.plus(4096), Lsn(0));
    assert_eq!(claimed(&mut standby), end.plus(4096), "its own term it has flushed");
}

#[test]
fn when_a_fetch_breaks_off_whoever_else_is_there_is_asked_again() {
    let own = history(&[(term(1, 1), START)]);
    let mut primary = restarted(own.clone(), |_| {});
    let ahead = LogEnd { last_term: term(1, 1), flushed: START.plus(8192) };
    for (place, node) in [(0, 7), (1, 8)] {
        primary.feed(Input::Connected {
            peer: PeerIndex(place),
            session: SessionId(u64::from(place)),
            nonce: 0,
        });
        let welcome = Welcome {
            version: 1,
            log: LOG,
            node: NodeId(node),
            name: format!("s{}", place + 1),
            incarnation: 0,
            adopted: term(1, 1),
            end: ahead,
            log_start: START,
            history: own.clone(),
            leader_flushed: Lsn(0),
            applies: false,
            applies_safe: false,
            set_size: 2,
        };
        primary.feed(Input::Frame { session: SessionId(u64::from(place)), frame: Frame::Welcome(welcome) });
    }
    let not_adopted = Frame::NotAdopted { adopted: term(1, 1), end: ahead, history: own };
    let mut outputs = Vec::new();
    for session in [0, 1].map(SessionId) {
        outputs.extend(primary.feed(Input::Frame { session, frame: not_adopted.clone() }));
    }
    let fetches = |output: &Output| matches!(output, Output::Frame { frame: Frame::Fetch { .. }, .. });
    assert!(outputs.iter().any(fetches), "{outputs:?}");
    let gone = Input::Disconnected { session: SessionId(0), error: "gone".into(), jitter: 0 };
    let outputs = primary.feed(gone);
    let asks = |output: &Output| {
        matches!(output, Output::Frame { session: SessionId(1), frame: Frame::Adopt { .. } })
    };
    assert!(outputs.iter().any(asks), "{outputs:?}");
}

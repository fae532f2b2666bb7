//! A peer that knows the frames and lies in every field: a standby, an empty directory, a restarted primary and a
//! leader hear random well-formed frames and batches. Its word ends its session; it does not halt the node, nor make
//! durable what no sender that keeps the rules could have said.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use towline_core::format::{BatchHeader, BatchKind, Frame, Hello, HelloRole, LogEnd, RefusalCode, Welcome};
use towline_core::log::Recovered;
use towline_core::node::{Event, Input, Node, NodeConfig, Output, RoleStatus, StartRole};
use towline_core::types::limits::{MAX_LSN, MAX_TERM_LEAP};
use towline_core::types::{
    Geometry, LogId, Lsn, Meta, NodeId, Position, SessionId, StandbyWatermarks, Term, TermHistory, TermStart,
};

const GEOMETRY: Geometry = Geometry { segment_bytes: 8 << 20, in_flight_bytes: 16 << 20 };
const LOG: LogId = LogId([9; 16]);
const START: u64 = 8192;
const OWN: NodeId = NodeId(1);

/// What the other side does next.
#[derive(Debug, Clone)]
enum Deed {
    Accept,
    Leave(usize),
    Say(usize, Frame),
    Ship(usize, BatchHeader, Vec<(u64, String)>),
    Wait(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Standby,
    Empty,
    Primary,
    Leader,
}

/// The node and what has been seen of it.
struct Victim {
    node: Node,
    now_ns: u64,
    meta: Meta,
    sessions: Vec<SessionId>,
    next_session: u64,
    /// The last input claimed that this node had flushed up to here.
    claimed: Lsn,
    halted: bool,
}

impl Victim {
    fn new(start: Start) -> Victim {
        let log = if start == Start::Empty { LogId::default() } else { LOG };
        let primary = matches!(start, Start::Primary | Start::Leader);
        let leader = if primary { OWN } else { NodeId(100) };
        let term = Term { number: 1, node: leader };
        let config = NodeConfig {
            node: OWN,
            log,
            geometry: GEOMETRY,
            name: "n1".into(),
            role: if primary { StartRole::Primary } else { StartRole::Standby },
            standbys: if primary { vec!["a".into(), "b".into()] } else { Vec::new() },
            applies: true,
            ..NodeConfig::default()
        };
        let end = if start == Start::Empty { START } else { START + 8192 };
        let history = TermHistory::from_entries(&[TermStart { term, start: Lsn(START) }]).expect("one entry");
        let empty = start == Start::Empty;
        let meta = Meta {
            adopted: if empty { Term::default() } else { term },
            led: primary.then_some(term),
            history: if empty { TermHistory::default() } else { history },
            ..Meta::default()
        };
        let rule = (start == Start::Primary).then(|| (1, "ANY 1 (a, b)".to_owned()));
        let recovered = Recovered {
            end: Position { lsn: Lsn(end), ..Position::default() },
            previous_hash: if empty { 0 } else { 77 },
            segments: if empty { Vec::new() } else { vec![(0, 7)] },
            rule,
            ..Recovered::default()
        };
        let node = Node::new(config, recovered, meta.clone());
        let mut victim = Victim {
            node,
            now_ns: 1,
            meta,
            sessions: Vec::new(),
            next_session: 1,
            claimed: Lsn(0),
            halted: false,
        };
        victim.feed(Input::Tick { now_ns: 1 });
        victim
    }

    fn suffer(&mut self, deed: Deed) {
        self.claimed = Lsn(0);
        let session = |at: &usize| self.sessions.get(at % self.sessions.len().max(1)).copied();
        let input = match deed {
            Deed::Accept => Input::Accepted { session: self.new_session() },
            Deed::Leave(at) => {
                let Some(session) = session(&at) else { return };
                self.sessions.retain(|known| *known != session);
                Input::Disconnected { session, error: "gone".to_owned(), jitter: 3 }
            }
            Deed::Say(at, frame) => {
                let Some(session) = session(&at) else { return };
                if let Frame::Welcome(welcome) = &frame {
                    self.claimed = welcome.leader_flushed;
                }
                Input::Frame { session, frame }
            }
            Deed::Ship(at, header, rules) => {
                let Some(session) = session(&at) else { return };
                Input::Received { session, header, hash: header.start.0 | 1, rules }
            }
            Deed::Wait(for_ns) => {
                self.now_ns += for_ns;
                Input::Tick { now_ns: self.now_ns }
            }
        };
        self.feed(input);
    }

    fn new_session(&mut self) -> SessionId {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        self.sessions.push(session);
        session
    }

    /// A driver whose disk does at once what it is told.
    fn feed(&mut self, input: Input) {
        let mut inputs = std::collections::VecDeque::from([input]);
        let mut outputs = 0;
        while let Some(input) = inputs.pop_front() {
            self.node.handle(input);
            while let Some(output) = self.node.poll_output() {
                outputs += 1;
                assert!(outputs < 2000, "one input makes ever more outputs");
                inputs.extend(self.carry_out(output));
            }
        }
        if !self.halted {
            let role = self.node.status().role;
            assert!(!matches!(role, RoleStatus::Ended(_)), "it ended without a word: {role:?}");
        }
    }

    fn carry_out(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::WriteMeta { meta } => {
                self.judge(&meta);
                let sequence = meta.sequence;
                self.meta = meta;
                Some(Input::MetaWritten { sequence })
            }
            Output::Write { span, epoch } => Some(Input::Flushed { span, epoch }),
            Output::Truncate { to, until } => {
                assert!(to >= self.meta.acknowledged && to < until);
                let end = Position { lsn: to, ..Position::default() };
                Some(Input::Truncated { end, previous_hash: if to.0 > START { 77 } else { 0 } })
            }
            Output::PrepareSegment { seq, salt } => {
                assert!(GEOMETRY.first_batch(seq) <= MAX_LSN, "no log has a segment {seq}");
                Some(Input::SegmentReady { seq, salt: salt.unwrap_or(5) })
            }
            Output::AdoptLog { log, geometry } => {
                assert!(
                    !log.is_unset() && geometry.check().is_ok(),
                    "the directory could not be opened again"
                );
                Some(Input::LogAdopted { log, geometry })
            }
            Output::Dial { peer } => {
                let session = self.new_session();
                Some(Input::Connected { peer, session, nonce: 1 })
            }
            Output::Close { session, .. } => {
                self.sessions.retain(|known| *known != session);
                Some(Input::Disconnected { session, error: "closed".to_owned(), jitter: 5 })
            }
            Output::Send { session, span, .. } => Some(Input::Sent { session, span }),
            Output::Event(Event::Halted { why }) => {
                // Rule 3: who lost bytes that it had reported must not lead. Only peers can say what was reported.
                let lost = why.contains("has lost durable data") && self.claimed > Lsn(START + 8192);
                // Rule 5: what was acknowledged remotely is not cut.
                let acked =
                    why.contains("acknowledged at a remote level") && self.meta.acknowledged.0 > START;
                assert!(lost || acked, "halted by a peer's word: {why}");
                self.halted = true;
                None
            }
            Output::Event(Event::Poisoned { error }) => panic!("poisoned by a peer's word: {error}"),
            _ => None,
        }
    }

    /// What is about to be durable.
    fn judge(&self, next: &Meta) {
        assert!(next.adopted >= self.meta.adopted, "an adopted term is never forgotten");
        let leap = next.adopted.number - self.meta.adopted.number;
        assert!(leap <= MAX_TERM_LEAP + 1, "terms are used up: {} to {}", self.meta.adopted, next.adopted);
        assert!(next.history.last().is_none_or(|last| last.term <= next.adopted), "{:?}", next.history);
        assert!(next.led.is_none_or(|led| led.node == OWN));
        assert!(next.log_start >= self.meta.log_start && next.log_start <= MAX_LSN);
        assert!(next.acknowledged >= self.meta.acknowledged);
    }
}

fn lsn() -> impl Strategy<Value = Lsn> {
    select(vec![
        0,
        START,
        START + 4096,
        START + 8192,
        START + 12_288,
        8 << 20,
        (8 << 20) + START,
        1 << 40,
        (1 << 40) + START,
        77,
        1 << 62,
        (1 << 63) + START,
        u64::MAX,
    ])
    .prop_map(Lsn)
}

fn term() -> impl Strategy<Value = Term> {
    let number = prop_oneof![8 => 0u64..5, 1 => select(vec![1 << 31, 1 << 33, u64::MAX - 1, u64::MAX])];
    (number, select(vec![1, 100, 101])).prop_map(|(number, node)| Term { number, node: NodeId(node) })
}

fn end() -> impl Strategy<Value = LogEnd> {
    (term(), lsn()).prop_map(|(last_term, flushed)| LogEnd { last_term, flushed })
}

/// Rising, as the decoder demands.
fn history() -> impl Strategy<Value = TermHistory> {
    vec((term(), lsn()), 0..4).prop_map(|mut entries| {
        entries.push((Term { number: 1, node: NodeId(100) }, Lsn(START)));
        let mut history = TermHistory::default();
        entries.sort_unstable_by_key(|(term, _)| *term);
        for (term, start) in entries {
            // Those that do not follow are left out.
            let _ = history.push(term, start);
        }
        history
    })
}

fn hello() -> impl Strategy<Value = Frame> {
    let geometry = prop_oneof![
        6 => Just(GEOMETRY),
        1 => (select(vec![0, 1, 4096, u64::MAX]), select(vec![0, 16 << 20, u64::MAX]))
            .prop_map(|(segment_bytes, in_flight_bytes)| Geometry { segment_bytes, in_flight_bytes }),
    ];
    let log = select(vec![LOG, LOG, LOG, LOG, LogId::default(), LogId([1; 16])]);
    (geometry, log, select(vec![1, 100, 100, 101]), term(), end()).prop_map(
        |(geometry, log, node, adopted, end)| {
            Frame::Hello(Hello {
                versions: (1, 1),
                role: HelloRole::Upstream,
                shard: 0,
                log,
                geometry,
                node: NodeId(node),
                name: format!("n{node}"),
                nonce: 1,
                adopted,
                end,
            })
        },
    )
}

fn welcome() -> impl Strategy<Value = Frame> {
    (term(), end(), lsn(), history(), lsn(), any::<bool>(), select(vec![100, 101, 102])).prop_map(
        |(adopted, end, log_start, history, leader_flushed, applies, node)| {
            Frame::Welcome(Welcome {
                version: 1,
                log: LOG,
                node: NodeId(node),
                name: "a".to_owned(),
                incarnation: 1,
                adopted,
                end,
                log_start,
                history,
                leader_flushed,
                applies,
                applies_safe: applies,
                set_size: 2,
            })
        },
    )
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        3 => hello(),
        3 => welcome(),
        3 => (term(), end()).prop_map(|(term, end)| Frame::Adopt { term, end }),
        3 => (term(), term(), end()).prop_map(|(term, previous, end)| Frame::Adopted { term, previous, end }),
        2 => (term(), end(), history())
            .prop_map(|(adopted, end, history)| Frame::NotAdopted { adopted, end, history }),
        5 => (term(), history(), lsn(), lsn(), any::<u16>()).prop_map(
            |(term, history, log_start, log_end, set_size)| Frame::Stream {
                term, history, log_start, log_end, set_size
            }
        ),
        2 => (prop_oneof![0u64..4, select(vec![1 << 40, u64::MAX])], any::<u32>())
            .prop_map(|(seq, salt)| Frame::Segment { seq, salt }),
        2 => (lsn(), lsn(), lsn())
            .prop_map(|(flushed, safe, log_start)| Frame::Progress { flushed, safe, log_start }),
        2 => (lsn(), any::<u64>()).prop_map(|(from, previous_hash)| Frame::Ready { from, previous_hash }),
        2 => (term(), lsn(), lsn(), lsn(), lsn()).prop_map(|(term, written, flushed, applied, credit)| {
            let at = |lsn: Lsn| Position { lsn, records: lsn.0, payload_bytes: u64::MAX };
            let watermarks =
                StandbyWatermarks { written: at(written), flushed: at(flushed), applied: at(applied) };
            Frame::Report { term, watermarks, credit, failing: false }
        }),
        1 => lsn().prop_map(|from| Frame::Fetch { from }),
        1 => lsn().prop_map(|end| Frame::FetchEnd { end }),
        1 => term().prop_map(|term| Frame::Heartbeat { term }),
        1 => Just(Frame::Refused { code: RefusalCode::Resync, message: "go away".to_owned() }),
    ]
}

/// As the decoder lets it through: whole blocks inside a segment.
fn batch() -> impl Strategy<Value = BatchHeader> {
    let start = select(vec![START, START + 8192, START + 8192, START + 12_288, (1 << 40) + START]);
    (term(), start, select(vec![0, 77, START | 1, (START + 8192) | 1]), any::<u64>()).prop_map(
        |(term, start, previous_hash, before)| BatchHeader {
            kind: BatchKind::Data,
            log: LOG,
            term,
            start: Lsn(start),
            end: Lsn(start + 4096),
            body_bytes: 0,
            records: 0,
            payload_bytes: 0,
            records_before: before % 3 * (before >> 1),
            payload_before: 0,
            durable_before: Lsn(start),
            previous_hash,
            body_crc: 0,
        },
    )
}

fn deed() -> impl Strategy<Value = Deed> {
    let rules = vec((select(vec![0, 1, 2, u64::MAX]), "(ANY 1 \\(a\\)|ANY 9 \\(|\\*)?"), 0..2);
    prop_oneof![
        3 => Just(Deed::Accept),
        1 => (0usize..4).prop_map(Deed::Leave),
        18 => (0usize..4, frame()).prop_map(|(at, frame)| Deed::Say(at, frame)),
        3 => (0usize..4, batch(), rules).prop_map(|(at, header, rules)| Deed::Ship(at, header, rules)),
        1 => select(vec![1_000_000, 700_000_000]).prop_map(Deed::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_peers_word_alone_neither_halts_a_node_nor_spoils_what_it_keeps(
        start in select(vec![Start::Standby, Start::Empty, Start::Primary, Start::Leader]),
        deeds in vec(deed(), 0..60),
    ) {
        let mut victim = Victim::new(start);
        for deed in deeds {
            if victim.halted {
                break;
            }
            victim.suffer(deed);
        }
    }
}

/// What it could not be asked at random: that the lies get as far as they can.
#[test]
fn the_lies_reach_a_log_that_is_followed_and_a_term_that_is_adopted() {
    let mut victim = Victim::new(Start::Standby);
    let (first, second) = (Term { number: 1, node: NodeId(100) }, Term { number: 2, node: NodeId(101) });
    let entry = |term, start| TermStart { term, start: Lsn(start) };
    victim.suffer(Deed::Accept);
    let own = LogEnd { last_term: first, flushed: Lsn(START + 8192) };
    victim.suffer(Deed::Say(0, hello_of(101, second, own)));
    let far = Term { number: u64::MAX, node: NodeId(101) };
    victim.suffer(Deed::Say(0, Frame::Adopt { term: far, end: own }));
    assert_eq!(victim.meta.adopted, first, "the last number there is would end all leadership");
    assert!(victim.sessions.is_empty());

    victim.suffer(Deed::Accept);
    victim.suffer(Deed::Say(0, hello_of(101, second, own)));
    victim.suffer(Deed::Say(0, Frame::Adopt { term: second, end: own }));
    assert_eq!(victim.meta.adopted, second);
    let stream = |history: &[TermStart]| Frame::Stream {
        term: second,
        history: TermHistory::from_entries(history).expect("they rise"),
        log_start: Lsn(START),
        log_end: Lsn(START + 8192),
        set_size: 1,
    };
    let above = [entry(first, START), entry(far, START + 8192)];
    victim.suffer(Deed::Say(0, stream(&above)));
    assert_eq!(victim.meta.history.last(), Some(entry(first, START)), "a history above its own term");
    assert!(victim.sessions.is_empty());
    // The truth is heard after all that.
    victim.suffer(Deed::Accept);
    victim.suffer(Deed::Say(0, hello_of(101, second, own)));
    victim.suffer(Deed::Say(0, stream(&[entry(first, START), entry(second, START + 8192)])));
    assert_eq!(victim.meta.history.last(), Some(entry(second, START + 8192)));
    // In the same term another log cannot be.
    let parted = [entry(second, START + 4096)];
    victim.suffer(Deed::Accept);
    victim.suffer(Deed::Say(1, hello_of(102, second, own)));
    victim.suffer(Deed::Say(1, stream(&parted)));
    assert_eq!(victim.meta.history.last(), Some(entry(second, START + 8192)));
    assert!(!victim.halted);
}

fn hello_of(node: u64, adopted: Term, end: LogEnd) -> Frame {
    Frame::Hello(Hello {
        versions: (1, 1),
        role: HelloRole::Upstream,
        shard: 0,
        log: LOG,
        geometry: GEOMETRY,
        node: NodeId(node),
        name: format!("n{node}"),
        nonce: 1,
        adopted,
        end,
    })
}

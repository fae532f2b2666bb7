//! The single node that is told by hand, and what its outputs are asked.

use towline_core::format::{BatchHeader, BatchKind, Frame, Hello, HelloRole, LogEnd, RefusalCode, Welcome};
use towline_core::log::Recovered;
use towline_core::node::{Event, Input, Node, NodeConfig, Output, RoleStatus, StartRole};
use towline_core::types::{
    Geometry, LogId, Lsn, Meta, NodeId, PeerIndex, Position, SessionId, Span, Term, TermHistory, TermStart,
};

pub(crate) const GEOMETRY: Geometry = Geometry { segment_bytes: 8 << 20, in_flight_bytes: 16 << 20 };

pub(crate) const LOG: LogId = LogId([9; 16]);
pub(crate) const START: Lsn = Lsn(8192);

pub(crate) fn term(number: u64, node: u64) -> Term {
    Term { number, node: NodeId(node) }
}

pub(crate) fn history(entries: &[(Term, u64)]) -> TermHistory {
    let entries: Vec<TermStart> =
        entries.iter().map(|(term, start)| TermStart { term: *term, start: Lsn(*start) }).collect();
    TermHistory::from_entries(&entries).expect("they rise")
}

pub(crate) fn at(lsn: u64) -> Position {
    Position { lsn: Lsn(lsn), ..Position::default() }
}

/// A node whose meta writes are durable at once, unless `slow_meta` holds them back.
pub(crate) struct Probe {
    pub(crate) node: Node,
    pub(crate) slow_meta: bool,
    pub(crate) meta: Meta,
    pub(crate) out: Vec<Output>,
}

impl Probe {
    pub(crate) fn new(
        config: NodeConfig,
        end: Position,
        hash: u64,
        rule: Option<(u64, String)>,
        meta: Meta,
    ) -> Probe {
        let last = GEOMETRY.segment_of(Lsn(end.lsn.0 - 1));
        let segments = (0..=last).map(|seq| (seq, 7)).collect();
        let recovered = Recovered { end, previous_hash: hash, rule, segments, ..Recovered::default() };
        let node = Node::new(config, recovered, meta.clone());
        let mut probe = Probe { node, slow_meta: false, meta, out: Vec::new() };
        probe.poll();
        probe
    }

    /// A standby of node 100 whose log of term 1 ends at `end`.
    pub(crate) fn standby(end: u64) -> Probe {
        let config = NodeConfig {
            node: NodeId(1),
            log: LOG,
            geometry: GEOMETRY,
            name: "s1".into(),
            ..NodeConfig::default()
        };
        let meta = Meta {
            adopted: term(1, 100),
            reported: Lsn(end),
            history: history(&[(term(1, 100), START.0)]),
            ..Meta::default()
        };
        let hash = if end > START.0 { 77 } else { 0 };
        Probe::new(config, at(end), hash, None, meta)
    }

    /// A restarted primary, node 100, that led term 1; its log ends at `end`.
    pub(crate) fn primary(standbys: usize, rule: Option<&str>, end: u64) -> Probe {
        let config = NodeConfig { role: StartRole::Primary, ..Probe::config(100, standbys) };
        let meta = Meta {
            adopted: term(1, 100),
            led: Some(term(1, 100)),
            history: history(&[(term(1, 100), START.0)]),
            ..Meta::default()
        };
        Probe::new(config, at(end), 77, rule.map(|rule| (1, rule.to_owned())), meta)
    }

    pub(crate) fn feed(&mut self, input: Input) -> Vec<Output> {
        self.out.clear();
        self.node.handle(input);
        self.poll();
        self.out.clone()
    }

    pub(crate) fn poll(&mut self) {
        while let Some(output) = self.node.poll_output() {
            if let Output::WriteMeta { meta } = &output {
                self.meta = meta.clone();
                if !self.slow_meta {
                    self.node.handle(Input::MetaWritten { sequence: meta.sequence });
                }
            }
            self.out.push(output);
        }
    }

    pub(crate) fn frame(&mut self, session: u64, frame: Frame) -> Vec<Output> {
        self.feed(Input::Frame { session: SessionId(session), frame })
    }

    pub(crate) fn hello(&mut self, session: u64, node: u64) -> Vec<Output> {
        self.feed(Input::Accepted { session: SessionId(session) });
        let hello = Hello {
            versions: (1, 1),
            role: HelloRole::Upstream,
            shard: 0,
            log: LOG,
            geometry: GEOMETRY,
            node: NodeId(node),
            name: format!("n{node}"),
            nonce: session,
            adopted: term(1, 100),
            end: LogEnd::default(),
        };
        self.frame(session, Frame::Hello(hello))
    }

    pub(crate) fn stream(
        &mut self,
        session: u64,
        of: Term,
        history: TermHistory,
        log_end: u64,
    ) -> Vec<Output> {
        self.frame(
            session,
            Frame::Stream { term: of, history, log_start: START, log_end: Lsn(log_end), set_size: 2 },
        )
    }

    /// A batch of one block at `start`.
    pub(crate) fn receive(&mut self, session: u64, of: Term, start: u64, previous_hash: u64) -> Vec<Output> {
        let header = BatchHeader {
            kind: BatchKind::Data,
            log: LOG,
            term: of,
            start: Lsn(start),
            end: Lsn(start + 4096),
            body_bytes: 0,
            records: 0,
            payload_bytes: 0,
            records_before: 0,
            payload_before: 0,
            durable_before: Lsn(0),
            previous_hash,
            body_crc: 0,
        };
        self.feed(Input::Received { session: SessionId(session), header, hash: start, rules: Vec::new() })
    }

    pub(crate) fn welcome(
        &mut self,
        peer: u16,
        adopted: Term,
        end: LogEnd,
        leader_flushed: u64,
    ) -> Vec<Output> {
        self.welcome_of(peer, adopted, end, leader_flushed, 2)
    }

    pub(crate) fn config(node: u64, standbys: usize) -> NodeConfig {
        NodeConfig {
            node: NodeId(node),
            log: LOG,
            geometry: GEOMETRY,
            name: "p".into(),
            standbys: (1..=standbys).map(|n| format!("s{n}")).collect(),
            ..NodeConfig::default()
        }
    }

    /// One that has this history.
    pub(crate) fn welcome_with(
        &mut self,
        peer: u16,
        adopted: Term,
        end: LogEnd,
        leader_flushed: u64,
        history: TermHistory,
    ) -> Vec<Output> {
        self.welcome_as(peer, (adopted, history), end, leader_flushed, 2)
    }

    /// `set_size` 0: one that has never followed.
    pub(crate) fn welcome_of(
        &mut self,
        peer: u16,
        adopted: Term,
        end: LogEnd,
        leader_flushed: u64,
        set_size: u16,
    ) -> Vec<Output> {
        self.welcome_as(peer, (adopted, OLD()), end, leader_flushed, set_size)
    }

    fn welcome_as(
        &mut self,
        peer: u16,
        (adopted, history): (Term, TermHistory),
        end: LogEnd,
        leader_flushed: u64,
        set_size: u16,
    ) -> Vec<Output> {
        let session = SessionId(u64::from(peer));
        self.feed(Input::Connected { peer: PeerIndex(peer), session, nonce: 0 });
        let welcome = Welcome {
            version: 1,
            log: LOG,
            node: NodeId(1 + u64::from(peer)),
            name: format!("s{}", peer + 1),
            incarnation: 0,
            adopted,
            end,
            log_start: START,
            history,
            leader_flushed: Lsn(leader_flushed),
            applies: false,
            applies_safe: false,
            set_size,
        };
        self.frame(u64::from(peer), Frame::Welcome(welcome))
    }

    pub(crate) fn adopted(&mut self, peer: u16, previous: Term) -> Vec<Output> {
        let term = self.meta.adopted;
        self.frame(u64::from(peer), Frame::Adopted { term, previous, end: LogEnd::default() })
    }

    pub(crate) fn leads(&self) -> bool {
        matches!(self.node.status().role, RoleStatus::Primary(_))
    }
}

pub(crate) fn has(outputs: &[Output], wanted: impl Fn(&Output) -> bool) -> bool {
    outputs.iter().any(wanted)
}

pub(crate) fn written(outputs: &[Output]) -> (Span, u64) {
    let write = outputs.iter().find_map(|output| match output {
        Output::Write { span, epoch } => Some((*span, *epoch)),
        _ => None,
    });
    write.expect("it is written")
}

pub(crate) fn says_adopted(outputs: &[Output]) -> bool {
    has(outputs, |output| matches!(output, Output::Frame { frame: Frame::Adopted { .. }, .. }))
}

pub(crate) fn refused(outputs: &[Output], with: RefusalCode) -> bool {
    has(
        outputs,
        |output| matches!(output, Output::Frame { frame: Frame::Refused { code, .. }, .. } if *code == with),
    )
}

pub(crate) fn halted(outputs: &[Output]) -> bool {
    has(outputs, |output| matches!(output, Output::Event(Event::Halted { .. })))
}

pub(crate) fn end_of(last_term: Term, flushed: u64) -> LogEnd {
    LogEnd { last_term, flushed: Lsn(flushed) }
}

pub(crate) const OLD: fn() -> TermHistory = || history(&[(term(1, 100), START.0)]);

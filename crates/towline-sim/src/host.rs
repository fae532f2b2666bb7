//! One process of the simulated world: drives a node by its Inputs and Outputs, as the runtime does.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use rand::RngExt;
use rand::rngs::StdRng;
use towline_check::NodeHistory;
use towline_core::format::{
    BatchHeader, BatchKind, BodySeed, Frame, HelloRole, RecordKind, encode_record_header, encode_rule,
    payload_crc, record_bytes, summarize_sealed, verify_body,
};
use towline_core::log::Recovered;
use towline_core::node::{
    BatchWish, Event, FreezeReason, Input, Node, NodeConfig, Output, SealedBatch, StartRole, Ticket,
    TicketOutcome,
};
use towline_core::replication::Stage;
use towline_core::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES, MAX_BATCH_BYTES, MAX_WRITE_BYTES};
use towline_core::types::{Level, LogId, Lsn, Meta, Position, SessionId, Span, TicketId, Window};

use crate::disk::{Bytes, Disk, PendingWrite};
use crate::story;

/// What travels on a connection, in order.
#[derive(Clone)]
pub enum Message {
    Frame(Frame),
    Bytes(Span, Vec<u8>),
}

/// What a host wants of the world.
pub enum Wish {
    Dial(usize),
    Say(SessionId, Message),
    Close(SessionId),
    Acked(TicketId, TicketOutcome),
}

pub struct Host {
    pub name: usize,
    now_ns: u64,
    pub config: NodeConfig,
    pub node: Option<Node>,
    pub disk: Disk,
    /// Shared memory: survives the process, not the power.
    pub arena: Bytes,
    pub inbox: VecDeque<Input>,
    pub wishes: Vec<Wish>,
    pub events: Vec<Event>,
    open: Option<Open>,
    frozen: bool,
    receiving: Option<(SessionId, Lsn, Lsn)>,
    /// Bytes that came before there was room, per session.
    held: BTreeMap<SessionId, VecDeque<Message>>,
    segment_jobs: Vec<(u64, Option<u32>)>,
    pub halted: bool,
    /// What the running node was made of, and its inputs: with a poll before each tick they can be fed again.
    pub born: Option<(NodeConfig, Recovered, Meta)>,
    pub trace: Vec<Input>,
    /// Outputs as text, when `record` is set; their hash always.
    pub record: bool,
    pub outputs: Vec<String>,
    pub hash: u64,
    /// As reported since it was started.
    pub reported_flushed: Lsn,
    pub reported_written: Lsn,
    /// The highest it ever reported: a report may be on its way when its sender dies.
    pub ever: [Position; 3],
    /// The application: what it may apply, what it has, the ends of batches it can reach.
    apply_upto: Lsn,
    pub applied: Position,
    ends: BTreeMap<Lsn, Position>,
    pub apply_chance: f64,
    /// Highest `Apply`, over all lives.
    pub apply_told: Lsn,
    /// No segment can be prepared.
    pub full: bool,
    told_full: bool,
    pub frozen_full: u64,
    /// Rules by version, as they went into the log.
    pub rules: BTreeMap<u64, String>,
    pub rule_changes: Vec<(u64, Result<u64, String>)>,
    pub counts: BTreeMap<&'static str, u64>,
    pub stopped: bool,
    /// The next write, or meta write, fails.
    pub write_fails: bool,
    pub meta_fails: bool,
    /// What a primary takes in and says, for the checker; an earlier life of its log may stand there already.
    history: Option<NodeHistory>,
    has_led: bool,
    pub told: Vec<towline_check::Event>,
}

struct Open {
    start: Lsn,
    limit: Lsn,
    body: Vec<u8>,
    tickets: Vec<OpenTicket>,
    records: u64,
    payload: u64,
    rule: Option<u64>,
    accepted_ns: Option<u64>,
}

struct OpenTicket {
    id: TicketId,
    offset: u64,
    end: u64,
    records: u64,
    payload: u64,
    own: u64,
    level: Level,
    window: Option<Window>,
    accepted_ns: u64,
}

impl Host {
    pub fn new(name: usize, config: NodeConfig, log: LogId) -> Host {
        let disk = Disk { log, ..Disk::default() };
        Host {
            name,
            now_ns: 0,
            config,
            node: None,
            disk,
            arena: Bytes::default(),
            inbox: VecDeque::new(),
            wishes: Vec::new(),
            events: Vec::new(),
            open: None,
            frozen: true,
            receiving: None,
            held: BTreeMap::new(),
            segment_jobs: Vec::new(),
            halted: false,
            born: None,
            trace: Vec::new(),
            record: false,
            outputs: Vec::new(),
            hash: 0,
            reported_flushed: Lsn(0),
            reported_written: Lsn(0),
            ever: [Position::default(); 3],
            apply_upto: Lsn(0),
            applied: Position::default(),
            ends: BTreeMap::new(),
            apply_chance: 0.5,
            apply_told: Lsn(0),
            full: false,
            told_full: false,
            frozen_full: 0,
            rules: BTreeMap::new(),
            rule_changes: Vec::new(),
            counts: BTreeMap::new(),
            stopped: false,
            write_fails: false,
            meta_fails: false,
            history: None,
            has_led: false,
            told: Vec::new(),
        }
    }

    /// Starts the process on what its disk holds. A standby first takes over what shared memory has beyond it.
    /// Returns where its log ends.
    pub fn start(&mut self) -> Lsn {
        let geometry = self.config.geometry;
        if self.disk.segments.is_empty() && self.config.role == StartRole::Primary {
            self.disk.segments.insert(0, 7);
        }
        self.config.log = self.disk.log;
        self.config.fresh =
            self.config.role == StartRole::Primary && self.disk.meta.adopted == Default::default();
        let arena = std::mem::take(&mut self.arena);
        let standby = self.config.role == StartRole::Standby && self.config.arena_outlives;
        let recovered = self.disk.open(geometry, standby.then_some(&arena));
        let end = recovered.end.lsn;
        self.ends =
            self.disk.walk(geometry).batches.iter().map(|b| (b.header.end, b.header.after())).collect();
        (self.apply_upto, self.applied) = (Lsn(0), Position::default());
        self.born = Some((self.config.clone(), recovered.clone(), self.disk.meta.clone()));
        let leads = self.config.role == StartRole::Primary;
        self.history = leads.then(|| NodeHistory::new(&self.config, &recovered, self.has_led));
        self.node = Some(Node::new(self.config.clone(), recovered, self.disk.meta.clone()));
        self.halted = false;
        self.stopped = false;
        self.frozen = true;
        self.trace.clear();
        self.outputs.clear();
        self.drain();
        end
    }

    /// The process is gone, and with it everything volatile.
    pub fn stop(&mut self) {
        self.node = None;
        self.open = None;
        self.receiving = None;
        self.inbox.clear();
        self.held.clear();
        self.segment_jobs.clear();
        self.told_full = false;
        self.wishes.clear();
    }

    pub fn accepts(&self) -> bool {
        !self.frozen && self.open.is_some()
    }

    /// Appends a record; its LSN, or `None` when there is no room now.
    pub fn append(
        &mut self,
        payload: &[u8],
        ticket: Option<(TicketId, Level, Option<Window>)>,
        now_ns: u64,
    ) -> Option<(Lsn, Lsn)> {
        let open = self.open.as_mut().filter(|_| !self.frozen)?;
        let bytes = record_bytes(payload.len() as u64);
        let used = BATCH_HEADER_BYTES + open.body.len() as u64;
        if open.start.plus(used + bytes) > open.limit.min(open.start.plus(MAX_BATCH_BYTES)) {
            self.inbox.push_back(Input::Pressure { bytes });
            return None;
        }
        let offset = open.body.len() as u64;
        push_record(&mut open.body, RecordKind::Data, payload);
        open.records += 1;
        open.payload += payload.len() as u64;
        open.accepted_ns.get_or_insert(now_ns);
        let lsn = open.start.plus(BATCH_HEADER_BYTES + offset);
        let end = lsn.plus(bytes);
        if let Some((id, level, window)) = ticket {
            open.tickets.push(OpenTicket {
                id,
                offset,
                end: offset + bytes,
                records: open.records,
                payload: open.payload,
                own: payload.len() as u64,
                level,
                window,
                accepted_ns: now_ns,
            });
        }
        Some((lsn, end))
    }

    /// One turn: the clock, what has come in, the open batch, what comes out.
    pub fn turn(&mut self, now_ns: u64, rng: &mut StdRng) {
        if self.node.is_none() {
            return;
        }
        self.now_ns = now_ns;
        self.feed(Input::Tick { now_ns });
        self.do_segment_job(rng);
        self.apply_some(rng);
        for input in std::mem::take(&mut self.inbox) {
            self.feed(input);
        }
        self.pump();
        self.maybe_close_batch();
        self.drain();
    }

    fn feed(&mut self, input: Input) {
        self.trace.push(input.clone());
        if let Some(history) = &mut self.history {
            history.input(&input, &mut self.told);
        }
        if let Some(node) = &mut self.node {
            node.handle(input);
        }
    }

    fn do_segment_job(&mut self, rng: &mut StdRng) {
        if self.segment_jobs.is_empty() || rng.random_bool(0.5) {
            return;
        }
        if self.full {
            if !self.told_full {
                self.told_full = true;
                let seq = self.segment_jobs[0].0;
                self.feed(Input::SegmentFailed { seq, error: "no space left".into() });
            }
            return;
        }
        self.told_full = false;
        let (seq, salt) = self.segment_jobs.remove(0);
        let salt = salt.unwrap_or_else(|| rng.random());
        let geometry = self.config.geometry;
        self.disk.zero(Span::new(geometry.segment_start(seq), geometry.segment_end(seq)));
        self.disk.segments.insert(seq, salt);
        self.feed(Input::SegmentReady { seq, salt });
    }

    /// The application goes on by a batch now and then.
    fn apply_some(&mut self, rng: &mut StdRng) {
        while rng.random_bool(self.apply_chance) {
            let next = self
                .ends
                .range(self.applied.lsn.plus(1)..)
                .next()
                .filter(|(end, _)| **end <= self.apply_upto);
            let Some(position) = next.map(|(_, position)| *position) else { return };
            self.applied = position;
            self.feed(Input::Applied { position });
        }
    }

    fn maybe_close_batch(&mut self) {
        let Some(node) = &self.node else { return };
        let wish = node.wants_batch();
        let Some(open) = &self.open else { return };
        let due = match wish {
            BatchWish::No => false,
            BatchWish::IfAny => !open.body.is_empty(),
            BatchWish::IfLarge => open.body.len() as u64 >= MAX_WRITE_BYTES,
            BatchWish::EvenEmpty | BatchWish::CloseOnly => true,
        };
        if !due {
            return;
        }
        let before = node.watermarks().end;
        let Some(open) = self.open.take() else { return };
        let body_bytes = open.body.len() as u32;
        let stored =
            Span::new(open.start, open.start.plus(BATCH_HEADER_BYTES + u64::from(body_bytes)).block_up());
        let mut bytes = vec![0; stored.len() as usize];
        bytes[BATCH_HEADER_BYTES as usize..BATCH_HEADER_BYTES as usize + open.body.len()]
            .copy_from_slice(&open.body);
        let salt = self.disk.segments[&self.config.geometry.segment_of(open.start)];
        let seed = BodySeed { log: self.config.log, salt, start: open.start };
        let summary = summarize_sealed(&open.body, &seed).expect("the body was built here");
        let closed = wish == BatchWish::CloseOnly;
        if body_bytes > 0 || !closed {
            self.arena.put(open.start, &bytes);
        }
        self.feed(Input::BatchSealed(SealedBatch {
            start: open.start,
            body_bytes,
            records: summary.records,
            payload_bytes: summary.payload_bytes,
            body_crc: summary.crc,
            accepted_ns: open.accepted_ns.unwrap_or(0),
            rule: open.rule,
            closed,
        }));
        for ticket in open.tickets {
            let body = open.start.plus(BATCH_HEADER_BYTES);
            self.feed(Input::Ticket(Ticket {
                id: ticket.id,
                lsn: body.plus(ticket.offset),
                end: body.plus(ticket.end),
                records_through: before.records + ticket.records,
                payload_through: before.payload_bytes + ticket.payload,
                payload_bytes: ticket.own,
                level: ticket.level,
                window: ticket.window,
                accepted_ns: ticket.accepted_ns,
            }));
        }
        if !closed {
            self.open_at(stored.end, open.limit, &[]);
        }
    }

    fn open_at(&mut self, start: Lsn, limit: Lsn, preamble: &[(u64, String)]) {
        let mut body = Vec::new();
        let mut highest = None;
        for (version, rule) in preamble {
            push_record(&mut body, RecordKind::Rule, &encode_rule(*version, rule));
            highest = highest.max(Some(*version));
        }
        self.open = Some(Open {
            start,
            limit,
            body,
            tickets: Vec::new(),
            records: 0,
            payload: 0,
            rule: highest,
            accepted_ns: None,
        });
        self.frozen = false;
    }

    fn drain(&mut self) {
        loop {
            let Some(output) = self.node.as_mut().and_then(Node::poll_output) else {
                return self.show_gauge();
            };
            if let Some(history) = &mut self.history {
                history.output(&output, &mut self.told);
            }
            let text = format!("{output:?}");
            story::say(|| format!("{:>9.3} ms n{} {text}", self.now_ns as f64 / 1e6, self.name));
            let mut hasher = DefaultHasher::new();
            (self.hash, &text).hash(&mut hasher);
            self.hash = hasher.finish();
            if self.record {
                self.outputs.push(text);
            }
            self.carry_out(output);
        }
    }

    /// What the gate shows at a turn's end, for the checker to compare.
    fn show_gauge(&mut self) {
        let (Some(history), Some(node)) = (&mut self.history, &self.node) else { return };
        history.drained(&mut self.told);
        self.has_led |= history.is_leading();
        for (stage, bytes) in Stage::ALL.into_iter().zip(node.exposure_bytes()) {
            let gauge = |exposure_bytes| towline_check::Event::Gauge { stage, exposure_bytes };
            self.told.extend(bytes.filter(|_| history.is_leading()).map(gauge));
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::OpenBatch { start, limit, preamble } => {
                assert!(start.plus(BLOCK_BYTES) <= limit, "an open batch has room for its preamble");
                self.rules.extend(preamble.iter().cloned());
                self.open_at(start, limit, &preamble);
            }
            Output::AppendRule { version, rule } => {
                self.rules.insert(version, rule.clone());
                if let Some(open) = &mut self.open {
                    push_record(&mut open.body, RecordKind::Rule, &encode_rule(version, &rule));
                    open.rule = open.rule.max(Some(version));
                }
            }
            Output::PutHeader { header } => {
                if header.kind == BatchKind::Roll {
                    *self.counts.entry("rolls").or_default() += 1;
                }
                let salt = self.disk.segments[&self.config.geometry.segment_of(header.start)];
                let mut block = self.arena.get(Span::new(header.start, header.start.plus(BLOCK_BYTES)));
                if header.body_bytes == 0 {
                    block = vec![0; BLOCK_BYTES as usize];
                }
                block[..BATCH_HEADER_BYTES as usize].copy_from_slice(&header.encode(salt));
                self.arena.put(header.start, &block);
            }
            Output::Write { span, epoch } => {
                assert!(!span.is_empty() && span.start.is_block_start() && span.end.is_block_start());
                let unfinished = &self.disk.meta.unfinished;
                let recorded =
                    unfinished.iter().any(|known| known.start <= span.start && span.end <= known.end);
                assert!(
                    recorded || self.config.role == StartRole::Primary,
                    "a standby writes what it recorded"
                );
                let bytes = self.arena.get(span);
                self.disk.pending.push(PendingWrite { span, epoch, bytes });
            }
            Output::PrepareSegment { seq, salt } => {
                let first = self.config.geometry.first_batch(seq);
                let end = self.node.as_ref().map_or(Lsn(0), |node| node.watermarks().end.lsn);
                assert!(
                    first >= end || !self.disk.segments.contains_key(&seq),
                    "a segment in use is made anew"
                );
                self.disk.segments.remove(&seq);
                self.segment_jobs.push((seq, salt));
            }
            Output::Recycle { below } => {
                let first = self.config.geometry.segment_of(below);
                assert!(self.disk.meta.log_start >= below, "the meta block is durable before a segment goes");
                *self.counts.entry("trims").or_default() += 1;
                self.disk.segments.retain(|seq, _| *seq >= first);
                self.disk.zero(Span::new(Lsn(0), self.config.geometry.segment_start(first)));
            }
            Output::WriteMeta { meta } => {
                assert!(self.disk.pending_meta.is_none(), "one meta write at a time");
                self.disk.pending_meta = Some(meta);
            }
            Output::Truncate { to, until } => {
                assert!(self.disk.pending.is_empty(), "nothing is in flight at a cut");
                assert!(
                    self.disk.meta.unfinished.iter().any(|span| span.start <= to && until <= span.end),
                    "what is cut is recorded before"
                );
                *self.counts.entry("cuts").or_default() += 1;
                self.segment_jobs.clear();
                self.ends.retain(|end, _| *end <= to);
                self.disk.zero(Span::new(to, until));
                self.arena.zero(Span::new(to, until));
                let last = self.config.geometry.segment_of(to);
                self.disk.segments.retain(|seq, _| *seq <= last);
                let walk = self.disk.walk(self.config.geometry);
                assert_eq!(walk.end.lsn, to, "a cut ends at a batch");
                self.inbox.push_back(Input::Truncated { end: walk.end, previous_hash: walk.hash });
            }
            Output::Freeze { why } => {
                self.frozen_full += u64::from(matches!(why, FreezeReason::Full(_)));
                self.frozen = true;
                self.open = None;
            }
            Output::Release { below } => {
                let durable = self.node.as_ref().map(|node| node.watermarks().flushed.lsn);
                assert!(Some(below) <= durable, "the arena keeps what is not flushed");
                self.arena.zero(Span::new(Lsn(below.0.saturating_sub(2 * self.config.arena_bytes)), below));
            }
            Output::AdoptLog { log, geometry } => {
                self.disk.log = log;
                self.config.log = log;
                self.inbox.push_back(Input::LogAdopted { log, geometry });
            }
            Output::Dial { peer } => self.wishes.push(Wish::Dial(usize::from(peer.0))),
            Output::Frame { session, frame } => {
                if let Frame::Report { watermarks, term, .. } = &frame {
                    assert_eq!(self.disk.meta.adopted, *term, "reports only in a term that is durable here");
                    self.reported_flushed = watermarks.flushed.lsn;
                    self.reported_written = watermarks.written.lsn;
                    let marks = [watermarks.written, watermarks.flushed, watermarks.applied];
                    for (ever, now) in self.ever.iter_mut().zip(marks) {
                        *ever = if now.lsn > ever.lsn { now } else { *ever };
                    }
                    assert!(watermarks.is_ordered());
                }
                if let Frame::Adopted { term, .. } = &frame {
                    assert_eq!(self.disk.meta.adopted, *term, "durable before it is said");
                }
                if matches!(frame, Frame::Fetch { .. }) {
                    *self.counts.entry("fetches").or_default() += 1;
                }
                self.wishes.push(Wish::Say(session, Message::Frame(frame)));
            }
            Output::Send { session, span, source } => {
                let bytes = match source {
                    towline_core::node::Source::Arena => self.arena.get(span),
                    towline_core::node::Source::Segments => {
                        *self.counts.entry("catch-ups").or_default() += 1;
                        self.disk.get(span)
                    }
                };
                self.wishes.push(Wish::Say(session, Message::Bytes(span, bytes)));
                self.inbox.push_back(Input::Sent { session, span });
            }
            Output::Close { session, .. } => self.wishes.push(Wish::Close(session)),
            Output::Receive { session, at, credit } => match &mut self.receiving {
                Some((known, _, room)) if *known == session => *room = credit,
                _ => self.receiving = Some((session, at, credit)),
            },
            Output::Ack { ticket, outcome } => self.wishes.push(Wish::Acked(ticket, outcome)),
            Output::Event(event) => {
                self.halted |= matches!(event, Event::Halted { .. });
                self.events.push(event);
            }
            Output::Apply { upto } => {
                self.apply_upto = upto;
                self.apply_told = self.apply_told.max(upto);
                let flushed = self.node.as_ref().map(|node| node.watermarks().flushed.lsn);
                assert!(Some(upto) <= flushed, "a standby applies what it has flushed");
            }
            Output::ResetApply { from } => {
                self.ends.retain(|end, _| *end <= from);
                let before = self.ends.values().next_back().copied();
                self.applied = before.unwrap_or(Position { lsn: from, ..Position::default() });
                self.apply_upto = from;
            }
            Output::RuleChange { request, result } => self.rule_changes.push((request, result)),
            // Nobody asks for a promotion or a pause here yet.
            Output::Promoted { .. } | Output::Paused { .. } | Output::Standbys { .. } => {}
            Output::Stopped => self.stopped = true,
        }
    }

    /// Something arrived on a session.
    pub fn deliver(&mut self, session: SessionId, message: Message) {
        if let Message::Frame(Frame::Hello(hello)) = &message
            && hello.role == HelloRole::Upstream
        {
            self.inbox.push_back(Input::Accepted { session });
        }
        self.held.entry(session).or_default().push_back(message);
    }

    pub fn session_ended(&mut self, session: SessionId, jitter: u64) {
        self.held.remove(&session);
        if self.receiving.is_some_and(|(receiving, ..)| receiving == session) {
            self.receiving = None;
        }
        self.inbox.push_back(Input::Disconnected { session, error: "gone".into(), jitter });
    }

    /// Passes on what has arrived, in order: frames as they are, bytes once their batch is complete in the arena.
    fn pump(&mut self) {
        let sessions: Vec<SessionId> = self.held.keys().copied().collect();
        for session in sessions {
            while let Some(message) = self.held.get(&session).and_then(|held| held.front()).cloned() {
                match message {
                    Message::Frame(frame) => self.feed(Input::Frame { session, frame }),
                    Message::Bytes(span, bytes) => {
                        let Some((receiving, at, credit)) = self.receiving else { break };
                        if receiving != session {
                            break;
                        }
                        // A sender keeps to the credit; a fetched tail waits in the socket.
                        if span.end > credit {
                            assert!(
                                self.config.role == StartRole::Primary,
                                "the sender stays within the credit"
                            );
                            break;
                        }
                        if !self.receive(session, at, span, &bytes) {
                            break;
                        }
                    }
                }
                if let Some(held) = self.held.get_mut(&session) {
                    held.pop_front();
                }
            }
        }
    }

    /// Takes bytes into the arena and hands over the batches that are complete. False: its segment is not there yet.
    fn receive(&mut self, session: SessionId, mut at: Lsn, span: Span, bytes: &[u8]) -> bool {
        let geometry = self.config.geometry;
        if !self.disk.segments.contains_key(&geometry.segment_of(span.start)) {
            return false;
        }
        self.arena.put(span.start, bytes);
        loop {
            at = geometry.batch_place(at);
            if at.plus(BLOCK_BYTES) > span.end {
                break;
            }
            let Some(salt) = self.disk.segments.get(&geometry.segment_of(at)).copied() else { break };
            let block = self.arena.get(Span::new(at, at.plus(BLOCK_BYTES)));
            let header =
                BatchHeader::decode(&block, self.config.log, salt, geometry).expect("nothing corrupts here");
            if header.stored().end > span.end {
                break;
            }
            let stored = self.arena.get(header.stored());
            let summary = verify_body(&header, &stored[BATCH_HEADER_BYTES as usize..], salt)
                .expect("nothing corrupts here");
            let hash = BatchHeader::hash(&header.encode(salt));
            self.ends.insert(header.end, header.after());
            self.feed(Input::Received { session, header, hash, rules: summary.rules });
            at = header.end;
        }
        if let Some(receiving) = &mut self.receiving {
            receiving.1 = at;
        }
        true
    }
}

fn push_record(body: &mut Vec<u8>, kind: RecordKind, payload: &[u8]) {
    let start = body.len();
    body.extend_from_slice(&encode_record_header(kind, payload.len() as u32, payload_crc(payload)));
    body.extend_from_slice(payload);
    body.resize(start + record_bytes(payload.len() as u64) as usize, 0);
}

//! One process of the scripted world: drives a node by its Inputs and Outputs, as the runtime does.

use std::collections::{BTreeMap, VecDeque};

use rand::RngExt;
use rand::rngs::StdRng;
use towline_core::format::{
    BatchHeader, BodySeed, Frame, HelloRole, RecordKind, encode_record_header, encode_rule, payload_crc,
    record_bytes, summarize_sealed, verify_body,
};
use towline_core::node::{
    BatchWish, Event, Input, Node, NodeConfig, Output, SealedBatch, StartRole, Ticket, TicketOutcome,
};
use towline_core::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES, MAX_BATCH_BYTES};
use towline_core::types::{Level, LogId, Lsn, SessionId, Span, TicketId, Window};

use super::disk::{Disk, PendingWrite, Walk};

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
    pub config: NodeConfig,
    pub node: Option<Node>,
    pub disk: Disk,
    /// Shared memory: survives the process, not the power.
    pub arena: Disk,
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
    /// Inputs, with a poll before each tick: a run can be fed again.
    pub trace: Vec<Input>,
    pub outputs: Vec<String>,
    /// As reported since it was started.
    pub reported_flushed: Lsn,
    pub reported_written: Lsn,
    /// The highest it ever reported: a report may be on its way when its sender dies.
    pub ever_flushed: Lsn,
    pub ever_written: Lsn,
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
            config,
            node: None,
            disk,
            arena: Disk::default(),
            inbox: VecDeque::new(),
            wishes: Vec::new(),
            events: Vec::new(),
            open: None,
            frozen: true,
            receiving: None,
            held: BTreeMap::new(),
            segment_jobs: Vec::new(),
            halted: false,
            trace: Vec::new(),
            outputs: Vec::new(),
            reported_flushed: Lsn(0),
            reported_written: Lsn(0),
            ever_flushed: Lsn(0),
            ever_written: Lsn(0),
        }
    }

    /// Starts the process on what its disk holds. A standby first takes over what shared memory has beyond it.
    pub fn start(&mut self) -> Walk {
        let geometry = self.config.geometry;
        if self.disk.segments.is_empty() && self.config.role == StartRole::Primary {
            self.disk.segments.insert(0, 7);
        }
        self.config.log = self.disk.log;
        self.config.fresh =
            self.config.role == StartRole::Primary && self.disk.meta.adopted == Default::default();
        let mut walk = self.disk.walk(geometry);
        if self.config.role == StartRole::Standby {
            let (disk, arena) = (&self.disk, &self.arena);
            let from = walk.end.lsn;
            let mut found = Walk { end: walk.end, hash: walk.hash, batches: Vec::new() };
            found.extend(disk.log, &disk.segments, &disk.meta.history, geometry, |span| arena.get(span));
            let spans: Vec<Span> = found.batches.iter().map(|batch| batch.header.stored()).collect();
            for span in spans {
                let bytes = self.arena.get(span);
                self.disk.put(span.start, &bytes);
            }
            assert!(found.end.lsn >= from);
            walk = self.disk.walk(geometry);
        }
        let (recovered, _) = self.disk.recover(geometry);
        self.arena = Disk::default();
        self.node = Some(Node::new(self.config.clone(), recovered, self.disk.meta.clone()));
        self.halted = false;
        self.frozen = true;
        self.trace.clear();
        self.outputs.clear();
        walk
    }

    /// The process is gone, and with it everything volatile.
    pub fn stop(&mut self) {
        self.node = None;
        self.open = None;
        self.receiving = None;
        self.inbox.clear();
        self.held.clear();
        self.segment_jobs.clear();
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
        self.feed(Input::Tick { now_ns });
        self.do_segment_job(rng);
        for input in std::mem::take(&mut self.inbox) {
            self.feed(input);
        }
        self.pump();
        self.maybe_close_batch();
        self.drain(now_ns);
    }

    fn feed(&mut self, input: Input) {
        self.trace.push(input.clone());
        if let Some(node) = &mut self.node {
            node.handle(input);
        }
    }

    fn do_segment_job(&mut self, rng: &mut StdRng) {
        if self.segment_jobs.is_empty() || rng.random_bool(0.5) {
            return;
        }
        let (seq, salt) = self.segment_jobs.remove(0);
        let salt = salt.unwrap_or_else(|| rng.random());
        let geometry = self.config.geometry;
        self.disk.zero(Span::new(geometry.segment_start(seq), geometry.segment_end(seq)));
        self.disk.segments.insert(seq, salt);
        self.feed(Input::SegmentReady { seq, salt });
    }

    fn maybe_close_batch(&mut self) {
        let Some(node) = &self.node else { return };
        let wish = node.wants_batch();
        let Some(open) = &self.open else { return };
        let due = match wish {
            BatchWish::No => false,
            BatchWish::IfAny => !open.body.is_empty(),
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

    fn drain(&mut self, now_ns: u64) {
        loop {
            let Some(output) = self.node.as_mut().and_then(Node::poll_output) else { return };
            self.outputs.push(format!("{output:?}"));
            self.carry_out(output, now_ns);
        }
    }

    fn carry_out(&mut self, output: Output, _now_ns: u64) {
        match output {
            Output::OpenBatch { start, limit, preamble } => self.open_at(start, limit, &preamble),
            Output::AppendRule { version, rule } => {
                if let Some(open) = &mut self.open {
                    push_record(&mut open.body, RecordKind::Rule, &encode_rule(version, &rule));
                    open.rule = open.rule.max(Some(version));
                }
            }
            Output::PutHeader { header } => {
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
                let bytes = self.arena.get(span);
                self.disk.pending.push(PendingWrite { span, epoch, bytes });
            }
            Output::PrepareSegment { seq, salt } => self.segment_jobs.push((seq, salt)),
            Output::Recycle { below } => {
                let first = self.config.geometry.segment_of(below);
                assert!(self.disk.meta.log_start >= below, "the meta block is durable before a segment goes");
                self.disk.segments.retain(|seq, _| *seq >= first);
                self.disk.zero(Span::new(Lsn(0), self.config.geometry.segment_start(first)));
            }
            Output::WriteMeta { meta } => {
                assert!(self.disk.pending_meta.is_none(), "one meta write at a time");
                self.disk.pending_meta = Some(meta);
            }
            Output::Truncate { to, until } => {
                assert!(self.disk.pending.is_empty(), "nothing is in flight at a cut");
                self.disk.zero(Span::new(to, until));
                self.arena.zero(Span::new(to, until));
                let last = self.config.geometry.segment_of(to);
                self.disk.segments.retain(|seq, _| *seq <= last);
                let walk = self.disk.walk(self.config.geometry);
                assert_eq!(walk.end.lsn, to, "a cut ends at a batch");
                self.inbox.push_back(Input::Truncated { end: walk.end, previous_hash: walk.hash });
            }
            Output::Freeze { .. } => {
                self.frozen = true;
                self.open = None;
            }
            Output::Release { below } => {
                let durable = self.node.as_ref().map(|node| node.watermarks().flushed.lsn);
                assert!(Some(below) <= durable, "the arena keeps what is not flushed");
                self.arena.zero(Span::new(Lsn(0), below));
            }
            Output::AdoptLog { log, geometry } => {
                self.disk.log = log;
                self.config.log = log;
                self.inbox.push_back(Input::LogAdopted { log, geometry });
            }
            Output::Dial { peer } => self.wishes.push(Wish::Dial(usize::from(peer.0))),
            Output::Frame { session, frame } => {
                if let Frame::Report { watermarks, .. } = &frame {
                    self.reported_flushed = watermarks.flushed.lsn;
                    self.reported_written = watermarks.written.lsn;
                    self.ever_flushed = self.ever_flushed.max(watermarks.flushed.lsn);
                    self.ever_written = self.ever_written.max(watermarks.written.lsn);
                    assert!(watermarks.is_ordered());
                }
                self.wishes.push(Wish::Say(session, Message::Frame(frame)));
            }
            Output::Send { session, span, source } => {
                let bytes = match source {
                    towline_core::node::Source::Arena => self.arena.get(span),
                    towline_core::node::Source::Segments => self.disk.get(span),
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
            Output::RuleChange { .. }
            | Output::Apply { .. }
            | Output::ResetApply { .. }
            | Output::Stopped => {}
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
                        assert!(span.end <= credit, "the sender stays within the credit");
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
        put_bytes(&mut self.arena, span.start, bytes);
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

/// Bytes at any place: whole sectors around them are read, changed and put back.
fn put_bytes(arena: &mut Disk, start: Lsn, bytes: &[u8]) {
    let first = Lsn(start.0 / 512 * 512);
    let end = Lsn((start.0 + bytes.len() as u64).div_ceil(512) * 512);
    let mut whole = arena.get(Span::new(first, end));
    let offset = (start.0 - first.0) as usize;
    whole[offset..offset + bytes.len()].copy_from_slice(bytes);
    arena.put(first, &whole);
}

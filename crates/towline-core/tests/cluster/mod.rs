//! A few nodes in one thread: disks that flush at once (or when told to), links that can be cut, processes that are
//! killed, paused and woken. The log's bytes are headers with labels.

#![allow(unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::new_without_default)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;

use towline_core::format::{BatchHeader, BatchKind};
use towline_core::log::Recovered;
use towline_core::node::{
    BatchWish, Event, FreezeReason, Input, Node, NodeConfig, Output, RoleStatus, SealedBatch, StartRole,
    Ticket, TicketOutcome,
};
use towline_core::types::{
    Geometry, Level, LogId, Lsn, Meta, NodeId, PeerIndex, Position, SessionId, Span, Term, TicketId,
};

const GEOMETRY: Geometry = Geometry { segment_bytes: 8 << 20, in_flight_bytes: 16 << 20 };
const START: Lsn = Lsn(8192);
const STEP_NS: u64 = 10_000_000;

/// A batch: what its header says, and a label for people.
#[derive(Clone)]
struct Batch {
    header: BatchHeader,
    hash: u64,
    rules: Vec<(u64, String)>,
    label: String,
}

struct Machine {
    name: String,
    node: Option<Node>,
    config: NodeConfig,
    meta: Meta,
    /// By start; those below `flushed` outlive a crash.
    log: BTreeMap<Lsn, Batch>,
    flushed: Lsn,
    segments: Vec<(u64, u32)>,
    peers: Vec<String>,
    open: Option<Lsn>,
    /// Rule records and a label for the next batch.
    next_rules: Vec<(u64, String)>,
    next_label: String,
    refusal: String,
    paused: bool,
    held: Option<Vec<(Span, u64)>>,
    inbox: VecDeque<Input>,
    copies: Vec<String>,
}

/// All of them.
pub struct Cluster {
    machines: Vec<Machine>,
    /// Who dialled whom.
    sessions: BTreeMap<u64, (usize, usize)>,
    next_session: u64,
    cuts: BTreeSet<(usize, usize)>,
    now_ns: u64,
    said: String,
    answered: bool,
}

impl Cluster {
    pub fn new() -> Cluster {
        Cluster {
            machines: Vec::new(),
            sessions: BTreeMap::new(),
            next_session: 1,
            cuts: BTreeSet::new(),
            now_ns: 0,
            said: String::new(),
            answered: false,
        }
    }

    /// The first is a fresh primary of the others.
    pub fn found(&mut self, names: &[String], rule: &str) {
        for (at, name) in names.iter().enumerate() {
            let config = NodeConfig {
                node: NodeId(at as u64 + 1),
                name: name.clone(),
                geometry: GEOMETRY,
                log: if at == 0 { LogId([9; 16]) } else { LogId::default() },
                role: if at == 0 { StartRole::Primary } else { StartRole::Standby },
                fresh: at == 0,
                standbys: if at == 0 { names[1..].to_vec() } else { Vec::new() },
                rule: (at == 0).then(|| rule.to_owned()),
                heartbeat_ns: 100_000_000,
                ..NodeConfig::default()
            };
            self.add(config);
        }
        (0..names.len()).for_each(|index| self.start(index));
        self.pass(500);
    }

    /// One more, empty, a standby of nobody yet.
    pub fn join(&mut self, name: &str) {
        let index = self.machines.len();
        self.add(NodeConfig {
            node: NodeId(index as u64 + 1),
            name: name.to_owned(),
            geometry: GEOMETRY,
            heartbeat_ns: 100_000_000,
            ..NodeConfig::default()
        });
        self.start(index);
    }

    fn add(&mut self, config: NodeConfig) {
        self.machines.push(Machine {
            name: config.name.clone(),
            node: None,
            peers: config.standbys.clone(),
            config,
            meta: Meta::default(),
            log: BTreeMap::new(),
            flushed: START,
            segments: Vec::new(),
            open: None,
            next_rules: Vec::new(),
            next_label: String::new(),
            refusal: String::new(),
            paused: false,
            held: None,
            inbox: VecDeque::new(),
            copies: Vec::new(),
        });
    }

    pub fn index(&self, name: &str) -> Result<usize, String> {
        let found = self.machines.iter().position(|machine| machine.name == name);
        found.ok_or_else(|| format!("no node '{name}'"))
    }

    pub fn take_said(&mut self) -> String {
        std::mem::take(&mut self.said)
    }

    pub fn configure(&mut self, index: usize, change: impl FnOnce(&mut NodeConfig)) {
        let machine = &mut self.machines[index];
        change(&mut machine.config);
        machine.peers = machine.config.standbys.clone();
    }

    pub fn start(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        let last = machine.log.values().next_back();
        let rules: Vec<(u64, String)> = machine.log.values().flat_map(|batch| batch.rules.clone()).collect();
        let newest = rules.iter().max_by_key(|rule| rule.0).cloned();
        let recovered = Recovered {
            end: last.map_or(Position { lsn: START, ..Position::default() }, |batch| batch.header.after()),
            previous_hash: last.map_or(0, |batch| batch.hash),
            rule: newest,
            segments: machine.segments.clone(),
            ..Recovered::default()
        };
        machine.meta.history.drop_beyond(recovered.end.lsn);
        machine.node = Some(Node::new(machine.config.clone(), recovered, machine.meta.clone()));
        machine.config.fresh = false;
        self.run();
    }

    /// The power is cut: what is not flushed is gone, and so are its connections.
    pub fn kill(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        let flushed = machine.flushed;
        machine.node = None;
        machine.open = None;
        machine.paused = false;
        machine.held = None;
        machine.inbox.clear();
        machine.next_rules.clear();
        machine.log.retain(|_, batch| batch.header.end <= flushed);
        let ended: Vec<u64> = self.sessions_of(index).collect();
        ended.into_iter().for_each(|session| self.disconnect(session));
        self.run();
    }

    /// It is gone for good, and an empty directory stands in its place.
    pub fn wipe(&mut self, index: usize) {
        self.kill(index);
        let machine = &mut self.machines[index];
        (machine.config.node, machine.config.log) = (NodeId(machine.config.node.0 + 10), LogId::default());
        machine.meta = Meta::default();
        machine.log.clear();
        machine.segments.clear();
        machine.flushed = START;
    }

    pub fn pause(&mut self, index: usize, paused: bool) {
        self.machines[index].paused = paused;
        self.run();
    }

    /// Holds its flushes back, or lets them complete.
    pub fn hold(&mut self, index: usize, hold: bool) {
        let machine = &mut self.machines[index];
        if hold {
            machine.held = Some(Vec::new());
        } else {
            for (span, epoch) in machine.held.take().unwrap_or_default() {
                machine.flushed = machine.flushed.max(span.end);
                machine.inbox.push_back(Input::Flushed { span, epoch });
            }
        }
        self.run();
    }

    pub fn cut(&mut self, one: usize, other: usize, cut: bool) {
        let pair = (one.min(other), one.max(other));
        if cut {
            self.cuts.insert(pair);
            let ended: Vec<u64> = self
                .sessions_of(one)
                .filter(|session| {
                    let (a, b) = self.sessions[session];
                    (a.min(b), a.max(b)) == pair
                })
                .collect();
            ended.into_iter().for_each(|session| self.disconnect(session));
        } else {
            self.cuts.remove(&pair);
        }
        self.run();
    }

    pub fn input(&mut self, index: usize, input: Input) {
        self.answered = false;
        self.machines[index].inbox.push_back(input);
        self.run();
    }

    /// A record of 100 bytes in a batch of its own.
    pub fn append(&mut self, index: usize, ticket: u64, level: Level) {
        let machine = &mut self.machines[index];
        let (Some(start), Some(node)) = (machine.open, &machine.node) else {
            let why = if machine.node.is_some() { machine.refusal.as_str() } else { "down" };
            let _ = writeln!(self.said, "{}: {ticket} refused: {why}", machine.name);
            return;
        };
        let closed = node.wants_batch() == BatchWish::CloseOnly;
        machine.next_label = ticket.to_string();
        self.seal(index, 1, closed);
        if level != Level::Off {
            let before = self.machines[index].log.get(&start).map(|batch| batch.header.after());
            let after = before.unwrap_or_default();
            let ticket = Ticket {
                id: TicketId(ticket),
                lsn: start.plus(128),
                end: start.plus(228),
                records_through: after.records,
                payload_through: after.payload_bytes,
                payload_bytes: 100,
                level,
                window: None,
                accepted_ns: self.now_ns,
            };
            self.machines[index].inbox.push_back(Input::Ticket(ticket));
        }
        self.run();
    }

    fn seal(&mut self, index: usize, records: u32, closed: bool) {
        let machine = &mut self.machines[index];
        let Some(start) = machine.open else { return };
        let rule = machine.next_rules.iter().map(|rule| rule.0).max();
        machine.open = (!closed).then(|| start.plus(4096));
        let batch = SealedBatch {
            start,
            body_bytes: if records > 0 || rule.is_some() { 100 } else { 0 },
            records,
            payload_bytes: 100 * u64::from(records),
            body_crc: 0,
            accepted_ns: self.now_ns,
            rule,
            closed,
        };
        self.feed(index, Input::BatchSealed(batch));
    }

    /// Time passes.
    pub fn pass(&mut self, ms: u64) {
        for _ in 0..(ms * 1_000_000).div_ceil(STEP_NS) {
            self.now_ns += STEP_NS;
            let now_ns = self.now_ns;
            for index in 0..self.machines.len() {
                if self.machines[index].node.is_some() && !self.machines[index].paused {
                    self.feed(index, Input::Tick { now_ns });
                }
            }
            self.run();
        }
    }

    /// Time passes until a promotion or a pause is answered.
    pub fn pass_until_answered(&mut self) {
        for _ in 0..1000 {
            if std::mem::take(&mut self.answered) {
                return;
            }
            self.pass(10);
        }
        self.said.push_str("no answer\n");
    }

    fn run(&mut self) {
        loop {
            let awake = |machine: &Machine| machine.node.is_some() && !machine.paused;
            let Some(index) =
                self.machines.iter().position(|machine| awake(machine) && !machine.inbox.is_empty())
            else {
                if (0..self.machines.len()).any(|index| self.close_batch(index)) {
                    continue;
                }
                return;
            };
            if let Some(input) = self.machines[index].inbox.pop_front() {
                self.feed(index, input);
            }
        }
    }

    /// As the driver does: whether the open batch was closed because the node wanted it.
    fn close_batch(&mut self, index: usize) -> bool {
        let machine = &self.machines[index];
        let Some(node) = machine.node.as_ref().filter(|_| machine.open.is_some() && !machine.paused) else {
            return false;
        };
        let closed = match node.wants_batch() {
            BatchWish::IfAny if !machine.next_rules.is_empty() => false,
            BatchWish::EvenEmpty => false,
            BatchWish::CloseOnly => true,
            _ => return false,
        };
        self.machines[index].next_label = "·".to_owned();
        self.seal(index, 0, closed);
        true
    }

    fn feed(&mut self, index: usize, input: Input) {
        let Some(node) = &mut self.machines[index].node else { return };
        if let Input::Received { header, hash, rules, .. } = &input {
            let label = self.machines.iter().find_map(|machine| {
                let batch = machine.log.get(&header.start)?;
                (batch.hash == *hash).then(|| batch.label.clone())
            });
            let batch = Batch {
                header: *header,
                hash: *hash,
                rules: rules.clone(),
                label: label.unwrap_or_else(|| "?".to_owned()),
            };
            let machine = &mut self.machines[index];
            // In the arena at its own place; the node says whether it belongs.
            machine.log.entry(header.start).or_insert(batch);
            let Some(node) = &mut self.machines[index].node else { return };
            node.handle(input);
        } else {
            node.handle(input);
        }
        while let Some(output) = self.machines[index].node.as_mut().and_then(Node::poll_output) {
            self.carry_out(index, output);
        }
    }

    fn carry_out(&mut self, index: usize, output: Output) {
        let machine = &mut self.machines[index];
        match output {
            Output::OpenBatch { start, preamble, .. } => {
                machine.open = Some(start);
                machine.next_rules = preamble;
            }
            Output::AppendRule { version, rule } => machine.next_rules.push((version, rule)),
            Output::PutHeader { header } => {
                let rules =
                    if header.body_bytes > 0 { std::mem::take(&mut machine.next_rules) } else { Vec::new() };
                let label = match header.kind {
                    BatchKind::Seal => "·".to_owned(),
                    _ if header.records == 0 => "rule".to_owned(),
                    _ => machine.next_label.clone(),
                };
                let hash = BatchHeader::hash(&header.encode(salt(machine, header.start)));
                machine.log.insert(header.start, Batch { header, hash, rules, label });
            }
            Output::Write { span, epoch } => match &mut machine.held {
                Some(held) => held.push((span, epoch)),
                None => {
                    machine.flushed = machine.flushed.max(span.end);
                    machine.inbox.push_back(Input::Flushed { span, epoch });
                }
            },
            Output::PrepareSegment { seq, salt } => {
                let salt = salt.unwrap_or(7);
                machine.segments.retain(|(known, _)| *known != seq);
                machine.segments.push((seq, salt));
                machine.inbox.push_back(Input::SegmentReady { seq, salt });
            }
            Output::WriteMeta { meta } => {
                machine.inbox.push_back(Input::MetaWritten { sequence: meta.sequence });
                machine.meta = meta;
            }
            Output::Truncate { to, .. } => {
                let cut = machine.log.split_off(&to);
                let labels: Vec<String> = cut.into_values().map(|batch| batch.label).collect();
                machine.copies.push(labels.join(" "));
                machine.flushed = machine.flushed.min(to);
                let last = machine.log.values().next_back();
                let end =
                    last.map_or(Position { lsn: START, ..Position::default() }, |batch| batch.header.after());
                let previous_hash = last.map_or(0, |batch| batch.hash);
                machine.inbox.push_back(Input::Truncated { end, previous_hash });
            }
            Output::Freeze { why } => {
                machine.open = None;
                machine.refusal = match why {
                    FreezeReason::Unavailable(why) | FreezeReason::Fenced(why) | FreezeReason::Full(why) => {
                        why
                    }
                    other => format!("{other:?}"),
                };
            }
            Output::AdoptLog { log, geometry } => {
                machine.config.log = log;
                machine.inbox.push_back(Input::LogAdopted { log, geometry });
            }
            Output::Standbys { names } => machine.peers = names,
            Output::Dial { peer } => self.dial(index, peer),
            Output::Frame { session, frame } => {
                self.deliver(index, session, |session| Input::Frame { session, frame })
            }
            Output::Send { session, span, .. } => self.ship(index, session, span),
            Output::Close { session, .. } => self.disconnect(session.0),
            Output::Ack { ticket, outcome } => {
                let outcome = match outcome {
                    TicketOutcome::Committed(committed) => format!("{}", committed.level),
                    TicketOutcome::Indeterminate(why) => format!("indeterminate: {why}"),
                    TicketOutcome::Refused(why) => format!("refused: {why}"),
                };
                let _ = writeln!(self.said, "{}: {} {outcome}", machine.name, ticket.0);
            }
            Output::Event(
                event @ (Event::Leading { .. }
                | Event::SteppedDown { .. }
                | Event::Cut { .. }
                | Event::Halted { .. }
                | Event::Poisoned { .. }
                | Event::StandbyExcluded { .. }
                | Event::StandbyIncluded { .. }
                | Event::StandbyMustResync { .. }),
            ) => {
                let _ = writeln!(self.said, "{}: {}", machine.name, event.line(&machine.peers));
            }
            Output::Promoted { result, .. } => {
                self.answered = true;
                match result {
                    Ok(done) => {
                        let adopters = done.adopters.join(", ");
                        let _ = writeln!(
                            self.said,
                            "promoted in term {} from {}; adopted by [{adopters}]",
                            done.term, done.start
                        );
                        done.warnings.iter().for_each(|line| {
                            let _ = writeln!(self.said, "  {line}");
                        });
                    }
                    Err(why) => {
                        let _ = writeln!(self.said, "refused: {why}");
                    }
                }
            }
            Output::Paused { result, .. } => {
                self.answered = true;
                let _ = match result {
                    Ok(end) => writeln!(self.said, "{}: paused at {end}", machine.name),
                    Err(why) => writeln!(self.said, "{}: not paused: {why}", machine.name),
                };
            }
            Output::RuleChange { .. }
            | Output::Event(_)
            | Output::Recycle { .. }
            | Output::Release { .. }
            | Output::Receive { .. }
            | Output::Apply { .. }
            | Output::ResetApply { .. }
            | Output::Stopped => {}
        }
    }

    fn dial(&mut self, index: usize, peer: PeerIndex) {
        let name = &self.machines[index].peers[usize::from(peer.0)];
        let target = self.machines.iter().position(|machine| machine.name == *name);
        let target = target.filter(|target| {
            let pair = (index.min(*target), index.max(*target));
            self.machines[*target].node.is_some() && !self.cuts.contains(&pair)
        });
        let Some(target) = target else {
            let failed = Input::DialFailed { peer, error: "refused".to_owned(), jitter: 0 };
            return self.machines[index].inbox.push_back(failed);
        };
        let session = SessionId(self.next_session);
        self.next_session += 1;
        self.sessions.insert(session.0, (index, target));
        self.machines[target].inbox.push_back(Input::Accepted { session });
        self.machines[index].inbox.push_back(Input::Connected { peer, session, nonce: session.0 });
    }

    fn deliver(&mut self, from: usize, session: SessionId, input: impl FnOnce(SessionId) -> Input) {
        let Some((dialer, target)) = self.sessions.get(&session.0) else { return };
        let to = if *dialer == from { *target } else { *dialer };
        self.machines[to].inbox.push_back(input(session));
    }

    fn ship(&mut self, from: usize, session: SessionId, span: Span) {
        let batches: Vec<Batch> =
            self.machines[from].log.range(span.start..span.end).map(|(_, batch)| batch.clone()).collect();
        for batch in batches {
            let Batch { header, hash, rules, .. } = batch;
            self.deliver(from, session, |session| Input::Received { session, header, hash, rules });
        }
        self.machines[from].inbox.push_back(Input::Sent { session, span });
    }

    fn sessions_of(&self, index: usize) -> impl Iterator<Item = u64> + '_ {
        let has = move |ends: &(usize, usize)| ends.0 == index || ends.1 == index;
        self.sessions.iter().filter(move |(_, ends)| has(ends)).map(|(session, _)| *session)
    }

    fn disconnect(&mut self, session: u64) {
        let Some((one, other)) = self.sessions.remove(&session) else { return };
        let session = SessionId(session);
        for end in [one, other] {
            let ended = Input::Disconnected { session, error: "closed".to_owned(), jitter: 0 };
            self.machines[end].inbox.push_back(ended);
        }
    }

    /// A line per node: its role, the term it has adopted, its log, the copies of what was cut from it.
    pub fn show(&self) -> String {
        let mut text = String::new();
        for machine in &self.machines {
            let Some(node) = &machine.node else {
                let _ = writeln!(text, "{}: down, log {}", machine.name, labels(machine));
                continue;
            };
            let status = node.status();
            let role = match status.role {
                RoleStatus::Primary(term) => format!("leads {term}"),
                RoleStatus::Standby if status.follows => "follows".to_owned(),
                RoleStatus::Standby => "standby".to_owned(),
                RoleStatus::Restarting => "restarting".to_owned(),
                RoleStatus::Ended(why) => format!("ended: {why}"),
            };
            let adopted: Term = status.adopted;
            let _ = write!(text, "{}: {role}, adopted {adopted}, log {}", machine.name, labels(machine));
            for copy in &machine.copies {
                let _ = write!(text, ", kept [{copy}]");
            }
            text.push('\n');
        }
        text
    }

    /// Whether two logs hold the same batches.
    pub fn compare(&self, one: usize, other: usize) -> String {
        let [one, other] = [one, other].map(|index| &self.machines[index]);
        let hashes = |machine: &Machine| {
            machine.log.iter().map(|(start, batch)| (*start, batch.hash)).collect::<Vec<_>>()
        };
        let equal = hashes(one) == hashes(other);
        format!("{} and {} {}\n", one.name, other.name, if equal { "hold the same log" } else { "DIFFER" })
    }
}

fn salt(machine: &Machine, at: Lsn) -> u32 {
    let seq = GEOMETRY.segment_of(at);
    machine.segments.iter().find(|(known, _)| *known == seq).map_or(7, |(_, salt)| *salt)
}

/// Data records by their tickets, rule records as such; seals are left out: they come with time.
fn labels(machine: &Machine) -> String {
    let shown = machine.log.values().filter(|batch| batch.label != "·");
    let labels: Vec<&str> = shown.map(|batch| batch.label.as_str()).collect();
    format!("[{}]", labels.join(" "))
}

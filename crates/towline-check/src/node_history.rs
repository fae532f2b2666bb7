//! A node's inputs and outputs, turned into the events of a history while it leads.
//!
//! Positions, reports, flush completions, tickets and their ends are taken from what went in and came out. The node
//! is believed in what only it can know, and the checker then holds it to that: which rule is in force, who streams,
//! who is excluded, when it degrades.

use std::collections::{BTreeMap, HashMap, VecDeque};

use towline_core::format::{BatchHeader, Frame};
use towline_core::log::Recovered;
use towline_core::node::{
    Event as NodeEvent, Input, NodeConfig, Output, PromoteRequest, SealedBatch, Ticket, TicketOutcome,
};
use towline_core::replication::{SyncRule, Unmet};
use towline_core::types::limits::BATCH_HEADER_BYTES;
use towline_core::types::{Lsn, Position, SessionId, Span, StandbyWatermarks, Term};

use crate::event::{AckEvent, Event, TicketEvent};

/// Makes events of one life of a node: [`NodeHistory::input`] before each input is handled that the node
/// [hears](towline_core::node::Node::hears), [`NodeHistory::output`] for each output, in the order in which they happen.
#[derive(Debug)]
pub struct NodeHistory {
    config: NodeConfig,
    /// An earlier life of this log stands in the history already.
    goes_on: bool,
    leading: Option<(Term, Lsn)>,
    end: Position,
    /// What was received: a node ignores what comes on a session that it has closed, and only what comes after tells.
    received: VecDeque<Received>,
    /// Batches that are not flushed: stored bytes, end.
    unflushed: VecDeque<(Span, Lsn)>,
    /// Bytes on stable storage past the flushed position, merged.
    durable: BTreeMap<Lsn, Lsn>,
    epoch: u64,
    peers: Vec<Peer>,
    rules: Rules,
    now_ns: u64,
    /// The promotion that was asked for, until it leads.
    promotion: Option<PromoteRequest>,
    /// Asked for while one was under way: refused, and the first goes on.
    promotions_beside: usize,
    /// A report that takes back what was flushed: an exclusion must follow before anything else is said.
    doubtful: Option<Event>,
    /// What asks for more from here on. Acks come out at a turn's end, and may have been due before this came in.
    later: Vec<Event>,
}

/// A log, and the rules in it, before a batch that was received.
#[derive(Debug, Clone, Copy)]
struct Received {
    before: Position,
    in_force: u64,
    pending: Option<u64>,
}

#[derive(Debug, Default)]
struct Peer {
    name: String,
    node: Option<u64>,
    session: Option<SessionId>,
    live: bool,
    /// As last reported: written, flushed, applied.
    marks: [Lsn; 3],
    /// The highest of this turn, when a report took something back: acks may have been due before it.
    high: Option<[Lsn; 3]>,
    /// The lowest since then.
    low: [Lsn; 3],
}

/// Rules as they come by: texts by version, and what the history has been told.
#[derive(Debug, Default)]
struct Rules {
    texts: HashMap<u64, String>,
    in_force: u64,
    pending: Option<u64>,
}

impl Rules {
    /// A rule record that came from a leader: a change can only come behind the one before it.
    fn received(&mut self, version: u64, text: &str) {
        if version > self.pending.unwrap_or(self.in_force) {
            self.texts.insert(version, text.to_owned());
            self.in_force = self.pending.replace(version).unwrap_or(self.in_force);
        }
    }

    /// The rule that a promotion asks for, or the newest, is in force at once if it asks for no fewer than any that
    /// may be in force, or if it is forced.
    fn promoted(&mut self, request: &PromoteRequest) {
        let text = |version: Option<u64>| {
            version.and_then(|version| self.texts.get(&version)).cloned().unwrap_or_default()
        };
        let k = |rule: &str| SyncRule::parse(rule).ok().flatten().map_or(0, |rule| rule.k);
        let newest = self.pending.unwrap_or(self.in_force);
        let known = text(Some(newest));
        let most = k(&text(self.pending)).max(k(&text(Some(self.in_force))));
        let normal = |rule: &String| {
            SyncRule::parse(rule).ok().flatten().map(|rule| rule.to_string()).unwrap_or_default()
        };
        let wanted = request.rule.as_ref().map(normal).filter(|rule| *rule != known);
        let (version, rule) = wanted.map_or((newest, known), |rule| (newest + 1, rule));
        if request.force || k(&rule) >= most {
            self.texts.insert(version, rule);
            (self.in_force, self.pending) = (version, None);
        }
    }
}

impl NodeHistory {
    /// Of a node that starts on this log. With `goes_on` the history holds an earlier life of the log: a leadership
    /// then continues it ([`Event::Leads`]) instead of beginning one ([`Event::Setup`]).
    pub fn new(config: &NodeConfig, recovered: &Recovered, goes_on: bool) -> NodeHistory {
        let mut rules = Rules::default();
        for (version, text) in recovered.rule.iter().chain(&recovered.pending_rule) {
            rules.texts.insert(*version, text.clone());
        }
        rules.in_force = recovered.rule.as_ref().map_or(0, |(version, _)| *version);
        rules.pending = recovered.pending_rule.as_ref().map(|(version, _)| *version);
        let peers =
            config.standbys.iter().map(|name| Peer { name: name.clone(), ..Peer::default() }).collect();
        NodeHistory {
            config: config.clone(),
            goes_on,
            leading: None,
            end: recovered.end,
            received: VecDeque::new(),
            unflushed: VecDeque::new(),
            durable: BTreeMap::new(),
            epoch: 0,
            peers,
            rules,
            now_ns: 0,
            promotion: None,
            promotions_beside: 0,
            doubtful: None,
            later: Vec::new(),
        }
    }

    /// Whether the node leads.
    pub fn is_leading(&self) -> bool {
        self.leading.is_some()
    }

    /// What an input adds to the history.
    pub fn input(&mut self, input: &Input, events: &mut Vec<Event>) {
        match input {
            Input::Tick { now_ns } => {
                self.drained(events);
                self.now_ns = *now_ns;
                events.extend(self.leading.map(|_| Event::Tick { now_ns: *now_ns }));
            }
            Input::Connected { peer, session, .. } => {
                if let Some(peer) = self.peers.get_mut(usize::from(peer.0)) {
                    peer.session = Some(*session);
                }
            }
            Input::Disconnected { session, .. } => self.session_ended(*session, events),
            Input::Frame { session, frame } => self.frame(*session, frame, events),
            Input::Received { header, rules, .. } => {
                self.received(header, rules);
            }
            Input::Promote(_) if self.promotion.is_some() => self.promotions_beside += 1,
            Input::Promote(request) => self.promotion = Some(request.clone()),
            Input::Truncated { end, .. } => {
                self.received.clear();
                self.end = *end;
            }
            Input::BatchSealed(batch) if self.leading.is_some() => self.sealed(batch, events),
            Input::Ticket(ticket) if self.leading.is_some() => events.push(Event::Ticket(of_ticket(ticket))),
            Input::Wait { ticket, lsn, level } if self.leading.is_some() => {
                events.push(Event::Wait { ticket: ticket.0, lsn: *lsn, level: *level });
            }
            Input::Flushed { span, epoch } if self.leading.is_some() && *epoch == self.epoch => {
                self.flushed(*span, events);
            }
            _ => {}
        }
    }

    /// What an output adds to the history.
    pub fn output(&mut self, output: &Output, events: &mut Vec<Event>) {
        match output {
            Output::Write { epoch, .. } => self.epoch = *epoch,
            Output::OpenBatch { preamble, .. } => self.rules.texts.extend(preamble.iter().cloned()),
            Output::AppendRule { version, rule } => {
                self.rules.texts.insert(*version, rule.clone());
            }
            Output::PutHeader { header } => self.placed(header, events),
            // A promotion brings its own; nothing is connected, and nobody leads here.
            Output::Standbys { names } => {
                let peer = |name: &String| Peer { name: name.clone(), ..Peer::default() };
                self.peers = names.iter().map(peer).collect();
            }
            Output::Promoted { result: Err(_), .. } => match self.promotions_beside.checked_sub(1) {
                Some(others) => self.promotions_beside = others,
                None => self.promotion = None,
            },
            Output::RuleChange { result: Ok(version), .. } => self.rule_in_force(*version, events),
            Output::Ack { ticket, outcome } if self.leading.is_some() => {
                self.settle_doubt(events);
                match outcome {
                    TicketOutcome::Committed(ack) => {
                        self.rule_in_force(ack.rule_version, events);
                        events.push(Event::Ack(AckEvent {
                            ticket: ticket.0,
                            lsn: ack.lsn,
                            end: ack.end,
                            level: ack.level,
                            window: ack.window,
                            rule_version: ack.rule_version,
                            fill_bytes: ack.fill_bytes,
                            waited_for_window: ack.waited_for_window,
                        }));
                    }
                    TicketOutcome::Indeterminate(_) | TicketOutcome::Refused(_) => {
                        events.push(Event::Indeterminate { ticket: ticket.0 });
                    }
                }
            }
            Output::Event(event) => self.said(event, events),
            // What waited has been told so before this.
            Output::Stopped => self.leading = None,
            _ => {}
        }
    }

    /// The node had no more to say in this turn. Implied by the next tick; what is compared before that (a gauge)
    /// comes behind this.
    pub fn drained(&mut self, events: &mut Vec<Event>) {
        self.settle_doubt(events);
        events.append(&mut self.later);
        for (index, peer) in self.peers.iter_mut().enumerate() {
            if peer.high.take().is_none() || self.leading.is_none() {
                continue;
            }
            let (number, [written, flushed, applied]) = (index as u16, peer.low);
            if peer.low != peer.marks {
                events.push(Event::Fell { peer: number, written, flushed, applied });
            }
            events.push(report_event(number, peer.marks));
        }
    }

    fn said(&mut self, event: &NodeEvent, events: &mut Vec<Event>) {
        match event {
            NodeEvent::Leading { history } => {
                let Some(entry) = history.last() else { return };
                self.begin(entry.term, entry.start, events);
            }
            NodeEvent::SteppedDown { .. } | NodeEvent::Poisoned { .. } | NodeEvent::Halted { .. } => {
                // Nothing more is decided here, and the gate's view of who streams is given up.
                self.settle_doubt(events);
                self.leading = None;
            }
            NodeEvent::StandbyStreaming { peer } => {
                let place = usize::from(peer.0);
                let is_new = self.peers.get(place).is_some_and(|peer| !peer.live) && self.leading.is_some();
                // A rule that came in this turn knew only those who streamed before.
                if is_new && self.later.iter().any(|event| matches!(event, Event::Rule { .. })) {
                    self.peers[place].live = true;
                    return self.later.push(Event::Live { peer: peer.0, live: true });
                }
                self.set_live(place, true, events);
            }
            NodeEvent::StandbyExcluded { peer, .. } if self.leading.is_some() => {
                self.doubtful = None;
                if let Some(peer) = self.peers.get_mut(usize::from(peer.0)) {
                    (peer.marks, peer.high) = ([Lsn(0); 3], None);
                }
                self.later.push(Event::Excluded { peer: peer.0 });
            }
            NodeEvent::StandbyIncluded { peer, .. } if self.leading.is_some() => {
                // From the very report on that healed it.
                let marks = self.peers.get(usize::from(peer.0)).map(|peer| peer.marks);
                events.push(Event::Included { peer: peer.0 });
                events.extend(marks.map(|marks| report_event(peer.0, marks)));
            }
            NodeEvent::Degraded { .. } => events.push(Event::Degraded),
            // Behind who streams now.
            NodeEvent::Healed if self.later.iter().any(|event| matches!(event, Event::Live { .. })) => {
                self.later.push(Event::Healed);
            }
            NodeEvent::Healed => events.push(Event::Healed),
            _ => {}
        }
    }

    // --- leadership

    fn begin(&mut self, term: Term, start: Lsn, events: &mut Vec<Event>) {
        self.goes_back_to(start);
        self.received.clear();
        if let Some(promotion) = self.promotion.take() {
            self.rules.promoted(&promotion);
        }
        self.leading = Some((term, start));
        self.unflushed.clear();
        self.durable.clear();
        self.later.clear();
        let node = self.config.node.0;
        if self.goes_on {
            events.push(Event::Leads { node, end: start });
        } else {
            events.push(Event::Setup {
                start,
                records: self.end.records,
                payload_bytes: self.end.payload_bytes,
                segment_bytes: self.config.geometry.segment_bytes,
                node,
                degrade_after_ns: match self.config.unmet {
                    Unmet::Stall => None,
                    Unmet::DegradeAfter { ns } => Some(ns),
                },
            });
        }
        self.goes_on = true;
        events.push(Event::Tick { now_ns: self.now_ns });
        for (index, peer) in self.peers.iter_mut().enumerate() {
            peer.live = false;
            (peer.marks, peer.high) = ([Lsn(0); 3], None);
            events.extend(standby_event(index, peer));
        }
        self.begin_rules(start, events);
    }

    fn begin_rules(&mut self, start: Lsn, events: &mut Vec<Event>) {
        // The first rule of a log without a record is in force at once.
        if self.rules.texts.is_empty()
            && self.end.records == 0
            && let Some(rule) = &self.config.rule
        {
            self.rules.texts.insert(1, rule.clone());
            self.rules.in_force = 1;
        }
        let text = |version: u64| self.rules.texts.get(&version).cloned().unwrap_or_default();
        let version = self.rules.in_force;
        if version > 0 {
            events.push(Event::Rule { version, rule: text(version), record_end: None });
        }
        if let Some(version) = self.rules.pending {
            events.push(Event::Rule { version, rule: text(version), record_end: Some(start) });
        }
    }

    fn rule_in_force(&mut self, version: u64, events: &mut Vec<Event>) {
        if self.rules.pending == Some(version) {
            self.rules.pending = None;
            self.rules.in_force = version;
            events.push(Event::RuleInForce { version });
        }
    }

    // --- the log

    fn received(&mut self, header: &BatchHeader, rules: &[(u64, String)]) {
        self.goes_back_to(header.start);
        if self.received.len() >= MOST_RECEIVED {
            self.received.pop_front();
        }
        let (in_force, pending) = (self.rules.in_force, self.rules.pending);
        self.received.push_back(Received { before: self.end, in_force, pending });
        self.end = header.after();
        rules.iter().for_each(|(version, text)| self.rules.received(*version, text));
    }

    /// The log goes on from here: what was received beyond was ignored.
    fn goes_back_to(&mut self, start: Lsn) {
        while self.end.lsn > start
            && let Some(ignored) = self.received.pop_back()
        {
            self.end = ignored.before;
            (self.rules.in_force, self.rules.pending) = (ignored.in_force, ignored.pending);
        }
    }

    fn sealed(&mut self, batch: &SealedBatch, events: &mut Vec<Event>) {
        if batch.closed && batch.body_bytes == 0 {
            return;
        }
        let end = batch.start.plus(BATCH_HEADER_BYTES + u64::from(batch.body_bytes)).block_up();
        self.batch(Span::new(batch.start, end), end, u64::from(batch.records), batch, events);
        let newest = self.rules.pending.unwrap_or(self.rules.in_force);
        let Some(version) = batch.rule.filter(|version| *version > newest) else { return };
        let Some(rule) = self.rules.texts.get(&version).cloned() else { return };
        // A change can only come behind the one before it.
        if let Some(pending) = self.rules.pending {
            self.rule_in_force(pending, events);
        }
        self.rules.pending = Some(version);
        self.later.push(Event::Rule { version, rule, record_end: Some(end) });
    }

    fn batch(&mut self, stored: Span, end: Lsn, records: u64, of: &SealedBatch, events: &mut Vec<Event>) {
        let payload_bytes = of.payload_bytes;
        self.unflushed.push_back((stored, end));
        self.end = Position {
            lsn: end,
            records: self.end.records + records,
            payload_bytes: self.end.payload_bytes + payload_bytes,
        };
        let (start, accepted_ns) = (stored.start, of.accepted_ns);
        events.push(Event::Batch { start, end, records, payload_bytes, accepted_ns });
    }

    /// A batch of records is known from its sealing; what the node places by itself is not.
    fn placed(&mut self, header: &BatchHeader, events: &mut Vec<Event>) {
        if self.leading.is_none() || header.start < self.end.lsn {
            return;
        }
        let of = SealedBatch {
            start: header.start,
            body_bytes: header.body_bytes,
            records: header.records,
            payload_bytes: header.payload_bytes,
            body_crc: header.body_crc,
            accepted_ns: self.now_ns,
            rule: None,
            closed: false,
        };
        self.batch(header.stored(), header.end, u64::from(header.records), &of, events);
    }

    /// Counts a batch as flushed when every byte of it, and of all before it, is on stable storage.
    fn flushed(&mut self, span: Span, events: &mut Vec<Event>) {
        let mut merged = span;
        if let Some((start, end)) = self.durable.range(..=span.start).next_back().map(|(s, e)| (*s, *e))
            && end >= span.start
        {
            merged = Span::new(start, end.max(span.end));
        }
        while let Some((start, end)) =
            self.durable.range(merged.start..=merged.end).next().map(|(s, e)| (*s, *e))
        {
            self.durable.remove(&start);
            merged.end = merged.end.max(end);
        }
        self.durable.insert(merged.start, merged.end);
        let mut reached = None;
        while let Some((stored, end)) = self.unflushed.front().copied() {
            let is_durable =
                self.durable.range(..=stored.start).next_back().is_some_and(|(_, to)| *to >= stored.end);
            if !is_durable {
                break;
            }
            self.unflushed.pop_front();
            reached = Some((stored, end));
        }
        if let Some((stored, lsn)) = reached {
            // What lies before needs no memory.
            let kept = self.durable.split_off(&stored.end);
            let last = std::mem::replace(&mut self.durable, kept).into_iter().next_back();
            if let Some((_, to)) = last.filter(|(_, to)| *to > stored.end) {
                self.durable.insert(stored.end, to);
            }
            events.push(Event::OwnFlushed { lsn });
        }
    }

    // --- standbys

    fn place_of(&self, session: SessionId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.session == Some(session))
    }

    fn frame(&mut self, session: SessionId, frame: &Frame, events: &mut Vec<Event>) {
        let Some(index) = self.place_of(session) else { return };
        match frame {
            Frame::Welcome(welcome) => {
                let peer = &mut self.peers[index];
                let former = peer.node.replace(welcome.node.0);
                let is_other = former.is_some_and(|former| former != welcome.node.0);
                if is_other {
                    (peer.marks, peer.high) = ([Lsn(0); 3], None);
                }
                // Another node takes what the former held with it.
                let sink = if is_other { &mut self.later } else { events };
                sink.extend(standby_event(index, peer).filter(|_| self.leading.is_some()));
            }
            Frame::Report { term, watermarks, .. } => self.report(index, *term, watermarks, events),
            _ => {}
        }
    }

    /// A report counts in the leader's own term, and stage by stage only from the term's start on.
    fn report(&mut self, index: usize, of: Term, marks: &StandbyWatermarks, events: &mut Vec<Event>) {
        let Some((_, start)) = self.leading.filter(|(term, _)| *term == of) else { return };
        let past = |mark: Position| if mark.lsn >= start { mark.lsn } else { Lsn(0) };
        let new = [past(marks.written), past(marks.flushed), past(marks.applied)];
        let number = index as u16;
        let peer = &mut self.peers[index];
        if new[FLUSHED] < peer.marks[FLUSHED] {
            self.settle_doubt(events);
            self.doubtful = Some(report_event(number, new));
            return;
        }
        let is_lower = (0..3).any(|stage| new[stage] < peer.marks[stage]);
        if is_lower || peer.high.is_some() {
            if peer.high.is_none() {
                peer.low = new;
            }
            let before = peer.high.unwrap_or(peer.marks);
            peer.low = [0, 1, 2].map(|stage| peer.low[stage].min(new[stage]));
            let high = [0, 1, 2].map(|stage| before[stage].max(new[stage]));
            peer.high = Some(high);
            peer.marks = new;
            return events.push(report_event(number, high));
        }
        peer.marks = new;
        events.push(report_event(number, new));
    }

    fn settle_doubt(&mut self, events: &mut Vec<Event>) {
        events.extend(self.doubtful.take());
    }

    fn set_live(&mut self, index: usize, live: bool, events: &mut Vec<Event>) {
        let Some(peer) = self.peers.get_mut(index) else { return };
        if peer.live != live && self.leading.is_some() {
            peer.live = live;
            events.push(Event::Live { peer: index as u16, live });
        }
    }

    fn session_ended(&mut self, session: SessionId, events: &mut Vec<Event>) {
        let Some(index) = self.place_of(session) else { return };
        self.peers[index].session = None;
        self.set_live(index, false, events);
    }
}

fn standby_event(index: usize, peer: &Peer) -> Option<Event> {
    Some(Event::Standby { peer: index as u16, name: peer.name.clone(), node: peer.node? })
}

fn report_event(peer: u16, marks: [Lsn; 3]) -> Event {
    let [written, flushed, applied] = marks;
    Event::Report { peer, written, flushed, applied }
}

/// Received batches that may turn out to have been ignored: more than an arena holds.
const MOST_RECEIVED: usize = 1 << 14;
/// Place of a stage among the marks of a report.
const FLUSHED: usize = 1;

fn of_ticket(ticket: &Ticket) -> TicketEvent {
    TicketEvent {
        ticket: ticket.id.0,
        lsn: ticket.lsn,
        end: ticket.end,
        records_through: ticket.records_through,
        payload_through: ticket.payload_through,
        payload_bytes: ticket.payload_bytes,
        level: ticket.level,
        window: ticket.window,
        accepted_ns: ticket.accepted_ns,
    }
}

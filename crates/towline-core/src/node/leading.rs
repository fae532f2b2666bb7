//! The leader: batches, rolls, seals, the sync rule, trimming.
//!
//! The open batch belongs to the producers; the node says when to close it. Header-only batches (the seal that
//! begins a term, rolls, the last seal) are placed by the node itself while no batch is open.

use super::meta_keeper::AfterMeta;
use super::{BatchWish, Event, FreezeReason, Node, Output, Role, SealedBatch, Ticket, TicketOutcome, note};
use crate::bugs::{Bug, bug};
use crate::format::{BatchHeader, BatchKind, BodySeed, summarize_sealed};
use crate::log::Recovered;
use crate::replication::{CommitGate, SyncRule, check_window};
use crate::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES, MAX_TERM_HISTORY};
use crate::types::{Level, Lsn, Term, TicketId};

/// A leadership.
#[derive(Debug)]
pub(super) struct Leading {
    pub(super) term: Term,
    pub(super) start: Lsn,
    pub(super) batch: Batch,
    /// It was promoted: the application still lacks what came before the term.
    pub(super) promoted: bool,
    /// A producer's append does not fit into what is left of the segment.
    roll_wanted: bool,
    /// Producers have been told that there is no room, and why.
    pub(super) full: Option<String>,
    /// The next segment could not be made ready when it was last tried: nothing to say until the log needs it.
    pub(super) unprepared: Option<String>,
}

/// Whether producers have a batch to append to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Batch {
    /// The term's first seal has to be placed.
    TermStart,
    /// To be opened as soon as there is a place for it.
    Opening,
    /// Closed for good until the segment after is in place.
    Rolling,
    Open,
    /// Closed until somebody else leads, or nobody does.
    Paused,
    /// A clean stop: everything accepted is sealed.
    Stopping,
}

impl Leading {
    pub(super) fn new(term: Term, start: Lsn, promoted: bool) -> Leading {
        Leading {
            term,
            start,
            batch: Batch::TermStart,
            promoted,
            roll_wanted: false,
            full: None,
            unprepared: None,
        }
    }
}

/// The sync rule as this node knows it from its log, and a change on its way.
#[derive(Debug)]
pub(super) struct RuleBook {
    in_force: (u64, String),
    pending: Option<(u64, String)>,
    /// Who asked for the change.
    request: Option<u64>,
    /// A record for `pending` is in the log.
    recorded: bool,
}

impl RuleBook {
    pub(super) fn new(recovered: &Recovered, gate: &mut CommitGate) -> RuleBook {
        let in_force = recovered.rule.clone().unwrap_or_default();
        let pending = recovered.pending_rule.clone();
        let rules = RuleBook { in_force, pending, request: None, recorded: false };
        rules.install(gate);
        rules
    }

    pub(super) fn install(&self, gate: &mut CommitGate) {
        gate.install_rule(self.in_force.0, SyncRule::parse(&self.in_force.1).ok().flatten());
    }

    /// A promoted standby's term begins. The rule it wants, or the newest in its log, is in force at once when it asks
    /// for no fewer standbys than any rule that a later candidate may know instead: that one's quorum then meets every
    /// set that acknowledges. Else it is a change like any other, unless the promotion is forced.
    fn promoted(&mut self, wanted: Option<&String>, forced: bool) {
        let newest = self.pending.clone().unwrap_or_else(|| self.in_force.clone());
        let next = match wanted {
            Some(rule) if *rule != newest.1 => (newest.0.saturating_add(1), rule.clone()),
            _ => newest,
        };
        let k = SyncRule::parse(&next.1).ok().flatten().map_or(0, |rule| usize::from(rule.k));
        if forced || k >= self.synchronous().1 {
            (self.in_force, self.pending) = (next, None);
        }
    }

    /// A rule record was received: the newest is what the leader wants; which of two is in force only it knows.
    pub(super) fn received(&mut self, version: u64, rule: String) {
        let newest = self.pending.as_ref().map_or(self.in_force.0, |pending| pending.0);
        // A change that was cut with a deposed leader's tail may have borne the number: the log has the last word.
        if version > 0 && version == self.in_force.0 {
            self.in_force.1 = rule;
        } else if let Some(known) = self.pending.as_mut().filter(|known| known.0 == version) {
            known.1 = rule;
        } else if version > newest {
            if let Some(pending) = self.pending.take() {
                self.in_force = pending;
            }
            self.pending = Some((version, rule));
        }
    }

    /// Smallest and largest k of the rules that may be in force; (0, 0) without one. Having had no rule promised
    /// nothing, so it asks for nothing.
    pub(super) fn synchronous(&self) -> (usize, usize) {
        let k = |rule: &String| SyncRule::parse(rule).ok().flatten().map(|rule| usize::from(rule.k));
        let rules = [k(&self.in_force.1), self.pending.as_ref().and_then(|pending| k(&pending.1))];
        let ks = || rules.iter().flatten().copied();
        (ks().min().unwrap_or(0), ks().max().unwrap_or(0))
    }

    fn preamble(&self) -> Vec<(u64, String)> {
        let in_force = (self.in_force.0 > 0).then(|| self.in_force.clone());
        in_force.into_iter().chain(self.pending.clone()).collect()
    }
}

impl Node {
    /// What the driver should do with the open batch. Greedy: a free flush slot takes whatever is there.
    pub fn wants_batch(&self) -> BatchWish {
        let Role::Leading(leading) = &self.role else { return BatchWish::No };
        if leading.batch != Batch::Open || !self.tail.has_room() {
            BatchWish::No
        } else if !self.tail.has_free_slot() {
            if self.tail.has_bulk_slot() { BatchWish::IfLarge } else { BatchWish::No }
        } else if self.stopping || self.pause.is_some() || leading.roll_wanted || !self.fits_a_block() {
            BatchWish::CloseOnly
        } else if self.seal_deadline_ns().is_some_and(|deadline| deadline <= self.now_ns) {
            BatchWish::EvenEmpty
        } else {
            BatchWish::IfAny
        }
    }

    /// Whether the segment has room for a batch beside the roll that closes it.
    fn fits_a_block(&self) -> bool {
        let start = self.tail.next_batch();
        start.plus(BLOCK_BYTES) <= self.segments.batch_limit(start)
    }

    /// An idle log is sealed, so that its last batches can be told from a torn tail.
    pub(super) fn seal_deadline_ns(&self) -> Option<u64> {
        let Role::Leading(Leading { batch: Batch::Open, .. }) = &self.role else { return None };
        (!self.sealed && self.tail.is_flushed()).then_some(self.last_batch_ns + self.config.seal_after_ns)
    }

    /// The history entry is durable: lead.
    pub(super) fn lead(&mut self) {
        let Some(entry) = self.meta.get().history.last() else { return };
        let asked = self.asked();
        // What the gate found while nobody led here is void.
        self.settle_gate();
        self.gate.begin_term(self.tail.flushed());
        self.gate.own_flushed(self.tail.flushed());
        self.role = Role::Leading(Leading::new(entry.term, entry.start, self.promotion.is_some()));
        self.say(Event::Leading { history: self.meta.get().history.clone() });
        self.bound_registrations(entry.start);
        if let Some(promotion) = &self.promotion {
            self.rules.promoted(self.config.rule.as_ref(), promotion.is_forced());
        }
        // What was received or fetched on the way may have changed it.
        self.rules.install(&mut self.gate);
        self.begin_rules();
        self.begin_shipping(entry.term, entry.start);
        self.end_promotion(entry.term, entry.start, &asked);
    }

    /// What a standby had flushed beyond the term's start it is about to cut: no loss of its own.
    fn bound_registrations(&mut self, start: Lsn) {
        if self.meta.get().standbys.iter().any(|standby| standby.flushed > start) {
            self.meta.change(|meta| {
                meta.standbys.iter_mut().for_each(|standby| standby.flushed = standby.flushed.min(start));
            });
        }
    }

    /// The rule of the configuration: in force at once in a log that has neither a record nor a rule (a new one, or
    /// one whose first rule did not outlive a crash: nothing was acknowledged), else a change like any other.
    fn begin_rules(&mut self) {
        if let Some((version, rule)) = self.rules.pending.clone() {
            let parsed = SyncRule::parse(&rule).ok().flatten();
            if let Err(refused) = self.gate.set_rule(version, parsed, self.tail.end().lsn) {
                self.out.push_back(note(format!("pending sync rule version {version}: {refused}")));
                self.rules.pending = None;
            }
        }
        let Some(wanted) = self.config.rule.clone() else { return };
        let is_ruled = self.rules.in_force.0 > 0 || self.rules.pending.is_some();
        if !is_ruled && self.tail.end().records == 0 {
            match SyncRule::parse(&wanted) {
                Ok(rule) => {
                    self.gate.install_rule(1, rule);
                    self.rules.in_force = (1, wanted);
                }
                Err(refused) => self.out.push_back(note(refused.to_string())),
            }
        } else if self.rules.in_force.1 != wanted
            && self.rules.pending.as_ref().is_none_or(|pending| pending.1 != wanted)
            && let Err(refused) = self.propose_rule(&wanted, None)
        {
            self.out.push_back(note(format!("sync rule '{wanted}': {refused}")));
        }
    }

    pub(super) fn handle_set_rule(&mut self, request: u64, rule: &str) {
        let result = match &self.role {
            Role::Leading(_) => self.propose_rule(rule, Some(request)),
            _ => Err("this node does not lead".to_owned()),
        };
        if let Err(refused) = result {
            self.out.push_back(Output::RuleChange { request, result: Err(refused) });
        }
    }

    fn propose_rule(&mut self, rule: &str, request: Option<u64>) -> Result<(), String> {
        let parsed = SyncRule::parse(rule).map_err(|refused| refused.to_string())?;
        if let Some((pending, _)) = &self.rules.pending {
            return Err(format!("sync rule version {pending} is not in force yet"));
        }
        let next = self.rules.in_force.0.checked_add(1);
        let version = next.ok_or_else(|| "the sync rule has had every version there is".to_owned())?;
        self.gate.check_rule(version, parsed.as_ref()).map_err(|refused| refused.to_string())?;
        let written = parsed.as_ref().map(ToString::to_string).unwrap_or_default();
        self.rules.pending = Some((version, written.clone()));
        self.rules.request = request;
        self.rules.recorded = false;
        if matches!(self.role, Role::Leading(Leading { batch: Batch::Open, .. })) {
            self.out.push_back(Output::AppendRule { version, rule: written });
        }
        Ok(())
    }

    fn rule_recorded(&mut self, version: u64, record_end: Lsn) {
        let Some((pending, rule)) = self.rules.pending.clone() else { return };
        if pending != version || self.rules.recorded {
            return;
        }
        self.rules.recorded = true;
        let parsed = SyncRule::parse(&rule).ok().flatten();
        if let Err(refused) = self.gate.set_rule(version, parsed, record_end)
            && self.gate.pending_rule().is_none_or(|(known, _)| known != version)
        {
            self.end_rule_change(Err(refused.to_string()));
        }
    }

    pub(super) fn handle_rule_in_force(&mut self, version: u64) {
        if let Some(pending) = self.rules.pending.take_if(|pending| pending.0 == version) {
            self.rules.in_force = pending;
        }
        self.end_rule_change(Ok(version));
    }

    fn end_rule_change(&mut self, result: Result<u64, String>) {
        if let Some(request) = self.rules.request.take() {
            self.out.push_back(Output::RuleChange { request, result });
        }
    }

    pub(super) fn handle_batch_sealed(&mut self, batch: SealedBatch) {
        let Role::Leading(leading) = &mut self.role else { return };
        if batch.closed {
            leading.batch = match self.pause {
                _ if self.stopping => Batch::Stopping,
                Some(_) => Batch::Paused,
                None => Batch::Rolling,
            };
        }
        if batch.closed && batch.body_bytes == 0 {
            return self.freeze_when_stopping();
        }
        if batch.start != self.tail.next_batch() {
            let next = self.tail.next_batch();
            return self.poison(&format!("a batch was built at {}, where {next} is next", batch.start));
        }
        let kind = if batch.records == 0 && batch.rule.is_none() { BatchKind::Seal } else { BatchKind::Data };
        self.place(kind, Some(batch));
        if let Some(version) = batch.rule {
            self.rule_recorded(version, self.tail.end().lsn);
        }
        self.freeze_when_stopping();
    }

    /// Everything accepted is in its batch: nobody waits for another.
    fn freeze_when_stopping(&mut self) {
        if matches!(self.role, Role::Leading(Leading { batch: Batch::Paused, .. })) {
            return self.freeze_when_paused();
        }
        if self.stopping && matches!(self.role, Role::Leading(Leading { batch: Batch::Stopping, .. })) {
            self.freeze(FreezeReason::Stopping);
        }
    }

    /// Puts a batch at the log's end. `sealed` describes its body; without one it is header only.
    fn place(&mut self, kind: BatchKind, sealed: Option<SealedBatch>) {
        let Role::Leading(leading) = &self.role else { return };
        let start = self.tail.next_batch();
        let Some(salt) = self.segments.salt_of(start) else { return };
        let end = self.tail.end();
        let body_bytes = sealed.map_or(0, |batch| batch.body_bytes);
        let body_end = start.plus(BATCH_HEADER_BYTES + u64::from(body_bytes));
        let mut header = BatchHeader {
            kind,
            log: self.config.log,
            term: leading.term,
            start,
            end: if bug(Bug::TailRewritten) { body_end } else { body_end.block_up() },
            body_bytes,
            records: sealed.map_or(0, |batch| batch.records),
            payload_bytes: sealed.map_or(0, |batch| batch.payload_bytes),
            records_before: end.records,
            payload_before: end.payload_bytes,
            durable_before: self.tail.flushed().lsn,
            previous_hash: self.tail.previous_hash(),
            body_crc: sealed.map_or_else(|| self.empty_body_crc(salt, start), |batch| batch.body_crc),
        };
        if kind == BatchKind::Roll {
            self.segments.rolled(header.end);
            header.end = self.config.geometry.segment_end(self.config.geometry.segment_of(start));
        }
        self.out.push_back(Output::PutHeader { header });
        self.tail.push(&header, BatchHeader::hash(&header.encode(salt)));
        self.gate.batch(start, header.after(), sealed.map_or(self.now_ns, |batch| batch.accepted_ns));
        self.sealed = kind == BatchKind::Seal;
        self.last_batch_ns = self.now_ns;
    }

    fn empty_body_crc(&self, salt: u32, start: Lsn) -> u32 {
        summarize_sealed(&[], &BodySeed { log: self.config.log, salt, start })
            .map_or(0, |summary| summary.crc)
    }

    pub(super) fn handle_ticket(&mut self, ticket: Ticket) {
        let has_rule = self.gate.rule().1.is_some() || self.gate.pending_rule().is_some();
        match (&self.role, check_window(ticket.level, ticket.window, has_rule)) {
            (Role::Leading(_), Ok(())) => self.gate.ticket(ticket),
            // The record is in the log: its window can be refused, the record itself cannot.
            (Role::Leading(_), Err(refused)) => {
                self.gate.leave_unacknowledged(&ticket);
                self.end_ticket(ticket.id, refused.to_string());
            }
            _ => self.end_ticket(ticket.id, "this node no longer leads".to_owned()),
        }
    }

    pub(super) fn handle_wait(&mut self, ticket: TicketId, lsn: Lsn, level: Level) {
        if self.is_leading() {
            self.gate.wait(ticket, lsn, level);
        } else {
            let outcome = TicketOutcome::Refused("this node does not lead".to_owned());
            self.out.push_back(Output::Ack { ticket, outcome });
        }
    }

    fn end_ticket(&mut self, ticket: TicketId, why: String) {
        self.out.push_back(Output::Ack { ticket, outcome: TicketOutcome::Indeterminate(why) });
    }

    /// An append of `bytes` did not fit: if the segment cannot hold it, roll; else the next batch will.
    pub(super) fn handle_pressure(&mut self, bytes: u64) {
        let start = self.tail.next_batch();
        let fits = start.plus(BATCH_HEADER_BYTES + bytes) <= self.segments.batch_limit(start);
        if let Role::Leading(leading) = &mut self.role
            && leading.batch == Batch::Open
            && !fits
        {
            leading.roll_wanted = true;
        }
    }

    pub(super) fn handle_stop(&mut self) {
        self.stopping = true;
        if self.has_ended() {
            self.out.push_back(Output::Stopped);
        } else if !matches!(self.role, Role::Leading(Leading { batch: Batch::Open, .. })) {
            self.freeze(FreezeReason::Stopping);
            if let Role::Leading(leading) = &mut self.role {
                leading.batch = Batch::Stopping;
            }
        }
    }

    pub(super) fn settle_leading(&mut self) {
        let Role::Leading(leading) = &self.role else {
            if self.stopping && self.tail.is_flushed() && !self.following.truncating {
                self.finish_stop();
            }
            return;
        };
        match leading.batch {
            Batch::TermStart => self.start_term(),
            Batch::Opening => self.maybe_open(),
            Batch::Rolling => self.maybe_roll(),
            Batch::Stopping => self.maybe_stop(),
            Batch::Open | Batch::Paused => {}
        }
        if let Some(seq) = self.segments.next_to_prepare(self.tail.end().lsn) {
            self.out.push_back(Output::PrepareSegment { seq, salt: None });
        }
        self.retry_trim();
    }

    /// Rule 4: the first batch of a term is an empty seal.
    fn start_term(&mut self) {
        if self.segments.salt_of(self.tail.next_batch()).is_some() {
            self.place(BatchKind::Seal, None);
            if self.is_crowded_with_terms() {
                return self.begin_roll();
            }
            self.maybe_open();
        }
    }

    /// Half of the terms that a history can hold begin in the present segment. A trim takes whole segments, so the log
    /// goes on in the next: else restarts alone could fill the history beyond what any trim can free.
    fn is_crowded_with_terms(&self) -> bool {
        let geometry = self.config.geometry;
        let present = geometry.segment_of(self.tail.next_batch());
        let entries = self.meta.get().history.entries();
        let in_present = entries.iter().filter(|entry| geometry.segment_of(entry.start) == present).count();
        in_present >= MAX_TERM_HISTORY / 2
    }

    fn begin_roll(&mut self) {
        if let Role::Leading(leading) = &mut self.role {
            leading.batch = Batch::Rolling;
        }
    }

    /// The seal of a term may have filled its segment: the next must be in place, or the roll comes first.
    fn maybe_open(&mut self) {
        let start = self.tail.next_batch();
        let batch = if self.segments.salt_of(start).is_none() {
            self.tell_unprepared();
            Batch::Opening
        } else if !self.fits_a_block() {
            Batch::Rolling
        } else {
            return self.open_batch();
        };
        if let Role::Leading(leading) = &mut self.role {
            leading.batch = batch;
        }
    }

    /// The roll closes its segment only when the next is in place: until then the log could not go on, and a
    /// crash would find a segment closed towards nothing.
    fn maybe_roll(&mut self) {
        let geometry = self.config.geometry;
        let next = geometry.segment_of(self.tail.next_batch()) + 1;
        if self.segments.salt_of(geometry.first_batch(next)).is_some() || bug(Bug::RollTooEarly) {
            self.place(BatchKind::Roll, None);
            self.maybe_open();
        } else if !self.segments.within_retention(next) {
            self.tell_full(format!(
                "the log has reached its retention limit of {} bytes past the last trim: trim it, or raise the limit",
                self.config.retention_bytes
            ));
        } else {
            self.tell_unprepared();
        }
    }

    fn open_batch(&mut self) {
        let start = self.tail.next_batch();
        let preamble = self.rules.preamble();
        let limit = self.segments.batch_limit(start);
        self.out.push_back(Output::OpenBatch { start, limit, preamble });
        if let Role::Leading(leading) = &mut self.role {
            leading.batch = Batch::Open;
            leading.roll_wanted = false;
            leading.full = None;
        }
    }

    /// Everything accepted is in batches; once they are flushed, a seal says so, and once that is, the log is done.
    fn maybe_stop(&mut self) {
        if !self.tail.is_flushed() {
            return;
        }
        if self.sealed || self.segments.salt_of(self.tail.next_batch()).is_none() {
            self.finish_stop();
        } else {
            self.place(BatchKind::Seal, None);
        }
    }

    fn finish_stop(&mut self) {
        // A clean stop leaves no acknowledgement out of the net.
        if self.is_acknowledged_news() {
            self.record_acknowledged();
        }
        if self.meta.is_busy() {
            return;
        }
        self.fail_promotion("the node is stopping");
        self.fail_pause("the node is stopping");
        self.gate.fail_all("the node is stopping");
        self.settle_gate();
        self.close_all_sessions("the node is stopping");
        self.role = Role::Ended { why: "stopped".to_owned() };
        self.out.push_back(Output::Stopped);
    }

    pub(super) fn handle_segment_ready(&mut self, seq: u64, salt: u32) {
        if let Role::Leading(leading) = &mut self.role {
            leading.unprepared = None;
        }
        if self.segments.ready(seq, salt) {
            self.offer_segment(seq, salt);
        }
    }

    /// The application needs nothing below; standbys hold it back up to the limit. A standby follows its leader's trims
    /// only: it has an application of its own, and others may need from it what it has after its promotion.
    pub(super) fn handle_trim(&mut self, below: Lsn) {
        match self.trim_refusal() {
            Some(why) if !bug(Bug::TrimmedAtItsPort) => {
                self.out.push_back(note(format!("a trim below {below} was refused: {why}")));
            }
            _ => self.trim_below(below.min(self.last_flushed_byte())),
        }
    }

    /// Why a trim that is asked for now would be refused.
    pub fn trim_refusal(&self) -> Option<&'static str> {
        (!matches!(self.role, Role::Leading(_) | Role::Restarting(_))).then_some(TRIM_REFUSED)
    }

    /// What the application of a promoted standby has still to read of what came before its term.
    fn unread_from(&self) -> Option<Lsn> {
        let reach = match &self.role {
            Role::Leading(leading) if leading.promoted => leading.start,
            Role::Restarting(_) if self.promotion.is_some() => self.tail.end().lsn,
            _ => return None,
        };
        Some(self.following.applied()).filter(|applied| self.config.applies && *applied < reach)
    }

    fn trim_below(&mut self, below: Lsn) {
        let farthest = Lsn(self.tail.end().lsn.0.saturating_sub(self.config.hold_bytes));
        let flushed = self.last_flushed_byte();
        let held = self.slowest_standby().unwrap_or(flushed).max(farthest).min(flushed);
        let held = if bug(Bug::TrimPastStandbys) { flushed } else { held };
        let unread = self.unread_from().filter(|_| !bug(Bug::TrimPastApplication));
        let held = unread.map_or(held, |unread| held.min(unread));
        let pending = self.meta.awaits(|after| matches!(after, AfterMeta::Started { .. }));
        if let Some(at) = self.segments.trim(below, held)
            && !pending
        {
            self.meta.change(|meta| {
                meta.log_start = at;
                meta.history.prune_below(at);
            });
            self.meta.then(AfterMeta::Started { at });
        }
    }

    /// A standby that held a trim back may have moved on.
    fn retry_trim(&mut self) {
        if self.segments.trim_is_held() {
            self.trim_below(Lsn(0));
        }
    }
}

const TRIM_REFUSED: &str = "this node does not lead: trim at the primary, whose standbys follow";

//! Walks a history once and holds every statement against the facts before it.

use std::collections::HashMap;

use towline_core::replication::{Stage, SyncRule};
use towline_core::types::limits::SEGMENT_HEADER_BYTES;
use towline_core::types::{Level, Lsn, Position, Window};

use crate::event::{AckEvent, Event, TicketEvent};
use crate::history::Batches;
use crate::outcome::Verdict;
use crate::rules::{Bound, Quorum, Standby};
use crate::violation::{Kind, Violation};

/// Judges a history. Outputs of the gate (acks, `RuleInForce`, `Degraded`, `Healed`) stand directly behind the
/// fact that caused them.
pub fn check(events: &[Event]) -> Verdict {
    let mut checker = Checker::new(events);
    for (at, event) in events.iter().enumerate() {
        checker.at = at;
        checker.see(event);
        checker.watch_quorum();
    }
    checker.verdict.summary.open = checker.tickets.values().filter(|ticket| !ticket.ended).count() as u64;
    checker.verdict
}

/// A ticket, open or ended.
#[derive(Clone, Copy, Debug)]
struct Known {
    ticket: TicketEvent,
    is_wait: bool,
    /// The rule in force when it came.
    generation: usize,
    ended: bool,
}

struct Checker {
    at: usize,
    verdict: Verdict,
    now_ns: u64,
    segment_bytes: u64,
    /// `None`: the history does not say; inner `None`: stall.
    degrade_after_ns: Option<Option<u64>>,
    batches: Batches,
    last_batch: (Lsn, Lsn),
    /// Where the last ticket of the last batch ended, with the counts there.
    last_ticket: Position,
    own_flushed: Lsn,
    quorum: Quorum,
    tickets: HashMap<u64, Known>,
    /// Open tickets per generation of the rule.
    open: Vec<usize>,
    /// Times of acks with the highest end acknowledged up to then.
    acked_by: Vec<(u64, Lsn)>,
    unmet_since_ns: Option<u64>,
    degraded: bool,
    heal_at: Option<Lsn>,
}

impl Checker {
    fn new(events: &[Event]) -> Checker {
        let first = events.iter().find_map(|event| match event {
            Event::Setup { start, records, payload_bytes, .. } => {
                Some(Position { lsn: *start, records: *records, payload_bytes: *payload_bytes })
            }
            Event::Batch { start, .. } => Some(Position { lsn: *start, ..Position::default() }),
            _ => None,
        });
        let start = first.unwrap_or_default();
        let count = events.iter().filter(|event| matches!(event, Event::Batch { .. })).count();
        let mut quorum = Quorum::default();
        quorum.add_rule(0, None, Lsn(0));
        Checker {
            at: 0,
            verdict: Verdict::default(),
            now_ns: 0,
            segment_bytes: 0,
            degrade_after_ns: None,
            batches: Batches::new(start, count),
            last_batch: (start.lsn, start.lsn),
            last_ticket: start,
            own_flushed: start.lsn,
            quorum,
            tickets: HashMap::new(),
            open: vec![0],
            acked_by: Vec::new(),
            unmet_since_ns: None,
            degraded: false,
            heal_at: None,
        }
    }

    fn see(&mut self, event: &Event) {
        match event {
            Event::Setup { segment_bytes, node, degrade_after_ns, .. } => {
                self.segment_bytes = *segment_bytes;
                self.quorum.own = *node;
                self.degrade_after_ns = Some(*degrade_after_ns);
            }
            Event::Tick { now_ns } => {
                if *now_ns < self.now_ns {
                    self.flag(Kind::ClockBackwards, format!("{now_ns} after {}", self.now_ns));
                }
                self.now_ns = self.now_ns.max(*now_ns);
            }
            Event::TermStarted => self.quorum.forget_reports(),
            Event::Standby { peer, name, node } => self.see_standby(*peer, name, *node),
            Event::Live { peer, live } => self.change_standby(*peer, |standby| standby.live = *live),
            Event::Excluded { peer } => self.change_standby(*peer, |standby| {
                standby.excluded = true;
                standby.marks = None;
            }),
            Event::Included { peer } => self.change_standby(*peer, |standby| standby.excluded = false),
            Event::Report { peer, written, flushed, applied } => {
                self.see_report(*peer, [*written, *flushed, *applied]);
            }
            Event::Batch { start, end, records, payload_bytes, accepted_ns } => {
                self.see_batch(*start, *end, *records, *payload_bytes, *accepted_ns);
            }
            Event::Ticket(ticket) => self.see_ticket(ticket),
            Event::Wait { ticket, lsn, level } => self.see_wait(*ticket, *lsn, *level),
            Event::OwnFlushed { lsn } => self.see_own_flushed(*lsn),
            Event::Rule { version, rule, record_end } => self.see_rule(*version, rule, *record_end),
            Event::RuleInForce { version } => self.see_rule_in_force(*version),
            Event::Degraded => self.see_degraded(),
            Event::Healed => self.see_healed(),
            Event::Ack(ack) => self.see_ack(ack),
            Event::Indeterminate { ticket } => {
                if self.end_ticket(*ticket).is_some() {
                    self.verdict.summary.indeterminate += 1;
                }
            }
            Event::Gauge { stage, exposure_bytes } => {
                if let Some(truth) = self.exposure(*stage).filter(|truth| exposure_bytes < truth) {
                    self.flag(
                        Kind::ExposureUnderstated,
                        format!("{stage}: {exposure_bytes} of {truth} bytes"),
                    );
                }
            }
        }
    }

    // --- standbys

    fn see_standby(&mut self, peer: u16, name: &str, node: u64) {
        match self.quorum.standby(peer) {
            Some(standby) if standby.node == node => {}
            Some(standby) => {
                // Another node: what the old one held is not behind this address any more.
                standby.node = node;
                standby.marks = None;
                standby.excluded = false;
            }
            None => self.quorum.standbys.push(Standby {
                peer,
                name: name.to_owned(),
                node,
                live: false,
                excluded: false,
                marks: None,
            }),
        }
        self.quorum.recompute();
    }

    fn change_standby(&mut self, peer: u16, change: impl FnOnce(&mut Standby)) {
        if let Some(standby) = self.quorum.standby(peer) {
            change(standby);
            self.quorum.recompute();
        }
    }

    fn see_report(&mut self, peer: u16, marks: [Lsn; 3]) {
        let [written, flushed, applied] = marks;
        if applied > flushed || flushed > written {
            self.flag(Kind::ReportUnordered, format!("{applied}, {flushed}, {written}"));
        }
        let end = self.batches.end().lsn;
        for mark in marks.into_iter().filter(|mark| mark.0 > 0) {
            if mark > end {
                self.flag(Kind::ReportBeyondLog, format!("{mark} of {end}"));
            } else if mark >= self.batches.start() && self.batches.position(mark).is_none() {
                self.flag(Kind::ReportNoBatchEnd, format!("{mark}"));
            }
        }
        let before = self.quorum.standby(peer).filter(|standby| !standby.excluded).map(|s| s.marks);
        let Some(before) = before else { return };
        if let Some([_, old, _]) = before.filter(|[_, old, _]| flushed < *old) {
            self.flag(Kind::StandbyLostData, format!("flushed {flushed} after {old}, and it still counts"));
        }
        self.change_standby(peer, |standby| standby.marks = Some(marks));
    }

    /// Follows who streams, as the promise about degrading needs it.
    fn watch_quorum(&mut self) {
        if !self.quorum.is_met(self.oldest_generation()) {
            self.heal_at = None;
            self.unmet_since_ns = self.unmet_since_ns.or(Some(self.now_ns));
            return;
        }
        self.unmet_since_ns = None;
        if self.degraded && self.heal_at.is_none() {
            self.heal_at = Some(self.own_flushed);
        }
    }

    /// The oldest rule that somebody waits under, or the one in force.
    fn oldest_generation(&self) -> usize {
        let oldest = self.open.iter().position(|count| *count > 0);
        oldest.unwrap_or(self.quorum.in_force).min(self.quorum.in_force)
    }

    // --- the log

    fn see_batch(&mut self, start: Lsn, end: Lsn, records: u64, payload_bytes: u64, accepted_ns: u64) {
        self.verdict.summary.batches += 1;
        let previous = self.batches.end().lsn;
        let is_segment_end = self.segment_bytes > 0 && previous.0.is_multiple_of(self.segment_bytes);
        let due = if is_segment_end { previous.plus(SEGMENT_HEADER_BYTES) } else { previous };
        if start > due {
            self.flag(Kind::Gap, format!("a batch at {start}, the log ended at {due}"));
        }
        if start < due || end <= start {
            self.flag(Kind::Overlap, format!("a batch {start} to {end}, the log ended at {due}"));
        }
        let before = self.batches.end();
        self.batches.push(end.max(previous), records, payload_bytes, accepted_ns);
        self.last_batch = (start, end);
        self.last_ticket = Position { lsn: start, ..before };
    }

    fn see_ticket(&mut self, ticket: &TicketEvent) {
        let TicketEvent { lsn, end, payload_bytes, level, window, accepted_ns, .. } = *ticket;
        if lsn < self.last_batch.0 || end > self.last_batch.1 || end <= lsn {
            self.flag(Kind::OutsideBatch, format!("{lsn} to {end} in {:?}", self.last_batch));
        }
        let last = self.last_ticket;
        if lsn < last.lsn {
            self.flag(Kind::TicketsOverlap, format!("{lsn} after a ticket that ended at {}", last.lsn));
        }
        let through = self.batches.end();
        let fits_before = ticket.payload_through >= last.payload_bytes.saturating_add(payload_bytes)
            && ticket.records_through > last.records;
        let fits_batch =
            ticket.payload_through <= through.payload_bytes && ticket.records_through <= through.records;
        if !fits_before || !fits_batch {
            let (records, payload) = (ticket.records_through, ticket.payload_through);
            self.flag(
                Kind::WrongCounts,
                format!("{records} records, {payload} bytes through, batch {through:?}"),
            );
        }
        self.last_ticket = Position {
            lsn: end.max(last.lsn),
            records: ticket.records_through.max(last.records),
            payload_bytes: ticket.payload_through.max(last.payload_bytes),
        };
        let has_rule = self.quorum.rule_in_force().is_some_and(|generation| generation.rule.is_some())
            || self.quorum.pending().is_some();
        if window.is_some() && (!level.is_remote() || !has_rule) {
            self.flag(Kind::WindowNotAllowed, format!("{level} with {window:?}"));
        }
        // Acknowledged before this append was called: it must lie before it.
        let earlier = self.acked_by.partition_point(|(then_ns, _)| *then_ns < accepted_ns);
        if let Some((then_ns, acked)) = earlier.checked_sub(1).and_then(|index| self.acked_by.get(index))
            && *acked > lsn
        {
            let detail = format!("{acked} was acknowledged at {then_ns}, {lsn} was called at {accepted_ns}");
            self.flag(Kind::RealTimeOrder, detail);
        }
        self.batches.claim(end, payload_bytes);
        self.batches.lower_age(end, accepted_ns);
        self.open_ticket(*ticket, false);
    }

    fn see_wait(&mut self, ticket: u64, lsn: Lsn, level: Level) {
        let ticket = TicketEvent {
            ticket,
            lsn,
            end: lsn,
            records_through: 0,
            payload_through: 0,
            payload_bytes: 0,
            level,
            window: None,
            accepted_ns: self.now_ns,
        };
        self.open_ticket(ticket, true);
    }

    fn see_own_flushed(&mut self, lsn: Lsn) {
        if lsn < self.own_flushed {
            self.flag(Kind::OwnFlushedFell, format!("{lsn} after {}", self.own_flushed));
        }
        let end = self.batches.end().lsn;
        if lsn > end {
            self.flag(Kind::FlushedBeyondLog, format!("{lsn} of {end}"));
        }
        self.own_flushed = self.own_flushed.max(lsn);
    }

    // --- the rule

    fn see_rule(&mut self, version: u64, text: &str, record_end: Option<Lsn>) {
        let rule = match SyncRule::parse(text) {
            Ok(rule) => rule,
            Err(error) => return self.flag(Kind::RuleUnreadable, error.to_string()),
        };
        let newest = self.quorum.generations.last().map_or(0, |generation| generation.version);
        if self.quorum.pending().is_some() || (version <= newest && record_end.is_some()) {
            self.flag(Kind::RuleOutOfOrder, format!("version {version} after {newest}"));
        }
        self.open.push(0);
        match record_end {
            Some(end) => self.quorum.add_rule(version, rule, end),
            None => {
                // In force from the start: nobody waits across it.
                self.quorum.generations.clear();
                self.open = vec![0];
                self.quorum.in_force = 0;
                self.quorum.add_rule(version, rule, Lsn(0));
            }
        }
    }

    fn see_rule_in_force(&mut self, version: u64) {
        let pending = self.quorum.pending().map(|generation| (generation.version, generation.record_end));
        let Some((_, end)) = pending.filter(|(pending, _)| *pending == version) else {
            return self.flag(Kind::RuleTooEarly, format!("version {version} is not pending"));
        };
        let bound = self.quorum.safe(self.quorum.in_force, Stage::Flushed);
        if self.own_flushed < end || !reaches(bound, end) {
            let flushed = self.own_flushed;
            self.flag(Kind::RuleTooEarly, format!("record to {end}, flushed {flushed}, safe {bound:?}"));
        }
        self.quorum.in_force += 1;
    }

    fn see_degraded(&mut self) {
        let is_due = match (self.unmet_since_ns, self.degrade_after_ns) {
            (Some(_), None) => true,
            (Some(since_ns), Some(Some(after_ns))) => self.now_ns - since_ns >= after_ns,
            (None, _) | (_, Some(None)) => false,
        };
        if !is_due {
            let since = self.unmet_since_ns;
            self.flag(Kind::DegradedWithoutNeed, format!("unmet since {since:?}, now {}", self.now_ns));
        }
        self.degraded = true;
        self.heal_at = None;
    }

    fn see_healed(&mut self) {
        let bound = self.quorum.safe(self.oldest_generation(), Stage::Flushed);
        if !self.heal_at.is_some_and(|heal_at| reaches(bound, heal_at)) {
            self.flag(Kind::HealedTooEarly, format!("safe {bound:?}, due {:?}", self.heal_at));
        }
        self.degraded = false;
        self.heal_at = None;
    }

    // --- tickets

    fn open_ticket(&mut self, ticket: TicketEvent, is_wait: bool) {
        let generation = self.quorum.in_force;
        let known = Known { ticket, is_wait, generation, ended: false };
        if let Some(old) = self.tickets.insert(ticket.ticket, known) {
            self.flag(Kind::TicketReused, format!("ticket {}", ticket.ticket));
            if !old.ended {
                self.open[old.generation] = self.open[old.generation].saturating_sub(1);
            }
        }
        self.open[generation] += 1;
    }

    fn end_ticket(&mut self, id: u64) -> Option<Known> {
        let Some(known) = self.tickets.get_mut(&id) else {
            self.flag(Kind::UnknownTicket, format!("ticket {id}"));
            return None;
        };
        if known.ended {
            self.flag(Kind::EndedTwice, format!("ticket {id}"));
            return None;
        }
        known.ended = true;
        let known = *known;
        if let Some(open) = self.open.get_mut(known.generation) {
            *open = open.saturating_sub(1);
        }
        Some(known)
    }

    fn see_ack(&mut self, ack: &AckEvent) {
        let summary = &mut self.verdict.summary;
        summary.acks[usize::from(ack.level.to_wire()).min(4)] += 1;
        let Some(known) = self.end_ticket(ack.ticket) else { return };
        let asked = known.ticket;
        if (ack.lsn, ack.end) != (asked.lsn, asked.end) {
            self.flag(
                Kind::AckElsewhere,
                format!("{} to {}, not {} to {}", ack.lsn, ack.end, asked.lsn, asked.end),
            );
        }
        let version = self.quorum.rule_in_force().map_or(0, |generation| generation.version);
        if ack.rule_version != version {
            self.flag(Kind::WrongRuleVersion, format!("{} instead of {version}", ack.rule_version));
        }
        if asked.end > self.batches.end().lsn {
            self.flag(Kind::NotSealed, format!("{} of {}", asked.end, self.batches.end().lsn));
        }
        if ack.level >= Level::Local && asked.end > self.own_flushed {
            self.flag(Kind::NotFlushed, format!("{} of {}", asked.end, self.own_flushed));
        }
        self.check_achieved(ack, &asked);
        if ack.level.is_remote() && ack.level == asked.level {
            self.check_promise(ack, &known);
        }
        self.batches.acknowledge(asked.end, asked.payload_bytes);
        // Real-time order is about appends: a `wait` may name a place that others still write up to.
        let highest = self.acked_by.last().map_or(Lsn(0), |(_, highest)| *highest);
        if !known.is_wait {
            self.acked_by.push((self.now_ns, highest.max(asked.end)));
        }
        for stage in Stage::ALL {
            let exposure = self.exposure(stage).unwrap_or(0);
            let max = &mut self.verdict.summary.max_exposure_bytes[stage as usize];
            *max = (*max).max(exposure);
        }
    }

    /// The level achieved is the one asked for, or weaker for a reason, and then it is said.
    fn check_achieved(&mut self, ack: &AckEvent, asked: &TicketEvent) {
        let has_rule = self.quorum.rule_in_force().is_some_and(|generation| generation.rule.is_some());
        let is_unbounded = asked.window == Some(Window::Infinite);
        let detail = || format!("{} {:?} for {} {:?}", ack.level, ack.window, asked.level, asked.window);
        if ack.level == asked.level {
            if ack.level.is_remote() && (is_unbounded || !has_rule) {
                self.flag(Kind::StrongerThanAsked, detail());
            } else if ack.window != asked.window {
                self.flag(Kind::OtherWindow, detail());
            }
            return;
        }
        if ack.level > asked.level {
            return self.flag(Kind::StrongerThanAsked, detail());
        }
        if ack.level != Level::Local || !(self.degraded || !has_rule || is_unbounded) {
            return self.flag(Kind::WeakerThanAsked, detail());
        }
        let must_say = has_rule || asked.window.is_some();
        if must_say && ack.window != Some(Window::Infinite) {
            self.flag(Kind::Silent, detail());
        }
        if self.degraded && has_rule && !is_unbounded {
            self.verdict.summary.degraded_acks += 1;
        }
    }

    /// What the level and the window promise, under every rule that the ticket waited under.
    fn check_promise(&mut self, ack: &AckEvent, known: &Known) {
        let asked = &known.ticket;
        let Some(stage) = Stage::of(asked.level) else { return };
        let bound = self.quorum.safe(known.generation, stage);
        if asked.window.is_some_and(|window| !window.is_zero()) {
            self.verdict.summary.windowed_acks += 1;
            self.verdict.summary.waited_for_window += u64::from(ack.waited_for_window);
            return self.check_fill(ack, asked, bound);
        }
        if !reaches(bound, asked.end) {
            let kind = if asked.window.is_some() { Kind::FillOverWindow } else { Kind::NotSafe };
            self.flag(kind, format!("{} needs {stage} to {}, safe is {bound:?}", asked.level, asked.end));
        }
    }

    fn check_fill(&mut self, ack: &AckEvent, asked: &TicketEvent, bound: Bound) {
        let safe = match bound {
            Bound::Free => return,
            Bound::At(safe) if safe >= asked.end => return,
            Bound::At(safe) => safe,
            Bound::Undefined => {
                return self.flag(Kind::FillOverWindow, "the safe position is undefined".to_owned());
            }
        };
        let before = self.batches.position(safe).unwrap_or_default();
        let bytes = asked.payload_through.saturating_sub(before.payload_bytes);
        if ack.fill_bytes < bytes {
            self.flag(Kind::FillUnderstated, format!("{} of {bytes} bytes", ack.fill_bytes));
        }
        let records = asked.records_through.saturating_sub(before.records);
        let oldest_ns = self.batches.oldest_ns(safe, asked.end);
        let age_ns = oldest_ns.map_or(u64::MAX, |oldest_ns| self.now_ns.saturating_sub(oldest_ns));
        let summary = &mut self.verdict.summary;
        let (fill, limit) = match asked.window {
            Some(Window::Bytes(limit)) => {
                summary.max_fill_bytes = summary.max_fill_bytes.max(bytes);
                (bytes, limit)
            }
            Some(Window::Records(limit)) => {
                summary.max_fill_records = summary.max_fill_records.max(records);
                (records, limit)
            }
            Some(Window::Micros(limit)) => {
                summary.max_fill_ns = summary.max_fill_ns.max(age_ns);
                (age_ns, limit.saturating_mul(1000))
            }
            Some(Window::Infinite) | None => return,
        };
        if fill > limit {
            self.flag(
                Kind::FillOverWindow,
                format!("ticket {}: {fill} of {limit} ({:?})", asked.ticket, asked.window),
            );
        }
    }

    fn exposure(&self, stage: Stage) -> Option<u64> {
        match self.quorum.safe(self.quorum.in_force, stage) {
            Bound::At(safe) => Some(self.batches.exposure(safe)),
            Bound::Undefined | Bound::Free => None,
        }
    }

    fn flag(&mut self, kind: Kind, detail: String) {
        self.verdict.violations.push(Violation { kind, at: self.at, detail });
    }
}

fn reaches(bound: Bound, lsn: Lsn) -> bool {
    match bound {
        Bound::Undefined => false,
        Bound::At(safe) => safe >= lsn,
        Bound::Free => true,
    }
}

//! Walks a history once and holds every statement against the facts before it.

mod acks;
mod lives;
mod quorum;

use std::collections::HashMap;

use towline_core::replication::Stage;
use towline_core::types::limits::SEGMENT_HEADER_BYTES;
use towline_core::types::{Lsn, Position, Window};

use self::lives::{Acked, Lives};
use crate::event::{Event, TicketEvent};
use crate::history::Batches;
use crate::outcome::Verdict;
use crate::rules::{Bound, Quorum};
use crate::violation::{Kind, Violation};

/// Judges a history. Outputs of the gate (acks, `RuleInForce`, `Degraded`, `Healed`) stand directly behind the
/// fact that caused them.
pub fn check(events: &[Event]) -> Verdict {
    let first = events.iter().find_map(|event| match event {
        Event::Setup { start, records, payload_bytes, .. } => {
            Some(Position { lsn: *start, records: *records, payload_bytes: *payload_bytes })
        }
        Event::Batch { start, .. } => Some(Position { lsn: *start, ..Position::default() }),
        _ => None,
    });
    let mut checker = Checker::new(first.unwrap_or_default());
    events.iter().for_each(|event| checker.see(event));
    checker.verdict()
}

/// A check that is fed event by event, as the run goes: it keeps some 200 bytes per ticket and 60 per batch, not
/// the events.
#[derive(Clone, Debug)]
pub struct Checker {
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
    /// In LSN order, except for waits.
    tickets: Vec<Known>,
    by_id: HashMap<u64, usize>,
    open: usize,
    /// Open tickets that wait for standbys, per generation of the rule.
    waiting: Vec<usize>,
    /// The pending rule's record is safe under both: tickets that come now came under the new one.
    is_change_due: bool,
    /// Times of acks with the highest end acknowledged up to then.
    acked_by: Vec<(u64, Lsn)>,
    unmet_since_ns: Option<u64>,
    /// As it was when the turn began: the tick decides before the turn's other inputs are looked at.
    unmet_at_tick_ns: Option<u64>,
    degraded: bool,
    heal_at: Option<Lsn>,
    /// The last of this turn: standbys may have gone again before the gate's word came out.
    heal_at_turn: Option<Lsn>,
    /// The same by the rule that is due: the node may follow it a turn before it says so.
    heal_at_change: Option<Lsn>,
    lives: Lives,
}

/// A ticket, open or ended.
#[derive(Clone, Copy, Debug)]
struct Known {
    ticket: TicketEvent,
    is_wait: bool,
    /// The rule in force when it came.
    generation: usize,
    ended: bool,
    /// Damages before it: what a standby reported of it may be lost again while its word is under way.
    damages: usize,
    acked: Option<Acked>,
}

impl Known {
    /// Whether standbys have a say in it.
    fn waits_for_standbys(&self) -> bool {
        self.ticket.level.is_remote() && self.ticket.window != Some(Window::Infinite)
    }
}

impl Checker {
    /// A check of a log whose first batch in the history lies at `start`. (A `Setup` says so again.)
    pub fn new(start: Position) -> Checker {
        let mut quorum = Quorum::default();
        quorum.add_rule(0, None, Lsn(0));
        Checker {
            at: 0,
            verdict: Verdict::default(),
            now_ns: 0,
            segment_bytes: 0,
            degrade_after_ns: None,
            batches: Batches::new(start),
            last_batch: (start.lsn, start.lsn),
            last_ticket: start,
            own_flushed: start.lsn,
            quorum,
            tickets: Vec::new(),
            by_id: HashMap::new(),
            open: 0,
            waiting: vec![0],
            is_change_due: false,
            acked_by: Vec::new(),
            unmet_since_ns: None,
            unmet_at_tick_ns: None,
            degraded: false,
            heal_at: None,
            heal_at_turn: None,
            heal_at_change: None,
            lives: Lives::new(start.lsn),
        }
    }

    /// The broken promises found so far.
    pub fn violations(&self) -> &[Violation] {
        &self.verdict.violations
    }

    /// The most that a gauge was above the truth so far.
    pub fn gauge_excess_bytes(&self) -> u64 {
        self.verdict.summary.max_gauge_excess_bytes
    }

    /// What has been found so far.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = self.verdict.clone();
        verdict.summary.open = self.open as u64;
        verdict
    }

    /// Takes the next event.
    pub fn see(&mut self, event: &Event) {
        self.take(event);
        self.watch_quorum();
        self.lives.apply_upto(self.own_flushed, self.quorum.safe(self.current(), Stage::Flushed));
        self.at += 1;
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Setup { start, records, payload_bytes, segment_bytes, node, degrade_after_ns } => {
                let start = Position { lsn: *start, records: *records, payload_bytes: *payload_bytes };
                self.see_setup(start, *node);
                self.segment_bytes = *segment_bytes;
                self.degrade_after_ns = Some(*degrade_after_ns);
            }
            Event::Tick { now_ns } => {
                if *now_ns < self.now_ns {
                    self.flag(Kind::ClockBackwards, format!("{now_ns} after {}", self.now_ns));
                }
                self.now_ns = self.now_ns.max(*now_ns);
                self.unmet_at_tick_ns = self.unmet_since_ns;
                self.heal_at_turn = self.heal_at;
            }
            Event::TermStarted => self.quorum.forget_reports(),
            Event::Leads { node, end } => self.see_leads(*node, *end),
            Event::Damage { node, damage } => self.see_damage(*node, *damage),
            Event::AppliesSafe => self.lives.applies_safe = true,
            Event::Applied { node, lsn } => self.see_applied(*node, *lsn),
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
            Event::Fell { peer, written, flushed, applied } => {
                self.see_fall(*peer, [*written, *flushed, *applied]);
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
            Event::Indeterminate { ticket } => self.see_indeterminate(*ticket),
            Event::Gauge { stage, exposure_bytes } => self.see_gauge(*stage, *exposure_bytes),
        }
    }

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

    fn see_gauge(&mut self, stage: Stage, exposure_bytes: u64) {
        let Some(truth) = self.exposure(stage) else { return };
        let summary = &mut self.verdict.summary;
        summary.gauges += 1;
        summary.max_gauge_excess_bytes =
            summary.max_gauge_excess_bytes.max(exposure_bytes.saturating_sub(truth));
        if exposure_bytes < truth {
            self.flag(Kind::ExposureUnderstated, format!("{stage}: {exposure_bytes} of {truth} bytes"));
        }
    }

    /// The generation of the rule by which is decided now: a change that is due may not have been said yet.
    fn current(&self) -> usize {
        self.quorum.in_force + usize::from(self.is_change_due)
    }

    /// A log that goes on behind a segment's header may be named by either side of it.
    fn before_header(&self, lsn: Lsn) -> Lsn {
        let is_behind = self.segment_bytes > 0
            && lsn.0 >= self.segment_bytes
            && lsn.0 % self.segment_bytes == SEGMENT_HEADER_BYTES;
        if is_behind { Lsn(lsn.0 - SEGMENT_HEADER_BYTES) } else { lsn }
    }

    fn exposure(&self, stage: Stage) -> Option<u64> {
        match self.quorum.safe(self.current(), stage) {
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

//! The commit gate: the only place where anything waits.
//!
//! ```text
//!   ticket ──► level local, window ∞ ───────────────► own flushed ≥ end ──────────────────────────► ack
//!         ├──► level remote, no window ─────────────► own flushed ≥ end and safe ≥ end ───────────► ack
//!         └──► level remote, window ω ─► own flushed ≥ end ─► fill ≤ ω? ── yes ───────────────────► ack
//!                                                              └─ no: a heap per stage and unit ──► ack
//!   own flushed, reports, live sessions, exclusions, the rule ──► safe per stage ──┘
//! ```
//! All waiting is on the primary: a standby only reports, and never learns what level anybody waits for
//! (PostgreSQL's `syncrep.c` explains why). Releasing is one pass after each input: O(1) for a ticket that comes
//! in LSN order, O(log n) for one that waits in a heap; no allocation once the buffers have grown.

mod api;
mod eras;
mod exposure;
mod queues;
mod release;
mod standbys;

use std::collections::VecDeque;

pub use api::{GateError, GateOutput, GateStatus, RuleStatus, Stage, StandbyStatus, Unmet, check_window};

use self::eras::Eras;
use self::exposure::Exposure;
use self::queues::{Entry, OwnQueues, Slab, Waiting};
use self::release::Due;
use self::standbys::Standbys;
use super::sync_rule::SyncRule;
use crate::bugs::{Bug, bug};
use crate::replication::{Ticket, TicketOutcome};
use crate::types::limits::{MAX_LSN, MAX_RULE_ERAS, MAX_TICKETS, MAX_WAITS};
use crate::types::{Level, Lsn, NodeId, PeerIndex, Position, StandbyWatermarks, TicketId, Window};

/// Holds every append that waits, and releases it when its level, its window and the sync rule allow.
///
/// Feed it what happens ([`tick`](CommitGate::tick) first in each turn), then [`poll`](CommitGate::poll) until
/// `None`. Order within a turn: reports and completions as they come; [`batch`](CommitGate::batch) before the
/// tickets of that batch, tickets in LSN order.
///
/// A rule change is asked for with [`check_rule`](CommitGate::check_rule), written into the log, and announced
/// with [`set_rule`](CommitGate::set_rule) once the record has its place.
#[derive(Debug)]
pub struct CommitGate {
    unmet: Unmet,
    standbys: Standbys,
    eras: Eras,
    slab: Slab,
    own: OwnQueues,
    /// Queue entries whose ticket has ended.
    stale: usize,
    exposure: Exposure,
    own_flushed: Position,
    sealed: Position,
    waiting_for_window: usize,
    weaker_acks: u64,
    now_ns: Option<u64>,
    unmet_since_ns: Option<u64>,
    degraded: bool,
    /// The rule is met again: healed once this is safe.
    heal_at: Option<Lsn>,
    outputs: VecDeque<GateOutput>,
}

impl CommitGate {
    /// A gate for the node `own`, whose log was recovered up to `end`; what lies before counts as infinitely old.
    /// No rule is in force ([`install_rule`](CommitGate::install_rule)), no standby is registered.
    pub fn new(own: NodeId, unmet: Unmet, end: Position) -> CommitGate {
        let standbys = Standbys::new(own);
        CommitGate {
            unmet,
            eras: Eras::new(&standbys),
            standbys,
            slab: Slab::default(),
            own: OwnQueues::default(),
            stale: 0,
            exposure: Exposure::new(end),
            own_flushed: end,
            sealed: end,
            waiting_for_window: 0,
            weaker_acks: 0,
            now_ns: None,
            unmet_since_ns: None,
            degraded: false,
            heal_at: None,
            outputs: VecDeque::new(),
        }
    }

    /// A new leadership begins: the own log ends at `flushed`, durably; no standby has reported in it; nothing
    /// waits (what still does ends as indeterminate). Rules, registrations, live sessions and exclusions stay.
    pub fn begin_term(&mut self, flushed: Position) {
        self.fail_all("a new term has begun");
        self.own_flushed = flushed;
        self.sealed = flushed;
        self.exposure.reset(flushed);
        self.degraded = false;
        self.heal_at = None;
        self.unmet_since_ns = None;
        self.reset_reports();
    }

    // --- standbys

    /// A configured standby, in order of the configuration.
    ///
    /// # Errors
    /// When there are too many, or the name or the index was registered before.
    pub fn register(&mut self, peer: PeerIndex, name: &str) -> Result<(), GateError> {
        self.standbys.register(peer, name)?;
        self.eras.resolve(&self.standbys);
        self.settle();
        Ok(())
    }

    /// The node found behind a standby's address, at each session's start; it counts only from here on. Another
    /// node than before takes the former's reports and exclusion with it.
    ///
    /// # Errors
    /// When the node is this one, or already counts under another name: it is not counted twice.
    pub fn identify(&mut self, peer: PeerIndex, node: NodeId) -> Result<(), GateError> {
        let result = self.standbys.identify(peer, node);
        self.standbys_changed();
        result
    }

    /// A streaming session with the standby is open, or gone. Gone does not lower the safe position.
    pub fn set_live(&mut self, peer: PeerIndex, live: bool) {
        if let Some(standby) = self.standbys.get_mut(peer) {
            standby.live = live;
            self.standbys_changed();
        }
    }

    /// What the standby reports, already filtered: own term, this session, past the term's start
    /// (see `Progress::apply_report`). A watermark at LSN 0 says that nothing counts at that stage yet.
    pub fn report(&mut self, peer: PeerIndex, watermarks: &StandbyWatermarks) {
        if let Some(standby) = self.standbys.get_mut(peer) {
            if standby.excluded || standby.report.as_ref() == Some(watermarks) {
                return;
            }
            standby.report = Some(*watermarks);
            self.standbys_changed();
        }
    }

    /// The standby lost durable data, and no longer counts: what only it held is no longer safe.
    pub fn exclude(&mut self, peer: PeerIndex) {
        if let Some(standby) = self.standbys.get_mut(peer) {
            standby.excluded = true;
            standby.report = None;
            self.standbys_changed();
        }
    }

    /// An excluded standby was made anew and counts again, from its next report on.
    pub fn include(&mut self, peer: PeerIndex) {
        if let Some(standby) = self.standbys.get_mut(peer) {
            standby.excluded = false;
            self.standbys_changed();
        }
    }

    /// Forgets what standbys have reported: the safe position is undefined until k of them report again.
    pub fn reset_reports(&mut self) {
        self.standbys.reset_reports();
        self.eras.reset_safe();
        self.standbys_changed();
    }

    // --- the rule

    /// The rule in force as recovery found it (`None`: no rule); forgets a pending change. For a leadership's
    /// start: what still waits ends as indeterminate.
    pub fn install_rule(&mut self, version: u64, rule: Option<SyncRule>) {
        self.fail_all("the sync rule was replaced at the start of a leadership");
        self.eras.install(version, rule, &self.standbys);
        self.settle();
    }

    /// A rule record that ends at `record_end` was put into the log. It comes into force when that position is
    /// safe at the flushed stage under the rule in force and under the new one; until then tickets satisfy both,
    /// and those that wait across it afterwards, too. Names that are not configured never count (a record that
    /// recovery found may hold some): ask [`CommitGate::check_rule`] before a record is written.
    ///
    /// # Errors
    /// When another change is pending, the version does not rise, or too many older rules have tickets waiting
    /// under them.
    pub fn set_rule(
        &mut self,
        version: u64,
        rule: Option<SyncRule>,
        record_end: Lsn,
    ) -> Result<(), GateError> {
        self.check_change(version)?;
        self.eras.push_pending(version, rule, record_end, &self.standbys);
        self.settle();
        Ok(())
    }

    /// Whether a change to this rule may be put into the log now.
    ///
    /// # Errors
    /// As [`CommitGate::set_rule`], and when the registered standbys could never meet the rule.
    pub fn check_rule(&self, version: u64, rule: Option<&SyncRule>) -> Result<(), GateError> {
        if let Some(rule) = rule {
            let names: Vec<&str> = self.standbys.list().iter().map(|standby| standby.name.as_str()).collect();
            rule.check_against(&names)?;
        }
        self.check_change(version)
    }

    /// The rule in force: its version (0 before any) and the rule (`None`: no rule).
    pub fn rule(&self) -> (u64, Option<&SyncRule>) {
        let era = self.eras.in_force();
        (era.version, era.rule.as_ref())
    }

    /// The change that is to come into force.
    pub fn pending_rule(&self) -> Option<(u64, Option<&SyncRule>)> {
        self.eras.pending().map(|era| (era.version, era.rule.as_ref()))
    }

    // --- the log

    /// The primary's own flushed watermark; it never falls within a term.
    pub fn own_flushed(&mut self, position: Position) {
        if position.lsn > self.own_flushed.lsn {
            self.own_flushed = position;
            self.settle();
        }
    }

    /// A batch was sealed: it starts at `start`, the log up to its end is `after`. Comes before its tickets.
    /// `accepted_ns` is not later than the acceptance of its first record.
    pub fn batch(&mut self, start: Lsn, after: Position, accepted_ns: u64) {
        if start >= after.lsn || after.lsn <= self.sealed.lsn {
            return;
        }
        let no_rule = self.eras.in_force().rule.is_none() && self.eras.pending().is_none();
        self.exposure.push(after, accepted_ns, no_rule.then_some(self.own_flushed.lsn));
        self.sealed = after;
        self.release_sealed();
    }

    // --- tickets

    /// An append waits; in LSN order, after its batch. A ticket over the limit ends as indeterminate: its record
    /// is in the log.
    pub fn ticket(&mut self, ticket: Ticket) {
        self.exposure.claim(ticket.end, ticket.payload_bytes, ticket.accepted_ns);
        let waiting = Waiting {
            id: ticket.id,
            lsn: ticket.lsn,
            end: ticket.end,
            records_through: ticket.records_through,
            payload_through: ticket.payload_through,
            payload_bytes: ticket.payload_bytes,
            level: ticket.level,
            // A window at a level that waits for no standby bounds nothing (the driver refuses it beforehand).
            window: ticket.window.filter(|_| ticket.level.is_remote()),
            is_wait: false,
            waited_for_window: false,
            group: None,
            entries: 1,
        };
        match self.refusal(ticket.id) {
            Some(reason) => self.end(ticket.id, TicketOutcome::Indeterminate(reason.to_owned())),
            None => self.admit(waiting, true),
        }
    }

    /// The record of an append that was refused after it had its place: nobody is told that it is committed, so it
    /// is no exposure.
    pub fn leave_unacknowledged(&mut self, ticket: &Ticket) {
        self.exposure.claim(ticket.end, ticket.payload_bytes, ticket.accepted_ns);
    }

    /// A client waits until the log up to `lsn` is safe at `level`, wherever it ends now. Refused where no log reaches,
    /// and while as many wait as may: they must not take the places of appends.
    pub fn wait(&mut self, id: TicketId, lsn: Lsn, level: Level) {
        let refusal = match self.refusal(id) {
            None if lsn > MAX_LSN => Some("no log reaches that position"),
            None if self.slab.waits() >= MAX_WAITS && !bug(Bug::WaitsTakeAll) => {
                Some("too many clients wait for a position")
            }
            refusal => refusal,
        };
        if let Some(reason) = refusal {
            return self.end(id, TicketOutcome::Refused(reason.to_owned()));
        }
        let waiting = Waiting {
            id,
            lsn,
            end: lsn,
            records_through: 0,
            payload_through: 0,
            payload_bytes: 0,
            level,
            window: None,
            is_wait: true,
            waited_for_window: false,
            group: None,
            entries: 1,
        };
        self.admit(waiting, false);
    }

    /// The client gave up: indeterminate, unless it was acknowledged already.
    pub fn cancel(&mut self, id: TicketId) {
        if let Some(waiting) = self.slab.take_by_id(id) {
            self.stale += usize::from(waiting.entries);
            self.forget(&waiting);
            let outcome = if bug(Bug::CancelIsSuccess) {
                TicketOutcome::Committed(self.committed(&waiting, None, Due::Satisfied))
            } else {
                TicketOutcome::Indeterminate("the wait was cancelled".to_owned())
            };
            self.end(id, outcome);
            self.settle();
        }
    }

    /// Every ticket that waits ends as indeterminate (poisoned, stepped down, fenced).
    pub fn fail_all(&mut self, reason: &str) {
        let mut below = self.slab.slots();
        while let Some(waiting) = self.slab.take_any(&mut below) {
            self.end(waiting.id, TicketOutcome::Indeterminate(reason.to_owned()));
        }
        self.own.clear();
        self.eras.all_queues().for_each(|queues| queues.clear());
        self.eras.drop_finished();
        self.stale = 0;
        self.waiting_for_window = 0;
    }

    // --- time and outputs

    /// Time passes: nanoseconds, never backwards.
    pub fn tick(&mut self, now_ns: u64) {
        self.now_ns = Some(now_ns.max(self.now_ns.unwrap_or(0)));
        self.maybe_degrade();
    }

    /// When the gate wants the next `tick`, if it waits for a time.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        match self.unmet {
            Unmet::DegradeAfter { ns } if !self.degraded => Some(self.unmet_since_ns?.saturating_add(ns)),
            _ => None,
        }
    }

    /// Since when fewer standbys stream than the rules need; `None` while they are met.
    pub fn unmet_since_ns(&self) -> Option<u64> {
        self.unmet_since_ns
    }

    /// The next decision, oldest first.
    pub fn poll(&mut self) -> Option<GateOutput> {
        self.outputs.pop_front()
    }

    /// The safe position at a stage, under the rule in force and any pending one; `None` while it is undefined or
    /// there is no rule.
    pub fn safe(&self, stage: Stage) -> Option<Position> {
        self.eras.safe(self.eras.in_force_index(), stage).position()
    }

    /// Acknowledged payload bytes past the safe position at a stage; `None` where that is undefined. What lies
    /// before the gate's first batch counts as acknowledged.
    pub fn exposure_bytes(&self, stage: Stage) -> Option<u64> {
        self.exposure.bytes(stage)
    }

    /// Tickets that wait.
    pub fn waiting(&self) -> usize {
        self.slab.len()
    }

    /// Acknowledgements that said less than was asked for: degraded, or at a remote level without a rule.
    pub fn weaker_acks(&self) -> u64 {
        self.weaker_acks
    }

    /// Whether somebody waits for a standby to apply what is flushed here.
    pub fn awaits_applied(&self) -> bool {
        self.eras.awaits_applied(self.own_flushed.lsn)
    }

    /// Whether acks say `local` because the rule is not met.
    pub fn is_degraded(&self) -> bool {
        self.degraded
    }

    /// Everything, for people and metrics. Allocates.
    pub fn status(&self) -> GateStatus {
        let in_force = self.eras.in_force();
        let shown = |version: u64, rule: Option<&SyncRule>| RuleStatus {
            version,
            rule: rule.map(ToString::to_string).unwrap_or_default(),
        };
        let standbys = self.standbys.list().iter().enumerate().map(|(place, standby)| StandbyStatus {
            peer: standby.peer,
            name: standby.name.clone(),
            node: standby.node,
            live: standby.live,
            excluded: standby.excluded,
            candidate: in_force.is_candidate(place),
            report: standby.report,
        });
        GateStatus {
            own_flushed: self.own_flushed,
            safe: Stage::ALL.map(|stage| self.safe(stage)),
            exposure_bytes: Stage::ALL.map(|stage| self.exposure_bytes(stage)),
            waiting: self.slab.len() as u64,
            waiting_for_window: self.waiting_for_window as u64,
            rule: shown(in_force.version, in_force.rule.as_ref()),
            pending: self.eras.pending().map(|era| shown(era.version, era.rule.as_ref())),
            degraded: self.degraded,
            unmet_since_ns: self.unmet_since_ns,
            standbys: standbys.collect(),
            sealed: self.sealed.lsn,
        }
    }

    fn check_change(&self, version: u64) -> Result<(), GateError> {
        if let Some(pending) = self.eras.pending() {
            return Err(GateError::ChangePending { pending: pending.version });
        }
        let last = self.eras.newest_version();
        if version <= last {
            return Err(GateError::OldVersion { version, last });
        }
        if self.eras.len() >= MAX_RULE_ERAS {
            return Err(GateError::TooManyEras);
        }
        Ok(())
    }

    fn refusal(&self, id: TicketId) -> Option<&'static str> {
        if self.slab.len() >= MAX_TICKETS {
            return Some("too many tickets wait");
        }
        self.slab.contains(id).then_some("another ticket of the same id waits")
    }

    /// Puts a new ticket where it waits, and releases it at once if nothing is due.
    fn admit(&mut self, mut waiting: Waiting, is_append: bool) {
        let stage = Stage::of(waiting.level).filter(|_| waiting.window != Some(Window::Infinite));
        if stage.is_some() {
            waiting.group = Some(self.eras.in_force().version);
        }
        let entry = self.slab.insert(waiting, waiting.end.0);
        let put = |queue: &mut queues::KeyQueue, entry: Entry| {
            if is_append { queue.push(entry) } else { queue.push_apart(entry) }
        };
        match stage {
            Some(stage) => {
                let in_force = self.eras.in_force_index();
                self.eras.get_mut(in_force).queues.push(entry, &waiting, stage, is_append);
            }
            None if waiting.level == Level::Off => put(&mut self.own.sealed, entry),
            None => put(&mut self.own.flushed, entry),
        }
        if waiting.end <= self.own_flushed.lsn || waiting.level == Level::Off {
            self.settle();
        }
    }

    fn standbys_changed(&mut self) {
        self.eras.recompute(&self.standbys);
        self.settle();
    }

    fn end(&mut self, ticket: TicketId, outcome: TicketOutcome) {
        self.outputs.push_back(GateOutput::Ack { ticket, outcome });
    }
}

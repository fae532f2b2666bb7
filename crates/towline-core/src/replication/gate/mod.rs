//! The commit gate: the only place where anything waits.

mod api;

pub use api::{GateError, GateOutput, GateStatus, RuleStatus, Stage, StandbyStatus, Unmet, check_window};

use std::collections::VecDeque;

use super::sync_rule::SyncRule;
use crate::node::Ticket;
use crate::types::{Level, Lsn, NodeId, PeerIndex, Position, StandbyWatermarks, TicketId};

/// Holds every append that waits, and releases it when its level, its window and the sync rule allow.
///
/// Feed it what happens (`tick` first in each turn), then [`poll`](CommitGate::poll) until `None`.
#[derive(Debug)]
pub struct CommitGate {
    own: NodeId,
    unmet: Unmet,
    sealed: Position,
    outputs: VecDeque<GateOutput>,
}

impl CommitGate {
    /// A gate for the node `own`, whose log was recovered up to `end`; what lies before counts as infinitely old.
    pub fn new(own: NodeId, unmet: Unmet, end: Position) -> CommitGate {
        CommitGate { own, unmet, sealed: end, outputs: VecDeque::new() }
    }

    /// A new leadership begins: own log flushed up to `flushed`, no standby has reported in it, nothing waits
    /// (what still does ends as indeterminate). Rules, registrations, live sessions and exclusions stay.
    pub fn begin_term(&mut self, flushed: Position) {
        self.sealed = flushed;
    }

    // --- standbys

    /// A configured standby. In order of the configuration.
    ///
    /// # Errors
    /// When there are too many, or the name or index was registered before.
    pub fn register(&mut self, peer: PeerIndex, name: &str) -> Result<(), GateError> {
        let _ = (peer, name);
        Ok(())
    }

    /// The node found behind a standby's address, at each session's start; it counts only from here on. Another
    /// node than before takes its reports with it.
    ///
    /// # Errors
    /// When the node is this one, or already counts under another name: it is not counted twice.
    pub fn identify(&mut self, peer: PeerIndex, node: NodeId) -> Result<(), GateError> {
        let _ = (peer, node, self.own);
        Ok(())
    }

    /// A streaming session with the standby is open, or gone.
    pub fn set_live(&mut self, peer: PeerIndex, live: bool) {
        let _ = (peer, live, self.unmet);
    }

    /// What the standby reports, already filtered: own term, this session, past the term's start
    /// (see `Progress::apply_report`).
    pub fn report(&mut self, peer: PeerIndex, watermarks: &StandbyWatermarks) {
        let _ = (peer, watermarks);
    }

    /// The standby lost durable data, and no longer counts.
    pub fn exclude(&mut self, peer: PeerIndex) {
        let _ = peer;
    }

    /// An excluded standby was made anew and counts again, from its next report on.
    pub fn include(&mut self, peer: PeerIndex) {
        let _ = peer;
    }

    /// Forgets what standbys have reported: the safe position is undefined until k of them report again.
    pub fn reset_reports(&mut self) {}

    // --- the rule

    /// The rule in force as recovery found it (`None`: no rule). Nothing may be waiting.
    pub fn install_rule(&mut self, version: u64, rule: Option<SyncRule>) {
        let _ = (version, rule);
    }

    /// A rule record that ends at `record_end` was put into the log. It comes into force when that position is
    /// safe at the flushed stage under the rule in force and under the new one; until then, tickets satisfy both.
    ///
    /// # Errors
    /// When the rule cannot be met by the registered standbys, another change is pending, the version does not
    /// rise, or too many older rules have tickets waiting under them. Ask before the record is written
    /// ([`CommitGate::check_rule`]).
    pub fn set_rule(
        &mut self,
        version: u64,
        rule: Option<SyncRule>,
        record_end: Lsn,
    ) -> Result<(), GateError> {
        let _ = (version, rule, record_end);
        Ok(())
    }

    /// Whether [`CommitGate::set_rule`] would take this rule now.
    ///
    /// # Errors
    /// As `set_rule`.
    pub fn check_rule(&self, version: u64, rule: Option<&SyncRule>) -> Result<(), GateError> {
        let _ = (version, rule);
        Ok(())
    }

    /// The rule in force: its version (0 before any) and the rule.
    pub fn rule(&self) -> (u64, Option<&SyncRule>) {
        (0, None)
    }

    /// Whether a rule change is pending.
    pub fn pending_rule(&self) -> Option<(u64, Option<&SyncRule>)> {
        None
    }

    // --- the log

    /// The primary's own flushed watermark.
    pub fn own_flushed(&mut self, position: Position) {
        let _ = position;
    }

    /// A batch was sealed: it starts at `start`, the log up to its end is `after`. Comes before its tickets.
    /// `accepted_ns` is not later than the acceptance of its first record.
    pub fn batch(&mut self, start: Lsn, after: Position, accepted_ns: u64) {
        let _ = (start, accepted_ns);
        self.sealed = after;
    }

    // --- tickets

    /// An append waits; in LSN order, after its batch.
    pub fn ticket(&mut self, ticket: Ticket) {
        let _ = ticket;
    }

    /// A client waits until the log up to `lsn` is safe at `level`.
    pub fn wait(&mut self, id: TicketId, lsn: Lsn, level: Level) {
        let _ = (id, lsn, level);
    }

    /// The client gave up: indeterminate, unless it was acknowledged already.
    pub fn cancel(&mut self, id: TicketId) {
        let _ = id;
    }

    /// Every ticket that waits ends as indeterminate (poisoned, stepped down, fenced).
    pub fn fail_all(&mut self, reason: &str) {
        let _ = reason;
    }

    // --- time and outputs

    /// Time passes.
    pub fn tick(&mut self, now_ns: u64) {
        let _ = now_ns;
    }

    /// When the gate wants the next `tick`, if it waits for a time.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        None
    }

    /// The next decision, oldest first.
    pub fn poll(&mut self) -> Option<GateOutput> {
        self.outputs.pop_front()
    }

    /// The safe position at a stage; `None` while it is undefined or there is no rule.
    pub fn safe(&self, stage: Stage) -> Option<Position> {
        let _ = stage;
        None
    }

    /// Acknowledged payload bytes past the safe position at a stage; `None` where that is undefined.
    pub fn exposure_bytes(&self, stage: Stage) -> Option<u64> {
        let _ = stage;
        None
    }

    /// Whether acks say `local` because the rule is not met.
    pub fn is_degraded(&self) -> bool {
        false
    }

    /// Everything, for people and metrics. Allocates.
    pub fn status(&self) -> GateStatus {
        GateStatus {
            own_flushed: self.sealed,
            safe: [None; 3],
            exposure_bytes: [None; 3],
            waiting: 0,
            waiting_for_window: 0,
            rule: RuleStatus { version: 0, rule: String::new() },
            pending: None,
            degraded: false,
            unmet_since_ns: None,
            standbys: Vec::new(),
            sealed: self.sealed.lsn,
        }
    }
}

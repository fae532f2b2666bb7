//! What happens to nodes, who leads afterwards, and what must then still be there: each level's own promise.
//!
//! | acknowledged at | is there again, unless |
//! | --- | --- |
//! | `off` | anything but a clean stop of the leader happened |
//! | `local` | the leader's disk is gone, or another node leads |
//! | `remote_write` | so it is for `local`, and fewer than k of the standbys that had it kept their power and their disk |
//! | `on`, `remote_apply` | so it is for `local`, and fewer than k of the standbys that had it kept their disk |
//!
//! With a window the same holds for all but one span of it.

use std::collections::HashMap;

use towline_core::replication::Stage;
use towline_core::types::{Level, Lsn, Position, Window};

use super::{Checker, Known};
use crate::event::{AckEvent, Damage};
use crate::rules::{Bound, Quorum};
use crate::survive::{AckedRecord, span_of};
use crate::violation::Kind;

/// What an ack promised, and to whom it owes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acked {
    level: Level,
    window: Option<Window>,
    /// Damages before it.
    damages: usize,
    /// Damages before its append.
    damages_at_append: usize,
    /// Who led.
    leader: u64,
    /// Who else had it: an index of `Lives::sets`.
    holders: usize,
    k: usize,
}

/// Nodes, what happened to them, and what was ever flushed and safe.
#[derive(Clone, Debug, Default)]
pub(super) struct Lives {
    leader: u64,
    damages: Vec<(u64, Damage)>,
    /// Damages before the leader began.
    led_since: usize,
    /// Sets of holders that occurred.
    sets: Vec<Vec<u64>>,
    set_places: HashMap<Vec<u64>, usize>,
    /// Tickets before have all ended.
    closed_upto: usize,
    pub(super) applies_safe: bool,
    /// The most that was ever flushed by a leader, and safe.
    flushed_high: Lsn,
    safe_high: Lsn,
}

impl Lives {
    pub(super) fn new(start: Lsn) -> Lives {
        Lives { flushed_high: start, safe_high: start, ..Lives::default() }
    }

    /// What a reader may see: never less than before, for nobody can be made to forget what he has read.
    pub(super) fn apply_upto(&mut self, own_flushed: Lsn, safe: Bound) {
        self.flushed_high = self.flushed_high.max(own_flushed);
        let safe = match safe {
            Bound::Undefined => return,
            Bound::At(safe) => safe,
            Bound::Free => own_flushed,
        };
        self.safe_high = self.safe_high.max(safe);
    }

    /// How many there have been.
    pub(super) fn damages(&self) -> usize {
        self.damages.len()
    }

    fn worst(&self, node: u64, since: usize) -> Option<Damage> {
        let damages = self.damages.get(since..).unwrap_or_default();
        damages.iter().filter(|(damaged, _)| *damaged == node).map(|(_, damage)| *damage).max()
    }

    fn set(&mut self, nodes: Vec<u64>) -> usize {
        let next = self.sets.len();
        let place = *self.set_places.entry(nodes.clone()).or_insert(next);
        if place == next {
            self.sets.push(nodes);
        }
        place
    }

    /// Whether the leader's own copy must be there.
    fn owes_own_copy(&self, acked: &Acked) -> bool {
        acked.level >= Level::Local
            && acked.leader == self.leader
            && self.worst(acked.leader, acked.damages) != Some(Damage::DiskLost)
    }

    /// Whether enough of the other copies must be there for any promotion to find one.
    fn owes_other_copy(&self, acked: &Acked) -> bool {
        let fatal = match acked.level {
            Level::Off | Level::Local => return false,
            Level::RemoteWrite => Damage::PowerCut,
            Level::On | Level::RemoteApply => Damage::DiskLost,
        };
        let is_whole =
            |node: &&u64| self.worst(**node, acked.damages_at_append).is_none_or(|worst| worst < fatal);
        let whole = self.sets[acked.holders].iter().filter(is_whole).count();
        acked.k > 0 && whole >= acked.k
    }
}

impl Checker {
    pub(super) fn see_setup(&mut self, start: Position, node: u64) {
        self.quorum.own = node;
        self.lives.leader = node;
        if self.verdict.summary.batches == 0 {
            self.begin_at(start);
            self.lives.flushed_high = start.lsn;
            self.lives.safe_high = start.lsn;
            self.batches = crate::history::Batches::new(start);
        }
    }

    fn begin_at(&mut self, start: Position) {
        self.own_flushed = start.lsn;
        self.last_batch = (start.lsn, start.lsn);
        self.last_ticket = start;
    }

    pub(super) fn see_damage(&mut self, node: u64, damage: Damage) {
        self.verdict.summary.damages += 1;
        self.lives.damages.push((node, damage));
    }

    pub(super) fn see_applied(&mut self, node: u64, lsn: Lsn) {
        self.check_applied(&format!("node {node}"), self.before_header(lsn));
    }

    pub(super) fn check_applied(&mut self, who: &str, applied: Lsn) {
        let (flushed, safe) = (self.lives.flushed_high, self.lives.safe_high);
        if applied > flushed {
            self.flag(Kind::AppliedUnflushed, format!("{who}: {applied} of {flushed}"));
        }
        if self.lives.applies_safe && applied > safe {
            self.flag(Kind::AppliedUnsafe, format!("{who}: {applied} of {safe}"));
        }
    }

    /// Who had the record, or as much of the log as its window asked for, when it was acknowledged.
    pub(super) fn promise_of(&mut self, ack: &AckEvent, known: &Known) -> Acked {
        let (mut nodes, mut k) = (Vec::new(), 0);
        if let Some(stage) = Stage::of(ack.level) {
            let had = match self.quorum.safe(known.generation, stage) {
                Bound::At(safe) => safe.min(known.ticket.end),
                Bound::Undefined | Bound::Free => known.ticket.end,
            };
            (nodes, k) = self.quorum.holders(known.generation, stage, had);
        }
        let holders = self.lives.set(nodes);
        let (damages, leader) = (self.lives.damages.len(), self.lives.leader);
        let damages_at_append = known.damages;
        Acked { level: ack.level, window: ack.window, damages, damages_at_append, leader, holders, k }
    }

    pub(super) fn see_leads(&mut self, node: u64, end: Lsn) {
        self.verdict.summary.leaderships += 1;
        let end = self.before_header(end);
        let position = self.batches.position(end);
        if position.is_none() {
            self.flag(Kind::LeaderElsewhere, format!("{end} of {}", self.batches.end().lsn));
        }
        let was_leader = self.lives.leader;
        self.lives.leader = node;
        self.check_clean_stop(was_leader, end);
        self.lives.led_since = self.lives.damages.len();
        self.check_losses(end);
        self.batches.cut(end);
        let flushed = self.batches.end();
        self.begin_at(flushed);
        while self.acked_by.last().is_some_and(|(_, highest)| *highest > end) {
            self.acked_by.pop();
        }
        self.quorum = Quorum { own: node, ..Quorum::default() };
        self.quorum.add_rule(0, None, Lsn(0));
        self.waiting = vec![0];
        self.is_change_due = false;
        (self.degraded, self.unmet_since_ns) = (false, None);
        (self.heal_at, self.heal_at_change) = (None, None);
        self.unmet_at_tick_ns = None;
    }

    /// After a clean stop everything that was accepted is there, `off` included.
    fn check_clean_stop(&mut self, was_leader: u64, end: Lsn) {
        let lives = &self.lives;
        let since = lives.damages.get(lives.led_since..).unwrap_or_default();
        let first = since.iter().find(|(node, _)| *node == was_leader).map(|(_, damage)| *damage);
        let has_disk = lives.worst(was_leader, lives.led_since) != Some(Damage::DiskLost);
        let stopped = first == Some(Damage::Stopped) && has_disk && lives.leader == was_leader;
        let accepted = self.batches.end().lsn;
        if stopped && end < accepted {
            self.flag(Kind::Lost, format!("{end} to {accepted}, after a clean stop"));
        }
    }

    /// Everything that was acknowledged past `end` is gone: who is owed it?
    fn check_losses(&mut self, end: Lsn) {
        let mut windowed: Vec<(Window, AckedRecord)> = Vec::new();
        for place in (0..self.tickets.len()).rev() {
            let known = self.tickets[place];
            if !known.is_wait && known.ticket.end <= end && known.ended {
                break;
            }
            if known.ticket.end > end
                && let Some(acked) = self.tickets[place].acked.take()
            {
                windowed.extend(self.judge_loss(&known, &acked));
            }
        }
        self.close_rest();
        self.check_windows(windowed);
    }

    /// What still waits of an older place has no ack to come either.
    fn close_rest(&mut self) {
        for place in self.lives.closed_upto..self.tickets.len() {
            if self.close(place) {
                self.verdict.summary.indeterminate += 1;
            }
        }
        self.lives.closed_upto = self.tickets.len();
    }

    /// A lost record; returns it when its window may excuse it.
    fn judge_loss(&mut self, known: &Known, acked: &Acked) -> Option<(Window, AckedRecord)> {
        let asked = &known.ticket;
        let bounded = acked.window.filter(|window| *window != Window::Infinite && !window.is_zero());
        let summary = &mut self.verdict.summary;
        if bounded.is_some() {
            summary.lost_windowed += 1;
        } else {
            summary.lost[usize::from(acked.level.to_wire()).min(4)] += 1;
        }
        let (own, other) = (self.lives.owes_own_copy(acked), self.lives.owes_other_copy(acked));
        if own || (other && bounded.is_none()) {
            let holders = &self.lives.sets[acked.holders];
            let detail = format!(
                "ticket {} at {}, acknowledged at {} {:?} by {}, held by {holders:?} ({} needed); {} leads now",
                asked.ticket, asked.lsn, acked.level, acked.window, acked.leader, acked.k, self.lives.leader
            );
            self.flag(Kind::Lost, detail);
            return None;
        }
        if !other {
            self.verdict.summary.lost_excused += 1;
            return None;
        }
        let record = AckedRecord {
            lsn: asked.lsn,
            key: asked.ticket,
            payload_bytes: asked.payload_bytes,
            records_through: asked.records_through,
            payload_through: asked.payload_through,
            accepted_ns: asked.accepted_ns,
        };
        Some((bounded?, record))
    }

    /// Lost records that were acknowledged with a window of at most ω lie within one span of ω.
    fn check_windows(&mut self, mut lost: Vec<(Window, AckedRecord)>) {
        let width = |window: &Window| match window {
            Window::Bytes(bytes) => (0, *bytes),
            Window::Records(records) => (1, *records),
            Window::Micros(micros) => (2, *micros),
            Window::Infinite => (3, u64::MAX),
        };
        lost.sort_by_key(|(window, _)| width(window));
        for unit in lost.chunk_by(|a, b| width(&a.0).0 == width(&b.0).0) {
            let mut span: Option<crate::survive::Extent> = None;
            for (window, record) in unit {
                let grown = span_of(span, record);
                if let Some(broken) = grown.lost_span().check(*window) {
                    self.flag(broken.kind, broken.detail);
                }
                span = Some(grown);
            }
        }
    }
}

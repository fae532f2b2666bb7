//! Standbys and rules, as the history tells them.

use towline_core::replication::{Stage, SyncRule};
use towline_core::types::Lsn;

use super::{Checker, reaches};
use crate::rules::Standby;
use crate::violation::Kind;

impl Checker {
    pub(super) fn see_standby(&mut self, peer: u16, name: &str, node: u64) {
        match self.quorum.standby(peer) {
            Some(standby) if standby.node == node => {}
            Some(standby) => {
                // Another node: what the old one held is not behind this address any more.
                standby.node = node;
                standby.marks = None;
                standby.excluded = false;
            }
            None => {
                let name = name.to_owned();
                let standby = Standby { peer, name, node, live: false, excluded: false, marks: None };
                // `*` ranks them by their place in the configuration, not by who was met first.
                let place = self.quorum.standbys.partition_point(|other| other.peer < peer);
                self.quorum.standbys.insert(place, standby);
            }
        }
        self.quorum.recompute();
    }

    pub(super) fn change_standby(&mut self, peer: u16, change: impl FnOnce(&mut Standby)) {
        if let Some(standby) = self.quorum.standby(peer) {
            change(standby);
            self.quorum.recompute();
        }
    }

    pub(super) fn see_report(&mut self, peer: u16, marks: [Lsn; 3]) {
        let marks = marks.map(|mark| self.before_header(mark));
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
        self.check_applied(&format!("standby {peer}"), applied);
        let before = self.quorum.standby(peer).filter(|standby| !standby.excluded).map(|s| s.marks);
        let Some(before) = before else { return };
        if let Some([_, old, _]) = before.filter(|[_, old, _]| flushed < *old) {
            self.flag(Kind::StandbyLostData, format!("flushed {flushed} after {old}, and it still counts"));
        }
        self.change_standby(peer, |standby| standby.marks = Some(marks));
    }

    /// It was so low for a moment, and is not any more.
    pub(super) fn see_fall(&mut self, peer: u16, marks: [Lsn; 3]) {
        let marks = marks.map(|mark| self.before_header(mark));
        let before = self.quorum.standby(peer).filter(|standby| !standby.excluded).map(|s| s.marks);
        let Some(before) = before else { return };
        self.change_standby(peer, |standby| standby.marks = Some(marks));
        self.change_standby(peer, |standby| standby.marks = before);
    }

    /// Follows who streams, as the promise about degrading needs it.
    pub(super) fn watch_quorum(&mut self) {
        self.quorum.watched_from = self.oldest_generation();
        if let Some(end) = self.quorum.pending().map(|generation| generation.record_end) {
            let bound = self.quorum.safe(self.quorum.in_force, Stage::Flushed);
            self.is_change_due |= self.own_flushed >= end && reaches(bound, end);
        }
        let meets_newer = self.is_change_due && self.quorum.is_met(self.quorum.in_force + 1);
        if self.degraded && meets_newer {
            self.heal_at_change = self.heal_at_change.or(self.heal_at).or(Some(self.own_flushed));
        }
        if !self.quorum.is_met(self.quorum.watched_from) {
            self.heal_at = None;
            self.heal_at_change = self.heal_at_change.filter(|_| meets_newer);
            self.unmet_since_ns = self.unmet_since_ns.or(Some(self.now_ns));
            return;
        }
        self.unmet_since_ns = None;
        if self.degraded && self.heal_at.is_none() {
            self.heal_at = Some(self.own_flushed);
            self.heal_at_turn = self.heal_at;
        }
    }

    /// The oldest rule that somebody waits under, or the one in force.
    pub(super) fn oldest_generation(&self) -> usize {
        let oldest = self.waiting.iter().position(|count| *count > 0);
        oldest.unwrap_or(self.quorum.in_force).min(self.quorum.in_force)
    }

    pub(super) fn see_rule(&mut self, version: u64, text: &str, record_end: Option<Lsn>) {
        let rule = match SyncRule::parse(text) {
            Ok(rule) => rule,
            Err(error) => return self.flag(Kind::RuleUnreadable, error.to_string()),
        };
        let newest = self.quorum.generations.last().map_or(0, |generation| generation.version);
        if self.quorum.pending().is_some() || (version <= newest && record_end.is_some()) {
            self.flag(Kind::RuleOutOfOrder, format!("version {version} after {newest}"));
        }
        self.waiting.push(0);
        match record_end {
            Some(end) => self.quorum.add_rule(version, rule, end),
            None => {
                // In force from the start: nobody waits across it.
                self.quorum.generations.clear();
                self.waiting = vec![0];
                self.quorum.in_force = 0;
                self.quorum.add_rule(version, rule, Lsn(0));
            }
        }
    }

    pub(super) fn see_rule_in_force(&mut self, version: u64) {
        let pending = self.quorum.pending().map(|generation| (generation.version, generation.record_end));
        let Some((_, end)) = pending.filter(|(pending, _)| *pending == version) else {
            return self.flag(Kind::RuleTooEarly, format!("version {version} is not pending"));
        };
        let bound = self.quorum.safe(self.quorum.in_force, Stage::Flushed);
        // It may have come into force long ago, and a standby been replaced since: what tells of it is the next ack.
        if !self.is_change_due && (self.own_flushed < end || !reaches(bound, end)) {
            let flushed = self.own_flushed;
            self.flag(Kind::RuleTooEarly, format!("record to {end}, flushed {flushed}, safe {bound:?}"));
        }
        self.quorum.in_force += 1;
        self.is_change_due = false;
    }

    pub(super) fn see_degraded(&mut self) {
        let is_due = match (self.unmet_at_tick_ns.or(self.unmet_since_ns), self.degrade_after_ns) {
            (Some(_), None) => true,
            (Some(since_ns), Some(Some(after_ns))) => self.now_ns - since_ns >= after_ns,
            (None, _) | (_, Some(None)) => false,
        };
        if !is_due {
            let since = self.unmet_since_ns;
            self.flag(Kind::DegradedWithoutNeed, format!("unmet since {since:?}, now {}", self.now_ns));
        }
        self.degraded = true;
        (self.heal_at, self.heal_at_change) = (None, None);
    }

    pub(super) fn see_healed(&mut self) {
        let bound = self.quorum.safe(self.oldest_generation(), Stage::Flushed);
        // A pending rule that is safe under both has come into force, and nobody may have been told yet.
        let newer = self.quorum.safe(self.quorum.in_force + 1, Stage::Flushed);
        let is_due = |heal_at| reaches(bound, heal_at) || (self.is_change_due && reaches(newer, heal_at));
        // Or it came into force just now, and is met where the old one was not: what is flushed must be safe.
        let nobody_waits = self.waiting.get(self.quorum.in_force).is_none_or(|count| *count == 0);
        let is_newly_met = self.is_change_due
            && nobody_waits
            && self.quorum.is_met(self.quorum.in_force + 1)
            && reaches(newer, self.own_flushed);
        let mut promised = self.heal_at.or(self.heal_at_turn).into_iter().chain(self.heal_at_change);
        if !is_newly_met && !promised.any(is_due) {
            self.flag(Kind::HealedTooEarly, format!("safe {bound:?}, due {:?}", self.heal_at));
        }
        self.degraded = false;
        (self.heal_at, self.heal_at_change) = (None, None);
    }
}

//! Generations of the sync rule, and what each makes safe.
//!
//! ```text
//!   older eras            in force        pending
//!   (tickets that entered  |               |
//!    under them wait)      |               |
//!   ---- group 0 ----------+------- needs all of them
//!                          |-- group 1 ----+ needs these two
//! ```
//! A ticket belongs to the group of the era that was in force when it came; it must satisfy that era and every
//! later one, so a change of rule never weakens what somebody already waits for.

use std::collections::VecDeque;

use super::api::Stage;
use super::queues::GroupQueues;
use super::standbys::Standbys;
use crate::bugs::{Bug, bug};
use crate::replication::sync_rule::{Members, Method, SyncRule};
use crate::types::limits::{MAX_RULE_ERAS, MAX_STANDBYS};
use crate::types::{Lsn, Position};

/// How far a stage is safe under a rule or several. Ordered: the least is the strictest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Safe {
    /// Too few standbys have reported.
    Undefined,
    /// Up to here.
    At(Position),
    /// No rule: nothing to wait for, nothing promised.
    NoRule,
}

impl Safe {
    pub(super) fn and(self, other: Safe) -> Safe {
        match (self, other) {
            (Safe::Undefined, _) | (_, Safe::Undefined) => Safe::Undefined,
            (Safe::NoRule, safe) | (safe, Safe::NoRule) => safe,
            (Safe::At(a), Safe::At(b)) => Safe::At(if a.lsn <= b.lsn { a } else { b }),
        }
    }

    pub(super) fn position(self) -> Option<Position> {
        match self {
            Safe::At(position) => Some(position),
            Safe::Undefined | Safe::NoRule => None,
        }
    }

    /// Whether the log up to `lsn` is safe; with no rule it is as safe as it gets.
    pub(super) fn reaches(self, lsn: Lsn) -> bool {
        match self {
            Safe::Undefined => false,
            Safe::At(position) => position.lsn >= lsn,
            Safe::NoRule => true,
        }
    }
}

/// One generation of the rule, with the tickets that entered while it was in force.
#[derive(Debug)]
pub(super) struct Era {
    pub(super) version: u64,
    pub(super) rule: Option<SyncRule>,
    /// Candidates as places in the list of standbys, in order of priority.
    candidates: [u8; MAX_STANDBYS],
    count: usize,
    safe: [Option<Position>; 3],
    pub(super) queues: GroupQueues,
}

impl Era {
    fn new(version: u64, rule: Option<SyncRule>, standbys: &Standbys) -> Era {
        let (candidates, count, safe) = ([0; MAX_STANDBYS], 0, [None; 3]);
        let mut era = Era { version, rule, candidates, count, safe, queues: GroupQueues::default() };
        era.resolve(standbys);
        era
    }

    /// Finds the candidates among the standbys; a name that is not configured never counts.
    pub(super) fn resolve(&mut self, standbys: &Standbys) {
        self.count = 0;
        let all = standbys.list();
        let mut add = |place: usize| {
            self.candidates[self.count] = place as u8;
            self.count += 1;
        };
        match self.rule.as_ref().map(|rule| &rule.members) {
            None => {}
            Some(Members::Star) => (0..all.len()).for_each(&mut add),
            Some(Members::List(names)) => names
                .iter()
                .take(MAX_STANDBYS)
                .filter_map(|name| all.iter().position(|standby| standby.name == *name))
                .for_each(&mut add),
        }
        self.recompute(standbys);
    }

    /// Takes in what standbys have reported, who is live, who was excluded.
    pub(super) fn recompute(&mut self, standbys: &Standbys) {
        let Some(rule) = &self.rule else { return };
        let k = usize::from(rule.k.max(1));
        for stage in Stage::ALL {
            let held = self.held_by_k(k, stage, standbys);
            self.safe[stage as usize] = match rule.method {
                Method::Any => held,
                Method::First if bug(Bug::FirstAsAny) => held,
                Method::First => {
                    // What the k first once held stays safe while k candidates still hold it: only an exclusion
                    // or a lower report takes it back, never a disconnect or another order of priority.
                    let kept = lower(self.safe[stage as usize], held);
                    higher(kept, self.held_by_first_live(k, stage, standbys))
                }
            };
        }
    }

    /// The k-th highest of the last reports, of disconnected standbys, too.
    fn held_by_k(&self, k: usize, stage: Stage, standbys: &Standbys) -> Option<Position> {
        let mut marks = [Position::default(); MAX_STANDBYS];
        let mut count = 0;
        for mark in self.candidates(standbys).filter_map(|standby| standby.watermark(stage)) {
            // Insertion from the highest down: at most 16, usually 2 or 3.
            let mut at = count;
            while at > 0 && marks[at - 1].lsn < mark.lsn {
                marks[at] = marks[at - 1];
                at -= 1;
            }
            marks[at] = mark;
            count += 1;
        }
        (count >= k).then(|| marks[k - 1])
    }

    /// The least of the first k that stream; `None` where fewer do, or one of them has not reported.
    fn held_by_first_live(&self, k: usize, stage: Stage, standbys: &Standbys) -> Option<Position> {
        let mut least: Option<Position> = None;
        let mut count = 0;
        for standby in self.candidates(standbys).filter(|standby| standby.is_live()).take(k) {
            let mark = standby.watermark(stage)?;
            least = Some(least.filter(|least| least.lsn <= mark.lsn).unwrap_or(mark));
            count += 1;
        }
        least.filter(|_| count == k)
    }

    fn candidates<'a>(
        &'a self,
        standbys: &'a Standbys,
    ) -> impl Iterator<Item = &'a super::standbys::Standby> {
        self.candidates[..self.count].iter().filter_map(|place| standbys.list().get(usize::from(*place)))
    }

    /// Whether enough candidates stream.
    fn is_met(&self, standbys: &Standbys) -> bool {
        let Some(rule) = &self.rule else { return true };
        let live = self.candidates(standbys).filter(|standby| standby.is_live()).count();
        live >= usize::from(rule.k.max(1))
    }

    /// Whether the standby at this place in the configuration is a candidate.
    pub(super) fn is_candidate(&self, place: usize) -> bool {
        self.candidates[..self.count].iter().any(|candidate| usize::from(*candidate) == place)
    }

    fn safe(&self, stage: Stage) -> Safe {
        match (&self.rule, self.safe[stage as usize]) {
            (None, _) => Safe::NoRule,
            (Some(_), None) => Safe::Undefined,
            (Some(_), Some(position)) => Safe::At(position),
        }
    }
}

/// The generations that still matter, oldest first; one of them is in force, at most one is pending behind it.
#[derive(Debug)]
pub(super) struct Eras {
    list: VecDeque<Era>,
    in_force: usize,
    /// Where the pending rule's record ends.
    pending_end: Lsn,
}

impl Eras {
    pub(super) fn new(standbys: &Standbys) -> Eras {
        let mut list = VecDeque::with_capacity(MAX_RULE_ERAS);
        list.push_back(Era::new(0, None, standbys));
        Eras { list, in_force: 0, pending_end: Lsn(0) }
    }

    pub(super) fn install(&mut self, version: u64, rule: Option<SyncRule>, standbys: &Standbys) {
        self.list.clear();
        self.list.push_back(Era::new(version, rule, standbys));
        self.in_force = 0;
    }

    pub(super) fn push_pending(
        &mut self,
        version: u64,
        rule: Option<SyncRule>,
        end: Lsn,
        standbys: &Standbys,
    ) {
        self.list.push_back(Era::new(version, rule, standbys));
        self.pending_end = end;
    }

    /// The change takes effect once its record is safe at the flushed stage under the rule in force and the new
    /// one: a promotion that finds the record counts by it, one that does not is still met by the old rule.
    pub(super) fn maybe_advance(&mut self, own_flushed: Lsn) -> Option<u64> {
        let pending = self.pending()?.version;
        let safe = self.safe(self.in_force, Stage::Flushed);
        let is_safe = safe.reaches(self.pending_end) || bug(Bug::RuleTooEarly);
        if own_flushed < self.pending_end || !is_safe {
            return None;
        }
        self.in_force += 1;
        self.drop_finished();
        Some(pending)
    }

    /// Forgets old generations that nobody waits under.
    pub(super) fn drop_finished(&mut self) {
        let is_over = |era: &Era| era.queues.waiting == 0 || bug(Bug::RuleForgetsTickets);
        while self.in_force > 0 && self.list.front().is_some_and(is_over) {
            self.list.pop_front();
            self.in_force -= 1;
        }
    }

    pub(super) fn recompute(&mut self, standbys: &Standbys) {
        self.list.iter_mut().for_each(|era| era.recompute(standbys));
    }

    pub(super) fn resolve(&mut self, standbys: &Standbys) {
        self.list.iter_mut().for_each(|era| era.resolve(standbys));
    }

    /// Forgets what was safe: a new term.
    pub(super) fn reset_safe(&mut self) {
        self.list.iter_mut().for_each(|era| era.safe = [None; 3]);
    }

    /// What is safe for a group: under its era and every later one.
    pub(super) fn safe(&self, group: usize, stage: Stage) -> Safe {
        let eras = if bug(Bug::StaleRule) { 1 } else { self.list.len() };
        self.list.iter().skip(group).take(eras).fold(Safe::NoRule, |safe, era| safe.and(era.safe(stage)))
    }

    /// Whether every rule that somebody waits under has enough streaming standbys.
    pub(super) fn are_met(&self, standbys: &Standbys) -> bool {
        self.list.iter().all(|era| era.is_met(standbys))
    }

    pub(super) fn in_force(&self) -> &Era {
        &self.list[self.in_force]
    }

    pub(super) fn in_force_index(&self) -> usize {
        self.in_force
    }

    pub(super) fn pending(&self) -> Option<&Era> {
        self.list.get(self.in_force + 1)
    }

    pub(super) fn newest_version(&self) -> u64 {
        self.list.back().map_or(0, |era| era.version)
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn get_mut(&mut self, group: usize) -> &mut Era {
        &mut self.list[group]
    }

    /// The queues of the group with this version.
    pub(super) fn queues_of(&mut self, version: u64) -> Option<&mut GroupQueues> {
        self.list.iter_mut().find(|era| era.version == version).map(|era| &mut era.queues)
    }

    pub(super) fn awaits_applied(&self, own_flushed: Lsn) -> bool {
        self.list.iter().any(|era| era.queues.awaits_applied(own_flushed))
    }

    pub(super) fn all_queues(&mut self) -> impl Iterator<Item = &mut GroupQueues> {
        self.list.iter_mut().map(|era| &mut era.queues)
    }
}

fn lower(a: Option<Position>, b: Option<Position>) -> Option<Position> {
    let (a, b) = (a?, b?);
    Some(if a.lsn <= b.lsn { a } else { b })
}

fn higher(a: Option<Position>, b: Option<Position>) -> Option<Position> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.lsn >= b.lsn { a } else { b }),
        (one, other) => one.or(other),
    }
}

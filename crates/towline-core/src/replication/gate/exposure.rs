//! Acknowledged payload past the safe position, and the age of what is not safe: counts per batch.
//!
//! ```text
//!    base        groups of batches, oldest first                 sealed
//!      |--------------|-----|-----|--|--|--|--|--|--|--|--|--|--|--|
//!      before: all counts      older neighbours are merged     newest: one batch each
//!      as acknowledged, infinitely old
//! ```
//! Merging loses precision in one direction only: exposure and age never come out below the truth.

use std::cell::Cell;
use std::collections::VecDeque;

use super::api::Stage;
use crate::types::limits::MAX_TRACKED_BATCHES;
use crate::types::{Lsn, Position};

/// Neighbouring batches with their counts.
#[derive(Clone, Copy, Debug)]
struct Group {
    end: Lsn,
    payload_after: u64,
    /// Not later than the acceptance of the oldest record in this group or any after it: the newer groups are
    /// taken in, so that a clock read out of order can only make it earlier. `MAX`: no record from here on.
    accepted_ns: u64,
    /// Payload in it that has been acknowledged; `off` payload counts from sealing on.
    acked_bytes: u64,
}

/// How old the oldest record past a position is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Oldest {
    /// No record lies there.
    None,
    /// Accepted then, or later.
    AcceptedNs(u64),
    /// From before the gate knew.
    Unknown,
}

/// The tracked batches with a gauge per stage.
#[derive(Debug)]
pub(super) struct Exposure {
    /// Where the groups begin; its count of records is not kept up.
    base: Position,
    /// The end of the newest batch.
    sealed: Position,
    groups: VecDeque<Group>,
    stages: [StageGauge; 3],
    last_located: Cell<usize>,
}

#[derive(Clone, Copy, Default, Debug)]
struct StageGauge {
    safe: Option<Position>,
    /// Groups below this index are safe.
    first_unsafe: usize,
    /// Acknowledged payload of the groups from there on.
    bytes: u64,
}

impl Exposure {
    pub(super) fn new(base: Position) -> Exposure {
        Exposure {
            base,
            sealed: base,
            groups: VecDeque::new(),
            stages: [StageGauge::default(); 3],
            last_located: Cell::new(0),
        }
    }

    pub(super) fn reset(&mut self, base: Position) {
        self.base = base;
        self.sealed = base;
        self.groups.clear();
        self.stages = [StageGauge::default(); 3];
    }

    /// A batch up to `after`. Its whole payload counts as acknowledged (`off`) until tickets claim theirs.
    /// Groups that are safe at every stage (or, with no rule, end at or before `no_rule_flushed`) are kept for a
    /// while: an exclusion may yet take them back.
    pub(super) fn push(&mut self, after: Position, accepted_ns: u64, no_rule_flushed: Option<Lsn>) {
        if after.lsn <= self.sealed.lsn {
            return;
        }
        if self.groups.len() >= MAX_TRACKED_BATCHES {
            self.make_room(no_rule_flushed);
        }
        let bytes = after.payload_bytes.saturating_sub(self.sealed.payload_bytes);
        let is_empty = after.records <= self.sealed.records;
        self.sealed = after;
        self.groups.push_back(Group {
            end: after.lsn,
            payload_after: after.payload_bytes,
            accepted_ns: u64::MAX,
            acked_bytes: 0,
        });
        let last = self.groups.len() - 1;
        if !is_empty {
            self.lower_age(last, accepted_ns);
        }
        self.change_acked(last, bytes, 0);
    }

    /// A ticket waits for these bytes: they are not acknowledged yet.
    pub(super) fn claim(&mut self, end: Lsn, payload_bytes: u64, accepted_ns: u64) {
        if let Some(index) = self.locate(end) {
            self.change_acked(index, 0, payload_bytes);
            self.lower_age(index, accepted_ns);
        }
    }

    /// The bytes of the ticket that ends at `end` are acknowledged.
    pub(super) fn acknowledge(&mut self, end: Lsn, payload_bytes: u64) {
        if payload_bytes > 0
            && let Some(index) = self.locate(end)
        {
            self.change_acked(index, payload_bytes, 0);
        }
    }

    /// The safe position of a stage has moved.
    pub(super) fn set_safe(&mut self, stage: Stage, safe: Option<Position>) {
        let gauge = &mut self.stages[stage as usize];
        if gauge.safe == safe {
            return;
        }
        let (Some(last), Some(now)) = (gauge.safe, safe) else {
            gauge.safe = safe;
            return self.recount(stage as usize);
        };
        gauge.safe = safe;
        if now.lsn < last.lsn {
            return self.recount(stage as usize);
        }
        while let Some(group) = self.groups.get(gauge.first_unsafe).filter(|group| group.end <= now.lsn) {
            gauge.bytes = gauge.bytes.saturating_sub(group.acked_bytes);
            gauge.first_unsafe += 1;
        }
    }

    /// Acknowledged payload past the safe position; `None` where that is undefined.
    pub(super) fn bytes(&self, stage: Stage) -> Option<u64> {
        let gauge = &self.stages[stage as usize];
        let safe = gauge.safe?;
        let before = if safe.lsn < self.base.lsn {
            self.base.payload_bytes.saturating_sub(safe.payload_bytes)
        } else {
            0
        };
        Some(gauge.bytes.saturating_add(before))
    }

    /// The oldest record past `safe`.
    pub(super) fn oldest_past(&self, safe: Lsn) -> Oldest {
        if safe < self.base.lsn {
            return Oldest::Unknown;
        }
        match self.groups.get(self.first_past(safe)).map(|group| group.accepted_ns) {
            None | Some(u64::MAX) => Oldest::None,
            Some(ns) => Oldest::AcceptedNs(ns),
        }
    }

    /// Payload in the log up to `lsn`, or up to the end of the group that holds it.
    pub(super) fn payload_through(&self, lsn: Lsn) -> u64 {
        if lsn <= self.base.lsn {
            return self.base.payload_bytes;
        }
        self.locate(lsn).map_or(self.sealed.payload_bytes, |index| self.groups[index].payload_after)
    }

    /// The group that holds the byte before `end`.
    fn locate(&self, end: Lsn) -> Option<usize> {
        if end <= self.base.lsn {
            return None;
        }
        let holds = |index: usize| {
            let starts_before = index == 0 || self.groups.get(index - 1).is_some_and(|group| group.end < end);
            starts_before && self.groups.get(index).is_some_and(|group| end <= group.end)
        };
        // Tickets come and go in order: usually the same batch as the last one, or the next.
        let last = self.last_located.get();
        let index = [last, last + 1]
            .into_iter()
            .find(|index| holds(*index))
            .unwrap_or_else(|| self.groups.partition_point(|group| group.end < end));
        self.last_located.set(index);
        (index < self.groups.len()).then_some(index)
    }

    fn first_past(&self, safe: Lsn) -> usize {
        self.groups.partition_point(|group| group.end <= safe)
    }

    fn change_acked(&mut self, index: usize, add: u64, remove: u64) {
        let group = &mut self.groups[index];
        let removed = remove.min(group.acked_bytes);
        group.acked_bytes = (group.acked_bytes - removed).saturating_add(add);
        for gauge in &mut self.stages {
            if index >= gauge.first_unsafe {
                gauge.bytes = gauge.bytes.saturating_sub(removed).saturating_add(add);
            }
        }
    }

    /// Keeps ages rising: a group is as old as the oldest from it on.
    fn lower_age(&mut self, index: usize, accepted_ns: u64) {
        for group in self.groups.range_mut(..=index).rev() {
            if group.accepted_ns <= accepted_ns {
                break;
            }
            group.accepted_ns = accepted_ns;
        }
    }

    fn recount(&mut self, stage: usize) {
        let first_unsafe = self.stages[stage].safe.map_or(0, |safe| self.first_past(safe.lsn));
        let gauge = &mut self.stages[stage];
        gauge.first_unsafe = first_unsafe;
        gauge.bytes = self
            .groups
            .range(first_unsafe..)
            .fold(0, |sum: u64, group| sum.saturating_add(group.acked_bytes));
    }

    /// Forgets what is safe, half of the groups at most; with nothing to forget, merges.
    fn make_room(&mut self, no_rule_flushed: Option<Lsn>) {
        let safe = match no_rule_flushed {
            Some(flushed) => self.first_past(flushed),
            None => self.stages.iter().map(|gauge| gauge.first_unsafe).min().unwrap_or(0),
        };
        let forgotten = safe.min(self.groups.len() / 2);
        if forgotten == 0 {
            return self.merge_older_half();
        }
        if let Some(last) = self.groups.drain(..forgotten).next_back() {
            self.base.lsn = last.end;
            self.base.payload_bytes = last.payload_after;
        }
        (0..3).for_each(|stage| self.recount(stage));
    }

    /// Pairs of the older half become one group each, so that the age of a group grows with its
    /// distance from the end, and the newest half stays exact.
    fn merge_older_half(&mut self) {
        let half = self.groups.len() / 2;
        let mut write = 0;
        for read in (0..half).step_by(2) {
            let first = self.groups[read];
            let merged = match self.groups.get(read + 1).filter(|_| read + 1 < half) {
                Some(second) => Group {
                    end: second.end,
                    payload_after: second.payload_after,
                    // The first's age already takes in the second's.
                    accepted_ns: first.accepted_ns,
                    acked_bytes: first.acked_bytes.saturating_add(second.acked_bytes),
                },
                None => first,
            };
            self.groups[write] = merged;
            write += 1;
        }
        self.groups.drain(write..half);
        (0..3).for_each(|stage| self.recount(stage));
    }
}

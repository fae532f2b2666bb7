//! The pass after each input: what has become due is acknowledged, says what it achieved, and is forgotten.

use super::eras::Safe;
use super::exposure::Oldest;
use super::queues::{Entry, Waiting};
use super::{CommitGate, GateOutput, Stage, Unmet};
use crate::bugs::{Bug, bug};
use crate::format::Committed;
use crate::replication::TicketOutcome;
use crate::types::{Level, Window};

/// Why a ticket is released.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Its level and its window are satisfied.
    Satisfied,
    /// The rule is not met: it gets `local`, and is told.
    Degraded,
}

impl CommitGate {
    /// One pass: the rule first (a change may come into force), then everything that is due under it.
    pub(super) fn settle(&mut self) {
        while let Some(version) = self.eras.maybe_advance(self.own_flushed.lsn) {
            self.outputs.push_back(GateOutput::RuleInForce { version });
        }
        self.update_exposure();
        self.release_sealed();
        while let Some(entry) = self.own.flushed.pop_through(self.own_flushed.lsn.0) {
            self.release(entry, None, Due::Satisfied);
        }
        for group in 0..self.eras.len() {
            self.release_group(group);
        }
        self.eras.drop_finished();
        self.update_unmet();
        if self.degraded {
            self.release_degraded();
            self.eras.drop_finished();
            self.update_unmet();
        }
        self.maybe_sweep();
    }

    /// `wait` at `off`: the record has its place.
    pub(super) fn release_sealed(&mut self) {
        while let Some(entry) = self.own.sealed.pop_through(self.sealed.lsn.0) {
            self.release(entry, None, Due::Satisfied);
        }
    }

    fn release_group(&mut self, group: usize) {
        if self.eras.get_mut(group).queues.waiting == 0 {
            return;
        }
        let own = self.own_flushed.lsn;
        let safe = Stage::ALL.map(|stage| self.eras.safe(group, stage));
        for stage in Stage::ALL {
            let limit = match safe[stage as usize] {
                Safe::Undefined => continue,
                Safe::At(position) => own.min(position.lsn),
                Safe::NoRule => own,
            };
            while let Some(entry) = self.eras.get_mut(group).queues.plain[stage as usize].pop_through(limit.0)
            {
                self.release(entry, Some(group), Due::Satisfied);
            }
        }
        // Flushed now: those whose window is satisfied go, the others wait for it.
        while let Some(entry) = self.eras.get_mut(group).queues.unflushed.pop_through(own.0) {
            let Some(waiting) = self.slab.get_mut(entry).copied() else {
                self.stale = self.stale.saturating_sub(1);
                continue;
            };
            let Some(stage) = Stage::of(waiting.level) else { continue };
            if self.is_within_window(&waiting, safe[stage as usize]) {
                self.release(entry, Some(group), Due::Satisfied);
                continue;
            }
            let entries = self.eras.get_mut(group).queues.push_window(entry, &waiting, stage);
            self.waiting_for_window += 1;
            if let Some(waiting) = self.slab.get_mut(entry) {
                waiting.entries = entries;
                waiting.waited_for_window = true;
            }
        }
        for stage in Stage::ALL {
            self.release_windows(group, stage, safe[stage as usize]);
        }
    }

    fn release_windows(&mut self, group: usize, stage: Stage, safe: Safe) {
        let (lsn, payload, records) = match safe {
            Safe::Undefined => return,
            Safe::At(position) => (position.lsn.0, position.payload_bytes, position.records),
            Safe::NoRule => (u64::MAX, u64::MAX, u64::MAX),
        };
        let index = stage as usize;
        while let Some(entry) = self.eras.get_mut(group).queues.windows[index].bytes.pop_through(payload) {
            self.release(entry, Some(group), Due::Satisfied);
        }
        while let Some(entry) = self.eras.get_mut(group).queues.windows[index].records.pop_through(records) {
            self.release(entry, Some(group), Due::Satisfied);
        }
        while let Some(entry) = self.eras.get_mut(group).queues.windows[index].time_by_end.pop_through(lsn) {
            self.release(entry, Some(group), Due::Satisfied);
        }
        let Safe::At(position) = safe else { return };
        if self.eras.get_mut(group).queues.windows[index].time_by_width.is_empty() {
            return;
        }
        // One age for all: their ends lie past the safe position, so the oldest record past it is in each fill.
        let Some(age_ns) = self.age_ns(self.exposure.oldest_past(position.lsn)) else { return };
        loop {
            let heap = &mut self.eras.get_mut(group).queues.windows[index].time_by_width;
            let Some(entry) = heap.peek().copied().filter(|widest| widest.key >= age_ns) else { break };
            heap.pop();
            self.release(entry, Some(group), Due::Satisfied);
        }
    }

    /// Whether the fill of a ticket that the primary has flushed is at most its window.
    fn is_within_window(&self, waiting: &Waiting, safe: Safe) -> bool {
        let position = match safe {
            Safe::Undefined => return false,
            Safe::NoRule => return true,
            Safe::At(position) => position,
        };
        if position.lsn >= waiting.end {
            return true;
        }
        match waiting.window {
            None | Some(Window::Infinite) => waiting.window.is_some(),
            Some(window) if window.is_zero() => false,
            Some(Window::Bytes(bytes)) if bug(Bug::WindowCountsPadding) => {
                waiting.end.bytes_since(position.lsn) <= bytes
            }
            Some(Window::Bytes(bytes)) => {
                waiting.payload_through.saturating_sub(position.payload_bytes) <= bytes
            }
            Some(Window::Records(records)) => {
                waiting.records_through.saturating_sub(position.records) <= records
            }
            Some(Window::Micros(micros)) => self
                .age_ns(self.exposure.oldest_past(position.lsn))
                .is_some_and(|age_ns| age_ns <= micros.saturating_mul(1000)),
        }
    }

    /// Age of the oldest unsafe record now; `None`: older than anything.
    fn age_ns(&self, oldest: Oldest) -> Option<u64> {
        match oldest {
            Oldest::None => Some(0),
            Oldest::AcceptedNs(then_ns) => Some(self.now_ns?.saturating_sub(then_ns)),
            Oldest::Unknown => None,
        }
    }

    /// While the rule is not met: everything that is durable here, and says so.
    fn release_degraded(&mut self) -> u64 {
        let mut released = 0;
        for group in 0..self.eras.len() {
            while let Some(entry) = self.eras.get_mut(group).queues.pop_flushed(self.own_flushed.lsn) {
                released += u64::from(self.release(entry, Some(group), Due::Degraded));
            }
        }
        released
    }

    /// Ends the ticket of an entry that has left its queue; `false` when the entry was stale.
    fn release(&mut self, entry: Entry, group: Option<usize>, due: Due) -> bool {
        let Some(waiting) = self.slab.take(entry) else {
            self.stale = self.stale.saturating_sub(1);
            return false;
        };
        // A time window has two entries: the other one is stale now.
        self.stale += usize::from(waiting.entries.saturating_sub(1));
        self.forget(&waiting);
        self.exposure.acknowledge(waiting.end, waiting.payload_bytes);
        let committed = self.committed(&waiting, group, due);
        let is_unbounded = waiting.window == Some(Window::Infinite);
        self.weaker_acks += u64::from(committed.level != waiting.level && !is_unbounded);
        self.end(waiting.id, TicketOutcome::Committed(committed));
        true
    }

    /// What the acknowledgement says: never more than was achieved.
    pub(super) fn committed(&self, waiting: &Waiting, group: Option<usize>, due: Due) -> Committed {
        let in_force = self.eras.in_force();
        let is_remote = waiting.level.is_remote();
        let has_rule = in_force.rule.is_some();
        let is_unbounded = waiting.window == Some(Window::Infinite);
        let (level, window) = match due {
            _ if !is_remote => (waiting.level, None),
            Due::Degraded if bug(Bug::SilentDegrade) => (waiting.level, waiting.window),
            Due::Degraded => (Level::Local, Some(Window::Infinite)),
            Due::Satisfied if is_unbounded => (Level::Local, Some(Window::Infinite)),
            Due::Satisfied if !has_rule => (Level::Local, waiting.window.map(|_| Window::Infinite)),
            Due::Satisfied => (waiting.level, waiting.window),
        };
        let stage = Stage::of(waiting.level).unwrap_or(Stage::Flushed);
        let safe = self.eras.safe(group.unwrap_or(self.eras.in_force_index()), stage);
        let fill_bytes = match safe.position() {
            Some(position) if position.lsn >= waiting.end => 0,
            safe => {
                let through = if waiting.is_wait {
                    self.exposure.payload_through(waiting.end)
                } else {
                    waiting.payload_through
                };
                through.saturating_sub(safe.map_or(0, |position| position.payload_bytes))
            }
        };
        Committed {
            lsn: waiting.lsn,
            end: waiting.end,
            level,
            window,
            rule_version: in_force.version,
            fill_bytes,
            waited_for_window: waiting.waited_for_window,
        }
    }

    /// Takes a ticket that has ended out of the counts.
    pub(super) fn forget(&mut self, waiting: &Waiting) {
        self.waiting_for_window -= usize::from(waiting.waited_for_window).min(self.waiting_for_window);
        if let Some(queues) = waiting.group.and_then(|version| self.eras.queues_of(version)) {
            queues.waiting = queues.waiting.saturating_sub(1);
        }
    }

    fn update_exposure(&mut self) {
        for stage in Stage::ALL {
            let safe = self.safe(stage);
            self.exposure.set_safe(stage, safe);
        }
    }

    /// Watches whether enough standbys stream; heals by itself.
    fn update_unmet(&mut self) {
        if !self.eras.are_met(&self.standbys) {
            self.heal_at = None;
            self.unmet_since_ns = self.unmet_since_ns.or(self.now_ns);
            return;
        }
        self.unmet_since_ns = None;
        if !self.degraded {
            return;
        }
        // What was flushed while nobody counted must be safe before an ack may say so again.
        let heal_at = *self.heal_at.get_or_insert(self.own_flushed.lsn);
        if self.eras.safe(0, Stage::Flushed).reaches(heal_at) {
            self.degraded = false;
            self.heal_at = None;
            self.outputs.push_back(GateOutput::Healed);
        }
    }

    pub(super) fn maybe_degrade(&mut self) {
        self.update_unmet();
        let (Unmet::DegradeAfter { ns }, Some(since_ns), Some(now_ns)) =
            (self.unmet, self.unmet_since_ns, self.now_ns)
        else {
            return;
        };
        if self.degraded || now_ns.saturating_sub(since_ns) < ns {
            return;
        }
        self.degraded = true;
        // Said before the first ack that is weaker than what was asked for.
        let at = self.outputs.len();
        self.outputs.push_back(GateOutput::Degraded { released: 0 });
        let count = self.release_degraded();
        if let Some(GateOutput::Degraded { released }) = self.outputs.get_mut(at) {
            *released = count;
        }
        // Nobody waits under an older rule any more: it may be met without it.
        self.eras.drop_finished();
        self.update_unmet();
        self.maybe_sweep();
    }

    /// Removes stale entries before they outnumber what waits.
    pub(super) fn maybe_sweep(&mut self) {
        if self.stale <= self.slab.len() + SWEEP_SLACK {
            return;
        }
        let CommitGate { slab, own, eras, .. } = self;
        own.retain(|entry| slab.is_current(entry));
        eras.all_queues().for_each(|queues| queues.retain(|entry| slab.is_current(entry)));
        self.stale = 0;
    }
}

/// Stale entries that are left alone however few tickets wait.
const SWEEP_SLACK: usize = 1024;

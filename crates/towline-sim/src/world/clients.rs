//! What clients ask for and are told.

use towline_core::format::record_bytes;
use towline_core::node::{Input, TicketOutcome};
use towline_core::replication::{Stage, SyncRule};
use towline_core::types::{Level, Lsn, Span, Term, TicketId, Window};

use super::World;
use crate::env::promise;
use crate::marks::sometimes;

/// A ticket that has not ended.
#[derive(Debug)]
pub struct Waiting {
    host: usize,
    key: u64,
    span: Span,
    level: Level,
    window: Option<Window>,
    /// A `wait`, not an append.
    is_wait: bool,
    /// When the client gave up.
    cancelled_ns: Option<u64>,
    /// Power cuts before it was appended: a standby whose word is still under way may lose what it had written.
    power_cuts: u64,
}

/// A record that a client was told about.
#[derive(Clone, Debug)]
pub struct Acked {
    pub key: u64,
    pub span: Span,
    /// The term that it was given in.
    pub term: Term,
    pub level: Level,
    pub window: Option<Window>,
    /// Disks lost before the acknowledgement.
    pub disk_losses: u64,
    /// Power cuts before the append.
    pub power_cuts: u64,
}

impl World {
    /// Clients of every host that takes appends: many at the newest leader, fewer at an older one.
    pub fn load(&mut self) {
        let newest = self.newest_leader();
        for n in 0..self.hosts.len() {
            if !self.hosts[n].accepts() {
                // A log that is full waits for its operator.
                if self.plan.healing && self.hosts[n].leads() {
                    self.trim(n);
                }
                continue;
            }
            let most = if Some(n) == newest { 4 } else { 2 };
            for _ in 0..self.env.rng.below(most) {
                self.append(n);
            }
            match self.env.rng.below(100) {
                0 => self.cancel_one(n),
                1 => self.wait(n),
                2 => self.trim(n),
                _ => {}
            }
        }
    }

    fn append(&mut self, n: usize) {
        let levels = if self.setup.applies { 5 } else { 4 };
        let level = Level::ALL[self.env.rng.index(levels)];
        let window = if level.is_remote() && !self.setup.rule.is_empty() { self.window() } else { None };
        self.append_at(n, level, window);
    }

    fn window(&mut self) -> Option<Window> {
        let rng = &mut self.env.rng;
        match rng.below(8) {
            0 => Some(Window::Bytes(rng.below(2_000))),
            1 => Some(Window::Records(rng.below(8))),
            2 => Some(Window::Micros(rng.below(1_000))),
            3 => Some(Window::Infinite),
            _ => None,
        }
    }

    /// Appends one record; false when there is no room now.
    pub fn append_at(&mut self, n: usize, level: Level, window: Option<Window>) -> bool {
        let key = self.next_record + 1;
        let len = self.env.rng.within(self.setup.record_bytes.clone()).max(8);
        let mut payload = key.to_le_bytes().to_vec();
        payload.resize(len as usize, key as u8);
        let id = TicketId(self.next_ticket);
        let ticket = (level != Level::Off).then_some((id, level, window));
        let Some(span) = self.hosts[n].append(&payload, ticket, self.env.now_ns) else { return false };
        debug_assert_eq!(span.len(), record_bytes(len));
        self.next_record = key;
        self.next_ticket += 1;
        self.counts.appends += 1;
        if level == Level::Off {
            self.counts.acks[0] += 1;
            let term = self.term_of(n);
            self.remember(Acked { key, span, term, level, window, disk_losses: 0, power_cuts: 0 });
        } else {
            let power_cuts = self.power_cuts;
            let waiting =
                Waiting { host: n, key, span, level, window, is_wait: false, cancelled_ns: None, power_cuts };
            self.waiting.insert(id, waiting);
        }
        true
    }

    /// Waits until the log as it is now is safe.
    fn wait(&mut self, n: usize) {
        let Some(node) = &self.hosts[n].node else { return };
        let end = node.watermarks().end.lsn;
        let level = Level::ALL[1 + self.env.rng.index(3)];
        let ticket = TicketId(self.next_ticket);
        self.next_ticket += 1;
        let span = Span::new(end, end);
        let waiting = Waiting {
            host: n,
            key: 0,
            span,
            level,
            window: None,
            is_wait: true,
            cancelled_ns: None,
            power_cuts: self.power_cuts,
        };
        self.waiting.insert(ticket, waiting);
        self.hosts[n].inbox.push_back(Input::Wait { ticket, lsn: end, level });
    }

    /// Gives up on a ticket whose batch is sealed: it must not be acknowledged any more.
    fn cancel_one(&mut self, n: usize) {
        let Some(node) = &self.hosts[n].node else { return };
        let sealed = node.watermarks().end.lsn;
        let fits = |waiting: &Waiting| {
            waiting.host == n
                && waiting.span.end <= sealed
                && waiting.cancelled_ns.is_none()
                && !waiting.is_wait
        };
        if let Some((id, waiting)) = self.waiting.iter_mut().find(|(_, waiting)| fits(waiting)) {
            waiting.cancelled_ns = Some(self.env.now_ns);
            self.hosts[n].inbox.push_front(Input::Cancel { ticket: *id });
        }
    }

    /// What no failover can take back is needed no more; with no rule, what is flushed.
    fn trim(&mut self, n: usize) {
        let Some(node) = &self.hosts[n].node else { return };
        let below = node.watermarks().safe;
        self.hosts[n].inbox.push_back(Input::Trim { below });
    }

    pub(super) fn handle_ack(&mut self, n: usize, ticket: TicketId, outcome: TicketOutcome) {
        let Some(waiting) = self.waiting.remove(&ticket) else {
            return self.env.breaks(format!("ticket {ticket:?} ended twice, or never was"));
        };
        let TicketOutcome::Committed(ack) = outcome else {
            sometimes!(self.env.marks, Cancelled, waiting.cancelled_ns.is_some());
            self.counts.indeterminate += 1;
            return;
        };
        let env = &mut self.env;
        // The tick comes first in a turn: what it decides (to degrade) may come before the client's word is read.
        let in_time = waiting
            .cancelled_ns
            .is_none_or(|at_ns| env.now_ns <= at_ns + super::TURN_NS || ack.window == Some(Window::Infinite));
        promise!(env, in_time, "a cancelled wait was answered as a success");
        promise!(env, ack.end == waiting.span.end, "{ticket:?} names another place: {ack:?}");
        let flushed = self.hosts[n].flushed();
        promise!(env, flushed >= ack.end, "acknowledged {} and flushed {flushed}", ack.end);
        sometimes!(env.marks, WindowWait, ack.waited_for_window);
        sometimes!(env.marks, LateAck, Some(n) != self.streams.last().map(|stream| stream.host));
        let place = Level::ALL.iter().position(|known| *known == ack.level).unwrap_or(0);
        self.counts.acks[place] += 1;
        let term = self.term_of(n);
        let bounded = ack.window.is_some_and(|window| !window.is_zero());
        if let Some(stage) = Stage::of(ack.level).filter(|_| !bounded) {
            self.check_reported(n, term, stage, ack.end, ack.rule_version);
        }
        if waiting.level.is_remote() && !ack.level.is_remote() && waiting.window != Some(Window::Infinite) {
            let said = ack.window == Some(Window::Infinite) || self.rule_of(n, ack.rule_version).is_none();
            promise!(self.env, said, "silently asynchronous: {ack:?}");
        }
        if !waiting.is_wait {
            let (disk_losses, power_cuts) = (self.disk_losses, waiting.power_cuts);
            let (key, span, window) = (waiting.key, waiting.span, ack.window);
            self.remember(Acked { key, span, term, level: ack.level, window, disk_losses, power_cuts });
        }
    }

    fn remember(&mut self, acked: Acked) {
        self.check_late(&acked);
        self.acked.push(acked);
    }

    /// Whatever the leader believes: so many of the others must have reported it, in this very term.
    fn check_reported(&mut self, n: usize, term: Term, stage: Stage, end: Lsn, version: u64) {
        let Some(rule) = self.rule_of(n, version) else { return };
        let said =
            |host: &crate::host::Host| host.ever.get(&term).is_some_and(|marks| marks[stage as usize] >= end);
        let others = self.hosts.iter().enumerate().filter(|(other, host)| *other != n && said(host)).count();
        let (k, env) = (usize::from(rule.k), &mut self.env);
        promise!(env, others >= k, "n{n} acknowledged {end} in {term} at {stage:?} with {others} of {k}");
    }

    fn rule_of(&self, n: usize, version: u64) -> Option<SyncRule> {
        let text = self.hosts[n].rules.get(&version)?;
        SyncRule::parse(text).ok().flatten()
    }

    /// The term that a host leads in, or led in last.
    fn term_of(&self, n: usize) -> Term {
        let stream = self.streams.iter().rev().find(|stream| stream.host == n);
        stream.map(|stream| stream.term).unwrap_or_default()
    }

    /// Tickets of a process that died never get an answer: indeterminate.
    pub(super) fn forget_tickets(&mut self, n: usize) {
        let before = self.waiting.len();
        self.waiting.retain(|_, waiting| waiting.host != n);
        self.counts.indeterminate += (before - self.waiting.len()) as u64;
    }
}

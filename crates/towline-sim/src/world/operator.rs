//! The operator: starts what is down, replaces disks, chooses who is to lead. He knows what a good operator knows:
//! which node he wants to lead, whose disk he has replaced, and that a node that is not caught up leads nobody.

use towline_check::Damage;
use towline_core::node::{Input, PromoteRequest, StartRole};
use towline_core::types::{LogId, Lsn, NodeId, Term};

use super::World;
use crate::disk::OpenError;
use crate::host::Host;
use crate::marks::sometimes;

/// What he has in mind.
#[derive(Debug, Default)]
pub struct Plan {
    /// Who is to lead.
    pub wanted: usize,
    /// When each host is started again, and when it is stopped for a new start.
    start_ns: Vec<Option<u64>>,
    bounce_ns: Vec<Option<u64>>,
    /// When each host's passing troubles end.
    pub calm_ns: Vec<u64>,
    /// When cut links are whole again.
    pub mend_ns: u64,
    /// The one node whose disk is lost or damaged, and what it must hold again before another may be hit.
    pub fragile: Option<(usize, Lsn)>,
    /// Until then a promotion may take.
    promoted_ns: u64,
    /// A disk was damaged in this world.
    pub ever_damaged: bool,
    /// Faults are over.
    pub healing: bool,
}

impl Plan {
    pub fn add(&mut self, hosts: usize) {
        self.start_ns.resize(hosts, None);
        self.bounce_ns.resize(hosts, None);
        self.calm_ns.resize(hosts, 0);
    }

    /// The host is started again at this time.
    pub fn start_at(&mut self, n: usize, at_ns: u64) {
        self.start_ns[n] = Some(at_ns);
    }

    /// The host is killed and started again at this time, if it runs then.
    pub fn bounce_at(&mut self, n: usize, at_ns: u64) {
        let known = self.bounce_ns[n].unwrap_or(u64::MAX);
        self.bounce_ns[n] = Some(known.min(at_ns));
    }
}

impl World {
    /// Starts a host in a role; a directory that does not open is looked after.
    pub fn start(&mut self, n: usize, role: StartRole) {
        let members = self.setup.nodes;
        let leads = role == StartRole::Primary;
        let host = &mut self.hosts[n];
        host.config.role = role;
        // Only a process that was started as a standby has its arena in shared memory, whatever becomes of it.
        host.config.arena_outlives = self.setup.outlives && role == StartRole::Standby;
        host.config.rule = (leads && !self.setup.rule.is_empty()).then(|| self.setup.rule.clone());
        host.config.standbys = match role {
            StartRole::Primary => (0..members).filter(|other| *other != n).map(|m| format!("n{m}")).collect(),
            StartRole::Standby if self.setup.relay && n == 1 => vec![format!("n{members}")],
            StartRole::Standby => Vec::new(),
        };
        let goes_on = n != 0 || !self.streams.is_empty();
        let reported = host.still_reported();
        let was_damaged = host.disk.damaged;
        match host.start(goes_on, &mut self.env) {
            Ok(end) => {
                self.hosts[n].disk.damaged = false;
                self.hear(n, false);
                if was_damaged {
                    // All that its log holds was read; what it lacks is gone for good.
                    self.tell_damage(n, Damage::DiskLost);
                    if end < reported[1] {
                        return self.replace(n);
                    }
                } else if end < reported[1] {
                    let text =
                        format!("n{n} had reported {} as flushed, and comes back with {end}", reported[1]);
                    self.env.breaks(text);
                }
                self.hosts[n].reported = [Lsn(0); 2];
            }
            Err(OpenError::Unreadable) => {
                let at_ns = self.env.now_ns + 500_000;
                self.plan.start_at(n, at_ns);
            }
            Err(OpenError::Corrupt(_)) if was_damaged => {
                sometimes!(self.env.marks, Corrupt);
                self.replace(n);
            }
            Err(OpenError::Corrupt(why) | OpenError::NotClean(why)) => {
                self.env.breaks(format!("the log of n{n} is called damaged, and is not: {why}"));
            }
        }
    }

    /// A new disk: another node by the same name, which begins empty.
    pub(super) fn replace(&mut self, n: usize) {
        sometimes!(self.env.marks, StartedAnew);
        self.take_down(n);
        self.tell_damage(n, Damage::DiskLost);
        let node = NodeId(1_000 + self.env.rng.below(1 << 40));
        let config = self.config(n, node);
        let fresh = Host::new(n, config, LogId::default(), &self.setup);
        let mut old = std::mem::replace(&mut self.hosts[n], fresh);
        let host = &mut self.hosts[n];
        // What it had said may still be under way.
        (host.ever, host.troubles) = (std::mem::take(&mut old.ever), old.troubles);
        host.keeps_tape = old.keeps_tape;
        let most = self.hosts.iter().map(Host::flushed).max().unwrap_or_default();
        if self.is_member(n) {
            self.plan.fragile = Some((n, most.max(self.disk_end())));
        }
        if self.plan.wanted == n {
            self.plan.wanted = self.best_candidate(Some(n)).unwrap_or(n);
            self.promote(self.plan.wanted);
        }
        let at_ns = self.env.now_ns + self.env.rng.within(50_000..2_000_000);
        self.plan.start_at(n, at_ns);
    }

    /// Makes a node lead: asks a running standby, or starts it as a primary.
    pub(super) fn promote(&mut self, n: usize) {
        let now_ns = self.env.now_ns;
        let host = &mut self.hosts[n];
        let can_be_asked = host.node.is_some() && !host.contends() && !host.troubles.paused;
        if !can_be_asked || self.env.rng.chance(0.4) {
            return self.plan.bounce_at(n, now_ns);
        }
        let timeout_ns = self.env.rng.within(5_000_000..20_000_000);
        let standbys = (0..self.setup.nodes).filter(|other| *other != n).map(|m| format!("n{m}")).collect();
        let rule = self.env.rng.chance(0.5).then(|| self.setup.rule.clone());
        let request = PromoteRequest { request: 1, standbys, rule, force: false, timeout_ns };
        host.inbox.push_back(Input::Promote(request));
        self.plan.promoted_ns = now_ns + 2 * timeout_ns;
    }

    /// The farthest that any disk reaches, by its meta block's word.
    fn disk_end(&self) -> Lsn {
        self.acked.iter().map(|acked| acked.span.end).max().unwrap_or_default()
    }

    /// The member with the highest (last term, flushed): whom a good operator promotes.
    pub(super) fn best_candidate(&self, except: Option<usize>) -> Option<usize> {
        let fits = |n: &usize| Some(*n) != except && self.may_lead(*n);
        (0..self.setup.nodes).filter(fits).max_by_key(|n| (self.log_end(*n), usize::MAX - n))
    }

    /// Whether its log holds anything: an empty one knows no rule, and would lead without asking anybody.
    pub(super) fn may_lead(&self, n: usize) -> bool {
        let host = &self.hosts[n];
        !host.disk.log.is_unset() && host.node.is_some() && !host.rules.is_empty() && self.log_end(n).1.0 > 0
    }

    fn log_end(&self, n: usize) -> (Term, Lsn) {
        let flushed = self.hosts[n].flushed();
        let first = self.setup.geometry.first_batch(0);
        if flushed <= first {
            return (Term::default(), Lsn(0));
        }
        (self.hosts[n].disk.meta.history.last_term(flushed), flushed)
    }

    /// The host that leads in the highest term.
    pub fn newest_leader(&self) -> Option<usize> {
        // One that led on a disk that is gone may have been alone in its term: nobody else knows of it.
        let newest = self
            .streams
            .iter()
            .rev()
            .filter(|stream| self.is_there(stream))
            .max_by_key(|stream| stream.term)?;
        self.hosts[newest.host].leads().then_some(newest.host)
    }

    /// What he does in a turn.
    pub(super) fn operate(&mut self) {
        let now_ns = self.env.now_ns;
        for n in 0..self.hosts.len() {
            self.look_after(n, now_ns);
            if self.plan.start_ns[n].is_some_and(|at_ns| at_ns <= now_ns) {
                self.plan.start_ns[n] = None;
                let leads = n == self.plan.wanted && !self.hosts[n].disk.log.is_unset();
                let role = if leads { StartRole::Primary } else { StartRole::Standby };
                self.start(n, role);
            }
            if self.plan.bounce_ns[n].is_some_and(|at_ns| at_ns <= now_ns) {
                self.plan.bounce_ns[n] = None;
                if self.hosts[n].node.is_some() {
                    self.take_down(n);
                    self.tell_damage(n, Damage::Killed);
                    self.plan.start_at(n, now_ns + 50_000);
                }
            }
            if self.plan.calm_ns[n] <= now_ns {
                self.calm(n);
            }
        }
        if self.plan.mend_ns <= now_ns {
            self.deaf.clear();
        }
        let wanted = self.plan.wanted;
        if self.hosts[wanted].disk.log.is_unset()
            && let Some(best) = self.best_candidate(Some(wanted))
        {
            // Nobody was there to take over when its disk went.
            self.plan.wanted = best;
            self.promote(best);
        }
        self.watch_fragile();
        self.resync();
        self.reconsider();
    }

    /// Who is so far behind that the others have trimmed what it lacks cannot lead them: another is chosen.
    fn reconsider(&mut self) {
        let wanted = self.plan.wanted;
        let is_behind = !self.hosts[wanted].leads() && self.hosts[wanted].must_resync.is_some();
        let best = self.best_candidate(Some(wanted)).filter(|n| self.log_end(*n) > self.log_end(wanted));
        if let Some(best) = best.filter(|_| is_behind && self.plan.healing) {
            self.hosts[wanted].must_resync = None;
            self.plan.wanted = best;
            self.promote(best);
        }
    }

    /// A process that has ended its log, or stepped down, is started again.
    fn look_after(&mut self, n: usize, now_ns: u64) {
        let host = &self.hosts[n];
        let is_seen_to = self.plan.bounce_ns[n].is_some() || self.plan.start_ns[n].is_some();
        if host.node.is_none() || (is_seen_to && !host.stopped && host.halted.is_none()) {
            return;
        }
        if let Some(why) = &host.halted {
            if host.disk.damaged {
                sometimes!(self.env.marks, Halted);
                return self.replace(n);
            }
            let text = format!("n{n} halted: {why}");
            return self.env.breaks(text);
        }
        if host.stopped {
            sometimes!(self.env.marks, CleanStop);
            self.plan.bounce_ns[n] = None;
            // What a poisoned log had not flushed stays undone: that is no clean stop.
            let damage = if host.poisoned { Damage::Killed } else { Damage::Stopped };
            self.take_down(n);
            self.tell_damage(n, damage);
            let at_ns = now_ns + self.env.rng.within(0..2_000_000);
            return self.plan.start_at(n, at_ns);
        }
        // A promotion that is under way gets its time.
        let is_wanted = n == self.plan.wanted;
        let runs_as_wanted = host.contends() == is_wanted || now_ns < self.plan.promoted_ns;
        let refused = is_wanted && host.promotion_refused;
        let is_due = host.poisoned || host.stepped_down || refused || (self.plan.healing && !runs_as_wanted);
        if is_due {
            let at_ns = now_ns + self.env.rng.within(0..6_000_000);
            self.plan.bounce_at(n, at_ns);
        }
    }

    /// A standby that the newest leader, or its relay, cannot serve any more, or has excluded, begins anew.
    fn resync(&mut self) {
        let Some(leader) = self.newest_leader().filter(|leader| *leader == self.plan.wanted) else { return };
        for sender in 0..self.hosts.len() {
            let host = &mut self.hosts[sender];
            let Some(peer) = host.must_resync.take().or(host.excluded) else { continue };
            let Some(n) = self.peer_host(sender, peer) else { continue };
            let is_due = sender == leader || !self.is_member(n);
            let may = !self.is_member(n) || self.plan.fragile.is_none_or(|(fragile, _)| fragile == n);
            if is_due && may && n != leader && self.hosts[n].node.is_some() {
                self.hosts[sender].excluded.take_if(|excluded| *excluded == peer);
                self.replace(n);
            }
        }
    }

    /// A node on a new disk counts as whole once it has what was there when the old one went.
    fn watch_fragile(&mut self) {
        let Some((n, target)) = self.plan.fragile else { return };
        let Some(leader) = self.newest_leader() else { return };
        let (host, term) = (&self.hosts[n], self.hosts[leader].disk.meta.adopted);
        let end = self.hosts[leader].flushed().min(target);
        let follows = n == leader || host.disk.meta.adopted == term;
        if !host.disk.damaged && host.node.is_some() && follows && host.flushed() >= end {
            self.plan.fragile = None;
        }
    }

    /// All faults end. One node is to lead, damaged disks are read.
    pub fn heal(&mut self) {
        self.plan.healing = true;
        self.heal_network();
        if let Some(leader) = self.newest_leader() {
            self.plan.wanted = leader;
        } else if !self.may_lead(self.plan.wanted)
            && self.hosts[self.plan.wanted].node.is_some()
            && let Some(best) = self.best_candidate(None)
        {
            self.plan.wanted = best;
        }
        let now_ns = self.env.now_ns;
        for n in 0..self.hosts.len() {
            self.plan.calm_ns[n] = now_ns;
            self.calm(n);
            if self.hosts[n].disk.damaged {
                self.plan.bounce_at(n, now_ns);
            }
            if self.hosts[n].node.is_none() {
                self.plan.start_at(n, now_ns);
            }
        }
    }

    fn calm(&mut self, n: usize) {
        self.far.remove(&n);
        let host = &mut self.hosts[n];
        host.troubles = Default::default();
        host.disk.read_fails &= !self.plan.healing;
    }

    /// Nothing waits, and every host has all that the leader has.
    pub fn is_quiet(&self) -> bool {
        let Some(leader) = self.newest_leader() else { return false };
        let node = self.hosts[leader].node.as_ref();
        let Some(watermarks) = node.map(|node| node.watermarks()) else { return false };
        let end = watermarks.end.lsn;
        // A log of another term may end at the same place.
        let newest = |host: &Host| host.disk.meta.history.last().map(|entry| entry.term);
        let term = newest(&self.hosts[leader]);
        let is_settled = self.plan.start_ns.iter().chain(&self.plan.bounce_ns).all(Option::is_none);
        is_settled
            && leader == self.plan.wanted
            && self.waiting.is_empty()
            && self
                .hosts
                .iter()
                .all(|host| host.node.is_some() && host.flushed() == end && newest(host) == term)
            && node.is_some_and(|node| {
                node.status().standbys.iter().all(|standby| standby.watermarks.flushed.lsn == end)
            })
    }

    /// How every host stands, for whoever looks at a world that does not become quiet.
    pub fn describe(&self) -> String {
        let line = |host: &Host| match &host.node {
            Some(node) => {
                let status = node.status();
                format!(
                    "n{} {:?}, {:?}, standbys {:?}",
                    host.name,
                    status.role,
                    node.watermarks(),
                    status.standbys
                )
            }
            None => format!("n{} is down", host.name),
        };
        let lines: Vec<String> = self.hosts.iter().map(line).collect();
        format!(
            "{:?}, {} tickets wait, rule '{}', relay {}\n{}",
            self.plan,
            self.waiting.len(),
            self.setup.rule,
            self.setup.relay,
            lines.join("\n")
        )
    }
}

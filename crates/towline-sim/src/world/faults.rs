//! What happens to hosts. The atlas: which faults may meet, so that what is promised can be demanded. At most one
//! disk is lost or damaged at a time, and while it is, leadership stays where it is; the rest may meet freely.

use towline_check::Damage;
use towline_core::node::Input;

use super::{TURN_NS, World};
use crate::bytes::Bytes;
use crate::marks::sometimes;

/// One kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Kill,
    PowerCut,
    PowerCutOfAll,
    BreakLinks,
    HalfOpen,
    OneWayCut,
    Cut,
    Isolate,
    Clog,
    FarAway,
    Pause,
    SlowDisk,
    SlowFill,
    WriteError,
    MetaError,
    ReadError,
    FullDisk,
    CleanStop,
    RuleChange,
    Failover,
    DiskLoss,
    DiskDamage,
}

/// How often each happens among the others.
const WEIGHTS: &[(Fault, u64, &str)] = &[
    (Fault::Kill, 10, "kills"),
    (Fault::PowerCut, 10, "power cuts"),
    (Fault::PowerCutOfAll, 3, "power cuts of all"),
    (Fault::BreakLinks, 6, "broken links"),
    (Fault::HalfOpen, 6, "half-open links"),
    (Fault::OneWayCut, 5, "one-way cuts"),
    (Fault::Cut, 5, "two-way cuts"),
    (Fault::Isolate, 4, "isolated nodes"),
    (Fault::Clog, 6, "clogs"),
    (Fault::FarAway, 3, "slow links"),
    (Fault::Pause, 6, "pauses"),
    (Fault::SlowDisk, 5, "slow disks"),
    (Fault::SlowFill, 4, "slow fills"),
    (Fault::WriteError, 4, "write errors"),
    (Fault::MetaError, 3, "meta block errors"),
    (Fault::ReadError, 4, "read errors"),
    (Fault::FullDisk, 4, "full disks"),
    (Fault::CleanStop, 4, "clean stops"),
    (Fault::RuleChange, 4, "rule changes"),
    (Fault::Failover, 10, "failovers"),
    (Fault::DiskLoss, 5, "lost disks"),
    (Fault::DiskDamage, 5, "damaged disks"),
];

impl World {
    /// One fault of some kind somewhere, if it may be.
    pub fn strike(&mut self) {
        let sum: u64 = WEIGHTS.iter().map(|(_, weight, _)| weight).sum();
        let mut place = self.env.rng.below(sum);
        for (fault, weight, name) in WEIGHTS {
            if place < *weight {
                let victim = self.env.rng.index(self.hosts.len());
                if self.happens(*fault, victim) {
                    self.env.trace.say(self.env.now_ns, victim, fault);
                    self.count(name);
                }
                return;
            }
            place -= weight;
        }
    }

    fn happens(&mut self, fault: Fault, n: usize) -> bool {
        let now_ns = self.env.now_ns;
        let rng = &mut self.env.rng;
        let later_ns = now_ns + TURN_NS * rng.within(2..200);
        let is_up = self.hosts[n].node.is_some();
        match fault {
            Fault::Kill | Fault::PowerCut => {
                if !is_up {
                    return false;
                }
                self.crash(n, fault == Fault::PowerCut);
                let at_ns = now_ns + TURN_NS * self.env.rng.below(100);
                self.plan.start_at(n, at_ns);
            }
            Fault::PowerCutOfAll => (0..self.hosts.len()).for_each(|n| {
                if self.hosts[n].node.is_some() {
                    self.crash(n, true);
                    let at_ns = now_ns + TURN_NS * self.env.rng.below(60);
                    self.plan.start_at(n, at_ns);
                }
            }),
            Fault::BreakLinks => self.break_links_of(n, false),
            Fault::HalfOpen => self.break_links_of(n, true),
            Fault::OneWayCut | Fault::Cut => {
                let other = rng.index(self.hosts.len());
                if other == n {
                    return false;
                }
                self.deaf.insert((n, other));
                if fault == Fault::Cut {
                    self.deaf.insert((other, n));
                }
                self.plan.mend_ns = later_ns + TURN_NS * 200;
            }
            Fault::Isolate => self.isolate(n, later_ns + TURN_NS * 200),
            Fault::Clog => self.clog(later_ns),
            Fault::FarAway => {
                self.far.insert(n);
                self.plan.calm_ns[n] = later_ns + TURN_NS * 400;
            }
            Fault::CleanStop => {
                if !is_up || self.hosts[n].troubles.paused {
                    return false;
                }
                self.hosts[n].inbox.push_back(Input::Stop);
                // One that cannot finish is killed in the end.
                self.plan.bounce_at(n, now_ns + TURN_NS * 400);
            }
            Fault::RuleChange => return self.change_rule(),
            Fault::Failover => return self.fail_over(),
            Fault::DiskLoss | Fault::DiskDamage => return self.hit_disk(n, fault == Fault::DiskDamage),
            Fault::Pause
            | Fault::SlowDisk
            | Fault::SlowFill
            | Fault::WriteError
            | Fault::MetaError
            | Fault::ReadError
            | Fault::FullDisk => {
                if !is_up {
                    return false;
                }
                let host = &mut self.hosts[n];
                match fault {
                    Fault::Pause => host.troubles.paused = true,
                    Fault::SlowDisk => host.troubles.slow = true,
                    Fault::SlowFill => host.troubles.slow_fill = true,
                    Fault::WriteError => host.troubles.write_fails = true,
                    Fault::MetaError => host.troubles.meta_fails = true,
                    Fault::ReadError => {
                        host.troubles.read_fails = true;
                        host.disk.read_fails = true;
                    }
                    _ => host.troubles.full = true,
                }
                self.plan.calm_ns[n] = later_ns + TURN_NS * 100;
            }
        }
        true
    }

    /// A process ends without warning; with its power, un-flushed sectors may be gone.
    pub fn crash(&mut self, n: usize, power: bool) {
        self.counts.crashes += 1;
        let was_stopped = self.hosts[n].stopped && !self.hosts[n].poisoned;
        self.drop_links_of(n, power);
        let host = &mut self.hosts[n];
        host.stop();
        if power {
            host.disk.power_cut(self.setup.sector_loss, &mut self.env.rng);
            host.arena = Bytes::default();
        } else {
            host.disk.sigkill(&mut self.env.rng);
        }
        self.check_segments(n);
        self.forget_tickets(n);
        let damage = match (was_stopped, power) {
            (true, _) => Damage::Stopped,
            (false, true) => Damage::PowerCut,
            (false, false) => Damage::Killed,
        };
        self.tell_damage(n, damage);
    }

    /// The operator ends a process.
    pub(super) fn take_down(&mut self, n: usize) {
        self.drop_links_of(n, false);
        self.hosts[n].stop();
        self.hosts[n].disk.sigkill(&mut self.env.rng);
        self.check_segments(n);
        self.forget_tickets(n);
    }

    pub(super) fn isolate(&mut self, n: usize, until_ns: u64) {
        for other in (0..self.hosts.len()).filter(|other| *other != n) {
            self.deaf.insert((n, other));
            self.deaf.insert((other, n));
        }
        self.plan.mend_ns = until_ns;
    }

    fn change_rule(&mut self) -> bool {
        let Some(leader) = self.newest_leader().filter(|_| !self.setup.rule.is_empty()) else { return false };
        let rule = self.setup.other_rule(&mut self.env.rng);
        self.hosts[leader].inbox.push_back(Input::SetRule { request: 1, rule });
        true
    }

    /// Another node is to lead; the old one is dead, cut off, asleep, or knows nothing of it.
    fn fail_over(&mut self) -> bool {
        let old = self.plan.wanted;
        if !self.setup.failover || self.plan.fragile.is_some() {
            return false;
        }
        let rng = &mut self.env.rng;
        let (with_care, how) = (rng.chance(0.7), rng.below(6));
        let any = rng.index(self.setup.nodes);
        let chosen = if with_care { self.best_candidate(Some(old)) } else { Some(any) };
        let Some(chosen) = chosen.filter(|n| *n != old && self.may_lead(*n)) else { return false };
        let now_ns = self.env.now_ns;
        let later_ns = now_ns + TURN_NS * self.env.rng.within(20..400);
        match how {
            0 if self.hosts[old].node.is_some() => {
                self.crash(old, true);
                self.plan.start_at(old, later_ns);
            }
            1 if self.hosts[old].node.is_some() => {
                self.crash(old, false);
                self.plan.start_at(old, later_ns);
            }
            2 => self.isolate(old, later_ns),
            3 if self.hosts[old].node.is_some() => {
                self.hosts[old].troubles.paused = true;
                self.plan.calm_ns[old] = later_ns;
            }
            // Nobody tells the old one; or it is told in its own time.
            4 => self.plan.bounce_at(old, later_ns),
            _ => {}
        }
        self.plan.wanted = chosen;
        self.promote(chosen);
        true
    }

    /// A disk is lost, or something durable on it is damaged.
    fn hit_disk(&mut self, n: usize, damage: bool) -> bool {
        let Some(leader) = self.newest_leader() else { return false };
        let is_settled = leader == self.plan.wanted
            && self.hosts.iter().filter(|host| host.contends()).count() == 1
            && self.plan.fragile.is_none();
        let (up, is_member) = (self.hosts[n].node.is_some(), self.is_member(n));
        if !is_settled || !up || (n == leader && !self.may_lose_leader(n)) {
            return false;
        }
        if n == leader {
            // Nothing may come between: the others must be there to take over.
            let heirs = (0..self.setup.nodes).filter(|m| *m != n).all(|m| self.may_lead(m));
            if !heirs {
                return false;
            }
        }
        if !damage {
            self.counts.crashes += 1;
            self.replace(n);
            return true;
        }
        let end = self.hosts[n].flushed();
        let (geometry, rng) = (self.setup.geometry, &mut self.env.rng);
        if !self.hosts[n].disk.damage(geometry, end, rng) {
            return false;
        }
        self.plan.ever_damaged = true;
        if is_member {
            self.plan.fragile = Some((n, end));
        }
        sometimes!(self.env.marks, DiskDamaged);
        let at_ns = self.env.now_ns + TURN_NS * self.env.rng.below(200);
        self.plan.bounce_at(n, at_ns);
        true
    }

    fn may_lose_leader(&self, leader: usize) -> bool {
        self.setup.failover && self.best_candidate(Some(leader)).is_some()
    }
}

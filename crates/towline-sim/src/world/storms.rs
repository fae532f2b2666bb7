//! Leaders that go at the worst moment: while some standbys lag, with those that have everything, and again before the
//! next one has found its place; two promoted at once. The rules must hold whatever the operator does.

use towline_core::node::{Input, PromoteRequest};

use super::{TURN_NS, World};
use crate::marks::sometimes;

/// A storm that has begun.
#[derive(Debug)]
pub struct Storm {
    /// Those that were kept behind.
    laggards: Vec<usize>,
    /// When the next leader goes.
    next_ns: u64,
    /// Leaders that are still to go.
    blows: u64,
}

impl World {
    /// Some standbys begin to lag, in one way or another.
    pub fn storm_gathers(&mut self) {
        let Some(leader) = self.newest_leader().filter(|leader| *leader == self.plan.wanted) else { return };
        if self.plan.fragile.is_some() || self.storm.is_some() {
            return;
        }
        let rng = &mut self.env.rng;
        let mut laggards: Vec<usize> = (0..self.setup.nodes).filter(|n| *n != leader).collect();
        let stay = 1 + rng.index(laggards.len());
        while laggards.len() > stay {
            laggards.remove(rng.index(laggards.len()));
        }
        let next_ns = self.env.now_ns + TURN_NS * rng.within(10..120);
        let how = rng.below(4);
        for n in &laggards {
            match how {
                // What it says still arrives: it is not given up.
                0 => {
                    self.deaf.insert((leader, *n));
                    self.plan.mend_ns = next_ns;
                }
                1 => self.hosts[*n].troubles.slow = true,
                2 => {
                    self.far.insert(*n);
                }
                // The moment alone is bad.
                _ => {}
            }
            self.plan.calm_ns[*n] = next_ns + TURN_NS * self.env.rng.within(0..200);
        }
        let blows = 1 + self.env.rng.below(3);
        self.env.trace.say(self.env.now_ns, leader, &format_args!("a storm, {laggards:?} lag ({how})"));
        self.storm = Some(Storm { laggards, next_ns, blows });
        self.count("storms");
    }

    /// The leader goes, with some of those that have what it had, and one of those that are left is to lead.
    pub(super) fn storm_goes_on(&mut self) {
        if self.plan.healing {
            self.storm = None;
        }
        let now_ns = self.env.now_ns;
        let Some(mut storm) = self.storm.take_if(|storm| storm.next_ns <= now_ns) else { return };
        if self.plan.fragile.is_some() {
            return;
        }
        let old = self.plan.wanted;
        let (with_the_best, how) = (self.env.rng.chance(0.5), self.env.rng.below(5));
        for n in 0..self.setup.nodes {
            let is_ahead = !storm.laggards.contains(&n);
            if n == old || (with_the_best && is_ahead && self.env.rng.chance(0.8)) {
                self.goes(n, how);
            }
        }
        let left: Vec<usize> = (0..self.setup.nodes)
            .filter(|n| *n != old && self.may_lead(*n) && !self.is_cut_off(*n))
            .collect();
        let behind: Vec<usize> = left.iter().copied().filter(|n| storm.laggards.contains(n)).collect();
        let candidates = if behind.is_empty() || self.env.rng.chance(0.3) { &left } else { &behind };
        if !candidates.is_empty() {
            let chosen = self.env.rng.pick(candidates);
            self.plan.wanted = chosen;
            self.promote(chosen);
            sometimes!(self.env.marks, LaggardAsked, storm.laggards.contains(&chosen));
            if left.len() > 1 && self.env.rng.chance(0.25) {
                self.promote_beside(chosen, &left);
            }
        }
        storm.blows -= 1;
        if storm.blows > 0 {
            storm.next_ns = now_ns + TURN_NS * self.env.rng.within(4..160);
            self.storm = Some(storm);
        }
    }

    /// Down, asleep or cut off, and back after a while.
    fn goes(&mut self, n: usize, how: u64) {
        if self.hosts[n].node.is_none() {
            return;
        }
        let later_ns = self.env.now_ns + TURN_NS * self.env.rng.within(4..300);
        match how {
            0 | 1 => {
                self.crash(n, how == 0);
                self.plan.start_at(n, later_ns);
            }
            2 => {
                self.hosts[n].troubles.paused = true;
                self.plan.calm_ns[n] = later_ns;
            }
            3 => self.isolate(n, later_ns),
            // It is well, and nobody asks it.
            _ => {}
        }
    }

    fn is_cut_off(&self, n: usize) -> bool {
        self.hosts[n].troubles.paused || (0..self.setup.nodes).all(|m| m == n || self.deaf.contains(&(m, n)))
    }

    /// Another operator has the same idea.
    fn promote_beside(&mut self, chosen: usize, left: &[usize]) {
        let others: Vec<usize> = left.iter().copied().filter(|n| *n != chosen).collect();
        let other = self.env.rng.pick(&others);
        if self.hosts[other].contends() {
            return;
        }
        sometimes!(self.env.marks, TwoPromoted);
        let timeout_ns = self.env.rng.within(5_000_000..20_000_000);
        let standbys = (0..self.setup.nodes).filter(|n| *n != other).map(|n| format!("n{n}")).collect();
        let request = PromoteRequest { request: 1, standbys, rule: None, force: false, timeout_ns };
        self.hosts[other].inbox.push_back(Input::Promote(request));
    }
}

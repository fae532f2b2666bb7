//! A sync rule that is not met is said once, with what is the matter with each standby that it lacks: appends at remote
//! levels wait, and nobody is told why by their silence.

use super::{Event, Node, note};

impl Node {
    /// When there is something to say if nothing changes.
    pub(super) fn unmet_deadline_ns(&self) -> Option<u64> {
        let since_ns = self.gate.unmet_since_ns().filter(|_| self.is_leading() && !self.unmet_told)?;
        Some(since_ns.saturating_add(TOLD_AFTER_NS))
    }

    pub(super) fn settle_unmet(&mut self) {
        if !self.is_leading() {
            self.unmet_told = false;
            return;
        }
        match self.gate.unmet_since_ns() {
            Some(since_ns) if !self.unmet_told && self.now_ns.saturating_sub(since_ns) >= TOLD_AFTER_NS => {
                self.unmet_told = true;
                self.say_unmet();
            }
            None if self.unmet_told => {
                self.unmet_told = false;
                self.out.push_back(note("the sync rule is met again".to_owned()));
            }
            _ => {}
        }
    }

    fn say_unmet(&mut self) {
        let gate = self.gate.status();
        let (_, Some(rule)) = self.gate.rule() else { return };
        if gate.degraded {
            // That has been said, and nothing waits.
            return;
        }
        let names: Vec<&str> = self.peers.iter().map(|peer| peer.name.as_str()).collect();
        let mut lacks: Vec<String> =
            rule.check_against(&names).err().map(|why| why.to_string()).into_iter().collect();
        for standby in gate.standbys.iter().filter(|standby| standby.candidate && !standby.live) {
            let why = self.peers.get(usize::from(standby.peer.0)).map_or("", |peer| peer.why_down.as_str());
            let why = if why.is_empty() { "not connected yet" } else { why };
            lacks.push(format!("standby '{}': {why}", standby.name));
        }
        let why = format!("{rule}; {}", lacks.join("; "));
        self.say(Event::RuleUnmet { why });
    }
}

/// A standby that is started together with its primary, or was gone for a moment, is no news.
const TOLD_AFTER_NS: u64 = 2_000_000_000;

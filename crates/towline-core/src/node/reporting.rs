//! What standbys say of their logs: reports, what they lost, and what a trim must leave for them.

use super::leading::Leading;
use super::{Event, Node, Role, note};
use crate::format::Welcome;
use crate::replication::ReportError;
use crate::replication::progress::Report;
use crate::types::{Lsn, RegisteredStandby, SessionId};

impl Node {
    pub(super) fn exclude(&mut self, index: usize, reported: Lsn, now: Lsn) {
        let peer = self.peers[index].index;
        self.gate.exclude(peer);
        self.say(Event::StandbyExcluded { peer, reported, now });
    }

    pub(super) fn handle_report(&mut self, index: usize, session: SessionId, report: Report) {
        let place = self.peers[index].index;
        match self.peers[index].progress.apply_report(session, &report) {
            Ok(effect) => {
                if effect.healed {
                    self.gate.include(place);
                    self.say(Event::StandbyIncluded { peer: place, flushed: report.watermarks.flushed.lsn });
                }
                if effect.advanced && self.is_leading() {
                    self.gate.report(place, &effect.counts);
                    self.register_standby(index, report.watermarks.flushed.lsn);
                }
            }
            Err(ReportError::OtherSession | ReportError::StaleTerm { .. }) => {}
            Err(ReportError::HigherTerm { term, .. }) => {
                self.step_down(&format!("a standby reports in term {term}"));
                self.close(session, "the standby has adopted a higher term");
            }
            Err(ReportError::LostDurableData { reported, now }) => {
                self.exclude(index, reported, now);
                self.close(session, "the standby has lost durable data");
            }
            Err(refused) => self.close(session, &refused.to_string()),
        }
        if report.failing {
            self.out.push_back(note(format!("standby '{}' cannot flush any more", self.peers[index].name)));
        }
    }

    /// A standby that has adopted nobody's term since it was registered can only have grown. What it was registered
    /// with is durable here, to the granularity of a segment.
    pub(super) fn notice_loss(&mut self, index: usize, welcome: &Welcome) {
        if !matches!(self.role, Role::Restarting(_) | Role::Leading(_)) {
            return;
        }
        let name = &self.peers[index].name;
        let is_it = |known: &&RegisteredStandby| {
            known.name == *name && known.node == welcome.node && known.term == welcome.adopted
        };
        let known = self.meta.get().standbys.iter().find(is_it);
        let now = welcome.end.flushed;
        if let Some(reported) = known.map(|known| known.flushed).filter(|reported| *reported > now)
            && !self.peers[index].progress.is_excluded()
        {
            self.peers[index].progress.exclude(welcome.node, reported);
            self.exclude(index, reported, now);
        }
    }

    /// Retention is held back for it, durably, to the granularity of a segment.
    pub(super) fn register_standby(&mut self, index: usize, flushed: Lsn) {
        let (Role::Leading(Leading { term, .. }), Some(node)) = (&self.role, self.peers[index].node) else {
            return;
        };
        let (term, geometry) = (*term, self.config.geometry);
        let name = &self.peers[index].name;
        let known = self.meta.get().standbys.iter().find(|standby| standby.name == *name);
        let same_segment = known.is_some_and(|known| {
            (known.node, known.term) == (node, term)
                && geometry.segment_of(known.flushed) == geometry.segment_of(flushed)
        });
        if same_segment {
            return;
        }
        let name = name.clone();
        let configured: Vec<String> = self.peers.iter().map(|peer| peer.name.clone()).collect();
        let own = self.tail.flushed().lsn;
        self.meta.change(|meta| {
            meta.standbys.retain(|standby| standby.name != name && configured.contains(&standby.name));
            meta.standbys.push(RegisteredStandby { node, name, flushed, term });
            // A net, to the granularity of this write: what recovery must find.
            meta.reported = meta.reported.max(own);
        });
    }

    /// What a trim must leave: the least flushed of the registered standbys that are still configured.
    pub(super) fn slowest_standby(&self) -> Option<Lsn> {
        let registered = &self.meta.get().standbys;
        self.peers
            .iter()
            .filter_map(|peer| {
                let registered = registered.iter().find(|standby| standby.name == peer.name)?;
                Some(registered.flushed.max(peer.progress.flushed_high()))
            })
            .min()
    }
}

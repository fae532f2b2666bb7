//! The standbys as the gate counts them: one node once, never the primary, never one that lost durable data.

use super::api::{GateError, Stage};
use crate::bugs::{Bug, bug};
use crate::types::limits::MAX_STANDBYS;
use crate::types::{NodeId, PeerIndex, Position, StandbyWatermarks};

/// One configured standby.
#[derive(Clone, Debug)]
pub(super) struct Standby {
    pub(super) peer: PeerIndex,
    pub(super) name: String,
    /// The node behind its address; `None` while unknown or refused, and then it does not count.
    pub(super) node: Option<NodeId>,
    pub(super) live: bool,
    pub(super) excluded: bool,
    /// Its last report, also of a session that is gone: a disconnect takes nothing back.
    pub(super) report: Option<StandbyWatermarks>,
}

impl Standby {
    /// Whether what it reports counts.
    fn counts(&self) -> bool {
        self.node.is_some() && (!self.excluded || bug(Bug::ExcludedCounts))
    }

    /// Whether it counts and streams.
    pub(super) fn is_live(&self) -> bool {
        self.live && self.counts()
    }

    /// Its watermark at a stage. LSN 0 lies before every batch: it says that nothing counts yet.
    pub(super) fn watermark(&self, stage: Stage) -> Option<Position> {
        let report = self.report.as_ref().filter(|_| self.counts())?;
        Some(stage.watermark(report)).filter(|mark| mark.lsn.0 > 0)
    }
}

/// All of them, in order of the configuration.
#[derive(Debug)]
pub(super) struct Standbys {
    own: NodeId,
    list: Vec<Standby>,
}

impl Standbys {
    pub(super) fn new(own: NodeId) -> Standbys {
        Standbys { own, list: Vec::with_capacity(MAX_STANDBYS) }
    }

    pub(super) fn register(&mut self, peer: PeerIndex, name: &str) -> Result<(), GateError> {
        if self.list.len() >= MAX_STANDBYS {
            return Err(GateError::TooManyStandbys(peer));
        }
        if self.list.iter().any(|other| other.name == name || other.peer == peer) {
            return Err(GateError::DuplicateName(name.to_owned()));
        }
        self.list.push(Standby {
            peer,
            name: name.to_owned(),
            node: None,
            live: false,
            excluded: false,
            report: None,
        });
        Ok(())
    }

    pub(super) fn identify(&mut self, peer: PeerIndex, node: NodeId) -> Result<(), GateError> {
        let index = self.index(peer).ok_or(GateError::UnknownPeer(peer))?;
        let same = self.list.iter().find(|other| other.peer != peer && other.node == Some(node));
        let same = same.filter(|_| !bug(Bug::NodeCountsTwice));
        let refused = if node == self.own && !bug(Bug::PrimaryCounts) {
            Some(GateError::Own { node, name: self.list[index].name.clone() })
        } else {
            same.map(|other| GateError::SameNode {
                node,
                name: self.list[index].name.clone(),
                other: other.name.clone(),
            })
        };
        let standby = &mut self.list[index];
        if let Some(error) = refused {
            standby.node = None;
            standby.live = false;
            standby.report = None;
            return Err(error);
        }
        if standby.node != Some(node) {
            // Another node than before: what the old one held is no longer behind this address, and what the old
            // one lost is not its fault.
            standby.node = Some(node);
            standby.report = None;
            standby.excluded = false;
        }
        Ok(())
    }

    pub(super) fn get_mut(&mut self, peer: PeerIndex) -> Option<&mut Standby> {
        self.index(peer).and_then(|index| self.list.get_mut(index))
    }

    pub(super) fn list(&self) -> &[Standby] {
        &self.list
    }

    pub(super) fn reset_reports(&mut self) {
        self.list.iter_mut().for_each(|standby| standby.report = None);
    }

    fn index(&self, peer: PeerIndex) -> Option<usize> {
        self.list.iter().position(|standby| standby.peer == peer)
    }
}

//! What a cluster's members say and do by themselves: waited for, and told where it is not as it should be.

use towline_runtime::ShardStatus;

use crate::cluster::{Cluster, NAMES, PATIENCE};
use crate::error::{Result, SurviveError};
use crate::process::Node;

impl Cluster<'_> {
    /// Waits until a member leads.
    pub(crate) fn wait_leading(&self, at: usize) -> Result<()> {
        self.wait_status(at, "leads", |status| status.is_leading())
    }

    /// Waits until a leader's standbys of these places stream.
    pub(crate) fn wait_following(&self, leader: usize, who: &[usize]) -> Result<()> {
        self.wait_status(leader, "leads, and its standbys follow", |status| {
            let streams = |at: &usize| {
                status.node.standbys.iter().any(|peer| peer.name == NAMES[*at] && peer.state == "streaming")
            };
            status.is_leading() && who.iter().all(streams)
        })
    }

    /// Waits until a member's status is as wanted.
    pub(crate) fn wait_status(
        &self,
        at: usize,
        what: &str,
        wanted: impl Fn(&ShardStatus) -> bool,
    ) -> Result<()> {
        let mut last = String::new();
        let asked = self.context.wait(&format!("'{}' {what}", NAMES[at]), PATIENCE, || {
            let status = self.status(at)?;
            let is_so = wanted(&status);
            if !is_so {
                last = format!("{:?}", status.node);
            }
            Ok(is_so.then_some(()))
        });
        asked.map_err(|error| match error {
            SurviveError::Late(what) => {
                let said = self.members[at].node.as_ref().map(Node::said).unwrap_or_default();
                SurviveError::Late(format!("{what}; it says {last}{said}"))
            }
            other => other,
        })
    }

    /// What did not happen in time, with what each member says of itself.
    pub(crate) fn explain(&mut self, error: SurviveError) -> SurviveError {
        let SurviveError::Late(mut what) = error else { return error };
        self.ended().iter().for_each(|ended| what.push_str(&format!("\n {ended}")));
        for (at, member) in self.members.iter().enumerate() {
            let Some(node) = &member.node else { continue };
            let status = node.status().map(|status| format!("{:?}", status.node));
            let status = status.unwrap_or_else(|error| error.to_string());
            what.push_str(&format!("\n '{}': {status}{}", NAMES[at], node.said()));
        }
        SurviveError::Late(what)
    }

    /// Waits until every living member has flushed all of the leader's log.
    pub(crate) fn wait_all_hold(&self, leader: usize) -> Result<()> {
        let who = self.living_beside(leader);
        self.wait_status(leader, "has all of its log on the disks of those that follow", |status| {
            let end = status.node.watermarks.end.lsn;
            let holds = |at: &usize| {
                let mut peers = status.node.standbys.iter().filter(|peer| peer.name == NAMES[*at]);
                peers.any(|peer| peer.state == "streaming" && peer.watermarks.flushed.lsn >= end)
            };
            who.iter().all(holds)
        })
    }

    /// Members that ended by themselves, and what they said last.
    pub(crate) fn ended(&mut self) -> Vec<String> {
        let mut ended = Vec::new();
        for (name, member) in NAMES.iter().zip(&mut self.members) {
            let Some(node) = &mut member.node else { continue };
            if let Some(status) = node.ended() {
                ended.push(format!("'{name}' ended by itself ({status}){}", node.said()));
                member.node = None;
            }
        }
        ended
    }

    /// The members that run, but for one.
    pub(crate) fn living_beside(&self, leader: usize) -> Vec<usize> {
        let lives = |at: &usize| *at != leader && self.members[*at].node.is_some();
        (0..self.members.len()).filter(lives).collect()
    }
}

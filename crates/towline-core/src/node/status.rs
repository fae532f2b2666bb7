//! What a node tells about itself.

use serde::{Deserialize, Serialize};

use super::{Node, Role};
use crate::replication::{GateStatus, Stage};
use crate::types::{Lsn, NodeId, PeerIndex, Position, StandbyWatermarks, Term};

/// A node's role, in a word.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleStatus {
    /// Follows.
    Standby,
    /// A primary that may not lead yet.
    Restarting,
    /// Leads in this term.
    Primary(Term),
    /// Writes nothing any more.
    Ended(String),
}

/// Positions that change with every batch; cheap to take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeWatermarks {
    /// Where the log starts.
    pub log_start: Lsn,
    /// The end of the last batch.
    pub end: Position,
    /// Flushed without a gap.
    pub flushed: Position,
    /// What the rule has made safe at the flushed stage, as far as this node knows.
    pub safe: Lsn,
    /// Applied here.
    pub applied: Lsn,
    /// Arena bytes below are given back.
    pub released: Lsn,
}

/// A standby, from the sending side.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its place in the configuration.
    pub peer: PeerIndex,
    /// Its name.
    pub name: String,
    /// Its node id, once known.
    pub node: Option<NodeId>,
    /// `down`, `connecting`, `catching up`, `streaming`, or `must resync`: the log no longer has what it needs next.
    pub state: String,
    /// Shipped up to here.
    pub sent: Lsn,
    /// As last reported.
    pub watermarks: StandbyWatermarks,
    /// Bytes between the log's end and its flushed watermark; all of the log before its first report in the term.
    pub lag_bytes: u64,
    /// It lost durable data, and does not count before it holds all of it again.
    pub excluded: bool,
    /// Why it is not connected, as last heard; empty while it is shipped to.
    #[serde(default)]
    pub why: String,
}

/// Everything, for people and metrics.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The role.
    pub role: RoleStatus,
    /// The highest term adopted.
    pub adopted: Term,
    /// The watermarks.
    pub watermarks: NodeWatermarks,
    /// The commit gate.
    pub gate: GateStatus,
    /// The standbys it ships to.
    pub standbys: Vec<PeerStatus>,
    /// Upstream session open.
    pub follows: bool,
    /// Why appends wait for room, while they do: the retention limit, or a full disk.
    #[serde(default)]
    pub full: Option<String>,
}

impl NodeStatus {
    /// The role in words, for people.
    pub fn role_text(&self) -> String {
        match &self.role {
            RoleStatus::Primary(term) => format!("primary in term {term}"),
            RoleStatus::Restarting => "primary, waiting until it may lead".to_owned(),
            RoleStatus::Standby if self.follows => format!("standby in term {}", self.adopted),
            RoleStatus::Standby => "standby, no primary connected".to_owned(),
            RoleStatus::Ended(why) => format!("ended: {why}"),
        }
    }
}

impl Node {
    /// The positions that change with every batch.
    pub fn watermarks(&self) -> NodeWatermarks {
        NodeWatermarks {
            log_start: self.segments.log_start(),
            end: self.tail.end(),
            flushed: self.tail.flushed(),
            safe: self.safe_flushed(),
            applied: self.following.applied(),
            released: self.released,
        }
    }

    /// The version of the sync rule in force, and whether a rule is in force or on its way. Does not allocate.
    pub fn rule(&self) -> (u64, bool) {
        let (version, rule) = self.gate.rule();
        (version, rule.is_some() || self.gate.pending_rule().is_some())
    }

    /// Acknowledged payload bytes past the safe position per stage (written, flushed, applied); `None` while that is
    /// undefined. Does not allocate.
    pub fn exposure_bytes(&self) -> [Option<u64>; 3] {
        Stage::ALL.map(|stage| self.gate.exposure_bytes(stage))
    }

    /// Acknowledgements that said less than was asked for, because the rule could not be met or there was none.
    pub fn weaker_acks(&self) -> u64 {
        self.gate.weaker_acks()
    }

    /// Watermarks of each standby as last reported, in the order of the configuration. Does not allocate.
    pub fn standby_watermarks(&self) -> impl Iterator<Item = StandbyWatermarks> {
        self.peers.iter().map(|peer| peer.watermarks())
    }

    /// Everything. Allocates: for people and metrics, not for each turn.
    pub fn status(&self) -> NodeStatus {
        let (log_start, end) = (self.segments.log_start(), self.tail.end().lsn);
        NodeStatus {
            role: match &self.role {
                Role::Standby => RoleStatus::Standby,
                Role::Restarting(_) => RoleStatus::Restarting,
                Role::Leading(leading) => RoleStatus::Primary(leading.term),
                Role::Ended { why } => RoleStatus::Ended(why.clone()),
            },
            adopted: self.meta.get().adopted,
            watermarks: self.watermarks(),
            gate: self.gate.status(),
            standbys: self.peers.iter().map(|peer| peer.status(log_start, end)).collect(),
            follows: self.following.has_source(),
            full: match &self.role {
                Role::Leading(leading) => leading.full.clone(),
                _ => None,
            },
        }
    }
}

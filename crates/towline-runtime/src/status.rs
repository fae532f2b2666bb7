//! What a node tells about itself.

use serde::{Deserialize, Serialize};
use towline_core::node::{NodeStatus, RoleStatus};
use towline_core::types::{Geometry, LogId, NodeId};

use crate::exposure::ExposureHistogram;

/// A node: all its shards.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// Where peers and clients connect.
    pub listen: Option<String>,
    /// Its shards, in order. One that does not answer within a second is left out.
    pub shards: Vec<ShardStatus>,
}

/// One shard.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its number.
    pub shard: u16,
    /// The log; unset in an empty standby.
    pub log: LogId,
    /// The log's sizes.
    pub geometry: Geometry,
    /// This copy.
    pub node_id: NodeId,
    /// The state machine's own words.
    pub node: NodeStatus,
    /// The driver's counters.
    pub driver: DriverStatus,
    /// The last events, oldest first.
    pub events: Vec<String>,
}

/// Counters of one shard's driver, since its start.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DriverStatus {
    /// Turns of the loop.
    pub turns: u64,
    /// Calls of `io_uring_enter`, of every kind.
    pub enters: u64,
    /// Those of them that submitted something.
    pub submitting: u64,
    /// Those of them that were allowed to sleep.
    pub waits: u64,
    /// Operations submitted.
    pub submissions: u64,
    /// Completions.
    pub completions: u64,
    /// Durable writes that ended.
    pub flushes: u64,
    /// Bytes in them, headers and padding included.
    pub flushed_bytes: u64,
    /// Batches that were sealed here.
    pub batches: u64,
    /// Acknowledgements.
    pub acks: u64,
    /// Tickets that ended without one.
    pub indeterminate: u64,
    /// Acks that had waited for their window.
    pub waited_for_window: u64,
    /// Acks that were weaker than asked for, because the rule could not be met or there is none.
    pub degraded_acks: u64,
    /// Exposure per stage (written, flushed, applied) at the end of each turn that acknowledged something, where it
    /// was defined. Acks of `off`, which are given at once, count in it and cause no observation.
    #[serde(default)]
    pub exposure_at_acks: [ExposureHistogram; 3],
    /// Bytes sent to other nodes.
    pub sent_bytes: u64,
    /// Bytes received from other nodes.
    pub received_bytes: u64,
    /// Bytes read from segment files for late standbys.
    pub catch_up_bytes: u64,
    /// Sessions that were shut down because they pinned the arena.
    pub sessions_cut_for_room: u64,
    /// Open sessions with other nodes.
    pub sessions: u64,
    /// Open connections of clients.
    pub clients: u64,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Bytes of it that are in use.
    pub arena_used_bytes: u64,
    /// Whether the arena is registered memory.
    pub arena_registered: bool,
    /// How writes are made durable.
    pub primitive: String,
    /// Flushes in flight at most.
    pub flush_depth: u64,
    /// Writes in flight now.
    pub writes_in_flight: u64,
}

impl ShardStatus {
    /// Whether this shard leads.
    pub fn is_leading(&self) -> bool {
        matches!(self.node.role, RoleStatus::Primary(_))
    }
}

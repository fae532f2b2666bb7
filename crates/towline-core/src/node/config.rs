//! What a node is told at its start.

use serde::{Deserialize, Serialize};

use crate::replication::Unmet;
use crate::types::limits::{ARENA_BYTES, RETENTION_BYTES};
use crate::types::{Geometry, LogId, NodeId};

/// The role a node is started in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StartRole {
    /// Takes a new term and leads, once the rules allow it.
    Primary,
    /// Follows whoever dials with a term that it may adopt.
    Standby,
}

/// The configuration of one shard's node. Times are nanoseconds, sizes bytes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeConfig {
    /// Identity of this copy.
    pub node: NodeId,
    /// Its name, as sync rules use it.
    pub name: String,
    /// The log; unset in an empty standby.
    pub log: LogId,
    /// The log's geometry; of no meaning while the log is unset.
    pub geometry: Geometry,
    /// The shard's number: a peer's hello names the same.
    pub shard: u16,
    /// The role.
    pub role: StartRole,
    /// The log was created by this very start: nobody else can hold a byte of it, so it leads without asking.
    pub fresh: bool,
    /// Lead without the quorum that rule 3 asks for: the operator has been told what that risks.
    pub alone: bool,
    /// Names of the standbys it ships to, in configuration order.
    pub standbys: Vec<String>,
    /// The sync rule wanted, in its written form; `None` keeps the one in the log.
    pub rule: Option<String>,
    /// What happens when the rule cannot be met.
    pub unmet: Unmet,
    /// Flushes in flight.
    pub flush_depth: usize,
    /// Size of the arena.
    pub arena_bytes: u64,
    /// The arena outlives the process (shared memory): a standby's `written` may run ahead of its `flushed`.
    pub arena_outlives: bool,
    /// Segments kept prepared ahead.
    pub prepare_ahead: u32,
    /// How far the log may reach past the last trim.
    pub retention_bytes: u64,
    /// How far registered standbys hold a trim back.
    pub hold_bytes: u64,
    /// A heartbeat is sent after this silence; a session ends after four of them.
    pub heartbeat_ns: u64,
    /// An idle log is sealed after this.
    pub seal_after_ns: u64,
    /// First and last step of the redial backoff (full jitter below each).
    pub backoff_ns: (u64, u64),
    /// An application applies here.
    pub applies: bool,
    /// It applies only what the rule has made safe.
    pub apply_safe: bool,
}

impl Default for NodeConfig {
    fn default() -> NodeConfig {
        NodeConfig {
            node: NodeId(0),
            name: String::new(),
            log: LogId::default(),
            geometry: Geometry {
                segment_bytes: crate::types::limits::SEGMENT_BYTES,
                in_flight_bytes: crate::types::limits::IN_FLIGHT_BYTES,
            },
            shard: 0,
            role: StartRole::Standby,
            fresh: false,
            alone: false,
            standbys: Vec::new(),
            rule: None,
            unmet: Unmet::Stall,
            flush_depth: 4,
            arena_bytes: ARENA_BYTES,
            arena_outlives: false,
            prepare_ahead: 1,
            retention_bytes: RETENTION_BYTES,
            hold_bytes: RETENTION_BYTES,
            heartbeat_ns: 1_000_000_000,
            seal_after_ns: 20_000_000,
            backoff_ns: (20_000_000, 2_000_000_000),
            applies: false,
            apply_safe: false,
        }
    }
}

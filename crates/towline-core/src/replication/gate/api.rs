//! The words of the gate: stages, what to do when the rule cannot be met, what comes out, what is refused.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::sync_rule::RuleError;
use crate::replication::TicketOutcome;
use crate::types::limits::{MAX_RULE_ERAS, MAX_STANDBYS};
use crate::types::{Level, Lsn, NodeId, PeerIndex, Position, StandbyWatermarks, TicketId, Window};

/// A stage of a standby that a level waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Complete in memory that outlives the process.
    Written,
    /// On stable storage.
    Flushed,
    /// Visible to a read.
    Applied,
}

impl Stage {
    /// All three, the earliest first.
    pub const ALL: [Stage; 3] = [Stage::Written, Stage::Flushed, Stage::Applied];

    /// The stage that `level` waits for on standbys; `None` for `off` and `local`.
    pub fn of(level: Level) -> Option<Stage> {
        match level {
            Level::Off | Level::Local => None,
            Level::RemoteWrite => Some(Stage::Written),
            Level::On => Some(Stage::Flushed),
            Level::RemoteApply => Some(Stage::Applied),
        }
    }

    /// This stage's watermark in a report.
    pub fn watermark(self, report: &StandbyWatermarks) -> Position {
        match self {
            Stage::Written => report.written,
            Stage::Flushed => report.flushed,
            Stage::Applied => report.applied,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Stage::Written => "written",
            Stage::Flushed => "flushed",
            Stage::Applied => "applied",
        })
    }
}

/// What happens while fewer standbys than the rule needs are streaming.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Unmet {
    /// Tickets wait, visibly.
    #[default]
    Stall,
    /// After this long, tickets are acknowledged as `local` with window ∞, and it is said; heals by itself.
    DegradeAfter {
        /// Nanoseconds without enough streaming standbys.
        ns: u64,
    },
}

/// What the gate decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GateOutput {
    /// The ticket has ended.
    Ack {
        /// The ticket.
        ticket: TicketId,
        /// How.
        outcome: TicketOutcome,
    },
    /// The pending rule is in force.
    RuleInForce {
        /// Its version.
        version: u64,
    },
    /// The rule could not be met for too long: remote levels are acknowledged as `local` from here on.
    Degraded {
        /// Tickets released at once.
        released: u64,
    },
    /// The rule is met again and the standbys have caught up.
    Healed,
}

/// Why the gate refuses a standby, a rule or a window.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GateError {
    /// Too many standbys.
    #[error("standby {peer} is over the limit of {MAX_STANDBYS}", peer = .0.0)]
    TooManyStandbys(PeerIndex),
    /// Two standbys of one name, or one registered twice.
    #[error("standby '{0}' is configured twice")]
    DuplicateName(String),
    /// No standby was registered under this index.
    #[error("no standby is registered as number {peer}", peer = .0.0)]
    UnknownPeer(PeerIndex),
    /// The same node behind two configured standbys: one copy of the log would count twice.
    #[error(
        "node {node} is already standby '{other}'; one node counts once: check the addresses of '{name}' and '{other}'"
    )]
    SameNode {
        /// The node.
        node: NodeId,
        /// The standby that is refused.
        name: String,
        /// The standby that it already is.
        other: String,
    },
    /// A standby that is the primary itself.
    #[error("standby '{name}' is this node itself ({node}); a primary never counts as its own standby")]
    Own {
        /// The node.
        node: NodeId,
        /// The standby that is refused.
        name: String,
    },
    /// The rule cannot be used here.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// One change at a time.
    #[error(
        "sync rule version {pending} is not in force yet; only one change may be pending: wait until it is"
    )]
    ChangePending {
        /// The version that is pending.
        pending: u64,
    },
    /// Too many older rules still have tickets waiting under them.
    #[error("tickets still wait under {MAX_RULE_ERAS} sync rules; wait until the oldest are through")]
    TooManyEras,
    /// Versions rise.
    #[error("sync rule version {version} does not follow version {last}")]
    OldVersion {
        /// The version given.
        version: u64,
        /// The last one.
        last: u64,
    },
    /// A window with a level that waits for no standby.
    #[error("a window needs a level that waits for standbys (remote_write, on, remote_apply), not {0}")]
    WindowNeedsRemoteLevel(Level),
    /// A window without a rule.
    #[error(
        "a window needs a sync rule: without one no standby bounds what may be lost (set a rule such as ANY 1 (a, b))"
    )]
    WindowNeedsRule,
}

/// Whether an append may carry this window; the driver asks before it accepts one.
///
/// # Errors
/// When the level waits for no standby, or there is no rule.
pub fn check_window(level: Level, window: Option<Window>, has_rule: bool) -> Result<(), GateError> {
    match window {
        None => Ok(()),
        Some(_) if !level.is_remote() => Err(GateError::WindowNeedsRemoteLevel(level)),
        Some(_) if !has_rule => Err(GateError::WindowNeedsRule),
        Some(_) => Ok(()),
    }
}

/// A rule as the status shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RuleStatus {
    /// Its version; 0 before any rule.
    pub version: u64,
    /// Its written form; empty for no rule.
    pub rule: String,
}

/// A standby as the gate sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StandbyStatus {
    /// Its place in the configuration.
    pub peer: PeerIndex,
    /// Its name.
    pub name: String,
    /// Its node id, once known.
    pub node: Option<NodeId>,
    /// Whether a streaming session is open.
    pub live: bool,
    /// Whether it no longer counts.
    pub excluded: bool,
    /// Whether the rule in force counts it as a candidate.
    pub candidate: bool,
    /// Its last report that counts.
    pub report: Option<StandbyWatermarks>,
}

/// The gate at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GateStatus {
    /// The primary's own flushed position.
    pub own_flushed: Position,
    /// The safe position per stage (written, flushed, applied); `None`: undefined, or no rule.
    pub safe: [Option<Position>; 3],
    /// Acknowledged payload bytes past the safe position, per stage; `None` where the safe position is undefined.
    pub exposure_bytes: [Option<u64>; 3],
    /// Tickets that wait.
    pub waiting: u64,
    /// Of them, tickets that the primary has flushed and that wait for their window.
    pub waiting_for_window: u64,
    /// The rule in force.
    pub rule: RuleStatus,
    /// The rule that is to come into force.
    pub pending: Option<RuleStatus>,
    /// Whether the rule is not met and acks say `local`.
    pub degraded: bool,
    /// Fewer standbys than the rule needs have been streaming since then.
    pub unmet_since_ns: Option<u64>,
    /// The standbys.
    pub standbys: Vec<StandbyStatus>,
    /// Position up to which batches are known to the gate.
    pub sealed: Lsn,
}

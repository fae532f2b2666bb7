//! What recovery hands to a node.

use serde::{Deserialize, Serialize};

use crate::types::{Lsn, Position, Span};

/// A log as recovery found it: every byte before `end` is durable and valid.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub struct Recovered {
    /// The end of the log with the counts before it. For an empty log: where its first batch will lie.
    pub end: Position,
    /// Hash of the last batch header before `end`; 0 in an empty log.
    pub previous_hash: u64,
    /// Whether the last batch is a seal.
    pub sealed: bool,
    /// The sync rule in force at `end`: version, written form.
    pub rule: Option<(u64, String)>,
    /// A rule that was proposed and not known to be in force, behind `rule`.
    pub pending_rule: Option<(u64, String)>,
    /// All segments in place (sequence, salt), from the log's start on: full ones, the current one, prepared ones.
    pub segments: Vec<(u64, u32)>,
    /// Stored end (one past the roll's block) of every roll batch: where the bytes of a full segment end.
    pub rolls: Vec<Lsn>,
    /// The highest `durable_before` in the log: what some leader has claimed to have flushed.
    pub leader_flushed: Lsn,
    /// What some leader has claimed to have flushed of its own terms.
    pub leader_claimed: Lsn,
    /// What recovery cut from a torn tail, if anything.
    pub cut: Option<Span>,
}

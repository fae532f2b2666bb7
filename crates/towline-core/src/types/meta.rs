//! What a node must not forget beside its log: the content of the meta block.

use serde::{Deserialize, Serialize};

use super::{Lsn, NodeId, Span, Term, TermHistory};

/// A standby whose retention is held back for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RegisteredStandby {
    /// Its node id.
    pub node: NodeId,
    /// Its name, as the configuration gave it.
    pub name: String,
    /// It had flushed at least up to here.
    pub flushed: Lsn,
    /// In this term, of the node that wrote it down. Who has adopted another since may have been cut.
    pub term: Term,
}

/// The content of the meta block. Written as a whole, with a rising sequence number, before anything that
/// depends on it is done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub struct Meta {
    /// Rises with each write.
    pub sequence: u64,
    /// Counts the lives of this directory: a restored snapshot has an older one than its peers remember.
    pub incarnation: u64,
    /// The highest term this node has adopted; durable before it answers anything in it.
    pub adopted: Term,
    /// The last term this node led itself, if any.
    pub led: Option<Term>,
    /// The last term that it had led when it took part again after adopting another's: what it claimed up to there may
    /// have been cut.
    pub overruled: Term,
    /// The history, durable before a truncation and before a term's first write.
    pub history: TermHistory,
    /// Where the log starts; durable before a segment below it is recycled.
    pub log_start: Lsn,
    /// What may have been in flight here: recovery trusts no `durable_before` inside it.
    pub unfinished: Vec<Span>,
    /// The highest flushed LSN that this node has put in a report or an ack batch, to the granularity of a meta
    /// write: losing bytes below it is corruption, never a torn tail.
    pub reported: Lsn,
    /// Cutting below this halts: acknowledged at a remote level here.
    pub acknowledged: Lsn,
    /// How many standbys the leader that this node followed last ships to: n of SEMANTICS section 4, for its promotion. 0
    /// when it has followed none directly: it then counts in none.
    pub set_size: u16,
    /// Standbys that retention is held back for.
    pub standbys: Vec<RegisteredStandby>,
}

//! Control frames: everything on a connection that is not log bytes.
//!
//! A stream to a standby is the log itself: batches in LSN order, byte for byte as on disk, with control frames
//! only between batches. Both start with a magic, and both headers carry their own CRC, so a receiver knows
//! which it has and how long it is before it believes anything else. Nothing is allocated from a peer's number
//! before its hello.

use serde::{Deserialize, Serialize};

use crate::types::{Geometry, Level, LogId, Lsn, NodeId, StandbyWatermarks, Term, TermHistory, Window};

/// Who dialled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HelloRole {
    /// A node that ships its log here: a leader, a node that is about to lead, or an upstream standby.
    Upstream,
    /// A program that appends, tails or asks for the status.
    Client,
}

/// How far a node's durable log reaches, as leaderships compare it: by last term, then by LSN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, Default)]
pub struct LogEnd {
    /// The last history entry that starts at or below `flushed`.
    pub last_term: Term,
    /// The node's own flushed LSN.
    pub flushed: Lsn,
}

/// The first frame of a connection, from the side that dialled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest and newest major protocol version the sender speaks.
    pub versions: (u16, u16),
    /// Who dialled.
    pub role: HelloRole,
    /// The shard it wants to talk to.
    pub shard: u16,
    /// The sender's log; unset for a client.
    pub log: LogId,
    /// The log's geometry; ignored for a client.
    pub geometry: Geometry,
    /// The sender; 0 for a client.
    pub node: NodeId,
    /// The sender's name.
    pub name: String,
    /// Random, new for each connection: an older session of the same node ends when a newer one begins.
    pub nonce: u64,
    /// The highest term the sender has adopted.
    pub adopted: Term,
    /// The sender's log end.
    pub end: LogEnd,
}

/// The answer to an upstream's hello.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both speak.
    pub version: u16,
    /// The answering node's log; unset when its directory is empty and it adopts what it is offered.
    pub log: LogId,
    /// The answering node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Counts the lives of its directory.
    pub incarnation: u64,
    /// The highest term it has adopted.
    pub adopted: Term,
    /// Its log end.
    pub end: LogEnd,
    /// Where its log starts.
    pub log_start: Lsn,
    /// Its term history.
    pub history: TermHistory,
    /// The highest flushed LSN that any leader has claimed to it: a leader that restarts below it has lost
    /// durable bytes.
    pub leader_flushed: Lsn,
    /// Whether it applies, and so wants to hear of progress at once.
    pub applies: bool,
    /// Whether it applies only what the rule has made safe, and so wants to hear of that at once.
    pub applies_safe: bool,
    /// How many standbys the leader ships to that it followed last; 0 when it has followed none directly: it then counts
    /// in no promotion.
    pub set_size: u16,
}

/// Why a connection is refused. The other side shows `message` to its operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RefusalCode {
    /// No common protocol version.
    Version,
    /// Another log's id.
    OtherLog,
    /// Another geometry.
    OtherGeometry,
    /// The sender's term is below one that was adopted.
    StaleTerm,
    /// No such shard.
    NoShard,
    /// Too many connections, or the same node twice.
    Busy,
    /// This node cannot serve: poisoned, halted, or not the primary.
    Unavailable,
    /// The standby is too far behind, or its log starts elsewhere: it must resynchronise from a snapshot. To a client:
    /// what it asked for is trimmed, cut, or was never a batch's place; asking again is in vain.
    Resync,
    /// A malformed or unexpected frame.
    Protocol,
}

/// One control frame.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Frame {
    /// First on a connection.
    Hello(Hello),
    /// The answer to an upstream.
    Welcome(Welcome),
    /// The answer to a client.
    WelcomeClient {
        /// The version both speak.
        version: u16,
        /// The log served here.
        log: LogId,
        /// The node.
        node: NodeId,
        /// Shards served on this port.
        shards: u16,
    },
    /// The last frame of a connection that is refused.
    Refused {
        /// Why.
        code: RefusalCode,
        /// For the operator.
        message: String,
    },

    // --- terms (SEMANTICS section 4)
    /// Adopt `term`? `end` is the sender's log end as it was before the new term (or, once it leads, as it is).
    Adopt {
        /// The new term.
        term: Term,
        /// The sender's log end.
        end: LogEnd,
    },
    /// Adopted durably.
    Adopted {
        /// The term adopted.
        term: Term,
        /// The term that was adopted until then.
        previous: Term,
        /// The log end, after the arena was flushed.
        end: LogEnd,
    },
    /// Not adopted: this node's log is ahead, or it has adopted a higher term.
    NotAdopted {
        /// The highest term this node has adopted.
        adopted: Term,
        /// Its log end.
        end: LogEnd,
        /// Its history.
        history: TermHistory,
    },
    /// A restarted primary asks for the tail it lacks; answered by `Segment`s and batches, then `FetchEnd`.
    Fetch {
        /// From here.
        from: Lsn,
    },
    /// The fetched tail is complete.
    FetchEnd {
        /// One past the last byte sent.
        end: Lsn,
    },

    // --- shipping
    /// The sender leads in `term` (or relays it) and offers its log.
    Stream {
        /// The leader's term.
        term: Term,
        /// The sender's history: the receiver finds the fork point in it.
        history: TermHistory,
        /// Where the sender's log starts.
        log_start: Lsn,
        /// Where the sender's log ends now.
        log_end: Lsn,
        /// How many standbys the sender ships to as a leader; 0 from a relay: its standbys count for nobody.
        set_size: u16,
    },
    /// The standby has cut to the fork point and waits for bytes from `from` on.
    Ready {
        /// Verified equal up to here.
        from: Lsn,
        /// Hash of the last batch header before `from` (0 at the log's start).
        previous_hash: u64,
    },
    /// The next segment's salt, ahead of its first batch.
    Segment {
        /// Sequence number.
        seq: u64,
        /// The leading node's salt.
        salt: u32,
    },
    /// How far the sender is.
    Progress {
        /// The leader's own flushed LSN.
        flushed: Lsn,
        /// What the rule has made safe at the flushed stage.
        safe: Lsn,
        /// The leader's log start: a standby trims with it.
        log_start: Lsn,
    },
    /// A standby's report (SEMANTICS section 1), with credit in the same frame.
    Report {
        /// The term it reports in.
        term: Term,
        /// Watermarks capped at the verified prefix.
        watermarks: StandbyWatermarks,
        /// The sender may ship up to here.
        credit: Lsn,
        /// The standby cannot flush any more (disk full, poisoned), and says so.
        failing: bool,
    },
    /// Alive. Answered by whatever the other side sends next; both sides send one when silent.
    Heartbeat {
        /// The sender's adopted term.
        term: Term,
    },

    // --- clients
    /// Append records as one atomic batch entry; the payloads follow the frame: `len` bytes each.
    Append {
        /// Chosen by the client, returned in the ack.
        request: u64,
        /// Commit level.
        level: Level,
        /// Lag window, if any.
        window: Option<Window>,
        /// Payload lengths of the records (their sum bounded by `MAX_APPEND_BYTES`).
        lengths: Vec<u32>,
    },
    /// The outcome of an append.
    Appended {
        /// The client's number.
        request: u64,
        /// The outcome.
        outcome: Outcome,
    },
    /// Wait until `lsn` is safe at `level`.
    Wait {
        /// Chosen by the client.
        request: u64,
        /// The position.
        lsn: Lsn,
        /// The level.
        level: Level,
    },
    /// Follow the log from `from`; answered by `Records`.
    Tail {
        /// The first LSN wanted: the start of any batch, or the log's start.
        from: Lsn,
        /// Also what is not yet safe.
        unsafe_too: bool,
    },
    /// Records of one batch follow the frame as in the log (record headers and payloads, `bytes` in all).
    Records {
        /// LSN of the first record header.
        start: Lsn,
        /// The next LSN to ask for.
        next: Lsn,
        /// Bytes that follow.
        bytes: u32,
    },
    /// Send the log's own bytes, batch and segment headers included, to mend another copy with; answered by
    /// `LogBytes` up to `end` or as far as this node has flushed.
    ReadLog {
        /// From here: a block, not below the start of the log's first segment.
        start: Lsn,
        /// Up to here.
        end: Lsn,
    },
    /// Bytes of the log follow the frame as they lie in its segments.
    LogBytes {
        /// Where they lie.
        start: Lsn,
        /// The sender has flushed up to here.
        flushed: Lsn,
        /// Bytes that follow; none: it holds no more of what was asked for.
        bytes: u32,
    },
    /// Change the sync rule.
    SetRule {
        /// Chosen by the client.
        request: u64,
        /// The rule in its written form.
        rule: String,
    },
    /// Trim the log.
    Trim {
        /// Chosen by the client.
        request: u64,
        /// Below here nothing is needed any more.
        below: Lsn,
    },
    /// Make this standby the leader. Answered by `Promoted`, or by `Done` with the reason.
    Promote {
        /// Chosen by the client.
        request: u64,
        /// The other nodes of the set: name and address.
        standbys: Vec<(String, String)>,
        /// The sync rule in its written form; `None` keeps the log's.
        rule: Option<String>,
        /// Without the quorum.
        force: bool,
        /// Give up after this.
        timeout_ms: u64,
    },
    /// It leads.
    Promoted {
        /// The client's number.
        request: u64,
        /// The new term.
        term: Term,
        /// Where it starts.
        start: Lsn,
        /// Names of the standbys that had adopted it by then.
        adopters: Vec<String>,
        /// What may be lost and what needs a hand, a line each.
        warnings: String,
    },
    /// Take no more appends, to hand the leadership over. Answered by `Paused`, or by `Done` with the reason.
    Pause {
        /// Chosen by the client.
        request: u64,
        /// Take appends again after this, unless another node leads by then.
        limit_ms: u64,
    },
    /// No append is taken, and everything accepted is flushed.
    Paused {
        /// The client's number.
        request: u64,
        /// Where the log ends.
        end: Lsn,
    },
    /// Take appends again. Answered by `Done`.
    Resume {
        /// Chosen by the client.
        request: u64,
    },
    /// Done, or why not.
    Done {
        /// The client's number.
        request: u64,
        /// Empty when it was done.
        error: String,
    },
    /// Ask for the status.
    StatusRequest,
    /// The status as JSON.
    Status {
        /// JSON text.
        json: String,
    },
}

/// How an append ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// Acknowledged.
    Committed(Committed),
    /// Refused before it had an LSN; nothing was written.
    Refused(String),
    /// It may be in the log or not: never success, never "not written".
    Indeterminate(String),
}

/// What an acknowledgement says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Committed {
    /// LSN of the (first) record.
    pub lsn: Lsn,
    /// One past its last byte.
    pub end: Lsn,
    /// The level achieved, which a missing rule or a degraded state may make weaker than the level asked for.
    pub level: Level,
    /// The window under which it was acknowledged; `Infinite` when degraded.
    pub window: Option<Window>,
    /// The version of the sync rule it was acknowledged under; 0 before any rule.
    pub rule_version: u64,
    /// Payload bytes in its fill when it was acknowledged.
    pub fill_bytes: u64,
    /// Whether it had to wait for its window after the primary's own flush.
    pub waited_for_window: bool,
}

//! What goes into a node and what comes out: closed sets that print.

use serde::{Deserialize, Serialize};

use crate::format::{BatchHeader, Frame};
use crate::replication::{Ticket, TicketOutcome};
use crate::types::{
    Geometry, Level, LogId, Lsn, Meta, NodeId, PeerIndex, Position, SessionId, Span, Term, TermHistory,
    TicketId,
};

/// Something that happened in the world.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Input {
    /// Time passes. Monotonic, from the driver's boot-time clock; the first input of every turn.
    Tick {
        /// Nanoseconds.
        now_ns: u64,
    },

    // --- the log, on the leading node
    /// The open batch was closed and all its reservations have committed.
    BatchSealed(SealedBatch),
    /// A waiting append, whose batch has been sealed.
    Ticket(Ticket),
    /// `wait(lsn, level)`: a ticket with no record of its own.
    Wait {
        /// The ticket.
        ticket: TicketId,
        /// A position in the log.
        lsn: Lsn,
        /// The level to wait for.
        level: Level,
    },
    /// The client gave up: the ticket ends as indeterminate if it has not ended yet.
    Cancel {
        /// The ticket.
        ticket: TicketId,
    },
    /// Change the sync rule.
    SetRule {
        /// The caller's number, in the answering `RuleChange`.
        request: u64,
        /// The rule in its written form.
        rule: String,
    },
    /// Make this standby the leader. Answered by `Promoted`.
    Promote(PromoteRequest),
    /// Take no more appends, to hand the leadership over. Answered by `Paused` when everything accepted is flushed.
    Pause {
        /// The caller's number, in the answering `Paused`.
        request: u64,
        /// Appends are taken again after this long, unless another node leads by then.
        limit_ns: u64,
    },
    /// Take appends again after a pause.
    Resume,
    /// The application needs nothing below `below`.
    Trim {
        /// The position.
        below: Lsn,
    },
    /// A producer could not reserve: its append needs `bytes` (headers included) in one batch.
    Pressure {
        /// Bytes.
        bytes: u64,
    },
    /// Clean stop: flush and seal everything accepted, then `Stopped`.
    Stop,

    // --- completions
    /// A write of `span` is on stable storage.
    Flushed {
        /// As in the `Write`.
        span: Span,
        /// As in the `Write`.
        epoch: u64,
    },
    /// A write failed. Poisons the log.
    WriteFailed {
        /// As in the `Write`.
        span: Span,
        /// Cause.
        error: String,
    },
    /// The meta block is durable up to this sequence number.
    MetaWritten {
        /// Its sequence number.
        sequence: u64,
    },
    /// The meta block could not be written. Poisons the log.
    MetaFailed {
        /// Cause.
        error: String,
    },
    /// A segment file is in place.
    SegmentReady {
        /// Sequence number.
        seq: u64,
        /// Its salt.
        salt: u32,
    },
    /// A segment could not be prepared (disk full); the driver tries again while the node stays able to read.
    SegmentFailed {
        /// Sequence number.
        seq: u64,
        /// Cause.
        error: String,
    },
    /// The tail was cut, kept as a copy, zeroed and flushed.
    Truncated {
        /// The log's new end, with the counts before it.
        end: Position,
        /// Hash of the last batch header before it; 0 when the log is empty now.
        previous_hash: u64,
    },
    /// An empty directory has taken the log's identity, durably.
    LogAdopted {
        /// The log.
        log: LogId,
        /// Its geometry.
        geometry: Geometry,
    },

    // --- sessions
    /// A dial succeeded.
    Connected {
        /// The standby.
        peer: PeerIndex,
        /// The new session.
        session: SessionId,
        /// A random number for the hello.
        nonce: u64,
    },
    /// A dial failed.
    DialFailed {
        /// The standby.
        peer: PeerIndex,
        /// Cause.
        error: String,
        /// A random number for the backoff's jitter.
        jitter: u64,
    },
    /// An upstream dialled and its hello has been read (`Frame` follows with it).
    Accepted {
        /// The new session.
        session: SessionId,
    },
    /// A session ended.
    Disconnected {
        /// The session.
        session: SessionId,
        /// Cause.
        error: String,
        /// A random number for the backoff's jitter.
        jitter: u64,
    },
    /// A control frame, CRC checked.
    Frame {
        /// From this session.
        session: SessionId,
        /// The frame.
        frame: Frame,
    },
    /// A batch was received into the arena at its own place; header and body CRC checked under the segment's salt.
    Received {
        /// From this session.
        session: SessionId,
        /// Its header.
        header: BatchHeader,
        /// Hash of the encoded header.
        hash: u64,
        /// Rule records in it, in order: version, the rule in its written form.
        rules: Vec<(u64, String)>,
    },
    /// A send has left the arena (or the read buffer); the bytes may be reused as far as this session goes.
    Sent {
        /// The session.
        session: SessionId,
        /// The span of the `Send`.
        span: Span,
    },
    /// The application has applied up to here: the end of a batch, with the counts its header gives.
    Applied {
        /// The position.
        position: Position,
    },
}

/// A promotion, as it is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PromoteRequest {
    /// The caller's number, in the answering `Promoted`.
    pub request: u64,
    /// Names of the other nodes of the set, the superseded primary among them: the new leader ships to them.
    pub standbys: Vec<String>,
    /// The sync rule of the new leadership, in its written form; `None` keeps the one in the log.
    pub rule: Option<String>,
    /// Lead without the quorum that rule 2 asks for.
    pub force: bool,
    /// Give up after this long.
    pub timeout_ns: u64,
}

/// A promotion that has ended with a leader.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Promoted {
    /// The new term.
    pub term: Term,
    /// Where it starts.
    pub start: Lsn,
    /// The standbys that had adopted it before it started, by name.
    pub adopters: Vec<String>,
    /// What may be lost, and what needs a hand; a line each.
    pub warnings: Vec<String>,
}

/// What the driver should do with the open batch (asked once a turn).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchWish {
    /// Leave it open: no flush slot is free, or this node does not lead.
    No,
    /// Close it if it holds a record: a flush slot is free (greedy group commit, no timer).
    IfAny,
    /// Close it if it fills a large write ([`MAX_WRITE_BYTES`](crate::types::limits::MAX_WRITE_BYTES)): no slot is free
    /// for small ones, but there is bandwidth left.
    IfLarge,
    /// Close it even if it is empty: a seal is due.
    EvenEmpty,
    /// Close it, even if it is empty, and open no other: a roll or the end follows. `BatchSealed` comes even for an
    /// empty one, and `OpenBatch` says where appends go on.
    CloseOnly,
}

/// A batch as the driver closed it, on the leading node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SealedBatch {
    /// Where it starts.
    pub start: Lsn,
    /// Bytes of records behind the header, without the padding; 0 for an empty batch.
    pub body_bytes: u32,
    /// Data records.
    pub records: u32,
    /// Payload bytes.
    pub payload_bytes: u64,
    /// CRC of the body.
    pub body_crc: u32,
    /// A time not later than the acceptance of its first record.
    pub accepted_ns: u64,
    /// The highest version of the rule records in it.
    pub rule: Option<u64>,
    /// No other batch was opened behind it (`BatchWish::CloseOnly`).
    pub closed: bool,
}

/// Where the bytes of a send come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Source {
    /// The arena: the very bytes that go to the disk.
    Arena,
    /// Segment files: a standby that is late.
    Segments,
}

/// Something the driver must do. Outputs are carried out in order where they touch the same session or file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Output {
    // --- the log
    /// Accept appends: open a batch at `start`, the first of a term or of a segment. The driver goes on from batch
    /// to batch by itself (each at most `MAX_BATCH_BYTES`, none past `limit`) until the next `OpenBatch`, which follows
    /// every roll, or a `Freeze`. The rule records of `preamble` come first in the first batch.
    OpenBatch {
        /// Block start.
        start: Lsn,
        /// One past the last byte that batches of this segment may use.
        limit: Lsn,
        /// Rule records to put first: version, the rule in its written form.
        preamble: Vec<(u64, String)>,
    },
    /// Append a rule record (at the head of a batch or among its records), like a producer would.
    AppendRule {
        /// Version.
        version: u64,
        /// The rule in its written form.
        rule: String,
    },
    /// Put the encoded header into the arena at its place, zero the padding. Comes before the `Write` and `Send`s
    /// that cover it.
    PutHeader {
        /// The header.
        header: BatchHeader,
    },
    /// Write arena bytes to the segment files durably. Never crosses a segment.
    Write {
        /// What to write.
        span: Span,
        /// Completions of an older epoch never count (a truncation lies between).
        epoch: u64,
    },
    /// Prepare segment `seq`, ahead of need.
    PrepareSegment {
        /// Sequence number.
        seq: u64,
        /// The leader's salt on a standby; `None`: choose one.
        salt: Option<u32>,
    },
    /// Segments that end at or below `below` may be recycled or removed.
    Recycle {
        /// The log's new start (durable in the meta block).
        below: Lsn,
    },
    /// Write the meta block: all copies, each flushed.
    WriteMeta {
        /// Its content.
        meta: Meta,
    },
    /// Cut the log to `to`: keep a copy of `[to, until)` as it was, zero it, flush. Answer `Truncated`.
    Truncate {
        /// The new end.
        to: Lsn,
        /// The old end plus what may be in flight.
        until: Lsn,
    },
    /// No more appends: every producer is refused with `why`.
    Freeze {
        /// For the client.
        why: FreezeReason,
    },
    /// Arena bytes below are no longer needed by the log (operations in flight still hold theirs).
    Release {
        /// The position.
        below: Lsn,
    },

    /// An empty directory takes this log's identity. Answer `LogAdopted`.
    AdoptLog {
        /// The log.
        log: LogId,
        /// Its geometry.
        geometry: Geometry,
    },

    // --- sessions
    /// Dial the standby.
    Dial {
        /// The standby.
        peer: PeerIndex,
    },
    /// Queue a control frame.
    Frame {
        /// To this session.
        session: SessionId,
        /// The frame.
        frame: Frame,
    },
    /// Queue log bytes; one at a time per session, answered by `Sent`.
    Send {
        /// To this session.
        session: SessionId,
        /// Which bytes; never crosses a segment.
        span: Span,
        /// From where.
        source: Source,
    },
    /// End the session once what is queued has left.
    Close {
        /// The session.
        session: SessionId,
        /// Why, for the log line.
        why: String,
    },
    /// Receive log bytes of this session into the arena from `at` on; never past `credit`.
    Receive {
        /// From this session.
        session: SessionId,
        /// The next byte's place.
        at: Lsn,
        /// One past the last byte there is room for.
        credit: Lsn,
    },

    // --- clients
    /// The ticket has ended.
    Ack {
        /// The ticket.
        ticket: TicketId,
        /// How.
        outcome: TicketOutcome,
    },
    /// The answer to `SetRule`.
    RuleChange {
        /// The caller's number.
        request: u64,
        /// The version in force, or why it was refused.
        result: Result<u64, String>,
    },

    /// The answer to `Promote`.
    Promoted {
        /// The caller's number.
        request: u64,
        /// The leadership, or why there is none and what to do.
        result: Result<Promoted, String>,
    },
    /// The answer to `Pause`.
    Paused {
        /// The caller's number.
        request: u64,
        /// Everything accepted is flushed and ends here; or why appends go on.
        result: Result<Lsn, String>,
    },
    /// The standbys are these from now on: a `PeerIndex` counts in this list. No dial and no session of the earlier ones
    /// is left.
    Standbys {
        /// Their names.
        names: Vec<String>,
    },

    // --- the application
    /// The application may apply up to here.
    Apply {
        /// The position.
        upto: Lsn,
    },
    /// The log was cut below what was applied, or starts anew at `from`: the application's state is void.
    ResetApply {
        /// Where it starts again.
        from: Lsn,
    },

    /// Say it: a log line, a counter.
    Event(Event),
    /// Everything accepted is flushed and sealed.
    Stopped,
}

/// Why appends are refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FreezeReason {
    /// Not the primary, or not leading yet.
    Unavailable(String),
    /// Another node leads in a higher term.
    Fenced(String),
    /// The first write or flush failed.
    Poisoned(String),
    /// The log has reached its retention limit past the last trim, or the disk is full; resumes with an `OpenBatch`.
    Full(String),
    /// Stopping.
    Stopping,
}

/// What an operator should know. `Display` is the log line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Event {
    /// This node leads.
    Leading {
        /// In this term, with this history.
        history: TermHistory,
    },
    /// This node waits before it may lead.
    Waiting {
        /// For what.
        why: String,
    },
    /// This node stepped down.
    SteppedDown {
        /// Why.
        why: String,
    },
    /// A session with a standby is open.
    StandbyConnected {
        /// Its place in the configuration.
        peer: PeerIndex,
        /// Its node id.
        node: NodeId,
        /// Where shipping starts.
        from: Lsn,
    },
    /// A standby reached the live tail.
    StandbyStreaming {
        /// Its place in the configuration.
        peer: PeerIndex,
    },
    /// A standby fell out of the arena and reads from segments.
    StandbyCatchingUp {
        /// Its place in the configuration.
        peer: PeerIndex,
    },
    /// A standby was lost.
    StandbyLost {
        /// Its place in the configuration.
        peer: PeerIndex,
        /// Why.
        why: String,
    },
    /// A standby cannot be dialled: said when it begins, and when the cause changes.
    StandbyUnreachable {
        /// Its place in the configuration.
        peer: PeerIndex,
        /// Why.
        why: String,
    },
    /// A standby must resynchronise from a snapshot.
    StandbyMustResync {
        /// Its place in the configuration.
        peer: PeerIndex,
        /// Why.
        why: String,
    },
    /// A standby lost durable data between sessions: it does not count before it holds all of it again.
    StandbyExcluded {
        /// Its place in the configuration.
        peer: PeerIndex,
        /// It had reported this as flushed.
        reported: Lsn,
        /// And came back with this.
        now: Lsn,
    },
    /// A standby that was excluded holds again all that it had lost, and counts again.
    StandbyIncluded {
        /// Its place in the configuration.
        peer: PeerIndex,
        /// It has flushed the log up to here.
        flushed: Lsn,
    },
    /// Too few of the sync rule's standbys stream, for long enough that somebody should know.
    RuleUnmet {
        /// The rule, and what is the matter with each standby that it lacks.
        why: String,
    },
    /// The sync rule cannot be met: acks are `local` now.
    Degraded {
        /// How many tickets were released at once.
        released: u64,
    },
    /// The rule is met again.
    Healed,
    /// The log was cut (demotion).
    Cut {
        /// What was cut.
        span: Span,
    },
    /// The log is poisoned.
    Poisoned {
        /// Stage and cause.
        error: String,
    },
    /// This node must not go on.
    Halted {
        /// Why.
        why: String,
    },
    /// Something else worth a line.
    Note {
        /// The line.
        text: String,
    },
}

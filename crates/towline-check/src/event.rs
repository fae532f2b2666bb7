//! What a history says: plain facts, one JSON line each.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};
use towline_core::replication::Stage;
use towline_core::types::{Level, Lsn, Window};

/// One fact, in the order in which the primary saw it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// First, if at all: what the run was set to. Without it the log starts at its first batch, and batches must
    /// follow each other without a segment's header between them.
    Setup {
        /// Where the history's first batch will lie.
        start: Lsn,
        /// Data records before it.
        records: u64,
        /// Payload bytes before it.
        payload_bytes: u64,
        /// Bytes in a segment file: batches skip the headers at its multiples. 0: no segments.
        segment_bytes: u64,
        /// The primary's node id.
        node: u64,
        /// Degrade after this long without enough streaming standbys; `None`: stall.
        degrade_after_ns: Option<u64>,
    },
    /// Time passed: the clock by which what follows is decided. Nanoseconds.
    Tick {
        /// The time.
        now_ns: u64,
    },
    /// A leadership begins: earlier reports count no more.
    TermStarted,
    /// A configured standby and the node behind it.
    Standby {
        /// Its place in the configuration.
        peer: u16,
        /// Its name.
        name: String,
        /// Its node id.
        node: u64,
    },
    /// A streaming session is open, or gone.
    Live {
        /// The standby.
        peer: u16,
        /// Open.
        live: bool,
    },
    /// A node leads from here on, after whatever happened: its log holds what the history holds up to `end`, and no
    /// more. What was acknowledged past `end` is lost; what was not acknowledged will not be. Standbys, sessions and
    /// rules are told anew behind it.
    Leads {
        /// The node.
        node: u64,
        /// Where its log ended when its term began.
        end: Lsn,
    },
    /// Something happened to a node.
    Damage {
        /// The node.
        node: u64,
        /// What.
        damage: Damage,
    },
    /// From here on standbys apply only what the sync rule has made safe (else: what the primary has flushed).
    AppliesSafe,
    /// A read on this node may see the log up to here.
    Applied {
        /// The node.
        node: u64,
        /// The position.
        lsn: Lsn,
    },
    /// The standby counts no more.
    Excluded {
        /// The standby.
        peer: u16,
    },
    /// It counts again, from its next report on.
    Included {
        /// The standby.
        peer: u16,
    },
    /// What a standby reported: where its stages stand. Counts are recomputed from the batches.
    Report {
        /// The standby.
        peer: u16,
        /// Written up to here.
        written: Lsn,
        /// Flushed up to here.
        flushed: Lsn,
        /// Applied up to here.
        applied: Lsn,
    },
    /// A batch was sealed.
    Batch {
        /// First byte.
        start: Lsn,
        /// One past the last.
        end: Lsn,
        /// Data records in it.
        records: u64,
        /// Payload bytes in it.
        payload_bytes: u64,
        /// Not later than the acceptance of its first record.
        accepted_ns: u64,
    },
    /// An append in the last batch that waits for its acknowledgement.
    Ticket(TicketEvent),
    /// A wait without a record of its own.
    Wait {
        /// The ticket.
        ticket: u64,
        /// For this position.
        lsn: Lsn,
        /// At this level.
        level: Level,
    },
    /// A new session of the standby began below its last report, in this turn: as low as this, before it came to what
    /// it reports now. Under `FIRST k` what only it held is not safe again by that alone.
    Fell {
        /// Which.
        peer: u16,
        /// Written up to here.
        written: Lsn,
        /// Flushed.
        flushed: Lsn,
        /// Applied.
        applied: Lsn,
    },
    /// The primary has flushed up to here.
    OwnFlushed {
        /// The position.
        lsn: Lsn,
    },
    /// A rule record was put into the log.
    Rule {
        /// Its version.
        version: u64,
        /// Its written form; empty: no rule.
        rule: String,
        /// Where the record ends; `None`: it was in force when the history began.
        record_end: Option<Lsn>,
    },
    /// The gate says that a rule came into force.
    RuleInForce {
        /// Its version.
        version: u64,
    },
    /// The gate says that it degrades.
    Degraded,
    /// The gate says that it is healed.
    Healed,
    /// An acknowledgement.
    Ack(AckEvent),
    /// A ticket ended as indeterminate.
    Indeterminate {
        /// The ticket.
        ticket: u64,
    },
    /// The gate's own gauge, to be compared with the truth.
    Gauge {
        /// At this stage.
        stage: Stage,
        /// Acknowledged payload bytes past the safe position.
        exposure_bytes: u64,
    },
}

/// What can happen to a node. Ordered: a worse one takes whatever the others take.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// A clean stop: everything accepted is there again.
    Stopped,
    /// The process died; its memory that outlives it and its disk are there again.
    Killed,
    /// What was not flushed is gone.
    PowerCut,
    /// The disk is gone, or came back empty.
    DiskLost,
}

/// An append that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TicketEvent {
    /// The ticket.
    pub ticket: u64,
    /// LSN of its first record.
    pub lsn: Lsn,
    /// One past its last byte.
    pub end: Lsn,
    /// Data records in the log up to its end, as its batch holds them.
    pub records_through: u64,
    /// Payload bytes in the log up to its end.
    pub payload_through: u64,
    /// Its own payload bytes.
    pub payload_bytes: u64,
    /// The level asked for.
    pub level: Level,
    /// The window asked for.
    pub window: Option<Window>,
    /// When the client called; by the clock of `Tick`.
    pub accepted_ns: u64,
}

/// What an acknowledgement said.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AckEvent {
    /// The ticket.
    pub ticket: u64,
    /// LSN of its first record.
    pub lsn: Lsn,
    /// One past its last byte.
    pub end: Lsn,
    /// The level achieved.
    pub level: Level,
    /// The window under which it was given.
    pub window: Option<Window>,
    /// Version of the rule in force.
    pub rule_version: u64,
    /// The fill that the gate claims.
    pub fill_bytes: u64,
    /// Whether it waited for its window.
    pub waited_for_window: bool,
}

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The source failed.
    #[error("line {line}: {error}")]
    Io {
        /// Counted from 1.
        line: usize,
        /// Cause.
        error: std::io::Error,
    },
    /// A line is no event.
    #[error("line {line} is no event: {error}")]
    NoEvent {
        /// Counted from 1.
        line: usize,
        /// Cause.
        error: serde_json::Error,
    },
}

/// Reads a history from JSON lines; empty lines are skipped.
///
/// # Errors
/// When the source fails or a line is no event.
pub fn read_events(source: impl BufRead) -> Result<Vec<Event>, ReadError> {
    let mut events = Vec::new();
    for (index, text) in source.lines().enumerate() {
        let line = index + 1;
        let text = text.map_err(|error| ReadError::Io { line, error })?;
        if !text.trim().is_empty() {
            events.push(serde_json::from_str(&text).map_err(|error| ReadError::NoEvent { line, error })?);
        }
    }
    Ok(events)
}

/// Writes a history as JSON lines.
///
/// # Errors
/// When the sink fails.
pub fn write_events(mut sink: impl Write, events: &[Event]) -> std::io::Result<()> {
    for event in events {
        serde_json::to_writer(&mut sink, event)?;
        sink.write_all(b"\n")?;
    }
    sink.flush()
}

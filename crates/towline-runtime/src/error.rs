//! Typed errors: one enum per decision that the caller must make.

use std::io;

use towline_core::node::FreezeReason;
use towline_core::types::limits::{MAX_APPEND_BYTES, MAX_RECORD_BYTES};
use towline_uring::{ArenaError, RingError};

/// Why an append was refused. Nothing was written, except where `Voided` says otherwise.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AppendError {
    /// A record is too long.
    #[error("a record of {bytes} bytes: {MAX_RECORD_BYTES} are allowed; split it")]
    RecordTooLong {
        /// Its payload bytes.
        bytes: u64,
    },
    /// An atomic append is too long as a whole, or longer than the arena can ever hold.
    #[error("an append of {bytes} bytes, headers included: {MAX_APPEND_BYTES} are allowed; split it")]
    AppendTooLong {
        /// Its bytes, headers included.
        bytes: u64,
    },
    /// An atomic append of no record.
    #[error("an append of no record")]
    Empty,
    /// The window cannot be met.
    #[error("window: {0}")]
    Window(&'static str),
    /// No room in the arena, no free ticket, or the log has reached its retention limit: try again later, or trim.
    #[error("full: {0}")]
    Full(String),
    /// This node does not lead (yet).
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Another node leads in a higher term.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The first write or flush failed; a restart re-reads the log.
    #[error("poisoned: {0}; restart the node, which re-reads its log")]
    Poisoned(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
    /// The reservation was held past its limit and has become a void record.
    #[error("the reservation was held past its limit and has been voided; nothing of it is in the log")]
    Voided,
}

impl AppendError {
    pub(crate) fn frozen(why: &FreezeReason) -> AppendError {
        match why {
            FreezeReason::Unavailable(why) => AppendError::Unavailable(why.clone()),
            FreezeReason::Fenced(why) => AppendError::Fenced(why.clone()),
            FreezeReason::Poisoned(why) => AppendError::Poisoned(why.clone()),
            FreezeReason::Full(why) => AppendError::Full(why.clone()),
            FreezeReason::Stopping => AppendError::Stopping,
        }
    }

    /// Whether waiting can help.
    pub fn is_transient(&self) -> bool {
        matches!(self, AppendError::Full(_) | AppendError::Unavailable(_))
    }
}

/// How a ticket ended without an acknowledgement.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TicketError {
    /// The record may be in the log or not: never success, never "not written".
    #[error("indeterminate: {0}; read the log to find out")]
    Indeterminate(String),
    /// A `wait` that was refused: nothing depends on it.
    #[error("refused: {0}")]
    Refused(String),
}

/// Why the sync rule was not changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RuleError {
    /// It cannot be read, cannot be met, or this node does not lead.
    #[error("sync rule: {0}")]
    Refused(String),
    /// It is in the log, and waits to be safe under the old rule and the new one.
    #[error(
        "the new sync rule is in the log but not in force after {seconds} s: the standbys of both rules are needed"
    )]
    Pending {
        /// How long was waited.
        seconds: u64,
    },
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why the leadership was not handed over.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandOverError {
    /// The node says why, and what to do.
    #[error("{0}")]
    Refused(String),
    /// It has not answered: its status says what became of it.
    #[error("no answer within {seconds} s: ask for the node's status")]
    Silent {
        /// How long was waited.
        seconds: u64,
    },
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// Why a node did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Options that cannot work.
    #[error("{0}")]
    Options(String),
    /// A shard's directory could not be opened.
    #[error("shard {shard}: {source}")]
    Open {
        /// The shard.
        shard: u16,
        /// Why.
        source: crate::storage::OpenError,
    },
    /// No arena.
    #[error("shard {shard}: {source}")]
    Arena {
        /// The shard.
        shard: u16,
        /// Why.
        source: ArenaError,
    },
    /// No ring.
    #[error("shard {shard}: {source}")]
    Ring {
        /// The shard.
        shard: u16,
        /// Why.
        source: RingError,
    },
    /// The shard did not come to work.
    #[error("shard {shard}: {why}")]
    Node {
        /// The shard.
        shard: u16,
        /// Why.
        why: String,
    },
    /// The port could not be opened.
    #[error("listen on {address}: {source}; choose another address or port")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The system refused a thread, a descriptor or a file.
    #[error("{what}: {source}")]
    System {
        /// The step.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl StartError {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
        move |source| StartError::System { what, source }
    }
}

/// Why a stop was not clean. What was not flushed is found out by the next start.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// A shard ended with this error.
    #[error("shard {shard}: {why}")]
    Shard {
        /// The shard.
        shard: u16,
        /// Why.
        why: String,
    },
    /// A shard did not flush and seal in time.
    #[error("shard {shard} did not stop within {seconds} s: its disk or a producer holds it up")]
    TimedOut {
        /// The shard.
        shard: u16,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// What an application answers when it cannot apply. The standby stops applying and says why; its log goes on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ApplyError(pub String);

/// Why the log could not be read from where it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TailError {
    /// The log starts later: what was asked for has been trimmed, or never held a record.
    #[error(
        "the log starts at {log_start}, nothing lies before: begin there (0 does), or from a snapshot if it was trimmed"
    )]
    Trimmed {
        /// Where it starts.
        log_start: towline_core::types::Lsn,
    },
    /// No batch starts at the LSN.
    #[error("no batch starts at {at}: {why}")]
    NotABatch {
        /// The position.
        at: towline_core::types::Lsn,
        /// What was found.
        why: String,
    },
    /// The log was cut below this position and continues otherwise.
    #[error("the log was cut to {to}: what was read behind it is void")]
    Cut {
        /// The new end at that time.
        to: towline_core::types::Lsn,
    },
    /// The segment could not be read.
    #[error("{0}")]
    Read(String),
    /// The node serves no such shard.
    #[error("there is no shard {0} here")]
    NoShard(u16),
    /// The node stopped.
    #[error("the node has stopped")]
    Stopped,
}

//! A client's pending append, and how it ends.

use serde::{Deserialize, Serialize};

use crate::format::Committed;
use crate::types::{Level, Lsn, TicketId, Window};

/// A waiting append.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ticket {
    /// The driver's name for it.
    pub id: TicketId,
    /// LSN of its first record header.
    pub lsn: Lsn,
    /// One past its last byte.
    pub end: Lsn,
    /// Data records in the log up to its end.
    pub records_through: u64,
    /// Payload bytes in the log up to its end.
    pub payload_through: u64,
    /// Its own payload bytes.
    pub payload_bytes: u64,
    /// The level asked for; never `off`, which the driver acknowledges itself.
    pub level: Level,
    /// The window asked for.
    pub window: Option<Window>,
    /// When it was accepted.
    pub accepted_ns: u64,
}

/// How a ticket ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TicketOutcome {
    /// Acknowledged.
    Committed(Committed),
    /// Neither success nor "not written".
    Indeterminate(String),
    /// Refused; nothing depends on it (only for `Wait`).
    Refused(String),
}

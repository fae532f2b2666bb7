//! Identities: of a log, a node, a configured peer, a session, a ticket.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Identity of one log: 128 random bits, chosen when the log is created; replicas share it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct LogId(pub [u8; 16]);

/// Identity of one node's copy of a log: random, made with its directory, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct NodeId(pub u64);

/// Place of a standby in this node's configuration (`a=host:port` in the order given).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct PeerIndex(pub u16);

/// One connection's life, unique within a process; frames of an older session are never mixed in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct SessionId(pub u64);

/// A client's pending append; chosen by the driver, opaque here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct TicketId(pub u64);

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogId({self})")
    }
}

impl LogId {
    /// Whether no identity has been given yet (a standby's empty directory).
    pub fn is_unset(&self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{self}")
    }
}

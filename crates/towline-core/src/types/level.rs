//! Commit levels: what an acknowledgement waits for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an acknowledgement waits for; names and meanings are those of PostgreSQL's
/// [`synchronous_commit`](https://www.postgresql.org/docs/current/runtime-config-wal.html#GUC-SYNCHRONOUS-COMMIT).
/// Ordered from the weakest to the strongest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The record has an LSN. Survives a clean stop.
    Off,
    /// The primary's own flush. Survives a crash or power cut of the primary, if its disk comes back.
    Local,
    /// Own flush, and k standbys hold the record in memory that outlives their process.
    RemoteWrite,
    /// Own flush, and k standbys have flushed. Survives loss of the primary plus power cut of the standbys.
    On,
    /// Own flush, and k standbys have flushed and applied: a read there sees it.
    RemoteApply,
}

impl Level {
    /// All five, weakest first.
    pub const ALL: [Level; 5] = [Level::Off, Level::Local, Level::RemoteWrite, Level::On, Level::RemoteApply];

    /// Whether the level waits for standbys.
    pub fn is_remote(self) -> bool {
        self >= Level::RemoteWrite
    }

    /// The name used in configuration, reports and acks.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Off => "off",
            Level::Local => "local",
            Level::RemoteWrite => "remote_write",
            Level::On => "on",
            Level::RemoteApply => "remote_apply",
        }
    }

    /// The level's number on the wire.
    pub fn to_wire(self) -> u8 {
        self as u8
    }

    /// The level of a number on the wire; `None` for one that no level has.
    pub fn from_wire(byte: u8) -> Option<Level> {
        Level::ALL.get(usize::from(byte)).copied()
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A name that is no commit level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no commit level: use off, local, remote_write, on or remote_apply")]
pub struct UnknownLevel(pub String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Level, UnknownLevel> {
        Level::ALL
            .into_iter()
            .find(|level| level.as_str() == name)
            .ok_or_else(|| UnknownLevel(name.to_owned()))
    }
}

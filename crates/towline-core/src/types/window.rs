//! The lag window: one dial from synchronous to asynchronous.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much of a record's fill (payload in `(safe LSN, its own end]`) may be unsafe when it is acknowledged.
/// Needs a remote level and a rule that is not empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// Payload bytes.
    Bytes(u64),
    /// Records.
    Records(u64),
    /// Microseconds since acceptance of the oldest record in the fill.
    Micros(u64),
    /// No bound: the level becomes `local`.
    #[serde(rename = "inf")]
    Infinite,
}

impl Window {
    /// Whether the window is the level itself (ω = 0).
    pub fn is_zero(self) -> bool {
        matches!(self, Window::Bytes(0) | Window::Records(0) | Window::Micros(0))
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Window::Bytes(n) => write!(f, "{n} B"),
            Window::Records(n) => write!(f, "{n} records"),
            Window::Micros(n) => write!(f, "{n} µs"),
            Window::Infinite => f.pad("∞"),
        }
    }
}

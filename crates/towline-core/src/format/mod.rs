//! One encoding for disk and wire.

mod frame;
mod header;

pub use frame::{Committed, Frame, Hello, HelloRole, LogEnd, Outcome, RefusalCode, Welcome};
pub use header::{BatchHeader, BatchKind};

//! Towline: a durable log that ships itself to standbys, embedded in your program.
//!
//! What it does: every append gets a place in the log (an [`Lsn`]) and is acknowledged at the [`Level`] it asked for,
//! from `off` (in memory) to `remote_apply` (flushed here, flushed and applied on the standbys that count).
//! What it never does: weaken a level silently. Every acknowledgement says the level achieved, and a wait that is
//! given up ends as *indeterminate*: never success, never "not written".
//!
//! Start at [`Log`], on the other side at [`Standby`], and over the network at [`client::Client`].
//!
//! ```
//! use towline::{Level, Log, Lsn};
//!
//! # let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
//! # let dir = folder.path().join("log");
//! let log = Log::open(&dir)?;
//!
//! // Durable on this node's disk when `wait` returns.
//! let committed = log.append(b"first", Level::Local, None)?.wait()?;
//! assert_eq!(committed.level, Level::Local);
//!
//! // Many in flight, one wait: an acknowledgement covers everything before it.
//! log.append(b"second", Level::Off, None)?;
//! let last = log.append(b"third", Level::Local, None)?;
//! last.wait()?;
//!
//! let payloads: Vec<_> = log.tail(Lsn(0))?.take(3).map(|record| record.map(|record| record.payload)).collect::<Result<_, _>>()?;
//! assert_eq!(payloads, ["first", "second", "third"]);
//! log.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Units
//! Positions are bytes of one log, block padding and headers included; end positions are exclusive. Sizes are bytes,
//! times [`std::time::Duration`]. Windows are in payload bytes, records or microseconds ([`Window`]).
//!
//! # Errors
//! One enum per decision: [`AppendError`] (refused: nothing was written), [`TicketError`] (accepted, outcome not
//! known), [`RuleError`], [`StartError`] and [`StopError`], [`TailError`], [`client::ClientError`]. Each message says
//! what happened, where, and what to do.

mod builder;
pub mod client;
mod log;
mod record;
mod shard;
mod standby;
mod tail;

pub use builder::NodeBuilder;
pub use log::{Log, LogBuilder, Primary};
pub use record::{Record, Records};
pub use shard::Shard;
pub use standby::{Follower, Standby, StandbyBuilder};
pub use tail::Tail;

pub use towline_core::format::Committed;
pub use towline_core::node::{Event, PeerStatus, Promoted};
pub use towline_core::replication::GateStatus;
pub use towline_core::replication::SyncRule;
pub use towline_core::types::{Level, LogId, Lsn, NodeId, Position, Span, StandbyWatermarks, Term, Window};
pub use towline_runtime::{
    AppendError, AppliedBatch, Apply, ApplyError, HandOverError, Host, NodeOptions, PayloadMut, PeerAddress,
    Primitive, Promotion, Reservation, Role, RuleError, Snapshot, StartError, Status, StopError, TailError,
    Ticket, TicketError, Unmet,
};

/// The program in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

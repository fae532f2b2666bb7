//! The shard loop of Towline, its hosts, listeners and client handles.
//!
//! It turns the outputs of the state machine (`towline-core`) into operations of the ring (`towline-uring`): disk
//! and sockets together, from one arena, on one thread per shard. It decides nothing: what is acknowledged when is
//! the state machine's, and payload bytes are copied once, into the arena, by whoever appends them.
//!
//! Start at [`RunningNode::start`]; appends go through its [`Handle`]s.

mod apply;
mod batch_reader;
mod clock;
mod error;
mod exposure;
mod handle;
mod host;
mod listen;
mod metrics;
mod node;
mod node_dir;
mod options;
mod read_buf;
mod shard;
mod status;
pub mod storage;

pub use apply::{AppliedBatch, Apply, ApplyFactory};
pub use clock::deadline;
pub use error::{
    AppendError, ApplyError, HandOverError, RuleError, StartError, StopError, TailError, TicketError,
};
pub use exposure::{EXPOSURE_BOUNDS_BYTES, ExposureHistogram};
pub use handle::{Handle, PayloadMut, Promotion, Reservation, Snapshot, Tail, TailBatch, Ticket};
pub use node::RunningNode;
pub use node_dir::shard_number;
pub use options::{EventSink, Host, MAX_SHARDS, NodeOptions, PeerAddress, Role, Unmet};
pub use shard::brain::{Replay, TapeLine, replay};
pub use shard::seed::ShardSeed;
pub use status::{DriverStatus, ShardStatus, Status};
pub use towline_uring::primitive::Primitive;

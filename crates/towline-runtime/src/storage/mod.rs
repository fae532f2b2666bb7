//! Storage of one shard: its directory, its segment files, its meta block, and the thread that keeps them.
//!
//! What it does: makes and opens a directory, recovers the log in it, and does everything slow (preparing,
//! recycling and cutting segments, writing the meta block) on a thread of its own.
//! What it never does: write a batch in normal running. That is the shard's, through its ring.
//!
//! Start at [`ShardDir::open`]; then [`Keeper::start`] with what it returned.

mod arena;
mod calibration;
mod cut;
mod error;
mod files;
mod headers;
mod identity;
mod keeper;
mod layout;
mod meta_file;
mod options;
mod peer;
mod prepare;
mod reader;
mod recovery;
mod repair;
mod segment_reader;
mod segments;
mod shard_dir;
mod steps;

pub use arena::arena_path;
pub use calibration::{Calibration, Origin};
pub use error::OpenError;
pub use identity::{FORMAT_VERSION, Identity};
pub use keeper::{Command, Keeper, KeeperParts, SendError};
pub use layout::Layout;
pub use meta_file::{MetaFile, MetaWriteError};
pub use options::{Purpose, StorageOptions};
pub use reader::{LogReader, ReadRecord, records};
pub use repair::repair_log;
pub use segment_reader::SegmentReader;
pub use segments::Segments;
pub use shard_dir::{Opened, ShardDir};
pub use steps::{Steps, Stopped};

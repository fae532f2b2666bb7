//! How a shard's directory is opened.

use std::path::PathBuf;
use std::time::Duration;

use towline_core::types::limits::{IN_FLIGHT_BYTES, MAX_NAME_BYTES, SEGMENT_BYTES};
use towline_core::types::{Geometry, LogId, NodeId};
use towline_uring::{FileMode, WritePrimitive};

use super::error::OpenError;
use super::steps::Steps;

/// What a directory is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A primary's: an empty directory becomes a new log.
    Primary,
    /// A standby's: an empty directory waits for the log that it is offered.
    Standby,
}

/// How a shard's directory is opened. `Default` is a primary's directory with the default sizes.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// What it is opened for.
    pub purpose: Purpose,
    /// The node's name, at most 63 bytes of letters, digits, `-`, `_` and `.`; fixed in the directory.
    pub name: String,
    /// The shard's number, fixed in the directory.
    pub shard: u16,
    /// The node id to give to a new directory, so that all shards of a node share it; `None`: a random one.
    pub node: Option<NodeId>,
    /// When given, a directory of another log is refused.
    pub log: Option<LogId>,
    /// Sizes of a new log; a primary's existing directory must have been made with them, if given.
    pub geometry: Option<Geometry>,
    /// Through the page cache, where the file system cannot do without.
    pub buffered: bool,
    /// How writes are made durable; `None`: as calibrated.
    pub primitive: Option<WritePrimitive>,
    /// Flushes in flight; `None`: as calibrated.
    pub flush_depth: Option<usize>,
    /// Measure the device when a log is made (at most a second); otherwise safe defaults are taken.
    pub calibrate: bool,
    /// How long to wait for the lock; a killed process's last writes may hold it for a moment.
    pub lock_wait: Duration,
    /// Where a standby's arena lies in shared memory; what a killed process left there is taken over. `None`: not
    /// looked for.
    pub arena_dir: Option<PathBuf>,
    /// Segments of a trimmed log that are kept to be recycled.
    pub spare_segments: usize,
    /// Nodes (`host:port`) that may replace durable bytes of the log that are damaged here, asked in this order.
    /// None: a damaged log is refused.
    pub repair_from: Vec<String>,
    /// Tests end the storage after some durable steps.
    pub steps: Steps,
}

impl Default for StorageOptions {
    fn default() -> Self {
        StorageOptions {
            purpose: Purpose::Primary,
            name: "towline".to_owned(),
            shard: 0,
            node: None,
            log: None,
            geometry: None,
            buffered: false,
            primitive: None,
            flush_depth: None,
            calibrate: true,
            lock_wait: Duration::from_millis(1500),
            arena_dir: Some(PathBuf::from("/dev/shm")),
            spare_segments: 4,
            repair_from: Vec::new(),
            steps: Steps::default(),
        }
    }
}

impl StorageOptions {
    /// Sizes of a new log.
    pub fn new_geometry(&self) -> Geometry {
        self.geometry.unwrap_or(Geometry { segment_bytes: SEGMENT_BYTES, in_flight_bytes: IN_FLIGHT_BYTES })
    }

    /// Direct or buffered.
    pub fn mode(&self) -> FileMode {
        if self.buffered { FileMode::Buffered } else { FileMode::Direct }
    }

    /// Refuses what no log can have.
    ///
    /// # Errors
    /// [`OpenError::BadOptions`].
    pub fn check(&self) -> Result<(), OpenError> {
        check_name(&self.name)?;
        check_geometry(self.new_geometry())
    }
}

fn check_name(name: &str) -> Result<(), OpenError> {
    let fits = !name.is_empty() && name.len() <= MAX_NAME_BYTES;
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fits && plain {
        return Ok(());
    }
    let why =
        format!("'{name}' cannot name a node: use 1 to {MAX_NAME_BYTES} letters, digits, '-', '_' or '.'");
    Err(OpenError::BadOptions { why })
}

pub(crate) fn check_geometry(geometry: Geometry) -> Result<(), OpenError> {
    geometry.check().map_err(|impossible| OpenError::BadOptions { why: impossible.to_string() })
}

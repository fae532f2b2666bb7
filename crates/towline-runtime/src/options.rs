//! How a node is started.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use towline_core::node::Event;
use towline_core::types::limits::{
    ARENA_BYTES, IN_FLIGHT_BYTES, MAX_NAME_BYTES, MAX_STANDBYS, MIN_ARENA_BYTES, RETENTION_BYTES,
    SEGMENT_BYTES,
};
use towline_uring::primitive::Primitive;

use crate::error::StartError;

/// How a node is started. `Default` is a primary without standbys in the directory `towline`, without a port.
#[derive(Clone)]
pub struct NodeOptions {
    /// The node's directory; each shard has a folder of its own in it. A directory with more shards than are asked for is
    /// refused, and so are one shard's own folder and a directory of other files.
    pub dir: PathBuf,
    /// Primary or standby.
    pub role: Role,
    /// The node's name, as standbys are named in a sync rule.
    pub name: String,
    /// Shards: logs of their own, each on a thread of its own.
    pub shards: u16,
    /// Where peers and clients connect; `None`: no port. Port 0 lets the system choose.
    pub listen: Option<SocketAddr>,
    /// Where metrics and the status page are served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// The standbys that this node ships to.
    pub standbys: Vec<PeerAddress>,
    /// The sync rule of a new log (`FIRST k (…)`, `ANY k (…)`, `*`); `None` or an empty one: no rule. On an existing
    /// log it is proposed as a change when it differs from the one in force.
    pub sync_rule: Option<String>,
    /// What happens to waiting tickets when the rule cannot be met.
    pub unmet: Unmet,
    /// Bytes of a segment file of a new log; a power of two.
    pub segment_bytes: u64,
    /// Bytes of each shard's arena; a power of two.
    pub arena_bytes: u64,
    /// Most bytes past the flushed watermark that may be in flight to the disk (of a new log).
    pub in_flight_bytes: u64,
    /// How far the log may reach past the last trim.
    pub retention_bytes: u64,
    /// How far registered standbys hold a trim back.
    pub hold_bytes: u64,
    /// Through the page cache, where the file system has no direct I/O.
    pub buffered: bool,
    /// How writes are made durable; `None`: as calibrated.
    pub primitive: Option<Primitive>,
    /// Flushes in flight; `None`: as calibrated.
    pub flush_depth: Option<usize>,
    /// Measure the device when a log is made (at most a second).
    pub calibrate: bool,
    /// What carries the shard loops.
    pub host: Host,
    /// Apply only what the rule has made safe.
    pub apply_safe: bool,
    /// Lead without asking anybody after a restart (`--alone`).
    pub alone: bool,
    /// Nodes (`host:port`) that may replace damaged durable bytes of the log before this node starts; none: a damaged
    /// log is refused.
    pub repair_from: Vec<String>,
    /// Segments prepared ahead of need.
    pub prepare_segments: u32,
    /// How long a zero-copy reservation may be held.
    pub hold_limit: Duration,
    /// How long an idle shard spins before it parks.
    pub spin: Duration,
    /// How long a connection may be silent before a heartbeat; four times as long, and it is dead.
    pub heartbeat: Duration,
    /// Record every input and output of each shard's state machine into `<path>.<shard>`, to be replayed.
    pub record_inputs: Option<PathBuf>,
    /// Send without copying where the kernel really does not copy.
    pub zero_copy_send: bool,
    /// Called with what an operator should know, on the shard's thread: it must return at once.
    pub on_event: Option<EventSink>,
}

/// See [`NodeOptions::on_event`].
pub type EventSink = Arc<dyn Fn(u16, &Event) + Send + Sync>;

/// Who writes the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Orders, writes and ships.
    Primary,
    /// Receives, writes and reports.
    Standby,
}

/// Where a standby listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// Its name in the sync rule.
    pub name: String,
    /// `host:port`.
    pub address: String,
}

/// What happens to waiting tickets when the sync rule cannot be met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmet {
    /// They wait.
    Stall,
    /// After this time without the rule being met they are acknowledged as `local`, which the ack says.
    DegradeAfter(Duration),
}

/// What carries a shard loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Host {
    /// A thread; pinned to `pin` plus the shard's number (modulo the cores) when given.
    Thread {
        /// The first shard's core.
        pin: Option<usize>,
    },
    /// A task in a glommio executor on a thread of its own.
    Glommio,
}

impl Default for NodeOptions {
    fn default() -> NodeOptions {
        NodeOptions {
            dir: PathBuf::from("towline"),
            role: Role::Primary,
            name: "towline".to_owned(),
            shards: 1,
            listen: None,
            metrics: None,
            standbys: Vec::new(),
            sync_rule: None,
            unmet: Unmet::Stall,
            segment_bytes: SEGMENT_BYTES,
            arena_bytes: ARENA_BYTES,
            in_flight_bytes: IN_FLIGHT_BYTES,
            retention_bytes: RETENTION_BYTES,
            hold_bytes: RETENTION_BYTES,
            buffered: false,
            primitive: None,
            flush_depth: None,
            calibrate: true,
            host: Host::Thread { pin: None },
            apply_safe: false,
            alone: false,
            repair_from: Vec::new(),
            prepare_segments: 2,
            hold_limit: Duration::from_secs(1),
            spin: Duration::from_micros(200),
            heartbeat: Duration::from_secs(1),
            record_inputs: None,
            zero_copy_send: false,
            on_event: None,
        }
    }
}

impl NodeOptions {
    /// Refuses what cannot work, before anything is touched.
    ///
    /// # Errors
    /// [`StartError::Options`] with the option's name and what to do.
    pub fn check(&self) -> Result<(), StartError> {
        let refuse = |why: String| Err(StartError::Options(why));
        if self.shards == 0 || self.shards > MAX_SHARDS {
            return refuse(format!("shards: {} is not between 1 and {MAX_SHARDS}", self.shards));
        }
        if self.standbys.len() > MAX_STANDBYS {
            return refuse(format!(
                "standbys: {} are named, at most {MAX_STANDBYS} can be",
                self.standbys.len()
            ));
        }
        for (at, standby) in self.standbys.iter().enumerate() {
            if standby.name.is_empty() || standby.name.len() > MAX_NAME_BYTES {
                return refuse(format!(
                    "standbys: '{}' is no name of 1 to {MAX_NAME_BYTES} bytes",
                    standby.name
                ));
            }
            if standby.name == self.name {
                return refuse(format!("standbys: '{}' is this node's own name", standby.name));
            }
            if self.standbys[..at].iter().any(|other| other.name == standby.name) {
                return refuse(format!("standbys: '{}' is named twice", standby.name));
            }
            if let Some(other) = self.standbys[..at].iter().find(|other| other.address == standby.address) {
                return refuse(format!(
                    "standbys: '{}' and '{}' are one address, {}: a node counts once",
                    other.name, standby.name, standby.address
                ));
            }
            if !standby
                .address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
            {
                return refuse(format!("standbys: '{}' is no host:port", standby.address));
            }
        }
        if !self.arena_bytes.is_power_of_two()
            || !(MIN_ARENA_BYTES..=MAX_ARENA_BYTES).contains(&self.arena_bytes)
        {
            return refuse(format!(
                "arena_bytes: {} is not a power of two from {MIN_ARENA_BYTES} to {MAX_ARENA_BYTES}",
                self.arena_bytes
            ));
        }
        if self.retention_bytes < self.segment_bytes.saturating_mul(2) {
            return refuse(format!(
                "retention_bytes: {} is less than two segments of {}",
                self.retention_bytes, self.segment_bytes
            ));
        }
        if self.heartbeat < Duration::from_millis(10) {
            return refuse("heartbeat: shorter than 10 ms".to_owned());
        }
        if self.heartbeat > MAX_HEARTBEAT {
            return refuse(format!("heartbeat: longer than {MAX_HEARTBEAT:?}"));
        }
        if self.spin > MAX_SPIN {
            return refuse(format!("spin: longer than {MAX_SPIN:?}"));
        }
        Ok(())
    }
}

impl fmt::Debug for NodeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeOptions")
            .field("dir", &self.dir)
            .field("role", &self.role)
            .field("name", &self.name)
            .field("shards", &self.shards)
            .field("listen", &self.listen)
            .field("standbys", &self.standbys)
            .field("sync_rule", &self.sync_rule)
            .field("unmet", &self.unmet)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// Shards of one node at most.
pub const MAX_SHARDS: u16 = 64;
/// A peer that is gone is noticed after four of them.
const MAX_HEARTBEAT: Duration = Duration::from_secs(3600);
/// Longer spinning helps nobody.
const MAX_SPIN: Duration = Duration::from_millis(100);
/// One kernel operation moves at most this much, so that no span of a larger arena would be of use.
const MAX_ARENA_BYTES: u64 = 1 << 30;

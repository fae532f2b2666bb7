//! The receiving side: a byte-identical copy of a primary's log, applied to the application's state.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use towline_core::types::Lsn;
use towline_runtime::{
    Apply, ApplyFactory, Handle, NodeOptions, Role, RunningNode, Snapshot, StartError, Status, StopError,
    TailError,
};

use crate::builder::NodeBuilder;
use crate::tail::Tail;

/// A standby in this process: the primary dials it, ships its log, and this side flushes it, reports, and hands the
/// records to an [`Apply`].
pub struct Standby {
    handles: Vec<Handle>,
    listen: SocketAddr,
    node: RunningNode,
}

impl Standby {
    /// A standby with a name, a port and an application.
    ///
    /// ```
    /// # use towline::{AppliedBatch, Apply, ApplyError, Level, Log, Lsn, Standby};
    /// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
    /// use std::time::Duration;
    ///
    /// struct Count(Arc<AtomicU64>);
    ///
    /// impl Apply for Count {
    ///     fn apply(&mut self, batch: &AppliedBatch<'_>) -> Result<(), ApplyError> {
    ///         self.0.fetch_add(batch.iter().count() as u64, Ordering::Release);
    ///         Ok(())
    ///     }
    ///     fn reset(&mut self, _from: Lsn) {
    ///         self.0.store(0, Ordering::Release);
    ///     }
    /// }
    ///
    /// # let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// # let (a, p) = (folder.path().join("a"), folder.path().join("p"));
    /// let count = Arc::new(AtomicU64::new(0));
    /// let shared = Arc::clone(&count);
    /// let standby = Standby::builder()
    ///     .name("a")
    ///     .listen("127.0.0.1:0".parse()?)
    ///     .apply(move |_shard| Count(Arc::clone(&shared)))
    ///     .open(&a)?;
    ///
    /// let log = Log::builder()
    ///     .standby("a", standby.listen_address())
    ///     .sync_rule("ANY 1 (a)")
    ///     .open(&p)?;
    /// let committed = log.append(b"x", Level::RemoteApply, None)?.wait_timeout(Duration::from_secs(20))?;
    /// assert_eq!(committed.level, Level::RemoteApply);
    /// assert_eq!(count.load(Ordering::Acquire), 1);
    /// log.close()?;
    /// standby.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> StandbyBuilder {
        let options = NodeOptions {
            role: Role::Standby,
            name: "standby".to_owned(),
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 7401))),
            ..NodeOptions::default()
        };
        NodeBuilder { options, kind: Follower { apply: None } }
    }

    /// Where the primary connects.
    pub fn listen_address(&self) -> SocketAddr {
        self.listen
    }

    /// Waits until the application has applied everything up to `lsn` of shard `shard`; false when `timeout` came
    /// first. With the LSN of an acknowledgement, a read here then sees that write.
    pub fn wait_applied(&self, shard: u16, lsn: Lsn, timeout: Duration) -> bool {
        self.handles.get(usize::from(shard)).is_some_and(|handle| handle.wait_applied(lsn, timeout))
    }

    /// Follows the received log as [`Shard::tail`](crate::Shard::tail) does on the primary: up to what is flushed
    /// here and, as far as the primary has said, safe.
    ///
    /// # Errors
    /// [`TailError`]: no such shard, the place is trimmed, or nothing begins there.
    pub fn tail(&self, shard: u16, from: Lsn) -> Result<Tail, TailError> {
        let handle = self.handles.get(usize::from(shard)).ok_or(TailError::NoShard(shard))?;
        Ok(Tail::new(handle.tail(from, true)?))
    }

    /// Watermarks of one shard, as they are now.
    pub fn snapshot(&self, shard: u16) -> Option<Snapshot> {
        self.handles.get(usize::from(shard)).map(Handle::snapshot)
    }

    /// The state of every shard. Serializable.
    pub fn status(&self) -> Status {
        self.node.status()
    }

    /// Counters, gauges and histograms as Prometheus text.
    pub fn metrics(&self) -> String {
        self.node.metrics()
    }

    /// Stops cleanly: everything received is flushed.
    ///
    /// # Errors
    /// [`StopError`]: a shard could not flush.
    pub fn close(self) -> Result<(), StopError> {
        self.node.stop()
    }
}

impl fmt::Debug for Standby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standby").field("shards", &self.handles.len()).finish_non_exhaustive()
    }
}

/// How a standby is opened; see [`Standby::builder`].
pub type StandbyBuilder = NodeBuilder<Follower>;

/// A [`NodeBuilder`] of a standby, with what applies its records.
pub struct Follower {
    apply: Option<ApplyFactory>,
}

impl NodeBuilder<Follower> {
    /// What applies the records: called once per shard at the start. Without it the standby's applied watermark
    /// follows the flushed one.
    pub fn apply<A: Apply + 'static>(mut self, make: impl Fn(u16) -> A + Send + 'static) -> Self {
        self.kind.apply = Some(Box::new(move |shard| Box::new(make(shard)) as Box<dyn Apply>));
        self
    }

    /// Applies only what the sync rule has made safe (half a round trip later): what it shows, no failover takes
    /// back. Default: what both sides have flushed.
    pub fn apply_safe(mut self, safe: bool) -> Self {
        self.options.apply_safe = safe;
        self
    }

    /// Opens the standby's log in `dir`, or makes a place for one; an empty directory adopts the log it is offered.
    ///
    /// # Errors
    /// As [`Log::open`](crate::Log::open).
    pub fn open(mut self, dir: impl AsRef<Path>) -> Result<Standby, StartError> {
        self.options.dir = dir.as_ref().to_path_buf();
        self.options.role = Role::Standby;
        let shards = self.options.shards;
        let node = RunningNode::start(self.options, self.kind.apply)?;
        let no_port = || StartError::Options("listen: a standby needs a port for its primary".to_owned());
        let listen = node.listen_address().ok_or_else(no_port)?;
        let handles = (0..shards).filter_map(|number| node.handle(number)).collect();
        Ok(Standby { handles, listen, node })
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("applies", &self.apply.is_some()).finish()
    }
}

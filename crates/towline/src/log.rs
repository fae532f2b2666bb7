//! The primary's side: a log to append to.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use towline_runtime::{NodeOptions, Role, RunningNode, StartError, Status, StopError, Unmet};

use crate::builder::NodeBuilder;
use crate::shard::Shard;

/// A log in this process, with its standbys if it has any. The one that orders: in the words of the protocol, the
/// primary.
///
/// Methods of [`Shard`] called on a `Log` go to its first shard; [`shard_for`](Log::shard_for) routes by key.
/// Dropping a log stops it as [`close`](Log::close) does, without telling how it went.
pub struct Log {
    shards: Vec<Shard>,
    node: RunningNode,
}

impl Log {
    /// Opens the log in `dir`, or makes one there: one shard, no standby, no port.
    ///
    /// # Errors
    /// [`StartError`]: the directory is locked by another process, cannot be written, is another program's, holds a
    /// damaged log; or the kernel or file system cannot do what is needed.
    pub fn open(dir: impl AsRef<Path>) -> Result<Log, StartError> {
        Log::builder().open(dir)
    }

    /// A log with standbys, shards, a port, or sizes of its own.
    ///
    /// ```
    /// # use towline::{Level, Log, Unmet};
    /// # use std::time::Duration;
    /// # let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// # let dir = folder.path().join("log");
    /// let log = Log::builder()
    ///     .name("p")
    ///     .shards(2)
    ///     .segment_bytes(8 << 20)
    ///     .arena_bytes(4 << 20)
    ///     .retention_bytes(64 << 20)
    ///     .open(&dir)?;
    /// log.shard_for(b"customer 7").append(b"an order", Level::Local, None)?.wait()?;
    /// log.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder() -> LogBuilder {
        LogBuilder {
            options: NodeOptions {
                role: Role::Primary,
                name: "primary".to_owned(),
                ..NodeOptions::default()
            },
            kind: Primary,
        }
    }

    /// All shards, in order.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The shard that `key` belongs to. The same key goes to the same shard in every run and version, as long as the
    /// number of shards stays.
    pub fn shard_for(&self, key: &[u8]) -> &Shard {
        &self.shards[shard_of_key(key, self.shards.len())]
    }

    /// Where peers and clients connect, when the log was built with a port.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.node.listen_address()
    }

    /// The state of every shard: role, term, watermarks, exposure, each standby. Serializable.
    pub fn status(&self) -> Status {
        self.node.status()
    }

    /// Counters, gauges and histograms as Prometheus text.
    pub fn metrics(&self) -> String {
        self.node.metrics()
    }

    /// Stops cleanly: everything accepted is flushed, sealed and, as far as standbys are there, shipped.
    ///
    /// # Errors
    /// [`StopError`]: a shard could not flush. What was acknowledged keeps its level's promise.
    pub fn close(self) -> Result<(), StopError> {
        self.node.stop()
    }
}

impl Deref for Log {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        &self.shards[0]
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("shards", &self.shards.len()).finish_non_exhaustive()
    }
}

/// How a log is opened; see [`Log::builder`].
pub type LogBuilder = NodeBuilder<Primary>;

/// A [`NodeBuilder`] of a log that orders.
#[derive(Debug, Clone, Copy)]
pub struct Primary;

impl NodeBuilder<Primary> {
    /// Who counts for the remote levels: `FIRST k (a, b)`, `ANY k (a, b)` or `*`, as in PostgreSQL's
    /// [`synchronous_standby_names`](https://www.postgresql.org/docs/current/runtime-config-replication.html#GUC-SYNCHRONOUS-STANDBY-NAMES).
    /// Default: nobody; the remote levels then behave as `local`, and every acknowledgement says so.
    pub fn sync_rule(mut self, rule: &str) -> Self {
        self.options.sync_rule = Some(rule.to_owned());
        self
    }

    /// When the rule has not been met for this long, acknowledge as `local`, and say so in the acknowledgement.
    /// Default: wait.
    pub fn degrade_after(mut self, time: Duration) -> Self {
        self.options.unmet = Unmet::DegradeAfter(time);
        self
    }

    /// Bytes of a segment file of a new log, a power of two. Default: 64 MiB.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.options.segment_bytes = bytes;
        self
    }

    /// How far the log may reach past the last trim before it is full: then appends wait for a [`trim`](Shard::trim),
    /// and [`try_append`](Shard::try_append) and [`append_within`](Shard::append_within) answer
    /// [`AppendError::Full`](crate::AppendError::Full). Default: 1 GiB.
    pub fn retention_bytes(mut self, bytes: u64) -> Self {
        self.options.retention_bytes = bytes;
        self.options.hold_bytes = self.options.hold_bytes.min(bytes);
        self
    }

    /// Opens the log in `dir`, or makes one there.
    ///
    /// # Errors
    /// As [`Log::open`]; and [`StartError::Options`] for options that cannot work.
    pub fn open(mut self, dir: impl AsRef<Path>) -> Result<Log, StartError> {
        self.options.dir = dir.as_ref().to_path_buf();
        self.options.role = Role::Primary;
        let shards = self.options.shards;
        let node = RunningNode::start(self.options, None)?;
        let shards: Vec<Shard> =
            (0..shards).filter_map(|number| Some(Shard::new(number, node.handle(number)?))).collect();
        Ok(Log { shards, node })
    }
}

/// FNV-1a with a finishing mix, then scaled: part of the interface, since a changed route would split a key's records
/// over two logs.
fn shard_of_key(key: &[u8], shards: usize) -> usize {
    let fnv = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (fnv ^ (fnv >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // The high half of the product is below `shards`.
    ((u128::from(mixed) * shards as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_spread_over_shards_and_never_move() {
        let mut counts = [0; 5];
        for key in 0..10_000_u32 {
            counts[shard_of_key(&key.to_le_bytes(), 5)] += 1;
        }
        assert!(counts.iter().all(|count| (1_700..2_300).contains(count)), "{counts:?}");
        assert_eq!([&b"a"[..], b"b", b"customer 7", b""].map(|key| shard_of_key(key, 7)), [3, 2, 5, 3]);
    }
}

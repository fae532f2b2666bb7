//! One log of a primary, as threads and tasks use it.

use std::fmt;
use std::time::Duration;

use towline_core::types::{Level, Lsn, Window};
use towline_runtime::{AppendError, Handle, Reservation, RuleError, Snapshot, TailError, Ticket};

use crate::tail::Tail;

/// One shard: a log of its own. Cheap to clone; clones append to the same log from any thread.
///
/// A [`Log`](crate::Log) has one shard unless it was built with more, and forwards these methods to its first.
#[derive(Clone)]
pub struct Shard {
    number: u16,
    handle: Handle,
}

impl Shard {
    pub(crate) fn new(number: u16, handle: Handle) -> Shard {
        Shard { number, handle }
    }

    /// Its place among the node's shards, from 0.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Appends one record. Waits, without a limit, for room where the arena is full, the disk is, or the log has reached
    /// its retention, and for leadership where a restarted node does not lead yet (a socket client is answered
    /// `unavailable` instead); the [`Ticket`] then waits for the level. [`append_within`](Shard::append_within) has a
    /// limit, [`try_append`](Shard::try_append) never waits.
    ///
    /// `window` makes a remote level acknowledge earlier: when everything but the last `window` of payload is safe
    /// ([`Window`]). `None` is the level itself.
    ///
    /// ```
    /// # use towline::{Level, Log};
    /// # let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// # let log = Log::open(folder.path().join("log"))?;
    /// let ticket = log.append(b"payload", Level::Local, None)?;
    /// println!("has its place: {}", ticket.lsn());
    /// let committed = ticket.wait()?;
    /// assert!(committed.end > committed.lsn);
    /// # log.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AppendError`]: nothing was written.
    pub fn append(
        &self,
        payload: &[u8],
        level: Level,
        window: Option<Window>,
    ) -> Result<Ticket, AppendError> {
        self.handle.append(payload, level, window)
    }

    /// As [`append`](Shard::append), but answers [`AppendError::Full`] or [`AppendError::Unavailable`] instead of waiting.
    ///
    /// # Errors
    /// [`AppendError`]: nothing was written.
    pub fn try_append(
        &self,
        payload: &[u8],
        level: Level,
        window: Option<Window>,
    ) -> Result<Ticket, AppendError> {
        self.handle.try_append(payload, level, window)
    }

    /// As [`append`](Shard::append), but waits for room and for leadership at most `limit`, to within 50 ms. A log that
    /// nobody trims is full for ever, and [`append`](Shard::append) waits for ever.
    ///
    /// # Errors
    /// [`AppendError`]: nothing was written; [`AppendError::Full`] when there was no room in time,
    /// [`AppendError::Unavailable`] when this node did not come to lead.
    pub fn append_within(
        &self,
        payload: &[u8],
        level: Level,
        window: Option<Window>,
        limit: Duration,
    ) -> Result<Ticket, AppendError> {
        self.handle.append_within(payload, level, window, limit)
    }

    /// As [`append`](Shard::append) in a task, on any async runtime: it waits for room and leadership without blocking the
    /// thread, and the ticket is a `Future`.
    ///
    /// # Errors
    /// [`AppendError`]: nothing was written.
    pub async fn append_async(
        &self,
        payload: &[u8],
        level: Level,
        window: Option<Window>,
    ) -> Result<Ticket, AppendError> {
        self.handle.append_async(payload, level, window).await
    }

    /// Appends several records as one: after any crash the log holds all of them or none.
    ///
    /// ```
    /// # use towline::{Level, Log};
    /// # let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// # let log = Log::open(folder.path().join("log"))?;
    /// log.append_atomic(&[b"debit a", b"credit b"], Level::Local, None)?.wait()?;
    /// # log.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AppendError`]: nothing was written.
    pub fn append_atomic(
        &self,
        payloads: &[&[u8]],
        level: Level,
        window: Option<Window>,
    ) -> Result<Ticket, AppendError> {
        self.handle.append_atomic(payloads, level, window)
    }

    /// Reserves room for a record of `len` bytes, to be built in place: the bytes that you fill are the bytes that go
    /// to the disk and to the standbys. Waits as [`append`](Shard::append) does, without a limit. One that is dropped, or held for too long (a second, unless
    /// [`NodeOptions::hold_limit`](crate::NodeOptions::hold_limit) says otherwise), becomes a void record, which no
    /// reader sees. Nothing behind a held reservation can be flushed, so fill it at once.
    ///
    /// ```
    /// # use towline::{AppendError, Level, Log};
    /// # let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// # let log = Log::open(folder.path().join("log"))?;
    /// let mut reservation = log.reserve(5, Level::Local, None)?;
    /// reservation.fill().ok_or(AppendError::Voided)?.copy_from_slice(b"hello");
    /// reservation.commit()?.wait()?;
    /// # log.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AppendError`]: nothing was written.
    pub fn reserve(
        &self,
        len: usize,
        level: Level,
        window: Option<Window>,
    ) -> Result<Reservation, AppendError> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.handle.reserve(len, level, window) {
                Err(error) if error.is_transient() => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                other => return other,
            }
        }
    }

    /// As [`reserve`](Shard::reserve), but answers [`AppendError::Full`] or [`AppendError::Unavailable`] instead of waiting.
    ///
    /// # Errors
    /// [`AppendError`]: nothing was written.
    pub fn try_reserve(
        &self,
        len: usize,
        level: Level,
        window: Option<Window>,
    ) -> Result<Reservation, AppendError> {
        self.handle.reserve(len, level, window)
    }

    /// A ticket for a place in the log instead of a record of its own: it ends when everything up to `lsn` is safe at
    /// `level`.
    ///
    /// ```
    /// # use towline::{Level, Log};
    /// # let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR"))?;
    /// # let log = Log::open(folder.path().join("log"))?;
    /// let end = log.append(b"in memory", Level::Off, None)?.wait()?.end;
    /// log.wait(end, Level::Local)?.wait()?;
    /// # log.close()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AppendError`] when no ticket could be taken.
    pub fn wait(&self, lsn: Lsn, level: Level) -> Result<Ticket, AppendError> {
        self.handle.wait(lsn, level)
    }

    /// The application needs nothing below `below` any more: segments that end there may be recycled. Standbys that
    /// still need them hold them back up to the configured limit.
    ///
    /// # Errors
    /// [`AppendError`] when the node is stopping or poisoned.
    pub fn trim(&self, below: Lsn) -> Result<(), AppendError> {
        self.handle.trim(below)
    }

    /// Changes who counts: `FIRST k (a, b)`, `ANY k (a, b)`, `*`, or an empty text for nobody. Returns the version of
    /// the rule when it is in force: when the change is safe under the old rule and the new one. Waits for that at
    /// most 10 s.
    ///
    /// # Errors
    /// [`RuleError`]: a rule that cannot be read, or not be met by the standbys configured; or one that is in the log
    /// and not in force in time, and will be when the standbys of both rules are there.
    pub fn set_rule(&self, rule: &str) -> Result<u64, RuleError> {
        self.handle.set_rule(rule)
    }

    /// Whether this node leads: takes appends. A log without a sync rule does as soon as it is open; a restarted one
    /// with a rule first asks its standbys.
    pub fn is_leading(&self) -> bool {
        self.handle.is_leading()
    }

    /// Waits until this node leads; false when `timeout` came first, or the node stopped.
    pub fn wait_leading(&self, timeout: Duration) -> bool {
        self.handle.wait_leading(timeout)
    }

    /// Acknowledged payload bytes past the safe LSN, by stage (written, flushed, applied): what would be gone if the
    /// primary's disk vanished now. `None` while the safe LSN is undefined (SEMANTICS section 3). Costs three loads.
    pub fn exposure_bytes(&self) -> [Option<u64>; 3] {
        self.handle.exposure_bytes()
    }

    /// The ends of what is batched (its write and its sends have begun) and of what is flushed here, as of the shard's
    /// last turn. Costs two loads: for a thread that times every record.
    pub fn own_lsns(&self) -> [Lsn; 2] {
        self.handle.own_lsns()
    }

    /// Up to where a standby, by its place in the configuration, has written, flushed and applied, as last reported;
    /// `None` where there can be none. Costs three loads.
    pub fn standby_lsns(&self, standby: usize) -> Option<[Lsn; 3]> {
        self.handle.standby_lsns(standby)
    }

    /// Watermarks, exposure and each standby, as they are now.
    pub fn snapshot(&self) -> Snapshot {
        self.handle.snapshot()
    }

    /// Follows the log: the records that begin at or after `from`, as they are flushed here and safe by the sync rule.
    /// `Lsn(0)` starts at the log's start; to go on where a tail has ended, give the `end` of its last record or its
    /// [`next_batch`](Tail::next_batch). A place that is not yet readable is waited for; the tail fails there when it
    /// turns out that no batch begins at it.
    ///
    /// # Errors
    /// [`TailError::Trimmed`]: the log begins later. Others when what is there cannot be read.
    pub fn tail(&self, from: Lsn) -> Result<Tail, TailError> {
        Ok(Tail::new(self.handle.tail(from, true)?))
    }

    /// As [`tail`](Shard::tail), with the records that are flushed here and not yet safe: a failover may take them
    /// back.
    ///
    /// # Errors
    /// As [`tail`](Shard::tail).
    pub fn tail_unsafe(&self, from: Lsn) -> Result<Tail, TailError> {
        Ok(Tail::new(self.handle.tail(from, false)?))
    }
}

/// How long `reserve` waits before it looks for room again: at first about as long as a flush.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("number", &self.number).finish_non_exhaustive()
    }
}

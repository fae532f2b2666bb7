//! What threads and tasks of the program use: appends, waits, reading, questions.

pub(crate) mod append;
pub(crate) mod hand_over;
pub(crate) mod room;
pub(crate) mod shared;
pub(crate) mod slots;
mod tail;
mod ticket;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use towline_core::node::{NodeStatus, PeerStatus, RoleStatus};
use towline_core::replication::GateStatus;
use towline_core::types::limits::MAX_RULE_BYTES;
use towline_core::types::{Level, Lsn, Position};
use towline_uring::ArenaReader;

pub use append::{PayloadMut, Reservation};
pub use hand_over::Promotion;
pub use tail::{Tail, TailBatch};
pub use ticket::Ticket;

use crate::clock::deadline;
use crate::error::{AppendError, RuleError, TailError};
use crate::status::ShardStatus;
use crate::storage::Segments;
use shared::{Command, Marks, Reply, ShardShared};
use ticket::thread_waker;

/// One shard, for the threads and tasks of this program. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<ShardShared>,
    segments: Segments,
    readers: Arc<Readers>,
}

/// Arena readers that tails may take; the arena has a fixed number of them.
#[derive(Default)]
pub(crate) struct Readers(std::sync::Mutex<Vec<ArenaReader>>);

impl Readers {
    pub(crate) fn new(readers: Vec<ArenaReader>) -> Readers {
        Readers(std::sync::Mutex::new(readers))
    }

    fn take(&self) -> Option<ArenaReader> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop()
    }

    pub(crate) fn give_back(&self, reader: ArenaReader) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(reader);
    }
}

impl Handle {
    pub(crate) fn new(shared: Arc<ShardShared>, segments: Segments, readers: Arc<Readers>) -> Handle {
        Handle { shared, segments, readers }
    }

    /// The shard's number.
    pub fn shard(&self) -> u16 {
        self.shared.shard
    }

    /// A ticket for a position instead of a record: it ends when everything up to `lsn` is safe at `level`.
    ///
    /// # Errors
    /// `Full` when as many tickets wait as may, `Stopping` when the node has ended.
    pub fn wait(&self, lsn: Lsn, level: Level) -> Result<Ticket, AppendError> {
        if self.shared.is_stopped() {
            return Err(AppendError::Stopping);
        }
        let Some(id) = self.shared.slots.take() else {
            return Err(AppendError::Full("as many tickets wait as may".to_owned()));
        };
        if self.shared.command_waiting(Command::Wait { ticket: id, lsn, level }) {
            Ok(Ticket::pending(id, lsn, lsn, Arc::clone(&self.shared)))
        } else {
            self.shared.slots.give_back(id);
            Err(AppendError::Stopping)
        }
    }

    /// The application needs nothing below `below` any more.
    ///
    /// # Errors
    /// `Stopping` when the node has ended.
    pub fn trim(&self, below: Lsn) -> Result<(), AppendError> {
        if self.shared.command_waiting(Command::Trim { below }) { Ok(()) } else { Err(AppendError::Stopping) }
    }

    /// Changes the sync rule, and waits until the change is in force: safe under the old rule and the new one.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn set_rule(&self, rule: &str) -> Result<u64, RuleError> {
        if rule.len() > MAX_RULE_BYTES {
            return Err(RuleError::Refused(format!("{} bytes: {MAX_RULE_BYTES} are allowed", rule.len())));
        }
        let reply = Arc::new(Reply::default());
        let command = Command::SetRule { rule: rule.to_owned(), reply: Arc::clone(&reply) };
        if !self.shared.command_waiting(command) {
            return Err(RuleError::Stopped);
        }
        match reply.wait(RULE_LIMIT) {
            Some(Ok(version)) => Ok(version),
            Some(Err(why)) => Err(RuleError::Refused(why)),
            None => Err(RuleError::Pending { seconds: RULE_LIMIT.as_secs() }),
        }
    }

    /// Acknowledged payload bytes past the safe LSN, by stage (written, flushed, applied): what would be gone if the
    /// primary's disk vanished now. `None` while the safe LSN is undefined. Costs three loads.
    pub fn exposure_bytes(&self) -> [Option<u64>; 3] {
        let marks = &self.shared.marks.exposure;
        [0, 1, 2].map(|stage| {
            Some(marks[stage].load(Ordering::Relaxed)).filter(|exposed| *exposed != shared::UNDEFINED)
        })
    }

    /// The ends of what is batched (its write and its sends have begun) and of what is flushed here, as of the shard's
    /// last turn. Costs two loads: for a thread that times every record.
    pub fn own_lsns(&self) -> [Lsn; 2] {
        let marks = &self.shared.marks;
        [Marks::lsn(&marks.end), Marks::lsn(&marks.flushed)]
    }

    /// Up to where a standby, by its place in the configuration, has written, flushed and applied, as last reported;
    /// `None` where there can be none. Costs three loads.
    pub fn standby_lsns(&self, standby: usize) -> Option<[Lsn; 3]> {
        self.shared.marks.standbys.get(standby).map(|marks| [0, 1, 2].map(|stage| Marks::lsn(&marks[stage])))
    }

    /// Watermarks, exposure and each standby, as the shard knows them at its next turn.
    pub fn snapshot(&self) -> Snapshot {
        self.status().map(|status| Snapshot::of(&status.node)).unwrap_or_default()
    }

    /// The shard's whole status; `None` when it does not answer within a second and never has.
    pub fn status(&self) -> Option<Arc<ShardStatus>> {
        let limit = if self.shared.is_stopped() { Duration::ZERO } else { STATUS_LIMIT };
        self.shared.status.ask(&self.shared.wake, limit)
    }

    /// Whether this shard leads.
    pub fn is_leading(&self) -> bool {
        self.shared.marks.leading.load(Ordering::Acquire)
    }

    /// Follows the log from `from` on: with `safe` what is flushed here and safe by the rule, else also what is only
    /// flushed. `Lsn(0)` is the log's start, whatever that is.
    ///
    /// # Errors
    /// [`TailError`].
    pub fn tail(&self, from: Lsn, safe: bool) -> Result<Tail, TailError> {
        Tail::new(self, from, safe)
    }

    /// Waits until everything up to `lsn` is applied here; false when `timeout` came first, or the node ended.
    pub fn wait_applied(&self, lsn: Lsn, timeout: Duration) -> bool {
        self.wait_mark(timeout, || Marks::lsn(&self.shared.marks.applied) >= lsn)
    }

    /// Waits until this shard leads; false when `timeout` came first, or the node ended.
    pub fn wait_leading(&self, timeout: Duration) -> bool {
        let deadline = deadline(timeout);
        loop {
            if self.is_leading() {
                return true;
            }
            self.shared.room.register(&thread_waker());
            if self.is_leading() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.shared.is_stopped() {
                return false;
            }
            std::thread::park_timeout(left.min(LOOK));
        }
    }

    pub(crate) fn wait_mark(&self, timeout: Duration, reached: impl Fn() -> bool) -> bool {
        let deadline = deadline(timeout);
        let spin = Instant::now() + SPIN;
        while Instant::now() < spin {
            if reached() {
                return true;
            }
            rustix::thread::sched_yield();
        }
        loop {
            self.shared.progress.register(&thread_waker());
            // After registering: a change from now on unparks this thread.
            if reached() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.shared.is_stopped() {
                return false;
            }
            std::thread::park_timeout(left.min(LOOK));
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("shard", &self.shared.shard).finish_non_exhaustive()
    }
}

/// One shard at one moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Whether it leads.
    pub leading: bool,
    /// Where the log starts.
    pub log_start: Lsn,
    /// The end of the last batch.
    pub end: Position,
    /// On stable storage here.
    pub flushed: Position,
    /// What the rule has made safe at the flushed stage.
    pub safe: Lsn,
    /// Applied here.
    pub applied: Lsn,
    /// Exposure, waiting tickets, the rule; `None` before the shard has answered once.
    pub gate: Option<GateStatus>,
    /// The standbys it ships to.
    pub standbys: Vec<PeerStatus>,
}

impl Snapshot {
    pub(crate) fn of(node: &NodeStatus) -> Snapshot {
        Snapshot {
            leading: matches!(node.role, RoleStatus::Primary(_)),
            log_start: node.watermarks.log_start,
            end: node.watermarks.end,
            flushed: node.watermarks.flushed,
            safe: node.watermarks.safe,
            applied: node.watermarks.applied,
            gate: Some(node.gate.clone()),
            standbys: node.standbys.clone(),
        }
    }
}

const STATUS_LIMIT: Duration = Duration::from_secs(1);
/// A change of the rule is in force when it is safe: with standbys away that may take long.
const RULE_LIMIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
const SPIN: Duration = Duration::from_micros(200);

//! What a shard and its clients share: the arena's producer side, ticket slots, two bounded queues, published
//! watermarks, and one wake-up word.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use towline_core::format::Hello;
use towline_core::node::{FreezeReason, Promoted, TicketOutcome};
use towline_core::types::limits::{MAX_STANDBYS, MAX_TICKETS};
use towline_core::types::{Level, Lsn, PeerIndex, TicketId, Window};
use towline_uring::{Appender, Wake};

use super::hand_over::Promotion;
use super::room::Room;
use super::slots::Slots;
use crate::status::ShardStatus;

/// One shard's shared part.
pub(crate) struct ShardShared {
    pub(crate) shard: u16,
    pub(crate) appender: Appender,
    pub(crate) slots: Slots,
    /// Waiting appends. A ticket is pushed before its reservation is committed, and there are as many places as
    /// slots, so that a push never fails.
    pub(crate) queue: ArrayQueue<QueuedTicket>,
    commands: ArrayQueue<Command>,
    pub(crate) wake: Wake,
    /// Producers that wait for room.
    pub(crate) room: Room,
    /// Readers that wait for the log, the safe LSN or the applied LSN to move.
    pub(crate) progress: Room,
    freeze: Mutex<FreezeReason>,
    pub(crate) marks: Marks,
    pub(crate) status: StatusCell,
    /// Threads that may spin for a ticket at a time.
    pub(crate) spinners: u32,
    pub(crate) is_standby: bool,
}

/// Watermarks and flags, published by the shard every turn in which they moved.
#[derive(Default)]
pub(crate) struct Marks {
    pub(crate) end: AtomicU64,
    pub(crate) flushed: AtomicU64,
    /// What the rule has made safe at the flushed stage, at most `flushed`.
    pub(crate) safe: AtomicU64,
    pub(crate) applied: AtomicU64,
    pub(crate) log_start: AtomicU64,
    /// Lowest end that the log was cut to, counted by `cuts`.
    pub(crate) cut_to: AtomicU64,
    pub(crate) cuts: AtomicU64,
    /// Acknowledged payload past the safe LSN per stage, or [`UNDEFINED`].
    pub(crate) exposure: [AtomicU64; 3],
    /// Written, flushed and applied of each standby as last reported, in the order of the configuration.
    pub(crate) standbys: [[AtomicU64; 3]; MAX_STANDBYS],
    pub(crate) rule_version: AtomicU64,
    pub(crate) has_rule: AtomicBool,
    pub(crate) leading: AtomicBool,
    /// Largest append that found no room since the shard last looked, in bytes.
    pub(crate) pressure: AtomicU64,
    /// A clean stop has begun: no batch will be opened any more.
    pub(crate) stopping: AtomicBool,
    pub(crate) stopped: AtomicBool,
}

/// A waiting append on its way to the shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuedTicket {
    pub(crate) id: TicketId,
    pub(crate) lsn: Lsn,
    pub(crate) end: Lsn,
    pub(crate) payload_bytes: u64,
    pub(crate) level: Level,
    pub(crate) window: Option<Window>,
    pub(crate) accepted_ns: u64,
}

/// What others ask of a shard.
pub(crate) enum Command {
    SetRule { rule: String, reply: Arc<Reply<Result<u64, String>>> },
    Promote { promotion: Promotion, reply: Arc<Reply<Result<Promoted, String>>> },
    Pause { limit: Duration, reply: Arc<Reply<Result<Lsn, String>>> },
    Resume,
    Trim { below: Lsn },
    Wait { ticket: TicketId, lsn: Lsn, level: Level },
    Cancel { ticket: TicketId, lsn: Lsn },
    Connection(Box<NewConnection>),
    Resolved { peer: PeerIndex, address: Result<std::net::SocketAddr, String> },
    Stop,
}

/// A connection whose hello has been read.
pub(crate) struct NewConnection {
    pub(crate) socket: OwnedFd,
    pub(crate) hello: Hello,
}

impl ShardShared {
    pub(crate) fn new(shard: u16, appender: Appender, wake: Wake, is_standby: bool) -> ShardShared {
        ShardShared {
            shard,
            appender,
            slots: Slots::new(MAX_TICKETS),
            queue: ArrayQueue::new(MAX_TICKETS),
            commands: ArrayQueue::new(MAX_COMMANDS),
            wake,
            room: Room::default(),
            progress: Room::default(),
            freeze: Mutex::new(FreezeReason::Unavailable("the node is starting".to_owned())),
            marks: Marks::default(),
            status: StatusCell::default(),
            spinners: available_parallelism().map_or(1, |cores| cores.get() as u32),
            is_standby,
        }
    }

    /// Queues a command and wakes the shard.
    ///
    /// # Errors
    /// The command, when the queue is full.
    pub(crate) fn command(&self, command: Command) -> Result<(), Command> {
        self.commands.push(command)?;
        self.wake.notify();
        Ok(())
    }

    /// Queues a command, waiting for a place. False when the shard has stopped.
    pub(crate) fn command_waiting(&self, mut command: Command) -> bool {
        loop {
            if self.marks.stopped.load(Ordering::Acquire) {
                return false;
            }
            match self.command(command) {
                Ok(()) => return true,
                Err(back) => command = back,
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    pub(crate) fn next_command(&self) -> Option<Command> {
        self.commands.pop()
    }

    /// Whether the shard has something from outside to look at.
    pub(crate) fn has_work(&self) -> bool {
        !self.commands.is_empty()
            || !self.queue.is_empty()
            || self.marks.pressure.load(Ordering::Relaxed) != 0
            || self.status.is_asked()
    }

    pub(crate) fn freeze_reason(&self) -> FreezeReason {
        self.freeze.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_freeze_reason(&self, why: FreezeReason) {
        *self.freeze.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// The shard has ended: whoever waits for it is told.
    pub(crate) fn end(&self, why: &str) {
        if self.marks.stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        self.set_freeze_reason(FreezeReason::Stopping);
        while let Some(ticket) = self.queue.pop() {
            self.slots.complete(ticket.id, &TicketOutcome::Indeterminate(why.to_owned()));
        }
        self.slots.end_all(why);
        self.room.changed();
        self.progress.changed();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.marks.stopped.load(Ordering::Acquire)
    }
}

impl Marks {
    pub(crate) fn lsn(mark: &AtomicU64) -> Lsn {
        Lsn(mark.load(Ordering::Acquire))
    }
}

/// One answer, for one thread that waits.
pub(crate) struct Reply<T> {
    value: Mutex<Option<T>>,
    ready: Condvar,
}

impl<T> Default for Reply<T> {
    fn default() -> Reply<T> {
        Reply { value: Mutex::new(None), ready: Condvar::new() }
    }
}

impl<T> Reply<T> {
    pub(crate) fn put(&self, value: T) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        self.ready.notify_all();
    }

    pub(crate) fn wait(&self, limit: Duration) -> Option<T> {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut value, _) = self
            .ready
            .wait_timeout_while(value, limit, |value| value.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        value.take()
    }
}

/// The shard's status, made only when somebody asks.
#[derive(Default)]
pub(crate) struct StatusCell {
    asked: AtomicU64,
    served: AtomicU64,
    latest: Mutex<Option<(u64, Arc<ShardStatus>)>>,
    ready: Condvar,
}

impl StatusCell {
    /// Asks and waits. After `limit` the last status known is answered.
    pub(crate) fn ask(&self, wake: &Wake, limit: Duration) -> Option<Arc<ShardStatus>> {
        let wanted = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        wake.notify();
        let deadline = Instant::now() + limit;
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        while latest.as_ref().is_none_or(|(version, _)| *version < wanted) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            latest = self.ready.wait_timeout(latest, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        latest.as_ref().map(|(_, status)| Arc::clone(status))
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire) != self.served.load(Ordering::Relaxed)
    }

    /// The shard's: answers everybody who has asked up to now.
    pub(crate) fn serve(&self, make: impl FnOnce() -> ShardStatus) {
        let asked = self.asked.load(Ordering::Acquire);
        let status = Arc::new(make());
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some((asked, status));
        self.served.store(asked, Ordering::Release);
        self.ready.notify_all();
    }
}

const MAX_COMMANDS: usize = 4096;
/// An exposure where the safe LSN is undefined.
pub(crate) const UNDEFINED: u64 = u64::MAX;

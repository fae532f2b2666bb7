//! Steering a running link from another thread, and reading what it did.

use crate::config::{DOWN, Direction, MAX_DELAY, PathConfig, UP};
use rustix::fd::OwnedFd;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Changes a running link. Cheap to clone. A call returns when the link's thread has taken the change over: no byte is
/// handled by the old settings after that.
///
/// Calls on a link that has been dropped do nothing.
#[derive(Clone)]
pub struct LinkControl {
    pub(crate) shared: Arc<Shared>,
}

impl LinkControl {
    /// One-way delay for bytes read from now on; at most one minute, longer is cut to that. Bytes stay in order:
    /// after a change to a shorter delay the first ones still wait for those before them.
    pub fn set_delay(&self, direction: Direction, delay: Duration) {
        self.change(direction, |path| path.config.delay = delay.min(MAX_DELAY));
    }

    /// Rate limit in bytes per second for bytes read from now on, shared by all connections; `None` lifts it.
    pub fn set_rate(&self, direction: Direction, rate_bytes_per_s: Option<NonZeroU64>) {
        self.change(direction, |path| path.config.rate_bytes_per_s = rate_bytes_per_s);
    }

    /// Holds every delivery until [`resume`](Self::resume) or [`heal`](Self::heal). The link still reads until its
    /// buffer is full; then the sender sees a full socket.
    pub fn stall(&self, direction: Direction) {
        self.change(direction, |path| path.stall = Stall::UntilTold);
    }

    /// Holds every delivery for `duration`.
    pub fn stall_for(&self, direction: Direction, duration: Duration) {
        let stall = match Instant::now().checked_add(duration) {
            Some(end) => Stall::Until(end),
            None => Stall::UntilTold,
        };
        self.change(direction, |path| path.stall = stall);
    }

    /// Ends a stall: what fell due meanwhile leaves at once, in order.
    pub fn resume(&self, direction: Direction) {
        self.change(direction, |path| path.stall = Stall::No);
    }

    /// Cuts the link as a firewall that drops packets does: nothing passes in this direction, no close and no reset
    /// either, and new connections get no answer. What was sent waits and arrives after [`heal`](Self::heal), as TCP
    /// would send it again.
    pub fn cut(&self, direction: Direction) {
        self.change(direction, |path| path.cut = true);
    }

    /// Resets every connection, losing what was on its way, and resets new ones until [`heal`](Self::heal).
    pub fn sever(&self) {
        self.lock().severed = true;
        self.drop_connections();
    }

    /// Resets every connection there is now, losing what was on its way; new ones are served.
    pub fn drop_connections(&self) {
        self.lock().resets += 1;
        self.shared.changed();
    }

    /// Ends every stall and cut. Delay and rate stay.
    pub fn heal(&self) {
        {
            let mut settings = self.lock();
            settings.severed = false;
            for path in &mut settings.paths {
                path.stall = Stall::No;
                path.cut = false;
            }
        }
        self.shared.changed();
    }

    /// Delay and rate in force, up and down.
    pub fn paths(&self) -> (PathConfig, PathConfig) {
        let settings = self.lock();
        (settings.paths[UP].config, settings.paths[DOWN].config)
    }

    /// What the link did so far.
    pub fn stats(&self) -> LinkStats {
        let path = |counters: &PathCounters| PathStats {
            bytes: counters.bytes.load(Relaxed),
            held_bytes: counters.held_bytes.load(Relaxed),
            deliveries: counters.deliveries.load(Relaxed),
            late_mean_ns: counters.late_sum_ns.load(Relaxed) / counters.deliveries.load(Relaxed).max(1),
            late_max_ns: counters.late_max_ns.load(Relaxed),
        };
        let counters = &self.shared.counters;
        LinkStats {
            up: path(&counters.paths[UP]),
            down: path(&counters.paths[DOWN]),
            connections_open: counters.connections_open.load(Relaxed),
            connections_total: counters.connections_total.load(Relaxed),
            connections_failed: counters.connections_failed.load(Relaxed),
        }
    }

    fn change(&self, direction: Direction, change: impl Fn(&mut PathSettings)) {
        {
            let mut settings = self.lock();
            for &path in direction.paths() {
                change(&mut settings.paths[path]);
            }
        }
        self.shared.changed();
    }

    fn lock(&self) -> MutexGuard<'_, Settings> {
        self.shared.lock()
    }
}

/// What a link did since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Towards the target.
    pub up: PathStats,
    /// Back from the target.
    pub down: PathStats,
    /// Connections forwarded now.
    pub connections_open: u64,
    /// Connections accepted.
    pub connections_total: u64,
    /// Connections whose target could not be reached.
    pub connections_failed: u64,
}

/// What one direction did, over all its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathStats {
    /// Bytes delivered.
    pub bytes: u64,
    /// Bytes on their way now.
    pub held_bytes: u64,
    /// Deliveries that did not wait for a full socket, a stall or a cut.
    pub deliveries: u64,
    /// How much later than due those left, in the mean: the emulator's own error.
    pub late_mean_ns: u64,
    /// How much later than due the worst of them left.
    pub late_max_ns: u64,
}

/// What the handles and the thread share.
pub(crate) struct Shared {
    settings: Mutex<Settings>,
    pub(crate) version: AtomicU64,
    /// The version that the link's thread works by; `u64::MAX` once it has ended.
    pub(crate) applied: AtomicU64,
    pub(crate) stop: AtomicBool,
    pub(crate) wake: OwnedFd,
    pub(crate) counters: Counters,
}

impl Shared {
    pub(crate) fn new(up: PathConfig, down: PathConfig, wake: OwnedFd) -> Self {
        let path = |config| PathSettings { config, stall: Stall::No, cut: false };
        let settings = Settings { paths: [path(up), path(down)], resets: 0, severed: false };
        Self {
            settings: Mutex::new(settings),
            version: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            wake,
            counters: Counters::default(),
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        self.lock().clone()
    }

    /// Tells the link's thread, and waits until it has heard: it never sleeps longer than one poll.
    pub(crate) fn changed(&self) {
        let version = self.version.fetch_add(1, SeqCst) + 1;
        // The only failure is a counter at its maximum, and then the thread is already being woken.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        while self.applied.load(SeqCst) < version {
            std::thread::yield_now();
        }
    }

    // A panic while the lock was held leaves plain values behind, all of them valid.
    fn lock(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) paths: [PathSettings; 2],
    /// Counts the orders to reset every connection.
    pub(crate) resets: u64,
    pub(crate) severed: bool,
}

#[derive(Clone)]
pub(crate) struct PathSettings {
    pub(crate) config: PathConfig,
    pub(crate) stall: Stall,
    pub(crate) cut: bool,
}

#[derive(Clone, Copy)]
pub(crate) enum Stall {
    No,
    Until(Instant),
    UntilTold,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) paths: [PathCounters; 2],
    pub(crate) connections_open: AtomicU64,
    pub(crate) connections_total: AtomicU64,
    pub(crate) connections_failed: AtomicU64,
}

#[derive(Default)]
pub(crate) struct PathCounters {
    pub(crate) bytes: AtomicU64,
    pub(crate) held_bytes: AtomicU64,
    pub(crate) deliveries: AtomicU64,
    pub(crate) late_sum_ns: AtomicU64,
    pub(crate) late_max_ns: AtomicU64,
}

impl PathCounters {
    pub(crate) fn count_delivery(&self, late_ns: u64) {
        self.deliveries.fetch_add(1, Relaxed);
        self.late_sum_ns.fetch_add(late_ns, Relaxed);
        self.late_max_ns.fetch_max(late_ns, Relaxed);
    }
}

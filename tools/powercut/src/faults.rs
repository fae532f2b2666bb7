//! Troubles other than a cut: errors, short writes, a full disk, a slow one.

use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// When something goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// Not at all.
    #[default]
    Never,
    /// With the next operation, and then no more.
    Once,
    /// With every operation, until it is taken back.
    Always,
}

/// The troubles of a mount. None by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// A read answers EIO.
    pub eio_read: Trouble,
    /// A write, truncation or allocation answers EIO, and changes nothing.
    pub eio_write: Trouble,
    /// A flush answers EIO: fsync, fdatasync, a directory's fsync, the flush of an O_DSYNC write. As on Linux since
    /// 4.13, what it was to make durable stays readable and never becomes durable: a flush that is tried again
    /// succeeds and changes nothing. (A directory's changes stay pending.)
    pub eio_fsync: Trouble,
    /// A write of two sectors or more writes only the first half. A buffered write returns so many bytes; of a direct
    /// one the kernel makes EIO, with the half written (Linux 6.18, because direct writes are asynchronous).
    pub short_write: Trouble,
    /// The sum of all file sizes that the disk has room for, in bytes; more answers ENOSPC. `None`: no limit.
    pub space_bytes: Option<u64>,
    /// Added to every read, in microseconds.
    pub delay_read_us: u64,
    /// Added to every write, in microseconds: one half before its bytes arrive (a flush meanwhile does not cover them),
    /// one half after.
    pub delay_write_us: u64,
    /// Added to every flush, that of an O_DSYNC write included, in microseconds. What is being flushed is not durable
    /// yet: a cut during the delay may tear it.
    pub delay_fsync_us: u64,
}

/// Which troubles to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultChange {
    /// First take all troubles back.
    pub clear: bool,
    /// See [`Faults::eio_read`].
    pub eio_read: Option<Trouble>,
    /// See [`Faults::eio_write`].
    pub eio_write: Option<Trouble>,
    /// See [`Faults::eio_fsync`].
    pub eio_fsync: Option<Trouble>,
    /// See [`Faults::short_write`].
    pub short_write: Option<Trouble>,
    /// See [`Faults::space_bytes`]; `Some(None)` takes the limit back.
    pub space_bytes: Option<Option<u64>>,
    /// See [`Faults::delay_read_us`].
    pub delay_read_us: Option<u64>,
    /// See [`Faults::delay_write_us`].
    pub delay_write_us: Option<u64>,
    /// See [`Faults::delay_fsync_us`].
    pub delay_fsync_us: Option<u64>,
}

impl Trouble {
    /// Whether it strikes now.
    pub(crate) fn strikes(&mut self) -> bool {
        let now = *self != Self::Never;
        if *self == Self::Once {
            *self = Self::Never;
        }
        now
    }

    pub(crate) fn check(&mut self) -> Result<(), Errno> {
        if self.strikes() { Err(Errno::IO) } else { Ok(()) }
    }
}

impl Faults {
    /// Makes a change.
    pub fn apply(&mut self, change: &FaultChange) {
        if change.clear {
            *self = Self::default();
        }
        let Self {
            eio_read,
            eio_write,
            eio_fsync,
            short_write,
            space_bytes,
            delay_read_us,
            delay_write_us,
            delay_fsync_us,
        } = self;
        set(eio_read, change.eio_read);
        set(eio_write, change.eio_write);
        set(eio_fsync, change.eio_fsync);
        set(short_write, change.short_write);
        set(space_bytes, change.space_bytes);
        set(delay_read_us, change.delay_read_us);
        set(delay_write_us, change.delay_write_us);
        set(delay_fsync_us, change.delay_fsync_us);
    }

    pub(crate) fn delay(&self, of: Delayed) -> Duration {
        Duration::from_micros(match of {
            Delayed::Read => self.delay_read_us,
            Delayed::Write => self.delay_write_us,
            Delayed::Fsync => self.delay_fsync_us,
        })
    }
}

/// What is slow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Delayed {
    Read,
    Write,
    Fsync,
}

fn set<T>(value: &mut T, to: Option<T>) {
    if let Some(to) = to {
        *value = to;
    }
}

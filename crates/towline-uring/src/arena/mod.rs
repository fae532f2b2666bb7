//! The arena: a power-of-two ring of memory in which every byte of the log is written once.
//!
//! Producers reserve spans with one compare-and-swap on a cursor and fill them without a lock; the
//! shard thread closes batches, hands their bytes to disk and network, and releases them. A position
//! is the LSN itself; its address is `position & (size - 1)`.

mod append;
mod hold;
mod map;
mod owner;
mod reader;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};

pub use append::{Appender, ReserveError, Reserved};
pub use hold::{FillGuard, Held, MAX_HELD, Voided};
pub use owner::{ArenaOwner, BatchExtent};
pub use reader::{ArenaReader, Gone, MAX_READERS};

use hold::HoldTable;
use map::MirrorMap;
use reader::ReaderTable;

/// How an arena is laid out.
#[derive(Clone, Debug)]
pub struct ArenaConfig {
    /// Size in bytes: a power of two, from 64 KiB to 1 GiB.
    pub size: usize,
    /// Where the memory comes from.
    pub backing: Backing,
    /// Batches start on multiples of this many bytes (a power of two).
    pub block: u64,
    /// Bytes at the start of a batch that belong to the owner (the batch header), a multiple of 8.
    pub header_len: u64,
    /// Gives the eight bytes that open a void record of `len` bytes; the rest of a void is zero.
    pub void_header: fn(len: usize) -> [u8; 8],
    /// The first position; floor of the arena until something is released.
    pub start: u64,
}

/// Where the memory of an arena comes from.
#[derive(Clone, Debug)]
pub enum Backing {
    /// Memory of this process, gone with it.
    Anonymous,
    /// A file (in `/dev/shm`), created when absent; an existing one must have the exact size and keeps
    /// its contents. The file outlives the process, so that bytes received into it survive a SIGKILL.
    File(PathBuf),
}

/// Why an arena could not be made, or why the owner's request was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The configuration is not usable.
    #[error("arena: {0}")]
    Config(&'static str),
    /// The backing file exists with another size.
    #[error("arena file {path} has {found} bytes where {expected} were expected; remove it to start afresh")]
    FileSize {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// The configured size in bytes.
        expected: u64,
    },
    /// Another owner, here or in another process, has the backing file.
    #[error("arena file {path} is in use")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The kernel refused memory or file.
    #[error("arena: {what}: {source}")]
    Io {
        /// The step that failed.
        what: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// A batch is already open.
    #[error("arena: a batch is already open")]
    AlreadyOpen,
    /// No batch is open.
    #[error("arena: no batch is open")]
    NotOpen,
    /// The batch closed before has reservations that are not committed yet.
    #[error("arena: the closed batch is not sealed yet")]
    Unsealed,
    /// The arena is frozen; thaw it first.
    #[error("arena: frozen")]
    Frozen,
    /// The range does not fit between floor and floor + size; release something first.
    #[error("arena: no room at that position")]
    NoRoom,
    /// Operations in flight, producers or a reader still use the range.
    #[error("arena: the range is in use")]
    Busy,
}

/// Positions stay below this (64 PiB): the bits above number the rewinds of the cursor.
pub const MAX_POSITION: u64 = 1 << GENERATION_SHIFT;

/// What owner, producers and readers share.
struct Shared {
    map: MirrorMap,
    block: u64,
    header_len: u64,
    void_header: fn(usize) -> [u8; 8],
    /// Next free position, epoch and closed bit of the open batch: see [`Cursor`].
    cursor: Line<AtomicU64>,
    /// Reservations end at or below this; never above the real floor + size.
    limit: Line<AtomicU64>,
    /// Bytes committed per batch epoch, counted from the batch's first record.
    committed: [Line<AtomicU64>; EPOCHS],
    frozen: AtomicBool,
    /// Readers may begin copies in `[readable_from, readable_to)`.
    readable_from: Line<AtomicU64>,
    readable_to: AtomicU64,
    readers: ReaderTable,
    holds: HoldTable,
}

/// The cursor word: position (a multiple of 8) with epoch and closed bit in its low bits, and a
/// generation above [`MAX_POSITION`], so that a producer that slept through a rewind cannot mistake
/// the reused position for the one it read.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Cursor(u64);

impl Cursor {
    fn open(generation: u64, position: u64, epoch: usize) -> Self {
        Self((generation << GENERATION_SHIFT) | position | epoch as u64)
    }

    fn position(self) -> u64 {
        self.0 & (MAX_POSITION - 1) & !LOW_BITS
    }

    fn epoch(self) -> usize {
        (self.0 & EPOCH_MASK) as usize
    }

    fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }
}

/// A cache line of its own, so that producers' and owner's counters do not share one.
#[repr(align(128))]
struct Line<T>(T);

impl<T> std::ops::Deref for Line<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

const EPOCHS: usize = 4;
const EPOCH_MASK: u64 = 0b011;
const CLOSED: u64 = 0b100;
const LOW_BITS: u64 = 0b111;
const GENERATION_SHIFT: u32 = 56;
const MIN_SIZE: usize = 64 * 1024;
/// The kernel moves at most 2 GiB in one operation.
const MAX_SIZE: usize = 1 << 30;

//! Ring, registered arena and in-flight operations: the only crate of Towline with unsafe code.
//!
//! It moves bytes between an arena, files and sockets through one raw io_uring, and knows nothing of
//! records, terms or standbys: a position is a plain `u64`, the LSN of the log above. It never retries
//! a failed write, never allocates for a write or a send, and never lets safe code touch memory that the
//! kernel may still write. Start at [`Ring`]; it owns the [`ArenaOwner`] and hands out completions.
//!
//! # Who owns the memory, until when
//!
//! | memory | owner | until |
//! | --- | --- | --- |
//! | a reserved span of the open batch | the [`Reserved`] or [`Held`] that names it, alone | it is committed, dropped (then it becomes a void) or, for an idle hold, voided by the shard |
//! | sealed or received spans of the arena | the [`ArenaOwner`] inside the [`Ring`] | [`ArenaOwner::release`] passed them |
//! | a span named by an operation | the kernel: it may be read by others if the operation only reads it, by nobody if the operation fills it | the **last** completion of that operation, the notification of a zero-copy send included |
//! | a [`PoolBuf`] given to an operation | the ring: it is moved in | the completion that hands it back |
//! | a span under [`ArenaReader::copy_out`] | shared with the owner, who must not release it | the copy ended (one memcpy) |
//! | the mapping itself | an `Arc` in the ring, the appenders and the readers | the last of them is gone; a ring waits for its operations first, and leaks the memory rather than unmap it under the kernel |
//!
//! The arena is mapped twice, back to back, so that a span which wraps around its end is contiguous.
//! Two addresses then name one byte; every rule above is kept on positions, not on addresses, and
//! positions that lie a whole arena apart are never live at the same time.

#[macro_use]
mod bugs;

mod arena;
mod buf;
mod fd;
mod file;
pub mod floor;
mod lock;
mod ops;
mod ops_owned;
pub mod primitive;
mod provided;
mod ring;
mod table;
mod wake;

pub use arena::{
    Appender, ArenaConfig, ArenaError, ArenaOwner, ArenaReader, Backing, BatchExtent, FillGuard, Gone, Held,
    MAX_HELD, MAX_POSITION, MAX_READERS, ReserveError, Reserved, Voided,
};
pub use buf::{AlignedBuf, BufPool, PoolBuf};
pub use fd::{RingFd, tcp_socket};
pub use file::{Alignment, DataFile, FileError, FileMode, fsync_dir, rename_durable};
pub use lock::{DirLock, LockError};
pub use ops::{Completion, WritePrimitive};
pub use ring::{Ring, RingConfig, RingError, RingStats, Wait};
pub use rustix::io::Errno;
#[cfg(feature = "glommio")]
pub use wake::glommio_eventfd;
pub use wake::{EventFd, Wake};

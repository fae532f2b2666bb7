//! One piece of memory mapped twice, back to back.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, MemfdFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::{ArenaError, Backing, MAX_SIZE, MIN_SIZE};

/// `2 * size` bytes of addresses over `size` bytes of memory.
pub(super) struct MirrorMap {
    base: NonNull<u8>,
    size: usize,
    /// The backing file, locked: two owners of one memory would break every rule.
    _file: Option<File>,
}

// SAFETY: the mapping belongs to this value alone and lives until it is dropped; who may touch which
// bytes is decided by the arena's owner, reservations and readers, not by the thread that maps them.
unsafe impl Send for MirrorMap {}
// SAFETY: as above; the methods only compute addresses.
unsafe impl Sync for MirrorMap {}

impl MirrorMap {
    pub(super) fn new(size: usize, backing: &Backing) -> Result<Self, ArenaError> {
        let page = rustix::param::page_size();
        if !(MIN_SIZE..=MAX_SIZE).contains(&size) || !size.is_power_of_two() || !size.is_multiple_of(page) {
            return Err(ArenaError::Config("size must be a power of two from 64 KiB to 1 GiB"));
        }
        match backing {
            Backing::Anonymous => {
                let fd = rustix::fs::memfd_create("towline-arena", MemfdFlags::CLOEXEC)
                    .map_err(|e| io("memfd_create", e))?;
                rustix::fs::ftruncate(&fd, size as u64).map_err(|e| io("size the memory", e))?;
                Self::map(fd.as_fd(), size)
            }
            Backing::File(path) => {
                let file = open_sized(path, size)?;
                let mut map = Self::map(file.as_fd(), size)?;
                map._file = Some(file);
                Ok(map)
            }
        }
    }

    fn map(fd: BorrowedFd<'_>, size: usize) -> Result<Self, ArenaError> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nobody's memory.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), 2 * size, ProtFlags::empty(), MapFlags::PRIVATE)
        }
        .map_err(|e| io("reserve addresses", e))?;
        let Some(base) = NonNull::new(reserved.cast::<u8>()) else {
            return Err(ArenaError::Config("the kernel mapped address zero"));
        };
        // From here on the drop unmaps all of it, whatever was mapped over it.
        let map = Self { base, size, _file: None };
        for half in 0..2 {
            // SAFETY: `base .. base + 2 * size` was reserved above and belongs to `map` alone, so that
            // MAP_FIXED replaces only our own placeholder.
            unsafe {
                rustix::mm::mmap(
                    base.as_ptr().add(half * size).cast(),
                    size,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::SHARED | MapFlags::FIXED,
                    fd,
                    0,
                )
            }
            .map_err(|e| io("map the memory", e))?;
        }
        // Huge pages are a gift, not a need: shared memory grants them only where the system says so.
        // SAFETY: advice on our own mapping; it changes no contents.
        let _ = unsafe { rustix::mm::madvise(base.as_ptr().cast(), 2 * size, Advice::LinuxHugepage) };
        Ok(map)
    }

    pub(super) fn size(&self) -> u64 {
        self.size as u64
    }

    /// Address of `position`; valid for `size` bytes from there.
    pub(super) fn ptr(&self, position: u64) -> *mut u8 {
        let offset = (position & (self.size as u64 - 1)) as usize;
        // SAFETY: `offset < size`, inside the mapping of `2 * size` bytes.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for MirrorMap {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; the last `Arc` over it is gone, and the ring holds one until its
        // last operation has completed, so neither user space nor the kernel uses it any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), 2 * self.size) };
    }
}

/// Opens or creates the backing file. Its blocks are allocated now: a full `/dev/shm` must be an error
/// here, not a SIGBUS at the first touch.
fn open_sized(path: &Path, size: usize) -> Result<File, ArenaError> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|source| ArenaError::Io { what: "open the arena file", source })?;
    let deadline = Instant::now() + LOCK_WAIT;
    // A killed predecessor may still be on its way out.
    while let Err(errno) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        match errno {
            Errno::WOULDBLOCK | Errno::INTR if Instant::now() < deadline => sleep(LOCK_RETRY),
            Errno::WOULDBLOCK | Errno::INTR => return Err(ArenaError::Locked { path: path.to_owned() }),
            errno => return Err(io("lock the arena file", errno)),
        }
    }
    let found =
        file.metadata().map_err(|source| ArenaError::Io { what: "stat the arena file", source })?.len();
    if found != 0 && found != size as u64 {
        return Err(ArenaError::FileSize { path: path.to_owned(), found, expected: size as u64 });
    }
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size as u64)
        .map_err(|e| io("allocate the arena file", e))?;
    Ok(file)
}

fn io(what: &'static str, errno: Errno) -> ArenaError {
    ArenaError::Io { what, source: errno.into() }
}

const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(10);

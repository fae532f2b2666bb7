//! One piece of memory mapped twice, back to back.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{FlockOperation, MemfdFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::{ArenaError, Backing, MAX_SIZE, MIN_SIZE};

/// `2 * size` bytes of addresses over `size` bytes of memory.
pub(super) struct MirrorMap {
    /// Owns the addresses: its drop unmaps them, whatever is mapped over them by then. The last `Arc` over this value is
    /// gone before, and the ring holds one until its last operation has completed.
    addresses: MmapRaw,
    size: usize,
    /// The backing file, locked: two owners of one memory would break every rule.
    _file: Option<File>,
}

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
        // Addresses only: nothing is ever touched there, and no swap is set aside for it.
        let reserved = MmapOptions::new().len(2 * size).no_reserve_swap().map_anon();
        let addresses =
            MmapRaw::from(reserved.map_err(|source| ArenaError::Io { what: "reserve addresses", source })?);
        for half in 0..2 {
            // SAFETY: `2 * size` addresses were reserved above and belong to `addresses` alone, so that MAP_FIXED
            // replaces only our own placeholder.
            unsafe {
                rustix::mm::mmap(
                    addresses.as_mut_ptr().add(half * size).cast(),
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
        let _ = addresses.advise(Advice::HugePage);
        Ok(Self { addresses, size, _file: None })
    }

    pub(super) fn size(&self) -> u64 {
        self.size as u64
    }

    /// Address of `position`; valid for `size` bytes from there.
    pub(super) fn ptr(&self, position: u64) -> *mut u8 {
        let offset = (position & (self.size as u64 - 1)) as usize;
        // SAFETY: `offset < size`, inside the mapping of `2 * size` bytes.
        unsafe { self.addresses.as_mut_ptr().add(offset) }
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

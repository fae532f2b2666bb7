//! What the kernel's threads and the control share, and the requests that take more than one step of the disk.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use fuser::{FileHandle, Request, TimeOrNow};
use rustix::fs::{OFlags, StatVfs, statvfs};
use rustix::io::Errno;

use crate::disk::{Attributes, Disk, Ino, KIND, KIND_SYMLINK, Make, Name, View};
use crate::faults::Delayed;

/// What the kernel's threads and the control share.
#[derive(Debug)]
pub(crate) struct Shared {
    disk: Mutex<Disk>,
    directories: Mutex<Directories>,
    /// Flushes also flush the directory below.
    flush_backing: bool,
    /// Where orders are taken; the target of the hidden link at the root.
    control: OsString,
}

/// Open directories: each lists what was there when its listing began.
#[derive(Debug, Default)]
struct Directories {
    open: HashMap<u64, Listing>,
    next: u64,
}

#[derive(Debug)]
struct Listing {
    epoch: u64,
    names: Arc<Vec<Name>>,
}

impl Shared {
    pub(crate) fn new(disk: Disk, flush_backing: bool, control: OsString) -> Self {
        Self { disk: Mutex::new(disk), directories: Mutex::default(), flush_backing, control }
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directories(&self) -> MutexGuard<'_, Directories> {
        self.directories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pause(&self, of: Delayed) {
        self.pause_part(of, 1);
    }

    fn pause_half(&self, of: Delayed) {
        self.pause_part(of, 2);
    }

    fn pause_part(&self, of: Delayed, parts: u32) {
        let delay = self.disk().faults.delay(of) / parts;
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
    }

    pub(crate) fn view(&self, ino: Ino) -> Result<View, Errno> {
        if ino == CONTROL { Ok(self.control_view()) } else { self.disk().stat(ino) }
    }

    pub(crate) fn read_link(&self, ino: Ino) -> Result<OsString, Errno> {
        if ino == CONTROL { Ok(self.control.clone()) } else { self.disk().read_link(ino) }
    }

    pub(crate) fn control_view(&self) -> View {
        let attributes = Attributes::new(KIND_SYMLINK | 0o777, 0, 0, 0);
        View { ino: CONTROL, attributes, size: self.control.len() as u64, links: 1 }
    }

    /// A write is slow on its way into memory, where a flush misses it, and again once it lies there, where a cut may
    /// tear it. Durable it is only after.
    pub(crate) fn write(&self, ino: Ino, at: u64, data: &[u8], flags: OFlags) -> Result<u32, Errno> {
        let epoch = self.disk().epoch();
        self.pause_half(Delayed::Write);
        let wrote = {
            let mut disk = self.disk();
            disk.still(epoch)?;
            disk.write(ino, at, data, flags.contains(OFlags::DIRECT))?
        };
        self.pause_half(Delayed::Write);
        if flags.contains(DSYNC) {
            self.pause(Delayed::Fsync);
            let file = self.disk().flush_range(ino, wrote.range, epoch)?;
            if self.flush_backing {
                file.sync_data().map_err(errno)?;
            }
        }
        // Whoever loses the power before the answer gets none.
        self.disk().still(epoch)?;
        Ok(wrote.len as u32)
    }

    pub(crate) fn read(&self, ino: Ino, at: u64, len: usize, flags: OFlags) -> Result<Vec<u8>, Errno> {
        self.pause(Delayed::Read);
        self.disk().read(ino, at, len, flags.contains(OFlags::DIRECT))
    }

    pub(crate) fn fsync(&self, ino: Ino) -> Result<(), Errno> {
        let epoch = self.disk().epoch();
        self.pause(Delayed::Fsync);
        let file = self.disk().fsync(ino, epoch)?;
        if self.flush_backing {
            file.sync_data().map_err(errno)?;
        }
        Ok(())
    }

    pub(crate) fn fsync_directory(&self, ino: Ino, handle: FileHandle) -> Result<(), Errno> {
        let epoch = self.directories().open.get(&handle.0).map(|listing| listing.epoch).ok_or(Errno::IO)?;
        self.pause(Delayed::Fsync);
        let below = self.disk().fsync_directory(ino, epoch)?;
        if self.flush_backing {
            std::fs::File::open(below).and_then(|dir| dir.sync_all()).map_err(errno)?;
        }
        Ok(())
    }

    pub(crate) fn open_directory(&self, ino: Ino) -> Result<FileHandle, Errno> {
        let (epoch, names) = {
            let mut disk = self.disk();
            let names = disk.list(ino)?;
            disk.open_inode(ino)?;
            (disk.epoch(), Arc::new(names))
        };
        let mut directories = self.directories();
        directories.next += 1;
        let handle = directories.next;
        directories.open.insert(handle, Listing { epoch, names });
        Ok(FileHandle(handle))
    }

    pub(crate) fn close_directory(&self, ino: Ino, handle: FileHandle) -> Result<(), Errno> {
        self.directories().open.remove(&handle.0);
        self.disk().release(ino)
    }

    pub(crate) fn list(&self, ino: Ino, handle: FileHandle, from: u64) -> Result<Arc<Vec<Name>>, Errno> {
        let mut directories = self.directories();
        let listing = directories.open.get_mut(&handle.0).ok_or(Errno::IO)?;
        let disk = self.disk();
        disk.still(listing.epoch)?;
        if from == 0 {
            // Opened or rewound: a new listing.
            listing.names = Arc::new(disk.list(ino)?);
        }
        Ok(listing.names.clone())
    }

    #[expect(clippy::too_many_arguments, reason = "what SETATTR carries")]
    pub(crate) fn set_attributes(
        &self,
        ino: Ino,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
    ) -> Result<View, Errno> {
        let mut disk = self.disk();
        if let Some(size) = size {
            disk.set_size(ino, size)?;
        }
        if mode.is_some() || uid.is_some() || gid.is_some() || atime.is_some() || mtime.is_some() {
            disk.set_attributes(ino, |attributes| {
                attributes.mode = mode.map_or(attributes.mode, |mode| attributes.mode & KIND | mode & !KIND);
                attributes.uid = uid.unwrap_or(attributes.uid);
                attributes.gid = gid.unwrap_or(attributes.gid);
                attributes.atime = atime.map_or(attributes.atime, time);
                attributes.mtime = mtime.map_or(attributes.mtime, time);
            })?;
        }
        disk.stat(ino)
    }

    pub(crate) fn make(
        &self,
        request: &Request,
        dir: Ino,
        name: &OsStr,
        mode: u32,
        what: Make,
    ) -> Result<View, Errno> {
        let device = if let Make::Special(device) = what { device } else { 0 };
        let attributes = Attributes::new(mode, request.uid(), request.gid(), device);
        self.disk().make(dir, name, what, attributes)
    }

    pub(crate) fn statfs(&self) -> Result<StatVfs, Errno> {
        let disk = self.disk();
        let mut stat = statvfs(disk.backing())?;
        if let Some((all, free)) = disk.space() {
            stat.f_blocks = all / stat.f_frsize;
            stat.f_bfree = free / stat.f_frsize;
            stat.f_bavail = stat.f_bfree;
        }
        Ok(stat)
    }
}

fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// O_SYNC has this bit too. (The constant of this name in rustix is O_SYNC.)
const DSYNC: OFlags = OFlags::from_bits_retain(libc::O_DSYNC as u32);
/// The hidden link at the root.
const CONTROL: Ino = 2;

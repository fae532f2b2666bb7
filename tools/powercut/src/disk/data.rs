//! Operations on files' bytes and attributes.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::content::Content;
use super::inode::{Attributes, View};
use super::pages::SECTOR;
use super::{Disk, Ino, ROOT, errno};

/// A write that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrote {
    /// Less than was asked for where writes are short.
    pub(crate) len: usize,
    /// Where it lies.
    pub(crate) range: Range<u64>,
}

impl Disk {
    /// What a stat shows; the root's also while the power is off, so that orders find their way.
    pub(crate) fn stat(&self, ino: Ino) -> Result<View, Errno> {
        if ino != ROOT {
            self.alive()?;
        }
        Ok(self.inode(ino)?.view(ino))
    }

    /// Counts an open file or directory, which lives until its [`release`](Self::release).
    pub(crate) fn open_inode(&mut self, ino: Ino) -> Result<(), Errno> {
        self.alive()?;
        self.inode_mut(ino)?.opens += 1;
        Ok(())
    }

    pub(crate) fn release(&mut self, ino: Ino) -> Result<(), Errno> {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.opens = inode.opens.saturating_sub(1);
            if inode.opens == 0 {
                inode.file = None;
            }
        }
        self.maybe_remove(ino)
    }

    /// Up to `len` bytes from `at` on; fewer only at the end of the file.
    pub(crate) fn read(&mut self, ino: Ino, at: u64, len: usize, direct: bool) -> Result<Vec<u8>, Errno> {
        self.alive()?;
        self.check_alignment(direct, at, len as u64)?;
        self.counts.reads += 1;
        self.faults.eio_read.check()?;
        let file = self.file(ino)?;
        self.content(ino)?.read(&file, at, len).map_err(errno)
    }

    /// Takes a write into the part that a cut forgets.
    pub(crate) fn write(&mut self, ino: Ino, at: u64, data: &[u8], direct: bool) -> Result<Wrote, Errno> {
        self.alive()?;
        self.check_alignment(direct, at, data.len() as u64)?;
        self.counts.writes += 1;
        self.faults.eio_write.check()?;
        let mut len = data.len();
        if len >= 2 * SECTOR && self.faults.short_write.strikes() {
            len = len / 2 / SECTOR * SECTOR;
        }
        let end = at.checked_add(len as u64).filter(|end| *end <= MAX_SIZE).ok_or(Errno::FBIG)?;
        self.has_space(ino, end)?;
        self.room_for(worst_case(len as u64, PAGE_BYTES))?;
        let file = self.file(ino)?;
        self.edit(ino, |content| content.write(&file, at, &data[..len]).map_err(errno))?;
        self.inode_mut(ino)?.attributes.changed_now();
        self.counts.bytes_written += len as u64;
        Ok(Wrote { len, range: at..end })
    }

    /// Makes a file durable, but not its name.
    pub(crate) fn fsync(&mut self, ino: Ino, epoch: u64) -> Result<Arc<File>, Errno> {
        self.still(epoch)?;
        self.counts.fsyncs += 1;
        self.flush_checked(ino, 0..u64::MAX)?;
        self.flush_all(ino)?;
        self.file(ino)
    }

    /// Makes one write durable.
    pub(crate) fn flush_range(
        &mut self,
        ino: Ino,
        range: Range<u64>,
        epoch: u64,
    ) -> Result<Arc<File>, Errno> {
        self.still(epoch)?;
        self.counts.durable_writes += 1;
        self.flush_checked(ino, range.clone())?;
        let file = self.file(ino)?;
        self.edit(ino, |content| content.flush_range(&file, range).map(drop).map_err(errno))?;
        Ok(file)
    }

    /// Cuts a file, or lets it grow by zeros.
    pub(crate) fn set_size(&mut self, ino: Ino, size: u64) -> Result<(), Errno> {
        self.alive()?;
        self.faults.eio_write.check()?;
        if size > MAX_SIZE {
            return Err(Errno::FBIG);
        }
        self.has_space(ino, size)?;
        self.edit(ino, |content| {
            content.set_size(size);
            Ok(())
        })?;
        self.inode_mut(ino)?.attributes.changed_now();
        Ok(())
    }

    /// fallocate(2) with mode 0, KEEP_SIZE, PUNCH_HOLE or ZERO_RANGE.
    pub(crate) fn allocate(
        &mut self,
        ino: Ino,
        range: Range<u64>,
        mode: FallocateFlags,
    ) -> Result<(), Errno> {
        self.alive()?;
        self.faults.eio_write.check()?;
        let zero = FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !(zero | FallocateFlags::KEEP_SIZE).contains(mode) {
            return Err(Errno::OPNOTSUPP);
        }
        if range.end > MAX_SIZE {
            return Err(Errno::FBIG);
        }
        self.has_space(ino, range.end)?;
        if mode.intersects(zero) {
            let zeroed = range.start..range.end.min(self.content(ino)?.size());
            self.room_for(worst_case(zeroed.end.saturating_sub(zeroed.start), ZERO_PAGE_BYTES))?;
            let file = self.file(ino)?;
            self.edit(ino, |content| content.write_zeros(&file, zeroed).map_err(errno))?;
        }
        if !mode.contains(FallocateFlags::KEEP_SIZE) && self.content(ino)?.size() < range.end {
            self.edit(ino, |content| {
                content.set_size(range.end);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Sets mode, owner or times, durably at once.
    pub(crate) fn set_attributes(
        &mut self,
        ino: Ino,
        change: impl FnOnce(&mut Attributes),
    ) -> Result<(), Errno> {
        self.alive()?;
        let old = self.inode(ino)?.attributes;
        let mut new = old;
        change(&mut new);
        self.backing.set_attributes(&self.place(ino), &old, &new).map_err(errno)?;
        new.ctime = std::time::SystemTime::now();
        self.inode_mut(ino)?.attributes = new;
        Ok(())
    }

    /// Room on the disk, as far as a limit on it was set: all, and free.
    pub(crate) fn space(&self) -> Option<(u64, u64)> {
        self.faults.space_bytes.map(|all| (all, all.saturating_sub(self.used_bytes)))
    }

    pub(super) fn flush_all(&mut self, ino: Ino) -> Result<(), Errno> {
        let file = self.file(ino)?;
        self.edit(ino, |content| content.flush(&file).map(drop).map_err(errno))
    }

    /// The file below.
    pub(super) fn file(&mut self, ino: Ino) -> Result<Arc<File>, Errno> {
        let path = self.backing.unnamed(ino);
        let inode = self.inode_mut(ino)?;
        if let Some(file) = &inode.file {
            return Ok(file.clone());
        }
        let file = Arc::new(File::options().read(true).write(true).open(path).map_err(errno)?);
        if inode.opens > 0 {
            inode.file = Some(file.clone());
        }
        Ok(file)
    }

    fn flush_checked(&mut self, ino: Ino, range: Range<u64>) -> Result<(), Errno> {
        let failed = self.faults.eio_fsync.check();
        if failed.is_err() {
            self.edit(ino, |content| {
                content.doom(range);
                Ok(())
            })?;
        }
        failed
    }

    fn content(&self, ino: Ino) -> Result<&Content, Errno> {
        self.inode(ino)?.content.as_ref().ok_or(Errno::INVAL)
    }

    /// Changes a file's content and keeps the accounts.
    fn edit<T>(
        &mut self,
        ino: Ino,
        change: impl FnOnce(&mut Content) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let inode = self.inodes.get_mut(&ino).ok_or(Errno::IO)?;
        let content = inode.content.as_mut().ok_or(Errno::INVAL)?;
        let before = (content.memory_bytes(), content.size());
        let result = change(content);
        self.memory_bytes = self.memory_bytes - before.0 + content.memory_bytes();
        self.used_bytes = self.used_bytes - before.1 + content.size();
        result
    }

    fn check_alignment(&self, direct: bool, at: u64, len: u64) -> Result<(), Errno> {
        let aligned = at.is_multiple_of(self.alignment) && len.is_multiple_of(self.alignment);
        if direct && !aligned { Err(Errno::INVAL) } else { Ok(()) }
    }

    /// Whether the disk has space for this file to reach `end`.
    fn has_space(&self, ino: Ino, end: u64) -> Result<(), Errno> {
        let Some(limit) = self.faults.space_bytes else { return Ok(()) };
        let more = end.saturating_sub(self.content(ino)?.size());
        if more > 0 && self.used_bytes.saturating_add(more) > limit { Err(Errno::NOSPC) } else { Ok(()) }
    }
}

/// Memory that `len` bytes take at most.
fn worst_case(len: u64, page_bytes: u64) -> u64 {
    (len / 4096 + 2) * page_bytes
}

const PAGE_BYTES: u64 = 4096 + ZERO_PAGE_BYTES;
const ZERO_PAGE_BYTES: u64 = 64;
/// What offsets of Linux can name.
const MAX_SIZE: u64 = i64::MAX as u64;

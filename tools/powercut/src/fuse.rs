//! The kernel's side: each FUSE request becomes a step of the disk.
//!
//! What the kernel does and does not send was measured (Linux 6.18). A durable O_DIRECT write arrives as WRITE with
//! O_DSYNC among its flags; whether an FSYNC follows depends on the mount. So both are durability points. The
//! write-back cache stays off: with it the flag would be lost. FSYNC and FSYNCDIR must be answered: after one ENOSYS
//! the kernel would report success for ever. FUSE_ASYNC_DIO lets several direct writes be in flight.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::disk::{
    Attributes, HIDDEN, KIND, KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK, Make, ROOT, Rename, View,
};
use crate::shared::Shared;

/// What fuser calls.
#[derive(Debug)]
pub(crate) struct Adapter(pub(crate) Arc<Shared>);

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config.add_capabilities(InitFlags::FUSE_ASYNC_DIO).map_err(|_| {
            io::Error::new(io::ErrorKind::Unsupported, "this kernel has no FUSE_ASYNC_DIO (Linux 3.13)")
        })?;
        // Each thread has a buffer of this size.
        if let Err(nearest) = config.set_max_write(MAX_WRITE) {
            let _ = config.set_max_write(nearest);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent.0 == ROOT && name == HIDDEN {
            return answer_entry(Ok(self.0.control_view()), reply);
        }
        answer_entry(self.0.disk().lookup(parent.0, name), reply);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        report("forgetting a file", self.0.disk().forget(ino.0, count));
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        answer_attributes(self.0.view(ino.0), reply);
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        answer_attributes(self.0.set_attributes(ino.0, mode, uid, gid, size, atime, mtime), reply);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.0.read_link(ino.0) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(errno) => reply.error(for_fuse(errno)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let what = if mode & KIND == KIND_FILE { Make::File } else { Make::Special(device) };
        answer_entry(self.0.make(request, parent.0, name, mode, what), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let mode = mode & !KIND | KIND_DIRECTORY;
        answer_entry(self.0.make(request, parent.0, name, mode, Make::Directory), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let what = Make::Symlink(target.as_os_str());
        answer_entry(self.0.make(request, parent.0, name, KIND_SYMLINK | 0o777, what), reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.0.disk().remove(parent.0, name, false), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.0.disk().remove(parent.0, name, true), reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to_parent: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let how = match flags {
            flags if flags.is_empty() => Rename::Replace,
            RenameFlags::RENAME_NOREPLACE => Rename::Refuse,
            RenameFlags::RENAME_EXCHANGE => Rename::Exchange,
            _ => return reply.error(for_fuse(Errno::INVAL)),
        };
        answer(self.0.disk().rename((parent.0, name), (to_parent.0, to_name), how), reply);
    }

    fn link(&self, _request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(self.0.disk().link(ino.0, parent.0, name), reply);
    }

    fn open(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.0.disk().open_inode(ino.0) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(errno) => reply.error(for_fuse(errno)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let mode = mode & !KIND | KIND_FILE;
        let attributes = Attributes::new(mode, request.uid(), request.gid(), 0);
        let mut disk = self.0.disk();
        let made = disk.make(parent.0, name, Make::File, attributes);
        match made.and_then(|view| disk.open_inode(view.ino).map(|()| view)) {
            Ok(view) => {
                reply.created(&NO_TIME, &attr(&view), Generation(0), FileHandle(0), FopenFlags::empty())
            }
            Err(errno) => reply.error(for_fuse(errno)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.read(ino.0, offset, size as usize, open_flags(flags)) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(for_fuse(errno)),
        }
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut flags = open_flags(flags);
        if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
            // A dirty page of a mapping, in the name of any handle: its flags mean nothing here.
            flags = OFlags::empty();
        }
        match self.0.write(ino.0, offset, data, flags) {
            Ok(len) => reply.written(len),
            Err(errno) => reply.error(for_fuse(errno)),
        }
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        answer(self.0.disk().release(ino.0), reply);
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        answer(self.0.fsync(ino.0), reply);
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.0.open_directory(ino.0) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(errno) => reply.error(for_fuse(errno)),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.0.list(ino.0, handle, offset) {
            Ok(names) => {
                for (index, entry) in names.iter().enumerate().skip(offset as usize) {
                    if reply.add(INodeNo(entry.ino), index as u64 + 1, kind(entry.mode), &entry.name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(for_fuse(errno)),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        answer(self.0.close_directory(ino.0, handle), reply);
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        answer(self.0.fsync_directory(ino.0, handle), reply);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.0.statfs() {
            Ok(stat) => reply.statfs(
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
                stat.f_files,
                stat.f_ffree,
                stat.f_bsize as u32,
                stat.f_namemax as u32,
                stat.f_frsize as u32,
            ),
            Err(errno) => reply.error(for_fuse(errno)),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        let range = offset..offset.saturating_add(length);
        answer(self.0.disk().allocate(ino.0, range, mode), reply);
    }
}

fn answer(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(for_fuse(errno)),
    }
}

fn answer_entry(result: Result<View, Errno>, reply: ReplyEntry) {
    match result {
        Ok(view) => reply.entry(&NO_TIME, &attr(&view), Generation(0)),
        Err(errno) => reply.error(for_fuse(errno)),
    }
}

fn answer_attributes(result: Result<View, Errno>, reply: ReplyAttr) {
    match result {
        Ok(view) => reply.attr(&NO_TIME, &attr(&view)),
        Err(errno) => reply.error(for_fuse(errno)),
    }
}

fn report(what: &str, result: Result<(), Errno>) {
    if let Err(errno) = result {
        eprintln!("powercut: {what}: {errno}");
    }
}

fn attr(view: &View) -> FileAttr {
    let attributes = &view.attributes;
    FileAttr {
        ino: INodeNo(view.ino),
        size: view.size,
        blocks: view.size.div_ceil(512),
        atime: attributes.atime,
        mtime: attributes.mtime,
        ctime: attributes.ctime,
        crtime: attributes.ctime,
        kind: kind(attributes.mode),
        perm: (attributes.mode & 0o7777) as u16,
        nlink: view.links,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.device,
        blksize: 4096,
        flags: 0,
    }
}

fn kind(mode: u32) -> FileType {
    match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn open_flags(flags: OpenFlags) -> OFlags {
    OFlags::from_bits_retain(flags.0 as u32)
}

fn for_fuse(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

/// Nothing is cached by name or attribute: after a cut the kernel must ask again.
const NO_TIME: Duration = Duration::ZERO;
const MAX_WRITE: u32 = 1 << 20;
/// Direct writes that the kernel keeps in flight at once.
const MAX_BACKGROUND: u16 = 256;

//! Files, directories and the rest, apart from their names and bytes.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::SystemTime;

use super::Ino;
use super::content::Content;

/// What a stat shows beside size and links. Changes of it are durable at once: no log's safety hangs on a mode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    /// Kind and permissions.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) device: u32,
    pub(crate) atime: SystemTime,
    pub(crate) mtime: SystemTime,
    pub(crate) ctime: SystemTime,
}

impl Attributes {
    pub(crate) fn new(mode: u32, uid: u32, gid: u32, device: u32) -> Self {
        let now = SystemTime::now();
        Self { mode, uid, gid, device, atime: now, mtime: now, ctime: now }
    }

    pub(crate) fn of(metadata: &Metadata) -> Self {
        let or_epoch = |time: std::io::Result<SystemTime>| time.unwrap_or(SystemTime::UNIX_EPOCH);
        Self {
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            device: metadata.rdev() as u32,
            atime: or_epoch(metadata.accessed()),
            mtime: or_epoch(metadata.modified()),
            ctime: or_epoch(metadata.modified()),
        }
    }

    pub(crate) fn changed_now(&mut self) {
        self.mtime = SystemTime::now();
        self.ctime = self.mtime;
    }
}

/// One thing in the file system, and who still needs it.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) attributes: Attributes,
    /// Of a symbolic link.
    pub(crate) target: Option<OsString>,
    /// Of a file.
    pub(crate) content: Option<Content>,
    /// The file below, while somebody has it open or bytes of it are unflushed.
    pub(crate) file: Option<Arc<File>>,
    /// Names as seen, and durable ones.
    pub(crate) links: u32,
    pub(crate) durable_links: u32,
    /// Pending changes that name it, or a name in it.
    pub(crate) pending: u32,
    pub(crate) opens: u32,
    /// References that the kernel holds.
    pub(crate) lookups: u64,
    /// The durable name of a directory.
    pub(crate) place: Option<(Ino, OsString)>,
}

/// What a program sees of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) ino: Ino,
    pub(crate) attributes: Attributes,
    pub(crate) size: u64,
    pub(crate) links: u32,
}

impl Inode {
    pub(crate) fn new(attributes: Attributes) -> Self {
        Self {
            attributes,
            target: None,
            content: None,
            file: None,
            links: 0,
            durable_links: 0,
            pending: 0,
            opens: 0,
            lookups: 0,
            place: None,
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.content.as_ref().map_or(0, Content::size)
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.attributes.mode & KIND == KIND_DIRECTORY
    }

    pub(crate) fn view(&self, ino: Ino) -> View {
        let links = if self.is_directory() { self.links.min(1) } else { self.links };
        View { ino, attributes: self.attributes, size: self.size(), links }
    }

    /// Nothing and nobody refers to it any more.
    pub(crate) fn is_unused(&self) -> bool {
        self.links == 0
            && self.durable_links == 0
            && self.pending == 0
            && self.opens == 0
            && self.lookups == 0
    }
}

/// Kinds in a mode (inode(7)).
pub(crate) const KIND: u32 = 0o170_000;
pub(crate) const KIND_DIRECTORY: u32 = 0o040_000;
pub(crate) const KIND_FILE: u32 = 0o100_000;
pub(crate) const KIND_SYMLINK: u32 = 0o120_000;

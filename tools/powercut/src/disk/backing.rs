//! The ordinary directory below: durable content, and beside it what has no durable name.
//!
//! Names appear in it only when they are durable. Every file has a second link in a hidden folder, every directory
//! without a durable name lies there: it has a place from the moment it is made, and loses nothing when its names go.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, Timespec, Timestamps, flock, mknodat, utimensat};

use super::Ino;
use super::inode::Attributes;

/// Where durable things lie.
#[derive(Debug)]
pub(crate) struct Backing {
    root: PathBuf,
    hidden: PathBuf,
    /// Holds the lock that keeps a second mount away.
    _lock: File,
}

/// What a new thing is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Make<'a> {
    File,
    Directory,
    Symlink(&'a OsStr),
    Special(u32),
}

impl Backing {
    /// Takes over a directory; what an earlier mount left hidden is removed.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        let lock = File::open(&root)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| io::Error::new(io::ErrorKind::ResourceBusy, "it belongs to another mount"))?;
        let this = Self { hidden: root.join(HIDDEN), root, _lock: lock };
        this.forget_unnamed()?;
        Ok(this)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Removes everything without a durable name, and begins anew.
    pub(crate) fn forget_unnamed(&self) -> io::Result<()> {
        self.clear()?;
        fs::create_dir(&self.hidden)?;
        fs::set_permissions(&self.hidden, Permissions::from_mode(0o700))
    }

    /// Removes the hidden folder.
    pub(crate) fn clear(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Where a file, or a directory without a durable name, lies.
    pub(crate) fn unnamed(&self, ino: Ino) -> PathBuf {
        self.hidden.join(ino.to_string())
    }

    /// Gives a file that was found at `path` its second link.
    pub(crate) fn adopt(&self, ino: Ino, path: &Path) -> io::Result<()> {
        fs::hard_link(path, self.unnamed(ino))
    }

    /// Makes something that has no name yet.
    pub(crate) fn make(&self, ino: Ino, what: Make, attributes: &Attributes) -> io::Result<()> {
        let path = self.unnamed(ino);
        match what {
            Make::File => drop(File::options().write(true).create_new(true).open(&path)?),
            Make::Directory => fs::create_dir(&path)?,
            Make::Symlink(target) => symlink(target, &path)?,
            Make::Special(device) => {
                let kind = rustix::fs::FileType::from_raw_mode(attributes.mode);
                mknodat(CWD, &path, kind, Mode::from_raw_mode(attributes.mode & 0o7777), device.into())?;
            }
        }
        let made = fs::symlink_metadata(&path)?;
        if (made.uid(), made.gid()) != (attributes.uid, attributes.gid) {
            lchown(&path, Some(attributes.uid), Some(attributes.gid))?;
        }
        if !made.is_symlink() {
            fs::set_permissions(&path, Permissions::from_mode(attributes.mode & 0o7777))?;
        }
        Ok(())
    }

    /// Removes something that has no name any more.
    pub(crate) fn remove(&self, ino: Ino, is_directory: bool) -> io::Result<()> {
        let path = self.unnamed(ino);
        let removed = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives a file a name, in one step where the name meant something else before.
    pub(crate) fn name_file(&self, ino: Ino, path: &Path) -> io::Result<()> {
        let second = self.hidden.join("naming");
        if second.symlink_metadata().is_ok() {
            fs::remove_file(&second)?;
        }
        fs::hard_link(self.unnamed(ino), &second)?;
        // A rename of two links to one file does nothing; then the name is right already.
        fs::rename(&second, path)?;
        match fs::remove_file(&second) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes a file's name away.
    pub(crate) fn unname_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    /// Gives a directory a name.
    pub(crate) fn name_directory(&self, ino: Ino, path: &Path) -> io::Result<()> {
        fs::rename(self.unnamed(ino), path)
    }

    /// Takes a directory's name away; it goes with all it holds.
    pub(crate) fn unname_directory(&self, ino: Ino, path: &Path) -> io::Result<()> {
        fs::rename(path, self.unnamed(ino))
    }

    /// Sets mode, owner and times.
    pub(crate) fn set_attributes(&self, path: &Path, old: &Attributes, new: &Attributes) -> io::Result<()> {
        if (old.uid, old.gid) != (new.uid, new.gid) {
            lchown(path, Some(new.uid), Some(new.gid))?;
        }
        if old.mode != new.mode {
            fs::set_permissions(path, Permissions::from_mode(new.mode & 0o7777))?;
        }
        if (old.atime, old.mtime) != (new.atime, new.mtime) {
            let times =
                Timestamps { last_access: timespec(new.atime), last_modification: timespec(new.mtime) };
            utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }
}

fn timespec(time: std::time::SystemTime) -> Timespec {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timespec { tv_sec: since.as_secs() as i64, tv_nsec: since.subsec_nanos().into() }
}

/// The name that belongs to powercut, in the backing directory and at the mount's root.
pub(crate) const HIDDEN: &str = ".powercut";

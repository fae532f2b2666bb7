//! The disk that forgets: names, files and bytes, as seen and as durable, over an ordinary directory.
//!
//! It knows nothing of FUSE: programs, the kernel and threads come in through `fuse`, tests through the methods here.
//! Each method is one step; nothing happens between steps.

mod backing;
mod content;
mod data;
mod inode;
mod names;
mod pages;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::faults::Faults;
use backing::Backing;
use content::Content;
use inode::Inode;
use tree::Tree;

pub(crate) use backing::{HIDDEN, Make};
pub(crate) use inode::{Attributes, KIND, KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK, View};
pub(crate) use names::{Name, Rename};

/// Number of an inode.
pub(crate) type Ino = u64;

/// The root of a FUSE file system.
pub(crate) const ROOT: Ino = 1;

/// The disk's state. See the module.
#[derive(Debug)]
pub(crate) struct Disk {
    backing: Backing,
    limit_bytes: u64,
    alignment: u64,
    inodes: BTreeMap<Ino, Inode>,
    tree: Tree,
    next_ino: Ino,
    /// Counts the cuts: what began before one must not end after it.
    epoch: u64,
    up: bool,
    /// Of cuts that name none.
    pub(crate) seed: u64,
    pub(crate) faults: Faults,
    memory_bytes: u64,
    used_bytes: u64,
    counts: Counts,
}

/// Operations since the mount was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Writes, durable ones included.
    pub writes: u64,
    /// Writes with O_DSYNC or RWF_DSYNC.
    pub durable_writes: u64,
    /// fsync and fdatasync of files.
    pub fsyncs: u64,
    /// fsync of directories.
    pub directory_fsyncs: u64,
    /// Bytes written by programs.
    pub bytes_written: u64,
    /// Cuts.
    pub cuts: u64,
}

/// What a mount holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The power is on; `false` between a cut and the restore.
    pub up: bool,
    /// Files and directories that can be seen.
    pub files: u64,
    /// Bytes that a cut would drop, in whole sectors.
    pub unflushed_bytes: u64,
    /// Files with such bytes, or with a size that is not durable.
    pub unflushed_files: u64,
    /// Changes of names that wait for an fsync of a directory.
    pub unflushed_names: u64,
    /// Memory that all of this takes.
    pub memory_bytes: u64,
    /// Memory that it may take; past it, writes answer ENOSPC.
    pub limit_bytes: u64,
    /// Sum of the files' sizes.
    pub used_bytes: u64,
    /// Operations so far.
    pub counts: Counts,
    /// The troubles in force.
    pub faults: Faults,
}

/// How hard a cut is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cut {
    /// The probability, 0 to 1, that an unflushed sector, size or change of names had reached the disk.
    pub keep: f64,
    /// The seed of that choice; without one, the mount's own plus the number of cuts before.
    pub seed: Option<u64>,
}

impl Cut {
    /// Nothing that was not flushed is kept.
    pub const NOTHING: Cut = Cut { keep: 0.0, seed: None };
}

/// What a cut did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutReport {
    /// The seed: the same one after the same work keeps the same.
    pub seed: u64,
    /// Unflushed sectors of 512 bytes that were kept.
    pub sectors_kept: u64,
    /// Unflushed sectors that are gone.
    pub sectors_lost: u64,
    /// Unflushed changes of names that were kept.
    pub names_kept: u64,
    /// Unflushed changes of names that are gone.
    pub names_lost: u64,
}

impl Disk {
    /// Takes over a directory and all that is in it.
    pub(crate) fn open(root: &Path, limit_bytes: u64, alignment: u64) -> io::Result<Self> {
        let mut this = Self {
            backing: Backing::open(root)?,
            limit_bytes,
            alignment,
            inodes: BTreeMap::new(),
            tree: Tree::default(),
            next_ino: FIRST_INO,
            epoch: 0,
            up: true,
            seed: 1,
            faults: Faults::default(),
            memory_bytes: 0,
            used_bytes: 0,
            counts: Counts::default(),
        };
        this.scan()?;
        Ok(this)
    }

    /// Where durable content lies.
    pub(crate) fn backing(&self) -> &Path {
        self.backing.root()
    }

    /// Cuts the power: what was not flushed is gone, up to what chance had written already. Every operation answers
    /// EIO until [`restore`](Self::restore), and for ever on what was open.
    ///
    /// # Errors
    /// EALREADY when it is down already, EINVAL when what is to be kept is no share; else what the directory below
    /// answers, and then all of it is in doubt.
    pub(crate) fn cut(&mut self, cut: Cut) -> Result<CutReport, Errno> {
        if !self.up {
            return Err(Errno::ALREADY);
        }
        if !(0.0..=1.0).contains(&cut.keep) {
            return Err(Errno::INVAL);
        }
        self.up = false;
        self.epoch += 1;
        let seed = cut.seed.unwrap_or(self.seed.wrapping_add(self.counts.cuts));
        self.counts.cuts += 1;
        // By name, not `SmallRng`: a seed means the same on every machine.
        let mut coin = Xoshiro256PlusPlus::seed_from_u64(seed);
        let pending = self.tree.pending() as u64;
        let names = self.tree.chosen(|| coin.random_bool(cut.keep));
        let mut report = CutReport { seed, names_kept: names.len() as u64, ..CutReport::default() };
        report.names_lost = pending - report.names_kept;
        for number in names {
            self.settle(number)?;
        }
        let unflushed: Vec<Ino> = self.unflushed().map(|(ino, _)| ino).collect();
        for ino in unflushed {
            let file = self.file(ino)?;
            let Some(inode) = self.inodes.get(&ino) else { continue };
            let Some(content) = &inode.content else { continue };
            let sectors = if inode.durable_links > 0 {
                content.cut(&file, &mut coin, cut.keep).map_err(errno)?
            } else {
                content.all_lost()
            };
            report.sectors_kept += sectors.kept;
            report.sectors_lost += sectors.lost;
        }
        self.backing.forget_unnamed().map_err(errno)?;
        self.scan().map_err(errno)?;
        Ok(report)
    }

    /// The power comes back: what is durable can be seen.
    pub(crate) fn restore(&mut self) {
        self.up = true;
    }

    /// Makes everything durable, as a clean shutdown does, and leaves nothing of its own in the directory below.
    pub(crate) fn close(&mut self) -> Result<(), Errno> {
        if self.up {
            for number in self.tree.all_changes() {
                self.settle(number)?;
            }
            let unflushed: Vec<Ino> = self.unflushed().map(|(ino, _)| ino).collect();
            for ino in unflushed {
                self.flush_all(ino)?;
            }
        }
        self.up = false;
        self.epoch += 1;
        self.inodes.clear();
        self.backing.clear().map_err(errno)
    }

    pub(crate) fn status(&self) -> Status {
        Status {
            up: self.up,
            files: self.inodes.values().filter(|inode| inode.links > 0).count() as u64,
            unflushed_bytes: self.unflushed().map(|(_, content)| content.unflushed_bytes()).sum(),
            unflushed_files: self.unflushed().count() as u64,
            unflushed_names: self.tree.pending() as u64,
            memory_bytes: self.memory_bytes + self.names_bytes(),
            limit_bytes: self.limit_bytes,
            used_bytes: self.used_bytes,
            counts: self.counts,
            faults: self.faults,
        }
    }

    /// Counts the cuts; see [`still`](Self::still).
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// EIO when the power was cut since `epoch`.
    pub(crate) fn still(&self, epoch: u64) -> Result<(), Errno> {
        if self.epoch == epoch { self.alive() } else { Err(Errno::IO) }
    }

    pub(crate) fn alive(&self) -> Result<(), Errno> {
        if self.up { Ok(()) } else { Err(Errno::IO) }
    }

    fn unflushed(&self) -> impl Iterator<Item = (Ino, &Content)> {
        self.inodes.iter().filter_map(|(ino, inode)| {
            inode.content.as_ref().filter(|content| content.is_unflushed()).map(|content| (*ino, content))
        })
    }

    /// Room in memory for `more` bytes of what is not flushed.
    fn room_for(&self, more: u64) -> Result<(), Errno> {
        let taken = self.memory_bytes + self.names_bytes();
        if taken.saturating_add(more) > self.limit_bytes { Err(Errno::NOSPC) } else { Ok(()) }
    }

    fn names_bytes(&self) -> u64 {
        self.tree.pending() as u64 * NAME_BYTES
    }

    /// EIO for what was there before a cut: its number is never given again.
    fn inode(&self, ino: Ino) -> Result<&Inode, Errno> {
        self.inodes.get(&ino).ok_or(Errno::IO)
    }

    fn inode_mut(&mut self, ino: Ino) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&ino).ok_or(Errno::IO)
    }

    /// Forgets an inode that nothing refers to.
    fn maybe_remove(&mut self, ino: Ino) -> Result<(), Errno> {
        let Some(inode) = self.inodes.get(&ino) else { return Ok(()) };
        if ino == ROOT || !inode.is_unused() {
            return Ok(());
        }
        let is_directory = inode.is_directory();
        self.used_bytes -= inode.size();
        self.memory_bytes -= inode.content.as_ref().map_or(0, Content::memory_bytes);
        self.inodes.remove(&ino);
        self.tree.remove_directory(ino);
        self.backing.remove(ino, is_directory).map_err(errno)
    }

    /// Reads the directory below, as a mount does.
    fn scan(&mut self) -> io::Result<()> {
        self.inodes.clear();
        self.tree = Tree::default();
        (self.memory_bytes, self.used_bytes) = (0, 0);
        let root = self.backing.root().to_owned();
        let mut inode = Inode::new(Attributes::of(&fs::metadata(&root)?));
        (inode.links, inode.durable_links) = (1, 1);
        self.inodes.insert(ROOT, inode);
        self.tree.add_directory(ROOT);
        let mut linked = HashMap::new();
        let mut open = vec![(ROOT, root)];
        while let Some((dir, path)) = open.pop() {
            let mut entries = fs::read_dir(&path)?.collect::<Result<Vec<_>, _>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                if dir == ROOT && entry.file_name() == HIDDEN {
                    continue;
                }
                let ino = self.found(&entry, &mut linked)?;
                if self.tree.is_directory(ino) {
                    if let Some(inode) = self.inodes.get_mut(&ino) {
                        inode.place = Some((dir, entry.file_name()));
                    }
                    open.push((ino, entry.path()));
                }
                self.tree.found(dir, entry.file_name(), ino);
            }
        }
        Ok(())
    }

    fn found(&mut self, entry: &fs::DirEntry, linked: &mut HashMap<u64, Ino>) -> io::Result<Ino> {
        let (metadata, path) = (entry.metadata()?, entry.path());
        let known = linked.get(&metadata.ino()).copied();
        let ino = known.unwrap_or(self.next_ino);
        if known.is_none() {
            if self.inodes.len() >= MAX_FILES {
                return Err(io::Error::other(format!("more than {MAX_FILES} files")));
            }
            self.next_ino += 1;
            let mut inode = Inode::new(Attributes::of(&metadata));
            match inode.attributes.mode & KIND {
                KIND_FILE => inode.content = Some(Content::new(metadata.len())),
                KIND_SYMLINK => inode.target = Some(fs::read_link(&path)?.into_os_string()),
                _ => {}
            }
            self.used_bytes += inode.size();
            if inode.is_directory() {
                self.tree.add_directory(ino);
            } else {
                linked.insert(metadata.ino(), ino);
                self.backing.adopt(ino, &path)?;
            }
            self.inodes.insert(ino, inode);
        }
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.links += 1;
            inode.durable_links += 1;
        }
        Ok(ino)
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// What lies below [`ROOT`] and the control entry.
const FIRST_INO: Ino = 16;
/// A mount reads all names into memory.
const MAX_FILES: usize = 1_000_000;
/// Memory of one pending change of names, about.
const NAME_BYTES: u64 = 256;

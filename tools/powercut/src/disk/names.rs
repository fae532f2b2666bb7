//! Operations on names.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use rustix::io::Errno;

use super::backing::{HIDDEN, Make};
use super::content::Content;
use super::inode::{Attributes, Inode, KIND_DIRECTORY, View};
use super::tree::{Change, Edit};
use super::{Disk, Ino, NAME_BYTES, ROOT, errno};

/// What a rename does where the new name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rename {
    Replace,
    Refuse,
    Exchange,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) ino: Ino,
    /// Its kind.
    pub(crate) mode: u32,
    pub(crate) name: OsString,
}

impl Disk {
    /// What a name means.
    pub(crate) fn lookup(&mut self, dir: Ino, name: &OsStr) -> Result<View, Errno> {
        self.alive()?;
        self.inode(dir)?;
        let ino = self.get(dir, name).ok_or(Errno::NOENT)?;
        self.entry(ino)
    }

    /// Makes a file, directory, symbolic link or special file that is seen at once and durable with its directory.
    pub(crate) fn make(
        &mut self,
        dir: Ino,
        name: &OsStr,
        what: Make,
        attributes: Attributes,
    ) -> Result<View, Errno> {
        self.may_add(dir, name)?;
        let ino = self.next_ino;
        self.next_ino += 1;
        self.backing.make(ino, what, &attributes).map_err(errno)?;
        let mut inode = Inode::new(attributes);
        match what {
            Make::File => inode.content = Some(Content::new(0)),
            Make::Directory => self.tree.add_directory(ino),
            Make::Symlink(target) => inode.target = Some(target.to_owned()),
            Make::Special(_) => {}
        }
        self.inodes.insert(ino, inode);
        self.change(vec![edit(dir, name, None, Some(ino))], false)?;
        self.entry(ino)
    }

    /// Gives a file another name.
    pub(crate) fn link(&mut self, ino: Ino, dir: Ino, name: &OsStr) -> Result<View, Errno> {
        self.may_add(dir, name)?;
        if self.inode(ino)?.links == 0 {
            return Err(Errno::NOENT);
        }
        self.change(vec![edit(dir, name, None, Some(ino))], false)?;
        self.entry(ino)
    }

    /// Takes a name away: of an empty directory, or of anything else.
    pub(crate) fn remove(&mut self, dir: Ino, name: &OsStr, directory: bool) -> Result<(), Errno> {
        self.alive()?;
        self.inode(dir)?;
        let ino = self.get(dir, name).ok_or(Errno::NOENT)?;
        match (directory, self.tree.is_directory(ino)) {
            (true, false) => return Err(Errno::NOTDIR),
            (false, true) => return Err(Errno::ISDIR),
            (true, true) if !self.tree.is_empty(ino) => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        self.room_for(NAME_BYTES)?;
        self.change(vec![edit(dir, name, Some(ino), None)], false)
    }

    /// Renames; after a cut it has happened or not, as a whole.
    pub(crate) fn rename(
        &mut self,
        (dir, name): (Ino, &OsStr),
        (to_dir, to_name): (Ino, &OsStr),
        how: Rename,
    ) -> Result<(), Errno> {
        self.alive()?;
        self.inode(dir)?;
        self.inode(to_dir)?;
        let ino = self.get(dir, name).ok_or(Errno::NOENT)?;
        if is_hidden(to_dir, to_name) {
            return Err(Errno::PERM);
        }
        let old = self.get(to_dir, to_name);
        if old.is_some() && how == Rename::Refuse {
            return Err(Errno::EXIST);
        }
        if old.is_none() && how == Rename::Exchange {
            return Err(Errno::NOENT);
        }
        if old == Some(ino) {
            return Ok(());
        }
        let is_directory = self.tree.is_directory(ino);
        let old_is_directory = old.is_some_and(|old| self.tree.is_directory(old));
        let into_itself = (is_directory && self.tree.is_below(to_dir, ino))
            || old.is_some_and(|old| {
                how == Rename::Exchange && old_is_directory && self.tree.is_below(dir, old)
            });
        if into_itself {
            return Err(Errno::INVAL);
        }
        if let Some(old) = old
            && how == Rename::Replace
        {
            match (is_directory, old_is_directory) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !self.tree.is_empty(old) => return Err(Errno::NOTEMPTY),
                _ => {}
            }
        }
        self.room_for(NAME_BYTES)?;
        let back = old.filter(|_| how == Rename::Exchange);
        let moves = dir != to_dir && (is_directory || (how == Rename::Exchange && old_is_directory));
        self.change(vec![edit(dir, name, Some(ino), back), edit(to_dir, to_name, old, Some(ino))], moves)
    }

    /// Names in a directory, in order, `.` and `..` first.
    pub(crate) fn list(&self, dir: Ino) -> Result<Vec<Name>, Errno> {
        self.alive()?;
        self.inode(dir)?;
        let mut names = vec![
            Name { ino: dir, mode: KIND_DIRECTORY, name: OsString::from(".") },
            Name { ino: self.tree.parent(dir), mode: KIND_DIRECTORY, name: OsString::from("..") },
        ];
        for (name, ino) in self.tree.entries(dir) {
            names.push(Name { ino, mode: self.inode(ino)?.attributes.mode, name: name.clone() });
        }
        Ok(names)
    }

    /// Makes a directory's names durable. Returns where it lies below.
    pub(crate) fn fsync_directory(&mut self, dir: Ino, epoch: u64) -> Result<PathBuf, Errno> {
        self.still(epoch)?;
        self.inode(dir)?;
        self.counts.directory_fsyncs += 1;
        self.faults.eio_fsync.check()?;
        for number in self.tree.changes_of(dir) {
            self.settle(number)?;
        }
        Ok(self.place(dir))
    }

    /// The kernel drops references that [`lookup`](Self::lookup) and the like gave it.
    pub(crate) fn forget(&mut self, ino: Ino, count: u64) -> Result<(), Errno> {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups = inode.lookups.saturating_sub(count);
        }
        self.maybe_remove(ino)
    }

    /// Where symbolic link `ino` points.
    pub(crate) fn read_link(&self, ino: Ino) -> Result<OsString, Errno> {
        self.alive()?;
        self.inode(ino)?.target.clone().ok_or(Errno::INVAL)
    }

    /// Makes a pending change durable, here and in the directory below.
    pub(super) fn settle(&mut self, number: u64) -> Result<(), Errno> {
        let Some(change) = self.tree.peek(number).cloned() else { return Ok(()) };
        self.settle_below(&change).map_err(errno)?;
        self.tree.settle(number);
        for edit in &change.edits {
            if let Some(from) = edit.from {
                self.inode_mut(from)?.durable_links -= 1;
            }
            if let Some(to) = edit.to {
                self.inode_mut(to)?.durable_links += 1;
            }
        }
        for ino in change.edits.iter().flat_map(named) {
            self.inode_mut(ino)?.pending -= 1;
        }
        for ino in change.edits.iter().flat_map(named) {
            self.maybe_remove(ino)?;
        }
        Ok(())
    }

    fn settle_below(&mut self, change: &Change) -> std::io::Result<()> {
        // Directories first leave their old names: a name that a directory has cannot be replaced.
        for edit in &change.edits {
            if let Some(from) = edit.from.filter(|from| self.tree.is_directory(*from)) {
                self.backing.unname_directory(from, &self.path(edit))?;
                self.set_place(from, None);
            }
        }
        // New names before old ones go: who is killed in between leaves a file with two names, never with none.
        let (given, taken): (Vec<_>, Vec<_>) = change.edits.iter().partition(|edit| edit.to.is_some());
        for edit in given.into_iter().chain(taken) {
            let path = self.path(edit);
            let was_file = edit.from.is_some_and(|from| !self.tree.is_directory(from));
            match edit.to {
                Some(to) if self.tree.is_directory(to) => {
                    if was_file {
                        self.backing.unname_file(&path)?;
                    }
                    self.backing.name_directory(to, &path)?;
                    self.set_place(to, Some((edit.dir, edit.name.clone())));
                }
                Some(to) => self.backing.name_file(to, &path)?,
                None if was_file => self.backing.unname_file(&path)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Where an inode's durable part lies below.
    pub(super) fn place(&self, ino: Ino) -> PathBuf {
        if ino == ROOT {
            return self.backing.root().to_owned();
        }
        match self.inodes.get(&ino).and_then(|inode| inode.place.as_ref()) {
            Some((dir, name)) => self.place(*dir).join(name),
            None => self.backing.unnamed(ino),
        }
    }

    fn path(&self, edit: &Edit) -> PathBuf {
        self.place(edit.dir).join(&edit.name)
    }

    fn set_place(&mut self, ino: Ino, place: Option<(Ino, OsString)>) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.place = place;
        }
    }

    fn change(&mut self, edits: Vec<Edit>, moves_directory: bool) -> Result<(), Errno> {
        for edit in &edits {
            if let Some(from) = edit.from {
                self.inode_mut(from)?.links -= 1;
            }
            if let Some(to) = edit.to {
                self.inode_mut(to)?.links += 1;
            }
            self.inode_mut(edit.dir)?.attributes.changed_now();
        }
        for ino in edits.iter().flat_map(named) {
            self.inode_mut(ino)?.pending += 1;
        }
        self.tree.change(Change { edits, moves_directory });
        Ok(())
    }

    fn may_add(&self, dir: Ino, name: &OsStr) -> Result<(), Errno> {
        self.alive()?;
        if self.inode(dir)?.links == 0 {
            return Err(Errno::NOENT);
        }
        if name.len() > MAX_NAME {
            return Err(Errno::NAMETOOLONG);
        }
        if is_hidden(dir, name) {
            return Err(Errno::PERM);
        }
        if self.tree.get(dir, name).is_some() {
            return Err(Errno::EXIST);
        }
        self.room_for(NAME_BYTES)
    }

    fn get(&self, dir: Ino, name: &OsStr) -> Option<Ino> {
        self.tree.get(dir, name)
    }

    fn entry(&mut self, ino: Ino) -> Result<View, Errno> {
        let inode = self.inode_mut(ino)?;
        inode.lookups += 1;
        Ok(inode.view(ino))
    }
}

fn edit(dir: Ino, name: &OsStr, from: Option<Ino>, to: Option<Ino>) -> Edit {
    Edit { dir, name: name.to_owned(), from, to }
}

/// The inodes that must live as long as an edit waits.
fn named(edit: &Edit) -> impl Iterator<Item = Ino> + use<> {
    [Some(edit.dir), edit.from, edit.to].into_iter().flatten()
}

fn is_hidden(dir: Ino, name: &OsStr) -> bool {
    dir == ROOT && name == HIDDEN
}

const MAX_NAME: usize = 255;

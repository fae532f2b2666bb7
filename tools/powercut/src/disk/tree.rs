//! Names: the tree that programs see, the tree that is durable, and the changes in between.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};

use super::Ino;

/// One name in one directory.
type Slot = (Ino, OsString);

/// Every directory twice: as seen, and as it would be found after a cut.
///
/// A change touches one name or several at once (a rename). It becomes durable when one of its directories is
/// flushed, and together with it every earlier change of the same names: what came later must not be durable alone.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    seen: HashMap<Ino, BTreeMap<OsString, Ino>>,
    parents: HashMap<Ino, Ino>,
    durable: HashMap<Ino, BTreeMap<OsString, Ino>>,
    pending: BTreeMap<u64, Change>,
    /// Pending changes by the directory and the name that they touch.
    by_slot: HashMap<Ino, BTreeMap<OsString, BTreeSet<u64>>>,
    /// Pending renames of directories from one parent to another: each waits for those before it, else a directory
    /// could come to lie inside itself.
    moves: BTreeSet<u64>,
    next: u64,
}

/// Names that change together.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) edits: Vec<Edit>,
    pub(crate) moves_directory: bool,
}

/// What one name meant before and means after.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    pub(crate) dir: Ino,
    pub(crate) name: OsString,
    pub(crate) from: Option<Ino>,
    pub(crate) to: Option<Ino>,
}

impl Tree {
    /// Adds a directory without a name or entries.
    pub(crate) fn add_directory(&mut self, dir: Ino) {
        self.seen.insert(dir, BTreeMap::new());
        self.durable.insert(dir, BTreeMap::new());
    }

    /// Forgets a directory that has no name in either tree.
    pub(crate) fn remove_directory(&mut self, dir: Ino) {
        self.seen.remove(&dir);
        self.durable.remove(&dir);
        self.parents.remove(&dir);
    }

    /// A name that was on the disk when it was mounted.
    pub(crate) fn found(&mut self, dir: Ino, name: OsString, to: Ino) {
        if self.seen.contains_key(&to) {
            self.parents.insert(to, dir);
        }
        self.seen.entry(dir).or_default().insert(name.clone(), to);
        self.durable.entry(dir).or_default().insert(name, to);
    }

    pub(crate) fn is_directory(&self, ino: Ino) -> bool {
        self.seen.contains_key(&ino)
    }

    pub(crate) fn get(&self, dir: Ino, name: &OsStr) -> Option<Ino> {
        self.seen.get(&dir)?.get(name).copied()
    }

    pub(crate) fn entries(&self, dir: Ino) -> impl Iterator<Item = (&OsString, Ino)> {
        self.seen.get(&dir).into_iter().flatten().map(|(name, ino)| (name, *ino))
    }

    pub(crate) fn is_empty(&self, dir: Ino) -> bool {
        self.seen.get(&dir).is_none_or(BTreeMap::is_empty)
    }

    /// The directory that holds this one; the root holds itself.
    pub(crate) fn parent(&self, dir: Ino) -> Ino {
        self.parents.get(&dir).copied().unwrap_or(dir)
    }

    /// `dir` is `ancestor` or lies below it, as seen.
    pub(crate) fn is_below(&self, dir: Ino, ancestor: Ino) -> bool {
        let mut at = dir;
        loop {
            if at == ancestor {
                return true;
            }
            let above = self.parent(at);
            if above == at {
                return false;
            }
            at = above;
        }
    }

    /// Changes that wait for a flush of a directory.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Changes the tree as seen; the change waits for a flush.
    pub(crate) fn change(&mut self, change: Change) {
        for edit in &change.edits {
            let entries = self.seen.entry(edit.dir).or_default();
            match edit.to {
                Some(to) => entries.insert(edit.name.clone(), to),
                None => entries.remove(&edit.name),
            };
        }
        for edit in &change.edits {
            if let Some(to) = edit.to
                && self.seen.contains_key(&to)
            {
                self.parents.insert(to, edit.dir);
            }
            let slots = self.by_slot.entry(edit.dir).or_default();
            slots.entry(edit.name.clone()).or_default().insert(self.next);
        }
        if change.moves_directory {
            self.moves.insert(self.next);
        }
        self.pending.insert(self.next, change);
        self.next += 1;
    }

    /// The changes that a flush of `dir` makes durable, oldest first.
    pub(crate) fn changes_of(&self, dir: Ino) -> Vec<u64> {
        let wanted = self.by_slot.get(&dir).into_iter().flat_map(BTreeMap::values).flatten().copied();
        self.with_earlier(wanted.collect())
    }

    /// All changes, oldest first.
    pub(crate) fn all_changes(&self) -> Vec<u64> {
        self.pending.keys().copied().collect()
    }

    /// The changes that a cut keeps: each by `coin`, and none whose names an earlier, lost change touched.
    pub(crate) fn chosen(&self, mut coin: impl FnMut() -> bool) -> Vec<u64> {
        let mut lost: HashSet<Slot> = HashSet::new();
        let (mut lost_move, mut kept) = (false, Vec::new());
        for (&number, change) in &self.pending {
            let mut slots = change.edits.iter().map(|edit| (edit.dir, edit.name.clone()));
            let blocked = slots.any(|slot| lost.contains(&slot)) || (change.moves_directory && lost_move);
            // The coin is thrown for each, so that a seed means the same whatever was lost before.
            if coin() && !blocked {
                kept.push(number);
            } else {
                lost.extend(change.edits.iter().map(|edit| (edit.dir, edit.name.clone())));
                lost_move |= change.moves_directory;
            }
        }
        kept
    }

    /// Takes a pending change out and makes it part of the durable tree; the caller does the same on the disk.
    pub(crate) fn settle(&mut self, number: u64) -> Option<Change> {
        let change = self.pending.remove(&number)?;
        self.moves.remove(&number);
        for edit in &change.edits {
            if let Some(slots) = self.by_slot.get_mut(&edit.dir) {
                if let Some(numbers) = slots.get_mut(&edit.name) {
                    numbers.remove(&number);
                    if numbers.is_empty() {
                        slots.remove(&edit.name);
                    }
                }
                if slots.is_empty() {
                    self.by_slot.remove(&edit.dir);
                }
            }
            let entries = self.durable.entry(edit.dir).or_default();
            match edit.to {
                Some(to) => entries.insert(edit.name.clone(), to),
                None => entries.remove(&edit.name),
            };
        }
        Some(change)
    }

    /// A pending change.
    pub(crate) fn peek(&self, number: u64) -> Option<&Change> {
        self.pending.get(&number)
    }

    fn with_earlier(&self, wanted: BTreeSet<u64>) -> Vec<u64> {
        let mut found = wanted.clone();
        let mut open: Vec<u64> = wanted.into_iter().collect();
        while let Some(number) = open.pop() {
            let Some(change) = self.pending.get(&number) else { continue };
            let of_slots = change
                .edits
                .iter()
                .filter_map(|edit| self.by_slot.get(&edit.dir)?.get(&edit.name))
                .flat_map(|numbers| numbers.range(..number));
            let of_moves = change.moves_directory.then(|| self.moves.range(..number)).into_iter().flatten();
            for earlier in of_slots.chain(of_moves).copied() {
                if found.insert(earlier) {
                    open.push(earlier);
                }
            }
        }
        found.into_iter().collect()
    }
}

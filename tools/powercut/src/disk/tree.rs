//! Names: the tree that programs see, the tree that is durable, and the changes in between.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};

use super::Ino;

/// Every directory twice: as seen, and as it would be found after a cut.
///
/// A change touches one name or several at once (a rename). It becomes durable when one of its directories is
/// flushed, and together with it every earlier change that it needs (see [`Tree::needs`]).
#[derive(Debug, Default)]
pub(crate) struct Tree {
    seen: HashMap<Ino, BTreeMap<OsString, Ino>>,
    parents: HashMap<Ino, Ino>,
    durable: HashMap<Ino, BTreeMap<OsString, Ino>>,
    pending: BTreeMap<u64, Change>,
    /// Pending changes by the directory and the name that they touch.
    by_slot: HashMap<Ino, BTreeMap<OsString, BTreeSet<u64>>>,
    /// Pending renames of directories from one parent to another.
    moves: BTreeSet<u64>,
    /// For each pending rename: the directories that then led to what it moved.
    above_moved: BTreeMap<u64, Vec<Ino>>,
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
        let above = change.moved_into().map(|dir| self.path_to(dir)).collect::<Vec<_>>().concat();
        if !above.is_empty() {
            self.above_moved.insert(self.next, above);
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

    /// The changes that a cut keeps: each by `coin`, and none that needs a lost one.
    pub(crate) fn chosen(&self, mut coin: impl FnMut() -> bool) -> Vec<u64> {
        let (mut lost, mut kept) = (HashSet::new(), Vec::new());
        for &number in self.pending.keys() {
            // The coin is thrown for each, so that a seed means the same whatever was lost before.
            if coin() && self.needs(number).is_disjoint(&lost) {
                kept.push(number);
            } else {
                lost.insert(number);
            }
        }
        kept
    }

    /// Takes a pending change out and makes it part of the durable tree; the caller does the same on the disk.
    pub(crate) fn settle(&mut self, number: u64) -> Option<Change> {
        let change = self.pending.remove(&number)?;
        self.moves.remove(&number);
        self.above_moved.remove(&number);
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
            open.extend(self.needs(number).into_iter().filter(|earlier| found.insert(*earlier)));
        }
        found.into_iter().collect()
    }

    /// The earlier pending changes without which this one must not be durable:
    /// - those of the same names, in their order;
    /// - between directories that changed their parent, those before it, else one could come to lie inside itself;
    /// - of a directory that is removed, all that emptied it, else what was moved out of it would be lost;
    /// - of a rename, those that named the directories above the new place, else what it moved would be lost.
    fn needs(&self, number: u64) -> HashSet<u64> {
        let Some(change) = self.pending.get(&number) else { return HashSet::new() };
        let of_slots = change.edits.iter().filter_map(|edit| self.by_slot.get(&edit.dir)?.get(&edit.name));
        let of_removed = change.removed().filter_map(|ino| self.by_slot.get(&ino)).flat_map(BTreeMap::values);
        let mut found: HashSet<u64> =
            of_slots.chain(of_removed).flat_map(|numbers| numbers.range(..number)).copied().collect();
        if change.moves_directory {
            found.extend(self.moves.range(..number));
        }
        if let Some(above) = self.above_moved.get(&number) {
            let names_one = |change: &Change| {
                change.edits.iter().any(|edit| edit.to.is_some_and(|to| above.contains(&to)))
            };
            let naming = self.pending.range(..number).filter(|(_, change)| names_one(change));
            found.extend(naming.map(|(number, _)| number));
        }
        found
    }

    /// A directory and those above it, as seen.
    fn path_to(&self, dir: Ino) -> Vec<Ino> {
        let above = |dir: &Ino| Some(self.parent(*dir)).filter(|parent| parent != dir);
        std::iter::successors(Some(dir), above).collect()
    }
}

impl Change {
    /// What a name of it meant and none of its names means any more.
    fn removed(&self) -> impl Iterator<Item = Ino> {
        self.edits
            .iter()
            .filter_map(|edit| edit.from)
            .filter(|from| !self.edits.iter().any(|edit| edit.to == Some(*from)))
    }

    /// The directories where it put what had another name before.
    fn moved_into(&self) -> impl Iterator<Item = Ino> {
        let had_a_name = |ino| self.edits.iter().any(|edit| edit.from == Some(ino));
        self.edits.iter().filter(move |edit| edit.to.is_some_and(had_a_name)).map(|edit| edit.dir)
    }
}

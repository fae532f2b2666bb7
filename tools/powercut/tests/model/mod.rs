//! A plain model of what a cut may leave: arrays of bytes, a list of pending changes, and every subset of it tried.
//!
//! It shares no code with the disk, and says only what is allowed; the same random work is done by the model and by
//! the real thing, then the power is cut, and what the real thing shows must be one of the allowed outcomes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What a tree shows: by path, a directory or a file's bytes.
pub(crate) type Shown = BTreeMap<String, Option<Vec<u8>>>;

/// The real thing. Paths are relative; the root is empty.
pub(crate) trait Subject {
    fn create(&mut self, path: &str);
    /// Returns true when a durable write made the whole file durable, as some kernels ask for.
    fn write(&mut self, path: &str, at: u64, data: &[u8], durable: bool) -> bool;
    fn fsync(&mut self, path: &str);
    fn truncate(&mut self, path: &str, size: u64);
    fn zero(&mut self, path: &str, range: Range<u64>);
    fn allocate(&mut self, path: &str, end: u64);
    fn unlink(&mut self, path: &str);
    fn mkdir(&mut self, path: &str);
    fn rmdir(&mut self, path: &str);
    fn rename(&mut self, from: &str, to: &str);
    fn link(&mut self, path: &str, to: &str);
    fn fsync_directory(&mut self, path: &str);
    fn show(&mut self) -> Shown;
    /// Which file each path is: hard links are equal.
    fn identities(&mut self) -> BTreeMap<String, u64>;
    /// Cuts and restores; returns the sectors and changes of names that were kept and lost.
    fn cut(&mut self, keep: f64, seed: u64) -> [u64; 4];
}

/// What many worlds went through.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) operations: u64,
    pub(crate) sectors_kept: u64,
    pub(crate) sectors_lost: u64,
    pub(crate) names_kept: u64,
    pub(crate) names_lost: u64,
}

/// One world: random work by `seed`, and cuts in between.
pub(crate) fn run(seed: u64, subject: &mut impl Subject, tally: &mut Tally) {
    let mut random = Random(seed);
    let mut model = Model::new();
    for _ in 0..3 {
        for _ in 0..random.below(40) {
            step(&mut random, &mut model, subject);
            tally.operations += 1;
        }
        assert_eq!(subject.show(), model.shown(&model.seen, |file| file.seen.clone()), "seed {seed}");
        let keep = [0.0, 0.5, 0.5, 0.9, 1.0][random.below(5) as usize];
        let [sectors_kept, sectors_lost, names_kept, names_lost] = subject.cut(keep, seed);
        tally.sectors_kept += sectors_kept;
        tally.sectors_lost += sectors_lost;
        tally.names_kept += names_kept;
        tally.names_lost += names_lost;
        assert_eq!(names_kept + names_lost, model.pending.len() as u64, "seed {seed}: changes of names");
        let shown = subject.show();
        if keep == 0.0 {
            assert_eq!(shown, model.shown(&model.durable, |file| file.durable.clone()), "seed {seed}");
            assert_eq!((sectors_kept, names_kept), (0, 0), "seed {seed}");
        } else if keep == 1.0 {
            assert_eq!(shown, model.shown(&model.seen, |file| file.seen.clone()), "seed {seed}");
            assert_eq!(names_lost, 0, "seed {seed}");
        } else {
            model.assert_allowed(&shown, names_kept, seed);
        }
        model = Model::of(&shown, &subject.identities());
    }
}

fn step(random: &mut Random, model: &mut Model, subject: &mut impl Subject) {
    let files = model.paths(false);
    let directories = model.paths(true);
    let parent = random.pick(&directories).clone();
    let path = join(&parent, ["a", "b", "c", "d"][random.below(4) as usize]);
    // Every subset of the pending changes will be tried.
    let room = model.pending.len() < MAX_PENDING;
    let free = model.find(&path).is_none() && room;
    let file = (!files.is_empty()).then(|| random.pick(&files).clone());
    let at = random.below(3000);
    let len = 1 + random.below(1500);
    match (random.below(26), file) {
        (0..=2, _) | (_, None) if free => {
            subject.create(&path);
            model.add(&path, Thing::file());
        }
        (3..=7, Some(file)) => {
            let durable = random.below(3) == 0;
            let data: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            let whole = subject.write(&file, at, &data, durable);
            model.file(&file).write(at as usize, &data);
            if whole {
                model.file(&file).fsync();
            } else if durable {
                model.file(&file).flush(at as usize..(at + len) as usize);
            }
        }
        (8..=10, Some(file)) => {
            subject.fsync(&file);
            model.file(&file).fsync();
        }
        (11, Some(file)) => {
            subject.truncate(&file, at);
            model.file(&file).truncate(at as usize);
        }
        (12, Some(file)) => {
            subject.zero(&file, at..at + len);
            model.file(&file).zero(at as usize..(at + len) as usize);
        }
        (13, Some(file)) => {
            subject.allocate(&file, at);
            model.file(&file).grow(at as usize);
        }
        (14..=15, Some(file)) if room => {
            subject.unlink(&file);
            model.remove(&file);
        }
        (16..=17, _) if free && parent.matches('/').count() < 2 => {
            subject.mkdir(&path);
            model.add(&path, Thing::Directory);
        }
        (18, _) if room => {
            let empty = directories.iter().find(|path| !path.is_empty() && model.is_empty(path));
            if let Some(empty) = empty {
                subject.rmdir(empty);
                model.remove(empty);
            }
        }
        (19..=20, Some(file)) if room && !model.find(&path).is_some_and(|to| model.is_directory(to)) => {
            subject.rename(&file, &path);
            model.rename(&file, &path);
        }
        (21, _) if room => {
            let directory = random.pick(&directories).clone();
            let inside = path == directory || path.starts_with(&format!("{directory}/"));
            let fits = model.find(&path).is_none() || model.is_empty(&path);
            if !directory.is_empty() && !inside && fits {
                subject.rename(&directory, &path);
                model.rename(&directory, &path);
            }
        }
        (22, Some(file)) if free => {
            subject.link(&file, &path);
            model.link(&file, &path);
        }
        (23.., _) => {
            subject.fsync_directory(&parent);
            model.fsync_directory(&parent);
        }
        _ => {}
    }
}

#[derive(Clone, Debug)]
enum Thing {
    Directory,
    File(FileModel),
}

impl Thing {
    fn file() -> Self {
        Self::File(FileModel::default())
    }

    fn durable_file(bytes: &[u8]) -> Self {
        let (durable, seen) = (bytes.to_vec(), bytes.to_vec());
        Self::File(FileModel { durable, seen, base: bytes.len(), written: BTreeSet::new() })
    }
}

/// A file: what is durable, what is seen, and which sectors were written in between.
#[derive(Clone, Debug, Default)]
struct FileModel {
    durable: Vec<u8>,
    seen: Vec<u8>,
    /// The shortest it has been since its size was durable.
    base: usize,
    written: BTreeSet<usize>,
}

impl FileModel {
    fn write(&mut self, at: usize, data: &[u8]) {
        self.grow(at + data.len());
        self.seen[at..at + data.len()].copy_from_slice(data);
        self.written.extend(at / SECTOR..(at + data.len()).div_ceil(SECTOR));
    }

    fn grow(&mut self, len: usize) {
        self.seen.resize(self.seen.len().max(len), 0);
    }

    fn zero(&mut self, range: Range<usize>) {
        let range = range.start..range.end.min(self.seen.len());
        if range.start < range.end {
            self.write(range.start, &vec![0; range.len()]);
        }
    }

    fn truncate(&mut self, len: usize) {
        self.base = self.base.min(len);
        self.seen.resize(len, 0);
        self.written.retain(|sector| sector * SECTOR < len);
    }

    fn fsync(&mut self) {
        self.durable = self.seen.clone();
        self.base = self.seen.len();
        self.written.clear();
    }

    fn flush(&mut self, range: Range<usize>) {
        let whole = range.start / SECTOR * SECTOR..range.end.next_multiple_of(SECTOR).min(self.seen.len());
        if whole.end > self.base {
            self.durable = self.without_writes();
            self.base = self.seen.len();
        }
        self.durable[whole.clone()].copy_from_slice(&self.seen[whole.clone()]);
        self.written.retain(|sector| !whole.contains(&(sector * SECTOR)));
    }

    /// With its new size, and none of the writes.
    fn without_writes(&self) -> Vec<u8> {
        let mut bytes = self.durable[..self.base].to_vec();
        bytes.resize(self.seen.len(), 0);
        bytes
    }

    /// Whether a cut may leave these bytes: every written sector old or new, on its own, with the old or the new size.
    fn allows(&self, found: &[u8]) -> bool {
        // With the old size, what lies past the shortest size since is what was there.
        let mut written = self.seen[..self.base].to_vec();
        written.extend_from_slice(&self.durable[self.base..]);
        self.mixes(found, &self.durable, &written, self.base)
            || self.mixes(found, &self.without_writes(), &self.seen, self.seen.len())
    }

    fn mixes(&self, found: &[u8], old: &[u8], new: &[u8], limit: usize) -> bool {
        found.len() == old.len()
            && (0..old.len().div_ceil(SECTOR)).all(|sector| {
                let bytes = sector * SECTOR..((sector + 1) * SECTOR).min(old.len());
                let is_old = found[bytes.clone()] == old[bytes.clone()];
                let may_be_new = self.written.contains(&sector) && bytes.start < limit;
                is_old || may_be_new && found[bytes.clone()] == new[bytes]
            })
    }
}

type Names = BTreeMap<(usize, String), usize>;

#[derive(Clone, Debug)]
struct Pending {
    edits: Vec<((usize, String), Option<usize>)>,
    moves_directory: bool,
    /// The directory that it takes away.
    removes: Option<usize>,
    /// A rename's: the directories on the way to the new name.
    way: Vec<usize>,
}

impl Pending {
    fn of(edits: Vec<((usize, String), Option<usize>)>) -> Self {
        Self { edits, moves_directory: false, removes: None, way: Vec::new() }
    }

    /// The later of the two must not be durable alone.
    fn needs(&self, earlier: &Pending) -> bool {
        (self.moves_directory && earlier.moves_directory)
            || earlier.edits.iter().any(|(slot, _)| Some(slot.0) == self.removes)
            || earlier.edits.iter().any(|(_, to)| to.is_some_and(|to| self.way.contains(&to)))
            || self.edits.iter().any(|(slot, _)| earlier.edits.iter().any(|(other, _)| slot == other))
    }

    fn apply(&self, names: &mut Names) {
        for (slot, to) in &self.edits {
            match to {
                Some(to) => names.insert(slot.clone(), *to),
                None => names.remove(slot),
            };
        }
    }
}

struct Model {
    /// The root is the first.
    things: Vec<Thing>,
    seen: Names,
    durable: Names,
    pending: Vec<Pending>,
}

impl Model {
    fn new() -> Self {
        Self {
            things: vec![Thing::Directory],
            seen: Names::new(),
            durable: Names::new(),
            pending: Vec::new(),
        }
    }

    /// What was found is durable.
    fn of(shown: &Shown, identities: &BTreeMap<String, u64>) -> Self {
        let mut model = Self::new();
        let mut known: BTreeMap<u64, String> = BTreeMap::new();
        for (path, content) in shown {
            if let Some(other) = known.get(&identities[path]) {
                let other = other.clone();
                model.link(&other, path);
                continue;
            }
            known.insert(identities[path], path.clone());
            model.add(path, content.as_ref().map_or(Thing::Directory, |bytes| Thing::durable_file(bytes)));
        }
        model.durable = model.seen.clone();
        model.pending.clear();
        model
    }

    fn find(&self, path: &str) -> Option<usize> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(0, |dir, name| self.seen.get(&(dir, name.to_owned())).copied())
    }

    fn slot(&self, path: &str) -> (usize, String) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.find(parent).expect("the generator took an existing parent"), name.to_owned())
    }

    fn file(&mut self, path: &str) -> &mut FileModel {
        let found = self.find(path).expect("the generator took an existing file");
        match &mut self.things[found] {
            Thing::File(file) => file,
            Thing::Directory => panic!("{path} is a directory"),
        }
    }

    fn is_directory(&self, thing: usize) -> bool {
        matches!(self.things[thing], Thing::Directory)
    }

    fn is_empty(&self, path: &str) -> bool {
        self.find(path)
            .is_some_and(|dir| self.is_directory(dir) && !self.seen.keys().any(|slot| slot.0 == dir))
    }

    fn add(&mut self, path: &str, thing: Thing) {
        self.things.push(thing);
        self.change(Pending::of(vec![(self.slot(path), Some(self.things.len() - 1))]));
    }

    fn link(&mut self, path: &str, to: &str) {
        self.change(Pending::of(vec![(self.slot(to), self.find(path))]));
    }

    fn remove(&mut self, path: &str) {
        let removes = self.find(path).filter(|thing| self.is_directory(*thing));
        self.change(Pending { removes, ..Pending::of(vec![(self.slot(path), None)]) });
    }

    fn rename(&mut self, from: &str, to: &str) {
        let thing = self.find(from);
        if thing == self.find(to) {
            return;
        }
        let (old, new) = (self.slot(from), self.slot(to));
        let moves_directory = thing.is_some_and(|thing| self.is_directory(thing)) && old.0 != new.0;
        let removes = self.find(to).filter(|thing| self.is_directory(*thing));
        let way = to.match_indices('/').filter_map(|(end, _)| self.find(&to[..end])).collect();
        self.change(Pending { edits: vec![(old, None), (new, thing)], moves_directory, removes, way });
    }

    fn change(&mut self, change: Pending) {
        change.apply(&mut self.seen);
        self.pending.push(change);
    }

    fn fsync_directory(&mut self, path: &str) {
        let dir = self.find(path).expect("the generator took an existing directory");
        let mut chosen: Vec<bool> =
            self.pending.iter().map(|change| change.edits.iter().any(|(slot, _)| slot.0 == dir)).collect();
        for later in (0..chosen.len()).rev() {
            for earlier in 0..later {
                chosen[earlier] |= chosen[later] && self.pending[later].needs(&self.pending[earlier]);
            }
        }
        let mut kept = chosen.iter();
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let flushed = *kept.next().expect("as many as changes");
            if flushed {
                change.apply(durable);
            }
            !flushed
        });
    }

    fn paths(&self, directories: bool) -> Vec<String> {
        let mut paths: Vec<String> = directories.then(String::new).into_iter().collect();
        for path in
            self.walk(&self.seen).into_iter().filter(|(_, thing)| self.is_directory(*thing) == directories)
        {
            paths.push(path.0);
        }
        paths
    }

    fn walk(&self, names: &Names) -> Vec<(String, usize)> {
        let (mut found, mut open) = (Vec::new(), vec![(String::new(), 0)]);
        while let Some((path, dir)) = open.pop() {
            for ((_, name), thing) in names.range((dir, String::new())..(dir + 1, String::new())) {
                let path = join(&path, name);
                found.push((path.clone(), *thing));
                if self.is_directory(*thing) {
                    open.push((path, *thing));
                }
            }
        }
        found
    }

    fn shown(&self, names: &Names, bytes: impl Fn(&FileModel) -> Vec<u8>) -> Shown {
        let content = |thing: usize| match &self.things[thing] {
            Thing::Directory => None,
            Thing::File(file) => Some(bytes(file)),
        };
        self.walk(names).into_iter().map(|(path, thing)| (path, content(thing))).collect()
    }

    /// Some choice of pending changes, each with all that it needs, gives these names, and each file's bytes are
    /// allowed.
    fn assert_allowed(&self, shown: &Shown, names_kept: u64, seed: u64) {
        let mut chosen = Vec::new();
        assert!(
            self.some_choice(&mut chosen, names_kept as usize, shown),
            "seed {seed}: no choice of {names_kept} of {:#?} leads to {:?}",
            self.pending,
            shown.keys()
        );
    }

    fn some_choice(&self, chosen: &mut Vec<bool>, left: usize, shown: &Shown) -> bool {
        let number = chosen.len();
        if self.pending.len() - number < left {
            return false;
        }
        if number == self.pending.len() {
            return self.leads_to(chosen, shown);
        }
        let blocked =
            (0..number).any(|earlier| !chosen[earlier] && self.pending[number].needs(&self.pending[earlier]));
        for keep in [false, true] {
            if keep && (blocked || left == 0) {
                continue;
            }
            chosen.push(keep);
            let found = self.some_choice(chosen, left - usize::from(keep), shown);
            chosen.pop();
            if found {
                return true;
            }
        }
        false
    }

    fn leads_to(&self, chosen: &[bool], shown: &Shown) -> bool {
        let mut names = self.durable.clone();
        for (change, _) in self.pending.iter().zip(chosen).filter(|(_, chosen)| **chosen) {
            change.apply(&mut names);
        }
        let walked: BTreeMap<String, usize> = self.walk(&names).into_iter().collect();
        walked.keys().eq(shown.keys())
            && walked.iter().all(|(path, thing)| match (&self.things[*thing], &shown[path]) {
                (Thing::Directory, None) => true,
                (Thing::File(file), Some(found)) => file.allows(found),
                _ => false,
            })
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

/// A linear congruence is random enough to choose work.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

const SECTOR: usize = 512;
const MAX_PENDING: usize = 10;

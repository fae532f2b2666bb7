//! The disk without a kernel, step by step.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::ffi::OsStr;
use std::path::PathBuf;

use rustix::fs::FallocateFlags;

use super::*;
use model::{Shown, Subject, Tally};

#[path = "../../tests/model/mod.rs"]
mod model;

#[test]
fn hundreds_of_worlds_end_as_the_model_allows() {
    let mut tally = Tally::default();
    for seed in 0..300 {
        model::run(seed, &mut TestDisk::new(), &mut tally);
    }
    println!("{tally:?}");
    let Tally { operations, sectors_kept, sectors_lost, names_kept, names_lost } = tally;
    assert!(operations > 10_000);
    let least = sectors_kept.min(sectors_lost).min(names_kept).min(names_lost);
    assert!(least > 500, "a cut that keeps or loses nothing shows nothing");
}

#[test]
fn a_cut_takes_names_and_bytes_that_nobody_flushed() {
    let mut disk = TestDisk::new();
    let (kept, lost) = (disk.make_file("kept"), disk.make_file("lost"));
    disk.write(kept, 0, b"durable");
    disk.fsync(kept);
    disk.fsync(lost);
    disk.disk.link(lost, ROOT, OsStr::new("also lost")).unwrap();
    assert_eq!(disk.names(), ["also lost", "kept", "lost"], "seen before the cut");
    let kept_again = disk.make_directory("dir");
    disk.fsync_directory(ROOT);
    disk.write(kept, 3, b"XYZ");
    disk.make_in(kept_again, "in dir");
    disk.remove("lost");
    let report = disk.cut(Cut::NOTHING);
    assert_eq!((report.sectors_lost, report.names_lost), (1, 2));
    assert_eq!((report.sectors_kept, report.names_kept), (0, 0));
    assert_eq!(disk.names(), ["also lost", "dir", "kept", "lost"]);
    assert_eq!(disk.content("kept"), b"durable");
    let dir = disk.ino("dir");
    assert_eq!(disk.disk.list(dir).unwrap().len(), 2, "`.` and `..`");
}

#[test]
fn what_was_open_before_a_cut_stays_dead() {
    let mut disk = TestDisk::new();
    let file = disk.make_file("file");
    disk.fsync_directory(ROOT);
    let epoch = disk.disk.epoch();
    disk.disk.cut(Cut::NOTHING).unwrap();
    assert_eq!(disk.disk.cut(Cut::NOTHING), Err(Errno::ALREADY));
    assert_eq!(disk.disk.lookup(ROOT, OsStr::new("file")).err(), Some(Errno::IO), "the power is off");
    disk.disk.restore();
    assert_eq!(disk.disk.read(file, 0, 1, false), Err(Errno::IO));
    assert_eq!(disk.disk.write(file, 0, b"x", false).err(), Some(Errno::IO));
    assert_eq!(disk.disk.fsync_directory(ROOT, epoch), Err(Errno::IO));
    assert_ne!(disk.ino("file"), file);
}

#[test]
fn a_durable_write_takes_its_own_sectors_and_the_size_along() {
    let mut disk = TestDisk::new();
    let file = disk.make_file("file");
    disk.fsync_directory(ROOT);
    disk.write(file, 0, &[1; 2048]);
    disk.write(file, 4096, &[2; 600]);
    disk.flush_range(file, 4096..4696);
    disk.cut(Cut::NOTHING);
    let content = disk.content("file");
    assert_eq!(content.len(), 4696);
    assert!(content[..4096].iter().all(|byte| *byte == 0), "never flushed");
    assert!(content[4096..].iter().all(|byte| *byte == 2));
}

#[test]
fn a_flush_that_failed_is_not_made_good_by_the_next() {
    let mut disk = TestDisk::new();
    let file = disk.make_file("file");
    disk.write(file, 0, &[1; 512]);
    disk.fsync(file);
    disk.fsync_directory(ROOT);
    disk.write(file, 0, &[2; 512]);
    disk.disk.faults.eio_fsync = crate::Trouble::Once;
    let epoch = disk.disk.epoch();
    assert_eq!(disk.disk.fsync(file, epoch).err(), Some(Errno::IO));
    disk.fsync(file);
    assert_eq!(disk.content("file"), [2; 512], "still seen");
    disk.write(file, 512, &[3; 512]);
    disk.fsync(file);
    disk.cut(Cut { keep: 1.0, seed: Some(1) });
    let content = disk.content("file");
    assert_eq!((content[0], content[512], content.len()), (1, 3, 1024));
}

#[test]
fn troubles_answer_and_change_nothing() {
    let mut disk = TestDisk::new();
    let file = disk.make_file("file");
    disk.write(file, 0, &[1; 2048]);
    disk.disk.faults.eio_write = crate::Trouble::Once;
    assert_eq!(disk.disk.write(file, 0, b"x", false).err(), Some(Errno::IO));
    disk.disk.faults.short_write = crate::Trouble::Once;
    assert_eq!(disk.disk.write(file, 0, &[2; 2048], true).unwrap().len, 1024);
    disk.disk.faults.eio_read = crate::Trouble::Always;
    assert_eq!(disk.disk.read(file, 0, 1, false), Err(Errno::IO));
    assert_eq!(disk.disk.read(file, 0, 1, false), Err(Errno::IO));
    disk.disk.faults.eio_read = crate::Trouble::Never;
    assert_eq!(disk.disk.read(file, 1, 1, true), Err(Errno::INVAL), "misaligned");
    disk.disk.faults.space_bytes = Some(4096);
    disk.write(file, 2048, &[3; 2048]);
    assert_eq!(disk.disk.write(file, 4096, b"x", false).err(), Some(Errno::NOSPC));
    assert_eq!(disk.disk.set_size(file, 4097), Err(Errno::NOSPC));
    let expected: Vec<u8> = [[2_u8; 1024], [1; 1024], [3; 1024], [3; 1024]].concat();
    assert_eq!(disk.content("file"), expected);
}

#[test]
fn memory_is_bounded_and_zeros_take_next_to_none() {
    let mut disk = TestDisk::with_limit(1 << 20);
    let file = disk.make_file("file");
    for block in 0..2048 {
        disk.write(file, block << 12, &[0; 4096]);
    }
    let mut written = 0;
    let full = loop {
        match disk.disk.write(file, written, &[1; 4096], false) {
            Ok(_) => written += 4096,
            Err(errno) => break errno,
        }
    };
    assert_eq!(full, Errno::NOSPC);
    assert!((900 * 1024..1 << 20).contains(&(disk.disk.status().memory_bytes)), "{written}");
    disk.fsync(file);
    assert!(disk.disk.status().memory_bytes < 1024, "flushed bytes are not kept");
    disk.write(file, written, &[1; 4096]);
}

#[test]
fn a_clean_end_leaves_everything_and_nothing_else() {
    let mut disk = TestDisk::new();
    let dir = disk.make_directory("dir");
    let file = disk.make_in(dir, "file");
    disk.write(file, 0, b"content");
    disk.disk.close().unwrap();
    assert_eq!(fs::read(disk.below().join("dir/file")).unwrap(), b"content");
    assert!(!disk.below().join(HIDDEN).exists());
}

#[test]
fn a_directory_cannot_come_to_lie_inside_itself() {
    let mut disk = TestDisk::new();
    let a = disk.make_directory("a");
    let b = disk.make_in_as(a, "b", Make::Directory);
    disk.fsync_directory(ROOT);
    disk.fsync_directory(a);
    let (name_a, name_b) = (OsStr::new("a"), OsStr::new("b"));
    assert_eq!(disk.disk.rename((ROOT, name_a), (b, name_a), Rename::Replace), Err(Errno::INVAL));
    disk.disk.rename((a, name_b), (ROOT, name_b), Rename::Replace).unwrap();
    disk.disk.rename((ROOT, name_a), (b, name_a), Rename::Replace).unwrap();
    // Durable alone, the second would make a loop; it takes the first along.
    disk.fsync_directory(b);
    disk.cut(Cut::NOTHING);
    assert_eq!(disk.names(), ["b"]);
    let b = disk.ino("b");
    assert_eq!(disk.disk.list(b).unwrap()[2].name, "a");
}

#[test]
fn a_rename_never_loses_what_it_moved() {
    let moved = |flush: fn(&mut TestDisk)| {
        let mut disk = TestDisk::new();
        ["d", "x"].into_iter().for_each(|name| disk.mkdir(name));
        disk.create("d/f");
        ["", "d"].into_iter().for_each(|dir| Subject::fsync_directory(&mut disk, dir));
        flush(&mut disk);
        Subject::cut(&mut disk, 0.0, 1);
        let found: Vec<String> = Subject::show(&mut disk).into_keys().collect();
        found.join(" ")
    };
    let emptied = |disk: &mut TestDisk| {
        Subject::rename(disk, "d/f", "x/f");
        Subject::rmdir(disk, "d");
        Subject::fsync_directory(disk, "");
    };
    assert_eq!(moved(emptied), "x x/f", "the directory is gone, so what was in it has its new name");
    let into_a_new_one = |disk: &mut TestDisk| {
        Subject::mkdir(disk, "x/new");
        Subject::rename(disk, "d/f", "x/new/f");
        Subject::fsync_directory(disk, "d");
    };
    assert_eq!(
        moved(into_a_new_one),
        "d x x/new x/new/f",
        "the old name is gone, so the new one can be reached"
    );
}

#[test]
fn every_kind_of_thing_and_rename_comes_through_a_cut() {
    let mut disk = TestDisk::new();
    let file = disk.make_file("file");
    disk.write(file, 0, b"file");
    disk.fsync(file);
    let dir = disk.make_directory("dir");
    disk.make_in(dir, "inside");
    disk.make_in_as(ROOT, "link", Make::Symlink(OsStr::new("file")));
    disk.make_in_as(ROOT, "pipe", Make::Special(0));
    let (file_name, dir_name) = (OsStr::new("file"), OsStr::new("dir"));
    let refused = disk.disk.rename((ROOT, file_name), (ROOT, dir_name), Rename::Refuse);
    assert_eq!(refused, Err(Errno::EXIST));
    disk.fsync_directory(ROOT);
    disk.fsync_directory(dir);
    disk.disk.rename((ROOT, file_name), (ROOT, dir_name), Rename::Exchange).unwrap();
    assert_eq!(disk.content("dir"), b"file");
    disk.cut(Cut::NOTHING);
    assert_eq!(disk.content("file"), b"file", "not flushed, not exchanged");
    disk.disk.rename((ROOT, file_name), (ROOT, dir_name), Rename::Exchange).unwrap();
    disk.fsync_directory(ROOT);
    disk.cut(Cut::NOTHING);
    assert_eq!(disk.content("dir"), b"file");
    assert!(disk.below().join("file/inside").exists());
    let link = disk.ino("link");
    assert_eq!(disk.disk.read_link(link).unwrap(), "file");
    let pipe = disk.ino("pipe");
    assert_eq!(disk.disk.stat(pipe).unwrap().attributes.mode & KIND, KIND_PIPE);
    assert_eq!(
        disk.disk.make(ROOT, OsStr::new(HIDDEN), Make::Directory, Attributes::new(0, 0, 0, 0)).err(),
        Some(Errno::PERM)
    );
}

#[test]
fn a_second_mount_over_the_same_directory_is_refused() {
    let disk = TestDisk::new();
    let error = Disk::open(&disk.below(), 1 << 20, 512).unwrap_err();
    assert!(error.to_string().contains("another mount"), "{error}");
}

impl Subject for TestDisk {
    fn create(&mut self, path: &str) {
        let (dir, name) = self.slot(path);
        let ino = self.make_in(dir, name);
        self.forget(ino);
    }

    fn write(&mut self, path: &str, at: u64, data: &[u8], durable: bool) -> bool {
        let ino = self.resolve(path);
        let wrote = self.disk.write(ino, at, data, false).unwrap();
        if durable {
            self.flush_range(ino, wrote.range);
        }
        false
    }

    fn fsync(&mut self, path: &str) {
        let ino = self.resolve(path);
        TestDisk::fsync(self, ino);
    }

    fn truncate(&mut self, path: &str, size: u64) {
        let ino = self.resolve(path);
        self.disk.set_size(ino, size).unwrap();
    }

    fn zero(&mut self, path: &str, range: std::ops::Range<u64>) {
        let ino = self.resolve(path);
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.disk.allocate(ino, range, how).unwrap();
    }

    fn allocate(&mut self, path: &str, end: u64) {
        let ino = self.resolve(path);
        self.disk.allocate(ino, 0..end, FallocateFlags::empty()).unwrap();
    }

    fn unlink(&mut self, path: &str) {
        let (dir, name) = self.slot(path);
        self.disk.remove(dir, OsStr::new(name), false).unwrap();
    }

    fn mkdir(&mut self, path: &str) {
        let (dir, name) = self.slot(path);
        let ino = self.make_in_as(dir, name, Make::Directory);
        self.forget(ino);
    }

    fn rmdir(&mut self, path: &str) {
        let (dir, name) = self.slot(path);
        self.disk.remove(dir, OsStr::new(name), true).unwrap();
    }

    fn rename(&mut self, from: &str, to: &str) {
        let ((dir, name), (to_dir, to_name)) = (self.slot(from), self.slot(to));
        let (old, new) = ((dir, OsStr::new(name)), (to_dir, OsStr::new(to_name)));
        self.disk.rename(old, new, Rename::Replace).unwrap();
    }

    fn link(&mut self, path: &str, to: &str) {
        let ino = self.resolve(path);
        let (dir, name) = self.slot(to);
        self.disk.link(ino, dir, OsStr::new(name)).unwrap();
        self.forget(ino);
    }

    fn fsync_directory(&mut self, path: &str) {
        let ino = self.resolve(path);
        TestDisk::fsync_directory(self, ino);
    }

    fn show(&mut self) -> Shown {
        let content = |disk: &mut Disk, name: &Name| {
            (name.mode & KIND == KIND_FILE).then(|| disk.read(name.ino, 0, 1 << 20, false).unwrap())
        };
        self.walk().iter().map(|(path, name)| (path.clone(), content(&mut self.disk, name))).collect()
    }

    fn identities(&mut self) -> BTreeMap<String, u64> {
        self.walk().into_iter().map(|(path, name)| (path, name.ino)).collect()
    }

    fn cut(&mut self, keep: f64, seed: u64) -> [u64; 4] {
        let report = TestDisk::cut(self, Cut { keep, seed: Some(seed) });
        let below = self.below();
        assert_eq!(
            fs::read_dir(below.join(HIDDEN)).unwrap().count(),
            self.disk.inodes.values().filter(|inode| !inode.is_directory()).count()
        );
        [report.sectors_kept, report.sectors_lost, report.names_kept, report.names_lost]
    }
}

/// A disk over a folder of its own.
struct TestDisk {
    disk: Disk,
    folder: tempfile::TempDir,
}

impl TestDisk {
    fn new() -> Self {
        Self::with_limit(1 << 30)
    }

    fn with_limit(limit_bytes: u64) -> Self {
        // Beside the test binary: on the disk, not in memory.
        let folder = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
        let disk = Disk::open(folder.path(), limit_bytes, 512).unwrap();
        Self { disk, folder }
    }

    fn resolve(&mut self, path: &str) -> Ino {
        path.split('/').filter(|name| !name.is_empty()).fold(ROOT, |dir, name| {
            let ino = self.disk.lookup(dir, OsStr::new(name)).unwrap().ino;
            self.forget(ino);
            ino
        })
    }

    fn slot<'a>(&mut self, path: &'a str) -> (Ino, &'a str) {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.resolve(parent), name)
    }

    fn forget(&mut self, ino: Ino) {
        self.disk.forget(ino, 1).unwrap();
    }

    fn walk(&self) -> Vec<(String, Name)> {
        let (mut found, mut open) = (Vec::new(), vec![(String::new(), ROOT)]);
        while let Some((path, dir)) = open.pop() {
            for name in self.disk.list(dir).unwrap().into_iter().skip(2) {
                let path = format!(
                    "{path}{}{}",
                    if path.is_empty() { "" } else { "/" },
                    name.name.to_str().unwrap()
                );
                if name.mode & KIND == KIND_DIRECTORY {
                    open.push((path.clone(), name.ino));
                }
                found.push((path, name));
            }
        }
        found
    }

    fn below(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn make_file(&mut self, name: &str) -> Ino {
        self.make_in(ROOT, name)
    }

    fn make_directory(&mut self, name: &str) -> Ino {
        self.make_in_as(ROOT, name, Make::Directory)
    }

    fn make_in(&mut self, dir: Ino, name: &str) -> Ino {
        self.make_in_as(dir, name, Make::File)
    }

    fn make_in_as(&mut self, dir: Ino, name: &str, what: Make) -> Ino {
        let kind = match what {
            Make::File => KIND_FILE | 0o644,
            Make::Directory => KIND_DIRECTORY | 0o755,
            Make::Symlink(_) => KIND_SYMLINK | 0o777,
            Make::Special(_) => KIND_PIPE | 0o644,
        };
        let own = fs::metadata(self.folder.path()).unwrap();
        let attributes = Attributes::new(kind, own.uid(), own.gid(), 0);
        self.disk.make(dir, OsStr::new(name), what, attributes).unwrap().ino
    }

    fn remove(&mut self, name: &str) {
        self.disk.remove(ROOT, OsStr::new(name), false).unwrap();
    }

    fn write(&mut self, ino: Ino, at: u64, data: &[u8]) {
        assert_eq!(self.disk.write(ino, at, data, false).unwrap().len, data.len());
    }

    fn fsync(&mut self, ino: Ino) {
        let epoch = self.disk.epoch();
        self.disk.fsync(ino, epoch).unwrap();
    }

    fn flush_range(&mut self, ino: Ino, range: std::ops::Range<u64>) {
        let epoch = self.disk.epoch();
        self.disk.flush_range(ino, range, epoch).unwrap();
    }

    fn fsync_directory(&mut self, ino: Ino) {
        let epoch = self.disk.epoch();
        self.disk.fsync_directory(ino, epoch).unwrap();
    }

    fn cut(&mut self, cut: Cut) -> CutReport {
        let report = self.disk.cut(cut).unwrap();
        self.disk.restore();
        report
    }

    fn ino(&mut self, name: &str) -> Ino {
        self.disk.lookup(ROOT, OsStr::new(name)).unwrap().ino
    }

    fn names(&self) -> Vec<String> {
        let names = self.disk.list(ROOT).unwrap();
        names[2..].iter().map(|entry| entry.name.to_str().unwrap().to_owned()).collect()
    }

    fn content(&mut self, name: &str) -> Vec<u8> {
        let ino = self.ino(name);
        self.disk.read(ino, 0, 1 << 20, false).unwrap()
    }
}

const KIND_PIPE: u32 = 0o010_000;

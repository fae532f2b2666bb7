//! The plain model against a real mount, through system calls.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::IoSlice;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{ReadWriteFlags, pwritev2};

use crate::model::{self, Shown, Subject, Tally};
use crate::support::{Mounted, fsync_directory};

pub(crate) fn worlds_end_as_the_model_allows() {
    let mut tally = Tally::default();
    for seed in 1000..1060 {
        model::run(seed, &mut Mounted::new(), &mut tally);
    }
    println!("{tally:?}");
    let Tally { operations, sectors_kept, sectors_lost, names_kept, names_lost } = tally;
    assert!(operations > 2000);
    let least = sectors_kept.min(sectors_lost).min(names_kept).min(names_lost);
    assert!(least > 50, "a cut that keeps or loses nothing shows nothing");
}

impl Mounted {
    fn open(&self, path: &str) -> File {
        OpenOptions::new().read(true).write(true).open(self.path(path)).unwrap()
    }

    fn walk(&self, path: &str, visit: &mut impl FnMut(String, &Path)) {
        for entry in fs::read_dir(self.path(path)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            visit(path.clone(), &entry.path());
            if entry.file_type().unwrap().is_dir() {
                self.walk(&path, visit);
            }
        }
    }
}

impl Subject for Mounted {
    fn create(&mut self, path: &str) {
        File::create_new(self.path(path)).unwrap();
    }

    fn write(&mut self, path: &str, at: u64, data: &[u8], durable: bool) -> bool {
        let before = self.mount.status().counts;
        let flags = if durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
        let file = self.open(path);
        assert_eq!(pwritev2(&file, &[IoSlice::new(data)], at, flags).unwrap(), data.len());
        let after = self.mount.status().counts;
        // The kernel may split a write at a page; all parts carry the flag.
        assert!(!durable || after.durable_writes > before.durable_writes || after.fsyncs > before.fsyncs);
        after.fsyncs > before.fsyncs
    }

    fn fsync(&mut self, path: &str) {
        // Both, by turns.
        if path.ends_with('a') {
            self.open(path).sync_all().unwrap();
        } else {
            self.open(path).sync_data().unwrap();
        }
    }

    fn truncate(&mut self, path: &str, size: u64) {
        self.open(path).set_len(size).unwrap();
    }

    fn zero(&mut self, path: &str, range: Range<u64>) {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(self.open(path), how, range.start, range.end - range.start).unwrap();
    }

    fn allocate(&mut self, path: &str, end: u64) {
        if end > 0 {
            fallocate(self.open(path), FallocateFlags::empty(), 0, end).unwrap();
        }
    }

    fn unlink(&mut self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    fn mkdir(&mut self, path: &str) {
        fs::create_dir(self.path(path)).unwrap();
    }

    fn rmdir(&mut self, path: &str) {
        fs::remove_dir(self.path(path)).unwrap();
    }

    fn rename(&mut self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn link(&mut self, path: &str, to: &str) {
        fs::hard_link(self.path(path), self.path(to)).unwrap();
    }

    fn fsync_directory(&mut self, path: &str) {
        fsync_directory(&self.path(path));
    }

    fn show(&mut self) -> Shown {
        let mut shown = Shown::new();
        self.walk("", &mut |path, full| {
            shown.insert(path, full.is_file().then(|| fs::read(full).unwrap()));
        });
        shown
    }

    fn identities(&mut self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        self.walk("", &mut |path, full| {
            found.insert(path, fs::metadata(full).unwrap().ino());
        });
        found
    }

    fn cut(&mut self, keep: f64, seed: u64) -> [u64; 4] {
        let report = Mounted::cut(self, keep, seed);
        [report.sectors_kept, report.sectors_lost, report.names_kept, report.names_lost]
    }
}

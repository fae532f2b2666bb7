//! Folders and mounts that go away.

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use powercut::{Mount, MountOptions};

/// A place to mount at and one below, on the disk.
pub(crate) struct Folder {
    pub(crate) mount: PathBuf,
    pub(crate) below: PathBuf,
    _folder: tempfile::TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (mount, below) = (folder.path().join("mount"), folder.path().join("below"));
        fs::create_dir(&mount).unwrap();
        fs::create_dir(&below).unwrap();
        Self { mount, below, _folder: folder }
    }
}

/// A mount in this process. Fields in this order: it is unmounted before its folder goes.
pub(crate) struct Mounted {
    pub(crate) mount: Mount,
    pub(crate) folder: Folder,
}

impl Mounted {
    pub(crate) fn new() -> Self {
        Self::with(&MountOptions::default())
    }

    pub(crate) fn with(options: &MountOptions) -> Self {
        let folder = Folder::new();
        let mount = Mount::start(&folder.mount, &folder.below, options).unwrap();
        Self { mount, folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.mount.join(name)
    }

    pub(crate) fn cut(&self, keep: f64, seed: u64) -> powercut::CutReport {
        let report = self.mount.cut(powercut::Cut { keep, seed: Some(seed) }).unwrap();
        self.mount.restore();
        report
    }

    /// Makes the names at the root durable.
    pub(crate) fn fsync_root(&self) {
        fsync_directory(&self.folder.mount);
    }
}

pub(crate) fn fsync_directory(path: &std::path::Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Waits for something that happens soon.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The mount points of this machine.
pub(crate) fn is_mounted(path: &std::path::Path) -> bool {
    let list = fs::read_to_string("/proc/self/mountinfo").unwrap();
    list.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

//! The folder that a run works in: one of its own, below the one it is given, and nothing else is ever removed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::error::{Result, SurviveError};

/// A folder of our own, marked as such and locked. Dropping it removes what runs have left in it, and the folder.
#[derive(Debug)]
pub(crate) struct WorkFolder {
    path: PathBuf,
    /// The folder that it lies in was made for it, and goes with it.
    made_dir: bool,
    next: AtomicU32,
    /// Held while the run lasts: two runs in one folder would clean each other away.
    _lock: File,
}

impl WorkFolder {
    /// Takes [`OWN`] in `dir` over, and cleans away what a killed run has left in it and mounted there.
    ///
    /// What is in `dir` beside it is the user's, and so is a folder of that name without our mark.
    pub(crate) fn take(dir: &Path) -> Result<WorkFolder> {
        let path = dir.join(OWN);
        let made_dir = fs::symlink_metadata(dir).is_err();
        fs::create_dir_all(&path).map_err(SurviveError::file(&path, "cannot be made"))?;
        if fs::symlink_metadata(&path).map_err(SurviveError::file(&path, "cannot be found"))?.is_symlink() {
            return Err(SurviveError::Usage(format!("{}: a link, no folder of ours", path.display())));
        }
        let path = path.canonicalize().map_err(SurviveError::file(&path, "cannot be found"))?;
        let (lock, made_dir) = lock(&path, made_dir)?;
        powercut::clean_dead_mounts(&path)
            .map_err(SurviveError::file(&path, "dead mounts cannot be cleaned"))?;
        clean(&path);
        Ok(WorkFolder { path, made_dir, next: AtomicU32::new(0), _lock: lock })
    }

    /// A fresh folder for one cluster, and its number.
    pub(crate) fn cluster(&self) -> Result<(u32, PathBuf)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{CLUSTER}{number}"));
        fs::create_dir(&path).map_err(SurviveError::file(&path, "cannot be made"))?;
        Ok((number, path))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        clean(&self.path);
        // Still locked: whoever opened it meanwhile sees that it is gone, and asks again.
        let _ = fs::remove_file(self.path.join(MARK));
        // Each only when nothing else is in it, and a user's own empty folder stays.
        if fs::remove_dir(&self.path).is_ok()
            && self.made_dir
            && let Some(dir) = self.path.parent()
        {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Locks the mark of a folder that is ours: one that carries it, or an empty one, which then does. The mark also says
/// whether the folder around it was made for a run, which may have been killed since: returned beside the lock.
fn lock(folder: &Path, made_dir: bool) -> Result<(File, bool)> {
    let path = folder.join(MARK);
    let foreign = || {
        let text = "is not ours, and would be emptied; move it away or give this run another --dir";
        SurviveError::Usage(format!("{}: {text}", folder.display()))
    };
    let is_empty = || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    for _ in 0..TRIES {
        if fs::symlink_metadata(&path).is_err() && !is_empty() {
            return Err(foreign());
        }
        let mut file = open(&path).map_err(SurviveError::file(&path, "cannot be made"))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let text = "another run works there; give this one another --dir";
            return Err(SurviveError::Usage(format!("{}: {text}", folder.display())));
        }
        // A run that ended meanwhile has removed the file that is locked here: nobody else would see this lock.
        let inode = |found: io::Result<fs::Metadata>| found.map(|found| (found.dev(), found.ino())).ok();
        if inode(file.metadata()) != inode(fs::symlink_metadata(&path)) {
            continue;
        }
        let mut text = String::new();
        (&file)
            .take(MARK_TEXT_MADE.len() as u64 + 1)
            .read_to_string(&mut text)
            .map_err(SurviveError::file(&path, "cannot be read"))?;
        // A run killed right after it made the file has left it empty.
        return match text.as_str() {
            MARK_TEXT => Ok((file, false)),
            MARK_TEXT_MADE => Ok((file, true)),
            "" => {
                let text = if made_dir { MARK_TEXT_MADE } else { MARK_TEXT };
                file.write_all(text.as_bytes()).map_err(SurviveError::file(&path, "cannot be written"))?;
                Ok((file, made_dir))
            }
            _ => Err(foreign()),
        };
    }
    Err(SurviveError::Late(format!("{}: its lock goes each time it is taken", folder.display())))
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    File::options().create(true).truncate(false).read(true).write(true).custom_flags(no_follow).open(path)
}

/// Removes what clusters have left: their folders, and the arenas of their standbys in shared memory.
fn clean(folder: &Path) {
    let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for cluster in list(folder).filter(|path| is_cluster(path)).collect::<Vec<_>>() {
        for below in list(&cluster).collect::<Vec<_>>() {
            remove_arenas(&below.join("node"));
        }
        let _ = fs::remove_dir_all(&cluster);
    }
}

fn is_cluster(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.strip_prefix(CLUSTER));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A killed standby leaves its arena in shared memory, where its next start would take it over.
pub(crate) fn remove_arenas(node_dir: &Path) {
    let identity = fs::read_to_string(node_dir.join("shard-0/identity")).unwrap_or_default();
    let value = |key: &str| identity.lines().find_map(|line| line.strip_prefix(key));
    if let Some(node) = value("node = ").filter(|node| !node.contains('/')) {
        let _ = fs::remove_file(format!("/dev/shm/towline-{node}-0"));
    }
}

/// Our folder in the one that is given.
const OWN: &str = "towline-survive";
/// The file that tells our folder from a user's, and is locked while a run lasts.
const MARK: &str = "work-folder";
const MARK_TEXT: &str = "towline survive works here; clusters in this folder are removed\n";
const MARK_TEXT_MADE: &str =
    "towline survive works here; clusters in this folder are removed, and the empty folder above\n";
const CLUSTER: &str = "cluster-";
const TRIES: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> tempfile::TempDir {
        let target = std::env::current_exe().unwrap();
        tempfile::tempdir_in(target.parent().unwrap()).unwrap()
    }

    #[test]
    fn what_a_user_keeps_in_the_folder_stays() {
        let dir = dir();
        let mine = ["cluster-backup/rows", "cluster-7/rows", "lock", "towline-survive/cluster-notes/rows"];
        let write = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        };
        mine[..3].iter().for_each(|name| write(name));
        let work = WorkFolder::take(dir.path()).unwrap();
        work.cluster().unwrap();
        // Put there while a run works: still not a cluster.
        write(mine[3]);
        drop(work);
        for name in mine {
            assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), name);
        }
        assert!(!dir.path().join(OWN).join("cluster-0").exists(), "its own is gone");
    }

    #[test]
    fn a_folder_that_was_made_for_a_run_goes_with_it_and_a_users_own_stays() {
        let dir = dir();
        let made = dir.path().join("made");
        drop(WorkFolder::take(&made).unwrap());
        assert!(!made.exists());
        drop(WorkFolder::take(dir.path()).unwrap());
        assert!(dir.path().exists() && !dir.path().join(OWN).exists());
        // Also where the run that it was made for was killed.
        let killed = WorkFolder::take(&made).unwrap();
        flock(&killed._lock, FlockOperation::Unlock).unwrap();
        std::mem::forget(killed);
        drop(WorkFolder::take(&made).unwrap());
        assert!(!made.exists());
    }

    #[test]
    fn a_folder_of_our_name_that_is_not_marked_is_left_alone() {
        for strange in ["cluster-0", MARK] {
            let dir = dir();
            let path = dir.path().join(OWN).join(strange);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "rows of a user").unwrap();
            let error = WorkFolder::take(dir.path()).unwrap_err();
            assert!(error.to_string().contains("not ours") && error.exit_code() == 2, "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "rows of a user");
        }
    }

    #[test]
    fn what_a_killed_run_left_goes_and_a_second_run_is_refused() {
        let dir = dir();
        let work = WorkFolder::take(dir.path()).unwrap();
        let (_, left) = work.cluster().unwrap();
        fs::create_dir(left.join("p-disk")).unwrap();
        let refused = WorkFolder::take(dir.path()).unwrap_err();
        assert!(refused.to_string().contains("another run works there"), "{refused}");
        assert!(left.exists(), "the one that is refused removes nothing");
        // Killed: nothing of it is dropped, but its lock is gone with it.
        fs::write(dir.path().join(OWN).join("cluster-12"), "").unwrap();
        flock(&work._lock, FlockOperation::Unlock).unwrap();
        std::mem::forget(work);
        let next = WorkFolder::take(dir.path()).unwrap();
        assert!(!left.exists());
        let (_, again) = next.cluster().unwrap();
        assert_eq!(again, left);
    }

    #[test]
    fn nothing_is_left_of_an_empty_folder() {
        let dir = dir();
        let given = dir.path().join("a/b");
        drop(WorkFolder::take(&given).unwrap());
        assert!(!given.exists() && dir.path().join("a").exists());
    }
}

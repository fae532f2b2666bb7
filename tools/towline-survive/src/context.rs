//! What every part of a run shares: the program to start, the folder to work in, and whether to stop.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Result, SurviveError};

/// What every part of a run shares.
#[derive(Debug)]
pub(crate) struct Context {
    /// This program: its nodes are children of it.
    pub(crate) program: PathBuf,
    stop: Arc<AtomicBool>,
    work: PathBuf,
    next_folder: AtomicU32,
    /// Held while the run lasts: two runs in one folder would clean each other away.
    _lock: File,
}

impl Context {
    /// Takes the work folder over, and cleans away what a killed run has left in it and mounted there.
    pub(crate) fn open(program: &Path, work: &Path, stop: Arc<AtomicBool>) -> Result<Context> {
        powercut::can_mount().map_err(powercut::MountError::Unavailable)?;
        fs::create_dir_all(work).map_err(SurviveError::file(work, "cannot be made"))?;
        let work = work.canonicalize().map_err(SurviveError::file(work, "cannot be found"))?;
        let path = work.join("lock");
        let lock = File::create(&path).map_err(SurviveError::file(&path, "cannot be made"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let text = format!("{}: another run works there; give this one another --dir", work.display());
            return Err(SurviveError::Usage(text));
        }
        powercut::clean_dead_mounts(&work)
            .map_err(SurviveError::file(&work, "dead mounts cannot be cleaned"))?;
        clean(&work);
        Ok(Context { program: program.to_owned(), stop, work, next_folder: AtomicU32::new(0), _lock: lock })
    }

    /// A fresh folder for one cluster, and its number.
    pub(crate) fn folder(&self) -> Result<(u32, PathBuf)> {
        let number = self.next_folder.fetch_add(1, Ordering::Relaxed);
        let path = self.work.join(format!("{CLUSTER}{number}"));
        fs::create_dir(&path).map_err(SurviveError::file(&path, "cannot be made"))?;
        Ok((number, path))
    }

    /// Ends a step early when the run is to stop.
    pub(crate) fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(SurviveError::Interrupted) } else { Ok(()) }
    }

    pub(crate) fn sleep(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(STEP * 10));
        }
    }

    /// Asks again and again until there is an answer.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut ask: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let end = Instant::now() + limit;
        loop {
            self.check()?;
            if let Some(answer) = ask()? {
                return Ok(answer);
            }
            if Instant::now() > end {
                return Err(SurviveError::Late(format!("{what} did not happen within {limit:?}")));
            }
            std::thread::sleep(STEP);
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        clean(&self.work);
        let _ = fs::remove_file(self.work.join("lock"));
        // Only when nothing else is in it.
        let _ = fs::remove_dir(&self.work);
    }
}

/// Removes what clusters have left: their folders, and the arenas of their standbys in shared memory.
fn clean(work: &Path) {
    let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_cluster = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(CLUSTER))
    };
    for cluster in list(work).filter(is_cluster).collect::<Vec<_>>() {
        for below in list(&cluster).collect::<Vec<_>>() {
            remove_arenas(&below.join("node"));
        }
        let _ = fs::remove_dir_all(&cluster);
    }
}

/// A killed standby leaves its arena in shared memory, where its next start would take it over.
pub(crate) fn remove_arenas(node_dir: &Path) {
    let identity = fs::read_to_string(node_dir.join("shard-0/identity")).unwrap_or_default();
    let value = |key: &str| identity.lines().find_map(|line| line.strip_prefix(key));
    if let Some(node) = value("node = ") {
        let _ = fs::remove_file(format!("/dev/shm/towline-{node}-0"));
    }
}

const CLUSTER: &str = "cluster-";
const STEP: Duration = Duration::from_millis(2);

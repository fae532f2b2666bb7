//! What every part of a run shares: the program to start, the folder to work in, and whether to stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Result, SurviveError};
use crate::work::WorkFolder;

/// What every part of a run shares.
#[derive(Debug)]
pub(crate) struct Context {
    /// This program: its nodes are children of it.
    pub(crate) program: PathBuf,
    stop: Arc<AtomicBool>,
    work: WorkFolder,
}

impl Context {
    /// Takes the work folder over, and cleans away what a killed run has left in it and mounted there.
    pub(crate) fn open(program: &Path, work: &Path, stop: Arc<AtomicBool>) -> Result<Context> {
        powercut::can_mount().map_err(powercut::MountError::Unavailable)?;
        Ok(Context { program: program.to_owned(), stop, work: WorkFolder::take(work)? })
    }

    /// A fresh folder for one cluster, and its number.
    pub(crate) fn folder(&self) -> Result<(u32, PathBuf)> {
        self.work.cluster()
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

const STEP: Duration = Duration::from_millis(2);

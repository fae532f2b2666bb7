//! The lock on a log's directory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// An exclusive lock on a directory, through `flock` on its file `lock`.
///
/// A killed process loses its descriptors at once while its last writes are still landing. Every ring
/// that writes below the directory must therefore hold the lock too
/// ([`Ring::register_lock`](crate::Ring::register_lock)): its references end after its operations.
#[derive(Debug)]
pub struct DirLock {
    file: File,
}

impl DirLock {
    /// Takes the lock, trying again for `wait`; at least a second lets a killed predecessor's ring end.
    ///
    /// # Errors
    /// [`LockError::Locked`] when another process has it all the time; otherwise the kernel's refusal.
    pub fn acquire(dir: &Path, wait: Duration) -> Result<Self, LockError> {
        let path = dir.join(FILE_NAME);
        let io = |source| LockError::Io { path: path.clone(), source };
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        let began = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { file }),
                Err(Errno::WOULDBLOCK | Errno::INTR) if began.elapsed() < wait => sleep(RETRY),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    return Err(LockError::Locked { dir: dir.to_owned() });
                }
                Err(errno) => return Err(io(errno.into())),
            }
        }
    }
}

impl AsFd for DirLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process uses the directory.
    #[error("{dir} is in use by another process (its lock file is held)")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The lock file could not be opened or locked.
    #[error("{path}: {source}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

const FILE_NAME: &str = "lock";
const RETRY: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_opener_waits_and_then_gets_it_or_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path(), Duration::ZERO).unwrap();
        let began = Instant::now();
        let refused = DirLock::acquire(dir.path(), Duration::from_millis(50));
        assert!(matches!(refused, Err(LockError::Locked { .. })));
        assert!(began.elapsed() >= Duration::from_millis(50));
        let path = dir.path().to_owned();
        let second = std::thread::spawn(move || DirLock::acquire(&path, Duration::from_secs(10)));
        std::thread::sleep(Duration::from_millis(20));
        drop(first);
        assert!(second.join().unwrap().is_ok());
        assert!(matches!(
            DirLock::acquire(&dir.path().join("absent"), Duration::ZERO),
            Err(LockError::Io { .. })
        ));
    }
}

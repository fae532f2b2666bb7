//! A mount: the disk, the kernel's session, and the control.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, MountOption, Session, SessionACL};
use rustix::io::Errno;

use crate::control::Server;
use crate::disk::{Cut, CutReport, Disk, Status};
use crate::faults::{FaultChange, Faults};
use crate::fuse::Adapter;
use crate::mountpoint;
use crate::shared::Shared;

/// How a mount behaves. [`MountOptions::default`] is a strict and fast disk without troubles.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Threads that serve the kernel, each with one request at a time: fewer than 4 would hide that writes overtake
    /// each other.
    pub threads: usize,
    /// Memory for what is not flushed, in bytes. Past it, writes and changes of names answer ENOSPC: nothing is made
    /// durable that was not asked for.
    pub limit_bytes: u64,
    /// What offsets and lengths of O_DIRECT must be a multiple of, in bytes; others answer EINVAL.
    pub alignment: u64,
    /// Flush the directory below with each flush: as slow as the real disk, and safe from a real power cut.
    pub flush_backing: bool,
    /// Let other users in, with the usual permissions.
    pub allow_other: bool,
    /// Seed of cuts that name none.
    pub seed: u64,
    /// Troubles from the start.
    pub faults: Faults,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            threads: 4,
            limit_bytes: 1 << 30,
            alignment: 512,
            flush_backing: false,
            allow_other: false,
            seed: 1,
            faults: Faults::default(),
        }
    }
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// This machine or this user cannot mount at all.
    #[error("cannot mount here: {0}")]
    Unavailable(String),
    /// The options make no sense.
    #[error("{0}")]
    Options(String),
    /// Not a place to mount at.
    #[error("{path}: {why}")]
    Mountpoint {
        /// The place.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Not a directory to mount over.
    #[error("{path}: {source}")]
    Backing {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The kernel or `fusermount3` refused, or a thread could not be started.
    #[error("mounting at {path}: {source}")]
    Session {
        /// The mount point.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Why a cut failed.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// There is nothing to cut.
    #[error("the power is off already")]
    Off,
    /// The directory below could not be written or read; its contents are in doubt.
    #[error("the directory below: {0}; its contents are in doubt")]
    Backing(io::Error),
}

/// A file system that forgets on command what was not flushed; unmounted when dropped.
///
/// # Examples
/// ```no_run
/// use powercut::{Cut, Mount, MountOptions};
/// use std::{fs, io::Write};
///
/// let mount = Mount::start("/tmp/m".as_ref(), "/tmp/below".as_ref(), &MountOptions::default())?;
/// let mut file = fs::File::create("/tmp/m/a")?;
/// file.write_all(b"kept")?;
/// file.sync_all()?;
/// fs::File::open("/tmp/m")?.sync_all()?; // and its name
/// file.write_all(b" and lost")?;
/// mount.cut(Cut::NOTHING)?;
/// assert!(file.write_all(b"no").is_err(), "what was open stays dead");
/// mount.restore();
/// assert_eq!(fs::read("/tmp/m/a")?, b"kept");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Mount {
    mountpoint: PathBuf,
    device: u64,
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
    _control: Server,
    stopper: Stopper,
    stopped: Receiver<()>,
}

/// Ends [`Mount::wait`].
#[derive(Clone, Debug)]
pub struct Stopper(Sender<()>);

impl Stopper {
    /// Asks for the end.
    pub fn stop(&self) {
        // Nobody waits any more: then it has ended.
        let _ = self.0.send(());
    }
}

impl Mount {
    /// Mounts at `mountpoint`, an empty directory, over `backing`, which holds what is durable and nothing else.
    /// A mount that a killed process left there is cleaned first.
    ///
    /// # Errors
    /// [`MountError`]; nothing is left mounted.
    pub fn start(mountpoint: &Path, backing: &Path, options: &MountOptions) -> Result<Self, MountError> {
        check(options)?;
        mountpoint::can_mount().map_err(MountError::Unavailable)?;
        mountpoint::clean_dead_mounts(mountpoint).map_err(|e| session_error(mountpoint, e))?;
        let (mountpoint, backing) = check_places(mountpoint, backing)?;
        let backing_error = |source| MountError::Backing { path: backing.clone(), source };
        let mut disk = Disk::open(&backing, options.limit_bytes, options.alignment).map_err(backing_error)?;
        (disk.faults, disk.seed) = (options.faults, options.seed);
        let (listener, name) = Server::bind().map_err(|e| session_error(&mountpoint, e))?;
        let shared = Arc::new(Shared::new(disk, options.flush_backing, name.clone()));
        let session = Session::new(Adapter(shared.clone()), &mountpoint, &config(options))
            .and_then(Session::spawn)
            .map_err(|error| {
                let _ = shared.disk().close();
                mountpoint::explain(&error)
                    .map_or_else(|| session_error(&mountpoint, error), MountError::Unavailable)
            })?;
        let (sender, stopped) = channel();
        let stopper = Stopper(sender);
        let on_unmount = stopper.clone();
        // From here on the session unmounts when it is dropped.
        let control = Server::start(listener, name, shared.clone(), move || on_unmount.stop())
            .map_err(|e| session_error(&mountpoint, e))?;
        let device = mountpoint::device(&mountpoint).map_err(|e| session_error(&mountpoint, e))?;
        Ok(Self { mountpoint, device, shared, session: Some(session), _control: control, stopper, stopped })
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Cuts the power: what was not flushed is gone, except what `cut` says had reached the disk by chance. Every
    /// operation answers EIO until [`restore`](Self::restore), and for ever on what is open now.
    ///
    /// # Errors
    /// [`CutError`].
    pub fn cut(&self, cut: Cut) -> Result<CutReport, CutError> {
        self.shared.disk().cut(cut).map_err(|errno| match errno {
            Errno::ALREADY => CutError::Off,
            errno => CutError::Backing(errno.into()),
        })
    }

    /// Switches the power on again: what is durable can be seen.
    pub fn restore(&self) {
        self.shared.disk().restore();
    }

    /// Changes the troubles.
    pub fn change_faults(&self, change: &FaultChange) {
        self.shared.disk().faults.apply(change);
    }

    /// What it holds.
    pub fn status(&self) -> Status {
        self.shared.disk().status()
    }

    /// Something that ends [`wait`](Self::wait).
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits until the mount is to end: by a [`Stopper`], by `powercut unmount`, or because somebody unmounted it.
    pub fn wait(&self) {
        let is_over = || self.session.as_ref().is_none_or(|session| session.guard.is_finished());
        while !is_over() && self.stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {}
    }

    /// Makes everything durable, as a clean shutdown does, and unmounts. Who still uses it gets EIO.
    ///
    /// # Errors
    /// The directory below could not be written, or the mount point is still there.
    pub fn unmount(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(session) = self.session.take() else { return Ok(()) };
        // Without users, the kernel first writes what it still has.
        let mut result = Ok(());
        let over = session.guard.is_finished()
            || (mountpoint::unmount(&self.mountpoint).is_ok() && finishes(&session, UNMOUNT_LIMIT));
        let flushed = self.shared.disk().close();
        if !over {
            result = mountpoint::detach(&self.mountpoint);
            if mountpoint::abort(self.device) {
                finishes(&session, ABORT_LIMIT);
            }
        }
        drop(session);
        flushed?;
        result
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("powercut: unmounting {}: {error}", self.mountpoint.display());
        }
    }
}

fn finishes(session: &BackgroundSession, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    while !session.guard.is_finished() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

fn config(options: &MountOptions) -> fuser::Config {
    let mut config = fuser::Config::default();
    config.mount_options = vec![
        MountOption::FSName(mountpoint::SOURCE.to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoAtime,
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads);
    config.clone_fd = true;
    config
}

fn check(options: &MountOptions) -> Result<(), MountError> {
    if !(1..=MAX_THREADS).contains(&options.threads) {
        return Err(MountError::Options(format!("threads: 1 to {MAX_THREADS}, not {}", options.threads)));
    }
    if !options.alignment.is_power_of_two() || !(512..=4096).contains(&options.alignment) {
        return Err(MountError::Options(format!(
            "alignment: 512, 1024, 2048 or 4096, not {}",
            options.alignment
        )));
    }
    Ok(())
}

/// Both places, with all links resolved. One inside the other would be a file system over itself, which hangs.
fn check_places(mountpoint: &Path, backing: &Path) -> Result<(PathBuf, PathBuf), MountError> {
    let refuse = |why: String| MountError::Mountpoint { path: mountpoint.to_owned(), why };
    if mountpoint::is_dead(mountpoint) {
        return Err(refuse(
            "a dead mount, left by a killed process of another user; unmount it first".to_owned(),
        ));
    }
    let place = mountpoint.canonicalize().map_err(|error| refuse(error.to_string()))?;
    if mountpoint::is_mountpoint(&place).map_err(|e| session_error(mountpoint, e))? {
        return Err(refuse("something is mounted there already".to_owned()));
    }
    let mut entries = std::fs::read_dir(&place).map_err(|error| refuse(error.to_string()))?;
    if entries.next().is_some() {
        return Err(refuse("not empty".to_owned()));
    }
    let below =
        backing.canonicalize().map_err(|source| MountError::Backing { path: backing.to_owned(), source })?;
    if place.starts_with(&below) || below.starts_with(&place) {
        return Err(refuse(format!("must lie outside of {}, and not above it", below.display())));
    }
    Ok((place, below))
}

fn session_error(path: &Path, source: io::Error) -> MountError {
    MountError::Session { path: path.to_owned(), source }
}

const MAX_THREADS: usize = 64;
const LOOK: Duration = Duration::from_millis(100);
const UNMOUNT_LIMIT: Duration = Duration::from_secs(10);
const ABORT_LIMIT: Duration = Duration::from_secs(2);

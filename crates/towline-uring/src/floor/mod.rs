//! Floors: what disk and network give to a bare ring, without any of Towline's logic.
//!
//! Each measurement is run twice, spinning (with `sched_yield` between polls: a bare spin would starve
//! the kernel's network processing on a small machine) and sleeping in the kernel, and the better one is
//! the floor. All are bounded by samples and time, and remove their files. The second process is the
//! program itself, started with the arguments that [`Peer`] names; there it calls [`peer_main`].

mod disk;
mod net;
mod pair;
mod peer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::arena::{ArenaConfig, ArenaError, ArenaOwner, Backing};
use crate::fd::RingFd;
use crate::file::{DataFile, FileError, FileMode};
use crate::ops::Completion;
use crate::ring::{Ring, RingConfig, RingError, Wait};

pub use disk::{DepthRate, durable_write, durable_write_in, durable_writes_per_s, sequential_write};
pub(crate) use disk::{FlushWay, run_at_depth};
pub use net::{round_trip, stream};
pub use pair::pair_commit;
pub use peer::{Peer, peer_main};

/// How much is measured: whichever is reached first, for each way of waiting.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Samples, after a short warm-up.
    pub samples: usize,
    /// Time.
    pub time: Duration,
}

/// The files of a measurement: where, and how they are opened.
#[derive(Clone, Debug)]
pub struct Place {
    /// A directory on the device that is measured.
    pub dir: PathBuf,
    /// As the log's files will be opened.
    pub mode: FileMode,
}

/// How a measurement waited for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Polling, with `sched_yield` between polls.
    Spinning,
    /// Asleep in the kernel.
    Parked,
}

/// Latencies in nanoseconds, as they came, and how they were waited for.
#[derive(Clone, Debug)]
pub struct Samples {
    /// One per operation, unsorted, warm-up left out.
    pub ns: Vec<u64>,
    /// The better way on this machine.
    pub waiting: Waiting,
}

impl Samples {
    /// The value below which the given share of the samples lies; 0 without samples.
    pub fn quantile_ns(&self, share: f64) -> u64 {
        quantile(&mut self.ns.clone(), share)
    }
}

/// A rate, and how it was waited for.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Per second: bytes or operations.
    pub per_s: f64,
    /// The better way on this machine.
    pub waiting: Waiting,
}

/// Why a floor could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// No ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// No memory.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// No file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// The step.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// A measured operation failed.
    #[error("{what} failed: {errno}")]
    Operation {
        /// The operation.
        what: &'static str,
        /// The cause.
        errno: Errno,
    },
    /// An operation moved fewer bytes than asked for.
    #[error("{what} stopped after {bytes} bytes")]
    Short {
        /// The operation.
        what: &'static str,
        /// Bytes moved.
        bytes: u32,
    },
    /// Nothing completed for ten seconds.
    #[error("no completion for {} seconds", PATIENCE.as_secs())]
    Stalled,
    /// The peer process said or did something unexpected.
    #[error("the peer process: {0}")]
    Peer(String),
}

/// A ring with a small arena, and a way to wait.
struct Meter {
    ring: Ring,
    waiting: Waiting,
}

impl Meter {
    fn new(arena_size: usize, waiting: Waiting) -> Result<Self, FloorError> {
        let mut arena = ArenaOwner::new(ArenaConfig {
            size: arena_size,
            backing: Backing::Anonymous,
            block: BLOCK,
            header_len: 0,
            void_header: |len| (len as u64).to_le_bytes(),
            start: 0,
        })?;
        // Touched before the clock runs: the first write to a page is a fault.
        if let Some(bytes) = arena.bytes_mut(0..arena_size as u64) {
            bytes.fill(0xa5);
        }
        let ring = Ring::new(RingConfig { depth: 64, files: 8 }, arena)?;
        Ok(Self { ring, waiting })
    }

    /// Submits what is queued and waits for one completion.
    fn next(&mut self) -> Result<Completion, FloorError> {
        let mut idle_since: Option<Instant> = None;
        loop {
            if let Some(completion) = self.ring.next_completion() {
                return Ok(completion);
            }
            let ready = match self.waiting {
                Waiting::Spinning => self.ring.submit_and_wait(Wait::Poll)?,
                Waiting::Parked => self.ring.submit_and_wait(Wait::Until(Duration::from_millis(500)))?,
            };
            if ready == 0 {
                if idle_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err(FloorError::Stalled);
                }
                if self.waiting == Waiting::Spinning {
                    std::thread::yield_now();
                }
            }
        }
    }
}

/// How the name of a [`ScratchFile`] begins; behind it stands the process id.
pub const SCRATCH_PREFIX: &str = ".towline-floor-";

/// A zero-filled file, removed at the end.
#[derive(Debug)]
pub struct ScratchFile {
    file: DataFile,
    path: PathBuf,
    blocks: u64,
}

impl ScratchFile {
    /// Fills `len` bytes with zeros and flushes them.
    ///
    /// # Errors
    /// [`FloorError::File`].
    pub fn new(place: &Place, len: u64) -> Result<Self, FloorError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = place.dir.join(format!("{SCRATCH_PREFIX}{}-{number}", std::process::id()));
        let file = DataFile::create(&path, place.mode)?;
        // From here on the drop removes it, also when the disk is full.
        let this = Self { file, path, blocks: len / BLOCK };
        this.file.prealloc_zeroed(len)?;
        Ok(this)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn attach(&self, ring: &mut Ring) -> Result<RingFd, FloorError> {
        Ok(ring.attach(&self.file)?)
    }

    /// Offset of the n-th write: round and round, always over written blocks.
    fn offset(&self, n: u64) -> u64 {
        n % self.blocks * BLOCK
    }
}

impl Drop for ScratchFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Runs a latency measurement both ways; the lower median wins.
fn better_samples(
    mut measure: impl FnMut(Waiting) -> Result<Vec<u64>, FloorError>,
) -> Result<Samples, FloorError> {
    let mut best: Option<Samples> = None;
    for waiting in [Waiting::Parked, Waiting::Spinning] {
        let samples = Samples { ns: measure(waiting)?, waiting };
        if best.as_ref().is_none_or(|best| samples.quantile_ns(0.5) < best.quantile_ns(0.5)) {
            best = Some(samples);
        }
    }
    best.ok_or(FloorError::Stalled)
}

/// Runs a rate measurement both ways; the higher rate wins.
fn better_rate(mut measure: impl FnMut(Waiting) -> Result<f64, FloorError>) -> Result<Rate, FloorError> {
    let parked = Rate { per_s: measure(Waiting::Parked)?, waiting: Waiting::Parked };
    let spinning = Rate { per_s: measure(Waiting::Spinning)?, waiting: Waiting::Spinning };
    Ok(if spinning.per_s > parked.per_s { spinning } else { parked })
}

fn expect_bytes(what: &'static str, completion: &Completion, len: u64) -> Result<(), FloorError> {
    match completion.result {
        Ok(bytes) if u64::from(bytes) == len => Ok(()),
        Ok(bytes) => Err(FloorError::Short { what, bytes }),
        Err(errno) => Err(FloorError::Operation { what, errno }),
    }
}

fn io(what: &'static str) -> impl FnOnce(io::Error) -> FloorError {
    move |source| FloorError::Io { what, source }
}

pub(crate) fn quantile(ns: &mut [u64], share: f64) -> u64 {
    if ns.is_empty() {
        return 0;
    }
    let index = ((ns.len() - 1) as f64 * share.clamp(0.0, 1.0)).round() as usize;
    *ns.select_nth_unstable(index).1
}

/// The course of one run: a warm-up (a twentieth of the samples, a tenth of the time), then samples
/// until a limit is reached, and at least one of them however slow the device is.
struct Course {
    limits: Limits,
    start: Instant,
    warm_left: usize,
    /// When the warm-up ended.
    clock: Instant,
    ns: Vec<u64>,
}

impl Course {
    fn new(limits: Limits) -> Self {
        let start = Instant::now();
        let warm_left = (limits.samples / 20).clamp(1, 200);
        Self { limits, start, warm_left, clock: start, ns: Vec::with_capacity(limits.samples.min(1 << 20)) }
    }

    fn goes_on(&self) -> bool {
        self.ns.is_empty() || (self.ns.len() < self.limits.samples && self.start.elapsed() < self.limits.time)
    }

    fn sample(&mut self, began: Instant) {
        if self.warm_left == 0 {
            self.ns.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
            return;
        }
        self.warm_left -= 1;
        if self.start.elapsed() > self.limits.time / 10 {
            self.warm_left = 0;
        }
        self.clock = Instant::now();
    }

    fn per_s(&self) -> f64 {
        self.ns.len() as f64 / self.clock.elapsed().as_secs_f64().max(1e-9)
    }
}

impl Place {
    /// A directory with files opened in the given mode.
    pub fn new(dir: impl AsRef<Path>, mode: FileMode) -> Self {
        Self { dir: dir.as_ref().to_owned(), mode }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Waiting {
    fn name(self) -> &'static str {
        match self {
            Self::Spinning => "spinning",
            Self::Parked => "parked",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Spinning, Self::Parked].into_iter().find(|waiting| waiting.name() == name)
    }
}

const BLOCK: u64 = 4096;
const PATIENCE: Duration = Duration::from_secs(10);
/// Small enough to be prepared in an instant, large enough that writes do not meet in the device.
const FILE_LEN: u64 = 32 << 20;

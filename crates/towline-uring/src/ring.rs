//! The ring: one raw io_uring, the arena it works on, and the table of operations in flight.
#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, squeue};
use rustix::io::Errno;

use crate::arena::ArenaOwner;
use crate::fd::{FdTable, RingFd};
use crate::lock::DirLock;
use crate::ops::Completion;
use crate::provided::Provided;
use crate::table::OpTable;
use crate::wake::EventFd;

/// Sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub struct RingConfig {
    /// Operations that may be in flight at a time, 8 to 16,384. A tight memlock limit may make it fewer.
    pub depth: u32,
    /// Entries of the fixed-file table, 8 to 16,384.
    pub files: u32,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self { depth: 512, files: 256 }
    }
}

/// A raw io_uring with its arena. It lives and dies on the thread that made it.
///
/// Methods that submit queue an operation under the caller's tag; nothing reaches the kernel before
/// [`submit_and_wait`](Ring::submit_and_wait), to be called once per turn (or before the queue fills,
/// which submits by itself). Then [`next_completion`](Ring::next_completion) until `None`.
///
/// Dropping the ring discards what was never submitted, cancels the rest and waits for it.
pub struct Ring {
    pub(crate) uring: IoUring,
    pub(crate) arena: ArenaOwner,
    pub(crate) ops: OpTable,
    pub(crate) fds: FdTable,
    pub(crate) registered: bool,
    pub(crate) provided: Option<Provided>,
    /// Submission entries pushed so far; those still in the queue are the last `submission().len()`.
    pub(crate) pushed: u64,
    stats: RingStats,
    /// SINGLE_ISSUER binds the ring to the thread that made it.
    _not_send: PhantomData<*const ()>,
}

impl Ring {
    /// Sets up a ring on this thread and registers the arena with it. Where the memlock limit does not
    /// allow that, the ring works without ([`registered`](Self::registered)).
    ///
    /// # Errors
    /// [`RingError`]: io_uring is switched off, blocked, or the kernel is too old.
    pub fn new(config: RingConfig, arena: ArenaOwner) -> Result<Self, RingError> {
        let (uring, depth) = set_up(config.depth.clamp(MIN_DEPTH, 16_384))?;
        let files = config.files.clamp(8, 16_384);
        let ring_id = NEXT_RING.fetch_add(1, Ordering::Relaxed);
        uring
            .submitter()
            .register_files_sparse(files)
            .map_err(|source| RingError::Io { what: "register the file table", source })?;
        let (base, len) = arena.memory();
        let memory = libc::iovec { iov_base: base.cast(), iov_len: len };
        // SAFETY: the kernel pins the pages themselves. Their addresses are used by operations only, each
        // of which pins its range in the arena, and an arena with pins never unmaps.
        let registered = unsafe { uring.submitter().register_buffers(&[memory]) }.is_ok();
        let provided = Provided::register(&uring).ok();
        Ok(Self {
            uring,
            provided,
            arena,
            ops: OpTable::new(depth, ring_id),
            fds: FdTable::new(files, ring_id),
            registered,
            pushed: 0,
            stats: RingStats::default(),
            _not_send: PhantomData,
        })
    }

    /// The arena.
    pub fn arena(&self) -> &ArenaOwner {
        &self.arena
    }

    /// The arena, to open, close, fill and release.
    pub fn arena_mut(&mut self) -> &mut ArenaOwner {
        &mut self.arena
    }

    /// True when the arena is registered memory; false where RLIMIT_MEMLOCK did not allow it.
    pub fn registered(&self) -> bool {
        self.registered
    }

    /// True where receives can stay armed ([`recv_multishot`](Self::recv_multishot)).
    pub fn has_multishot(&self) -> bool {
        self.provided.is_some()
    }

    /// Counters since the ring was made.
    pub fn stats(&self) -> RingStats {
        self.stats
    }

    /// Operations that have not had their last completion.
    pub fn in_flight(&self) -> usize {
        self.ops.in_flight()
    }

    /// Operations that can be submitted before some complete.
    pub fn free_slots(&self) -> usize {
        self.ops.free_slots()
    }

    /// Puts a descriptor into the ring's table; the ring keeps the file open until it is detached.
    ///
    /// # Errors
    /// [`RingError::TooManyFiles`], or the kernel's refusal.
    pub fn attach(&mut self, fd: impl AsFd) -> Result<RingFd, RingError> {
        let index = self.fds.next_free().ok_or(RingError::TooManyFiles)?;
        self.uring
            .submitter()
            .register_files_update(index, &[fd.as_fd().as_raw_fd()])
            .map_err(|source| RingError::Io { what: "attach a descriptor", source })?;
        self.fds.take().ok_or(RingError::TooManyFiles)
    }

    /// Takes a descriptor out of the table. Operations in flight on it go on; the file is closed when
    /// they end (cancel them first where they would wait for ever).
    ///
    /// # Errors
    /// [`RingError::Detached`] when it is not attached, or the kernel's refusal.
    pub fn detach(&mut self, fd: RingFd) -> Result<(), RingError> {
        self.check(fd)?;
        // An entry still in the queue names the table's slot, not the file: it must not meet the next one.
        if !self.uring.submission().is_empty() {
            self.submit_and_wait(Wait::No)?;
        }
        self.uring
            .submitter()
            .register_files_update(fd.index, &[-1])
            .map_err(|source| RingError::Io { what: "detach a descriptor", source })?;
        self.fds.give_back(fd);
        Ok(())
    }

    /// Keeps the directory's lock held for as long as the ring exists in the kernel: after a SIGKILL
    /// that is until its last write has landed.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn register_lock(&mut self, lock: &DirLock) -> Result<RingFd, RingError> {
        if bug!(LockFreedEarly) {
            return self.attach(std::io::stdin());
        }
        self.attach(lock)
    }

    /// Completions signal `event`, for hosts that sleep on it.
    ///
    /// # Errors
    /// The kernel's refusal (one eventfd per ring).
    pub fn register_eventfd(&mut self, event: &EventFd) -> Result<(), RingError> {
        self.uring
            .submitter()
            .register_eventfd(event.as_raw_fd())
            .map_err(|source| RingError::Io { what: "register the eventfd", source })
    }

    /// Submits what is queued and waits as told; returns how many completions are ready.
    ///
    /// Without anything queued, and with nothing that only an enter can bring, there is no system call.
    ///
    /// # Errors
    /// [`RingError::Io`] when the kernel refuses the enter itself.
    pub fn submit_and_wait(&mut self, wait: Wait) -> Result<usize, RingError> {
        let submission = self.uring.submission();
        let queued = submission.len() as u32;
        let work_pending = submission.taskrun() || submission.cq_overflow();
        drop(submission);
        let ready = self.uring.completion().len();
        match wait {
            Wait::No if queued == 0 => return Ok(ready),
            Wait::No => self.enter(queued, EnterFlags::empty(), None)?,
            Wait::Until(timeout) if ready == 0 && !timeout.is_zero() => {
                self.stats.waits += 1;
                self.enter(queued, EnterFlags::GETEVENTS, Some(timeout))?;
            }
            _ if queued == 0 && !work_pending => return Ok(ready),
            _ => self.enter(queued, EnterFlags::GETEVENTS, None)?,
        }
        Ok(self.uring.completion().len())
    }

    /// The next completion, in the order in which the kernel posted them.
    pub fn next_completion(&mut self) -> Option<Completion> {
        loop {
            let entry = self.uring.completion().next()?;
            self.stats.completions += 1;
            let provided = self.provided.as_mut();
            if let Some(completion) = self.ops.complete(&entry, &mut self.arena, provided) {
                return Some(completion);
            }
        }
    }

    /// Hands every ready completion to `handle`; returns how many there were.
    pub fn drain(&mut self, mut handle: impl FnMut(Completion)) -> usize {
        let mut count = 0;
        while let Some(completion) = self.next_completion() {
            handle(completion);
            count += 1;
        }
        count
    }

    pub(crate) fn check(&self, fd: RingFd) -> Result<(), RingError> {
        if self.fds.is_current(fd) { Ok(()) } else { Err(RingError::Detached) }
    }

    /// Makes room for `count` entries that must be submitted together.
    pub(crate) fn make_room(&mut self, count: usize) -> Result<(), RingError> {
        let submission = self.uring.submission();
        let free = submission.capacity() - submission.len();
        drop(submission);
        if free < count {
            self.submit_and_wait(Wait::No)?;
            let submission = self.uring.submission();
            if submission.capacity() - submission.len() < count {
                return Err(RingError::TooManyInFlight);
            }
        }
        Ok(())
    }

    /// # Safety
    /// Everything the entry points to stays valid, and is left alone as its kind demands, until its last
    /// completion: it is pinned in the arena, owned by the operation's slot, or part of the slot.
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> Result<(), RingError> {
        // SAFETY: the caller's promise is the one that `push` asks for.
        unsafe { self.uring.submission().push(entry) }.map_err(|_| RingError::TooManyInFlight)?;
        self.pushed += 1;
        self.stats.submissions += 1;
        Ok(())
    }

    fn enter(&mut self, queued: u32, flags: EnterFlags, wait: Option<Duration>) -> Result<(), RingError> {
        self.stats.enters += 1;
        self.stats.submitting += u64::from(queued > 0);
        let submitter = self.uring.submitter();
        let result = match wait {
            // SAFETY: no argument is passed; what the queued entries point to is kept as `push` says.
            None => unsafe { submitter.enter::<libc::sigset_t>(queued, 0, flags.bits(), None) },
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                let args = SubmitArgs::new().timespec(&timeout);
                let flags = flags | EnterFlags::EXT_ARG;
                // SAFETY: `args` and the time it names live on this stack frame beyond the call; the
                // queued entries are as above.
                unsafe { submitter.enter(queued, 1, flags.bits(), Some(&args)) }
            }
        };
        match result {
            Ok(_) => Ok(()),
            // Time is up, a signal, or the completion queue must be emptied first: all end the turn.
            Err(error) if is_end_of_turn(&error) => Ok(()),
            Err(source) => Err(RingError::Io { what: "io_uring_enter", source }),
        }
    }

    /// Waits for everything that the kernel knows of; false when that took too long.
    fn quiesce(&mut self) -> bool {
        let queued = self.uring.submission().len() as u64;
        self.ops.discard_unsubmitted(self.pushed - queued, &mut self.arena);
        if self.ops.in_flight() == 0 {
            return true;
        }
        let limit = Timespec::from(CANCEL_WAIT);
        // Failing to cancel leaves more to wait for, no more.
        let _ = self.uring.submitter().register_sync_cancel(Some(limit), CancelBuilder::any());
        let deadline = Instant::now() + QUIESCE_LIMIT;
        while self.ops.in_flight() > 0 && Instant::now() < deadline {
            self.drain(drop);
            if self.ops.in_flight() > 0 {
                // Zero to submit: what is still queued stays out of the kernel.
                if self.enter(0, EnterFlags::GETEVENTS, Some(Duration::from_millis(20))).is_err() {
                    return false;
                }
            }
        }
        self.ops.in_flight() == 0
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.uring.as_raw_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.quiesce() {
            // The kernel may still use them; the arena, with its pins, does likewise.
            self.ops.leak_buffers();
            std::mem::forget(self.provided.take());
        }
    }
}

/// How long [`Ring::submit_and_wait`] waits for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Submit what is queued, look for nothing.
    No,
    /// Submit what is queued, and collect what is ready. For loops that spin: yield between calls.
    Poll,
    /// Submit what is queued, and sleep until one completion is ready or the time is over.
    Until(Duration),
}

/// What a ring has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingStats {
    /// Calls of io_uring_enter, of every kind.
    pub enters: u64,
    /// Those of them that submitted something.
    pub submitting: u64,
    /// Those of them that were allowed to sleep.
    pub waits: u64,
    /// Submission entries.
    pub submissions: u64,
    /// Completion entries.
    pub completions: u64,
}

/// Why a ring could not be made, or an operation not be queued. A failed operation is not among these:
/// its completion says so.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Switched off by the administrator.
    #[error("io_uring is disabled on this system: set the sysctl kernel.io_uring_disabled to 0")]
    Disabled,
    /// Refused although the system allows it.
    #[error(
        "io_uring is blocked for this process (EPERM): a seccomp profile, as containers use, must allow \
         io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Blocked,
    /// The kernel lacks io_uring or one of the features used.
    #[error("this kernel is too old for Towline's io_uring: 6.1 or newer is needed")]
    KernelTooOld,
    /// Not even the smallest ring fits.
    #[error(
        "no memory for io_uring: raise the memlock limit (ulimit -l; it counts per user, over all processes)"
    )]
    MemoryLimit,
    /// Every slot of the table, or of the submission queue, is taken.
    #[error("too many operations in flight")]
    TooManyInFlight,
    /// The fixed-file table is full.
    #[error("too many descriptors attached to the ring")]
    TooManyFiles,
    /// The descriptor was detached before.
    #[error("the descriptor is not attached to the ring")]
    Detached,
    /// The range is not the owner's to give: producers or operations have it, or it is not in the arena.
    #[error("the arena range {start}..{end} is in use or outside the arena")]
    Range {
        /// Start of the range.
        start: u64,
        /// End of the range, exclusive.
        end: u64,
    },
    /// No provided buffers: the kernel refused them.
    #[error("receives cannot stay armed here: the kernel provides no buffers")]
    NoMultishot,
    /// The range exceeds its buffer, or is empty.
    #[error("the range does not lie in the buffer")]
    BufferRange,
    /// The kernel refused a call on the ring itself.
    #[error("{what}: {source}")]
    Io {
        /// The call.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// Sets up the ring; its own queues count against the memlock limit too, so that a smaller one may do
/// where the wanted one does not fit.
fn set_up(mut depth: u32) -> Result<(IoUring, u32), RingError> {
    loop {
        let built = IoUring::builder()
            .dontfork()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize((4 * depth).next_power_of_two())
            .build(depth.next_power_of_two());
        let source = match built {
            Ok(uring) => return Ok((uring, depth)),
            Err(source) => source,
        };
        match Errno::from_io_error(&source) {
            Some(Errno::NOMEM) if depth > MIN_DEPTH => depth = (depth / 2).max(MIN_DEPTH),
            Some(Errno::NOMEM) => return Err(RingError::MemoryLimit),
            Some(Errno::PERM | Errno::ACCESS) => {
                let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
                let disabled = setting.is_ok_and(|value| value.trim() != "0");
                return Err(if disabled { RingError::Disabled } else { RingError::Blocked });
            }
            Some(Errno::NOSYS | Errno::INVAL) => return Err(RingError::KernelTooOld),
            _ => return Err(RingError::Io { what: "set up io_uring", source }),
        }
    }
}

fn is_end_of_turn(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN))
}

static NEXT_RING: AtomicU32 = AtomicU32::new(1);
const MIN_DEPTH: u32 = 8;
const CANCEL_WAIT: Duration = Duration::from_secs(1);
/// A disk that does not answer for this long will not be waited for.
const QUIESCE_LIMIT: Duration = Duration::from_secs(30);

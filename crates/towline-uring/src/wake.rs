//! Waking a shard that sleeps: an eventfd, and a word that saves the system call while it is awake.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

/// An eventfd: a counter in the kernel that a ring, a glommio task or a thread can wait for.
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    /// A new counter at zero.
    ///
    /// # Errors
    /// The kernel's, when descriptors are used up.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: rustix::event::eventfd(0, EventfdFlags::CLOEXEC)? })
    }

    /// Adds one and wakes who waits.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(&self) -> io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, &1u64.to_ne_bytes()))?;
        Ok(())
    }

    /// Waits until the counter is not zero, takes it and returns it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut count))?;
        Ok(u64::from_ne_bytes(count))
    }

    /// Takes the counter if it is not zero, without waiting. For one reader at a time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn try_read(&self) -> io::Result<Option<u64>> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&now)))? == 0 {
            Ok(None)
        } else {
            self.read().map(Some)
        }
    }

    /// A second descriptor of the same counter.
    ///
    /// # Errors
    /// The kernel's, when descriptors are used up.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// How producers wake a shard: a system call only when it said that it sleeps. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Wake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    word: AtomicU32,
    event: EventFd,
}

impl Wake {
    /// A wake whose shard is awake.
    ///
    /// # Errors
    /// The kernel's, when descriptors are used up.
    pub fn new() -> io::Result<Self> {
        Ok(Self { inner: Arc::new(Inner { word: AtomicU32::new(AWAKE), event: EventFd::new()? }) })
    }

    /// To be called after the work was made visible. Wakes the shard if it sleeps; true if it did.
    #[inline]
    pub fn notify(&self) -> bool {
        // Pairs with the fence in `park`: either we see PARKED, or the shard's second look sees the work.
        fence(Ordering::SeqCst);
        self.inner.word.load(Ordering::Relaxed) == PARKED && self.notify_parked()
    }

    /// The shard is about to sleep. After this call it must look for work once more, and sleep only if
    /// it found none.
    pub fn park(&self) {
        self.inner.word.store(PARKED, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The shard is awake again.
    pub fn unpark(&self) {
        self.inner.word.store(AWAKE, Ordering::SeqCst);
    }

    /// What a sleeping shard waits on.
    pub fn event(&self) -> &EventFd {
        &self.inner.event
    }

    #[cold]
    fn notify_parked(&self) -> bool {
        self.inner.word.swap(AWAKE, Ordering::SeqCst) == PARKED && self.inner.event.write().is_ok()
    }
}

/// A second descriptor of `event` as a glommio file, so that a task in its executor can sleep on it
/// with `read_at(0, 8)`.
///
/// # Errors
/// The kernel's, when descriptors are used up.
#[cfg(feature = "glommio")]
#[allow(unsafe_code)]
pub fn glommio_eventfd(event: &EventFd) -> io::Result<glommio::io::BufferedFile> {
    use std::os::fd::{FromRawFd, IntoRawFd};

    let own = event.fd.try_clone()?.into_raw_fd();
    // SAFETY: the descriptor is a fresh duplicate that nobody else owns; the file takes it over.
    Ok(unsafe { glommio::io::BufferedFile::from_raw_fd(own) })
}

const AWAKE: u32 = 0;
const PARKED: u32 = 1;

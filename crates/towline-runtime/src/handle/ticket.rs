//! A pending append, for its client: a `Future` on any runtime, and a blocking wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use towline_core::format::Committed;
use towline_core::types::{Lsn, TicketId};

use super::shared::{Command, ShardShared};
use super::slots::SlotState;
use crate::clock::deadline;
use crate::error::TicketError;

/// A pending append (or a `wait` for a position). Dropping it gives up the answer, not the record.
#[must_use = "a ticket that is dropped gives up its acknowledgement"]
pub struct Ticket {
    lsn: Lsn,
    end: Lsn,
    inner: Inner,
}

enum Inner {
    /// Level `off`: acknowledged when it got its LSN.
    Ready(Committed),
    Slot {
        id: TicketId,
        shared: Arc<ShardShared>,
    },
    Taken,
}

impl Ticket {
    pub(crate) fn ready(committed: Committed) -> Ticket {
        Ticket { lsn: committed.lsn, end: committed.end, inner: Inner::Ready(committed) }
    }

    pub(crate) fn pending(id: TicketId, lsn: Lsn, end: Lsn, shared: Arc<ShardShared>) -> Ticket {
        Ticket { lsn, end, inner: Inner::Slot { id, shared } }
    }

    /// LSN of the (first) record.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// One past its last byte.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// The outcome, if it is there: once. For a thread that polls many tickets; it registers no waker.
    pub fn try_get(&mut self) -> Option<Result<Committed, TicketError>> {
        match &self.inner {
            Inner::Ready(committed) => {
                let committed = *committed;
                self.inner = Inner::Taken;
                Some(Ok(committed))
            }
            Inner::Slot { id, shared } => match shared.slots.poll(*id, self.lsn, self.end) {
                SlotState::Pending => None,
                SlotState::Done(outcome) => {
                    self.inner = Inner::Taken;
                    Some(outcome)
                }
            },
            Inner::Taken => Some(Err(TicketError::Indeterminate("its outcome was taken before".to_owned()))),
        }
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// [`TicketError`].
    pub fn wait(mut self) -> Result<Committed, TicketError> {
        self.wait_until(None).unwrap_or_else(|| Err(TicketError::Indeterminate("unknown".to_owned())))
    }

    /// Waits for the outcome at most this long.
    ///
    /// # Errors
    /// [`TicketError`]; `Indeterminate` when the time is over: the record may be in the log or not.
    pub fn wait_timeout(mut self, limit: Duration) -> Result<Committed, TicketError> {
        self.wait_until(Some(deadline(limit))).unwrap_or_else(|| {
            Err(TicketError::Indeterminate(format!("no acknowledgement within {limit:?}")))
        })
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> Option<Result<Committed, TicketError>> {
        if let Some(outcome) = self.try_get() {
            return Some(outcome);
        }
        if let Some(outcome) = self.spin(deadline) {
            return Some(outcome);
        }
        let waker = thread_waker();
        loop {
            self.register(&waker);
            // After registering: an outcome from now on unparks this thread.
            if let Some(outcome) = self.try_get() {
                return Some(outcome);
            }
            match deadline {
                None => std::thread::park(),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    std::thread::park_timeout(left);
                }
            }
        }
    }

    /// Parking costs several times a flush: spin first, but only as many threads as there are cores.
    fn spin(&mut self, deadline: Option<Instant>) -> Option<Result<Committed, TicketError>> {
        let Inner::Slot { shared, .. } = &self.inner else { return None };
        let shared = Arc::clone(shared);
        if shared.slots.spinning.fetch_add(1, Ordering::Relaxed) >= shared.spinners {
            shared.slots.spinning.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let limit = Instant::now() + SPIN;
        let limit = deadline.map_or(limit, |deadline| deadline.min(limit));
        let mut outcome = None;
        while outcome.is_none() && Instant::now() < limit {
            // The shard may share this core: a spin without a yield would keep it off.
            rustix::thread::sched_yield();
            outcome = self.try_get();
        }
        shared.slots.spinning.fetch_sub(1, Ordering::Relaxed);
        outcome
    }

    fn register(&self, waker: &Waker) {
        if let Inner::Slot { id, shared } = &self.inner {
            shared.slots.register(*id, waker);
        }
    }
}

impl Future for Ticket {
    type Output = Result<Committed, TicketError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(outcome) = self.try_get() {
            return Poll::Ready(outcome);
        }
        self.register(context.waker());
        self.try_get().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Inner::Slot { id, shared } = &self.inner
            && shared.slots.abandon(*id)
        {
            // A wait has no record that would have to be sealed before the node knows of it.
            let lsn = if self.lsn == self.end { Lsn(0) } else { self.lsn };
            // Best effort: without it the slot is freed when the ack comes.
            shared.command(Command::Cancel { ticket: *id, lsn }).ok();
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({:?}..{:?})", self.lsn, self.end)
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// This thread's waker, made once per thread.
pub(crate) fn thread_waker() -> Waker {
    thread_local! {
        static WAKER: Waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    }
    WAKER.with(Waker::clone)
}

/// Longer than a flush on most devices.
const SPIN: Duration = Duration::from_millis(1);

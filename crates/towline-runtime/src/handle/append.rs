//! The append path: take a slot, reserve, copy and sum in one pass, queue the ticket, commit.

use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use towline_core::format::{
    Committed, RecordKind, copy_with_crc, encode_record_header, payload_crc, record_bytes,
};
use towline_core::types::limits::{MAX_APPEND_BYTES, MAX_RECORD_BYTES, RECORD_HEADER_BYTES};
use towline_core::types::{Level, Lsn, TicketId, Window};
use towline_uring::{FillGuard, Held, ReserveError};

use super::Handle;
use super::shared::{QueuedTicket, ShardShared};
use super::ticket::{Ticket, thread_waker};
use crate::clock::now_ns;
use crate::error::AppendError;

impl Handle {
    /// Appends one record; waits for room. `off` is acknowledged at once.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was written.
    pub fn append(
        &self,
        payload: &[u8],
        level: Level,
        window: Option<Window>,
    ) -> Result<Ticket, AppendError> {
        self.append_atomic(&[payload], level, window)
    }

    /// Appends one record if there is room this moment.
    ///
    /// # Errors
    /// [`AppendError`]; `Full`, `Unavailable`, `Fenced` or `Poisoned` when appends are not possible now.
    pub fn try_append(
        &self,
        payload: &[u8],
        level: Level,
        window: Option<Window>,
    ) -> Result<Ticket, AppendError> {
        self.try_append_atomic(&[payload], level, window)
    }

    /// Appends several records as one: after a crash there are all or none. Waits for room.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was written.
    pub fn append_atomic(
        &self,
        payloads: &[&[u8]],
        level: Level,
        window: Option<Window>,
    ) -> Result<Ticket, AppendError> {
        self.append_until(payloads, level, window, None)
    }

    /// [`append`](Handle::append) that waits for room, and on a primary for leadership, at most `limit`.
    ///
    /// # Errors
    /// [`AppendError`]; after `limit` the one that [`try_append`](Handle::try_append) gave last.
    pub fn append_within(
        &self,
        payload: &[u8],
        level: Level,
        window: Option<Window>,
        limit: Duration,
    ) -> Result<Ticket, AppendError> {
        self.append_until(&[payload], level, window, Some(limit))
    }

    fn append_until(
        &self,
        payloads: &[&[u8]],
        level: Level,
        window: Option<Window>,
        limit: Option<Duration>,
    ) -> Result<Ticket, AppendError> {
        let mut spins = 0;
        // The clock is read only when it must wait: an append that finds room pays nothing for the limit.
        let mut waits_since = None;
        loop {
            match self.try_append_atomic(payloads, level, window) {
                Err(error) if self.may_wait_for(&error) => {}
                other => return other,
            }
            if spins < ROOM_SPINS {
                // A flush makes room sooner than a parked thread comes back.
                spins += 1;
                rustix::thread::sched_yield();
                continue;
            }
            self.shared.room.register(&thread_waker());
            // After registering: a change from now on unparks this thread.
            match self.try_append_atomic(payloads, level, window) {
                Err(error) if self.may_wait_for(&error) => {
                    let waited = waits_since.get_or_insert_with(Instant::now).elapsed();
                    if limit.is_some_and(|limit| waited >= limit) {
                        return Err(error);
                    }
                    std::thread::park_timeout(ROOM_LOOK);
                }
                other => return other,
            }
        }
    }

    /// [`append_atomic`](Handle::append_atomic) without waiting for room.
    ///
    /// # Errors
    /// As [`try_append`](Handle::try_append).
    pub fn try_append_atomic(
        &self,
        payloads: &[&[u8]],
        level: Level,
        window: Option<Window>,
    ) -> Result<Ticket, AppendError> {
        let bytes = checked_bytes(payloads.iter().map(|payload| payload.len()))?;
        let pending = self.begin(level, window)?;
        let mut reserved = match self.shared.appender.reserve(bytes as usize) {
            Ok(reserved) => reserved,
            Err(error) => return Err(self.abort(pending, error, bytes)),
        };
        let lsn = Lsn(reserved.pos());
        let payload_bytes = put_records(reserved.bytes_mut(), payloads);
        self.queue(pending, lsn, lsn.plus(bytes), payload_bytes);
        reserved.commit();
        self.shared.wake.notify();
        Ok(self.ticket(pending, lsn, lsn.plus(bytes)))
    }

    /// [`append`](Handle::append) as a future, on any runtime: it waits for room without blocking the thread.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was written.
    pub async fn append_async(
        &self,
        payload: &[u8],
        level: Level,
        window: Option<Window>,
    ) -> Result<Ticket, AppendError> {
        poll_fn(|context| {
            match self.try_append(payload, level, window) {
                Err(error) if self.may_wait_for(&error) => {}
                other => return Poll::Ready(other),
            }
            self.shared.room.register(context.waker());
            match self.try_append(payload, level, window) {
                Err(error) if self.may_wait_for(&error) => Poll::Pending,
                other => Poll::Ready(other),
            }
        })
        .await
    }

    /// Reserves room for one record of `len` payload bytes, to be built in place.
    ///
    /// # Errors
    /// As [`try_append`](Handle::try_append).
    pub fn reserve(
        &self,
        len: usize,
        level: Level,
        window: Option<Window>,
    ) -> Result<Reservation, AppendError> {
        let bytes = checked_bytes([len].into_iter())?;
        let pending = self.begin(level, window)?;
        match self.shared.appender.hold(bytes as usize, now_ns()) {
            Ok(held) => {
                Ok(Reservation { held: Some(held), len, pending: Some(pending), handle: self.clone() })
            }
            Err(error) => Err(self.abort(pending, error, bytes)),
        }
    }

    fn begin(&self, level: Level, window: Option<Window>) -> Result<Pending, AppendError> {
        if window.is_some() && !level.is_remote() {
            return Err(AppendError::Window("it needs a remote level: remote_write, on or remote_apply"));
        }
        if window.is_some() && !self.shared.marks.has_rule.load(Ordering::Acquire) {
            return Err(AppendError::Window("it needs a sync rule, and there is none"));
        }
        if level == Level::Off {
            return Ok(Pending { id: None, level, window, accepted_ns: 0 });
        }
        // The slot before the reservation: a reservation without a slot would have to become a void.
        let Some(id) = self.shared.slots.take() else {
            return Err(AppendError::Full("as many tickets wait as may".to_owned()));
        };
        // Read before reserving: never later than the acceptance.
        Ok(Pending { id: Some(id), level, window, accepted_ns: now_ns() })
    }

    fn queue(&self, pending: Pending, lsn: Lsn, end: Lsn, payload_bytes: u64) {
        let Pending { id: Some(id), level, window, accepted_ns } = pending else { return };
        let ticket = QueuedTicket { id, lsn, end, payload_bytes, level, window, accepted_ns };
        // Before the commit: the shard seals a batch only when all is committed, and so sees every ticket of it.
        if self.shared.queue.push(ticket).is_err() {
            debug_assert!(false, "the queue has a place for every slot");
        }
    }

    fn ticket(&self, pending: Pending, lsn: Lsn, end: Lsn) -> Ticket {
        match pending.id {
            Some(id) => Ticket::pending(id, lsn, end, Arc::clone(&self.shared)),
            None => Ticket::ready(Committed {
                lsn,
                end,
                level: Level::Off,
                window: None,
                rule_version: self.shared.marks.rule_version.load(Ordering::Relaxed),
                fill_bytes: 0,
                waited_for_window: false,
            }),
        }
    }

    #[cold]
    fn abort(&self, pending: Pending, error: ReserveError, bytes: u64) -> AppendError {
        if let Some(id) = pending.id {
            self.shared.slots.give_back(id);
        }
        refused(&self.shared, error, bytes)
    }

    /// `append` waits for room and, on a primary, for leadership; a standby does not begin to lead by waiting.
    fn may_wait_for(&self, error: &AppendError) -> bool {
        match error {
            AppendError::Full(_) => !self.shared.is_stopped(),
            AppendError::Unavailable(_) => !self.shared.is_standby && !self.shared.is_stopped(),
            _ => false,
        }
    }
}

/// Why a reservation failed, in the caller's words; tells the shard of the pressure.
pub(crate) fn refused(shared: &ShardShared, error: ReserveError, bytes: u64) -> AppendError {
    match error {
        ReserveError::Full => {
            shared.marks.pressure.fetch_max(bytes, Ordering::AcqRel);
            shared.wake.notify();
            AppendError::Full("the arena has no room".to_owned())
        }
        ReserveError::Closed if shared.marks.stopping.load(Ordering::Acquire) => AppendError::Stopping,
        ReserveError::Closed => AppendError::Full("the next batch is being opened".to_owned()),
        ReserveError::TooManyHeld => AppendError::Full("too many reservations are held".to_owned()),
        ReserveError::Frozen => AppendError::frozen(&shared.freeze_reason()),
        ReserveError::BadLength => AppendError::AppendTooLong { bytes },
    }
}

/// Bytes in the log of records with these payload lengths, if they may be appended together.
pub(crate) fn checked_bytes(lengths: impl Iterator<Item = usize>) -> Result<u64, AppendError> {
    let mut bytes = 0;
    for len in lengths {
        let len = len as u64;
        if len > MAX_RECORD_BYTES {
            return Err(AppendError::RecordTooLong { bytes: len });
        }
        bytes += record_bytes(len);
        if bytes > MAX_APPEND_BYTES {
            return Err(AppendError::AppendTooLong { bytes });
        }
    }
    if bytes == 0 { Err(AppendError::Empty) } else { Ok(bytes) }
}

/// Writes records back to back; returns their payload bytes.
pub(crate) fn put_records(mut into: &mut [u8], payloads: &[&[u8]]) -> u64 {
    let mut payload_bytes = 0;
    for payload in payloads {
        let (record, rest) = into.split_at_mut(record_bytes(payload.len() as u64) as usize);
        let (header, body) = record.split_at_mut(RECORD_HEADER_BYTES as usize);
        let crc = copy_with_crc(body, payload);
        header.copy_from_slice(&encode_record_header(RecordKind::Data, payload.len() as u32, crc));
        body[payload.len()..].fill(0);
        payload_bytes += payload.len() as u64;
        into = rest;
    }
    payload_bytes
}

/// An append that has begun.
#[derive(Clone, Copy)]
struct Pending {
    /// `None` at level `off`.
    id: Option<TicketId>,
    level: Level,
    window: Option<Window>,
    accepted_ns: u64,
}

/// Room for one record, to be built in place. Dropped, or held past the limit, it becomes a void record.
#[must_use = "a reservation that is dropped becomes a void record"]
pub struct Reservation {
    held: Option<Held>,
    len: usize,
    pending: Option<Pending>,
    handle: Handle,
}

impl Reservation {
    /// The record's LSN.
    pub fn lsn(&self) -> Lsn {
        Lsn(self.held.as_ref().map_or(0, Held::pos))
    }

    /// The payload's place; its former contents are unspecified. `None` when the reservation has been voided. While
    /// the guard lives, the reservation is not voided, and its batch waits: keep it short.
    pub fn fill(&mut self) -> Option<PayloadMut<'_>> {
        let len = self.len;
        self.held.as_mut()?.fill().map(|guard| PayloadMut { guard, len })
    }

    /// Commits the record.
    ///
    /// # Errors
    /// [`AppendError::Voided`].
    pub fn commit(mut self) -> Result<Ticket, AppendError> {
        let (Some(mut held), Some(pending)) = (self.held.take(), self.pending.take()) else {
            return Err(AppendError::Voided);
        };
        let handle = &self.handle;
        let give_back = |pending: Pending| {
            if let Some(id) = pending.id {
                handle.shared.slots.give_back(id);
            }
            AppendError::Voided
        };
        let lsn = Lsn(held.pos());
        let end = lsn.plus(held.len() as u64);
        {
            let Some(mut guard) = held.fill() else { return Err(give_back(pending)) };
            let (header, body) = guard.split_at_mut(RECORD_HEADER_BYTES as usize);
            let (payload, padding) = body.split_at_mut(self.len);
            padding.fill(0);
            let crc = payload_crc(payload);
            header.copy_from_slice(&encode_record_header(RecordKind::Data, self.len as u32, crc));
        }
        handle.queue(pending, lsn, end, self.len as u64);
        let ticket = handle.ticket(pending, lsn, end);
        if held.commit().is_err() {
            // Voided between the guard and here: the ticket, queued already, is abandoned with `ticket`'s drop.
            return Err(AppendError::Voided);
        }
        handle.shared.wake.notify();
        Ok(ticket)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(Pending { id: Some(id), .. }) = self.pending.take() {
            self.handle.shared.slots.give_back(id);
        }
        if self.held.take().is_some() {
            self.handle.shared.wake.notify();
        }
    }
}

/// The payload of a reservation, open for writing.
pub struct PayloadMut<'a> {
    guard: FillGuard<'a>,
    len: usize,
}

impl Deref for PayloadMut<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.guard[RECORD_HEADER_BYTES as usize..][..self.len]
    }
}

impl DerefMut for PayloadMut<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.guard[RECORD_HEADER_BYTES as usize..][..self.len]
    }
}

const ROOM_SPINS: u32 = 200;
/// A waiting producer looks by itself this often, whatever it is told.
const ROOM_LOOK: Duration = Duration::from_millis(50);

//! Producers: concurrent reservation of spans in the open batch.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Cursor, Shared};

/// Reserves spans of the open batch, from any thread. Cheap to clone.
#[derive(Clone)]
pub struct Appender {
    pub(super) shared: Arc<Shared>,
}

impl Appender {
    /// Reserves `len` bytes, record headers included; `len` is a multiple of 8. The order of
    /// reservations is the order of positions.
    ///
    /// # Errors
    /// [`ReserveError`]; nothing was reserved.
    #[inline]
    pub fn reserve(&self, len: usize) -> Result<Reserved<'_>, ReserveError> {
        let (position, epoch) = self.shared.reserve(len)?;
        Ok(Reserved { shared: &self.shared, position, len, epoch })
    }

    /// The size of the arena in bytes: no reservation can be larger.
    pub fn arena_size(&self) -> u64 {
        self.shared.map.size()
    }

    /// True while the owner refuses every reservation.
    pub fn is_frozen(&self) -> bool {
        self.shared.frozen.load(Ordering::Acquire)
    }
}

/// A span that belongs to its holder alone until it is committed. Dropping it makes it a void record.
///
/// A `Reserved` that is leaked (`mem::forget`) keeps its batch from sealing for ever; what may be held
/// for long belongs in [`Appender::hold`].
#[must_use = "a reservation that is dropped becomes a void record"]
pub struct Reserved<'a> {
    shared: &'a Shared,
    position: u64,
    len: usize,
    epoch: usize,
}

impl Reserved<'_> {
    /// Position of the first byte.
    #[inline]
    pub fn pos(&self) -> u64 {
        self.position
    }

    /// Length in bytes.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a reservation is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The reserved bytes; their former contents are unspecified.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the compare-and-swap gave this span to `self` alone; the owner neither reads nor
        // releases it before the commit, which consumes `self`.
        unsafe { self.shared.slice_mut(self.position, self.len) }
    }

    /// Gives the filled span to the owner; returns its end position.
    #[inline]
    pub fn commit(self) -> u64 {
        let end = self.position + self.len as u64;
        self.shared.commit(self.len, self.epoch);
        std::mem::forget(self);
        end
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let header = (self.shared.void_header)(self.len);
        fill_void(self.bytes_mut(), header);
        self.shared.commit(self.len, self.epoch);
    }
}

/// Why nothing was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// No room below the limit: wait for a release.
    #[error("the arena is full")]
    Full,
    /// No batch is open this moment: try again.
    #[error("no batch is open")]
    Closed,
    /// The owner refuses reservations until further notice (demotion, failure).
    #[error("the arena is frozen")]
    Frozen,
    /// The length is zero, not a multiple of 8, or larger than the arena.
    #[error("the length is not a multiple of 8 within the arena's size")]
    BadLength,
    /// Every slot for held reservations is taken.
    #[error("too many held reservations")]
    TooManyHeld,
}

impl Shared {
    /// Moves the cursor over `len` bytes; returns where they start and the batch's epoch.
    #[inline]
    pub(super) fn reserve(&self, len: usize) -> Result<(u64, usize), ReserveError> {
        if len == 0 || !len.is_multiple_of(8) || len as u64 > self.map.size() {
            return Err(ReserveError::BadLength);
        }
        let mut seen = self.cursor.load(Ordering::Acquire);
        loop {
            let cursor = Cursor(seen);
            if cursor.is_closed() {
                return Err(self.closed_reason());
            }
            // Read after the cursor: a limit that belongs to a later cursor can only meet a failing
            // swap, because a cursor value never returns (positions grow, rewinds change the generation).
            if cursor.position() + len as u64 > self.limit.load(Ordering::Acquire) {
                return Err(ReserveError::Full);
            }
            let next = seen + len as u64;
            match self.cursor.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok((cursor.position(), cursor.epoch())),
                Err(now) => seen = now,
            }
        }
    }

    /// Counts `len` bytes of the batch as complete. The release pairs with the owner's acquire when it
    /// finds the batch sealed, so that it then sees the bytes.
    #[inline]
    pub(super) fn commit(&self, len: usize, epoch: usize) {
        self.committed[epoch].fetch_add(len as u64, Ordering::Release);
    }

    /// # Safety
    /// The caller holds the span `[position, position + len)` exclusively, as the table in the crate's
    /// documentation says, for as long as the slice lives; `len` is at most the arena's size.
    #[expect(clippy::mut_from_ref, reason = "exclusiveness is the caller's promise")]
    #[inline]
    pub(super) unsafe fn slice_mut(&self, position: u64, len: usize) -> &mut [u8] {
        debug_assert!(len as u64 <= self.map.size());
        // SAFETY: the mirror mapping makes `len <= size` bytes from any position contiguous, mapped and
        // initialised; exclusiveness is promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.map.ptr(position), len) }
    }

    /// # Safety
    /// Nobody writes to the span `[position, position + len)` for as long as the slice lives; `len` is at
    /// most the arena's size.
    #[inline]
    pub(super) unsafe fn slice(&self, position: u64, len: usize) -> &[u8] {
        debug_assert!(len as u64 <= self.map.size());
        // SAFETY: as in `slice_mut`; that nobody writes is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.map.ptr(position), len) }
    }

    #[cold]
    fn closed_reason(&self) -> ReserveError {
        if self.frozen.load(Ordering::Acquire) { ReserveError::Frozen } else { ReserveError::Closed }
    }
}

/// A void record: header, then zeros.
pub(super) fn fill_void(bytes: &mut [u8], header: [u8; 8]) {
    let (head, rest) = bytes.split_at_mut(header.len());
    head.copy_from_slice(&header);
    rest.fill(0);
}

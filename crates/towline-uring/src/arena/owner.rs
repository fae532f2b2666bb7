//! The owner: opens, closes and releases; reads and fills what no producer holds.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use super::{
    Appender, ArenaConfig, ArenaError, ArenaReader, CLOSED, Cursor, EPOCHS, HoldTable, LOW_BITS, Line,
    MAX_POSITION, MirrorMap, ReaderTable, Shared,
};

/// The one owner of an arena, moved into the [`Ring`](crate::Ring) of its shard.
///
/// Order of a batch: [`open_batch`](Self::open_batch), [`close_and_open`](Self::close_and_open) (or
/// [`close_batch`](Self::close_batch)), [`take_sealed`](Self::take_sealed), header and padding through
/// [`bytes_mut`](Self::bytes_mut), the operations, [`publish`](Self::publish) for readers, and
/// [`release`](Self::release). Dropping the owner freezes the arena; the memory stays until appenders
/// and readers are gone too.
pub struct ArenaOwner {
    shared: Arc<Shared>,
    /// Everything below is released: its memory belongs to positions one arena size further on.
    floor: u64,
    /// Readers may be copying below; above, the owner may write.
    published: u64,
    generation: u64,
    epoch: usize,
    open: Option<BatchExtent>,
    closed: Option<BatchExtent>,
    pins: Vec<Pin>,
}

impl ArenaOwner {
    /// Maps the memory. A file that exists keeps its contents.
    ///
    /// # Errors
    /// [`ArenaError`] when the configuration is not usable or the kernel refuses.
    pub fn new(config: ArenaConfig) -> Result<Self, ArenaError> {
        if !config.block.is_power_of_two() || config.block < 8 || config.block > config.size as u64 {
            return Err(ArenaError::Config("block must be a power of two of at least 8, within the size"));
        }
        if !config.header_len.is_multiple_of(8) || config.header_len >= config.size as u64 {
            return Err(ArenaError::Config("header length must be a multiple of 8, within the size"));
        }
        check_position(config.start)?;
        let map = MirrorMap::new(config.size, &config.backing)?;
        let shared = Arc::new(Shared {
            map,
            block: config.block,
            header_len: config.header_len,
            void_header: config.void_header,
            cursor: Line(AtomicU64::new(Cursor::open(0, config.start, 0).0 | CLOSED)),
            limit: Line(AtomicU64::new(config.start)),
            committed: std::array::from_fn(|_| Line(AtomicU64::new(0))),
            frozen: AtomicBool::new(false),
            readable_from: Line(AtomicU64::new(config.start)),
            readable_to: AtomicU64::new(config.start),
            readers: ReaderTable::new(),
            holds: HoldTable::new(),
        });
        Ok(Self {
            shared,
            floor: config.start,
            published: config.start,
            generation: 0,
            epoch: 0,
            open: None,
            closed: None,
            pins: Vec::with_capacity(PIN_CAPACITY),
        })
    }

    /// A new producer handle.
    pub fn appender(&self) -> Appender {
        Appender { shared: Arc::clone(&self.shared) }
    }

    /// A new reader; `None` when [`MAX_READERS`](super::MAX_READERS) exist.
    pub fn reader(&self) -> Option<ArenaReader> {
        ArenaReader::new(&self.shared)
    }

    /// Size of the arena in bytes.
    pub fn size(&self) -> u64 {
        self.shared.map.size()
    }

    /// Lowest position whose bytes are still in the arena.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Where reservations end at present.
    pub fn limit(&self) -> u64 {
        self.shared.limit.load(Ordering::Relaxed)
    }

    /// Readers may copy below this.
    pub fn published(&self) -> u64 {
        self.shared.readable_to.load(Ordering::Relaxed)
    }

    // ---- batches ----

    /// Opens a batch: its header begins at `start`, producers begin at `first`, and reservations end at
    /// or below `limit` (never above floor + size, whatever is asked for).
    ///
    /// # Errors
    /// [`ArenaError`] when a batch is open, the arena is frozen, or the place is in use or out of reach.
    pub fn open_batch(&mut self, start: u64, first: u64, limit: u64) -> Result<(), ArenaError> {
        if self.open.is_some() {
            return Err(ArenaError::AlreadyOpen);
        }
        if self.is_frozen() {
            return Err(ArenaError::Frozen);
        }
        check_position(first)?;
        let behind = self.closed.map_or(self.floor, |batch| batch.end);
        if start > first || start < behind || first < self.published || first > self.floor + self.size() {
            return Err(ArenaError::NoRoom);
        }
        if self.pins.iter().any(|pin| pin.range.end > first) {
            return Err(ArenaError::Busy);
        }
        let epoch = (self.epoch + 1) % EPOCHS;
        let limit = self.within_reach(limit);
        // Counter and limit first: the cursor's release publishes both to whoever reserves.
        self.shared.committed[epoch].store(0, Ordering::Relaxed);
        self.shared.limit.store(limit, Ordering::Release);
        self.shared.cursor.store(Cursor::open(self.generation, first, epoch).0, Ordering::Release);
        self.epoch = epoch;
        self.open = Some(BatchExtent { start, first, end: first, epoch });
        Ok(())
    }

    /// End of what has been reserved in the open batch.
    pub fn reserved_end(&self) -> Option<u64> {
        self.open.map(|_| Cursor(self.shared.cursor.load(Ordering::Acquire)).position())
    }

    /// Extent of the open batch, its end being what is reserved so far.
    pub fn open_extent(&self) -> Option<BatchExtent> {
        self.open.map(|batch| BatchExtent { end: self.reserved_end().unwrap_or(batch.first), ..batch })
    }

    /// Closes the open batch; producers get [`Closed`](super::ReserveError::Closed) until the next one.
    ///
    /// # Errors
    /// [`ArenaError::NotOpen`], or [`ArenaError::Unsealed`] while the batch closed before is not taken.
    pub fn close_batch(&mut self) -> Result<BatchExtent, ArenaError> {
        let batch = self.open.ok_or(ArenaError::NotOpen)?;
        if self.closed.is_some() {
            return Err(ArenaError::Unsealed);
        }
        let last = Cursor(self.shared.cursor.fetch_or(CLOSED, Ordering::AcqRel));
        let extent = BatchExtent { end: last.position(), ..batch };
        self.open = None;
        self.closed = Some(extent);
        Ok(extent)
    }

    /// Closes the open batch and opens the next one, at the next block, in one swap: no producer sees a
    /// gap. Reservations in the new batch end at or below `limit`.
    ///
    /// # Errors
    /// As [`close_batch`](Self::close_batch); [`ArenaError::Frozen`]; and [`ArenaError::NoRoom`] when the
    /// new header does not fit below floor + size. The batch stays open then.
    pub fn close_and_open(&mut self, limit: u64) -> Result<BatchExtent, ArenaError> {
        let batch = self.open.ok_or(ArenaError::NotOpen)?;
        if self.closed.is_some() {
            return Err(ArenaError::Unsealed);
        }
        if self.is_frozen() {
            return Err(ArenaError::Frozen);
        }
        let epoch = (self.epoch + 1) % EPOCHS;
        let limit = self.within_reach(limit).max(self.limit());
        self.shared.committed[epoch].store(0, Ordering::Relaxed);
        let mut seen = self.shared.cursor.load(Ordering::Acquire);
        let (end, start, first) = loop {
            let end = Cursor(seen).position();
            let start = end.next_multiple_of(self.shared.block);
            let first = start + self.shared.header_len;
            if first > self.floor + self.size() || first >= MAX_POSITION {
                return Err(ArenaError::NoRoom);
            }
            let next = Cursor::open(self.generation, first, epoch).0;
            match self.shared.cursor.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break (end, start, first),
                Err(now) => seen = now,
            }
        };
        // Raised after the swap: a reservation of the closed batch never sees the new batch's limit.
        self.shared.limit.store(limit, Ordering::Release);
        let extent = BatchExtent { end, ..batch };
        self.epoch = epoch;
        self.closed = Some(extent);
        self.open = Some(BatchExtent { start, first, end: first, epoch });
        Ok(extent)
    }

    /// True when every reservation of the closed batch is committed; false when no batch is closed.
    pub fn is_sealed(&self) -> bool {
        self.closed.is_some_and(|batch| self.is_complete(batch))
    }

    /// The batch that was closed and not taken; none after a rewind or a reset, which take complete ones back.
    pub fn closed_extent(&self) -> Option<BatchExtent> {
        self.closed
    }

    /// Takes the closed batch once it is sealed; its bytes are then the owner's.
    pub fn take_sealed(&mut self) -> Option<BatchExtent> {
        if self.is_sealed() { self.closed.take() } else { None }
    }

    /// Raises the limit of reservations, up to floor + size; returns the limit in force. A lower limit
    /// than the present one is ignored while a batch is open.
    pub fn set_limit(&mut self, limit: u64) -> u64 {
        let limit = self.within_reach(limit);
        let now = self.limit();
        if limit <= now {
            return now;
        }
        self.shared.limit.store(limit, Ordering::Release);
        limit
    }

    /// Refuses every further reservation ([`Frozen`](super::ReserveError::Frozen)) until
    /// [`thaw`](Self::thaw). An open batch stays known and can be closed.
    pub fn freeze(&mut self) {
        // Flag first: who sees the closed bit must find the reason.
        self.shared.frozen.store(true, Ordering::Release);
        self.shared.cursor.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Allows batches again, the first one by [`open_batch`](Self::open_batch).
    ///
    /// # Errors
    /// [`ArenaError::AlreadyOpen`] while the batch that was open at the freeze is not closed.
    pub fn thaw(&mut self) -> Result<(), ArenaError> {
        if self.open.is_some() {
            return Err(ArenaError::AlreadyOpen);
        }
        self.shared.frozen.store(false, Ordering::Release);
        Ok(())
    }

    /// True between [`freeze`](Self::freeze) and [`thaw`](Self::thaw).
    pub fn is_frozen(&self) -> bool {
        self.shared.frozen.load(Ordering::Relaxed)
    }

    /// Voids held reservations that are idle and at least `limit_ns` old by the clock that they were
    /// taken with; returns how many. One that is being written to is left alone: it cannot be taken from
    /// its writer without two contents for one position.
    pub fn void_overdue(&mut self, now_ns: u64, limit_ns: u64) -> usize {
        self.shared.void_overdue(now_ns, limit_ns)
    }

    // ---- bytes ----

    /// The bytes of a range in `[floor, floor + size)`; `None` when producers hold part of it or an
    /// operation in flight fills part of it.
    pub fn bytes(&self, range: Range<u64>) -> Option<&[u8]> {
        if !self.may_read(&range) {
            return None;
        }
        let len = (range.end - range.start) as usize;
        // SAFETY: the range is in the arena, held by no producer and filled by no operation; every way
        // to change that needs `&mut self`, which the returned borrow excludes.
        Some(unsafe { self.shared.slice(range.start, len) })
    }

    /// Write access to a range in `[published, floor + size)`, for headers, padding and moved bytes;
    /// `None` when producers, an operation in flight or a reader have part of it.
    pub fn bytes_mut(&mut self, range: Range<u64>) -> Option<&mut [u8]> {
        if !self.may_write(&range) {
            return None;
        }
        let len = (range.end - range.start) as usize;
        // SAFETY: as in `bytes`; besides, no operation reads it, and readers stay below `published`.
        Some(unsafe { self.shared.slice_mut(range.start, len) })
    }

    /// True while an operation in flight fills part of a range.
    pub fn is_being_filled(&self, range: Range<u64>) -> bool {
        self.pins.iter().any(|pin| pin.fills && overlap(&pin.range, &range))
    }

    /// Lets readers copy everything below `upto`: these bytes will not change any more.
    ///
    /// # Errors
    /// [`ArenaError::Busy`] when producers or an operation that fills the arena have bytes below it.
    pub fn publish(&mut self, upto: u64) -> Result<(), ArenaError> {
        if upto <= self.published() {
            return Ok(());
        }
        let filling = self.pins.iter().any(|pin| pin.fills && pin.range.start < upto);
        if upto > self.producers_from() || upto > self.floor + self.size() || filling {
            return Err(ArenaError::Busy);
        }
        self.published = upto;
        self.shared.readable_to.store(upto, Ordering::SeqCst);
        Ok(())
    }

    /// Gives up everything below `upto`, which returns to the producers. Returns the floor really
    /// reached: operations in flight, an unsealed batch and a reader in the middle of a copy hold it
    /// back; ask again later.
    pub fn release(&mut self, upto: u64) -> u64 {
        let used_from = self.pins.iter().map(|pin| pin.range.start).min().unwrap_or(u64::MAX);
        let batch_from = self.closed.or(self.open).map_or(u64::MAX, |batch| batch.start);
        let upto = upto.min(used_from).min(batch_from).min(self.floor + self.size());
        if upto <= self.floor {
            return self.floor;
        }
        // Readers: no new copy below `upto`, then wait for none, but stay below those under way.
        self.shared.readable_from.store(upto, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let floor = upto.min(self.shared.readers.lowest()).max(self.floor);
        self.poison(self.floor..floor);
        self.floor = floor;
        if self.published < floor {
            self.published = floor;
            self.shared.readable_to.store(floor, Ordering::SeqCst);
        }
        floor
    }

    /// Forgets everything from `to` on, so that other contents can take its place (a fork is cut).
    /// Producers' handles stay valid.
    ///
    /// # Errors
    /// [`ArenaError::Busy`] while a batch is open or unsealed, an operation uses bytes from there on, or
    /// a reader is in the middle of a copy there; [`ArenaError::NoRoom`] below the floor.
    pub fn rewind(&mut self, to: u64) -> Result<(), ArenaError> {
        check_position(to)?;
        if to < self.floor || to > self.floor + self.size() {
            return Err(ArenaError::NoRoom);
        }
        self.withdraw(to, to)?;
        self.published = self.published.min(to);
        self.next_generation(to);
        Ok(())
    }

    /// Empties the arena and continues at `to`, wherever that is. The memory keeps its contents.
    ///
    /// # Errors
    /// As [`rewind`](Self::rewind), for the whole arena.
    pub fn reset(&mut self, to: u64) -> Result<(), ArenaError> {
        check_position(to)?;
        self.withdraw(0, self.floor)?;
        self.floor = to;
        self.published = to;
        self.shared.readable_from.store(to, Ordering::SeqCst);
        self.shared.readable_to.store(to, Ordering::SeqCst);
        self.next_generation(to);
        Ok(())
    }

    // ---- for the ring ----

    /// Address and length of the whole arena, once (not its mirror).
    pub(crate) fn memory(&self) -> (*mut u8, usize) {
        (self.shared.map.ptr(0), self.shared.map.size() as usize)
    }

    /// Pins a range for an operation that reads it (or fills it); `None` when the range is not the
    /// owner's to give. The memory stays valid until [`unpin`](Self::unpin) with the same id.
    pub(crate) fn pin(&mut self, id: u64, range: Range<u64>, fills: bool) -> Option<*mut u8> {
        let allowed = if fills { self.may_write(&range) } else { self.may_read(&range) };
        if !allowed || range.is_empty() {
            return None;
        }
        let address = self.shared.map.ptr(range.start);
        self.pins.push(Pin { id, range, fills });
        Some(address)
    }

    pub(crate) fn unpin(&mut self, id: u64) {
        if let Some(index) = self.pins.iter().position(|pin| pin.id == id) {
            self.pins.swap_remove(index);
        }
    }

    // ---- helpers ----

    /// A position past one arena would overwrite what is not released; one past the last position would
    /// spill into the cursor's generation.
    fn within_reach(&self, limit: u64) -> u64 {
        limit.min(self.floor + self.size()).min(MAX_POSITION - 8)
    }

    fn may_read(&self, range: &Range<u64>) -> bool {
        self.is_inside(range)
            && !self.producers_hold(range)
            && !self.pins.iter().any(|pin| pin.fills && overlap(&pin.range, range))
    }

    fn may_write(&self, range: &Range<u64>) -> bool {
        self.is_inside(range)
            && range.start >= self.published
            && !self.producers_hold(range)
            && !self.pins.iter().any(|pin| overlap(&pin.range, range))
    }

    fn is_inside(&self, range: &Range<u64>) -> bool {
        range.start <= range.end && range.start >= self.floor && range.end <= self.floor + self.size()
    }

    fn producers_hold(&self, range: &Range<u64>) -> bool {
        let open = self.open.is_some_and(|batch| range.end > batch.first);
        let closed = self
            .closed
            .is_some_and(|batch| overlap(&(batch.first..batch.end), range) && !self.is_complete(batch));
        open || closed
    }

    /// Lowest position that producers may be writing to.
    fn producers_from(&self) -> u64 {
        match (self.closed, self.open) {
            (Some(batch), _) if !self.is_complete(batch) => batch.first,
            (_, Some(batch)) => batch.first,
            _ => u64::MAX,
        }
    }

    fn is_complete(&self, batch: BatchExtent) -> bool {
        // Acquire pairs with the release of each commit: all the batch's bytes are visible.
        self.shared.committed[batch.epoch].load(Ordering::Acquire) == batch.end - batch.first
    }

    /// Stops new copies outside `[from, to)` and checks that nobody uses anything from `to` on.
    fn withdraw(&mut self, from: u64, to: u64) -> Result<(), ArenaError> {
        if self.open.is_some() || self.closed.is_some_and(|batch| !self.is_complete(batch)) {
            return Err(ArenaError::Busy);
        }
        if self.pins.iter().any(|pin| pin.range.end > to) {
            return Err(ArenaError::Busy);
        }
        let readable_to = self.published().min(to.max(from));
        self.shared.readable_to.store(readable_to, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.shared.readers.highest() > to {
            return Err(ArenaError::Busy);
        }
        self.closed = None;
        Ok(())
    }

    /// After a rewind positions return: the generation keeps old cursor values from matching new ones.
    fn next_generation(&mut self, to: u64) {
        self.generation = (self.generation + 1) & 0xff;
        let cursor = Cursor::open(self.generation, to & !LOW_BITS, self.epoch).0 | CLOSED;
        self.shared.cursor.store(cursor, Ordering::Release);
        self.shared.limit.store(to, Ordering::Release);
    }

    /// Debug builds mark released memory, so that a use after release shows in checksums.
    fn poison(&mut self, range: Range<u64>) {
        if cfg!(debug_assertions) {
            let mut at = range.start.next_multiple_of(POISON_STRIDE);
            while at + POISON.len() as u64 <= range.end {
                // SAFETY: the range is released by the owner, pinned by no operation, announced by no
                // reader, and not yet below any producer's limit.
                unsafe { self.shared.slice_mut(at, POISON.len()) }.copy_from_slice(&POISON);
                at += POISON_STRIDE;
            }
        }
    }
}

impl Drop for ArenaOwner {
    fn drop(&mut self) {
        self.freeze();
        if !self.pins.is_empty() {
            // The kernel may still use the memory (a disk that does not answer, or safe code that moved
            // the owner out of its ring): memory that is never freed is the lesser evil.
            std::mem::forget(Arc::clone(&self.shared));
        }
    }
}

/// Where a batch lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchExtent {
    /// Start of the batch header.
    pub start: u64,
    /// First position that producers could reserve.
    pub first: u64,
    /// End of the last reservation; equal to `first` in an empty batch.
    pub end: u64,
    epoch: usize,
}

/// A range that an operation in flight uses.
struct Pin {
    /// Ring and slot of the operation: unique in the process.
    id: u64,
    range: Range<u64>,
    fills: bool,
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

fn check_position(position: u64) -> Result<(), ArenaError> {
    if !position.is_multiple_of(8) {
        return Err(ArenaError::Config("positions are multiples of 8"));
    }
    if position >= MAX_POSITION {
        return Err(ArenaError::Config("position out of range"));
    }
    Ok(())
}

/// Pins beyond this many make their list grow once.
const PIN_CAPACITY: usize = 1024;
const POISON: [u8; 8] = *b"released";
const POISON_STRIDE: u64 = 512;

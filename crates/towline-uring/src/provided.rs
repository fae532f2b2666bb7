//! Buffers that the kernel takes from by itself: for receives that stay armed over many completions.
//!
//! The kernel owns a buffer from when it is offered until a completion names it; its bytes are copied out and it
//! is offered again before the completion is handed on. What arrives this way is small (reports, frames).
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::buf::{AlignedBuf, BufPool, PoolBuf};

/// The one group of provided buffers of a ring.
pub(crate) struct Provided {
    /// Shared with the kernel: `COUNT` entries; the first one's last field is the tail.
    entries: AlignedBuf,
    memory: AlignedBuf,
    tail: u16,
    copies: BufPool,
}

impl Provided {
    /// Registers the group and offers every buffer.
    ///
    /// # Errors
    /// The kernel's refusal (too old, or the memlock limit).
    pub(crate) fn register(uring: &IoUring) -> io::Result<Self> {
        let entries = AlignedBuf::zeroed(usize::from(COUNT) * size_of::<BufRingEntry>());
        let memory = AlignedBuf::zeroed(usize::from(COUNT) * BUFFER_LEN);
        // SAFETY: the entries are page-aligned, zeroed, large enough, and live as long as the ring: both are
        // dropped after it, or leaked with its operations.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, COUNT, GROUP, 0)?;
        }
        let mut provided =
            Self { entries, memory, tail: 0, copies: BufPool::new(usize::from(COUNT), BUFFER_LEN) };
        (0..COUNT).for_each(|id| provided.offer(id));
        Ok(provided)
    }

    /// Takes the bytes of a completion that names buffer `id`, and offers the buffer again.
    pub(crate) fn take(&mut self, id: u16, len: usize) -> Option<PoolBuf> {
        if id >= COUNT || len > BUFFER_LEN {
            return None;
        }
        // A caller that keeps all copies gets more, rather than a gap in its stream.
        let mut copy = self.copies.get().or_else(|| BufPool::new(1, BUFFER_LEN).get())?;
        // SAFETY: the completion gave the buffer back: the kernel does not write to it until it is offered again.
        let bytes = unsafe {
            std::slice::from_raw_parts(self.memory.as_ptr().add(usize::from(id) * BUFFER_LEN), len)
        };
        copy[..len].copy_from_slice(bytes);
        self.offer(id);
        Some(copy)
    }

    /// Gives buffer `id` to the kernel.
    fn offer(&mut self, id: u16) {
        let base = self.entries.as_ptr().cast::<BufRingEntry>();
        let slot = usize::from(self.tail % COUNT);
        // SAFETY: the slot lies in the allocation; the kernel reads it only after the tail has passed it, and the
        // tail is the last field of the first entry, which `set_*` leave alone.
        unsafe {
            let entry = &mut *base.add(slot);
            entry.set_addr(self.memory.as_ptr().add(usize::from(id) * BUFFER_LEN) as u64);
            entry.set_len(BUFFER_LEN as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(base).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

/// The group's id.
pub(crate) const GROUP: u16 = 1;
/// Buffers in the group; a power of two.
const COUNT: u16 = 64;
const BUFFER_LEN: usize = 4096;

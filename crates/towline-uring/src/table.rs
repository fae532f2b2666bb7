//! The table of operations in flight: who owns what until the last completion.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use io_uring::cqueue;
use io_uring::types::Timespec;
use rustix::io::Errno;

use crate::arena::ArenaOwner;
use crate::buf::PoolBuf;
use crate::ops::Completion;
use crate::provided::Provided;
use crate::ring::RingError;

/// A fixed number of slots. A completion names its slot and the slot's generation.
pub(crate) struct OpTable {
    slots: Box<[Slot]>,
    /// What the kernel reads or writes itself, apart from the slots, which are borrowed meanwhile.
    scratch: Box<[UnsafeCell<Scratch>]>,
    free: Vec<u32>,
    /// Distinguishes this ring's pins from those of others.
    ring_id: u32,
}

pub(crate) struct Slot {
    pub(crate) tag: u64,
    pub(crate) kind: Kind,
    /// Completion entries still to come, where their number is known.
    pub(crate) due: u8,
    pub(crate) pinned: bool,
    pub(crate) buf: Option<PoolBuf>,
    /// Of a linked write: the length that was asked for.
    pub(crate) len: u32,
    generation: u32,
    used: bool,
    /// Number of the submission entry.
    sequence: u64,
    /// Of a linked write: what its parts came to.
    write_result: i32,
    sync_result: i32,
}

/// How completions of an operation are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Single,
    /// A write and its fdatasync: two entries, one completion.
    Linked,
    ZeroCopy,
    Accept,
    /// A receive that stays armed.
    RecvMulti,
    Timeout,
}

/// Small arguments that the kernel reads through a pointer, and the counter of an eventfd.
#[repr(C)]
struct Scratch {
    address: libc::sockaddr_storage,
    timeout: Timespec,
    counter: u64,
}

impl OpTable {
    pub(crate) fn new(capacity: u32, ring_id: u32) -> Self {
        Self {
            ring_id,
            slots: (0..capacity).map(|_| Slot::empty()).collect(),
            scratch: (0..capacity).map(|_| UnsafeCell::new(Scratch::empty())).collect(),
            free: (0..capacity).rev().collect(),
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn free_slots(&self) -> usize {
        self.free.len()
    }

    /// Takes a slot for the submission entry number `sequence`.
    pub(crate) fn begin(&mut self, kind: Kind, tag: u64, sequence: u64) -> Result<u32, RingError> {
        let index = self.free.pop().ok_or(RingError::TooManyInFlight)?;
        let slot = &mut self.slots[index as usize];
        *slot = Slot { tag, kind, sequence, generation: slot.generation, used: true, ..Slot::empty() };
        Ok(index)
    }

    /// Takes back a slot whose operation was never submitted.
    pub(crate) fn abandon(&mut self, index: u32) -> Option<PoolBuf> {
        let slot = &mut self.slots[index as usize];
        slot.used = false;
        slot.generation = slot.generation.wrapping_add(1) & GENERATION_MASK;
        self.free.push(index);
        slot.buf.take()
    }

    pub(crate) fn slot(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }

    pub(crate) fn user_data(&self, index: u32) -> u64 {
        (u64::from(self.slots[index as usize].generation) << 32) | u64::from(index)
    }

    pub(crate) fn pin_id(&self, index: u32) -> u64 {
        (u64::from(self.ring_id) << 32) | u64::from(index)
    }

    /// Names of the operations in flight with this tag.
    pub(crate) fn tagged(&self, tag: u64) -> impl Iterator<Item = u64> {
        (0..self.slots.len() as u32).filter_map(move |index| {
            let slot = &self.slots[index as usize];
            (slot.used && slot.tag == tag).then(|| self.user_data(index))
        })
    }

    /// Reads one completion entry; `None` when it is not the caller's (a cancellation's own entry, or
    /// the first half of a linked write).
    pub(crate) fn complete(
        &mut self,
        entry: &cqueue::Entry,
        arena: &mut ArenaOwner,
        provided: Option<&mut Provided>,
    ) -> Option<Completion> {
        let name = entry.user_data();
        let index = name as u32;
        let pin = self.pin_id(index);
        let slot = self.slots.get_mut(index as usize)?;
        if name == IGNORED || !slot.used || (name & !SECOND) >> 32 != u64::from(slot.generation) {
            return None;
        }
        let (result, flags) = (entry.result(), entry.flags());
        let mut completion = Completion {
            tag: slot.tag,
            result: Ok(0),
            buf: None,
            accepted: None,
            more: cqueue::more(flags),
            notif: false,
            zc_copied: false,
        };
        let mut received = None;
        match slot.kind {
            Kind::Linked => {
                if name & SECOND == 0 {
                    slot.write_result = result;
                } else {
                    slot.sync_result = result;
                }
                slot.due -= 1;
                if slot.due > 0 {
                    return None;
                }
                completion.result = slot.linked_outcome();
                completion.more = false;
            }
            Kind::ZeroCopy if cqueue::notif(flags) => {
                // Its result is a flag word, not a count.
                completion.notif = true;
                completion.zc_copied = result as u32 & NOTIF_COPIED != 0;
            }
            Kind::Accept if result >= 0 => {
                // SAFETY: a successful accept gives a new descriptor that nobody else owns.
                completion.accepted = Some(unsafe { OwnedFd::from_raw_fd(result) });
            }
            Kind::RecvMulti => {
                completion.result = outcome(result);
                if let (Some(id), Some(provided), Ok(len)) =
                    (cqueue::buffer_select(flags), provided, completion.result)
                {
                    received = provided.take(id, len as usize);
                }
            }
            // An expired timer is what was asked for.
            Kind::Timeout if result == -libc::ETIME => {}
            Kind::Single | Kind::ZeroCopy | Kind::Accept | Kind::Timeout => {
                completion.result = outcome(result)
            }
        }
        if !completion.more {
            if slot.pinned {
                arena.unpin(pin);
            }
            completion.buf = self.abandon(index);
        }
        completion.buf = completion.buf.or(received);
        Some(completion)
    }

    /// Forgets the operations that the kernel has not taken from the queue.
    pub(crate) fn discard_unsubmitted(&mut self, consumed: u64, arena: &mut ArenaOwner) {
        for index in 0..self.slots.len() as u32 {
            let slot = &self.slots[index as usize];
            if slot.used && slot.sequence >= consumed {
                arena.unpin(self.pin_id(index));
                drop(self.abandon(index));
            }
        }
    }

    /// Gives up everything that the kernel may still use.
    pub(crate) fn leak_buffers(&mut self) {
        for slot in &mut self.slots {
            std::mem::forget(slot.buf.take());
        }
        std::mem::forget(std::mem::take(&mut self.scratch));
    }

    /// Stores the address in the slot's scratch; valid until the operation's completion.
    pub(crate) fn store_address(
        &mut self,
        index: u32,
        address: &SocketAddr,
    ) -> (*const libc::sockaddr, libc::socklen_t) {
        let scratch = self.scratch[index as usize].get();
        // SAFETY: the slot was just taken: the kernel does not know its scratch yet. A sockaddr_in or
        // sockaddr_in6 fits a sockaddr_storage, which is aligned for both.
        unsafe {
            let storage = &raw mut (*scratch).address;
            let len = match address {
                SocketAddr::V4(v4) => {
                    storage.cast::<libc::sockaddr_in>().write(libc::sockaddr_in {
                        sin_family: libc::AF_INET as libc::sa_family_t,
                        sin_port: v4.port().to_be(),
                        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                        sin_zero: [0; 8],
                    });
                    size_of::<libc::sockaddr_in>()
                }
                SocketAddr::V6(v6) => {
                    storage.cast::<libc::sockaddr_in6>().write(libc::sockaddr_in6 {
                        sin6_family: libc::AF_INET6 as libc::sa_family_t,
                        sin6_port: v6.port().to_be(),
                        sin6_flowinfo: v6.flowinfo(),
                        sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                        sin6_scope_id: v6.scope_id(),
                    });
                    size_of::<libc::sockaddr_in6>()
                }
            };
            (storage.cast(), len as libc::socklen_t)
        }
    }

    /// Stores a duration in the slot's scratch; valid until the operation's completion.
    pub(crate) fn store_timeout(&mut self, index: u32, timeout: Duration) -> *const Timespec {
        let scratch = self.scratch[index as usize].get();
        // SAFETY: the slot was just taken: the kernel does not know its scratch yet.
        unsafe {
            (*scratch).timeout = Timespec::from(timeout);
            &raw const (*scratch).timeout
        }
    }

    /// Where the counter of an eventfd is read to; valid until the operation's completion.
    pub(crate) fn counter(&mut self, index: u32) -> *mut u8 {
        let scratch = self.scratch[index as usize].get();
        // SAFETY: computes an address inside the slot's own scratch.
        unsafe { (&raw mut (*scratch).counter).cast() }
    }
}

impl Slot {
    fn empty() -> Self {
        Self {
            tag: 0,
            kind: Kind::Single,
            due: 1,
            pinned: false,
            buf: None,
            len: 0,
            generation: 0,
            used: false,
            sequence: 0,
            write_result: 0,
            sync_result: 0,
        }
    }

    /// A short write breaks the link, so that its fdatasync reports ECANCELED: the count says it all.
    fn linked_outcome(&self) -> Result<u32, Errno> {
        let written = outcome(self.write_result)?;
        if written < self.len {
            return Ok(written);
        }
        outcome(self.sync_result).map(|_| written)
    }
}

impl Scratch {
    fn empty() -> Self {
        // SAFETY: a sockaddr_storage is plain integers, for which zeros are a value (AF_UNSPEC).
        let address = unsafe { std::mem::zeroed() };
        Self { address, timeout: Timespec::new(), counter: 0 }
    }
}

fn outcome(result: i32) -> Result<u32, Errno> {
    u32::try_from(result).map_err(|_| Errno::from_raw_os_error(-result))
}

/// Marks the second entry of a linked pair.
pub(crate) const SECOND: u64 = 1 << 63;
/// Completions with this name are for nobody.
pub(crate) const IGNORED: u64 = u64::MAX;
const GENERATION_MASK: u32 = 0x7fff_ffff;
/// IORING_NOTIF_USAGE_ZC_COPIED.
const NOTIF_COPIED: u32 = 1 << 31;

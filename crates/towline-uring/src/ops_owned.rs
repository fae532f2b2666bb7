//! Operations on buffers that move into the ring, and on descriptors alone.
#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fixed};
use io_uring::{opcode, squeue};

use crate::buf::PoolBuf;
use crate::fd::RingFd;
use crate::ops::send_flags;
use crate::provided::GROUP;
use crate::ring::{Ring, RingError};
use crate::table::{IGNORED, Kind};

/// Small frames, meta blocks, connections. A buffer that is moved in comes back with the completion;
/// where a method fails it is dropped, that is, returned to its pool.
impl Ring {
    /// Sends `range` of the buffer; completes when all of it is in the socket's buffer. One send at a
    /// time per socket.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn send_buf(
        &mut self,
        socket: RingFd,
        buf: PoolBuf,
        range: Range<usize>,
        tag: u64,
    ) -> Result<(), RingError> {
        self.submit_buf(socket, buf, range, tag, |fd, address, len| {
            opcode::Send::new(fd, address, len).flags(send_flags(false)).build()
        })
    }

    /// Receives into `range` of the buffer; completes with the first bytes (zero: end of the stream).
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn recv_buf(
        &mut self,
        socket: RingFd,
        buf: PoolBuf,
        range: Range<usize>,
        tag: u64,
    ) -> Result<(), RingError> {
        self.submit_buf(socket, buf, range, tag, |fd, address, len| {
            opcode::Recv::new(fd, address, len).build()
        })
    }

    /// Receives until it fails, is cancelled or the stream ends: each piece (at most 4 KiB) is one completion, with a
    /// buffer of its own; `more` says whether it is still armed. One submission serves many receives. Ends with
    /// ENOBUFS when pieces come faster than they are collected: arm it again.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn recv_multishot(&mut self, socket: RingFd, tag: u64) -> Result<(), RingError> {
        self.check(socket)?;
        if self.provided.is_none() {
            return Err(RingError::NoMultishot);
        }
        let entry = opcode::RecvMulti::new(Fixed(socket.index), GROUP).build();
        self.submit_bare(entry, Kind::RecvMulti, tag)
    }

    /// Reads from a file into `range` of the buffer (whole aligned blocks where the file is direct).
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn read_buf(
        &mut self,
        file: RingFd,
        file_offset: u64,
        buf: PoolBuf,
        range: Range<usize>,
        tag: u64,
    ) -> Result<(), RingError> {
        self.submit_buf(file, buf, range, tag, |fd, address, len| {
            opcode::Read::new(fd, address, len).offset(file_offset).build()
        })
    }

    /// Writes `range` of the buffer to a file; with `durable` as one write with RWF_DSYNC.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn write_buf(
        &mut self,
        file: RingFd,
        file_offset: u64,
        buf: PoolBuf,
        range: Range<usize>,
        durable: bool,
        tag: u64,
    ) -> Result<(), RingError> {
        let rw_flags = if durable { libc::RWF_DSYNC } else { 0 };
        self.submit_buf(file, buf, range, tag, |fd, address, len| {
            opcode::Write::new(fd, address, len).offset(file_offset).rw_flags(rw_flags).build()
        })
    }

    /// Accepts connections until it fails or is cancelled; each is one completion with `accepted`.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn accept_multishot(&mut self, listener: RingFd, tag: u64) -> Result<(), RingError> {
        self.check(listener)?;
        let entry = opcode::AcceptMulti::new(Fixed(listener.index)).flags(libc::SOCK_CLOEXEC).build();
        self.submit_bare(entry, Kind::Accept, tag)
    }

    /// Connects a socket made by [`tcp_socket`](crate::tcp_socket).
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn connect(&mut self, socket: RingFd, address: &SocketAddr, tag: u64) -> Result<(), RingError> {
        self.check(socket)?;
        self.make_room(1)?;
        let index = self.ops.begin(Kind::Single, tag, self.pushed)?;
        let (address, len) = self.ops.store_address(index, address);
        let entry = opcode::Connect::new(Fixed(socket.index), address, len).build();
        // SAFETY: the address lives in the slot's scratch until the completion.
        unsafe { self.push_op(index, entry) }
    }

    /// Shuts a connection down in both directions; receives end with zero bytes, sends with an error.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn shutdown(&mut self, socket: RingFd, tag: u64) -> Result<(), RingError> {
        self.check(socket)?;
        let entry = opcode::Shutdown::new(Fixed(socket.index), libc::SHUT_RDWR).build();
        self.submit_bare(entry, Kind::Single, tag)
    }

    /// Completes (with `Ok(8)`) when the attached eventfd is signalled, and takes its counter.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn read_event(&mut self, event: RingFd, tag: u64) -> Result<(), RingError> {
        self.check(event)?;
        self.make_room(1)?;
        let index = self.ops.begin(Kind::Single, tag, self.pushed)?;
        let counter = self.ops.counter(index);
        let entry = opcode::Read::new(Fixed(event.index), counter, 8).offset(NO_POSITION).build();
        // SAFETY: the counter lives in the slot's scratch, which nobody reads or frees before the completion.
        unsafe { self.push_op(index, entry) }
    }

    /// Completes with `Ok(0)` when the time is over.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn timeout(&mut self, after: Duration, tag: u64) -> Result<(), RingError> {
        self.make_room(1)?;
        let index = self.ops.begin(Kind::Timeout, tag, self.pushed)?;
        let timeout = self.ops.store_timeout(index, after);
        let entry = opcode::Timeout::new(timeout).build();
        // SAFETY: the duration lives in the slot's scratch until the completion.
        unsafe { self.push_op(index, entry) }
    }

    /// Asks the kernel to cancel every operation with this tag. Each still completes: with ECANCELED, or
    /// with its result when it was past stopping (disk writes are).
    ///
    /// # Errors
    /// [`RingError`]; some may have been cancelled.
    pub fn cancel(&mut self, tag: u64) -> Result<(), RingError> {
        let named: Vec<_> = self.ops.tagged(tag).collect();
        for name in named {
            self.make_room(1)?;
            let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(name)).build().user_data(IGNORED);
            // SAFETY: the entry points to nothing.
            unsafe { self.push(&entry)? };
        }
        Ok(())
    }

    fn submit_buf(
        &mut self,
        fd: RingFd,
        buf: PoolBuf,
        range: Range<usize>,
        tag: u64,
        entry: impl FnOnce(Fixed, *mut u8, u32) -> squeue::Entry,
    ) -> Result<(), RingError> {
        self.check(fd)?;
        if range.is_empty() || range.end > buf.len() || range.len() > MAX_TRANSFER {
            return Err(RingError::BufferRange);
        }
        self.make_room(1)?;
        let index = self.ops.begin(Kind::Single, tag, self.pushed)?;
        // SAFETY: the range lies in the buffer, as checked above.
        let address = unsafe { buf.as_ptr().add(range.start) };
        self.ops.slot(index).buf = Some(buf);
        // SAFETY: the slot owns the buffer until the completion hands it back; moving the `PoolBuf` does
        // not move its memory.
        unsafe { self.push_op(index, entry(Fixed(fd.index), address, range.len() as u32)) }
    }

    pub(crate) fn submit_bare(
        &mut self,
        entry: squeue::Entry,
        kind: Kind,
        tag: u64,
    ) -> Result<(), RingError> {
        self.make_room(1)?;
        let index = self.ops.begin(kind, tag, self.pushed)?;
        // SAFETY: the entry points to no memory.
        unsafe { self.push_op(index, entry) }
    }

    /// Queues the one entry of a slot, or gives the slot back.
    ///
    /// # Safety
    /// As [`Ring::push`].
    pub(crate) unsafe fn push_op(&mut self, index: u32, entry: squeue::Entry) -> Result<(), RingError> {
        let entry = entry.user_data(self.ops.user_data(index));
        // SAFETY: the caller's promise.
        let result = unsafe { self.push(&entry) };
        if result.is_err() {
            self.arena.unpin(self.ops.pin_id(index));
            drop(self.ops.abandon(index));
        }
        result
    }
}

/// For files without positions.
const NO_POSITION: u64 = u64::MAX;
const MAX_TRANSFER: usize = 1 << 30;

//! Operations on arena ranges, and what completions say.
#![allow(unsafe_code)]

use std::ops::Range;
use std::os::fd::OwnedFd;

use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{opcode, squeue};
use rustix::io::Errno;

use crate::buf::PoolBuf;
use crate::fd::RingFd;
use crate::ring::{Ring, RingError};
use crate::table::{Kind, SECOND};

/// How a write in the ring is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritePrimitive {
    /// One write with RWF_DSYNC.
    Dsync,
    /// A write linked to an fdatasync. The caller sees one completion.
    WriteThenFsync,
}

/// The end of an operation, or one of its results where more follow.
#[derive(Debug)]
pub struct Completion {
    /// What the caller named the operation.
    pub tag: u64,
    /// Bytes moved (0 for operations that move none), or the error. A short count is a success of that
    /// many bytes: the caller submits the aligned rest again and counts nothing as durable before.
    pub result: Result<u32, Errno>,
    /// The buffer that was moved in, with the last completion; of an armed receive, the bytes that came.
    pub buf: Option<PoolBuf>,
    /// The connection, for accepts.
    pub accepted: Option<OwnedFd>,
    /// More completions follow: accepts, armed receives, and the first one of a zero-copy send.
    pub more: bool,
    /// The last completion of a zero-copy send: its memory is free again.
    pub notif: bool,
    /// With `notif`: the kernel copied after all, so that zero-copy is not worth it on this route.
    pub zc_copied: bool,
}

/// Log bytes between arena, files and sockets. Ranges are arena positions; each stays pinned until the
/// last completion. All methods fail with [`RingError`] and then submit nothing.
impl Ring {
    /// Writes an arena range durably.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn write_durable(
        &mut self,
        file: RingFd,
        file_offset: u64,
        range: Range<u64>,
        primitive: WritePrimitive,
        tag: u64,
    ) -> Result<(), RingError> {
        match primitive {
            WritePrimitive::Dsync => self.write_arena(file, file_offset, range, libc::RWF_DSYNC, tag),
            WritePrimitive::WriteThenFsync => {
                self.check(file)?;
                self.make_room(2)?;
                let (index, address) = self.begin_pinned(Kind::Linked, tag, &range, false)?;
                self.ops.slot(index).len = (range.end - range.start) as u32;
                let write = self
                    .write_entry(file, file_offset, &range, address, 0)
                    .flags(if bug!(UnlinkedFsync) { squeue::Flags::empty() } else { squeue::Flags::IO_LINK })
                    .user_data(self.ops.user_data(index));
                let fsync = opcode::Fsync::new(Fixed(file.index))
                    .flags(FsyncFlags::DATASYNC)
                    .build()
                    .user_data(self.ops.user_data(index) | SECOND);
                self.ops.slot(index).due = 2;
                // SAFETY: the range is pinned in the arena until both completions have arrived.
                unsafe {
                    self.push(&write)?;
                    self.push(&fsync)
                }
            }
        }
    }

    /// Writes an arena range into the page cache or device cache: not durable.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn write_plain(
        &mut self,
        file: RingFd,
        file_offset: u64,
        range: Range<u64>,
        tag: u64,
    ) -> Result<(), RingError> {
        self.write_arena(file, file_offset, range, 0, tag)
    }

    /// Makes the file's data durable (fdatasync). The kernel runs it on a worker thread.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn fsync(&mut self, file: RingFd, tag: u64) -> Result<(), RingError> {
        self.check(file)?;
        let entry = opcode::Fsync::new(Fixed(file.index)).flags(FsyncFlags::DATASYNC).build();
        self.submit_bare(entry, Kind::Single, tag)
    }

    /// Reads a file into an arena range.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn read_into_arena(
        &mut self,
        file: RingFd,
        file_offset: u64,
        range: Range<u64>,
        tag: u64,
    ) -> Result<(), RingError> {
        self.check(file)?;
        self.make_room(1)?;
        let (index, address) = self.begin_pinned(Kind::Single, tag, &range, true)?;
        let (fd, len) = (Fixed(file.index), (range.end - range.start) as u32);
        let entry = if self.is_fixed(&range) {
            opcode::ReadFixed::new(fd, address, len, ARENA_BUFFER).offset(file_offset).build()
        } else {
            opcode::Read::new(fd, address, len).offset(file_offset).build()
        };
        // SAFETY: the range is pinned for filling until the completion.
        unsafe { self.push_op(index, entry) }
    }

    /// Sends an arena range; completes when all of it is in the socket's buffer. One send at a time per
    /// socket, or their bytes mix. `more` announces that another one follows at once.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn send(&mut self, socket: RingFd, range: Range<u64>, more: bool, tag: u64) -> Result<(), RingError> {
        self.check(socket)?;
        self.make_room(1)?;
        let (index, address) = self.begin_pinned(Kind::Single, tag, &range, false)?;
        let entry = opcode::Send::new(Fixed(socket.index), address, (range.end - range.start) as u32)
            .flags(send_flags(more))
            .build();
        // SAFETY: the range is pinned until the completion.
        unsafe { self.push_op(index, entry) }
    }

    /// Sends an arena range without copying it. Two completions: the count (with `more`), and, when the
    /// peer has everything, the notification (`notif`), until which the range stays pinned.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn send_zc(
        &mut self,
        socket: RingFd,
        range: Range<u64>,
        more: bool,
        tag: u64,
    ) -> Result<(), RingError> {
        self.check(socket)?;
        self.make_room(1)?;
        let (index, address) = self.begin_pinned(Kind::ZeroCopy, tag, &range, false)?;
        let buffer = self.is_fixed(&range).then_some(ARENA_BUFFER);
        let entry = opcode::SendZc::new(Fixed(socket.index), address, (range.end - range.start) as u32)
            .buf_index(buffer)
            .flags(send_flags(more))
            .zc_flags(REPORT_USAGE)
            .build();
        // SAFETY: the range is pinned until the notification, or until the only completion of a failure.
        unsafe { self.push_op(index, entry) }
    }

    /// Receives into an arena range; with `whole` it completes when the range is full or the stream
    /// ends, otherwise with the first bytes. Zero bytes are the end of the stream.
    ///
    /// # Errors
    /// [`RingError`]; nothing was submitted.
    pub fn recv_into_arena(
        &mut self,
        socket: RingFd,
        range: Range<u64>,
        whole: bool,
        tag: u64,
    ) -> Result<(), RingError> {
        self.check(socket)?;
        self.make_room(1)?;
        let (index, address) = self.begin_pinned(Kind::Single, tag, &range, true)?;
        let entry = opcode::Recv::new(Fixed(socket.index), address, (range.end - range.start) as u32)
            .flags(if whole { libc::MSG_WAITALL } else { 0 })
            .build();
        // SAFETY: the range is pinned for filling until the completion.
        unsafe { self.push_op(index, entry) }
    }

    fn write_arena(
        &mut self,
        file: RingFd,
        file_offset: u64,
        range: Range<u64>,
        rw_flags: i32,
        tag: u64,
    ) -> Result<(), RingError> {
        self.check(file)?;
        self.make_room(1)?;
        let (index, address) = self.begin_pinned(Kind::Single, tag, &range, false)?;
        let entry = self.write_entry(file, file_offset, &range, address, rw_flags);
        // SAFETY: the range is pinned until the completion.
        unsafe { self.push_op(index, entry) }
    }

    fn write_entry(
        &self,
        file: RingFd,
        file_offset: u64,
        range: &Range<u64>,
        address: *mut u8,
        rw_flags: i32,
    ) -> squeue::Entry {
        let (fd, len) = (Fixed(file.index), (range.end - range.start) as u32);
        if self.is_fixed(range) {
            opcode::WriteFixed::new(fd, address, len, ARENA_BUFFER)
                .offset(file_offset)
                .rw_flags(rw_flags)
                .build()
        } else {
            opcode::Write::new(fd, address, len).offset(file_offset).rw_flags(rw_flags).build()
        }
    }

    /// Only the arena itself is registered, not its mirror: pages count once against the memlock limit.
    /// The one span per round that wraps goes unregistered.
    fn is_fixed(&self, range: &Range<u64>) -> bool {
        let offset = range.start & (self.arena.size() - 1);
        self.registered && offset + (range.end - range.start) <= self.arena.size()
    }

    fn begin_pinned(
        &mut self,
        kind: Kind,
        tag: u64,
        range: &Range<u64>,
        fills: bool,
    ) -> Result<(u32, *mut u8), RingError> {
        let index = self.ops.begin(kind, tag, self.pushed)?;
        match self.arena.pin(self.ops.pin_id(index), range.clone(), fills) {
            Some(address) => {
                self.ops.slot(index).pinned = true;
                Ok((index, address))
            }
            None => {
                self.ops.abandon(index);
                Err(RingError::Range { start: range.start, end: range.end })
            }
        }
    }
}

pub(crate) fn send_flags(more: bool) -> i32 {
    // WAITALL: the kernel goes on after a partial send, so that a short count means a broken connection.
    libc::MSG_NOSIGNAL | libc::MSG_WAITALL | if more { libc::MSG_MORE } else { 0 }
}

/// Index of the arena among the registered buffers.
const ARENA_BUFFER: u16 = 0;
/// IORING_SEND_ZC_REPORT_USAGE: the notification says whether the kernel copied.
const REPORT_USAGE: u16 = 1 << 3;

//! Descriptors that a ring uses: entries of its fixed-file table.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

/// A descriptor attached to one ring. It stays valid until it is detached, whatever happens to the
/// descriptor that it was made from: the kernel holds its own reference, through SIGKILL too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RingFd {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Which entries of the fixed-file table are in use.
pub(crate) struct FdTable {
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl FdTable {
    /// Generations begin at a place of the ring's own, so that a descriptor of another ring is refused.
    pub(crate) fn new(capacity: u32, ring_id: u32) -> Self {
        Self { generations: vec![ring_id << 20; capacity as usize], free: (0..capacity).rev().collect() }
    }

    pub(crate) fn next_free(&self) -> Option<u32> {
        self.free.last().copied()
    }

    /// Marks the entry that `next_free` named as used.
    pub(crate) fn take(&mut self) -> Option<RingFd> {
        let index = self.free.pop()?;
        Some(RingFd { index, generation: self.generations[index as usize] })
    }

    pub(crate) fn is_current(&self, fd: RingFd) -> bool {
        // A free entry has a generation that was never handed out.
        self.generations.get(fd.index as usize) == Some(&fd.generation)
    }

    pub(crate) fn give_back(&mut self, fd: RingFd) {
        if self.is_current(fd) {
            self.generations[fd.index as usize] = fd.generation.wrapping_add(1);
            self.free.push(fd.index);
        }
    }
}

/// A TCP socket of the address's family, not connected, to be attached to a ring and connected there.
///
/// # Errors
/// The kernel's.
pub fn tcp_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?)
}

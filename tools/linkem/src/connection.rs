//! One forwarded connection: two sockets and a delay line for each direction.

use crate::config::{DOWN, UP};
use crate::control::Counters;
use crate::delay_line::DelayLine;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Bytes of one read where no rate asks for smaller pieces.
const READ_BYTES: usize = 256 * 1024;

/// A connection between who connected (`client`) and the target.
pub(crate) struct Connection {
    client: OwnedFd,
    target: OwnedFd,
    pub(crate) connecting: bool,
    pub(crate) halves: [Half; 2],
}

/// One direction of one connection.
pub(crate) struct Half {
    pub(crate) line: DelayLine,
    /// The reading side said goodbye: close the writing side once everything before it has left.
    end: Option<End>,
    /// The destination's socket is full: wait until the kernel says it is writable.
    pub(crate) blocked: bool,
    /// The head of the line was held up by a full socket, a stall or a cut: its lateness is not the emulator's.
    held_up: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Due(u64),
    Passed,
}

/// What the link's thread should do with the connection after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Alive,
    /// Both directions ended in order.
    Done,
    /// One side was reset: so will be the other.
    Reset,
}

impl Connection {
    pub(crate) fn new(client: OwnedFd, target: OwnedFd, connecting: bool, buffer_bytes: usize) -> Self {
        let half = || Half { line: DelayLine::new(buffer_bytes), end: None, blocked: false, held_up: false };
        Self { client, target, connecting, halves: [half(), half()] }
    }

    pub(crate) fn source(&self, path: usize) -> BorrowedFd<'_> {
        if path == UP { self.client.as_fd() } else { self.target.as_fd() }
    }

    pub(crate) fn destination(&self, path: usize) -> BorrowedFd<'_> {
        self.source(UP + DOWN - path)
    }

    /// Whether this direction can take bytes in.
    pub(crate) fn wants_read(&self, path: usize) -> bool {
        let half = &self.halves[path];
        !self.connecting && half.end.is_none() && !half.line.is_full()
    }

    /// When this direction has something to deliver, unless its destination is full.
    pub(crate) fn next_due_ns(&self, path: usize) -> Option<u64> {
        let half = &self.halves[path];
        if self.connecting || half.blocked {
            return None;
        }
        half.line.next_due_ns().or(match half.end {
            Some(End::Due(due_ns)) => Some(due_ns),
            _ => None,
        })
    }

    /// Reads once; `place` turns a length into a due time. Returns the bytes read, `None` when nothing was there.
    pub(crate) fn read(
        &mut self,
        path: usize,
        limit_bytes: usize,
        place: &mut dyn FnMut(usize) -> u64,
    ) -> Result<Option<usize>, Fate> {
        let half = &mut self.halves[path];
        let source = if path == UP { self.client.as_fd() } else { self.target.as_fd() };
        let room = half.line.room(limit_bytes.min(READ_BYTES));
        if room.is_empty() {
            return Ok(None);
        }
        match rustix::net::recv(source, room, RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                // The goodbye travels as long as a byte would, and behind every byte before it.
                half.end = Some(End::Due(place(0).max(half.line.last_due_ns())));
                Ok(None)
            }
            Ok((len, _)) => {
                let due_ns = place(len);
                half.line.push(len, due_ns);
                Ok(Some(len))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(_) => Err(Fate::Reset),
        }
    }

    /// Delivers what is due, as far as the destination takes it.
    pub(crate) fn deliver(&mut self, path: usize, now_ns: u64, counters: &Counters) -> Fate {
        let destination = if path == UP { self.target.as_fd() } else { self.client.as_fd() };
        let half = &mut self.halves[path];
        loop {
            let due_ns = half.line.next_due_ns().unwrap_or(now_ns);
            let bytes = half.line.due(now_ns);
            if bytes.is_empty() {
                break;
            }
            let wanted = bytes.len();
            match rustix::net::send(destination, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(len) => {
                    if !half.held_up {
                        counters.paths[path].count_delivery(now_ns.saturating_sub(due_ns));
                    }
                    counters.paths[path].bytes.fetch_add(len as u64, Relaxed);
                    half.line.consume(len);
                    half.held_up = len < wanted;
                }
                Err(Errno::AGAIN) => {
                    half.blocked = true;
                    half.held_up = true;
                    return Fate::Alive;
                }
                Err(Errno::INTR) => {}
                Err(_) => return Fate::Reset,
            }
        }
        half.held_up = false;
        if let Some(End::Due(due_ns)) = half.end
            && half.line.is_empty()
            && due_ns <= now_ns
        {
            half.end = Some(End::Passed);
            // It fails only where the other side is gone already, which the next read tells.
            let _ = rustix::net::shutdown(destination, Shutdown::Write);
        }
        if self.halves.iter().all(|half| half.end == Some(End::Passed)) { Fate::Done } else { Fate::Alive }
    }

    /// A stall or a cut holds this direction up.
    pub(crate) fn hold_up(&mut self, path: usize) {
        self.halves[path].held_up = true;
    }

    /// The result of a connect that the kernel finished.
    pub(crate) fn finish_connect(&mut self) -> bool {
        self.connecting = false;
        matches!(sockopt::socket_error(&self.target), Ok(Ok(())))
    }

    /// Closes both sides with a reset.
    pub(crate) fn reset(self) {
        for socket in [&self.client, &self.target] {
            let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
        }
    }

    pub(crate) fn held_bytes(&self, path: usize) -> u64 {
        self.halves[path].line.held_bytes()
    }
}

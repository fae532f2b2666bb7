//! A non-blocking socket with two bounded buffers: frames in, frames and payloads out.
//!
//! Sending never waits without receiving: a node that stops reading because its answers are not taken, and a client
//! that stops reading because its requests are not taken, would wait for each other for ever.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use towline_core::format::{Decoded, Frame, WireError, decode_frame, encode_frame};
use towline_core::types::limits::MAX_BATCH_BYTES;

use super::error::ClientError;

/// Room for input: the largest batch a node may send after a `Records` frame, and frames around it.
const INPUT_BYTES: usize = MAX_BATCH_BYTES as usize + (64 << 10);
/// Room the input starts with; a connection that never tails never needs more.
const FIRST_INPUT_BYTES: usize = 64 << 10;

/// A frame, with the bytes that followed it.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) frame: Frame,
    pub(super) bytes: Bytes,
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    output: Vec<u8>,
    /// Bytes of `output` that have left.
    sent: usize,
    input: Vec<u8>,
    /// Unread bytes are `input[start..end]`.
    start: usize,
    end: usize,
    /// Bytes that the frame at the front needs before it is complete.
    wanted: usize,
    /// The other side has closed; what is in `input` still counts.
    closed: Option<String>,
}

impl Connection {
    pub(super) fn open(
        address: &(impl ToSocketAddrs + std::fmt::Debug),
        deadline: Instant,
    ) -> Result<Connection, ClientError> {
        let failed =
            |source| ClientError::Connect { address: format!("{address:?}").replace('"', ""), source };
        let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
        for candidate in address.to_socket_addrs().map_err(failed)? {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match TcpStream::connect_timeout(&candidate, left) {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(failed)?;
                    stream.set_nonblocking(true).map_err(failed)?;
                    return Ok(Connection {
                        stream,
                        address: candidate,
                        output: Vec::new(),
                        sent: 0,
                        input: vec![0; FIRST_INPUT_BYTES],
                        start: 0,
                        end: 0,
                        wanted: 0,
                        closed: None,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn protocol_error(&self, what: String) -> ClientError {
        ClientError::Protocol { address: self.address, what }
    }

    /// Bytes that have not left yet.
    pub(super) fn pending_output(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Queues a frame.
    pub(super) fn push(&mut self, frame: &Frame) -> Result<(), ClientError> {
        encode_frame(frame, &mut self.output).map_err(|error| ClientError::Invalid(error.to_string()))
    }

    /// Queues payload bytes behind the last frame.
    pub(super) fn push_bytes(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Sends what the socket takes at once, and looks for no answer.
    pub(super) fn push_out(&mut self) -> Result<(), ClientError> {
        self.send().map(|_| ())
    }

    /// Sends and receives what can be without waiting; whether anything moved.
    pub(super) fn pump(&mut self) -> Result<bool, ClientError> {
        let sent = self.send()?;
        let received = self.receive()?;
        if !received
            && self.buffered() < self.wanted.max(1)
            && let Some(why) = &self.closed
        {
            return Err(self.lost(why.clone()));
        }
        Ok(sent || received)
    }

    /// The next complete frame that has arrived. A frame that announces bytes is complete with them.
    pub(super) fn next(&mut self) -> Result<Option<Received>, ClientError> {
        let unread = &self.input[self.start..self.end];
        // The decoder has capped every length before it asks for more bytes.
        let Decoded { frame, consumed, payload_bytes } = match decode_frame(unread) {
            Ok(decoded) => decoded,
            Err(WireError::NeedMore(wanted)) => {
                self.wanted = wanted;
                return Ok(None);
            }
            Err(error) => return Err(self.protocol_error(error.to_string())),
        };
        self.wanted = consumed + payload_bytes as usize;
        if unread.len() < self.wanted {
            return Ok(None);
        }
        let bytes = Bytes::copy_from_slice(&unread[consumed..self.wanted]);
        self.start += self.wanted;
        self.wanted = 0;
        Ok(Some(Received { frame, bytes }))
    }

    /// Waits for a frame; `None` at the deadline.
    pub(super) fn next_before(
        &mut self,
        deadline: Instant,
        spin: Duration,
    ) -> Result<Option<Received>, ClientError> {
        loop {
            if let Some(received) = self.next()? {
                return Ok(Some(received));
            }
            if self.pump()? {
                continue;
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            self.wait(Some(deadline), spin)?;
        }
    }

    /// Waits until bytes have moved, or can: first by trying for `spin`, yielding in between (parking costs more than
    /// the network), then asleep; at most until `deadline`.
    pub(super) fn wait(&mut self, deadline: Option<Instant>, spin: Duration) -> Result<(), ClientError> {
        let begun = Instant::now();
        while begun.elapsed() < spin && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            // A read that finds nothing costs less than a poll, and one that finds something saves the read.
            let moved = self.send()? | self.receive()?;
            if moved || self.closed.is_some() {
                return Ok(());
            }
            std::thread::yield_now();
        }
        self.poll(deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())))
    }

    fn poll(&self, timeout: Option<Duration>) -> Result<(), ClientError> {
        let mut flags = PollFlags::IN;
        if self.pending_output() > 0 {
            flags |= PollFlags::OUT;
        }
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().min(1 << 30) as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        match poll(&mut [PollFd::new(&self.stream, flags)], timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(self.lost(format!("waiting for the socket: {error}"))),
        }
    }

    fn send(&mut self) -> Result<bool, ClientError> {
        let before = self.sent;
        while self.pending_output() > 0 && self.closed.is_none() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => self.closed = Some("the node takes no more bytes".to_owned()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The reason for a reset often lies in the input already: read it before giving up.
                Err(error) => self.closed = Some(error.to_string()),
            }
        }
        let moved = self.sent > before;
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
        Ok(moved)
    }

    fn receive(&mut self) -> Result<bool, ClientError> {
        self.make_room();
        let mut moved = false;
        while self.end < self.input.len() {
            match self.stream.read(&mut self.input[self.end..]) {
                Ok(0) => {
                    self.closed.get_or_insert_with(|| "the node closed the connection".to_owned());
                    break;
                }
                Ok(count) => {
                    self.end += count;
                    moved = true;
                    if self.end < self.input.len() {
                        // A stream gives less than asked for when it has no more: another read would only say so.
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.closed.get_or_insert_with(|| error.to_string());
                    break;
                }
            }
        }
        Ok(moved)
    }

    /// Moves what is unread to the front when nothing fits behind it, and grows, up to the limit, for a large frame.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let too_short = self.input.len() - self.start < self.wanted.max(1);
        if self.start > 0 && (self.end == self.input.len() || too_short) {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.input.len() < self.wanted {
            self.input.resize(self.wanted.next_power_of_two().min(INPUT_BYTES), 0);
        }
    }

    fn buffered(&self) -> usize {
        self.end - self.start
    }

    fn lost(&self, why: String) -> ClientError {
        ClientError::Lost { address: self.address, why }
    }
}

//! Another node's copy of the log, read over its port: for repair, before this node serves anybody.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use towline_core::format::{
    Decoded, Frame, Hello, HelloRole, LogEnd, WIRE_VERSION, WireError, decode_frame, encode_frame,
};
use towline_core::log::recovery::{MAX_PATCH_BYTES, Patch};
use towline_core::types::{Geometry, LogId, Lsn, NodeId, Span, Term};

/// A connection to a node that may hold the log.
#[derive(Debug)]
pub(crate) struct LogPeer {
    stream: TcpStream,
    /// Bytes that arrived and are not dealt with; never more than one frame and its payload, and one read.
    arrived: Vec<u8>,
}

impl LogPeer {
    /// Connects to the node at `address` (`host:port`), which must serve this shard of this log.
    ///
    /// # Errors
    /// Why it is of no help, for the operator.
    pub(crate) fn connect(address: &str, shard: u16, log: LogId) -> Result<LogPeer, String> {
        let mut last = "the name has no address".to_owned();
        let found = address.to_socket_addrs().map_err(|error| error.to_string())?;
        let stream = found.take(MAX_ADDRESSES).find_map(|address| {
            TcpStream::connect_timeout(&address, CONNECT_LIMIT)
                .inspect_err(|error| last = error.to_string())
                .ok()
        });
        let Some(stream) = stream else { return Err(format!("no connection: {last}")) };
        let io = |error: std::io::Error| error.to_string();
        stream.set_nodelay(true).map_err(io)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(io)?;
        stream.set_write_timeout(Some(ANSWER_LIMIT)).map_err(io)?;
        let mut peer = LogPeer { stream, arrived: Vec::new() };
        peer.send(&Frame::Hello(hello(shard, log)))?;
        match peer.receive()?.0 {
            Frame::WelcomeClient { log: found, .. } if found == log => Ok(peer),
            Frame::WelcomeClient { log: found, .. } => Err(format!("it holds log {found}, not {log}")),
            Frame::Refused { message, .. } => Err(message),
            _ => Err("it answers a hello with another frame".to_owned()),
        }
    }

    /// The bytes of `span` (at most [`MAX_PATCH_BYTES`], in one segment), as far as the peer has flushed them.
    ///
    /// # Errors
    /// Why it has none to give.
    pub(crate) fn read(&mut self, span: Span) -> Result<Patch, String> {
        if span.len() > MAX_PATCH_BYTES {
            return Err(format!("{} bytes are asked for at once", span.len()));
        }
        self.send(&Frame::ReadLog { start: span.start, end: span.end })?;
        let mut patch = Patch { start: span.start, bytes: Vec::new() };
        loop {
            match self.receive()? {
                (Frame::LogBytes { start, .. }, bytes) if start == patch.span().end => {
                    if bytes.is_empty() {
                        return Ok(patch);
                    }
                    if patch.bytes.len() + bytes.len() > span.len() as usize {
                        return Err("it sends more than it was asked for".to_owned());
                    }
                    patch.bytes.extend_from_slice(&bytes);
                }
                (Frame::Heartbeat { .. }, _) => {}
                (Frame::Refused { message, .. }, _) => return Err(message),
                _ => return Err("it answers with another frame, or with other bytes of the log".to_owned()),
            }
        }
    }

    fn send(&mut self, frame: &Frame) -> Result<(), String> {
        let mut bytes = Vec::new();
        encode_frame(frame, &mut bytes).map_err(|error| error.to_string())?;
        self.stream.write_all(&bytes).map_err(|error| error.to_string())
    }

    /// The next frame and the payload behind it.
    fn receive(&mut self) -> Result<(Frame, Vec<u8>), String> {
        let until = Instant::now() + ANSWER_LIMIT;
        loop {
            let need = match decode_frame(&self.arrived) {
                Ok(Decoded { frame, consumed, payload_bytes }) => {
                    let whole = consumed + payload_bytes as usize;
                    if self.arrived.len() >= whole {
                        let payload = self.arrived[consumed..whole].to_vec();
                        self.arrived.drain(..whole);
                        return Ok((frame, payload));
                    }
                    whole
                }
                // The decoder has capped every length before it asks for more.
                Err(WireError::NeedMore(need)) => need,
                Err(error) => return Err(error.to_string()),
            };
            if Instant::now() >= until {
                return Err(format!("no answer within {ANSWER_LIMIT:?}"));
            }
            let have = self.arrived.len();
            self.arrived.resize(need.max(have + 1), 0);
            let read = self.stream.read(&mut self.arrived[have..]);
            self.arrived.truncate(have + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err("it closed the connection".to_owned()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(format!("no answer within {ANSWER_LIMIT:?}"));
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

fn hello(shard: u16, log: LogId) -> Hello {
    Hello {
        versions: (WIRE_VERSION, WIRE_VERSION),
        role: HelloRole::Client,
        shard,
        log,
        geometry: Geometry { segment_bytes: 0, in_flight_bytes: 0 },
        node: NodeId(0),
        name: "repair".to_owned(),
        nonce: 0,
        adopted: Term::default(),
        end: LogEnd { last_term: Term::default(), flushed: Lsn(0) },
    }
}

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

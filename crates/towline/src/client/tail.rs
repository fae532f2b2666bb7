//! Following a log over the socket.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use towline_core::format::Frame;
use towline_core::types::Lsn;
use towline_runtime::deadline;

use super::connection::{Connection, Received};
use super::error::ClientError;
use super::frame_name;
use crate::record::Records;

/// The records of one batch.
#[derive(Debug, Clone)]
pub struct TailRecords {
    /// LSN of the first record header.
    pub start: Lsn,
    /// Where the next batch begins: to follow on later, ask from here.
    pub next: Lsn,
    /// Record headers and payloads as in the log.
    pub bytes: Bytes,
}

impl TailRecords {
    /// The data records, in log order.
    pub fn records(&self) -> Records {
        Records::new(self.start, self.bytes.clone())
    }
}

/// A log followed over its own connection; the node's sending stops when this side does not read.
#[derive(Debug)]
pub struct ClientTail {
    connection: Connection,
    spin: Duration,
}

impl ClientTail {
    pub(super) fn new(connection: Connection, spin: Duration) -> ClientTail {
        ClientTail { connection, spin }
    }

    /// Where the node serves.
    pub fn address(&self) -> SocketAddr {
        self.connection.address()
    }

    /// Waits for the next batch with records.
    ///
    /// # Errors
    /// [`ClientError::Rejected`] (the place asked for is trimmed, or no batch begins there), [`ClientError::Lost`],
    /// [`ClientError::Protocol`].
    pub fn next_batch(&mut self) -> Result<TailRecords, ClientError> {
        loop {
            if let Some(batch) =
                self.next_before(deadline(Duration::MAX))?.filter(|batch| !batch.bytes.is_empty())
            {
                return Ok(batch);
            }
        }
    }

    /// Waits for the next batch, at most `timeout`; `None` when none came. A batch without bytes says that all there
    /// is has come; silence alone does not.
    ///
    /// # Errors
    /// As [`ClientTail::next_batch`].
    pub fn next_batch_timeout(&mut self, timeout: Duration) -> Result<Option<TailRecords>, ClientError> {
        self.next_before(deadline(timeout))
    }

    fn next_before(&mut self, deadline: Instant) -> Result<Option<TailRecords>, ClientError> {
        loop {
            let Some(Received { frame, bytes }) = self.connection.next_before(deadline, self.spin)? else {
                return Ok(None);
            };
            match frame {
                Frame::Records { start, next, .. } => return Ok(Some(TailRecords { start, next, bytes })),
                Frame::Heartbeat { term } => self.connection.push(&Frame::Heartbeat { term })?,
                Frame::Done { error, .. } => return Err(ClientError::Rejected(error)),
                Frame::Refused { code, message } => {
                    return Err(ClientError::Refused { address: self.connection.address(), code, message });
                }
                other => {
                    let what = format!("unexpected {} while following", frame_name(&other));
                    return Err(self.connection.protocol_error(what));
                }
            }
        }
    }
}

impl Iterator for ClientTail {
    type Item = Result<TailRecords, ClientError>;

    /// Never ends by itself: a log has no last record. After an error the connection is of no more use.
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_batch())
    }
}

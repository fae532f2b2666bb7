//! Following a log inside the program that writes or receives it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use towline_core::types::Lsn;
use towline_runtime::TailError;

use crate::record::{Record, Records};

/// The records of a log, one after the other, without an end: an iterator that blocks and a
/// [`Stream`](futures_core::Stream) that does not. Each batch is copied out of the arena once, out of a
/// segment file twice (a window of it lies between); the payloads of a batch share that copy, which lives as long as one of them, and hold no segment back.
pub struct Tail {
    batches: towline_runtime::Tail,
    records: Option<Records>,
    next: Lsn,
    failed: bool,
}

impl Tail {
    pub(crate) fn new(batches: towline_runtime::Tail) -> Tail {
        Tail { batches, records: None, next: Lsn(0), failed: false }
    }

    /// Where the batch after the one at hand begins: follow on from here after a restart, once every record handed
    /// out so far has been dealt with. 0 before the first batch.
    pub fn next_batch(&self) -> Lsn {
        self.next
    }

    /// The next record, waiting for it at most `timeout`; `None` when there was none. A timeout of zero reads what is
    /// there: how a program rebuilds its state from the log when it starts.
    ///
    /// # Errors
    /// [`TailError`]; the tail is of no more use after one. [`TailError::Stopped`] when the node has stopped.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Record>, TailError> {
        loop {
            if let Some(record) = self.next_at_hand() {
                return Ok(Some(record));
            }
            if self.failed {
                return Err(TailError::Stopped);
            }
            match self.batches.next_within(timeout) {
                Some(Ok(Some(batch))) => self.put(batch),
                Some(Ok(None)) => return Ok(None),
                Some(Err(error)) => {
                    self.failed = true;
                    return Err(error);
                }
                None => return Err(TailError::Stopped),
            }
        }
    }

    fn next_at_hand(&mut self) -> Option<Record> {
        self.records.as_mut().and_then(Iterator::next)
    }

    fn put(&mut self, batch: towline_runtime::TailBatch) {
        self.next = batch.next;
        self.records = Some(Records::new(batch.start, batch.bytes));
    }
}

impl Iterator for Tail {
    type Item = Result<Record, TailError>;

    /// Blocks until there is a record. Ends only after an error, or when the node has stopped.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.next_at_hand() {
                return Some(Ok(record));
            }
            if self.failed {
                return None;
            }
            match self.batches.next()? {
                Ok(batch) => self.put(batch),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Stream for Tail {
    type Item = Result<Record, TailError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(record) = self.next_at_hand() {
                return Poll::Ready(Some(Ok(record)));
            }
            if self.failed {
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.batches).poll_next(context) {
                Poll::Ready(Some(Ok(batch))) => self.put(batch),
                Poll::Ready(Some(Err(error))) => {
                    self.failed = true;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail").field("next", &self.next).finish_non_exhaustive()
    }
}

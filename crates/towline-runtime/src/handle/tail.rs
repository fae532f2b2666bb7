//! Following the log: an iterator that blocks, a stream that does not.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use towline_core::format::walk_headers;
use towline_core::types::Lsn;
use towline_core::types::limits::MAX_BATCH_BYTES;

use super::shared::Marks;
use super::{Handle, Readers};
use crate::batch_reader::BatchReader;
use crate::error::TailError;
use crate::read_buf::ReadBuf;

/// The batches of a log, one after the other, without an end but the node's.
pub struct Tail {
    handle: Handle,
    reader: BatchReader,
    readers: Arc<Readers>,
    /// Where the next batch is looked for.
    at: Lsn,
    /// The first batch may hold records before this one: they are left out.
    skip_below: Lsn,
    safe: bool,
    cuts: u64,
    failed: bool,
}

/// Records of one batch, as they lie in the log: record headers, payloads, padding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TailBatch {
    /// LSN of the first record header in `bytes`.
    pub start: Lsn,
    /// Where the batch behind it lies: go on from here.
    pub next: Lsn,
    /// The records.
    pub bytes: Bytes,
}

impl Tail {
    pub(super) fn new(handle: &Handle, from: Lsn, safe: bool) -> Result<Tail, TailError> {
        let log_start = Marks::lsn(&handle.shared.marks.log_start);
        if from > Lsn(0) && from < log_start {
            return Err(TailError::Trimmed { log_start });
        }
        let readers = Arc::clone(&handle.readers);
        let reader = BatchReader::new(readers.take(), handle.segments.clone());
        let cuts = handle.shared.marks.cuts.load(Ordering::Acquire);
        let mut tail = Tail {
            handle: handle.clone(),
            reader,
            readers,
            at: from.max(log_start),
            skip_below: Lsn(0),
            safe,
            cuts,
            failed: false,
        };
        tail.seek(from)?;
        Ok(tail)
    }

    /// A position inside a batch (the end of a record) begins at the batch and leaves out what lies before.
    fn seek(&mut self, from: Lsn) -> Result<(), TailError> {
        if from <= Marks::lsn(&self.handle.shared.marks.log_start) || from >= self.limit() {
            return Ok(());
        }
        if let Some(batch) = self.reader.find(from, self.limit())?
            && batch < from
        {
            self.at = batch;
            self.skip_below = from;
        }
        Ok(())
    }

    /// The next batch, waiting for it at most this long: `Ok(None)` when there was none. `None`: the node has ended.
    pub fn next_within(&mut self, timeout: Duration) -> Option<Result<Option<TailBatch>, TailError>> {
        if self.failed {
            return None;
        }
        match self.look() {
            Ok(None) => {}
            found => return Some(found),
        }
        let at = self.at;
        let handle = self.handle.clone();
        let cuts = self.cuts;
        handle.wait_mark(timeout, || {
            limit(&handle, self.safe) > at || handle.shared.marks.cuts.load(Ordering::Acquire) != cuts
        });
        match self.look() {
            Ok(None) if self.handle.shared.is_stopped() => None,
            found => Some(found),
        }
    }

    /// Waits until there may be something to read, at most this long, and keeps nothing of it: how many bytes of memory
    /// it takes to read it.
    pub(crate) fn wait_within(&mut self, timeout: Duration) -> u64 {
        let (handle, at, cuts, safe) = (&self.handle, self.at, self.cuts, self.safe);
        let cut = || handle.shared.marks.cuts.load(Ordering::Acquire) != cuts;
        handle.wait_mark(timeout, || limit(handle, safe) > at || cut());
        if cut() {
            return MAX_BATCH_BYTES;
        }
        // What fails here fails again, and is told, when it is read.
        self.reader.next_bytes(at, limit(&self.handle, safe)).unwrap_or(0)
    }

    /// The next batch, if there is one, read into `memory`; `own` makes its bytes of it. Else as
    /// [`next_within`](Self::next_within).
    pub(crate) fn next_in(
        &mut self,
        memory: ReadBuf,
        own: impl FnOnce(ReadBuf) -> Bytes,
    ) -> Option<Result<Option<TailBatch>, TailError>> {
        if self.failed {
            return None;
        }
        self.reader.read_into(memory);
        let found = self.look_with(own);
        self.reader.read_into(ReadBuf::default());
        match found {
            Ok(None) if self.handle.shared.is_stopped() => None,
            found => Some(found),
        }
    }

    /// Gives back the memory that reading ahead takes: for who is about to wait.
    pub(crate) fn rest(&mut self) {
        self.reader.rest();
    }

    /// Where it stands when it has given all that may be read now.
    pub(crate) fn end_reached(&self) -> Option<Lsn> {
        (self.at >= self.limit()).then_some(self.at)
    }

    fn limit(&self) -> Lsn {
        limit(&self.handle, self.safe)
    }

    fn look(&mut self) -> Result<Option<TailBatch>, TailError> {
        self.look_with(ReadBuf::into_bytes)
    }

    fn look_with(&mut self, own: impl FnOnce(ReadBuf) -> Bytes) -> Result<Option<TailBatch>, TailError> {
        let found = self.look_on(own);
        self.failed |= found.is_err();
        found
    }

    fn look_on(&mut self, own: impl FnOnce(ReadBuf) -> Bytes) -> Result<Option<TailBatch>, TailError> {
        let marks = &self.handle.shared.marks;
        let cuts = marks.cuts.load(Ordering::Acquire);
        if cuts != self.cuts {
            let to = Marks::lsn(&marks.cut_to);
            if to < self.at {
                return Err(TailError::Cut { to });
            }
            self.cuts = cuts;
        }
        loop {
            let limit = self.limit();
            if limit <= self.at {
                return Ok(None);
            }
            match self.reader.next(self.at, limit) {
                Ok(Ok(found)) => {
                    self.at = found.next;
                    let start = found.header.body_start();
                    let len = self.reader.body().len() as u64;
                    let skip = whole_records_before(self.reader.body(), self.skip_below.bytes_since(start));
                    self.skip_below = Lsn(0);
                    if skip == len {
                        continue;
                    }
                    let bytes = own(self.reader.take_body()).slice(skip as usize..);
                    return Ok(Some(TailBatch { start: start.plus(skip), next: found.next, bytes }));
                }
                Ok(Err(next)) => {
                    self.at = next;
                    return Ok(None);
                }
                Err(error) => {
                    let log_start = Marks::lsn(&self.handle.shared.marks.log_start);
                    return Err(if self.at < log_start { TailError::Trimmed { log_start } } else { error });
                }
            }
        }
    }
}

/// Bytes of the records that begin before `offset`: what is left begins with a record, wherever `offset` lies.
fn whole_records_before(body: &[u8], offset: u64) -> u64 {
    let len = body.len() as u64;
    let mut found = walk_headers(body).map(|record| record.map_or(len, |record| u64::from(record.offset)));
    found.find(|start| *start >= offset).unwrap_or(len)
}

fn limit(handle: &Handle, safe: bool) -> Lsn {
    let marks = &handle.shared.marks;
    Marks::lsn(if safe { &marks.safe } else { &marks.flushed })
}

impl Iterator for Tail {
    type Item = Result<TailBatch, TailError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(batch) = self.next_within(LOOK)?.transpose() {
                return Some(batch);
            }
        }
    }
}

impl Stream for Tail {
    type Item = Result<TailBatch, TailError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.failed {
            return Poll::Ready(None);
        }
        if let Some(batch) = self.look().transpose() {
            return Poll::Ready(Some(batch));
        }
        self.handle.shared.progress.register(context.waker());
        match self.look().transpose() {
            Some(batch) => Poll::Ready(Some(batch)),
            None if self.handle.shared.is_stopped() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if let Some(arena) = self.reader.take_arena() {
            self.readers.give_back(arena);
        }
    }
}

const LOOK: Duration = Duration::from_millis(200);

//! What leaves on one connection: frames and log bytes in order, one operation in flight.
//!
//! Frames that wait are sent together. Log bytes go from the arena, the very bytes that go to the disk, or, for a
//! standby that is late, from segment files through two buffers: one is read while the other is sent.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use towline_core::format::{BatchHeader, Frame, encode_frame};
use towline_core::node::Source;
use towline_core::types::limits::{BLOCK_BYTES, MAX_SEND_BYTES};
use towline_core::types::{Geometry, Lsn, Span};
use towline_uring::{BufPool, Completion, PoolBuf, Ring, RingError, RingFd};

use crate::shard::files::Files;
use crate::shard::tag::Tag;

/// The outgoing side of one connection.
#[derive(Default)]
pub(crate) struct Outgoing {
    /// Encoded frames that wait, back to back.
    bytes: Vec<u8>,
    /// Length of the payloads that wait.
    payload_bytes: usize,
    items: VecDeque<Item>,
    in_flight: Option<InFlight>,
    /// Zero-copy sends that have ended and whose bytes the kernel still reads, oldest first, with their beginning.
    unnotified: VecDeque<(Span, u64)>,
    /// The next item to leave is the last.
    closing: bool,
    /// Log bytes have left up to here.
    log_sent: Lsn,
    /// The batch that the last of them belong to ends here: frames go only between batches.
    batch_end: Lsn,
    catch_up: Option<CatchUp>,
    /// The kernel copies on this route after all: zero-copy sends cost more than they save.
    copies: bool,
    /// When the operation in flight began.
    pub(crate) since_ns: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) catch_up_bytes: u64,
}

enum Item {
    /// This many of `bytes`.
    Frames(usize),
    /// What the frame before it announced, in the memory that it was read into.
    Payload(Bytes),
    /// Log bytes; `from` is what has been sent of them.
    Log { span: Span, from: Lsn, source: Source },
}

enum InFlight {
    Frames { len: usize },
    Arena(Span),
    Buffer { len: usize },
}

/// Reads from segment files for one span.
struct CatchUp {
    pool: BufPool,
    span: Span,
    read_to: Lsn,
    reading: bool,
    ready: Option<(PoolBuf, usize)>,
}

/// What a connection's outgoing side needs of its shard.
pub(crate) struct Port<'a> {
    pub(crate) ring: &'a mut Ring,
    pub(crate) files: &'a mut Files,
    pub(crate) frames: &'a BufPool,
    pub(crate) geometry: Geometry,
    pub(crate) now_ns: u64,
    pub(crate) zero_copy: bool,
}

impl Outgoing {
    /// Queues a frame.
    ///
    /// # Errors
    /// When it is over a limit, or the other side has not taken anything for too long.
    pub(crate) fn push_frame(&mut self, frame: &Frame) -> Result<(), String> {
        let before = self.bytes.len();
        encode_frame(frame, &mut self.bytes).map_err(|error| error.to_string())?;
        self.queued(before)
    }

    /// Queues a payload behind the frame that announced it; its memory is given back when it has left.
    ///
    /// # Errors
    /// As for a frame.
    pub(crate) fn push_payload(&mut self, payload: Bytes) -> Result<(), String> {
        if !payload.is_empty() {
            self.payload_bytes += payload.len();
            self.items.push_back(Item::Payload(payload));
        }
        self.check_queued()
    }

    fn queued(&mut self, before: usize) -> Result<(), String> {
        let added = self.bytes.len() - before;
        match self.items.back_mut() {
            Some(Item::Frames(len)) => *len += added,
            _ => self.items.push_back(Item::Frames(added)),
        }
        self.check_queued()
    }

    fn check_queued(&self) -> Result<(), String> {
        let queued = self.queued_bytes();
        if queued > MAX_QUEUED_BYTES {
            return Err(format!("{queued} bytes wait for a peer that takes nothing"));
        }
        Ok(())
    }

    /// Gives the queue's memory back while it is empty.
    pub(crate) fn free_memory(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
    }

    /// Queues log bytes.
    pub(crate) fn push_log(&mut self, span: Span, source: Source) {
        self.items.push_back(Item::Log { span, from: span.start, source });
    }

    /// The connection ends once what is queued has left.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Everything has left, and the connection is to end.
    pub(crate) fn is_finished(&self) -> bool {
        self.closing && self.items.is_empty() && self.in_flight.is_none()
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        self.bytes.len() + self.payload_bytes
    }

    /// Of these, what was read for the peer.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.items.is_empty() && self.in_flight.is_none()
    }

    /// No operation of this side is in the ring.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight.is_none() && self.catch_up.as_ref().is_none_or(|catch_up| !catch_up.reading)
    }

    /// The lowest arena bytes that are held here, and since when: those of the operation in flight, or of a zero-copy
    /// send whose peer has not taken them yet.
    pub(crate) fn pinned(&self) -> Option<(Span, u64)> {
        match (&self.in_flight, self.unnotified.front()) {
            (_, Some(oldest)) => Some(*oldest),
            (Some(InFlight::Arena(span)), None) => Some((*span, self.since_ns)),
            _ => None,
        }
    }

    /// Submits what can go.
    ///
    /// # Errors
    /// What ends the connection.
    pub(crate) fn drive(&mut self, port: &mut Port<'_>, fd: RingFd, id: u64, tag: Tag) -> Result<(), String> {
        if self.in_flight.is_some() {
            return self.read_ahead(port, id);
        }
        // The order first, then the read: nothing else would start it for a span that overtakes a frame.
        if !self.put_batch_first() {
            return Ok(());
        }
        self.read_ahead(port, id)?;
        match self.items.front() {
            None => Ok(()),
            Some(Item::Frames(_) | Item::Payload(_)) => self.send_frames(port, fd, tag),
            Some(Item::Log { span, from, source: Source::Arena }) => {
                let rest = Span::new(*from, Lsn(span.end.0.min(from.0 + MAX_SEND_BYTES)));
                let range = rest.start.0..rest.end.0;
                let bytes =
                    port.ring.arena().bytes(range.clone()).ok_or("log bytes to be sent are in use")?;
                let batch_end = batch_end(self.batch_end, rest.start, bytes)?;
                let zero_copy = port.zero_copy && !self.copies;
                let sent = if zero_copy {
                    port.ring.send_zc(fd, range, false, tag.pack())
                } else {
                    port.ring.send(fd, range, false, tag.pack())
                };
                match sent {
                    Ok(()) => {
                        (self.log_sent, self.batch_end) = (rest.end, batch_end);
                        if zero_copy {
                            self.unnotified.push_back((rest, port.now_ns));
                        }
                        self.begin(InFlight::Arena(rest), port.now_ns);
                    }
                    Err(RingError::TooManyInFlight) => {}
                    Err(error) => return Err(error.to_string()),
                }
                Ok(())
            }
            Some(Item::Log { from, source: Source::Segments, .. }) => {
                let from = *from;
                let ready = self.catch_up.as_mut().and_then(|catch_up| catch_up.ready.take());
                let Some((buf, len)) = ready else { return Ok(()) };
                self.batch_end = batch_end(self.batch_end, from, &buf[..len])?;
                self.log_sent = from.plus(len as u64);
                port.ring.send_buf(fd, buf, 0..len, tag.pack()).map_err(|error| error.to_string())?;
                self.begin(InFlight::Buffer { len }, port.now_ns);
                // The other buffer is read while this one is sent.
                self.read_ahead(port, id)
            }
        }
    }

    /// In the middle of a batch its rest goes before any frame. False when that has not been queued yet.
    fn put_batch_first(&mut self) -> bool {
        if self.log_sent >= self.batch_end || !matches!(self.items.front(), Some(Item::Frames(_))) {
            return true;
        }
        let log = self.items.iter().position(|item| matches!(item, Item::Log { .. }));
        match log.and_then(|at| self.items.remove(at)) {
            Some(log) => {
                self.items.push_front(log);
                true
            }
            None => false,
        }
    }

    /// Frames and payloads that wait leave together, as many as fit a buffer.
    fn send_frames(&mut self, port: &mut Port<'_>, fd: RingFd, tag: Tag) -> Result<(), String> {
        // None free: this turn's completions bring one back.
        let Some(mut buf) = port.frames.get() else { return Ok(()) };
        let (mut len, mut frames) = (0, 0);
        while len < buf.len() {
            let rest = &mut buf[len..];
            let is_over = match self.items.front_mut() {
                Some(Item::Frames(left)) => {
                    let part = rest.len().min(*left);
                    rest[..part].copy_from_slice(&self.bytes[frames..frames + part]);
                    (len, frames, *left) = (len + part, frames + part, *left - part);
                    *left == 0
                }
                Some(Item::Payload(left)) => {
                    let part = rest.len().min(left.len());
                    left.copy_to_slice(&mut rest[..part]);
                    (len, self.payload_bytes) = (len + part, self.payload_bytes - part);
                    left.is_empty()
                }
                Some(Item::Log { .. }) | None => break,
            };
            if is_over {
                self.items.pop_front();
            }
        }
        self.bytes.drain(..frames);
        port.ring.send_buf(fd, buf, 0..len, tag.pack()).map_err(|error| error.to_string())?;
        self.begin(InFlight::Frames { len }, port.now_ns);
        Ok(())
    }

    fn begin(&mut self, in_flight: InFlight, now_ns: u64) {
        self.in_flight = Some(in_flight);
        self.since_ns = now_ns;
    }

    /// A send has ended. Returns the span of the `Send` that is complete with it.
    ///
    /// # Errors
    /// What ends the connection.
    pub(crate) fn sent(&mut self, completion: &Completion) -> Result<Option<Span>, String> {
        if completion.notif {
            // TCP gives bytes back in the order in which it took them.
            self.unnotified.pop_front();
            self.copies |= completion.zc_copied;
            return Ok(None);
        }
        let Some(in_flight) = self.in_flight.take() else { return Ok(None) };
        let sent = completion.result.map_err(|errno| format!("send: {errno}"))? as usize;
        let whole = match in_flight {
            InFlight::Frames { len } | InFlight::Buffer { len } => len,
            InFlight::Arena(span) => span.len() as usize,
        };
        if sent < whole {
            return Err("the connection broke in the middle of a send".to_owned());
        }
        self.sent_bytes += whole as u64;
        match (in_flight, self.items.front_mut()) {
            (InFlight::Arena(_) | InFlight::Buffer { .. }, Some(Item::Log { span, from, .. })) => {
                *from = from.plus(whole as u64);
                if *from < span.end {
                    return Ok(None);
                }
                let span = *span;
                self.items.pop_front();
                Ok(Some(span))
            }
            _ => Ok(None),
        }
    }

    /// Starts the next read for the span at the queue's head, when a buffer is free.
    fn read_ahead(&mut self, port: &mut Port<'_>, id: u64) -> Result<(), String> {
        let Some(Item::Log { span, source: Source::Segments, .. }) = self.items.front() else {
            return Ok(());
        };
        let span = *span;
        let catch_up = self.catch_up.get_or_insert_with(|| CatchUp {
            pool: BufPool::new(2, CATCH_UP_BYTES),
            span: Span::default(),
            read_to: Lsn(0),
            reading: false,
            ready: None,
        });
        if catch_up.span != span {
            catch_up.span = span;
            catch_up.read_to = span.start;
        }
        if catch_up.reading || catch_up.ready.is_some() || catch_up.read_to >= span.end {
            return Ok(());
        }
        let Some(buf) = catch_up.pool.get() else { return Ok(()) };
        let seq = port.geometry.segment_of(catch_up.read_to);
        let fd = match port.files.get(port.ring, seq).map_err(|error| error.to_string())? {
            Some(attached) => attached.fd,
            None => return Err(format!("segment {seq} has been trimmed while it was being read")),
        };
        let len = span.end.bytes_since(catch_up.read_to).min(buf.len() as u64);
        let offset = port.geometry.offset_of(catch_up.read_to);
        debug_assert!(offset.is_multiple_of(BLOCK_BYTES) && len.is_multiple_of(BLOCK_BYTES));
        port.ring
            .read_buf(fd, offset, buf, 0..len as usize, Tag::Read(id).pack())
            .map_err(|error| error.to_string())?;
        catch_up.reading = true;
        Ok(())
    }

    /// A catch-up read has ended.
    ///
    /// # Errors
    /// What ends the connection.
    pub(crate) fn read(&mut self, completion: Completion) -> Result<(), String> {
        let Some(catch_up) = &mut self.catch_up else { return Ok(()) };
        catch_up.reading = false;
        let read = completion.result.map_err(|errno| format!("read of a segment: {errno}"))? as usize;
        let Some(buf) = completion.buf else { return Ok(()) };
        let wanted = (catch_up.span.end.bytes_since(catch_up.read_to)).min(buf.len() as u64) as usize;
        // A short read of whole blocks is sent as it is; the rest is read next.
        let read = read.min(wanted) / BLOCK_BYTES as usize * BLOCK_BYTES as usize;
        if read == 0 {
            return Err("a segment ends before its log does".to_owned());
        }
        catch_up.read_to = catch_up.read_to.plus(read as u64);
        catch_up.ready = Some((buf, read));
        self.catch_up_bytes += read as u64;
        Ok(())
    }
}

/// Where the batch ends that the last of `bytes` belong to, when the one before them ended at `known`.
fn batch_end(known: Lsn, start: Lsn, bytes: &[u8]) -> Result<Lsn, String> {
    let end = start.plus(bytes.len() as u64);
    // A roll is followed by the next segment's first batch.
    let mut at = known.max(start);
    while at < end {
        let header = &bytes[at.bytes_since(start) as usize..];
        let (header, _) =
            BatchHeader::decode_any(header).map_err(|error| format!("batch at {at}: {error}"))?;
        at = header.stored().end;
    }
    Ok(at)
}

/// Frames that may wait for one peer.
const MAX_QUEUED_BYTES: usize = 8 << 20;
/// What an empty queue may keep.
const KEPT_BYTES: usize = 16 << 10;
/// One catch-up read; two per session at most.
const CATCH_UP_BYTES: usize = 256 << 10;

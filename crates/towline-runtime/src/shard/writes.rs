//! Durable writes in flight: each is one span of the arena on its way to one segment file.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::queue::ArrayQueue;
use towline_core::node::Input;
use towline_core::types::limits::{BLOCK_BYTES, MAX_FLUSH_DEPTH};
use towline_core::types::{Geometry, Span};
use towline_uring::primitive::Primitive;
use towline_uring::{DataFile, Errno, Ring, Wake};

use super::files::Files;
use super::tag::Tag;

/// The writes in flight.
pub(crate) struct Writes {
    slots: Vec<Option<InFlight>>,
    primitive: Primitive,
    flusher: Option<Flusher>,
    pub(crate) flushes: u64,
    pub(crate) bytes: u64,
}

struct InFlight {
    span: Span,
    epoch: u64,
    /// What is not written yet: all of it, or the rest after a short write.
    rest: Span,
}

impl Writes {
    pub(crate) fn new(primitive: Primitive, wake: &Wake) -> std::io::Result<Writes> {
        let flusher = match primitive {
            Primitive::Ring(_) => None,
            Primitive::Flusher => Some(Flusher::start(wake.clone())?),
        };
        Ok(Writes { slots: (0..SLOTS).map(|_| None).collect(), primitive, flusher, flushes: 0, bytes: 0 })
    }

    pub(crate) fn has_flushed(&self) -> bool {
        self.flusher.as_ref().is_some_and(|flusher| !flusher.done.is_empty())
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Begins a write.
    pub(crate) fn begin(
        &mut self,
        ring: &mut Ring,
        files: &mut Files,
        geometry: Geometry,
        span: Span,
        epoch: u64,
    ) -> Result<(), Fault> {
        let Some(slot) = self.slots.iter().position(Option::is_none) else {
            return Err(Fault::new(span, "more writes in flight than there are slots"));
        };
        self.slots[slot] = Some(InFlight { span, epoch, rest: span });
        self.submit(ring, files, geometry, slot)
    }

    /// A completion: the input it makes, if the write has ended.
    pub(crate) fn complete(
        &mut self,
        ring: &mut Ring,
        files: &mut Files,
        geometry: Geometry,
        slot: u64,
        result: Result<u32, Errno>,
    ) -> Option<Input> {
        let slot = slot as usize;
        let write = self.slots.get_mut(slot)?.as_mut()?;
        let span = write.span;
        let written = match result {
            Ok(written) => u64::from(written),
            Err(errno) => {
                // Never again: after a failed flush nobody knows which bytes are on the disk.
                self.slots[slot] = None;
                return Some(failed(span, &errno.to_string()));
            }
        };
        if written >= write.rest.len() {
            if let Some(flusher) = &self.flusher {
                let seq = geometry.segment_of(span.start);
                let file = files.segments().file(seq);
                return match file.map(|file| flusher.flush(file, slot)) {
                    Some(true) => None,
                    _ => {
                        self.slots[slot] = None;
                        Some(failed(span, "the file or its flusher is gone"))
                    }
                };
            }
            return self.done(slot);
        }
        // Short: the aligned rest once more; the part does not count as durable.
        let rest = Span::new(write.rest.start.plus(written & !(BLOCK_BYTES - 1)), write.rest.end);
        if rest == write.rest {
            self.slots[slot] = None;
            return Some(failed(span, "the file takes no more bytes"));
        }
        write.rest = rest;
        self.submit(ring, files, geometry, slot).err().map(Fault::into_input)
    }

    /// Flushes that the flusher's thread has ended.
    pub(crate) fn next_flushed(&mut self) -> Option<Input> {
        let (slot, result) = self.flusher.as_ref()?.done.pop()?;
        match result {
            Ok(()) => self.done(slot),
            Err(error) => {
                let span = self.slots.get_mut(slot)?.take()?.span;
                Some(failed(span, &error))
            }
        }
    }

    fn done(&mut self, slot: usize) -> Option<Input> {
        let write = self.slots.get_mut(slot)?.take()?;
        self.flushes += 1;
        self.bytes += write.span.len();
        Some(Input::Flushed { span: write.span, epoch: write.epoch })
    }

    fn submit(
        &mut self,
        ring: &mut Ring,
        files: &mut Files,
        geometry: Geometry,
        slot: usize,
    ) -> Result<(), Fault> {
        let Some(Some(write)) = self.slots.get(slot) else { return Ok(()) };
        let (span, rest) = (write.span, write.rest);
        let fail = |slots: &mut Vec<Option<InFlight>>, why: String| {
            slots[slot] = None;
            Err(Fault::new(span, &why))
        };
        let seq = geometry.segment_of(rest.start);
        if rest.end > geometry.segment_end(seq) {
            return fail(&mut self.slots, "the span crosses a segment".to_owned());
        }
        let fd = match files.get(ring, seq) {
            Ok(Some(attached)) => attached.fd,
            Ok(None) => return fail(&mut self.slots, format!("segment {seq} is not in place")),
            Err(error) => return fail(&mut self.slots, error.to_string()),
        };
        let offset = geometry.offset_of(rest.start);
        let range = rest.start.0..rest.end.0;
        let tag = Tag::Write(slot as u64).pack();
        let submitted = match self.primitive {
            Primitive::Ring(primitive) => ring.write_durable(fd, offset, range, primitive, tag),
            Primitive::Flusher => ring.write_plain(fd, offset, range, tag),
        };
        submitted.or_else(|error| fail(&mut self.slots, error.to_string()))
    }
}

fn failed(span: Span, error: &str) -> Input {
    Fault::new(span, error).into_input()
}

/// What ends the log: bytes that could not be written, or not be put where they belong.
#[derive(Debug)]
pub(crate) struct Fault {
    span: Span,
    error: String,
}

impl Fault {
    pub(crate) fn new(span: Span, error: &str) -> Fault {
        Fault { span, error: error.to_owned() }
    }

    pub(crate) fn into_input(self) -> Input {
        Input::WriteFailed { span: self.span, error: self.error }
    }
}

/// A thread that flushes files: for devices where a flush beats a write with RWF_DSYNC.
struct Flusher {
    requests: Option<Sender<(Arc<DataFile>, usize)>>,
    done: Arc<ArrayQueue<(usize, Result<(), String>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    fn start(wake: Wake) -> std::io::Result<Flusher> {
        let (requests, inbox): (_, Receiver<(Arc<DataFile>, usize)>) = bounded(SLOTS);
        let done = Arc::new(ArrayQueue::new(SLOTS));
        let answers = Arc::clone(&done);
        let thread = std::thread::Builder::new().name("towline-flush".to_owned()).spawn(move || {
            while let Ok((file, slot)) = inbox.recv() {
                // Everything that was written before this flush began is covered by it: take all that wait.
                let mut slots = vec![slot];
                let mut others = Vec::new();
                while let Ok((other, slot)) = inbox.try_recv() {
                    if Arc::ptr_eq(&other, &file) { slots.push(slot) } else { others.push((other, slot)) }
                }
                let result = file.fdatasync().map_err(|error| error.to_string());
                for slot in slots {
                    answers.force_push((slot, result.clone()));
                }
                for (other, slot) in others {
                    answers.force_push((slot, other.fdatasync().map_err(|error| error.to_string())));
                }
                wake.notify();
            }
        })?;
        Ok(Flusher { requests: Some(requests), done, thread: Some(thread) })
    }

    fn flush(&self, file: Arc<DataFile>, slot: usize) -> bool {
        self.requests.as_ref().is_some_and(|requests| requests.try_send((file, slot)).is_ok())
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The node's flushes in flight at most, and as many that were cut off meanwhile.
pub(crate) const SLOTS: usize = 2 * MAX_FLUSH_DEPTH;

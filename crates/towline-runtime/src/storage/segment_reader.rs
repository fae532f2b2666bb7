//! Reading the log back out of its segment files while it grows, from another thread than the shard's.
//!
//! Never through the page cache where the log is written past it: a page that a reader brings in (or that is read ahead
//! for it) while a direct write to it is under way can stay there as it was before. The kernel drops cached pages before
//! a direct write; after one that is asynchronous it leaves that to the file system, and not every one does it (FUSE
//! does not, Linux 6.18). A read in the mode of the writes sees what was written, on every file system, and a disk that
//! cannot be read is an error, not the signal that a mapping makes of it.

use std::io;
use std::sync::Arc;

use memmap2::MmapMut;
use towline_core::types::limits::BLOCK_BYTES;
use towline_core::types::{Geometry, Lsn, Span};
use towline_uring::DataFile;

use super::segments::Segments;

/// One reader of the segment files. What it has open stays readable, whatever is trimmed meanwhile.
#[derive(Debug)]
pub struct SegmentReader {
    segments: Segments,
    open: Option<Open>,
    window: Option<Window>,
    window_bytes: u64,
    /// As of the last look: a cut since then voids what is open and what was read.
    cuts: u64,
}

/// Held so that the keeper sees a reader and does not recycle the file.
#[derive(Debug)]
struct Open {
    seq: u64,
    salt: u32,
    file: Arc<DataFile>,
}

/// Bytes that were durable when they were read.
#[derive(Debug)]
struct Window {
    span: Span,
    /// Not an allocator's, which would keep some of it for every thread that reads.
    buf: MmapMut,
}

impl SegmentReader {
    /// A reader that has nothing open and no memory yet.
    pub fn new(segments: Segments) -> SegmentReader {
        let cuts = segments.cuts();
        SegmentReader { segments, open: None, window: None, window_bytes: WINDOW_BYTES, cuts }
    }

    /// For the one reader of a shard that must keep up with the log on a disk that the log keeps busy.
    pub(crate) fn with_wide_window(self) -> SegmentReader {
        SegmentReader { window_bytes: WIDE_WINDOW_BYTES, window: None, ..self }
    }

    /// The segments that it reads.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// The salt that the batches of segment `seq` are checked with.
    ///
    /// # Errors
    /// `NotFound` when the segment is not in place (trimmed, or not made yet).
    pub fn salt(&mut self, seq: u64) -> io::Result<u32> {
        self.look();
        let known = self.open.as_ref().filter(|open| open.seq == seq).map(|open| open.salt);
        // Not opened for it: who reads from the arena holds no file.
        known.or_else(|| self.segments.salt(seq)).ok_or_else(|| not_in_place(seq))
    }

    /// Reads the bytes of `span`, which `into` is as long as. All of the log below `durable` is on stable storage, and
    /// `span` lies there: what is read ahead does too, and so never changes but by a cut.
    ///
    /// # Errors
    /// `NotFound` as [`salt`](Self::salt), `InvalidInput` when `span` leaves its segment or is not as long as `into`;
    /// else the kernel's.
    pub fn read(&mut self, span: Span, durable: Lsn, into: &mut [u8]) -> io::Result<()> {
        let geometry = self.geometry()?;
        let seq = geometry.segment_of(span.start);
        let end = geometry.segment_end(seq);
        if span.end > end || span.start > span.end || span.len() != into.len() as u64 {
            let what = format!("{} to {} leave segment {seq}, or {} bytes", span.start, span.end, into.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        self.look();
        let mut at = span.start;
        while at < span.end {
            let window = self.window_at(at, span.end.max(durable).block_up().min(end), geometry)?;
            let upto = span.end.min(window.span.end);
            let from = at.bytes_since(window.span.start) as usize;
            let to = upto.bytes_since(window.span.start) as usize;
            into[at.bytes_since(span.start) as usize..][..to - from].copy_from_slice(&window.buf[from..to]);
            at = upto;
        }
        Ok(())
    }

    /// Gives its memory back; the file stays open.
    pub fn rest(&mut self) {
        self.window = None;
    }

    /// The window with the byte at `at`, read anew up to `end` when it is another.
    fn window_at(&mut self, at: Lsn, end: Lsn, geometry: Geometry) -> io::Result<&Window> {
        let kept = self.window.take();
        let window = match kept {
            Some(window) if window.span.start <= at && at < window.span.end => window,
            kept => {
                let start = Lsn(at.0 - at.0 % BLOCK_BYTES);
                let span = Span::new(start, end.min(start.plus(self.window_bytes)));
                let mut buf = match kept {
                    Some(kept) => kept.buf,
                    None => MmapMut::map_anon(self.window_bytes as usize)?,
                };
                let open = self.open(geometry.segment_of(at))?;
                let bytes = &mut buf[..span.len() as usize];
                open.file.pread_exact(geometry.offset_of(start), bytes).map_err(io::Error::other)?;
                Window { span, buf }
            }
        };
        Ok(self.window.insert(window))
    }

    fn open(&mut self, seq: u64) -> io::Result<&Open> {
        let open = match self.open.take() {
            Some(open) if open.seq == seq => open,
            _ => {
                let (salt, file) = self.segments.entry(seq).ok_or_else(|| not_in_place(seq))?;
                Open { seq, salt, file }
            }
        };
        Ok(self.open.insert(open))
    }

    /// After a cut other bytes stand where the window was, and maybe another file.
    fn look(&mut self) {
        let cuts = self.segments.cuts();
        if cuts != self.cuts {
            (self.open, self.window, self.cuts) = (None, None, cuts);
        }
    }

    fn geometry(&self) -> io::Result<Geometry> {
        let log = self.segments.log();
        log.map(|(_, geometry)| geometry).ok_or_else(|| io::Error::other("this node has no log yet"))
    }
}

fn not_in_place(seq: u64) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("segment {seq} is not in place"))
}

/// Read at once: enough for a disk to be fast, little enough for many readers.
const WINDOW_BYTES: u64 = 64 << 10;
/// A read waits behind the writes of a busy disk for a millisecond: at 64 KiB the application came to 60 MB/s beside a
/// flood at `off`, and who asked for `remote_apply` after it waited for the rest.
const WIDE_WINDOW_BYTES: u64 = 1 << 20;

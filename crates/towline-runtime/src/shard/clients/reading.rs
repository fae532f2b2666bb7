//! Reading the log for one client, on a thread of its own: segment files may have to be read from the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::{Receiver, SendTimeoutError, Sender, TryRecvError, bounded};
use towline_core::format::RefusalCode;
use towline_core::types::limits::{BLOCK_BYTES, MAX_SEND_BYTES};
use towline_core::types::{Geometry, Lsn, Span};

use crate::error::TailError;
use crate::handle::shared::Marks;
use crate::handle::{Tail, TailBatch};
use crate::read_buf::ReadBuf;
use crate::shard::core::Core;
use crate::storage::SegmentReader;

/// What a client gets to read.
pub(super) enum Piece {
    /// The records of one batch.
    Records(TailBatch),
    /// The log's own bytes.
    Log { start: Lsn, flushed: Lsn, bytes: Bytes },
}

/// A piece, in memory that is lent, or why there is none.
type Read = Result<Piece, Refusal>;

/// What a client is told instead of the log.
pub(super) struct Refusal {
    pub(super) code: RefusalCode,
    pub(super) why: String,
}

impl Refusal {
    /// Asking again may help.
    pub(super) fn unavailable(why: String) -> Refusal {
        Refusal { code: RefusalCode::Unavailable, why }
    }
}

impl From<TailError> for Refusal {
    fn from(error: TailError) -> Refusal {
        let code = match error {
            TailError::Trimmed { .. } | TailError::NotABatch { .. } | TailError::Cut { .. } => {
                RefusalCode::Resync
            }
            TailError::Read(_) | TailError::NoShard(_) | TailError::Stopped => RefusalCode::Unavailable,
        };
        Refusal { code, why: error.to_string() }
    }
}

/// A thread that reads the log for one client, a few pieces ahead.
pub(super) struct Reading {
    pieces: Receiver<Read>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reading {
    /// Follows the log's records. A batch without any says that all there was has been sent: silence alone may only
    /// mean that a disk or a processor is slow.
    pub(super) fn records(mut tail: Tail, core: &Core) -> std::io::Result<Reading> {
        let (shared, memory) = (Arc::clone(&core.shared), Arc::clone(&core.read_memory));
        Reading::start(move |to, stopped| {
            let mut said = None;
            let nudge = || _ = shared.wake.notify();
            while !stopped.load(Ordering::Acquire) {
                // Nothing is held while there is nothing to read, and no more than what there is.
                let most = tail.wait_within(TAIL_LOOK) as usize;
                let lent = memory.take_now(most).or_else(|| {
                    tail.rest();
                    memory.take(most, stopped, nudge)
                });
                let Some(mut lent) = lent else { return };
                let into = lent.take_memory();
                let Some(batch) = tail.next_in(into, |records| lent.with(records)) else { return };
                let batch = match batch.transpose() {
                    Some(batch) => batch,
                    None => match tail.end_reached().filter(|end| said != Some(*end)) {
                        Some(end) => {
                            said = Some(end);
                            Ok(TailBatch { start: end, next: end, bytes: Bytes::new() })
                        }
                        None => continue,
                    },
                };
                let failed = batch.is_err();
                let piece = batch.map(Piece::Records).map_err(Refusal::from);
                let sent = match to.send_timeout(piece, PATIENCE) {
                    Err(SendTimeoutError::Timeout(piece)) => {
                        tail.rest();
                        to.send(piece).is_ok()
                    }
                    sent => sent.is_ok(),
                };
                if !sent {
                    return;
                }
                shared.wake.notify();
                if failed {
                    return;
                }
            }
        })
    }

    /// Reads the log's own bytes in `span`, as far as they are flushed; then an empty piece.
    pub(super) fn log(span: Span, core: &Core) -> std::io::Result<Reading> {
        let (shared, segments) = (Arc::clone(&core.shared), core.files.segments().clone());
        let memory = Arc::clone(&core.read_memory);
        Reading::start(move |to, stopped| {
            let mut at = span.start;
            let mut segments = SegmentReader::new(segments);
            let nudge = || _ = shared.wake.notify();
            while !stopped.load(Ordering::Acquire) {
                let flushed = Marks::lsn(&shared.marks.flushed);
                let next = next_piece(&segments, Span::new(at, span.end.min(flushed)));
                let most = next.as_ref().map_or(0, |next| next.len() as usize);
                let Some(mut lent) = memory.take(most, stopped, nudge) else { return };
                let mut into = lent.take_memory();
                let piece = next
                    .and_then(|next| read_log(&mut segments, next, &mut into))
                    .map(|()| Piece::Log { start: at, flushed, bytes: lent.with(into) });
                let (read, ended) = match &piece {
                    Ok(Piece::Log { bytes, .. }) => (bytes.len() as u64, bytes.is_empty()),
                    _ => (0, true),
                };
                at = at.plus(read);
                if to.send(piece.map_err(Refusal::unavailable)).is_err() {
                    return;
                }
                shared.wake.notify();
                if ended {
                    return;
                }
            }
        })
    }

    fn start(run: impl FnOnce(&Sender<Read>, &AtomicBool) + Send + 'static) -> std::io::Result<Reading> {
        let (to, pieces) = bounded(PIECES_AHEAD);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name("towline-tail".to_owned()).spawn(move || run(&to, &stopped))?;
        Ok(Reading { pieces, stop, thread: Some(thread) })
    }

    /// The next piece, if one is there.
    pub(super) fn next(&self) -> Result<Read, TryRecvError> {
        self.pieces.try_recv()
    }

    /// Whether one is there.
    pub(super) fn has_next(&self) -> bool {
        !self.pieces.is_empty()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // The thread notices within its next look, or when it finds the channel closed; nobody waits for it.
        self.stop.store(true, Ordering::Release);
        drop(self.thread.take());
    }
}

/// The first piece of `span`: of one segment, and at most as long as one send.
fn next_piece(segments: &SegmentReader, span: Span) -> Result<Span, String> {
    let Some((_, geometry)) = segments.segments().log() else {
        return Err("this node has no log yet".to_owned());
    };
    let seq = geometry.segment_of(span.start);
    let end = span.end.min(geometry.segment_end(seq)).min(span.start.plus(MAX_SEND_BYTES));
    Ok(Span::new(span.start, end.max(span.start)))
}

fn read_log(segments: &mut SegmentReader, span: Span, into: &mut ReadBuf) -> Result<(), String> {
    if span.start < span.end {
        segments.read(span, span.end, into.fill(span.len() as usize)).map_err(|error| error.to_string())?;
        segments.rest();
    }
    Ok(())
}

/// Why bytes of the log cannot be read as asked.
pub(super) fn refuse_span(span: Span, log_start: Lsn, geometry: Option<Geometry>) -> Option<String> {
    let Some(geometry) = geometry else { return Some("this node has no log yet".to_owned()) };
    if !span.start.0.is_multiple_of(BLOCK_BYTES) || span.start > span.end {
        return Some(format!("{} to {} are no blocks of the log", span.start, span.end));
    }
    let first = geometry.segment_start(geometry.segment_of(log_start));
    (span.start < first).then(|| format!("the log starts at {log_start} here: what lies before is trimmed"))
}

const PIECES_AHEAD: usize = 1;
/// A client that takes nothing for so long is waited for with empty hands.
const PATIENCE: Duration = Duration::from_millis(5);
const TAIL_LOOK: Duration = Duration::from_millis(100);

//! Applying the log: a thread per shard that hands batches to the application.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use towline_core::format::{RecordKind, walk_headers};
use towline_core::types::{Lsn, Position};
use towline_uring::Wake;

use crate::batch_reader::BatchReader;
use crate::error::ApplyError;

/// An application that a standby feeds. Its methods are called on a thread of its own, one at a time.
pub trait Apply: Send {
    /// Applies a batch: all its records are durable here, and on the primary. When this returns, a read must see
    /// them.
    ///
    /// # Errors
    /// [`ApplyError`] ends applying on this node until its next start; the log itself goes on.
    fn apply(&mut self, batch: &AppliedBatch<'_>) -> Result<(), ApplyError>;

    /// The state is void: what follows begins at `from`. Called when the log was cut below what was applied, and at
    /// the start when the log no longer begins at its first record: then the state comes from a snapshot.
    fn reset(&mut self, from: Lsn);
}

/// Makes the application of a shard.
pub type ApplyFactory = Box<dyn Fn(u16) -> Box<dyn Apply> + Send>;

/// One batch on its way to the application.
#[derive(Clone, Copy, Debug)]
pub struct AppliedBatch<'a> {
    start: Lsn,
    end: Lsn,
    body: &'a [u8],
}

impl<'a> AppliedBatch<'a> {
    /// LSN of the first record header.
    pub fn start(&self) -> Lsn {
        self.start
    }

    /// The end of the batch: applied up to here when `apply` returns.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// The records, in order: LSN and payload.
    pub fn iter(&self) -> impl Iterator<Item = (Lsn, &'a [u8])> + use<'a> {
        let start = self.start;
        // Checked as a whole before: no record of it can be malformed.
        walk_headers(self.body)
            .map_while(Result::ok)
            .filter(|record| record.header.kind == RecordKind::Data)
            .map(move |record| (start.plus(u64::from(record.offset)), record.payload))
    }
}

/// The shard's side of the applier.
pub(crate) struct Applier {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Whom to unpark.
    parked: Thread,
}

#[derive(Default)]
struct Shared {
    upto: AtomicU64,
    applied: Mutex<Position>,
    /// Counts the changes of `applied`.
    told: AtomicU64,
    sleeps: AtomicBool,
    stop: AtomicBool,
    /// The log is being cut: nothing more is read before the shard says how it goes on.
    held: AtomicBool,
    reset: Mutex<Option<Lsn>>,
    has_reset: AtomicBool,
    failed: Mutex<Option<String>>,
}

impl Applier {
    /// Starts the thread; it begins at `from`.
    pub(crate) fn start(
        app: Box<dyn Apply>,
        reader: BatchReader,
        from: Lsn,
        wake: Wake,
        shard: u16,
    ) -> std::io::Result<Applier> {
        let shared = Arc::new(Shared::default());
        let worker = Worker { app, reader, shared: Arc::clone(&shared), at: from, wake };
        let thread =
            std::thread::Builder::new().name(format!("towline-apply-{shard}")).spawn(move || worker.run())?;
        let parked = thread.thread().clone();
        Ok(Applier { shared, thread: Some(thread), parked })
    }

    /// `Output::Apply`.
    pub(crate) fn apply_to(&self, upto: Lsn) {
        self.shared.upto.store(upto.0, Ordering::SeqCst);
        self.unpark();
    }

    /// `Output::Truncate`. Where some of what was to be applied is cut, a reset follows; nothing is read until then.
    pub(crate) fn hold_beyond(&self, to: Lsn) {
        if self.shared.upto.load(Ordering::SeqCst) > to.0 {
            self.shared.held.store(true, Ordering::SeqCst);
        }
    }

    /// `Output::ResetApply`.
    pub(crate) fn reset(&self, from: Lsn) {
        *self.shared.reset.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
        self.shared.upto.store(from.0, Ordering::SeqCst);
        self.shared.has_reset.store(true, Ordering::SeqCst);
        self.shared.held.store(false, Ordering::SeqCst);
        self.unpark();
    }

    /// How often the applied position has moved; with it the shard sees that there is news.
    pub(crate) fn told(&self) -> u64 {
        self.shared.told.load(Ordering::Acquire)
    }

    /// Applied up to here.
    pub(crate) fn applied(&self) -> Option<Position> {
        // A reset that the thread has not seen: what it applied before no longer counts.
        if self.shared.has_reset.load(Ordering::SeqCst) {
            return None;
        }
        let applied = *self.shared.applied.lock().unwrap_or_else(PoisonError::into_inner);
        (applied != Position::default()).then_some(applied)
    }

    /// Why applying has ended, once.
    pub(crate) fn take_failure(&self) -> Option<String> {
        self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn unpark(&self) {
        if self.shared.sleeps.load(Ordering::SeqCst) {
            self.parked.unpark();
        }
    }
}

impl Drop for Applier {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.parked.unpark();
        if let Some(thread) = self.thread.take() {
            // A panic of the application ends its thread; the node has been told by then.
            let _ = thread.join();
        }
    }
}

struct Worker {
    app: Box<dyn Apply>,
    reader: BatchReader,
    shared: Arc<Shared>,
    at: Lsn,
    wake: Wake,
}

impl Worker {
    fn run(mut self) {
        if self.at.0 > FIRST_LOG_START {
            self.app.reset(self.at);
        }
        while !self.shared.stop.load(Ordering::SeqCst) {
            self.maybe_reset();
            let upto = Lsn(self.shared.upto.load(Ordering::SeqCst));
            if self.at >= upto || self.is_held() {
                self.wait(upto);
                continue;
            }
            if let Err(why) = self.apply_next(upto) {
                *self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                self.shared.told.fetch_add(1, Ordering::Release);
                self.wake.notify();
                return;
            }
        }
    }

    fn apply_next(&mut self, upto: Lsn) -> Result<(), String> {
        let found = match self.reader.next(self.at, upto) {
            Ok(found) => found,
            // It was cut under this reader: a reset follows, or is here.
            Err(_) if self.is_held() || self.shared.has_reset.load(Ordering::SeqCst) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        match found {
            Ok(found) => {
                let body = self.reader.body();
                let batch = AppliedBatch { start: found.header.body_start(), end: found.header.end, body };
                self.app.apply(&batch).map_err(|error| error.to_string())?;
                self.at = found.next;
            }
            // Only seals and rolls up to there: nothing to apply, and so applied.
            Err(_) => self.at = self.at.max(upto),
        }
        if let Some(passed) = self.reader.passed() {
            self.tell(passed);
        }
        Ok(())
    }

    /// The log is being cut below what it was told to apply.
    fn is_held(&self) -> bool {
        self.shared.held.load(Ordering::SeqCst)
    }

    fn tell(&self, applied: Position) {
        *self.shared.applied.lock().unwrap_or_else(PoisonError::into_inner) = applied;
        self.shared.told.fetch_add(1, Ordering::Release);
        self.wake.notify();
    }

    fn maybe_reset(&mut self) {
        if !self.shared.has_reset.load(Ordering::SeqCst) {
            return;
        }
        let reset = self.shared.reset.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(from) = reset {
            self.app.reset(from);
            self.at = from;
            *self.shared.applied.lock().unwrap_or_else(PoisonError::into_inner) = Position::default();
            self.shared.has_reset.store(false, Ordering::SeqCst);
            self.wake.notify();
        }
    }

    /// Spins for a while: parking would cost more than applying.
    fn wait(&self, upto: Lsn) {
        let news = || {
            self.shared.upto.load(Ordering::SeqCst) != upto.0
                || self.shared.has_reset.load(Ordering::SeqCst)
                || self.shared.stop.load(Ordering::SeqCst)
        };
        let until = Instant::now() + SPIN;
        while Instant::now() < until {
            if news() {
                return;
            }
            rustix::thread::sched_yield();
        }
        self.shared.sleeps.store(true, Ordering::SeqCst);
        // After the flag: news from now on unparks.
        if !news() {
            std::thread::park_timeout(LOOK);
        }
        self.shared.sleeps.store(false, Ordering::SeqCst);
    }
}

const SPIN: Duration = Duration::from_micros(200);
/// The thread looks by itself this often, whatever it is told.
const LOOK: Duration = Duration::from_millis(100);
/// A log that was never trimmed begins behind its first segment's header.
const FIRST_LOG_START: u64 = towline_core::types::limits::SEGMENT_HEADER_BYTES;

#[cfg(test)]
mod tests {
    use towline_core::types::{Geometry, LogId};
    use towline_uring::FileMode;

    use super::*;
    use crate::storage::{Layout, Segments};

    struct Seen(Arc<Mutex<Vec<Lsn>>>);

    impl Apply for Seen {
        fn apply(&mut self, _batch: &AppliedBatch<'_>) -> Result<(), ApplyError> {
            Ok(())
        }

        fn reset(&mut self, from: Lsn) {
            self.0.lock().unwrap().push(from);
        }
    }

    #[test]
    fn nothing_is_read_of_a_log_that_is_being_cut_before_the_reset() {
        let (cut, upto) = (Lsn(FIRST_LOG_START), Lsn(FIRST_LOG_START + 4096));
        let geometry = Geometry { segment_bytes: 1 << 20, in_flight_bytes: 1 << 20 };
        // What it was to apply is gone already: whoever looks finds no segment, and that ends applying.
        let segments =
            Segments::new(Layout::new("no-such-log"), FileMode::Buffered, Some((LogId([9; 16]), geometry)));
        let (shared, resets) = (Arc::new(Shared::default()), Arc::new(Mutex::new(Vec::new())));
        let applier = Applier { shared: Arc::clone(&shared), thread: None, parked: std::thread::current() };
        applier.apply_to(upto);
        applier.hold_beyond(cut);
        let worker = Worker {
            app: Box::new(Seen(Arc::clone(&resets))),
            reader: BatchReader::new(None, segments),
            shared,
            at: cut,
            wake: Wake::new().unwrap(),
        };
        let thread = std::thread::spawn(move || worker.run());
        std::thread::sleep(5 * SPIN);
        assert_eq!(applier.take_failure(), None, "it read what is being cut");
        applier.reset(cut);
        thread.thread().unpark();
        let until = Instant::now() + Duration::from_secs(10);
        while resets.lock().unwrap().is_empty() && Instant::now() < until {
            std::thread::yield_now();
        }
        applier.shared.stop.store(true, Ordering::SeqCst);
        thread.thread().unpark();
        thread.join().unwrap();
        assert_eq!((applier.take_failure(), resets.lock().unwrap().as_slice()), (None, [cut].as_slice()));
    }
}

//! The keeper: one thread per shard for everything that is slow, so that the shard never waits for a file.
//!
//! It makes segments ahead, writes the meta block, recycles and cuts. Commands come through a bounded channel and
//! are carried out in order, with two exceptions: a meta write overtakes the making and recycling of segments, which
//! take long and depend on no later meta block; and a segment that cannot be made is tried again later, with all those
//! behind it. Answers are the node's own inputs.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError, bounded};
use towline_core::bugs::{Bug, bug};
use towline_core::format::{BatchHeader, SegmentHeader, SegmentVerdict};
use towline_core::node::Input;
use towline_core::types::limits::{BLOCK_BYTES, SEGMENT_HEADER_BYTES};
use towline_core::types::{Geometry, LogId, Lsn, Meta, Position, Span, TermHistory};
use towline_uring::{AlignedBuf, DataFile, FileMode, fsync_dir};

use super::cut::{Later, cut_tail};
use super::error::OpenError;
use super::headers::Headers;
use super::layout::{Layout, remove_if_there};
use super::meta_file::{MetaFile, MetaWriteError};
use super::prepare::{Plan, fresh_salt};
use super::segments::{Entry, Segments};
use super::steps::Steps;

/// What the keeper is told to do. All but the last carry a node's output.
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    /// Make segment `seq`, with the leader's salt where one is given. Answer: `SegmentReady`; the file is then in
    /// [`Segments`], and whoever holds an earlier file of that number lets go of it. While it fails:
    /// `SegmentFailed` once for each new cause, and further attempts; those behind it wait, so that a crash finds no gap.
    Prepare {
        /// Sequence number.
        seq: u64,
        /// The leader's salt.
        salt: Option<u32>,
    },
    /// Write the meta block. Answer: `MetaWritten` or, once and for all, `MetaFailed`.
    WriteMeta(Meta),
    /// Segments that end at or below may be used again or removed. No answer. The holder of files drops its own
    /// first.
    Recycle {
        /// The log's start, durable in the meta block.
        below: Lsn,
    },
    /// Cut the log. Answer: `Truncated`, or `WriteFailed` for the span.
    Truncate {
        /// The new end.
        to: Lsn,
        /// The old end plus what may be in flight.
        until: Lsn,
    },
    /// Finish what was sent before, then end.
    Stop,
}

/// Why a command was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The channel is full: send it again later.
    #[error("the keeper is busy")]
    Busy(Box<Command>),
    /// The thread has ended.
    #[error("the keeper has ended")]
    Ended,
}

/// The keeper's handle. Dropping it waits for the thread: its last write ends before the lock can be freed.
#[derive(Debug)]
pub struct Keeper {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

/// What a keeper works on: a part of [`super::Opened`].
#[derive(Debug)]
pub struct KeeperParts {
    pub(crate) segments: Segments,
    pub(crate) meta: MetaFile,
    pub(crate) log_start: Lsn,
    pub(crate) history: TermHistory,
    pub(crate) spares: Vec<Spare>,
    pub(crate) max_spares: usize,
    pub(crate) steps: Steps,
}

/// A segment file below the log's start, to be used again.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) seq: u64,
    pub(crate) entry: Entry,
}

impl Spare {
    /// Opens a file below the log's start; `None` when its header cannot be read, so that it is of no use.
    pub(crate) fn open(layout: &Layout, mode: FileMode, seq: u64) -> Result<Option<Spare>, OpenError> {
        let path = layout.segment(seq);
        let file = DataFile::open(&path, mode).map_err(OpenError::file)?;
        let mut bytes = AlignedBuf::zeroed(SEGMENT_HEADER_BYTES as usize);
        let known = file.size().map_err(OpenError::file)? >= SEGMENT_HEADER_BYTES;
        if known {
            file.pread_exact(0, &mut bytes).map_err(OpenError::file)?;
        }
        match SegmentHeader::judge(&bytes, LogId::default(), seq) {
            SegmentVerdict::Ours { header, .. } | SegmentVerdict::OtherLog(header) => {
                Ok(Some(Spare { seq, entry: Entry::new(header.salt, Arc::new(file)) }))
            }
            _ => remove_if_there(&path).map(|()| None),
        }
    }
}

impl Keeper {
    /// Starts the thread. `sink` gets the answers, on the keeper's thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(parts: KeeperParts, sink: impl FnMut(Input) + Send + 'static) -> io::Result<Keeper> {
        let (commands, inbox) = bounded(MAX_COMMANDS);
        let worker = Worker {
            desk: Desk {
                inbox,
                waiting: VecDeque::new(),
                meta: parts.meta,
                log_start: parts.log_start,
                history: parts.history,
                failed: None,
                sink: Box::new(sink),
            },
            segments: parts.segments,
            spares: parts.spares,
            max_spares: parts.max_spares,
            retries: BTreeMap::new(),
            steps: parts.steps,
        };
        let thread = thread::Builder::new().name("towline-keeper".to_owned()).spawn(move || worker.run())?;
        Ok(Keeper { commands, thread: Some(thread) })
    }

    /// Hands a command over without waiting.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&self, command: Command) -> Result<(), SendError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(command) => SendError::Busy(Box::new(command)),
            TrySendError::Disconnected(_) => SendError::Ended,
        })
    }

    /// Waits until everything sent before is done, then ends the thread.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // An error means that the thread has ended already.
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    desk: Desk,
    segments: Segments,
    spares: Vec<Spare>,
    max_spares: usize,
    retries: BTreeMap<u64, Retry>,
    steps: Steps,
}

/// A segment that could not be made yet.
struct Retry {
    salt: Option<u32>,
    at: Instant,
    delay: Duration,
    /// `None`: it was not tried, because it lies behind another.
    error: Option<String>,
}

/// Whether the thread goes on.
enum Flow {
    On,
    End,
}

impl Worker {
    fn run(mut self) {
        while let Some(command) = self.next_command() {
            if matches!(self.handle(command), Flow::End) {
                return;
            }
        }
    }

    /// The next command; makes due attempts while there is none.
    fn next_command(&mut self) -> Option<Command> {
        loop {
            if let Some(command) = self.desk.waiting.pop_front() {
                return Some(command);
            }
            self.forget_below_start();
            let due = self.first_due();
            let Some((seq, salt, at)) = due else { return self.desk.inbox.recv().ok() };
            match self.desk.inbox.recv_deadline(at) {
                Ok(command) => return Some(command),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    if matches!(self.prepare(seq, salt), Flow::End) {
                        return None;
                    }
                }
            }
        }
    }

    /// The retry to make next, and when: the lowest.
    fn first_due(&self) -> Option<(u64, Option<u32>, Instant)> {
        let mut waiting = self.retries.iter();
        let first = if bug(Bug::SegmentBehindGap) {
            waiting.min_by_key(|(_, retry)| retry.at)
        } else {
            waiting.next()
        };
        first.map(|(seq, retry)| (*seq, retry.salt, retry.at))
    }

    fn handle(&mut self, command: Command) -> Flow {
        match command {
            Command::Prepare { seq, salt } => self.prepare(seq, salt),
            Command::WriteMeta(meta) => self.desk.write_meta(&meta),
            Command::Recycle { below } => self.recycle(below),
            Command::Truncate { to, until } => self.truncate(to, until),
            Command::Stop => Flow::End,
        }
    }

    /// What lies below the log's start is not needed any more, and holds up nothing.
    fn forget_below_start(&mut self) {
        if let Some((_, geometry)) = self.segments.log() {
            self.retries = self.retries.split_off(&geometry.segment_of(self.desk.log_start));
        }
    }

    fn prepare(&mut self, seq: u64, salt: Option<u32>) -> Flow {
        // Put in place before one below it, it would stand behind a gap: a start after a crash refuses that.
        if self.retries.range(..seq).next().is_some() && !bug(Bug::SegmentBehindGap) {
            let at = Instant::now();
            self.retries.insert(seq, Retry { salt, at, delay: FIRST_RETRY, error: None });
            return Flow::On;
        }
        let made = match self.segments.log() {
            Some((log, geometry)) => self.make(seq, salt, log, geometry),
            None => Err(Refusal::Failed("this node has no log yet".to_owned())),
        };
        match made {
            Ok(salt) => {
                self.retries.remove(&seq);
                self.desk.answer(Input::SegmentReady { seq, salt })
            }
            Err(Refusal::Stopped) => Flow::End,
            Err(Refusal::Failed(error)) => {
                let earlier = self.retries.remove(&seq);
                let is_new = earlier.as_ref().is_none_or(|retry| retry.error.as_ref() != Some(&error));
                let delay = earlier.map_or(FIRST_RETRY, |retry| (retry.delay * 2).min(LAST_RETRY));
                let at = Instant::now() + delay;
                self.retries.insert(seq, Retry { salt, at, delay, error: Some(error.clone()) });
                if is_new { self.desk.answer(Input::SegmentFailed { seq, error }) } else { Flow::On }
            }
        }
    }

    fn make(&mut self, seq: u64, salt: Option<u32>, log: LogId, geometry: Geometry) -> Result<u32, Refusal> {
        if let Some(found) = self.segments.salt(seq) {
            if salt.is_none_or(|salt| salt == found) {
                return Ok(found);
            }
            if let Some(held) = self.holds_batches(seq, log, geometry)? {
                return Err(Refusal::Failed(format!(
                    "segment {seq} holds batches under salt {held:08x}; it must be cut first"
                )));
            }
        }
        let spare = self.take_spare(salt);
        let salt = salt.unwrap_or_else(|| fresh_salt(spare.as_ref().map(|spare| spare.entry.salt)));
        let (layout, mode) = (self.segments.layout().clone(), self.segments.mode());
        let plan = Plan { layout: &layout, mode, log, geometry, seq, salt, steps: &self.steps };
        let desk = &mut self.desk;
        let file = plan.make(spare.map(|spare| layout.segment(spare.seq)), &mut || desk.serve_meta())?;
        self.segments.insert(seq, salt, file);
        Ok(salt)
    }

    /// A file that nobody reads any more and whose batches the new salt makes invalid.
    fn take_spare(&mut self, salt: Option<u32>) -> Option<Spare> {
        let free =
            |spare: &Spare| Arc::strong_count(&spare.entry.file) == 1 && Some(spare.entry.salt) != salt;
        let at = self.spares.iter().position(free)?;
        Some(self.spares.swap_remove(at))
    }

    /// The salt of a first batch in a segment that is in place, if it has one: then it is part of a log. What a file was
    /// used for before lies below its place; what a crash in the middle of a cut left over is of a term that does not own
    /// its place any more.
    fn holds_batches(&self, seq: u64, log: LogId, geometry: Geometry) -> Result<Option<u32>, Refusal> {
        let Some(file) = self.segments.file(seq) else { return Ok(None) };
        let first = geometry.first_batch(seq);
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES as usize);
        file.pread_exact(geometry.offset_of(first), &mut block).map_err(OpenError::file)?;
        let found = BatchHeader::decode_any(&block).ok();
        let owner = self.desk.history.owner(first);
        let own_salt = self.segments.salt(seq);
        let belongs = |header: &BatchHeader, salt: u32| {
            let is_owned = owner == Some(header.term) || bug(Bug::LeftoverHeld);
            let is_seen = !bug(Bug::BatchesReplaced) || own_salt == Some(salt);
            header.log == log && header.start == first && is_owned && is_seen
        };
        Ok(found.filter(|(header, salt)| belongs(header, *salt)).map(|(_, salt)| salt))
    }

    fn recycle(&mut self, below: Lsn) -> Flow {
        // A segment goes only when a restart would not look for it: the meta block says so.
        debug_assert!(below <= self.desk.log_start, "recycling before the log's start is durable");
        let below = below.min(self.desk.log_start);
        let Some((_, geometry)) = self.segments.log() else { return Flow::On };
        for (seq, _) in
            self.segments.list().into_iter().filter(|(seq, _)| geometry.segment_end(*seq) <= below)
        {
            if let Some(entry) = self.segments.remove(seq) {
                self.spares.push(Spare { seq, entry });
            }
        }
        let flow = self.remove_excess();
        // There may be room now.
        self.retries.values_mut().for_each(|retry| retry.at = Instant::now());
        flow
    }

    fn remove_excess(&mut self) -> Flow {
        let layout = self.segments.layout();
        let excess = self.spares.len().saturating_sub(self.max_spares);
        for spare in self.spares.drain(..excess) {
            if self.steps.take("remove a segment below the log's start").is_err() {
                return Flow::End;
            }
            // Left behind in the worst case: the next open finds it below the log's start.
            let _ = remove_if_there(&layout.segment(spare.seq));
        }
        if excess > 0 {
            let _ = fsync_dir(&layout.segments());
        }
        Flow::On
    }

    fn truncate(&mut self, to: Lsn, until: Lsn) -> Flow {
        let span = Span::new(to, until);
        match self.cut(span) {
            Ok((end, previous_hash)) => self.desk.answer(Input::Truncated { end, previous_hash }),
            Err(OpenError::Stopped(_)) => Flow::End,
            Err(error) => {
                self.desk.answer(Input::WriteFailed { span, error: format!("cutting the log: {error}") })
            }
        }
    }

    fn cut(&mut self, span: Span) -> Result<(Position, u64), OpenError> {
        let Some((log, geometry)) = self.segments.log() else {
            return Ok((Position { lsn: span.start, ..Position::default() }, 0));
        };
        // Read before it is cut: the first batch that goes says what lies before it.
        let end = Headers::new(&self.segments, log, geometry).position_at(span.start)?;
        self.retries.retain(|seq, _| *seq <= geometry.segment_of(span.start));
        cut_tail(&self.segments, geometry, span, Later::Remove, &self.steps)?;
        Ok(end)
    }
}

/// Commands in, answers out, and the meta block, which is served while a segment is being filled.
struct Desk {
    inbox: Receiver<Command>,
    waiting: VecDeque<Command>,
    meta: MetaFile,
    /// Durable in the meta block.
    log_start: Lsn,
    history: TermHistory,
    failed: Option<String>,
    sink: Box<dyn FnMut(Input) + Send>,
}

impl Desk {
    fn answer(&mut self, input: Input) -> Flow {
        (self.sink)(input);
        Flow::On
    }

    fn write_meta(&mut self, meta: &Meta) -> Flow {
        if let Some(error) = &self.failed {
            let error = error.clone();
            return self.answer(Input::MetaFailed { error });
        }
        match self.meta.write(meta) {
            Ok(()) => {
                self.log_start = meta.log_start;
                self.history.clone_from(&meta.history);
                self.answer(Input::MetaWritten { sequence: meta.sequence })
            }
            Err(MetaWriteError::Stopped(_)) => Flow::End,
            Err(error) => {
                // Never tried again: after a failed flush nobody knows which bytes are on the disk.
                let error = error.to_string();
                self.failed = Some(error.clone());
                self.answer(Input::MetaFailed { error })
            }
        }
    }

    /// Writes waiting meta blocks ahead of waiting preparations and recyclings; nothing else is overtaken.
    fn serve_meta(&mut self) {
        while self.waiting.len() < MAX_COMMANDS {
            match self.inbox.try_recv() {
                Ok(command) => self.waiting.push_back(command),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        while let Some(at) = self.overtaking_meta() {
            if let Some(Command::WriteMeta(meta)) = self.waiting.remove(at) {
                // A stop ends the thread at its next step.
                let _ = self.write_meta(&meta);
            }
        }
    }

    fn overtaking_meta(&self) -> Option<usize> {
        let passes = |command: &Command| matches!(command, Command::Prepare { .. } | Command::Recycle { .. });
        let at = self.waiting.iter().position(|command| !passes(command))?;
        matches!(self.waiting.get(at), Some(Command::WriteMeta(_))).then_some(at)
    }
}

/// Why a segment was not made.
enum Refusal {
    Failed(String),
    Stopped,
}

impl From<OpenError> for Refusal {
    fn from(error: OpenError) -> Refusal {
        match error {
            OpenError::Stopped(_) => Refusal::Stopped,
            other => Refusal::Failed(other.to_string()),
        }
    }
}

/// Far more than a node has outstanding at once.
const MAX_COMMANDS: usize = 64;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

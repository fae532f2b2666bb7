//! One client's connection.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam::channel::TryRecvError;
use towline_core::format::{Committed, Frame, Outcome, RefusalCode, WireError, decode_frame};
use towline_core::types::limits::{MAX_APPEND_BYTES, MAX_FRAME_BYTES};
use towline_core::types::{Level, Lsn, Span, TicketId, Window};
use towline_uring::{Completion, PoolBuf, RingFd};

use super::long_records::{LONG_LIMIT, LongRecords};
use super::reading::{Piece, Reading, Refusal, refuse_span};
use super::tickets::{ClientTickets, Waiting};
use crate::clock::now_ns;
use crate::error::{AppendError, TailError};
use crate::handle::Tail;
use crate::handle::append::{checked_bytes, put_records, refused};
use crate::handle::hand_over::Promotion;
use crate::handle::shared::{Marks, QueuedTicket};
use crate::options::PeerAddress;
use crate::shard::batch::Batches;
use crate::shard::core::Core;
use crate::shard::sessions::outgoing::{Outgoing, Port};
use crate::shard::tag::Tag;

/// One client.
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) fd: RingFd,
    socket: OwnedFd,
    /// Bytes that arrived and are not dealt with: its own part, or one long append.
    arrived: Vec<u8>,
    /// The length of the append at the head of `arrived`, when not all of it has arrived.
    incomplete: Option<usize>,
    /// What it holds of the memory for long records, and since when.
    long: Option<(usize, u64)>,
    /// It waits for that.
    wants_long: bool,
    buf: Option<PoolBuf>,
    receiving: bool,
    out: Outgoing,
    /// Appends and waits that are not answered.
    unanswered: usize,
    /// The append at the head of `arrived` found no room.
    stalled: bool,
    reading: Option<Reading>,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Open,
    /// Ends once what is queued has left, or at this time.
    Closing {
        until_ns: u64,
    },
    Dead,
}

/// What a client asks of the shard itself.
pub(crate) enum Asked {
    Wait { ticket: TicketId, lsn: Lsn, level: Level },
    Tail { from: Lsn, unsafe_too: bool },
    ReadLog { span: Span },
    SetRule { request: u64, rule: String },
    Trim { request: u64, below: Lsn },
    Promote { request: u64, promotion: Promotion },
    Pause { request: u64, limit: Duration },
    Resume { request: u64 },
    Status,
}

/// What a parsed frame leads to.
enum Step {
    /// It was dealt with; this many bytes of payload went with it.
    Done(usize),
    /// Not all of its payload is there, which is this many bytes.
    More(usize),
    /// There is no room in the log at the moment: the connection waits with it.
    Stalled,
}

impl Connection {
    pub(crate) fn new(id: u64, fd: RingFd, socket: OwnedFd) -> Connection {
        Connection {
            id,
            fd,
            socket,
            arrived: Vec::new(),
            incomplete: None,
            long: None,
            wants_long: false,
            buf: None,
            receiving: false,
            out: Outgoing::default(),
            unanswered: 0,
            stalled: false,
            reading: None,
            state: State::Open,
        }
    }

    /// Queues a frame.
    pub(crate) fn push(&mut self, frame: &Frame) {
        if self.state == State::Dead {
            return;
        }
        if self.out.push_frame(frame).is_err() {
            self.fail();
        }
    }

    /// Queues the answer to an append or a wait.
    pub(crate) fn answered(&mut self, frame: &Frame) {
        self.unanswered = self.unanswered.saturating_sub(1);
        self.push(frame);
    }

    /// Deals with what arrived, then submits the next receive and send.
    pub(crate) fn drive(
        &mut self,
        core: &mut Core,
        batches: &mut Batches,
        tickets: &mut ClientTickets,
        asked: &mut VecDeque<(u64, Asked)>,
    ) {
        if self.state == State::Open {
            self.parse(core, batches, tickets, asked);
            self.take_read();
            let long = self.long.filter(|_| !self.stalled);
            if long.is_some_and(|(_, since_ns)| core.long_records.is_overdue(since_ns, core.now_ns)) {
                self.refuse(
                    RefusalCode::Busy,
                    format!("a long record did not come to its end within {LONG_LIMIT:?}, and others wait"),
                );
            }
        }
        match self.state {
            State::Dead => return,
            State::Closing { until_ns } => {
                let until_ns =
                    if until_ns == 0 { core.now_ns + CLOSE_LIMIT.as_nanos() as u64 } else { until_ns };
                self.state = State::Closing { until_ns };
                if self.out.is_finished() || core.now_ns >= until_ns {
                    return self.fail();
                }
            }
            State::Open => {}
        }
        let stuck_ns = if self.out.is_idle() { 0 } else { core.now_ns.saturating_sub(self.out.since_ns) };
        if self.out.pinned().is_none() && self.has_send() && stuck_ns > SLOW_LIMIT.as_nanos() as u64 {
            // A client that takes no answer is not waited for.
            return self.fail();
        }
        let holds = self.out.payload_bytes() > 0;
        if holds && core.read_memory.hold_limit().is_some_and(|limit| stuck_ns > limit.as_nanos() as u64) {
            // Others wait for the memory of what it asked for and does not take.
            return self.fail();
        }
        let mut port = Port {
            ring: &mut core.ring,
            files: &mut core.files,
            frames: &core.client_frames,
            geometry: core.geometry,
            now_ns: core.now_ns,
            zero_copy: false,
        };
        if self.out.drive(&mut port, self.fd, self.id, Tag::ClientSend(self.id)).is_err() {
            return self.fail();
        }
        self.receive(core);
    }

    /// The next receive, unless the client has to take answers, or give way, first: backpressure over TCP.
    fn receive(&mut self, core: &mut Core) {
        self.wants_long = false;
        let behind = self.out.queued_bytes() > MAX_ANSWERS || self.unanswered >= MAX_UNANSWERED;
        if self.receiving || self.stalled || behind || self.state != State::Open {
            return;
        }
        let limit = self.arrived_limit(core);
        if self.arrived.len() >= limit {
            // For whoever has room.
            self.buf = None;
            return;
        }
        let Some(buf) = self.buf.take().or_else(|| core.client_bufs.get()) else { return };
        let room = buf.len().min(limit - self.arrived.len());
        match core.ring.recv_buf(self.fd, buf, 0..room, Tag::ClientRecv(self.id).pack()) {
            Ok(()) => self.receiving = true,
            Err(_) => self.fail(),
        }
    }

    /// How much may have arrived and not be dealt with. An append that is longer than a connection's own part takes
    /// memory that all share, for itself and nothing behind it.
    fn arrived_limit(&mut self, core: &mut Core) -> usize {
        let incomplete = self.incomplete.filter(|bytes| *bytes > OWN_BYTES);
        if incomplete.is_none() {
            self.give_back(core);
        }
        let Some(bytes) = incomplete else { return OWN_BYTES };
        if self.long.is_none() && core.long_records.take(bytes, core.now_ns) {
            self.long = Some((bytes, core.now_ns));
            self.arrived.reserve_exact(bytes - self.arrived.len());
        }
        self.wants_long = self.long.is_none();
        if self.wants_long { OWN_BYTES } else { bytes }
    }

    /// Gives its memory for a long record back.
    pub(crate) fn give_back(&mut self, core: &mut Core) {
        self.wants_long = false;
        if let Some((bytes, _)) = self.long.take() {
            core.long_records.give_back(bytes);
        }
    }

    pub(crate) fn received(&mut self, completion: Completion) {
        self.receiving = false;
        match (completion.result, completion.buf) {
            (Ok(count), Some(buf)) if count > 0 => {
                if self.arrived.capacity() < OWN_BYTES {
                    // At once: a vector that doubles would hold twice what a connection may.
                    self.arrived.reserve_exact(OWN_BYTES - self.arrived.len());
                }
                self.arrived.extend_from_slice(&buf[..count as usize]);
                // Back to the pool while nothing is received: an idle connection holds its own small part only.
                self.buf = Some(buf);
            }
            _ => self.fail(),
        }
    }

    pub(crate) fn sent(&mut self, completion: &Completion) {
        if self.out.sent(completion).is_err() {
            self.fail();
        }
    }

    fn parse(
        &mut self,
        core: &mut Core,
        batches: &mut Batches,
        tickets: &mut ClientTickets,
        asked: &mut VecDeque<(u64, Asked)>,
    ) {
        let mut at = 0;
        self.stalled = false;
        self.incomplete = None;
        let arrived = std::mem::take(&mut self.arrived);
        while self.state == State::Open
            && self.unanswered < MAX_UNANSWERED
            && self.out.queued_bytes() <= MAX_ANSWERS
        {
            let bytes = &arrived[at..];
            if bytes.is_empty() {
                break;
            }
            let decoded = match decode_frame(bytes) {
                Ok(decoded) => decoded,
                Err(WireError::NeedMore(_)) => break,
                Err(error) => {
                    self.refuse(RefusalCode::Protocol, error.to_string());
                    break;
                }
            };
            let payload = &bytes[decoded.consumed..];
            match self.handle(decoded.frame, payload, core, batches, tickets, asked) {
                Step::Done(payload_bytes) => at += decoded.consumed + payload_bytes,
                Step::More(bytes) => {
                    let bytes = decoded.consumed.saturating_add(bytes);
                    if bytes > MAX_ARRIVED {
                        let message =
                            format!("an append of {bytes} bytes, where {MAX_APPEND_BYTES} are the most");
                        self.refuse(RefusalCode::Protocol, message);
                    }
                    self.incomplete = Some(bytes);
                    break;
                }
                Step::Stalled => {
                    self.stalled = true;
                    break;
                }
            }
        }
        self.arrived = arrived;
        self.arrived.drain(..at);
        if self.arrived.is_empty() && self.arrived.capacity() > OWN_BYTES {
            self.arrived = Vec::new();
        }
    }

    fn handle(
        &mut self,
        frame: Frame,
        payload: &[u8],
        core: &mut Core,
        batches: &mut Batches,
        tickets: &mut ClientTickets,
        asked: &mut VecDeque<(u64, Asked)>,
    ) -> Step {
        match frame {
            Frame::Append { request, level, window, lengths } => {
                let total: usize = lengths.iter().map(|len| *len as usize).sum();
                let Some(payload) = payload.get(..total) else { return Step::More(total) };
                return match self.append(request, level, window, &lengths, payload, core, batches, tickets) {
                    Ok(()) => Step::Done(total),
                    Err(AppendError::Full(_)) => Step::Stalled,
                    Err(error) => {
                        self.push(&Frame::Appended { request, outcome: Outcome::Refused(error.to_string()) });
                        Step::Done(total)
                    }
                };
            }
            Frame::Wait { request, lsn, level } => {
                match tickets.begin(Waiting { client: self.id, request, lsn: Lsn(0) }) {
                    Some(ticket) => {
                        self.unanswered += 1;
                        asked.push_back((self.id, Asked::Wait { ticket, lsn, level }));
                    }
                    None => return Step::Stalled,
                }
            }
            Frame::Tail { from, unsafe_too } => asked.push_back((self.id, Asked::Tail { from, unsafe_too })),
            Frame::ReadLog { start, end } => {
                asked.push_back((self.id, Asked::ReadLog { span: Span { start, end } }));
            }
            Frame::SetRule { request, rule } => asked.push_back((self.id, Asked::SetRule { request, rule })),
            Frame::Trim { request, below } => asked.push_back((self.id, Asked::Trim { request, below })),
            Frame::Promote { request, standbys, rule, force, timeout_ms } => {
                let standbys = standbys.into_iter().map(|(name, address)| PeerAddress { name, address });
                let (standbys, timeout) = (standbys.collect(), Duration::from_millis(timeout_ms));
                let promotion = Promotion { standbys, rule, force, timeout };
                asked.push_back((self.id, Asked::Promote { request, promotion }));
            }
            Frame::Pause { request, limit_ms } => {
                asked.push_back((self.id, Asked::Pause { request, limit: Duration::from_millis(limit_ms) }));
            }
            Frame::Resume { request } => asked.push_back((self.id, Asked::Resume { request })),
            Frame::StatusRequest => asked.push_back((self.id, Asked::Status)),
            Frame::Heartbeat { .. } => {}
            _ => self.refuse(RefusalCode::Protocol, "a client does not send this frame".to_owned()),
        }
        Step::Done(0)
    }

    /// As a handle's append, from the shard's own thread.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one frame and the parts of the shard it meets"
    )]
    fn append(
        &mut self,
        request: u64,
        level: Level,
        window: Option<Window>,
        lengths: &[u32],
        mut payload: &[u8],
        core: &mut Core,
        batches: &mut Batches,
        tickets: &mut ClientTickets,
    ) -> Result<(), AppendError> {
        let bytes = checked_bytes(lengths.iter().map(|len| *len as usize))?;
        if window.is_some() && !level.is_remote() {
            return Err(AppendError::Window("it needs a remote level: remote_write, on or remote_apply"));
        }
        let marks = &core.shared.marks;
        if window.is_some() && !marks.has_rule.load(Ordering::Relaxed) {
            return Err(AppendError::Window("it needs a sync rule, and there is none"));
        }
        let accepted_ns = now_ns();
        let id = match level {
            Level::Off => None,
            _ => match tickets.begin(Waiting { client: self.id, request, lsn: Lsn(0) }) {
                Some(id) => Some(id),
                None => return Err(AppendError::Full("as many tickets wait as may".to_owned())),
            },
        };
        let mut reserved = match core.shared.appender.reserve(bytes as usize) {
            Ok(reserved) => reserved,
            Err(error) => {
                if let Some(id) = id {
                    tickets.end(id);
                }
                return Err(refused(&core.shared, error, bytes));
            }
        };
        let lsn = Lsn(reserved.pos());
        let end = lsn.plus(bytes);
        let mut into = reserved.bytes_mut();
        let mut payload_bytes = 0;
        for len in lengths {
            let (record, rest) = payload.split_at(*len as usize);
            payload = rest;
            let (place, rest) =
                into.split_at_mut(towline_core::format::record_bytes(u64::from(*len)) as usize);
            into = rest;
            payload_bytes += put_records(place, &[record]);
        }
        reserved.commit();
        match id {
            Some(id) => {
                self.unanswered += 1;
                tickets.placed(id, lsn);
                batches.push_ticket(QueuedTicket { id, lsn, end, payload_bytes, level, window, accepted_ns });
            }
            None => {
                let rule_version = core.shared.marks.rule_version.load(Ordering::Relaxed);
                let committed = Committed {
                    lsn,
                    end,
                    level,
                    window: None,
                    rule_version,
                    fill_bytes: 0,
                    waited_for_window: false,
                };
                self.push(&Frame::Appended { request, outcome: Outcome::Committed(committed) });
            }
        }
        Ok(())
    }

    /// Starts to follow the log for this client.
    pub(crate) fn follow(&mut self, tail: Result<Tail, TailError>, core: &Core) {
        let started = tail.map_err(Refusal::from).and_then(|tail| {
            let none = |error| Refusal::unavailable(format!("no thread for a tail: {error}"));
            Reading::records(tail, core).map_err(none)
        });
        self.begin(started);
    }

    /// Starts to send the log's own bytes to this client.
    pub(crate) fn read_log(&mut self, span: Span, core: &Core) {
        let log_start = Marks::lsn(&core.shared.marks.log_start);
        let geometry = core.files.segments().log().map(|(_, geometry)| geometry);
        let started = match refuse_span(span, log_start, geometry) {
            None => Reading::log(span, core)
                .map_err(|error| Refusal::unavailable(format!("no thread to read the log: {error}"))),
            Some(why) => Err(Refusal::unavailable(why)),
        };
        self.begin(started);
    }

    fn begin(&mut self, started: Result<Reading, Refusal>) {
        match started {
            Ok(reading) => self.reading = Some(reading),
            Err(refusal) => self.refuse(refusal.code, refusal.why),
        }
    }

    /// Moves what was read to the socket, as long as the client takes it.
    fn take_read(&mut self) {
        if self.out.queued_bytes() == 0 {
            self.out.free_memory();
        }
        while self.may_read() {
            let Some(reading) = &self.reading else { return };
            let (frame, bytes, last) = match reading.next() {
                Ok(Ok(Piece::Records(batch))) => {
                    let bytes = batch.bytes.len() as u32;
                    (Frame::Records { start: batch.start, next: batch.next, bytes }, batch.bytes, false)
                }
                Ok(Ok(Piece::Log { start, flushed, bytes })) => {
                    let (len, last) = (bytes.len() as u32, bytes.is_empty());
                    (Frame::LogBytes { start, flushed, bytes: len }, bytes, last)
                }
                Ok(Err(refusal)) => {
                    self.reading = None;
                    return self.refuse(refusal.code, refusal.why);
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.reading = None;
                    return self.close();
                }
            };
            self.push(&frame);
            if self.state == State::Dead {
                return;
            }
            if self.out.push_payload(bytes).is_err() {
                return self.fail();
            }
            if last {
                self.reading = None;
            }
        }
    }

    /// One piece at a time, however long it is, or several short ones.
    fn may_read(&self) -> bool {
        self.out.queued_bytes() == 0 || self.out.payload_bytes() < READ_QUEUED_BYTES
    }

    fn refuse(&mut self, code: RefusalCode, message: String) {
        self.push(&Frame::Refused { code, message });
        self.close();
    }

    pub(crate) fn close(&mut self) {
        if self.state == State::Open {
            self.out.close();
            self.state = State::Closing { until_ns: 0 };
        }
    }

    pub(crate) fn fail(&mut self) {
        self.state = State::Dead;
        self.reading = None;
        // Every operation on the socket ends with this; it may have ended by itself before.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.state == State::Dead && !self.receiving && self.out.is_quiet()
    }

    /// It has appends or waits that nobody hears the end of any more.
    pub(crate) fn leaves_tickets(&self) -> bool {
        self.unanswered > 0
    }

    pub(crate) fn has_send(&self) -> bool {
        !self.out.is_quiet()
    }

    /// It has something that the next turn can go on with.
    pub(crate) fn is_waiting(&self, long_records: &LongRecords) -> bool {
        let has_room = self.incomplete.is_some_and(|bytes| long_records.has(bytes));
        self.stalled || (self.wants_long && has_room)
    }

    /// It waits for memory that others hold.
    pub(crate) fn wants_long(&self) -> bool {
        self.wants_long
    }

    /// When its long record has to make room for others.
    pub(crate) fn long_until_ns(&self) -> Option<u64> {
        let (_, since_ns) = self.long.filter(|_| self.state == State::Open && !self.stalled)?;
        Some(since_ns + LONG_LIMIT.as_nanos() as u64 + 1)
    }

    /// Something was read, and the client takes bytes.
    pub(crate) fn has_read(&self) -> bool {
        self.may_read() && self.reading.as_ref().is_some_and(Reading::has_next)
    }
}

/// One append, its frame, and what came with the same receive.
pub(super) const MAX_ARRIVED: usize = MAX_APPEND_BYTES as usize + 2 * MAX_FRAME_BYTES + (64 << 10);
/// What every connection may hold of what its client sent: an append of 32 KiB and its frame.
const OWN_BYTES: usize = 34 << 10;
const MAX_UNANSWERED: usize = 4096;
/// Answers that may wait for a client before nothing more is taken from it.
const MAX_ANSWERS: usize = 1 << 20;
const READ_QUEUED_BYTES: usize = 256 << 10;
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
const SLOW_LIMIT: Duration = Duration::from_secs(30);

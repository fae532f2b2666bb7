//! The receiving side: sessions that dialled this node. It follows at most one of them.
//!
//! A standby never learns what level anybody waits for: it receives, writes, reports. The same path fetches the
//! tail that a restarted primary lacks, and serves such a fetch to one.

use super::meta_keeper::AfterMeta;
use super::shipping::{SILENT_HEARTBEATS, VERSIONS};
use super::{Event, Node, Output, Source as Bytes, note};
use crate::format::{BatchHeader, BatchKind, Frame, Hello, HelloRole, LogEnd, RefusalCode, Welcome};
use crate::replication::single_leader::may_adopt;
use crate::types::limits::MAX_SEND_BYTES;
use crate::types::{Geometry, LogId, Lsn, Position, SessionId, Span, StandbyWatermarks, Term, TermHistory};

/// Sessions of other nodes at once: the leader, its successor, and strays.
const MAX_GUESTS: usize = 8;
/// Segment salts remembered while their files are made.
const MAX_ASKED_SEGMENTS: usize = 8;

/// What this node knows as a follower.
#[derive(Debug)]
pub(super) struct Following {
    guests: Vec<Guest>,
    source: Option<Source>,
    fetch: Option<FetchService>,
    /// Writes may reach to here: the meta block calls the span unfinished.
    permitted: Lsn,
    leader_flushed: Lsn,
    leader_safe: Lsn,
    applied: Position,
    apply_told: Lsn,
    reported: Option<(StandbyWatermarks, Lsn)>,
    asked_segments: Vec<(u64, u32)>,
}

#[derive(Debug)]
struct Guest {
    session: SessionId,
    hello: Option<Hello>,
    /// It asked for a term; answered once everything received is flushed.
    asks: Option<(Term, LogEnd)>,
    heard_ns: u64,
    spoke_ns: u64,
}

/// Where log bytes come from.
#[derive(Debug)]
pub(super) struct Source {
    session: SessionId,
    kind: SourceKind,
    /// Batches of a later term are refused.
    term: Term,
    history: TermHistory,
    /// Cut to the fork, and receiving.
    receiving: bool,
    /// The first batch of an empty log that starts in mid-stream says what lies before it.
    counts_unknown: bool,
    /// A cut has to wait until nothing is in flight.
    cut_due: Option<Lsn>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceKind {
    /// A leader's (or a relay's) stream.
    Stream,
    /// A tail that this restarted primary lacks.
    Fetch,
}

/// A tail that a restarted primary asked for.
#[derive(Debug)]
struct FetchService {
    session: SessionId,
    at: Lsn,
    until: Lsn,
    flight: Option<Span>,
}

impl Source {
    pub(super) fn new(session: SessionId, kind: SourceKind, term: Term, history: TermHistory) -> Source {
        Source { session, kind, term, history, receiving: false, counts_unknown: false, cut_due: None }
    }
}

impl Following {
    pub(super) fn new(end: Lsn, leader_flushed: Lsn) -> Following {
        Following {
            guests: Vec::new(),
            source: None,
            fetch: None,
            permitted: end,
            leader_flushed,
            leader_safe: Lsn(0),
            applied: Position::default(),
            apply_told: Lsn(0),
            reported: None,
            asked_segments: Vec::new(),
        }
    }

    pub(super) fn permit(&mut self, upto: Lsn) {
        self.permitted = self.permitted.max(upto);
    }

    pub(super) fn permitted(&self) -> Lsn {
        self.permitted
    }

    pub(super) fn applied(&self) -> Lsn {
        self.applied.lsn
    }

    pub(super) fn reset_applied(&mut self, to: Lsn) {
        self.applied = Position { lsn: to, ..Position::default() };
        self.apply_told = to;
    }

    pub(super) fn leader_safe(&self) -> Lsn {
        self.leader_safe
    }

    pub(super) fn leader_flushed(&self) -> Lsn {
        self.leader_flushed
    }

    pub(super) fn has_source(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.receiving)
    }

    pub(super) fn end_source(&mut self) {
        self.source = None;
        self.reported = None;
    }

    /// The log was cut: what was permitted, claimed and asked for beyond it is void.
    pub(super) fn was_cut(&mut self, end: Lsn) {
        self.permitted = end;
        self.leader_flushed = self.leader_flushed.min(end);
        self.leader_safe = self.leader_safe.min(end);
        self.asked_segments.clear();
    }

    fn guest(&mut self, session: SessionId) -> Option<&mut Guest> {
        self.guests.iter_mut().find(|guest| guest.session == session)
    }
}

impl Node {
    pub(super) fn handle_accepted(&mut self, session: SessionId) {
        if self.following.guests.len() >= MAX_GUESTS || self.has_ended() || self.stopping {
            let message = "too many sessions, or this node has ended".to_owned();
            self.out.push_back(Output::Frame {
                session,
                frame: Frame::Refused { code: RefusalCode::Unavailable, message: message.clone() },
            });
            self.close(session, &message);
            return;
        }
        let now = self.now_ns;
        self.following.guests.push(Guest { session, hello: None, asks: None, heard_ns: now, spoke_ns: now });
    }

    pub(super) fn tick_following(&mut self) {
        let (now, heartbeat, term) = (self.now_ns, self.config.heartbeat_ns, self.meta.get().adopted);
        for guest in &mut self.following.guests {
            if now.saturating_sub(guest.heard_ns) > SILENT_HEARTBEATS * heartbeat {
                guest.heard_ns = now;
                let why = format!("the other side has been silent for {SILENT_HEARTBEATS} heartbeats");
                self.out.push_back(Output::Close { session: guest.session, why });
            } else if now.saturating_sub(guest.spoke_ns) >= heartbeat && guest.hello.is_some() {
                guest.spoke_ns = now;
                self.out
                    .push_back(Output::Frame { session: guest.session, frame: Frame::Heartbeat { term } });
            }
        }
    }

    pub(super) fn following_deadline_ns(&self) -> Option<u64> {
        self.following.guests.iter().map(|guest| guest.spoke_ns + self.config.heartbeat_ns).min()
    }

    fn answer(&mut self, session: SessionId, frame: Frame) {
        let now = self.now_ns;
        if let Some(guest) = self.following.guest(session) {
            guest.spoke_ns = now;
        }
        self.out.push_back(Output::Frame { session, frame });
    }

    fn refuse(&mut self, session: SessionId, code: RefusalCode, message: String) {
        self.answer(session, Frame::Refused { code, message: message.clone() });
        self.close(session, &message);
    }

    pub(super) fn handle_upstream_frame(&mut self, session: SessionId, frame: Frame) {
        let now = self.now_ns;
        let Some(guest) = self.following.guest(session) else { return };
        guest.heard_ns = now;
        if guest.hello.is_none() && !matches!(frame, Frame::Hello(_)) {
            self.close(session, "the first frame was no hello");
            return;
        }
        match frame {
            Frame::Hello(hello) => self.handle_hello(session, hello),
            Frame::Adopt { term, end } => self.handle_adopt(session, term, end),
            Frame::Stream { term, history, log_start, log_end } => {
                self.handle_stream(session, term, history, log_start, log_end);
            }
            Frame::Segment { seq, salt, .. } => self.handle_segment(seq, salt),
            Frame::Progress { flushed, safe, log_start } => {
                self.handle_progress(session, flushed, safe, log_start)
            }
            Frame::Fetch { from } => self.handle_fetch(session, from),
            Frame::Refused { code, message } => {
                self.out.push_back(note(format!("refused by the other side ({code:?}): {message}")));
                self.close(session, &message);
            }
            Frame::Heartbeat { .. } => {}
            _ => self.close(session, "an unexpected frame from an upstream"),
        }
    }

    fn handle_hello(&mut self, session: SessionId, hello: Hello) {
        if hello.role != HelloRole::Upstream || hello.versions.0 > VERSIONS.1 || hello.versions.1 < VERSIONS.0
        {
            let message =
                format!("this node speaks versions {} to {} with upstreams", VERSIONS.0, VERSIONS.1);
            return self.refuse(session, RefusalCode::Version, message);
        }
        if hello.shard != self.config.shard {
            return self.refuse(
                session,
                RefusalCode::NoShard,
                format!("this is shard {}", self.config.shard),
            );
        }
        if hello.node == self.config.node {
            return self.refuse(session, RefusalCode::Busy, "a node cannot be its own standby".to_owned());
        }
        // A node has one session: an older one is what a half-open connection left behind.
        let older: Vec<SessionId> = self
            .following
            .guests
            .iter()
            .filter(|guest| guest.hello.as_ref().is_some_and(|known| known.node == hello.node))
            .map(|guest| guest.session)
            .collect();
        for older in older {
            self.following_session_ended(older);
            self.close(older, "a newer session of the same node began");
        }
        let (log, geometry) = (hello.log, hello.geometry);
        if let Some(guest) = self.following.guest(session) {
            guest.hello = Some(hello);
        }
        if self.config.log.is_unset() {
            self.out.push_back(Output::AdoptLog { log, geometry });
            return;
        }
        self.welcome(session);
    }

    pub(super) fn handle_log_adopted(&mut self, log: LogId, geometry: Geometry) {
        self.config.log = log;
        self.config.geometry = geometry;
        let start = Position { lsn: geometry.first_batch(0), ..Position::default() };
        self.tail = crate::log::Tail::new(geometry, self.config.flush_depth, start, 0);
        self.segments = crate::log::SegmentPlan::new(
            geometry,
            &[],
            self.config.prepare_ahead,
            start.lsn,
            self.config.retention_bytes,
        );
        self.released = start.lsn;
        self.following.permitted = start.lsn;
        let waiting: Vec<SessionId> = self
            .following
            .guests
            .iter()
            .filter(|guest| guest.hello.is_some())
            .map(|guest| guest.session)
            .collect();
        waiting.into_iter().for_each(|session| self.welcome(session));
    }

    fn welcome(&mut self, session: SessionId) {
        let Some(hello) = self.following.guest(session).and_then(|guest| guest.hello.clone()) else { return };
        if hello.log != self.config.log {
            let message = format!("this node holds log {}, not {}", self.config.log, hello.log);
            return self.refuse(session, RefusalCode::OtherLog, message);
        }
        if hello.geometry != self.config.geometry {
            let message =
                format!("the log's geometry here is {:?}, not {:?}", self.config.geometry, hello.geometry);
            return self.refuse(session, RefusalCode::OtherGeometry, message);
        }
        let meta = self.meta.get();
        let welcome = Welcome {
            version: VERSIONS.1.min(hello.versions.1),
            log: self.config.log,
            node: self.config.node,
            name: self.config.name.clone(),
            incarnation: meta.incarnation,
            adopted: meta.adopted,
            end: self.log_end(),
            log_start: self.segments.log_start(),
            history: meta.history.clone(),
            leader_flushed: self.following.leader_flushed,
            applies: self.config.applies,
        };
        self.answer(session, Frame::Welcome(welcome));
    }

    /// Rule 1. What is refused at once needs no flush; what may be adopted is compared again when everything
    /// received is flushed, because bytes in flight make this node's own log longer.
    fn handle_adopt(&mut self, session: SessionId, term: Term, end: LogEnd) {
        let adopted = self.meta.get().adopted;
        if term == adopted {
            // Asked again: what it had adopted before is no longer known, and proves nothing.
            let frame = Frame::Adopted { term, previous: Term::default(), end: self.log_end() };
            return self.answer(session, frame);
        }
        if !may_adopt(adopted, self.log_end(), term, end) {
            return self.answer_not_adopted(session);
        }
        self.step_down(&format!("term {term} is asked for by a node whose log is not behind"));
        if let Some(source) = self.following.source.take() {
            self.following.reported = None;
            if source.session != session {
                self.close(source.session, "another node asks for a higher term");
            }
        }
        if let Some(guest) = self.following.guest(session) {
            guest.asks = Some((term, end));
        }
    }

    fn answer_not_adopted(&mut self, session: SessionId) {
        let frame = Frame::NotAdopted {
            adopted: self.meta.get().adopted,
            end: self.log_end(),
            history: self.meta.get().history.clone(),
        };
        self.answer(session, frame);
    }

    fn settle_adoptions(&mut self) {
        if !self.tail.is_flushed() {
            return;
        }
        let asked: Vec<(SessionId, Term, LogEnd)> = self
            .following
            .guests
            .iter_mut()
            .filter_map(|guest| guest.asks.take().map(|(term, end)| (guest.session, term, end)))
            .collect();
        for (session, term, end) in asked {
            let adopted = self.meta.get().adopted;
            if may_adopt(adopted, self.log_end(), term, end) {
                self.meta.change(|meta| meta.adopted = term);
                self.meta.then(AfterMeta::SayAdopted { session, term, previous: adopted });
            } else {
                self.answer_not_adopted(session);
            }
        }
    }

    /// Durable before it is said.
    pub(super) fn say_adopted(&mut self, session: SessionId, term: Term, previous: Term) {
        let end = self.log_end();
        self.answer(session, Frame::Adopted { term, previous, end });
    }

    /// Rule 5: the fork point is found by comparing histories; the log is cut there before the first report.
    fn handle_stream(
        &mut self,
        session: SessionId,
        term: Term,
        history: TermHistory,
        log_start: Lsn,
        log_end: Lsn,
    ) {
        let adopted = self.meta.get().adopted;
        if term != adopted || self.is_leading() {
            let message = format!("this node has adopted term {adopted}, the stream is of term {term}");
            return self.refuse(session, RefusalCode::StaleTerm, message);
        }
        let end = self.tail.end();
        let empty = end.lsn == self.config.geometry.first_batch(0) && self.tail.previous_hash() == 0;
        if end.lsn < log_start && !empty {
            let message = format!(
                "this standby's log ends at {}, the sender's starts at {log_start}: make the standby anew from a snapshot",
                end.lsn
            );
            return self.refuse(session, RefusalCode::Resync, message);
        }
        if let Some(older) = self.following.source.take()
            && older.session != session
        {
            self.close(older.session, "another session streams now");
        }
        let mut source = Source::new(session, SourceKind::Stream, term, history);
        if empty && log_start > end.lsn {
            // An empty standby of a trimmed log begins where the log does; the first batch says what lay before.
            self.tail.cut(Position { lsn: log_start, ..Position::default() }, 0);
            self.segments.restart_at(log_start);
            self.released = log_start;
            self.following.permitted = log_start;
            self.meta.change(|meta| meta.log_start = log_start);
            if self.config.applies {
                self.following.reset_applied(log_start);
                self.out.push_back(Output::ResetApply { from: log_start });
            }
        }
        source.counts_unknown = empty;
        self.follow_source(source, log_end);
    }

    /// Begins to receive from `source`, whose log ends at `source_end`: history first, durably, then the cut.
    pub(super) fn follow_source(&mut self, mut source: Source, source_end: Lsn) {
        let end = self.tail.end().lsn;
        let own = self.meta.get().history.clone();
        let fork = own.fork_point(end, &source.history, source_end);
        let history = source.history.clone();
        if fork < end {
            if fork == source_end && own.owner(fork) == history.owner(fork) {
                // A relay that lost its tail: what it forgot is still this log.
                return self.close(source.session, "the sender is behind this node in the same term");
            }
            source.cut_due = Some(fork);
        }
        let cut = source.cut_due.is_some();
        self.following.source = Some(source);
        self.following.reported = None;
        self.following.leader_flushed = self.following.leader_flushed.min(fork);
        self.meta.change(|meta| meta.history = history);
        if !cut {
            self.meta.then(AfterMeta::Ready);
        }
    }

    /// A cut begins only when nothing is in flight: a late completion could else mark new bytes durable.
    fn settle_cut(&mut self) {
        if !self.tail.is_flushed() {
            return;
        }
        let due = self.following.source.as_mut().and_then(|source| source.cut_due.take());
        if let Some(fork) = due {
            self.cut_to(fork);
        }
    }

    pub(super) fn ready_to_receive(&mut self) {
        let end = self.tail.end().lsn;
        let previous_hash = self.tail.previous_hash();
        let at = self.tail.next_batch();
        let credit = self.credit();
        let Some(source) = &mut self.following.source else { return };
        if source.receiving || source.cut_due.is_some() {
            return;
        }
        source.receiving = true;
        let (session, kind) = (source.session, source.kind);
        self.out.push_back(Output::Receive { session, at, credit });
        match kind {
            SourceKind::Stream => self.answer(session, Frame::Ready { from: end, previous_hash }),
            SourceKind::Fetch => self.send_frame(session, Frame::Fetch { from: end }),
        }
    }

    fn credit(&self) -> Lsn {
        self.released.plus(self.config.arena_bytes)
    }

    pub(super) fn handle_segment(&mut self, seq: u64, salt: u32) {
        let asked = self.following.asked_segments.contains(&(seq, salt));
        if self.is_leading() || asked || !self.segments.wanted_by_leader(seq, salt) {
            return;
        }
        if self.following.asked_segments.len() >= MAX_ASKED_SEGMENTS {
            self.following.asked_segments.remove(0);
        }
        self.following.asked_segments.push((seq, salt));
        self.out.push_back(Output::PrepareSegment { seq, salt: Some(salt) });
    }

    fn handle_progress(&mut self, session: SessionId, flushed: Lsn, safe: Lsn, log_start: Lsn) {
        if self.following.source.as_ref().is_none_or(|source| source.session != session) {
            return;
        }
        self.following.leader_flushed = self.following.leader_flushed.max(flushed);
        self.following.leader_safe = self.following.leader_safe.max(safe);
        let pending = self.meta.awaits(|after| matches!(after, AfterMeta::Started { .. }));
        if let Some(at) = self.segments.follow_start(log_start, self.tail.flushed().lsn)
            && !pending
        {
            self.meta.change(|meta| {
                meta.log_start = at;
                meta.history.prune_below(at);
            });
            self.meta.then(AfterMeta::Started { at });
        }
    }

    /// A batch is complete in the arena and its checksums hold. Here it must also belong: right place, right
    /// predecessor, and a term that owns its place.
    pub(super) fn handle_received(
        &mut self,
        session: SessionId,
        header: &BatchHeader,
        hash: u64,
        rules: Vec<(u64, String)>,
    ) {
        let now = self.now_ns;
        if let Some(guest) = self.following.guest(session) {
            guest.heard_ns = now;
        }
        let Some(source) = &mut self.following.source else { return };
        if source.session != session || !source.receiving {
            return;
        }
        if source.counts_unknown {
            source.counts_unknown = false;
            let before = Position { lsn: self.tail.end().lsn, ..header.before() };
            self.tail.cut(before, header.previous_hash);
        }
        if header.previous_hash != self.tail.previous_hash() && header.start == self.tail.next_batch() {
            let why = format!(
                "the batch at {} does not follow this log's last one: the logs have diverged inside what was verified",
                header.start
            );
            return self.halt(&why);
        }
        let owner = source.history.owner(header.start);
        let end = self.tail.end();
        let belongs = header.start == self.tail.next_batch()
            && owner == Some(header.term)
            && header.term <= source.term
            && (header.records_before, header.payload_before) == (end.records, end.payload_bytes);
        if !belongs {
            return self.close(
                session,
                &format!("a batch at {} of term {} does not belong here", header.start, header.term),
            );
        }
        if header.kind == BatchKind::Roll {
            self.segments.rolled(header.stored().end);
        }
        for (version, rule) in rules {
            self.rules.received(version, rule);
        }
        self.following.leader_flushed = self.following.leader_flushed.max(header.durable_before);
        self.sealed = header.kind == BatchKind::Seal;
        self.tail.push(header, hash);
    }

    pub(super) fn flushed_while_following(&mut self) {
        self.settle_restart();
    }

    pub(super) fn handle_applied(&mut self, position: Position) {
        if position.lsn > self.following.applied.lsn {
            self.following.applied = position;
        }
    }

    /// What the application has not been able to copy out of the arena yet: a quarter of it at most.
    pub(super) fn apply_floor(&self) -> Option<Lsn> {
        let quarter = Lsn(self.tail.end().lsn.0.saturating_sub(self.config.arena_bytes / 4));
        self.config.applies.then(|| self.following.applied.lsn.max(quarter))
    }

    pub(super) fn settle_following(&mut self) {
        self.settle_adoptions();
        self.settle_cut();
        self.settle_apply();
        self.settle_report();
        self.settle_fetch();
    }

    /// As PostgreSQL: up to what is flushed here and on the leader; with `apply = safe` only what the rule has made
    /// safe, which no failover can take back.
    fn settle_apply(&mut self) {
        if !self.config.applies {
            return;
        }
        let allowed =
            if self.config.apply_safe { self.following.leader_safe } else { self.following.leader_flushed };
        let upto = self.tail.flushed().lsn.min(allowed);
        if upto > self.following.apply_told && !self.is_leading() {
            self.following.apply_told = upto;
            self.out.push_back(Output::Apply { upto });
        }
    }

    /// Cumulative, when something advanced; with credit in the same frame. Everything below the log's end was
    /// verified in this session: it was cut to the fork point before, and each batch since was checked.
    fn settle_report(&mut self) {
        let Some(source) = &self.following.source else { return };
        if !source.receiving || source.kind != SourceKind::Stream {
            return;
        }
        let session = source.session;
        let flushed = self.tail.flushed();
        let written = if self.config.arena_outlives { self.tail.end() } else { flushed };
        let applied =
            if self.following.applied.lsn <= flushed.lsn { self.following.applied } else { flushed };
        let watermarks = StandbyWatermarks { written, flushed, applied };
        let credit = self.credit();
        let due = self.following.reported.is_none_or(|(told, told_credit)| {
            told != watermarks || credit.bytes_since(told_credit) >= self.config.arena_bytes / 8
        });
        if due {
            self.following.reported = Some((watermarks, credit));
            let term = self.meta.get().adopted;
            self.answer(session, Frame::Report { term, watermarks, credit, failing: false });
            self.out.push_back(Output::Receive { session, at: self.tail.next_batch(), credit });
        }
    }

    /// It cannot flush any more, and says so before it goes.
    pub(super) fn report_failing(&mut self) {
        if let Some(source) = &self.following.source
            && let Some((watermarks, credit)) = self.following.reported
            && source.kind == SourceKind::Stream
        {
            let (session, term) = (source.session, self.meta.get().adopted);
            self.answer(session, Frame::Report { term, watermarks, credit, failing: true });
        }
    }

    /// A restarted primary lacks a tail that this node has flushed: it gets a bounded piece, and asks again.
    fn handle_fetch(&mut self, session: SessionId, from: Lsn) {
        let flushed = self.tail.flushed().lsn;
        if from < self.segments.log_start() || from > flushed {
            return self.refuse(session, RefusalCode::Resync, format!("nothing to fetch at {from}"));
        }
        let next = self.segments.stored_from(from, flushed, 0).start;
        let salts: Vec<(u64, u32)> = self.segments.from(next).collect();
        for (seq, salt) in salts {
            self.answer(session, Frame::Segment { seq, salt, incarnation: 0 });
        }
        self.following.fetch = Some(FetchService { session, at: from, until: flushed, flight: None });
    }

    fn settle_fetch(&mut self) {
        let Some(fetch) = &mut self.following.fetch else { return };
        if fetch.flight.is_some() {
            return;
        }
        let session = fetch.session;
        let span = self.segments.stored_from(fetch.at, fetch.until, MAX_SEND_BYTES);
        if span.is_empty() {
            let end = fetch.until;
            self.following.fetch = None;
            return self.answer(session, Frame::FetchEnd { end });
        }
        fetch.flight = Some(span);
        self.out.push_back(Output::Send { session, span, source: Bytes::Segments });
    }

    pub(super) fn fetch_sent(&mut self, session: SessionId, span: Span) {
        if let Some(fetch) = &mut self.following.fetch
            && fetch.session == session
            && fetch.flight == Some(span)
        {
            fetch.flight = None;
            fetch.at = self.segments.log_end_of(span);
        }
    }

    pub(super) fn following_session_ended(&mut self, session: SessionId) {
        self.following.guests.retain(|guest| guest.session != session);
        if self
            .following
            .source
            .as_ref()
            .is_some_and(|source| source.session == session && source.kind == SourceKind::Stream)
        {
            self.following.end_source();
            self.say(Event::Waiting { why: "the upstream is gone".to_owned() });
        }
        if self.following.fetch.as_ref().is_some_and(|fetch| fetch.session == session) {
            self.following.fetch = None;
        }
    }

    pub(super) fn close_guests(&mut self, why: &str) {
        let open: Vec<SessionId> = self.following.guests.iter().map(|guest| guest.session).collect();
        open.into_iter().for_each(|session| self.close(session, why));
    }
}

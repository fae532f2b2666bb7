//! Taking a log from a session: a leader's stream, a relay's, or the tail that a restarted primary lacks.
//!
//! ```text
//!   offer → fork point → history and cut recorded → cut → receive → report
//! ```
//! A standby never learns what level anybody waits for: it receives, writes, reports.

use super::meta_keeper::AfterMeta;
use super::{Event, Node, Output, Role};
use crate::bugs::{Bug, bug};
use crate::format::{BatchHeader, BatchKind, Frame, RefusalCode};
use crate::replication::single_leader::fork_of;
use crate::types::limits::{BLOCK_BYTES, MAX_LSN, SEGMENTS_ANNOUNCED};
use crate::types::{Lsn, Position, SessionId, Span, StandbyWatermarks, Term, TermHistory};

/// Where log bytes come from.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) session: SessionId,
    pub(super) kind: SourceKind,
    /// Batches of a later term are refused.
    term: Term,
    history: TermHistory,
    /// Its history is in the meta block.
    recorded: bool,
    /// Cut to the fork, and receiving.
    pub(super) receiving: bool,
    /// The first batch of an empty log that starts in mid-stream says what lies before it.
    counts_unknown: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceKind {
    /// A leader's (or a relay's) stream.
    Stream,
    /// A tail that this restarted primary lacks.
    Fetch,
}

/// A log that a sender offers.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) term: Term,
    pub(super) history: TermHistory,
    pub(super) log_start: Lsn,
    pub(super) log_end: Lsn,
    /// How many standbys its leader ships to, when it ships here directly.
    pub(super) set_size: u16,
}

impl Node {
    /// Rule 5: the fork point is found by comparing histories; the log is cut there before the first report.
    pub(super) fn handle_stream(&mut self, session: SessionId, offer: Offer) {
        if let Some(why) = self.untrue(&offer, offer.term) {
            return self.refuse(session, RefusalCode::Protocol, why.to_owned());
        }
        let is_own = offer.history.last().is_some_and(|last| last.term == offer.term);
        if !is_own && !bug(Bug::TakesOldLog) {
            // A leader's history ends with its own term, and so does that of a relay that follows it.
            let why = "a stream of a term that its own history does not have".to_owned();
            return self.refuse(session, RefusalCode::Protocol, why);
        }
        let adopted = self.meta.get().adopted;
        let asked = self.following.guests.iter().any(|guest| guest.asks.is_some());
        if offer.term != adopted || asked || self.is_leading() || self.flushes_for_promotion() {
            let message = format!(
                "this node has adopted term {adopted}, or is about to adopt another; the stream is of term {}",
                offer.term
            );
            return self.refuse(session, RefusalCode::StaleTerm, message);
        }
        if let Some(older) = self.following.source.take() {
            let why = if older.session == session { "offered twice" } else { "another session streams now" };
            self.close(older.session, why);
            if older.session == session {
                return;
            }
        }
        if self.is_empty() && !self.following.truncating && offer.log_start > self.tail.end().lsn {
            self.start_log_at(offer.log_start);
        }
        self.follow_source(session, SourceKind::Stream, offer);
    }

    /// Why no sender that keeps the rules could have made this offer, in which no term is above `newest`. What an offer
    /// says becomes durable here: one that were believed could keep this node from ever leading, or from being led.
    pub(super) fn untrue(&self, offer: &Offer, newest: Term) -> Option<&'static str> {
        let geometry = self.config.geometry;
        let starts_at_batch = geometry.first_batch(geometry.segment_of(offer.log_start)) == offer.log_start;
        let own = self.meta.get().history.last();
        if offer.history.last().is_some_and(|last| last.term > newest) {
            Some("a history with terms above the sender's own")
        } else if offer.log_end > MAX_LSN || offer.log_start > offer.log_end {
            Some("a log whose end is before its start, or farther than any can be")
        } else if self.is_empty() && offer.log_start > self.tail.end().lsn && !starts_at_batch {
            Some("a log that starts inside a segment")
        } else if own.is_some_and(|own| {
            offer.history.entries().iter().any(|entry| entry.term == own.term && entry.start != own.start)
        }) {
            Some("another start of a term than the one recorded here")
        } else {
            None
        }
    }

    /// Whether the log has no batch yet: what comes first says what lay before it.
    fn is_empty(&self) -> bool {
        self.tail.previous_hash() == 0
    }

    /// An empty standby of a trimmed log begins where the log does.
    fn start_log_at(&mut self, log_start: Lsn) {
        let start = Position { lsn: log_start, ..Position::default() };
        self.tail.cut(start, 0);
        self.segments.restart_at(log_start);
        self.released = log_start;
        self.following.starts_at(log_start);
        self.meta.change(|meta| meta.log_start = log_start);
        if self.config.applies {
            self.following.reset_applied(start);
            self.out.push_back(Output::ResetApply { from: log_start });
        }
    }

    /// Begins to receive: history first, durably, together with what it condemns; then the cut.
    pub(super) fn follow_source(&mut self, session: SessionId, kind: SourceKind, offer: Offer) {
        let end = self.following.condemned.map_or(self.tail.end().lsn, |span| span.start);
        let own = &self.meta.get().history;
        let own_start = self.segments.log_start();
        let fork = if self.is_empty() {
            Some(end)
        } else {
            fork_of((own, own_start, end), (&offer.history, offer.log_start, offer.log_end))
        };
        // A log that ends with a segment goes on behind the next one's header.
        let place = |lsn| self.config.geometry.batch_place(lsn);
        let overlap = place(end) >= offer.log_start && place(offer.log_end) >= own_start;
        let Some(fork) = fork.filter(|_| overlap) else {
            let message = format!(
                "this log spans {own_start} to {end}, the sender's starts at {}, and they have no byte in common: empty the standby's directory and start it again",
                offer.log_start
            );
            return self.refuse_source(session, message);
        };
        let newest = |history: &TermHistory| history.last().map(|entry| entry.term);
        if fork < end.min(offer.log_end) && newest(own) == newest(&offer.history) {
            // What a term's leader found is recorded here with its term: it does not find something else later.
            return self.refuse_source(session, format!("two logs of one term that part at {fork}"));
        }
        if fork < end && fork == offer.log_end && own.owner(fork) == offer.history.owner(fork) {
            // A relay that lost its tail: what it forgot is still this log.
            return self.close(session, "the sender is behind this node in the same term");
        }
        // Recovery asks who owns each byte that is here, also below where the sender's log starts by now.
        let history =
            if self.is_empty() { Ok(offer.history.clone()) } else { own.followed_by(&offer.history) };
        let history = match history {
            Ok(history) => history,
            Err(refused) => return self.close(session, &refused.to_string()),
        };
        if fork < end && !self.condemn(fork) {
            return;
        }
        self.following.source = Some(Source {
            session,
            kind,
            term: offer.term,
            history: offer.history.clone(),
            recorded: false,
            receiving: false,
            counts_unknown: false,
        });
        self.following.reported = None;
        self.following.history_becomes(&self.meta.get().history, &history);
        let joins = kind == SourceKind::Stream && self.has_to_catch_up_first(&offer);
        self.following.joining = joins.then_some((offer.log_end, offer.set_size));
        self.meta.change(|meta| {
            meta.history = history;
            if kind == SourceKind::Stream && !joins {
                meta.set_size = offer.set_size;
            }
        });
        self.meta.then(AfterMeta::Ready { session });
    }

    /// A directory that was of no set yet may stand where a disk was lost. What that disk had acknowledged with this
    /// leader is not with it before it holds the log as it is now; until then its word must count for nobody who
    /// wants to lead.
    fn has_to_catch_up_first(&self, offer: &Offer) -> bool {
        let is_of_no_set = self.meta.get().set_size == 0 && offer.set_size > 0;
        is_of_no_set && self.tail.flushed().lsn < offer.log_end && !bug(Bug::JoinsTooEarly)
    }

    /// From here on it is one of the set, durably.
    fn settle_joining(&mut self) {
        let flushed = self.tail.flushed().lsn;
        if let Some((_, set_size)) = self.following.joining.take_if(|(end, _)| flushed >= *end) {
            self.meta.change(|meta| meta.set_size = set_size);
        }
    }

    fn refuse_source(&mut self, session: SessionId, message: String) {
        self.say(Event::Note { text: format!("a primary's log was not taken: {message}") });
        self.refuse(session, RefusalCode::Resync, message);
    }

    /// The log beyond `fork` is nobody's any more, unless it was promised (false then: this node has halted).
    /// One meta write carries the new history, the span, and the lower word on what is durable: a crash finds
    /// either the old log, or a span that recovery knows to be in flight.
    fn condemn(&mut self, fork: Lsn) -> bool {
        let end = self.tail.end().lsn;
        let promised = self.acknowledged;
        if fork < promised && self.meta.get().led.is_some() && !bug(Bug::CutsAcknowledged) {
            // Rule 5 demands the halt: "cutting below an LSN that was acknowledged remotely halts".
            self.halt(&format!(
                "the log would be cut at {fork}, below {promised}, which this node acknowledged at a remote level"
            ));
            return false;
        }
        let reach = end.plus(self.config.geometry.in_flight_bytes).max(self.following.permitted());
        let until = self.following.condemned.map_or(reach, |span| span.end.max(reach));
        let unfinished = Span::new(fork.min(self.tail.flushed().lsn), until);
        self.following.condemned = Some(Span::new(fork, until));
        self.following.void_words_beyond(fork, &self.meta.get().history);
        self.close_peers("the log is cut");
        self.say(Event::Cut { span: Span::new(fork, end) });
        self.meta.change(|meta| {
            meta.unfinished = vec![unfinished];
            meta.reported = meta.reported.min(fork);
        });
        true
    }

    /// A cut begins only when nothing is in flight (a late completion could else mark new bytes durable) and the
    /// meta block says so.
    fn settle_cut(&mut self) {
        let Some(span) = self.following.condemned else { return };
        if self.tail.is_flushed() && !self.meta.is_busy() && !self.following.truncating {
            self.following.truncating = true;
            self.out.push_back(Output::Truncate { to: span.start, until: span.end });
        }
    }

    pub(super) fn handle_truncated(&mut self, end: Position, previous_hash: u64) {
        self.tail.cut(end, previous_hash);
        self.segments.cut(end.lsn);
        self.following.was_cut(end.lsn, &self.meta.get().history);
        self.following.truncating = false;
        // Another session may have condemned more meanwhile.
        self.following.condemned.take_if(|span| span.start >= end.lsn);
        self.released = end.lsn;
        self.sealed = false;
        // The application may have applied all that it was allowed to, whatever it has said so far.
        let told = if bug(Bug::ResetForgotten) { Lsn(0) } else { self.following.apply_told };
        if self.config.applies && self.following.applied().max(told) > end.lsn {
            self.following.reset_applied(end);
            self.out.push_back(Output::ResetApply { from: end.lsn });
        }
        self.following.apply_told = self.following.apply_told.min(end.lsn);
        self.following.passed(end);
        self.ready_to_receive();
    }

    /// The source's history is durable.
    pub(super) fn source_recorded(&mut self, session: SessionId) {
        if let Some(source) = &mut self.following.source
            && source.session == session
        {
            source.recorded = true;
            self.ready_to_receive();
        }
    }

    fn ready_to_receive(&mut self) {
        let end = self.tail.end().lsn;
        let end = if bug(Bug::ReadySaysMore) { end.plus(BLOCK_BYTES) } else { end };
        let previous_hash = self.tail.previous_hash();
        let at = self.tail.next_batch();
        let credit = self.credit();
        let Some(source) = &mut self.following.source else { return };
        let is_cut = self.following.condemned.is_none() || bug(Bug::DivergentReport);
        if source.receiving || !source.recorded || !is_cut {
            return;
        }
        source.receiving = true;
        source.counts_unknown = previous_hash == 0;
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

    pub(super) fn handle_segment(&mut self, session: SessionId, seq: u64, salt: u32) {
        let source = self.following.source.as_ref();
        let receives = source.is_some_and(|source| source.session == session && source.receiving);
        let known = self.segments.is_asked(seq, salt) || self.segments.is_in_place(seq, salt);
        if self.is_leading() || !receives || known {
            return;
        }
        let place = self.config.geometry.first_batch(seq);
        if place > MAX_LSN {
            return self.close(session, &format!("there can be no segment {seq}"));
        }
        if place < self.tail.end().lsn {
            // Its file holds log bytes under another salt: no two copies of one log differ in that. The sender alone
            // says so: its session ends, and what is here stays.
            return self.refuse_source(
                session,
                format!("segment {seq} has another salt here than at the sender: the logs have diverged"),
            );
        }
        // Made in another order, they would leave a gap to a crash.
        let geometry = self.config.geometry;
        let at = self.tail.next_batch();
        let in_credit = self.config.arena_bytes / geometry.segment_bytes + 2;
        let farthest = geometry.segment_of(at) + in_credit + SEGMENTS_ANNOUNCED;
        let in_turn = seq <= self.segments.known_end(at) || bug(Bug::SegmentOutOfTurn);
        if !in_turn || seq > farthest {
            return self.close(session, &format!("segment {seq} was announced out of turn, or too early"));
        }
        self.segments.ask(seq, salt);
        self.out.push_back(Output::PrepareSegment { seq, salt: Some(salt) });
    }

    pub(super) fn handle_progress(&mut self, session: SessionId, flushed: Lsn, safe: Lsn, log_start: Lsn) {
        let Some(source) = self.following.source.as_ref().filter(|source| source.session == session) else {
            return;
        };
        let term = source.term;
        self.following.leader_says(flushed, term, &self.meta.get().history);
        self.following.leader_safe = self.following.leader_safe.max(safe);
        let pending = self.meta.awaits(|after| matches!(after, AfterMeta::Started { .. }));
        // What the application has not seen yet stays.
        let applied = if self.config.applies { self.following.applied() } else { Lsn(u64::MAX) };
        if let Some(at) =
            self.segments.follow_start(log_start, self.last_flushed_byte().min(applied), self.tail.end().lsn)
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
        let owner = source.history.owner(header.start);
        let end = self.tail.end();
        let belongs = header.start == self.tail.next_batch()
            && (owner == Some(header.term) || bug(Bug::OwnerUnchecked))
            && header.term <= source.term;
        let follows = header.previous_hash == self.tail.previous_hash() || bug(Bug::ChainUnchecked);
        if belongs && !follows {
            // Nothing of it is taken. Which of the two is wrong the sender's word alone does not tell: only its session ends.
            let why = format!(
                "the batch at {} does not follow this log's last one: the logs have diverged inside what was verified",
                header.start
            );
            return self.refuse_source(session, why);
        }
        let belongs =
            belongs && (header.records_before, header.payload_before) == (end.records, end.payload_bytes);
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
        self.following.leader_says(header.durable_before, header.term, &self.meta.get().history);
        self.sealed = header.kind == BatchKind::Seal;
        self.tail.push(header, hash);
        self.following.passed(header.after());
    }

    pub(super) fn handle_applied(&mut self, position: Position) {
        // Word from before a cut may come behind it.
        if position.lsn > self.following.applied.lsn && position.lsn <= self.following.apply_told {
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
        self.settle_joining();
        self.settle_apply();
        self.settle_report();
        self.settle_fetch();
    }

    /// As PostgreSQL: up to what is flushed here and on the leader; with `apply = safe` only what the rule has made
    /// safe, which no failover can take back.
    fn settle_apply(&mut self) {
        let (reach, safe) = match &self.role {
            // What came before a promotion is this log's truth now; what comes after is its producers' own.
            Role::Leading(leading) if leading.promoted => (leading.start, self.safe_flushed()),
            Role::Leading(_) => (Lsn(0), Lsn(0)),
            _ => (self.following.leader_flushed(), self.following.leader_safe()),
        };
        let mut upto = self.tail.flushed().lsn;
        if !bug(Bug::AppliesUnflushed) {
            upto = upto.min(reach);
        }
        if self.config.apply_safe && !bug(Bug::ApplySafeIgnored) {
            upto = upto.min(safe);
        }
        if !self.config.applies {
            return self.following.apply_nowhere(upto);
        }
        if upto > self.following.apply_told {
            self.following.apply_told = upto;
            self.out.push_back(Output::Apply { upto });
        }
    }

    /// Cumulative, when something advanced; with credit in the same frame. Everything below the log's end was
    /// verified in this session: it was cut to the fork point before, and each batch since was checked.
    fn settle_report(&mut self) {
        let Some(source) = &self.following.source else { return };
        if !source.receiving {
            return;
        }
        let (session, kind) = (source.session, source.kind);
        let flushed = self.tail.flushed();
        let written = self.written(flushed);
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
            if kind == SourceKind::Stream {
                self.answer(session, Frame::Report { term, watermarks, credit, failing: false });
            }
            self.out.push_back(Output::Receive { session, at: self.tail.next_batch(), credit });
        }
    }

    /// What a killed process would find again: in shared memory, in segments that are in place (their salts are
    /// needed to take it over). It never falls within a session.
    fn written(&self, flushed: Position) -> Position {
        let end = self.tail.end();
        let outlives = self.config.arena_outlives || bug(Bug::WrittenInOwnMemory);
        if outlives && end.lsn <= self.writable_end() {
            return end;
        }
        let told = self.following.reported.map_or(flushed, |(told, _)| told.written);
        if told.lsn > flushed.lsn { told } else { flushed }
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
}

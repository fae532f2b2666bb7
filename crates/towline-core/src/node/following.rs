//! The receiving side: sessions that dialled this node, from hello to their end. It follows at most one of them.
//!
//! What it asks of terms is answered in `adopting`, what it sends of the log is taken in `receiving`.

use std::collections::VecDeque;

use super::adopting::FetchService;
use super::receiving::{Offer, Source, SourceKind};
use super::shipping::{SILENT_HEARTBEATS, VERSIONS};
use super::{Event, Node, Output, note};
use crate::bugs::{Bug, bug};
use crate::format::{Frame, Hello, HelloRole, LogEnd, RefusalCode, Welcome};
use crate::log::Recovered;
use crate::types::{Geometry, LogId, Lsn, Position, SessionId, Span, StandbyWatermarks, Term, TermHistory};

/// Batch ends remembered while they wait to count as applied; of more, the oldest are skipped.
const MAX_TO_PASS: usize = 1024;
/// Sessions of other nodes at once: the leader, its successor, and strays.
const MAX_GUESTS: usize = 8;

/// What this node knows as a follower.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) guests: Vec<Guest>,
    pub(super) source: Option<Source>,
    /// One per session at most.
    pub(super) fetches: Vec<FetchService>,
    /// The log is to be cut to this span's start: its bytes are nobody's any more, whatever session said so.
    pub(super) condemned: Option<Span>,
    /// The cut is on its way.
    pub(super) truncating: bool,
    /// Where this directory's log has to reach before it is one of a set of so many standbys.
    pub(super) joining: Option<(Lsn, u16)>,
    /// The first upstream's log is being adopted.
    adopting_log: bool,
    /// Writes may reach to here: the meta block calls the span unfinished.
    permitted: Lsn,
    leader_flushed: Lsn,
    /// What a leader claimed to have flushed of its own terms: its own disk must have that when it comes back.
    claimed: Lsn,
    pub(super) leader_safe: Lsn,
    pub(super) applied: Position,
    pub(super) apply_told: Lsn,
    /// Ends of batches that a node without an application will count as applied.
    to_pass: VecDeque<Position>,
    pub(super) reported: Option<(StandbyWatermarks, Lsn)>,
}

/// A session that dialled this node.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) session: SessionId,
    pub(super) hello: Option<Hello>,
    /// It asked for a term; answered once everything received is flushed.
    pub(super) asks: Option<(Term, LogEnd)>,
    pub(super) heard_ns: u64,
    spoke_ns: u64,
    /// It has been told to go: what still comes is not heard.
    closing: bool,
}

impl Following {
    pub(super) fn new(recovered: &Recovered) -> Following {
        let end = recovered.end;
        Following {
            guests: Vec::new(),
            source: None,
            fetches: Vec::new(),
            condemned: None,
            truncating: false,
            joining: None,
            adopting_log: false,
            permitted: end.lsn,
            leader_flushed: recovered.leader_flushed,
            claimed: recovered.leader_claimed,
            leader_safe: Lsn(0),
            applied: Position::default(),
            apply_told: Lsn(0),
            to_pass: VecDeque::from([end]),
            reported: None,
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

    pub(super) fn reset_applied(&mut self, to: Position) {
        self.applied = to;
        self.apply_told = to.lsn;
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

    /// A batch ends here.
    pub(super) fn passed(&mut self, end: Position) {
        if self.to_pass.len() >= MAX_TO_PASS {
            self.to_pass.pop_front();
        }
        self.to_pass.push_back(end);
    }

    /// Without an application, what one might apply is applied.
    pub(super) fn apply_nowhere(&mut self, upto: Lsn) {
        while let Some(position) = self.to_pass.pop_front_if(|position| position.lsn <= upto) {
            self.applied = position;
        }
    }

    /// The log was cut: what was permitted and claimed beyond it is void.
    pub(super) fn was_cut(&mut self, end: Lsn, history: &TermHistory) {
        self.starts_at(end);
        self.to_pass.clear();
        self.void_words_beyond(end, history);
    }

    /// The leader of this term says that it has flushed the log of this history up to there.
    pub(super) fn leader_says(&mut self, flushed: Lsn, term: Term, history: &TermHistory) {
        self.leader_flushed = self.leader_flushed.max(flushed);
        self.claimed = self.claimed.max(history.claimed_by(term.node, flushed));
    }

    /// From here on the log is another than the one that leaders have spoken of, also where nothing of it is here:
    /// what they had flushed, or made safe, are not the bytes that will stand there. What is left of a claim are its
    /// node's own bytes below, by the history in which it was made.
    pub(super) fn void_words_beyond(&mut self, fork: Lsn, history: &TermHistory) {
        self.leader_flushed = self.leader_flushed.min(fork);
        if self.claimed > fork {
            let claimant = history.owner(Lsn(self.claimed.0 - 1)).filter(|_| !bug(Bug::ClaimChangesHands));
            self.claimed = claimant.map_or(fork, |term| history.claimed_by(term.node, fork));
        }
        self.leader_safe = self.leader_safe.min(fork);
    }

    /// Words count as far as both histories have one owner; of what `own` has pruned it knows none.
    pub(super) fn history_becomes(&mut self, own: &TermHistory, new: &TermHistory) {
        let Some(first) = own.entries().first() else { return };
        let mut new = new.clone();
        new.prune_below(first.start);
        let far = Lsn(u64::MAX);
        self.void_words_beyond(own.fork_point(far, &new, far), own);
    }

    /// Nothing beyond is written or permitted.
    pub(super) fn starts_at(&mut self, end: Lsn) {
        self.permitted = end;
    }

    pub(super) fn hears(&self, session: SessionId) -> bool {
        self.guests.iter().any(|guest| guest.session == session && !guest.closing)
    }

    /// A guest that has not been told to go.
    pub(super) fn guest(&mut self, session: SessionId) -> Option<&mut Guest> {
        self.guests.iter_mut().find(|guest| guest.session == session && !guest.closing)
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
        self.following.guests.push(Guest {
            session,
            hello: None,
            asks: None,
            heard_ns: now,
            spoke_ns: now,
            closing: false,
        });
    }

    pub(super) fn tick_following(&mut self) {
        let (now, heartbeat, term) = (self.now_ns, self.config.heartbeat_ns, self.meta.get().adopted);
        let mut silent = Vec::new();
        for guest in self.following.guests.iter_mut().filter(|guest| !guest.closing) {
            if now.saturating_sub(guest.heard_ns) > SILENT_HEARTBEATS * heartbeat {
                silent.push(guest.session);
            } else if now.saturating_sub(guest.spoke_ns) >= heartbeat && guest.hello.is_some() {
                guest.spoke_ns = now;
                self.out
                    .push_back(Output::Frame { session: guest.session, frame: Frame::Heartbeat { term } });
            }
        }
        // Every turn comes by here: nothing is allocated unless a session ends.
        for session in silent {
            self.close(
                session,
                &format!("the other side has been silent for {SILENT_HEARTBEATS} heartbeats"),
            );
        }
    }

    pub(super) fn following_deadline_ns(&self) -> Option<u64> {
        let heartbeat = self.config.heartbeat_ns;
        let open = self.following.guests.iter().filter(|guest| !guest.closing);
        open.map(|guest| match guest.hello {
            Some(_) => guest.spoke_ns + heartbeat,
            None => guest.heard_ns + SILENT_HEARTBEATS * heartbeat + 1,
        })
        .min()
    }

    pub(super) fn answer(&mut self, session: SessionId, frame: Frame) {
        let now = self.now_ns;
        if let Some(guest) = self.following.guest(session) {
            guest.spoke_ns = now;
        }
        self.out.push_back(Output::Frame { session, frame });
    }

    pub(super) fn refuse(&mut self, session: SessionId, code: RefusalCode, message: String) {
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
            Frame::Stream { term, history, log_start, log_end, set_size } => {
                self.handle_stream(session, Offer { term, history, log_start, log_end, set_size });
            }
            Frame::Segment { seq, salt, .. } => self.handle_segment(session, seq, salt),
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
        if self.config.log.is_unset() {
            // What the first upstream names becomes this directory's log: nothing that no log can be.
            if hello.log.is_unset() {
                return self.refuse(session, RefusalCode::OtherLog, "an upstream without a log".to_owned());
            }
            // The one that this node was given itself is not questioned: simulated disks have small segments.
            if hello.geometry != self.config.geometry
                && let Err(impossible) = hello.geometry.check()
            {
                return self.refuse(session, RefusalCode::OtherGeometry, impossible.to_string());
            }
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
            // One log only: a second upstream is welcomed, or refused, when the first one's is in place.
            if !self.following.adopting_log {
                self.following.adopting_log = true;
                self.out.push_back(Output::AdoptLog { log, geometry });
            }
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
        self.following.starts_at(start.lsn);
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
            leader_flushed: self.following.claimed,
            // A relay's own standbys may apply: it wants to know as soon as they do.
            applies: self.config.applies || !self.peers.is_empty(),
            // Those behind it may need it, whatever it does itself.
            applies_safe: self.config.apply_safe || !self.peers.is_empty(),
            set_size: meta.set_size,
        };
        self.answer(session, Frame::Welcome(welcome));
    }

    pub(super) fn following_session_ended(&mut self, session: SessionId) {
        self.following.guests.retain(|guest| guest.session != session);
        self.end_source_of(session);
        self.following.fetches.retain(|fetch| fetch.session != session);
    }

    /// A session that is gone, or told to go, is no source of log bytes. (A restarted primary's fetch ends with
    /// its session, in `restart`.)
    pub(super) fn end_source_of(&mut self, session: SessionId) {
        if self
            .following
            .source
            .as_ref()
            .is_some_and(|source| source.session == session && source.kind == SourceKind::Stream)
        {
            self.following.end_source();
            self.say(Event::Note {
                text: "its primary is gone: following whichever connects next".to_owned(),
            });
        }
    }

    /// Marks a guest that is told to go.
    pub(super) fn guest_closes(&mut self, session: SessionId) {
        if let Some(guest) = self.following.guest(session) {
            guest.closing = true;
        }
    }

    pub(super) fn close_guests(&mut self, why: &str) {
        let open: Vec<SessionId> = self.following.guests.iter().map(|guest| guest.session).collect();
        open.into_iter().for_each(|session| self.close(session, why));
    }
}

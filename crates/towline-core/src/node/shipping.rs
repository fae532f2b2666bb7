//! The sending side: sessions with the standbys that this node dials.
//!
//! ```text
//!   down → dialing → greeted → known → (asked) → offered → shipping
//! ```
//! Each standby has one cursor. Bytes behind the cursor come from the arena while they are there and from segment
//! files when they are not; the cursor passes from one to the other without a gap or a duplicate.

use super::{Event, Input, Node, Output, PeerStatus, Role, note};
use crate::bugs::{Bug, bug};
use crate::format::{Frame, Hello, HelloRole, LogEnd, RefusalCode, Welcome};
use crate::replication::progress::{Report, ShipMode};
use crate::replication::{Progress, ReportError};
use crate::types::{Lsn, NodeId, PeerIndex, SessionId, Span, StandbyWatermarks, Term, TermHistory};

/// Protocol versions spoken here, oldest and newest.
pub(super) const VERSIONS: (u16, u16) = (1, 1);
/// A session ends after this many heartbeats of silence.
pub(super) const SILENT_HEARTBEATS: u64 = 4;

/// News of the leader's progress waits this long for company, unless somebody waits for it.
pub(super) const PROGRESS_DELAY_NS: u64 = 1_000_000;

/// One configured standby.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) index: PeerIndex,
    pub(super) name: String,
    pub(super) link: Link,
    pub(super) attempts: u32,
    pub(super) node: Option<NodeId>,
    pub(super) applies: bool,
    /// It applies only what is safe.
    pub(super) applies_safe: bool,
    /// Of its welcome.
    pub(super) set_size: u16,
    pub(super) progress: Progress,
    pub(super) flight: Option<Span>,
    pub(super) told: (Lsn, Lsn, Lsn),
    /// A heartbeat is due: one that does not apply hears how far the leader is, too.
    pub(super) progress_due: bool,
    /// One past the last segment that it was told of in this session.
    pub(super) announced: u64,
    /// Since when there is news that it has not been told.
    pub(super) news_ns: Option<u64>,
    pub(super) heard_ns: u64,
    pub(super) spoke_ns: u64,
    /// It has been told to resync, and has not come back with a log that goes on from this one.
    pub(super) must_resync: bool,
    /// Why there is no session, as last heard; empty once it is shipped to.
    pub(super) why_down: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Down {
        retry_ns: u64,
    },
    Dialing,
    Greeted(SessionId),
    Known(SessionId),
    Offered(SessionId),
    Shipping(SessionId),
    /// Told to go: nothing more is said or heard until it is gone.
    Closing {
        session: SessionId,
        shipped: bool,
    },
}

impl Peer {
    pub(super) fn new(index: PeerIndex, name: String) -> Peer {
        Peer {
            index,
            name,
            link: Link::Down { retry_ns: 0 },
            attempts: 0,
            node: None,
            applies: false,
            applies_safe: false,
            set_size: 0,
            progress: Progress::new(Term::default(), Lsn(0)),
            flight: None,
            told: (Lsn(0), Lsn(0), Lsn(0)),
            progress_due: false,
            announced: 0,
            news_ns: None,
            heard_ns: 0,
            spoke_ns: 0,
            must_resync: false,
            why_down: String::new(),
        }
    }

    fn session(&self) -> Option<SessionId> {
        match self.link {
            Link::Down { .. } | Link::Dialing => None,
            Link::Greeted(session)
            | Link::Known(session)
            | Link::Offered(session)
            | Link::Shipping(session)
            | Link::Closing { session, .. } => Some(session),
        }
    }

    /// What the arena must keep for it: nothing when it reads from segments.
    pub(super) fn arena_floor(&self) -> Option<Lsn> {
        match (self.link, self.progress.mode()) {
            (Link::Shipping(_), ShipMode::Live) => {
                Some(self.flight.map_or(self.progress.sent(), |flight| flight.start))
            }
            _ => None,
        }
    }

    pub(super) fn watermarks(&self) -> StandbyWatermarks {
        *self.progress.watermarks()
    }

    /// `log_start` is where a standby begins that nothing is known of.
    pub(super) fn status(&self, log_start: Lsn, end: Lsn) -> PeerStatus {
        let state = match (self.link, self.progress.mode()) {
            (Link::Shipping(_), ShipMode::Live) => "streaming",
            (Link::Shipping(_), _) => "catching up",
            _ if self.must_resync => "must resync",
            (Link::Down { .. } | Link::Closing { .. }, _) => "down",
            _ => "connecting",
        };
        PeerStatus {
            peer: self.index,
            name: self.name.clone(),
            node: self.node,
            state: state.to_owned(),
            sent: self.progress.sent(),
            watermarks: *self.progress.watermarks(),
            lag_bytes: end.bytes_since(self.progress.flushed_high().max(log_start)),
            excluded: self.progress.is_excluded(),
            why: self.why_down.clone(),
        }
    }
}

impl Node {
    fn peer_of(&self, session: SessionId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.session() == Some(session))
    }

    /// A leader ships, a restarted primary asks, and a standby with an upstream relays to its own standbys.
    fn dials(&self) -> bool {
        if self.next_standbys.is_some() {
            return false;
        }
        match self.role {
            Role::Restarting(_) | Role::Leading(_) => !self.stopping,
            Role::Standby => {
                (self.promotion.is_some() || self.relays && self.following.has_source()) && !self.stopping
            }
            Role::Ended { .. } => false,
        }
    }

    pub(super) fn tick_peers(&mut self) {
        let dials = self.dials();
        let (now, heartbeat, term) = (self.now_ns, self.config.heartbeat_ns, self.meta.get().adopted);
        let mut silent = Vec::new();
        for peer in &mut self.peers {
            match peer.link {
                Link::Down { retry_ns } if dials && retry_ns <= now => {
                    peer.link = Link::Dialing;
                    self.out.push_back(Output::Dial { peer: peer.index });
                }
                Link::Down { .. } | Link::Dialing | Link::Closing { .. } => {}
                Link::Greeted(session)
                | Link::Known(session)
                | Link::Offered(session)
                | Link::Shipping(session) => {
                    if now.saturating_sub(peer.heard_ns) > SILENT_HEARTBEATS * heartbeat {
                        let name = &peer.name;
                        let why =
                            format!("standby '{name}' has been silent for {SILENT_HEARTBEATS} heartbeats");
                        silent.push((session, why));
                    } else if now.saturating_sub(peer.spoke_ns) >= heartbeat {
                        peer.spoke_ns = now;
                        peer.progress_due = true;
                        self.out.push_back(Output::Frame { session, frame: Frame::Heartbeat { term } });
                    }
                }
            }
        }
        silent.into_iter().for_each(|(session, why)| self.close(session, &why));
    }

    pub(super) fn peers_deadline_ns(&self) -> Option<u64> {
        let dials = self.dials();
        self.peers
            .iter()
            .filter_map(|peer| match peer.link {
                Link::Down { retry_ns } => dials.then_some(retry_ns),
                Link::Dialing | Link::Closing { .. } => None,
                _ => {
                    let heartbeat_ns = peer.spoke_ns + self.config.heartbeat_ns;
                    let news_ns =
                        peer.news_ns.filter(|_| peer.applies).map(|since_ns| since_ns + PROGRESS_DELAY_NS);
                    Some(news_ns.map_or(heartbeat_ns, |news_ns| news_ns.min(heartbeat_ns)))
                }
            })
            .min()
    }

    pub(super) fn send_frame(&mut self, session: SessionId, frame: Frame) {
        if let Some(index) = self.peer_of(session) {
            self.peers[index].spoke_ns = self.now_ns;
        }
        self.out.push_back(Output::Frame { session, frame });
    }

    pub(super) fn handle_connected(&mut self, peer: PeerIndex, session: SessionId, nonce: u64) {
        let now = self.now_ns;
        let Some(peer) = self.peers.get_mut(usize::from(peer.0)) else { return };
        peer.link = Link::Greeted(session);
        (peer.heard_ns, peer.spoke_ns, peer.flight) = (now, now, None);
        let hello = Hello {
            versions: VERSIONS,
            role: HelloRole::Upstream,
            shard: self.config.shard,
            log: self.config.log,
            geometry: self.config.geometry,
            node: self.config.node,
            name: self.config.name.clone(),
            nonce,
            adopted: self.meta.get().adopted,
            end: self.log_end(),
        };
        self.out.push_back(Output::Frame { session, frame: Frame::Hello(hello) });
        if self.next_standbys.is_some() {
            self.close(session, "the standbys change");
        }
    }

    pub(super) fn handle_dial_failed(&mut self, peer: PeerIndex, error: &str, jitter: u64) {
        let index = usize::from(peer.0);
        self.back_off(index, jitter);
        let Some(known) = self.peers.get_mut(index) else { return };
        if known.why_down != error {
            known.why_down = error.to_owned();
            self.say(Event::StandbyUnreachable { peer, why: error.to_owned() });
        }
    }

    pub(super) fn handle_disconnected(&mut self, session: SessionId, error: &str, jitter: u64) {
        self.fetch_session_ended(session);
        self.following_session_ended(session);
        let Some(index) = self.peer_of(session) else { return };
        let peer = &mut self.peers[index];
        let shipped = matches!(peer.link, Link::Shipping(_) | Link::Closing { shipped: true, .. });
        let place = peer.index;
        peer.progress.end_session(session);
        peer.flight = None;
        peer.why_down = error.to_owned();
        if shipped {
            self.gate.set_live(place, false);
            self.say(Event::StandbyLost { peer: place, why: error.to_owned() });
        }
        self.back_off(index, jitter);
    }

    /// Exponential backoff with full jitter: after a storm the dials of many nodes are spread, not in step.
    fn back_off(&mut self, index: usize, jitter: u64) {
        let (first, last) = self.config.backoff_ns;
        let now = self.now_ns;
        let Some(peer) = self.peers.get_mut(index) else { return };
        let ceiling = first.saturating_mul(1 << peer.attempts.min(20)).clamp(1, last.max(1));
        peer.attempts += 1;
        peer.link = Link::Down { retry_ns: now + first / 4 + jitter % ceiling };
    }

    pub(super) fn handle_frame(&mut self, session: SessionId, frame: Frame) {
        if let Some(term) = self.leap(&frame) {
            return self.close(session, &format!("term {term} is too far from any that this node knows"));
        }
        let Some(index) = self.peer_of(session) else {
            self.handle_upstream_frame(session, frame);
            return;
        };
        if matches!(self.peers[index].link, Link::Closing { .. }) {
            return;
        }
        self.peers[index].heard_ns = self.now_ns;
        match frame {
            Frame::Welcome(welcome) => self.handle_welcome(index, session, welcome),
            Frame::Refused { code, message } => self.handle_refused(index, session, code, &message),
            Frame::Adopted { term, previous, .. } => self.handle_adopted(index, session, term, previous),
            Frame::NotAdopted { adopted, end, history } => {
                self.handle_not_adopted(index, session, adopted, end, history)
            }
            Frame::Ready { from, previous_hash } => self.handle_ready(index, session, from, previous_hash),
            Frame::Report { term, watermarks, credit, failing } => {
                self.handle_report(index, session, Report { term, watermarks, credit, failing });
            }
            Frame::Segment { seq, salt, .. } => self.handle_segment(session, seq, salt),
            Frame::FetchEnd { end } => self.handle_fetch_end(session, end),
            Frame::Heartbeat { .. } => {}
            _ => self.close(session, "an unexpected frame from a standby"),
        }
    }

    /// Whether an input is looked at at all: what comes on a session that this node has told to go is not. The driver
    /// hands it over all the same until it says that the session is gone.
    pub fn hears(&self, input: &Input) -> bool {
        let (Input::Frame { session, .. } | Input::Received { session, .. }) = input else { return true };
        match self.peer_of(*session) {
            Some(index) => !matches!(self.peers[index].link, Link::Closing { .. }),
            None => self.following.hears(*session),
        }
    }

    /// Tells a session to go. It is not heard any more; its end comes as `Disconnected`.
    pub(super) fn close(&mut self, session: SessionId, why: &str) {
        if let Some(index) = self.peer_of(session) {
            let shipped = match self.peers[index].link {
                Link::Closing { .. } => return,
                link => matches!(link, Link::Shipping(_)),
            };
            self.peers[index].link = Link::Closing { session, shipped };
        } else {
            self.guest_closes(session);
            self.end_source_of(session);
        }
        self.out.push_back(Output::Close { session, why: why.to_owned() });
    }

    fn handle_welcome(&mut self, index: usize, session: SessionId, welcome: Welcome) {
        if !(VERSIONS.0..=VERSIONS.1).contains(&welcome.version) {
            let why = format!(
                "standby '{}' answered in protocol version {}, and this node speaks {} to {}: use programs of one version",
                self.peers[index].name, welcome.version, VERSIONS.0, VERSIONS.1
            );
            self.out.push_back(note(why.clone()));
            self.close(session, &why);
            return;
        }
        if !welcome.log.is_unset() && welcome.log != self.config.log {
            let why = format!("standby '{}' holds another log ({})", self.peers[index].name, welcome.log);
            self.out.push_back(note(why.clone()));
            self.close(session, &why);
            return;
        }
        if let Err(refused) = self.gate.identify(self.peers[index].index, welcome.node) {
            self.out.push_back(note(refused.to_string()));
            self.close(session, &refused.to_string());
            return;
        }
        let peer = &mut self.peers[index];
        peer.node = Some(welcome.node);
        peer.applies = welcome.applies;
        peer.applies_safe = welcome.applies_safe;
        peer.set_size = welcome.set_size;
        peer.link = Link::Known(session);
        self.notice_loss(index, &welcome);
        if !self.may_go_on_after(&welcome) {
            return;
        }
        let own = self.meta.get().adopted;
        match self.role {
            Role::Restarting(_) => self.ask(session),
            Role::Standby if self.promotion.is_some() => {
                self.heard_of_peer(index, welcome.adopted, welcome.end)
            }
            // Its dial was under way when this node stepped down.
            _ if !self.ships() => self.close(session, NOT_SHIPPING),
            _ if welcome.adopted > own && !bug(Bug::GoesOnDeposed) => {
                self.step_down(&format!("standby has adopted term {}, above {own}", welcome.adopted));
                self.close(session, "the standby has adopted a higher term");
            }
            _ if welcome.adopted < own => {
                let frame = Frame::Adopt { term: own, end: self.log_end() };
                self.send_frame(session, frame);
            }
            _ => self.offer(index, session),
        }
    }

    pub(super) fn ask_all(&mut self) {
        let known: Vec<SessionId> = self
            .peers
            .iter()
            .filter_map(|peer| if let Link::Known(session) = peer.link { Some(session) } else { None })
            .collect();
        known.into_iter().for_each(|session| self.ask(session));
    }

    fn handle_refused(&mut self, index: usize, session: SessionId, code: RefusalCode, message: &str) {
        let peer = self.peers[index].index;
        let why = message.to_owned();
        let event = match code {
            RefusalCode::Resync => {
                self.peers[index].must_resync = true;
                Event::StandbyMustResync { peer, why }
            }
            _ => Event::StandbyLost { peer, why },
        };
        self.say(event);
        self.close(session, message);
    }

    fn handle_adopted(&mut self, index: usize, session: SessionId, term: Term, previous: Term) {
        let Some(standby) = self.peers[index].node else { return };
        if term != self.meta.get().adopted {
            return;
        }
        let has_followed = self.peers[index].set_size > 0;
        let counts = has_followed || (self.promotion.is_none() && bug(Bug::EmptyCounts));
        self.adopted_while_restarting(standby, term, counts.then_some(previous));
        if !matches!(self.role, Role::Restarting(_)) {
            self.offer(index, session);
        }
    }

    fn handle_not_adopted(
        &mut self,
        index: usize,
        session: SessionId,
        adopted: Term,
        end: LogEnd,
        history: TermHistory,
    ) {
        let own = self.meta.get().adopted;
        match self.role {
            Role::Restarting(_) if self.promotion.is_some() && adopted <= own => {
                self.heard_of_peer(index, adopted, end);
            }
            Role::Restarting(_) => self.not_adopted_while_restarting(session, adopted, end, history),
            Role::Leading(_) if adopted > own => {
                self.step_down(&format!("a standby has adopted term {adopted}, above {own}"));
            }
            // A relay is behind the standby it feeds: it tries again when it has caught up.
            _ => self.close(session, "the standby's log is ahead of this node's"),
        }
    }

    /// Leadership began: every greeted standby is asked to adopt it or offered the log.
    pub(super) fn begin_shipping(&mut self, term: Term, start: Lsn) {
        let frame = Frame::Adopt { term, end: self.log_end() };
        for index in 0..self.peers.len() {
            self.peers[index].progress.enter_term(term, start);
            if let Link::Known(session) = self.peers[index].link {
                // One that adopted before is simply told again, and answers that it has.
                self.send_frame(session, frame.clone());
            }
        }
    }

    fn offer(&mut self, index: usize, session: SessionId) {
        if !self.ships() {
            return self.close(session, NOT_SHIPPING);
        }
        let (term, start) = match &self.role {
            Role::Leading(leading) => (leading.term, leading.start),
            // A relay's standby counts for nobody.
            _ => (self.meta.get().adopted, Lsn(0)),
        };
        let Some(node) = self.peers[index].node else { return };
        if !matches!(self.peers[index].link, Link::Known(_)) {
            return;
        }
        let leads = self.is_leading();
        let set_size = if leads { self.peers.len() as u16 } else { 0 };
        let peer = &mut self.peers[index];
        if !leads {
            peer.progress.enter_term(term, start);
        }
        peer.progress.begin_session(session, node);
        peer.link = Link::Offered(session);
        let frame = Frame::Stream {
            term,
            history: self.meta.get().history.clone(),
            log_start: self.segments.log_start(),
            log_end: self.tail.end().lsn,
            set_size,
        };
        self.send_frame(session, frame);
    }

    fn handle_ready(&mut self, index: usize, session: SessionId, from: Lsn, previous_hash: u64) {
        if self.peers[index].link != Link::Offered(session) {
            return;
        }
        let peer = self.peers[index].index;
        // A log that ends with a segment goes on behind the next one's header.
        let place = self.config.geometry.batch_place(from);
        if place < self.segments.log_start() || place > self.tail.next_batch() || !from.is_block_start() {
            let message = format!(
                "the standby is at {from}, this log spans {} to {}: empty its directory and start it again",
                self.segments.log_start(),
                self.tail.end().lsn
            );
            return self.tell_to_resync(index, session, message);
        }
        // The last batch's hash stands for all before it. Who is farther behind checks the first batch that it is sent.
        let (at_end, own_hash) = (place == self.tail.next_batch(), self.tail.previous_hash());
        if at_end && own_hash != previous_hash && (own_hash != 0 || self.is_leading()) {
            let message = format!(
                "the standby's log ends at {from} as this one does, with another last batch: the logs have diverged; empty \
                 its directory and start it again"
            );
            return self.tell_to_resync(index, session, message);
        }
        if let Err(ReportError::LostDurableData { reported, now }) = self.peers[index].progress.ready(from) {
            self.exclude(index, reported, now);
            self.peers[index].progress.restart_excluded(from);
        }
        if at_end {
            self.peers[index].progress.verify();
        }
        self.peers[index].link = Link::Shipping(session);
        self.peers[index].why_down.clear();
        self.peers[index].must_resync = false;
        self.peers[index].attempts = 0;
        self.peers[index].told = (Lsn(0), Lsn(0), Lsn(0));
        let node = self.peers[index].node.unwrap_or_default();
        self.register_standby(index, from);
        let next = self.segments.stored_from(from, self.tail.end().lsn, 0).start;
        self.peers[index].announced = 0;
        self.announce_segments(index, session, next);
        self.say(Event::StandbyConnected { peer, node, from });
    }

    /// A segment's salt goes ahead of its first batch; of those that lie far ahead a standby hears later.
    pub(super) fn announce_segments(&mut self, index: usize, session: SessionId, at: Lsn) {
        let news = self.segments.to_announce(at, &mut self.peers[index].announced);
        news.into_iter().for_each(|(seq, salt)| self.send_frame(session, Frame::Segment { seq, salt }));
    }

    /// A segment is in place.
    pub(super) fn offer_segment(&mut self, seq: u64, salt: u32) {
        for index in 0..self.peers.len() {
            let Link::Shipping(session) = self.peers[index].link else { continue };
            if seq < self.peers[index].announced {
                // A relay's leader has changed, and with it the salt of what is not filled yet.
                self.send_frame(session, Frame::Segment { seq, salt });
            }
            let at = self.peers[index].progress.sent();
            self.announce_segments(index, session, at);
        }
    }

    pub(super) fn handle_sent(&mut self, session: SessionId, span: Span) {
        match self.peer_of(session) {
            Some(index) if self.peers[index].flight == Some(span) => self.peers[index].flight = None,
            Some(_) => {}
            None => self.fetch_sent(session, span),
        }
    }

    pub(super) fn close_peers(&mut self, why: &str) {
        let open: Vec<SessionId> = self.peers.iter().filter_map(Peer::session).collect();
        open.into_iter().for_each(|session| self.close(session, why));
        for index in 0..self.peers.len() {
            self.gate.set_live(self.peers[index].index, false);
        }
    }

    pub(super) fn close_all_sessions(&mut self, why: &str) {
        self.close_peers(why);
        self.close_guests(why);
    }
}

const NOT_SHIPPING: &str = "this node follows another now and ships to nobody";

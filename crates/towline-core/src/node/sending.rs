//! What goes out to each standby that is shipping: log bytes from wherever they are, and how far the leader is.

use super::shipping::{Link, PROGRESS_DELAY_NS, Peer};
use super::{Event, Node, Output, Role, Source};
use crate::bugs::{Bug, bug};
use crate::format::{Frame, RefusalCode};
use crate::replication::progress::ShipMode;
use crate::types::limits::MAX_SEND_BYTES;
use crate::types::{Lsn, SessionId};

impl Node {
    /// Whether its log is one to be offered: a leader's own, or a relay's, which is its leader's. The log of a node that
    /// stepped down is neither, before it has been cut to where the new leader's begins: whoever followed it in the new
    /// term would cut what it has flushed in it.
    pub(super) fn ships(&self) -> bool {
        self.is_leading() || self.relays && self.following.has_source() || bug(Bug::OffersOldLog)
    }

    pub(super) fn settle_shipping(&mut self) {
        for index in 0..self.peers.len() {
            if let Link::Shipping(session) = self.peers[index].link {
                self.maybe_send(index, session);
                self.maybe_tell_progress(index, session);
            }
        }
    }

    fn maybe_send(&mut self, index: usize, session: SessionId) {
        let peer = &self.peers[index];
        if peer.flight.is_some() {
            return;
        }
        let (at, credit, end) = (peer.progress.sent(), peer.progress.credit(), self.tail.end().lsn);
        if self.config.geometry.batch_place(at) < self.segments.log_start() {
            let message =
                format!("the standby is at {at}, and the log starts at {}", self.segments.log_start());
            return self.tell_to_resync(index, session, message);
        }
        let from_arena = at >= self.released;
        let reach = if from_arena { end } else { self.tail.flushed().lsn };
        let room = if bug(Bug::CreditIgnored) { reach } else { reach.min(credit) };
        let span = self.segments.stored_from(at, room, MAX_SEND_BYTES);
        self.set_ship_mode(index, from_arena);
        if span.is_empty() {
            return;
        }
        // A relay receives what its own file is not there for yet: nobody knows that segment's salt from it.
        if self.segments.salt_of(span.start).is_none() && !bug(Bug::ShipsUnannounced) {
            return;
        }
        self.announce_segments(index, session, span.start);
        let source = if from_arena { Source::Arena } else { Source::Segments };
        self.out.push_back(Output::Send { session, span, source });
        let peer = &mut self.peers[index];
        peer.flight = Some(span);
        peer.spoke_ns = self.now_ns;
        // What lies behind a roll is not shipped, but the standby's log goes on behind it.
        peer.progress.record_sent(self.segments.log_end_of(span));
    }

    /// The log no longer has what this standby needs next: said to it, to the operator, and the session ends.
    pub(super) fn tell_to_resync(&mut self, index: usize, session: SessionId, message: String) {
        self.peers[index].must_resync = true;
        self.say(Event::StandbyMustResync { peer: self.peers[index].index, why: message.clone() });
        self.send_frame(session, Frame::Refused { code: RefusalCode::Resync, message: message.clone() });
        self.close(session, &message);
    }

    fn set_ship_mode(&mut self, index: usize, from_arena: bool) {
        let peer = &mut self.peers[index];
        let place = peer.index;
        match (peer.progress.mode(), from_arena) {
            (ShipMode::CatchUp | ShipMode::Idle, true) => {
                peer.progress.set_mode(ShipMode::Live);
                // Once streaming, a standby stays a candidate until its session ends, as in PostgreSQL.
                self.gate.set_live(place, true);
                self.say(Event::StandbyStreaming { peer: place });
            }
            (ShipMode::Live, false) => {
                peer.progress.set_mode(ShipMode::CatchUp);
                self.say(Event::StandbyCatchingUp { peer: place });
            }
            _ => {}
        }
    }

    /// Every standby hears at once how far it may apply while somebody waits for that: what the leader has flushed, or
    /// what is safe where it applies no more. That one has no application, and counts as applied what another might
    /// apply, makes no difference to who waits. Else those that apply hear within a millisecond, because the next batch
    /// carries the flushed watermark anyway and a frame for every flush would cost as much as the batch; others with
    /// the heartbeat.
    fn maybe_tell_progress(&mut self, index: usize, session: SessionId) {
        let (flushed, safe) = match self.role {
            Role::Leading(_) => (self.tail.flushed().lsn, self.safe_flushed()),
            _ => (self.following.leader_flushed(), self.following.leader_safe()),
        };
        let log_start = self.segments.log_start();
        let now = (flushed, safe, log_start);
        let waits = self.gate.awaits_applied();
        let peer = &mut self.peers[index];
        if peer.told == now {
            return;
        }
        let may_apply_more = if peer.applies_safe {
            flushed.min(safe) > peer.told.0.min(peer.told.1)
        } else {
            flushed > peer.told.0
        };
        let wanted = waits && may_apply_more;
        let since_ns = *peer.news_ns.get_or_insert(self.now_ns);
        let waited = peer.applies && self.now_ns.saturating_sub(since_ns) >= PROGRESS_DELAY_NS;
        if wanted || waited || peer.progress_due || peer.told.2 != log_start {
            peer.told = now;
            peer.progress_due = false;
            peer.news_ns = None;
            self.send_frame(session, Frame::Progress { flushed, safe, log_start });
        }
    }

    /// What live standbys still need of the arena.
    pub(super) fn ship_floor(&self) -> Option<Lsn> {
        self.peers.iter().filter_map(Peer::arena_floor).min()
    }
}

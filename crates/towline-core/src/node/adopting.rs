//! What other nodes ask of this one before they lead: to adopt a term, and for a tail that they lack.

use super::meta_keeper::AfterMeta;
use super::{Node, Output, Source as Bytes};
use crate::bugs::{Bug, bug};
use crate::format::{Frame, LogEnd, RefusalCode};
use crate::replication::single_leader::may_adopt;
use crate::types::limits::{MAX_SEND_BYTES, MAX_TERM_LEAP};
use crate::types::{Lsn, SessionId, Span, Term};

/// A tail that a restarted primary asked for.
#[derive(Debug)]
pub(super) struct FetchService {
    pub(super) session: SessionId,
    at: Lsn,
    until: Lsn,
    flight: Option<Span>,
    /// One past the last segment that it was told of.
    announced: u64,
}

impl Node {
    /// A term of this frame that nobody can have reached by counting from what this node knows.
    pub(super) fn leap(&self, frame: &Frame) -> Option<Term> {
        let farthest = self.meta.get().adopted.number.saturating_add(MAX_TERM_LEAP);
        let (first, second) = match frame {
            Frame::Hello(hello) => (hello.adopted, hello.end.last_term),
            Frame::Welcome(welcome) => (welcome.adopted, welcome.end.last_term),
            Frame::Adopt { term, end } => (*term, end.last_term),
            Frame::Adopted { term, end, .. } => (*term, end.last_term),
            Frame::NotAdopted { adopted, end, .. } => (*adopted, end.last_term),
            Frame::Stream { term, .. } | Frame::Report { term, .. } | Frame::Heartbeat { term } => {
                (*term, *term)
            }
            _ => return None,
        };
        Some(first.max(second)).filter(|term| term.number > farthest)
    }

    /// Rule 1. What is refused at once needs no flush; what may be adopted is compared again when everything
    /// received is flushed, because bytes in flight make this node's own log longer.
    pub(super) fn handle_adopt(&mut self, session: SessionId, term: Term, end: LogEnd) {
        let adopted = self.meta.get().adopted;
        if term == adopted {
            // Asked again: what it had adopted before is no longer known, and proves nothing. The adoption itself
            // may still be on its way to the meta block.
            let again = |after: &AfterMeta| matches!(after, AfterMeta::SayAdopted { session: to, .. } if *to == session);
            if !self.meta.awaits(again) {
                self.meta.then(AfterMeta::SayAdopted { session, term, previous: Term::default() });
            }
            return;
        }
        if !may_adopt(adopted, self.log_end(), term, end) {
            return self.answer_not_adopted(session);
        }
        // A leader's writes in flight decide, too: where they will refuse the term, nobody steps down for it.
        let is_refused_later = self.is_leading()
            && !may_adopt(adopted, self.log_reach(), term, end)
            && !bug(Bug::StepsDownInVain);
        if !is_refused_later {
            self.step_down(&format!("term {term} is asked for by a node whose log is not behind"));
            if let Some(source) = self.following.source.take() {
                self.following.reported = None;
                if source.session != session {
                    self.close(source.session, "another node asks for a higher term");
                }
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

    /// A leader that will refuse says so as soon as its flushed end is past the asker's.
    fn settle_refusals(&mut self) {
        let (adopted, own) = (self.meta.get().adopted, self.log_end());
        let refused = |asks: &mut (Term, LogEnd)| !may_adopt(adopted, own, asks.0, asks.1);
        let guests = self.following.guests.iter_mut();
        let sessions: Vec<SessionId> =
            guests.filter_map(|guest| guest.asks.take_if(refused).map(|_| guest.session)).collect();
        sessions.into_iter().for_each(|session| self.answer_not_adopted(session));
    }

    pub(super) fn settle_adoptions(&mut self) {
        if self.is_leading() {
            return self.settle_refusals();
        }
        // An end that is about to be cut is no end to compare.
        let is_flushed = self.tail.is_flushed() || bug(Bug::AdoptsUnflushed);
        if !is_flushed || self.following.condemned.is_some() {
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
                // What streams in an older term has ended, to and from this node.
                if let Some(source) = self.following.source.take() {
                    self.following.reported = None;
                    self.close(source.session, "a higher term was adopted");
                }
                self.close_peers("a higher term was adopted");
                self.meta.change(|meta| meta.adopted = term);
                if bug(Bug::AdoptionNotDurable) {
                    self.say_adopted(session, term, adopted);
                } else {
                    self.meta.then(AfterMeta::SayAdopted { session, term, previous: adopted });
                }
            } else {
                self.answer_not_adopted(session);
            }
        }
    }

    /// Durable before it is said.
    pub(super) fn say_adopted(&mut self, session: SessionId, term: Term, previous: Term) {
        if term != self.meta.get().adopted {
            return self.answer_not_adopted(session);
        }
        let end = self.log_end();
        self.answer(session, Frame::Adopted { term, previous, end });
    }

    /// A restarted primary lacks a tail that this node has flushed: it gets a bounded piece, and asks again.
    pub(super) fn handle_fetch(&mut self, session: SessionId, from: Lsn) {
        let flushed = self.own_flushed();
        let is_here = self.config.geometry.batch_place(from) >= self.segments.log_start() && from <= flushed;
        if !is_here || !from.is_block_start() {
            return self.refuse(session, RefusalCode::Resync, format!("nothing to fetch at {from}"));
        }
        self.following.fetches.retain(|fetch| fetch.session != session);
        let fetch = FetchService { session, at: from, until: flushed, flight: None, announced: 0 };
        self.following.fetches.push(fetch);
    }

    /// Two that were restarted may lack the same tail: each is served, as its session takes it.
    pub(super) fn settle_fetch(&mut self) {
        for index in (0..self.following.fetches.len()).rev() {
            let fetch = &mut self.following.fetches[index];
            if fetch.flight.is_some() {
                continue;
            }
            let session = fetch.session;
            let span = self.segments.stored_from(fetch.at, fetch.until, MAX_SEND_BYTES);
            if span.is_empty() {
                let end = self.following.fetches.remove(index).until;
                self.answer(session, Frame::FetchEnd { end });
                continue;
            }
            fetch.flight = Some(span);
            let news = self.segments.to_announce(span.start, &mut fetch.announced);
            news.into_iter().for_each(|(seq, salt)| self.answer(session, Frame::Segment { seq, salt }));
            self.out.push_back(Output::Send { session, span, source: Bytes::Segments });
        }
    }

    pub(super) fn fetch_sent(&mut self, session: SessionId, span: Span) {
        let mut fetches = self.following.fetches.iter_mut();
        if let Some(fetch) = fetches.find(|fetch| fetch.session == session && fetch.flight == Some(span)) {
            fetch.flight = None;
            fetch.at = self.segments.log_end_of(span);
        }
    }
}

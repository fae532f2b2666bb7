//! What a node asks for, carried out; and what it must never ask for.

use towline_core::format::{BatchKind, Frame};
use towline_core::node::{Event, FreezeReason, Input, Output, Source, StartRole};
use towline_core::types::limits::{BATCH_HEADER_BYTES, BLOCK_BYTES};
use towline_core::types::{Lsn, Meta, Position, Span, Term};

use super::{Host, Message, Wish};
use crate::disk::PendingWrite;
use crate::env::{Env, promise};
use crate::marks::sometimes;

impl Host {
    pub(super) fn carry_out(&mut self, output: Output, env: &mut Env) {
        match output {
            Output::OpenBatch { start, limit, preamble } => {
                promise!(env, start.plus(BLOCK_BYTES) <= limit, "an open batch has no room for its preamble");
                self.open_at(start, limit, &preamble);
            }
            Output::AppendRule { version, rule } => self.append_rule(version, rule),
            Output::PutHeader { header } => {
                sometimes!(env.marks, Roll, header.kind == BatchKind::Roll);
                let Some(salt) = self.salt_at(header.start) else {
                    return env.breaks(format!("a batch at {}, whose segment is not in place", header.start));
                };
                let mut block = vec![0; BLOCK_BYTES as usize];
                if header.body_bytes > 0 {
                    self.arena.read(header.start, &mut block);
                }
                block[..BATCH_HEADER_BYTES as usize].copy_from_slice(&header.encode(salt));
                self.arena.put(header.start, &block);
                self.batch_stands(&header);
            }
            Output::Write { span, epoch } => self.write(span, epoch, env),
            Output::PrepareSegment { seq, salt } => self.ask_for_segment(seq, salt),
            Output::Recycle { below } => {
                let durable = self.disk.meta.log_start >= below;
                promise!(env, durable, "a segment goes before the meta block says so durably");
                self.ask_to_recycle(below);
            }
            Output::WriteMeta { meta } => self.write_meta(meta, env),
            Output::Truncate { to, until } => self.truncate(to, until, env),
            Output::Freeze { why } => {
                sometimes!(env.marks, Full, matches!(why, FreezeReason::Full(_)));
                self.freeze();
            }
            Output::Release { below } => {
                promise!(env, below <= self.flushed(), "the arena gives back {below}, which is not flushed");
                let from = Lsn(below.0.saturating_sub(2 * self.config.arena_bytes));
                self.arena.zero(Span::new(from, below));
            }
            Output::AdoptLog { log, geometry } => {
                (self.disk.log, self.config.log) = (log, log);
                self.inbox.push_back(Input::LogAdopted { log, geometry });
            }
            Output::Dial { peer } => self.wishes.push(Wish::Dial(usize::from(peer.0))),
            Output::Frame { session, frame } => {
                self.look_at(&frame, env);
                self.wishes.push(Wish::Say(session, Message::Frame(frame)));
            }
            Output::Send { session, span, source } => {
                let bytes = match source {
                    Source::Arena => Some(self.arena.get(span)),
                    Source::Segments => self.read_segments(span, env),
                };
                let Some(bytes) = bytes else { return self.wishes.push(Wish::ReadFailed(session)) };
                self.wishes.push(Wish::Say(session, Message::Bytes(span, bytes)));
                self.inbox.push_back(Input::Sent { session, span });
            }
            Output::Close { session, .. } => self.wishes.push(Wish::Close(session)),
            Output::Receive { session, at, credit } => self.receive_from(session, at, credit),
            Output::Ack { ticket, outcome } => self.wishes.push(Wish::Acked(ticket, outcome)),
            Output::Event(event) => self.heard(event, env),
            Output::Apply { upto } => self.may_apply(upto, env),
            Output::ResetApply { from } => {
                sometimes!(env.marks, ApplyReset);
                self.ends.retain(|end, _| *end <= from);
                let before = self.ends.values().next_back().copied();
                self.applied = before.unwrap_or(Position { lsn: from, ..Position::default() });
                self.apply_upto = from;
            }
            Output::RuleChange { result, .. } => match result {
                Ok(_) => sometimes!(env.marks, RuleInForce),
                Err(_) => sometimes!(env.marks, RuleRefused),
            },
            Output::Standbys { names } => self.config.standbys = names,
            Output::Promoted { result: Ok(_), .. } => sometimes!(env.marks, Promoted),
            Output::Promoted { result: Err(_), .. } => {
                sometimes!(env.marks, PromotionRefused);
                self.promotion_refused = true;
            }
            // Nobody asks for a pause here.
            Output::Paused { .. } => {}
            Output::Stopped => self.stopped = true,
        }
    }

    fn write(&mut self, span: Span, epoch: u64, env: &mut Env) {
        let aligned = !span.is_empty() && span.start.is_block_start() && span.end.is_block_start();
        promise!(env, aligned, "a write of {span:?} is not aligned");
        let recorded =
            self.disk.meta.unfinished.iter().any(|known| known.start <= span.start && span.end <= known.end);
        // A leader's term says what may be in flight; a restarted primary fetches what others have flushed.
        let fetches = self.config.role == StartRole::Primary && !self.stepped_down;
        let may = recorded || fetches || self.leads();
        promise!(env, may, "n{} writes {span:?}, which it has not recorded as unfinished", self.name);
        let Some(salt) = self.salt_at(span.start) else {
            return env.breaks(format!("n{} writes {span:?}, whose segment is not in place", self.name));
        };
        let file = (self.config.geometry.segment_of(span.start), salt);
        let bytes = self.arena.get(span);
        self.disk.pending.push(PendingWrite { span, epoch, file, bytes });
    }

    fn write_meta(&mut self, meta: Meta, env: &mut Env) {
        promise!(env, self.disk.pending_meta.is_none(), "two meta writes at one time");
        let old = &self.disk.meta;
        promise!(env, meta.adopted >= old.adopted, "the adopted term fell: {} {}", old.adopted, meta.adopted);
        self.ask_for_meta(meta);
    }

    fn truncate(&mut self, to: Lsn, until: Lsn, env: &mut Env) {
        promise!(env, self.disk.pending.is_empty(), "a write is in flight at a cut");
        let recorded = self.disk.meta.unfinished.iter().any(|span| span.start <= to && until <= span.end);
        promise!(env, recorded, "what is cut is not recorded before");
        sometimes!(env.marks, Demoted);
        // The history that asks for the cut is recorded with it.
        self.cuts.extend(self.disk.meta.history.owner(to).map(|term| (term, to)));
        self.ends.retain(|end, _| *end <= to);
        self.arena.zero(Span::new(to, until));
        self.ask_to_cut(Span::new(to, until));
    }

    fn look_at(&mut self, frame: &Frame, env: &mut Env) {
        let adopted = self.disk.meta.adopted;
        match frame {
            Frame::Report { watermarks, term, .. } => {
                promise!(env, adopted == *term, "reports in {term}, and {adopted} is durable here");
                promise!(env, watermarks.is_ordered(), "a report out of order: {watermarks:?}");
                self.reported = [watermarks.written.lsn, watermarks.flushed.lsn];
                self.reported_of.clone_from(&self.disk.meta.history);
                let marks = [watermarks.written.lsn, watermarks.flushed.lsn, watermarks.applied.lsn];
                let ever = self.ever.entry(*term).or_default();
                ever.iter_mut().zip(marks).for_each(|(ever, now)| *ever = (*ever).max(now));
            }
            Frame::Adopted { term, .. } => {
                promise!(env, adopted == *term, "says that {term} is adopted, and {adopted} is durable here");
            }
            Frame::Stream { term, history, .. } => {
                let is_own = history.last().is_some_and(|last| last.term == *term);
                promise!(env, is_own, "n{} offers a log in {term} that has no such term", self.name);
            }
            Frame::Fetch { .. } => sometimes!(env.marks, Fetch),
            _ => {}
        }
    }

    fn heard(&mut self, event: Event, env: &mut Env) {
        match event {
            Event::Leading { history } => self.leaderships.push_back(history),
            Event::Halted { why } => self.halted = Some(why),
            Event::Poisoned { .. } => {
                sometimes!(env.marks, Poisoned);
                self.poisoned = true;
            }
            Event::SteppedDown { .. } => {
                sometimes!(env.marks, SteppedDown);
                self.stepped_down = true;
            }
            Event::StandbyExcluded { peer, .. } => {
                sometimes!(env.marks, Excluded);
                self.excluded = Some(usize::from(peer.0));
            }
            Event::StandbyMustResync { peer, .. } => {
                sometimes!(env.marks, Resync);
                self.must_resync = Some(usize::from(peer.0));
            }
            Event::Degraded { .. } => sometimes!(env.marks, Degraded),
            Event::Healed => sometimes!(env.marks, Healed),
            _ => {}
        }
    }

    fn may_apply(&mut self, upto: Lsn, env: &mut Env) {
        self.apply_upto = upto;
        promise!(env, upto <= self.flushed(), "may apply {upto}, which is not flushed here");
        let last = Lsn(upto.0.saturating_sub(1));
        let owner: Option<Term> = self.disk.meta.history.owner(last);
        self.wishes.extend(owner.map(|term| Wish::Applies(upto, term)));
    }

    /// The salt of the segment that holds `at`, if it is in place.
    pub(super) fn salt_at(&self, at: Lsn) -> Option<u32> {
        let seq = self.config.geometry.segment_of(at);
        self.disk.segments.get(&seq).copied()
    }
}

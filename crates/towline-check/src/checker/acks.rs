//! Tickets and how they end: what an acknowledgement says, held against what was there.

use towline_core::replication::Stage;
use towline_core::types::{Level, Lsn, Position, Window};

use super::{Checker, Known, reaches};
use crate::event::{AckEvent, TicketEvent};
use crate::rules::Bound;
use crate::violation::Kind;

impl Checker {
    pub(super) fn see_ticket(&mut self, ticket: &TicketEvent) {
        let TicketEvent { lsn, end, payload_bytes, level, window, accepted_ns, .. } = *ticket;
        if lsn < self.last_batch.0 || end > self.last_batch.1 || end <= lsn {
            self.flag(Kind::OutsideBatch, format!("{lsn} to {end} in {:?}", self.last_batch));
        }
        let last = self.last_ticket;
        if lsn < last.lsn {
            self.flag(Kind::TicketsOverlap, format!("{lsn} after a ticket that ended at {}", last.lsn));
        }
        let through = self.batches.end();
        let fits_before = ticket.payload_through >= last.payload_bytes.saturating_add(payload_bytes)
            && ticket.records_through > last.records;
        let fits_batch =
            ticket.payload_through <= through.payload_bytes && ticket.records_through <= through.records;
        if !fits_before || !fits_batch {
            let (records, payload) = (ticket.records_through, ticket.payload_through);
            self.flag(
                Kind::WrongCounts,
                format!("{records} records, {payload} bytes through, batch {through:?}"),
            );
        }
        self.last_ticket = Position {
            lsn: end.max(last.lsn),
            records: ticket.records_through.max(last.records),
            payload_bytes: ticket.payload_through.max(last.payload_bytes),
        };
        let has_rule = self.quorum.rule_in_force().is_some_and(|generation| generation.rule.is_some())
            || self.quorum.pending().is_some();
        if window.is_some() && (!level.is_remote() || !has_rule) {
            self.flag(Kind::WindowNotAllowed, format!("{level} with {window:?}"));
        }
        // Acknowledged before this append was called: it must lie before it.
        let earlier = self.acked_by.partition_point(|(then_ns, _)| *then_ns < accepted_ns);
        if let Some((then_ns, acked)) = earlier.checked_sub(1).and_then(|index| self.acked_by.get(index))
            && *acked > lsn
        {
            let detail = format!("{acked} was acknowledged at {then_ns}, {lsn} was called at {accepted_ns}");
            self.flag(Kind::RealTimeOrder, detail);
        }
        self.batches.claim(end, payload_bytes);
        self.batches.lower_age(end, accepted_ns);
        self.open_ticket(*ticket, false);
    }

    pub(super) fn see_wait(&mut self, ticket: u64, lsn: Lsn, level: Level) {
        let ticket = TicketEvent {
            ticket,
            lsn,
            end: lsn,
            records_through: 0,
            payload_through: 0,
            payload_bytes: 0,
            level,
            window: None,
            accepted_ns: self.now_ns,
        };
        self.open_ticket(ticket, true);
    }

    fn open_ticket(&mut self, ticket: TicketEvent, is_wait: bool) {
        let generation = self.current();
        let known =
            Known { ticket, is_wait, generation, ended: false, damages: self.lives.damages(), acked: None };
        if let Some(old) = self.by_id.insert(ticket.ticket, self.tickets.len()) {
            self.flag(Kind::TicketReused, format!("ticket {}", ticket.ticket));
            self.close(old);
        }
        self.tickets.push(known);
        self.open += 1;
        self.waiting[generation] += usize::from(known.waits_for_standbys());
    }

    fn end_ticket(&mut self, id: u64) -> Option<usize> {
        let Some(place) = self.by_id.get(&id).copied() else {
            self.flag(Kind::UnknownTicket, format!("ticket {id}"));
            return None;
        };
        if !self.close(place) {
            self.flag(Kind::EndedTwice, format!("ticket {id}"));
            return None;
        }
        Some(place)
    }

    /// Whether it was open.
    pub(super) fn close(&mut self, place: usize) -> bool {
        let Some(known) = self.tickets.get_mut(place).filter(|known| !known.ended) else { return false };
        known.ended = true;
        self.open -= 1;
        if known.waits_for_standbys()
            && let Some(waiting) = self.waiting.get_mut(known.generation)
        {
            *waiting = waiting.saturating_sub(1);
        }
        true
    }

    pub(super) fn see_indeterminate(&mut self, ticket: u64) {
        if self.end_ticket(ticket).is_some() {
            self.verdict.summary.indeterminate += 1;
        }
    }

    pub(super) fn see_ack(&mut self, ack: &AckEvent) {
        let summary = &mut self.verdict.summary;
        summary.acks[usize::from(ack.level.to_wire()).min(4)] += 1;
        let Some(place) = self.end_ticket(ack.ticket) else { return };
        let known = self.tickets[place];
        let asked = known.ticket;
        if (ack.lsn, ack.end) != (asked.lsn, asked.end) {
            self.flag(
                Kind::AckElsewhere,
                format!("{} to {}, not {} to {}", ack.lsn, ack.end, asked.lsn, asked.end),
            );
        }
        let version = self.quorum.rule_in_force().map_or(0, |generation| generation.version);
        if ack.rule_version != version {
            self.flag(Kind::WrongRuleVersion, format!("{} instead of {version}", ack.rule_version));
        }
        if asked.end > self.batches.end().lsn {
            self.flag(Kind::NotSealed, format!("{} of {}", asked.end, self.batches.end().lsn));
        }
        if ack.level >= Level::Local && asked.end > self.own_flushed {
            self.flag(Kind::NotFlushed, format!("{} of {}", asked.end, self.own_flushed));
        }
        self.check_achieved(ack, &asked);
        if ack.level.is_remote() && ack.level == asked.level {
            self.check_promise(ack, &known);
        }
        if !known.is_wait {
            self.tickets[place].acked = Some(self.promise_of(ack, &known));
        }
        self.batches.acknowledge(asked.end, asked.payload_bytes);
        // Real-time order is about appends: a `wait` may name a place that others still write up to.
        let highest = self.acked_by.last().map_or(Lsn(0), |(_, highest)| *highest);
        if !known.is_wait {
            self.acked_by.push((self.now_ns, highest.max(asked.end)));
        }
        for stage in Stage::ALL {
            let exposure = self.exposure(stage).unwrap_or(0);
            let max = &mut self.verdict.summary.max_exposure_bytes[stage as usize];
            *max = (*max).max(exposure);
        }
    }

    /// The level achieved is the one asked for, or weaker for a reason, and then it is said.
    fn check_achieved(&mut self, ack: &AckEvent, asked: &TicketEvent) {
        let has_rule = self.quorum.rule_in_force().is_some_and(|generation| generation.rule.is_some());
        let is_unbounded = asked.window == Some(Window::Infinite);
        let detail = || format!("{} {:?} for {} {:?}", ack.level, ack.window, asked.level, asked.window);
        if ack.level == asked.level {
            if ack.level.is_remote() && (is_unbounded || !has_rule) {
                self.flag(Kind::StrongerThanAsked, detail());
            } else if ack.window != asked.window {
                self.flag(Kind::OtherWindow, detail());
            }
            return;
        }
        if ack.level > asked.level {
            return self.flag(Kind::StrongerThanAsked, detail());
        }
        if ack.level != Level::Local || !(self.degraded || !has_rule || is_unbounded) {
            return self.flag(Kind::WeakerThanAsked, detail());
        }
        let must_say = has_rule || asked.window.is_some();
        if must_say && ack.window != Some(Window::Infinite) {
            self.flag(Kind::Silent, detail());
        }
        if self.degraded && has_rule && !is_unbounded {
            self.verdict.summary.degraded_acks += 1;
        }
    }

    /// What the level and the window promise, under every rule that the ticket waited under.
    fn check_promise(&mut self, ack: &AckEvent, known: &Known) {
        let asked = &known.ticket;
        let Some(stage) = Stage::of(asked.level) else { return };
        let bound = self.quorum.safe(known.generation, stage);
        if asked.window.is_some_and(|window| !window.is_zero()) {
            self.verdict.summary.windowed_acks += 1;
            self.verdict.summary.waited_for_window += u64::from(ack.waited_for_window);
            return self.check_fill(ack, asked, bound);
        }
        self.verdict.summary.remote_acks += 1;
        if !reaches(bound, asked.end) {
            let kind = if asked.window.is_some() { Kind::FillOverWindow } else { Kind::NotSafe };
            self.flag(kind, format!("{} needs {stage} to {}, safe is {bound:?}", asked.level, asked.end));
        }
    }

    fn check_fill(&mut self, ack: &AckEvent, asked: &TicketEvent, bound: Bound) {
        let safe = match bound {
            Bound::Free => return,
            Bound::At(safe) if safe >= asked.end => return,
            Bound::At(safe) => safe,
            Bound::Undefined => {
                return self.flag(Kind::FillOverWindow, "the safe position is undefined".to_owned());
            }
        };
        let before = self.batches.position(safe).unwrap_or_default();
        let bytes = asked.payload_through.saturating_sub(before.payload_bytes);
        if ack.fill_bytes < bytes {
            self.flag(Kind::FillUnderstated, format!("{} of {bytes} bytes", ack.fill_bytes));
        }
        let records = asked.records_through.saturating_sub(before.records);
        let oldest_ns = self.batches.oldest_ns(safe, asked.end);
        let age_ns = oldest_ns.map_or(u64::MAX, |oldest_ns| self.now_ns.saturating_sub(oldest_ns));
        let summary = &mut self.verdict.summary;
        let (fill, limit) = match asked.window {
            Some(Window::Bytes(limit)) => {
                summary.max_fill_bytes = summary.max_fill_bytes.max(bytes);
                (bytes, limit)
            }
            Some(Window::Records(limit)) => {
                summary.max_fill_records = summary.max_fill_records.max(records);
                (records, limit)
            }
            Some(Window::Micros(limit)) => {
                summary.max_fill_ns = summary.max_fill_ns.max(age_ns);
                (age_ns, limit.saturating_mul(1000))
            }
            Some(Window::Infinite) | None => return,
        };
        if fill > limit {
            self.flag(
                Kind::FillOverWindow,
                format!("ticket {}: {fill} of {limit} ({:?})", asked.ticket, asked.window),
            );
        }
    }
}

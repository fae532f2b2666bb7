//! The open batch: opening, closing, sealing, and the tickets in it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use towline_core::bugs::{Bug, bug};
use towline_core::format::{
    BodySeed, RecordKind, encode_record_header, encode_rule, payload_crc, record_bytes, summarize_sealed,
    walk_headers,
};
use towline_core::node::{BatchWish, Input, Node, SealedBatch, Ticket, TicketOutcome};
use towline_core::types::limits::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, MAX_BATCH_BYTES, MAX_WRITE_BYTES, RECORD_HEADER_BYTES,
};
use towline_core::types::{Geometry, LogId, Lsn, Position, Span, TicketId};
use towline_uring::{ArenaError, ArenaOwner, BatchExtent};

use super::brain::Brain;
use super::files::Files;
use super::writes::Fault;
use crate::handle::shared::{QueuedTicket, ShardShared};

/// What the driver knows of the batches that producers fill.
pub(crate) struct Batches {
    /// One past the last byte that batches of this segment may use.
    limit: Lsn,
    /// A batch that could not be opened yet: the arena has no room for it, or its place is still in use.
    to_open: Option<ToOpen>,
    /// Closed, and not sealed yet.
    closed: Option<Closed>,
    /// Rule records to append when there is room.
    rules: VecDeque<(u64, String)>,
    /// Tickets of batches that are not sealed yet.
    tickets: Vec<QueuedTicket>,
    /// Counts before the next batch.
    position: Position,
    /// When the open batch was last seen empty.
    seen_empty_ns: u64,
    pub(crate) sealed: u64,
    /// Tickets of the batch before.
    last_tickets: usize,
    /// Flushes that have ended, and when the last did.
    flushes: u64,
    flushed_ns: u64,
    /// Acknowledgements so far, when the open batch was opened.
    acks_at_open: u64,
    /// A growing batch: its end at the last look, and when it was looked at first.
    gathering: Option<(u64, u64)>,
    /// Tickets given to the node.
    pub(crate) handed_over: u64,
    /// The leadership of what is open or closed has ended: it is in nobody's log.
    orphaned: bool,
    /// Tickets of such batches.
    orphans: Vec<TicketId>,
}

struct ToOpen {
    start: Lsn,
    preamble: Vec<(u64, String)>,
}

struct Closed {
    extent: BatchExtent,
    /// No other batch was opened behind it.
    for_good: bool,
    seen_empty_ns: u64,
}

/// What a turn of the batches needs of the rest of the shard.
pub(crate) struct Surroundings<'a> {
    pub(crate) arena: &'a mut ArenaOwner,
    pub(crate) shared: &'a ShardShared,
    pub(crate) brain: &'a mut Brain,
    pub(crate) files: &'a Files,
    pub(crate) log: LogId,
    pub(crate) geometry: Geometry,
    pub(crate) now_ns: u64,
    pub(crate) hold_limit_ns: u64,
    /// Flushes that have ended so far.
    pub(crate) flushes: u64,
    /// Tickets that have been acknowledged so far.
    pub(crate) acks: u64,
}

impl Batches {
    pub(crate) fn new(position: Position) -> Batches {
        Batches {
            limit: Lsn(0),
            to_open: None,
            closed: None,
            rules: VecDeque::new(),
            tickets: Vec::with_capacity(1024),
            position,
            seen_empty_ns: 0,
            sealed: 0,
            handed_over: 0,
            orphaned: false,
            orphans: Vec::new(),
            last_tickets: 0,
            flushes: 0,
            flushed_ns: 0,
            acks_at_open: 0,
            gathering: None,
        }
    }

    /// `Output::OpenBatch`.
    pub(crate) fn open(&mut self, start: Lsn, limit: Lsn, preamble: Vec<(u64, String)>) {
        self.limit = limit;
        self.to_open = Some(ToOpen { start, preamble });
    }

    /// `Output::AppendRule`.
    pub(crate) fn append_rule(&mut self, version: u64, rule: String) {
        self.rules.push_back((version, rule));
    }

    /// `Output::Freeze`: nothing more is accepted. A node that goes on leading has had its batches closed and sealed
    /// before: what is open still is of a leadership that has ended.
    pub(crate) fn freeze(&mut self, arena: &mut ArenaOwner) {
        let is_held = self.closed.is_some() || arena.open_extent().is_some();
        self.orphaned = is_held && !bug(Bug::OrphanHandedOver);
        self.to_open = None;
        self.rules.clear();
        arena.freeze();
    }

    /// Whether producers still hold a batch of a leadership that has ended.
    pub(crate) fn is_orphaned(&self) -> bool {
        self.orphaned
    }

    /// A ticket whose append is in nobody's log.
    pub(crate) fn next_orphan(&mut self) -> Option<TicketId> {
        self.orphans.pop()
    }

    /// The counts before the next batch.
    pub(crate) fn set_position(&mut self, position: Position) {
        self.position = position;
    }

    /// A ticket of a producer on the shard's own thread.
    pub(crate) fn push_ticket(&mut self, ticket: QueuedTicket) {
        self.tickets.push(ticket);
    }

    /// Whether a turn would close or seal something.
    pub(crate) fn wants_turn(&self, arena: &ArenaOwner, node: &Node) -> bool {
        if self.closed.is_some() {
            return arena.is_sealed();
        }
        let Some(open) = arena.open_extent() else { return false };
        match node.wants_batch() {
            BatchWish::No => false,
            BatchWish::IfAny => has_records(&open),
            BatchWish::IfLarge => fills_a_write(&open),
            BatchWish::EvenEmpty | BatchWish::CloseOnly => true,
        }
    }

    /// Something could not go on, and no event will tell when it can.
    pub(crate) fn is_waiting(&self) -> bool {
        self.closed.is_some() || self.to_open.is_some() || !self.rules.is_empty()
    }

    /// LSNs from here on have not been handed to the node.
    pub(crate) fn unsealed_from(&self, arena: &ArenaOwner) -> u64 {
        match (&self.closed, arena.open_extent()) {
            (Some(closed), _) => closed.extent.start,
            (None, Some(open)) => open.start,
            (None, None) => u64::MAX,
        }
    }

    /// One turn: open what is to be opened, seal what is complete, close what the node wants closed.
    ///
    /// # Errors
    /// What ended the log.
    pub(crate) fn turn(&mut self, with: &mut Surroundings<'_>) -> Result<(), Fault> {
        self.maybe_open(with)?;
        self.put_rules(with);
        if self.flushes != with.flushes {
            self.flushes = with.flushes;
            self.flushed_ns = with.now_ns;
        }
        self.raise_limit(with.arena, with.shared, with.now_ns);
        if self.closed.is_none() {
            self.maybe_close(with);
        }
        if self.closed.is_some() {
            if !with.arena.is_sealed() {
                with.arena.void_overdue(with.now_ns, with.hold_limit_ns);
            }
            // A cut may have taken the place of an orphan that was complete.
            let is_gone = self.orphaned && with.arena.closed_extent().is_none();
            if with.arena.is_sealed() || is_gone {
                self.seal(with)?;
            }
        }
        Ok(())
    }

    fn maybe_open(&mut self, with: &mut Surroundings<'_>) -> Result<(), Fault> {
        let Some(to_open) = &self.to_open else { return Ok(()) };
        if self.closed.is_some() || with.arena.open_extent().is_some() {
            return Ok(());
        }
        let start = to_open.start;
        let preamble_bytes: u64 = to_open.preamble.iter().map(rule_bytes).sum();
        let first = start.plus(BATCH_HEADER_BYTES + preamble_bytes);
        if with.arena.is_frozen() && with.arena.thaw().is_err() {
            return Ok(());
        }
        let limit = limit_in(with.arena, self.limit, start);
        match with.arena.open_batch(start.0, first.0, limit) {
            Ok(()) => {}
            // Room comes with the next release.
            Err(ArenaError::NoRoom | ArenaError::Busy) => return Ok(()),
            Err(error) => return Err(cannot(start, &error.to_string())),
        }
        if let Some(to_open) = self.to_open.take() {
            let body = start.plus(BATCH_HEADER_BYTES);
            let Some(mut into) = with.arena.bytes_mut(body.0..first.0) else {
                return Err(cannot(start, "the place of its rule records is in use"));
            };
            for rule in &to_open.preamble {
                let (record, rest) = into.split_at_mut(rule_bytes(rule) as usize);
                put_rule(record, rule);
                into = rest;
            }
        }
        self.seen_empty_ns = with.now_ns;
        // Not before there is an open batch: who is told that it leads appends at once.
        with.shared.marks.leading.store(true, Ordering::Release);
        with.shared.room.changed();
        Ok(())
    }

    /// Rule records go in like a producer's.
    fn put_rules(&mut self, with: &mut Surroundings<'_>) {
        while let Some(rule) = self.rules.front() {
            let bytes = rule_bytes(rule);
            let Ok(mut reserved) = with.shared.appender.reserve(bytes as usize) else {
                with.shared.marks.pressure.fetch_max(bytes, std::sync::atomic::Ordering::AcqRel);
                return;
            };
            put_rule(reserved.bytes_mut(), rule);
            reserved.commit();
            self.rules.pop_front();
        }
    }

    /// A release, or the batch before, may have made room.
    pub(crate) fn raise_limit(&mut self, arena: &mut ArenaOwner, shared: &ShardShared, now_ns: u64) {
        let Some(open) = arena.open_extent() else { return };
        let wanted = limit_in(arena, self.limit, Lsn(open.start));
        let before = arena.limit();
        if wanted > before && arena.set_limit(wanted) > before {
            shared.room.changed();
        }
        if open.end == open.first {
            self.seen_empty_ns = now_ns;
        }
    }

    fn maybe_close(&mut self, with: &mut Surroundings<'_>) {
        let Some(open) = with.arena.open_extent() else { return };
        if with.arena.is_frozen() {
            self.close_only(with);
            return;
        }
        match with.brain.node.wants_batch() {
            BatchWish::No => {}
            BatchWish::IfAny if !has_records(&open) || self.is_gathering(&open, with) => {}
            BatchWish::IfLarge if !fills_a_write(&open) => {}
            BatchWish::IfAny | BatchWish::IfLarge | BatchWish::EvenEmpty => self.close_and_open(with),
            BatchWish::CloseOnly => self.close_only(with),
        }
    }

    /// Whether a slot that is free should wait a few microseconds for company: for the clients that were acknowledged
    /// since the batch was opened, who are about to append again, and for a burst that is still coming. Without it the
    /// slot takes the first of them alone, and the others wait for a whole flush. A log with one ticket per batch never
    /// waits.
    fn is_gathering(&mut self, open: &BatchExtent, with: &Surroundings<'_>) -> bool {
        if self.last_tickets <= 1 {
            return false;
        }
        let since_flush_ns = with.now_ns.saturating_sub(self.flushed_ns);
        let acked = with.acks.saturating_sub(self.acks_at_open);
        // A flush that has just ended is acknowledged later in this turn.
        let returning = since_flush_ns == 0
            || (since_flush_ns < RETURN_LIMIT_NS + RETURN_NS * acked.min(RETURNING)
                && ((with.shared.queue.len() + self.tickets.len()) as u64) < acked);
        let (end, since_ns) = self.gathering.unwrap_or((0, with.now_ns));
        let growing = open.end != end && with.now_ns.saturating_sub(since_ns) < GATHER_LIMIT_NS;
        self.gathering = (returning || growing).then_some((open.end, since_ns));
        returning || growing
    }

    /// One swap closes this batch and opens the next: producers see no gap.
    fn close_and_open(&mut self, with: &mut Surroundings<'_>) {
        let next = Lsn(with.arena.reserved_end().unwrap_or(0)).block_up();
        match with.arena.close_and_open(limit_in(with.arena, self.limit, next)) {
            Ok(extent) => {
                self.acks_at_open = with.acks;
                let seen_empty_ns = std::mem::replace(&mut self.seen_empty_ns, with.now_ns);
                self.closed = Some(Closed { extent, for_good: false, seen_empty_ns });
                with.shared.room.changed();
            }
            // The next header has no room: close this one alone, or its flush, which makes room, never comes.
            Err(ArenaError::NoRoom) => {
                if let Ok(extent) = with.arena.close_batch() {
                    let start = Lsn(extent.end).block_up();
                    self.closed = Some(Closed { extent, for_good: false, seen_empty_ns: self.seen_empty_ns });
                    self.to_open = Some(ToOpen { start, preamble: Vec::new() });
                }
            }
            Err(_) => {}
        }
    }

    fn close_only(&mut self, with: &mut Surroundings<'_>) {
        if let Ok(extent) = with.arena.close_batch() {
            self.closed = Some(Closed { extent, for_good: true, seen_empty_ns: self.seen_empty_ns });
        }
    }

    /// Hands the sealed batch and its tickets to the node.
    fn seal(&mut self, with: &mut Surroundings<'_>) -> Result<(), Fault> {
        let Some(closed) = self.closed.take() else { return Ok(()) };
        let extent = with.arena.take_sealed().unwrap_or(closed.extent);
        // After the seal: every ticket of the batch was queued before its reservation was committed.
        while let Some(ticket) = with.shared.queue.pop() {
            self.tickets.push(ticket);
        }
        self.tickets.sort_unstable_by_key(|ticket| ticket.lsn);
        let in_batch = self.tickets.partition_point(|ticket| ticket.lsn.0 < extent.end);
        if self.orphaned {
            self.orphans.extend(self.tickets.drain(..in_batch).map(|ticket| ticket.id));
            self.handed_over += in_batch as u64;
            self.orphaned = with.arena.open_extent().is_some();
            return Ok(());
        }
        let start = Lsn(extent.start);
        let body_start = start.plus(BATCH_HEADER_BYTES);
        let end = Lsn(extent.end).max(body_start);
        let Some(body) = with.arena.bytes(body_start.0..end.0) else {
            return Err(cannot(start, "its bytes are in use"));
        };
        let Some(salt) = with.files.salt(with.geometry.segment_of(start)) else {
            return Err(cannot(start, "its segment is not in place"));
        };
        let seed = BodySeed { log: with.log, salt, start };
        let summary = match summarize_sealed(body, &seed) {
            Ok(summary) => summary,
            Err(error) => return Err(cannot(start, &error.to_string())),
        };
        let first = self.tickets.first().filter(|ticket| ticket.lsn == body_start);
        let batch = SealedBatch {
            start,
            body_bytes: body.len() as u32,
            records: summary.records,
            payload_bytes: summary.payload_bytes,
            body_crc: summary.crc,
            accepted_ns: first.map_or(closed.seen_empty_ns, |ticket| ticket.accepted_ns),
            rule: summary.rules.iter().map(|(version, _)| *version).max(),
            closed: closed.for_good,
        };
        with.brain.handle(Input::BatchSealed(batch));
        hand_over(with, body_start, end, self.position, &self.tickets[..in_batch]);
        self.tickets.drain(..in_batch);
        self.handed_over += in_batch as u64;
        self.position.records += u64::from(summary.records);
        self.position.payload_bytes += summary.payload_bytes;
        self.sealed += 1;
        self.last_tickets = in_batch;
        Ok(())
    }
}

/// Gives the tickets of a batch their counts, in one walk over its record headers, and hands them to the node.
fn hand_over(
    with: &mut Surroundings<'_>,
    body_start: Lsn,
    end: Lsn,
    before: Position,
    tickets: &[QueuedTicket],
) {
    if tickets.is_empty() {
        return;
    }
    let Surroundings { arena, brain, shared, .. } = with;
    let Some(body) = arena.bytes(body_start.0..end.0) else { return };
    let (mut records, mut payload_bytes) = (before.records, before.payload_bytes);
    let mut waiting = tickets.iter().peekable();
    // Voided between its queueing and its commit, after its batch was sealed: nothing of it is in the log.
    while let Some(stale) = waiting.next_if(|ticket| ticket.lsn < body_start) {
        shared.slots.complete(stale.id, &voided());
    }
    for record in walk_headers(body).map_while(Result::ok) {
        if record.header.kind == RecordKind::Data {
            records += 1;
            payload_bytes += u64::from(record.header.len);
        }
        let through = body_start.plus(u64::from(record.offset) + record.header.total_bytes());
        if record.header.kind == RecordKind::Void {
            // Voided between the same two, before the seal: its bytes are in no batch, and nobody may hear that they are.
            let lsn = body_start.plus(u64::from(record.offset));
            while let Some(ticket) = waiting.next_if(|ticket| ticket.lsn == lsn) {
                shared.slots.complete(ticket.id, &voided());
            }
        }
        while let Some(ticket) = waiting.next_if(|ticket| ticket.end <= through) {
            brain.handle(Input::Ticket(Ticket {
                id: ticket.id,
                lsn: ticket.lsn,
                end: ticket.end,
                records_through: records,
                payload_through: payload_bytes,
                payload_bytes: ticket.payload_bytes,
                level: ticket.level,
                window: ticket.window,
                accepted_ns: ticket.accepted_ns,
            }));
        }
        if waiting.peek().is_none() {
            break;
        }
    }
}

fn voided() -> TicketOutcome {
    TicketOutcome::Indeterminate("its reservation was held past the limit and voided".to_owned())
}

fn has_records(open: &BatchExtent) -> bool {
    open.end > open.start + BATCH_HEADER_BYTES
}

fn fills_a_write(open: &BatchExtent) -> bool {
    open.end - open.start >= MAX_WRITE_BYTES
}

/// How far a batch that starts at `start` may reach. Two blocks are left free for what has no records: the roll
/// that closes a segment, and a seal.
fn limit_in(arena: &ArenaOwner, segment_limit: Lsn, start: Lsn) -> u64 {
    let room = arena.floor() + arena.size() - 2 * BLOCK_BYTES;
    segment_limit.0.min(start.plus(MAX_BATCH_BYTES).0).min(room)
}

fn rule_bytes(rule: &(u64, String)) -> u64 {
    record_bytes(8 + rule.1.len() as u64)
}

fn put_rule(record: &mut [u8], (version, rule): &(u64, String)) {
    let payload = encode_rule(*version, rule);
    let (header, body) = record.split_at_mut(RECORD_HEADER_BYTES as usize);
    body.fill(0);
    body[..payload.len()].copy_from_slice(&payload);
    header.copy_from_slice(&encode_record_header(
        RecordKind::Rule,
        payload.len() as u32,
        payload_crc(&payload),
    ));
}

/// A batch that cannot be built is a defect of this program: the log ends here rather than go on with a gap.
fn cannot(start: Lsn, why: &str) -> Fault {
    Fault::new(Span::new(start, start), &format!("batch at {start}: {why}"))
}

/// A burst is waited for at most this long: a small part of any flush.
const GATHER_LIMIT_NS: u64 = 10_000;
/// Clients that were just acknowledged come back within this, if they come at once: the first of them, …
const RETURN_LIMIT_NS: u64 = 8_000;
/// … and each one more, …
const RETURN_NS: u64 = 400;
/// … of so many at most: a flush must not wait long for clients that may not come.
const RETURNING: u64 = 32;

#[cfg(test)]
mod tests;

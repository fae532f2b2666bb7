//! The open batch of a leader: what producers do in the runtime's arena.

use towline_core::format::{
    BodySeed, RecordKind, encode_record_header, encode_rule, payload_crc, record_bytes, summarize_sealed,
};
use towline_core::node::{BatchWish, Input, SealedBatch, Ticket};
use towline_core::types::limits::{BATCH_HEADER_BYTES, MAX_BATCH_BYTES, MAX_WRITE_BYTES};
use towline_core::types::{Level, Lsn, Span, TicketId, Window};

use super::Host;
use crate::env::Env;

/// The batch that takes records now.
#[derive(Debug)]
pub struct Open {
    start: Lsn,
    limit: Lsn,
    body: Vec<u8>,
    tickets: Vec<OpenTicket>,
    records: u64,
    payload: u64,
    rule: Option<u64>,
    accepted_ns: Option<u64>,
}

impl Open {
    fn has_room(&self, bytes: u64) -> bool {
        let used = BATCH_HEADER_BYTES + self.body.len() as u64;
        self.start.plus(used + bytes) <= self.limit.min(self.start.plus(MAX_BATCH_BYTES))
    }
}

/// What an append asks for; `off` asks for nothing.
pub type Asked = Option<(TicketId, Level, Option<Window>)>;

#[derive(Debug)]
struct OpenTicket {
    id: TicketId,
    offset: u64,
    end: u64,
    records: u64,
    payload: u64,
    own: u64,
    level: Level,
    window: Option<Window>,
    accepted_ns: u64,
}

impl Host {
    /// Appends a record; its span, or `None` when there is no room now.
    pub fn append(&mut self, payload: &[u8], ticket: Asked, now_ns: u64) -> Option<Span> {
        let open = self.open.as_mut().filter(|_| !self.frozen)?;
        let bytes = record_bytes(payload.len() as u64);
        if !open.has_room(bytes) {
            self.inbox.push_back(Input::Pressure { bytes });
            return None;
        }
        let offset = open.body.len() as u64;
        push_record(&mut open.body, RecordKind::Data, payload);
        open.records += 1;
        open.payload += payload.len() as u64;
        open.accepted_ns.get_or_insert(now_ns);
        let lsn = open.start.plus(BATCH_HEADER_BYTES + offset);
        if let Some((id, level, window)) = ticket {
            open.tickets.push(OpenTicket {
                id,
                offset,
                end: offset + bytes,
                records: open.records,
                payload: open.payload,
                own: payload.len() as u64,
                level,
                window,
                accepted_ns: now_ns,
            });
        }
        Some(Span::new(lsn, lsn.plus(bytes)))
    }

    pub(super) fn maybe_close_batch(&mut self, env: &mut Env) {
        let (Some(node), Some(open)) = (&self.node, &self.open) else { return };
        let wish = node.wants_batch();
        let due = match wish {
            BatchWish::No => false,
            BatchWish::IfAny => !open.body.is_empty(),
            BatchWish::IfLarge => open.body.len() as u64 >= MAX_WRITE_BYTES,
            BatchWish::EvenEmpty | BatchWish::CloseOnly => true,
        };
        if !due {
            return;
        }
        let before = node.watermarks().end;
        let Some(open) = self.open.take() else { return };
        let body_bytes = open.body.len() as u32;
        let body = open.start.plus(BATCH_HEADER_BYTES);
        let stored = Span::new(open.start, body.plus(u64::from(body_bytes)).block_up());
        let Some(salt) = self.salt_at(open.start) else {
            return env.breaks(format!("a batch at {}, whose segment is not in place", open.start));
        };
        let seed = BodySeed { log: self.config.log, salt, start: open.start };
        let Ok(summary) = summarize_sealed(&open.body, &seed) else {
            return env.breaks("a body that was built here cannot be read".to_owned());
        };
        let closed = wish == BatchWish::CloseOnly;
        if body_bytes > 0 || !closed {
            let mut bytes = vec![0; stored.len() as usize];
            let from = BATCH_HEADER_BYTES as usize;
            bytes[from..from + open.body.len()].copy_from_slice(&open.body);
            self.arena.put(open.start, &bytes);
        }
        self.feed(Input::BatchSealed(SealedBatch {
            start: open.start,
            body_bytes,
            records: summary.records,
            payload_bytes: summary.payload_bytes,
            body_crc: summary.crc,
            accepted_ns: open.accepted_ns.unwrap_or(0),
            rule: open.rule,
            closed,
        }));
        for ticket in open.tickets {
            self.feed(Input::Ticket(Ticket {
                id: ticket.id,
                lsn: body.plus(ticket.offset),
                end: body.plus(ticket.end),
                records_through: before.records + ticket.records,
                payload_through: before.payload_bytes + ticket.payload,
                payload_bytes: ticket.own,
                level: ticket.level,
                window: ticket.window,
                accepted_ns: ticket.accepted_ns,
            }));
        }
        if !closed {
            self.open_at(stored.end, open.limit, &[]);
            self.place_rules();
        }
    }

    pub(super) fn open_at(&mut self, start: Lsn, limit: Lsn, preamble: &[(u64, String)]) {
        self.open = Some(Open {
            start,
            limit,
            body: Vec::new(),
            tickets: Vec::new(),
            records: 0,
            payload: 0,
            rule: None,
            accepted_ns: None,
        });
        self.held_rules.retain(|(held, _)| preamble.iter().all(|(version, _)| version != held));
        preamble.iter().for_each(|(version, rule)| self.put_rule(*version, rule));
        self.frozen = false;
    }

    /// A rule record is placed as a producer's would be: when there is room.
    pub(super) fn append_rule(&mut self, version: u64, rule: String) {
        self.held_rules.push_back((version, rule));
        self.place_rules();
    }

    fn place_rules(&mut self) {
        while let (Some(open), Some((version, rule))) = (&self.open, self.held_rules.front()) {
            let bytes = record_bytes(encode_rule(*version, rule).len() as u64);
            if !open.has_room(bytes) {
                return self.inbox.push_back(Input::Pressure { bytes });
            }
            if let Some((version, rule)) = self.held_rules.pop_front() {
                self.put_rule(version, &rule);
            }
        }
    }

    fn put_rule(&mut self, version: u64, rule: &str) {
        self.rules.insert(version, rule.to_owned());
        if let Some(open) = &mut self.open {
            push_record(&mut open.body, RecordKind::Rule, &encode_rule(version, rule));
            open.rule = open.rule.max(Some(version));
        }
    }

    pub(super) fn freeze(&mut self) {
        self.frozen = true;
        self.open = None;
        self.held_rules.clear();
    }
}

fn push_record(body: &mut Vec<u8>, kind: RecordKind, payload: &[u8]) {
    let start = body.len();
    body.extend_from_slice(&encode_record_header(kind, payload.len() as u32, payload_crc(payload)));
    body.extend_from_slice(payload);
    body.resize(start + record_bytes(payload.len() as u64) as usize, 0);
}

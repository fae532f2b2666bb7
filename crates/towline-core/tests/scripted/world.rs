//! Several hosts, a network that delays and breaks, clients, crashes; one seed is one world.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use towline_core::node::{Input, NodeConfig, RoleStatus, StartRole, TicketOutcome};
use towline_core::types::{Geometry, Level, LogId, Lsn, NodeId, PeerIndex, SessionId, TicketId, Window};

use super::disk::Walk;
use super::host::{Host, Message, Wish};

pub const GEOMETRY: Geometry = Geometry { segment_bytes: 8 << 20, in_flight_bytes: 16 << 20 };
const TURN_NS: u64 = 50_000;

/// A record that a client was told about.
#[derive(Clone, Debug)]
pub struct Acked {
    pub payload: Vec<u8>,
    pub lsn: Lsn,
    pub end: Lsn,
    pub asked: Level,
    pub achieved: Level,
    pub window: Option<Window>,
}

struct Waiting {
    payload: Vec<u8>,
    level: Level,
    end: Lsn,
}

struct Link {
    dialer: usize,
    listener: usize,
    ends: [SessionId; 2],
    /// Towards the listener, towards the dialer.
    queues: [VecDeque<Message>; 2],
}

pub struct World {
    pub rng: StdRng,
    pub hosts: Vec<Host>,
    links: Vec<Link>,
    pub now_ns: u64,
    next_session: u64,
    next_ticket: u64,
    next_record: u64,
    waiting: BTreeMap<TicketId, Waiting>,
    pub acked: Vec<Acked>,
    pub indeterminate: u64,
    /// Accepted at `off`: acknowledged with their LSN.
    pub off: Vec<Acked>,
    pub waited_for_window: u64,
    pub rule_k: usize,
    cut: BTreeSet<usize>,
    pub record_bytes: usize,
}

impl World {
    /// Host 0 is the primary, the others its standbys.
    pub fn new(seed: u64, standbys: usize, rule: Option<&str>, k: usize) -> World {
        let names: Vec<String> = (1..=standbys).map(|n| format!("s{n}")).collect();
        let mut hosts = Vec::new();
        for n in 0..=standbys {
            let primary = n == 0;
            let config = NodeConfig {
                node: NodeId(100 + n as u64),
                name: if primary { "p".into() } else { format!("s{n}") },
                geometry: GEOMETRY,
                role: if primary { StartRole::Primary } else { StartRole::Standby },
                standbys: if primary { names.clone() } else { Vec::new() },
                rule: if primary { rule.map(str::to_owned) } else { None },
                arena_outlives: true,
                heartbeat_ns: 50_000_000,
                backoff_ns: (1_000_000, 10_000_000),
                seal_after_ns: 2_000_000,
                ..NodeConfig::default()
            };
            hosts.push(Host::new(n, config, if primary { LogId([9; 16]) } else { LogId::default() }));
        }
        let mut world = World {
            rng: StdRng::seed_from_u64(seed),
            hosts,
            links: Vec::new(),
            now_ns: 1,
            next_session: 0,
            next_ticket: 0,
            next_record: 0,
            waiting: BTreeMap::new(),
            acked: Vec::new(),
            indeterminate: 0,
            off: Vec::new(),
            waited_for_window: 0,
            rule_k: k,
            cut: BTreeSet::new(),
            record_bytes: 200,
        };
        for n in 0..=standbys {
            world.hosts[n].start();
        }
        world
    }

    pub fn turns(&mut self, turns: usize) {
        (0..turns).for_each(|_| self.turn());
    }

    pub fn turn(&mut self) {
        self.now_ns += TURN_NS;
        for n in 0..self.hosts.len() {
            let mut rng = StdRng::seed_from_u64(self.rng.random());
            self.complete_some(n);
            self.hosts[n].turn(self.now_ns, &mut rng);
            let wishes = std::mem::take(&mut self.hosts[n].wishes);
            wishes.into_iter().for_each(|wish| self.grant(n, wish));
        }
        self.carry_messages();
    }

    /// Flushes and meta writes complete in any order, some turns late.
    fn complete_some(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        if host.node.is_none() {
            return;
        }
        while !host.disk.pending.is_empty() && self.rng.random_bool(0.6) {
            let which = self.rng.random_range(0..host.disk.pending.len());
            let write = host.disk.complete(which);
            host.inbox.push_back(Input::Flushed { span: write.span, epoch: write.epoch });
        }
        if self.rng.random_bool(0.5)
            && let Some(meta) = host.disk.pending_meta.take()
        {
            let sequence = meta.sequence;
            host.disk.meta = meta;
            host.inbox.push_back(Input::MetaWritten { sequence });
        }
    }

    fn grant(&mut self, n: usize, wish: Wish) {
        match wish {
            Wish::Dial(peer) => self.dial(n, peer),
            Wish::Say(session, message) => {
                if let Some((link, way)) = self.link_of(n, session) {
                    self.links[link].queues[way].push_back(message);
                }
            }
            Wish::Close(session) => {
                if let Some((link, _)) = self.link_of(n, session) {
                    self.break_link(link);
                }
            }
            Wish::Acked(ticket, outcome) => self.handle_ack(ticket, outcome),
        }
    }

    fn dial(&mut self, n: usize, peer: usize) {
        let listener = n + 1 + peer;
        let jitter = self.rng.random();
        let index = PeerIndex(peer as u16);
        if self.hosts[listener].node.is_none() || self.cut.contains(&listener) {
            self.hosts[n].inbox.push_back(Input::DialFailed { peer: index, error: "refused".into(), jitter });
            return;
        }
        let ends = [SessionId(self.next_session), SessionId(self.next_session + 1)];
        self.next_session += 2;
        self.links.push(Link { dialer: n, listener, ends, queues: Default::default() });
        self.hosts[n].inbox.push_back(Input::Connected { peer: index, session: ends[0], nonce: jitter });
    }

    /// The link of a session, and the way that its host's messages take.
    fn link_of(&self, n: usize, session: SessionId) -> Option<(usize, usize)> {
        self.links.iter().enumerate().find_map(|(index, link)| {
            let way = if link.dialer == n && link.ends[0] == session {
                0
            } else if link.listener == n && link.ends[1] == session {
                1
            } else {
                return None;
            };
            Some((index, way))
        })
    }

    fn break_link(&mut self, index: usize) {
        let link = self.links.remove(index);
        for (host, session) in [(link.dialer, link.ends[0]), (link.listener, link.ends[1])] {
            let jitter = self.rng.random();
            if self.hosts[host].node.is_some() {
                self.hosts[host].session_ended(session, jitter);
            }
        }
    }

    fn carry_messages(&mut self) {
        for link in &mut self.links {
            for (way, to) in [(0, link.listener), (1, link.dialer)] {
                while !link.queues[way].is_empty() && self.rng.random_bool(0.7) {
                    if let Some(message) = link.queues[way].pop_front() {
                        self.hosts[to].deliver(link.ends[1 - way], message);
                    }
                }
            }
        }
    }

    // --- clients

    pub fn append(&mut self, level: Level, window: Option<Window>) -> bool {
        if !self.hosts[0].accepts() {
            return false;
        }
        self.next_record += 1;
        let mut payload = self.next_record.to_le_bytes().to_vec();
        payload.resize(self.record_bytes.max(8), self.next_record as u8);
        let id = TicketId(self.next_ticket);
        self.next_ticket += 1;
        let ticket = (level != Level::Off).then_some((id, level, window));
        let Some((lsn, end)) = self.hosts[0].append(&payload, ticket, self.now_ns) else { return false };
        if level == Level::Off {
            self.off.push(Acked { payload, lsn, end, asked: level, achieved: level, window: None });
        } else {
            self.waiting.insert(id, Waiting { payload, level, end });
        }
        true
    }

    fn handle_ack(&mut self, ticket: TicketId, outcome: TicketOutcome) {
        let waiting = self.waiting.remove(&ticket).expect("a ticket ends once");
        let TicketOutcome::Committed(committed) = outcome else {
            self.indeterminate += 1;
            return;
        };
        assert_eq!(committed.end, waiting.end);
        self.waited_for_window += u64::from(committed.waited_for_window);
        let own = self.hosts[0].node.as_ref().map(|node| node.watermarks().flushed.lsn);
        assert!(own >= Some(committed.end), "acknowledged before the own flush");
        if committed.window.is_none() {
            let holds = |disk_end: Lsn| disk_end >= committed.end;
            let standbys = &self.hosts[1..];
            let enough = match committed.level {
                Level::On => standbys.iter().filter(|host| holds(host.ever_flushed)).count() >= self.rule_k,
                Level::RemoteWrite => {
                    standbys.iter().filter(|host| holds(host.ever_written)).count() >= self.rule_k
                }
                _ => true,
            };
            assert!(enough, "{} was acknowledged without k standbys", committed.level);
        }
        self.acked.push(Acked {
            payload: waiting.payload,
            lsn: committed.lsn,
            end: committed.end,
            asked: waiting.level,
            achieved: committed.level,
            window: committed.window,
        });
    }

    /// Tickets of a process that died never get an answer: indeterminate.
    fn forget_tickets(&mut self) {
        self.indeterminate += self.waiting.len() as u64;
        self.waiting.clear();
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    // --- faults

    pub fn crash(&mut self, n: usize, power: bool) {
        let mut rng = StdRng::seed_from_u64(self.rng.random());
        while let Some(index) = self.links.iter().position(|link| link.dialer == n || link.listener == n) {
            self.hosts[n].node = None;
            self.break_link(index);
        }
        let host = &mut self.hosts[n];
        host.stop();
        if power {
            host.disk.power_cut(&mut rng);
            host.arena = Default::default();
        } else {
            host.disk.sigkill(&mut rng);
        }
        if n == 0 {
            self.forget_tickets();
        }
    }

    /// Starts a host again, and checks that it has what it had said it had.
    pub fn restart(&mut self, n: usize, after_power_cut: bool) -> Walk {
        let (flushed, written) = (self.hosts[n].reported_flushed, self.hosts[n].reported_written);
        let walk = self.hosts[n].start();
        if n > 0 {
            assert!(walk.end.lsn >= flushed, "standby {n} lost what it had reported flushed");
            if !after_power_cut {
                assert!(walk.end.lsn >= written, "standby {n} lost what it had reported written");
            }
            self.hosts[n].reported_flushed = Lsn(0);
            self.hosts[n].reported_written = Lsn(0);
        }
        walk
    }

    pub fn break_links(&mut self, n: usize) {
        while let Some(index) = self.links.iter().position(|link| link.dialer == n || link.listener == n) {
            self.break_link(index);
        }
    }

    pub fn cut_off(&mut self, n: usize) {
        self.cut.insert(n);
        self.break_links(n);
    }

    pub fn reconnect(&mut self, n: usize) {
        self.cut.remove(&n);
    }

    // --- checks

    pub fn leads(&self) -> bool {
        self.hosts[0].node.as_ref().is_some_and(|node| matches!(node.status().role, RoleStatus::Primary(_)))
    }

    /// Turns until `done`, at most `turns`.
    pub fn until(&mut self, what: &str, turns: usize, done: impl Fn(&World) -> bool) {
        for _ in 0..turns {
            if done(self) {
                return;
            }
            self.turn();
        }
        for host in &self.hosts {
            let status = host.node.as_ref().map(|node| node.status());
            println!(
                "host {}: {status:?}\n  events {:?}",
                host.name,
                host.events.iter().rev().take(6).collect::<Vec<_>>()
            );
        }
        panic!("never: {what}");
    }

    /// Nothing waits, and every running standby has all that the primary has.
    pub fn is_quiet(&self) -> bool {
        let Some(primary) = &self.hosts[0].node else { return false };
        let end = primary.watermarks().end.lsn;
        self.waiting.is_empty()
            && primary.watermarks().flushed.lsn == end
            && primary.status().standbys.iter().all(|standby| standby.watermarks.flushed.lsn == end)
    }

    /// Every acknowledged record that `protects` is in the primary's log, once, in LSN order; replicas are equal.
    pub fn check_logs(&self, protects: impl Fn(&Acked) -> bool) {
        let walk = self.hosts[0].disk.walk(GEOMETRY);
        let mut found: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for (place, payload) in walk.payloads().enumerate() {
            assert!(found.insert(payload.clone(), place).is_none(), "a record is in the log twice");
        }
        let mut acked: Vec<&Acked> = self.acked.iter().filter(|acked| protects(acked)).collect();
        acked.sort_by_key(|acked| acked.lsn);
        let mut last = None;
        for acked in acked {
            let place = found.get(&acked.payload);
            assert!(place.is_some(), "acknowledged and lost: {acked:?}, log ends at {:?}", walk.end);
            assert!(place > last.as_ref(), "out of order: {acked:?}");
            last = place.copied();
        }
        for host in &self.hosts[1..] {
            if host.node.is_none() {
                continue;
            }
            let end = walk.end.lsn.min(host.disk.walk(GEOMETRY).end.lsn);
            let span = towline_core::types::Span::new(GEOMETRY.first_batch(0), end);
            let (own, other) = (self.hosts[0].disk.get(span), host.disk.get(span));
            if let Some(at) = own.iter().zip(&other).position(|(a, b)| a != b) {
                let lsn = span.start.plus(at as u64);
                let batch = walk
                    .batches
                    .iter()
                    .find(|batch| batch.header.span().contains(lsn))
                    .map(|batch| batch.header);
                panic!(
                    "logs differ at {lsn:?} (host {}): {batch:?}\n{:?}\n{:?}",
                    host.name, host.events, self.hosts[0].events
                );
            }
        }
    }

    pub fn lost_off(&self) -> usize {
        let walk = self.hosts[0].disk.walk(GEOMETRY);
        let found: BTreeSet<&Vec<u8>> = walk.payloads().collect();
        self.off.iter().filter(|off| !found.contains(&off.payload)).count()
    }
}

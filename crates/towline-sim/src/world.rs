//! Several hosts, a network that delays and breaks, clients, crashes; one seed is one world.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use towline_check::{Checker, Damage, Event as Told, Verdict};
use towline_core::node::{Input, NodeConfig, RoleStatus, StartRole, TicketOutcome};
use towline_core::replication::{Members, SyncRule, Unmet};
use towline_core::types::{
    Geometry, Level, LogId, Lsn, NodeId, PeerIndex, Position, SessionId, TicketId, Window,
};

use crate::host::{Host, Message, Wish};
use crate::setup::Setup;
use crate::storm::{LEAST_APPENDS, LEAST_CRASHES, LEAST_FAULTS};
use crate::story;

pub const GEOMETRY: Geometry = Geometry { segment_bytes: 8 << 20, in_flight_bytes: 16 << 20 };
const TURN_NS: u64 = 50_000;

/// A record that a client was told about.
#[derive(Clone, Debug)]
pub struct Acked {
    pub payload: Vec<u8>,
    pub lsn: Lsn,
    pub asked: Level,
    pub achieved: Level,
}

#[derive(Debug)]
struct Waiting {
    payload: Vec<u8>,
    level: Level,
    window: Option<Window>,
    end: Lsn,
    /// A `wait`, not an append.
    wait: bool,
    cancelled: bool,
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
    pub windowed: u64,
    pub degraded: u64,
    pub by_level: [u64; 5],
    /// Records that got a place.
    pub appends: u64,
    /// Payload bytes and acceptance of every record, by its number: the fill is counted anew from them.
    accepted: Vec<(Lsn, u64, u64)>,
    /// What the primary ever had flushed, and made safe.
    pub primary_flushed: Lsn,
    /// Messages from the one host to the other are not carried.
    pub deaf: BTreeSet<(usize, usize)>,
    targets: Vec<Vec<usize>>,
    setup: Setup,
    pub faults: BTreeMap<&'static str, u64>,
    next_request: u64,
    /// Records at `off` that an earlier life of the primary accepted.
    off_before_crash: usize,
    /// Judges what the primary is told and says, over all its lives.
    checker: Checker,
}

impl World {
    /// Host 0 is the primary, the others its standbys; a relayed one comes last.
    pub fn with(seed: u64, setup: Setup) -> World {
        let names: Vec<String> = (1..=setup.standbys).map(|n| format!("s{n}")).collect();
        let mut targets = vec![(1..=setup.standbys).collect::<Vec<_>>()];
        targets.extend((0..setup.standbys).map(|_| Vec::new()));
        if setup.relay {
            targets[1].push(setup.standbys + 1);
            targets.push(Vec::new());
        }
        let mut hosts = Vec::new();
        for (n, feeds) in targets.iter().enumerate() {
            let primary = n == 0;
            let config = NodeConfig {
                node: NodeId(100 + n as u64),
                name: if primary { "p".into() } else { format!("s{n}") },
                geometry: GEOMETRY,
                role: if primary { StartRole::Primary } else { StartRole::Standby },
                standbys: if primary {
                    names.clone()
                } else {
                    feeds.iter().map(|to| format!("s{to}")).collect()
                },
                rule: if primary { setup.rule.map(str::to_owned) } else { None },
                unmet: setup.unmet,
                arena_bytes: setup.arena_bytes,
                arena_outlives: setup.outlives,
                retention_bytes: setup.retention_bytes,
                hold_bytes: setup.hold_bytes,
                heartbeat_ns: 2_000_000,
                backoff_ns: (1_000_000, 10_000_000),
                seal_after_ns: 2_000_000,
                applies: !primary && setup.applies,
                apply_safe: setup.apply_safe,
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
            windowed: 0,
            degraded: 0,
            by_level: [0; 5],
            appends: 0,
            accepted: Vec::new(),
            primary_flushed: Lsn(0),
            deaf: BTreeSet::new(),
            targets,
            setup,
            faults: BTreeMap::new(),
            next_request: 0,
            off_before_crash: 0,
            checker: Checker::new(Position { lsn: GEOMETRY.first_batch(0), ..Position::default() }),
        };
        if world.setup.apply_safe {
            world.checker.see(&Told::AppliesSafe);
        }
        (0..world.hosts.len()).for_each(|n| {
            world.hosts[n].start();
        });
        world
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
        if let Some(primary) = &self.hosts[0].node {
            self.primary_flushed = self.primary_flushed.max(primary.watermarks().flushed.lsn);
        }
        for event in std::mem::take(&mut self.hosts[0].told) {
            self.checker.see(&event);
        }
        for host in &self.hosts[1..] {
            if host.applied.lsn.0 > 0 {
                self.checker.see(&Told::Applied { node: host.config.node.0, lsn: host.applied.lsn });
            }
            assert!(host.apply_told <= self.primary_flushed, "applied what the primary never flushed");
        }
        self.carry_messages();
    }

    /// Flushes and meta writes complete in any order, some turns late.
    fn complete_some(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        if host.node.is_none() {
            return;
        }
        if host.write_fails
            && let Some(write) = host.disk.pending.first()
        {
            let input = Input::WriteFailed { span: write.span, error: "input/output error".into() };
            host.inbox.push_back(input);
            host.write_fails = false;
            return;
        }
        if host.meta_fails && host.disk.pending_meta.is_some() {
            host.inbox.push_back(Input::MetaFailed { error: "input/output error".into() });
            host.meta_fails = false;
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
        let listener = self.targets[n][peer];
        let jitter = self.rng.random();
        let index = PeerIndex(peer as u16);
        if self.hosts[listener].node.is_none() {
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
            for (way, to, from) in [(0, link.listener, link.dialer), (1, link.dialer, link.listener)] {
                if self.deaf.contains(&(from, to)) {
                    continue;
                }
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
        let number = self.next_record;
        let len = self.rng.random_range(self.setup.record_bytes.clone()).max(8);
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(len, number as u8);
        let id = TicketId(self.next_ticket);
        self.next_ticket += 1;
        let ticket = (level != Level::Off).then_some((id, level, window));
        let Some((lsn, end)) = self.hosts[0].append(&payload, ticket, self.now_ns) else { return false };
        self.appends += 1;
        self.accepted.retain(|(at, ..)| *at < lsn);
        self.accepted.push((lsn, payload.len() as u64, self.now_ns));
        if level == Level::Off {
            self.by_level[0] += 1;
            self.off.push(Acked { payload, lsn, asked: level, achieved: level });
        } else {
            self.waiting.insert(id, Waiting { payload, level, window, end, wait: false, cancelled: false });
        }
        true
    }

    /// Waits until the log as it is now is safe.
    pub fn wait(&mut self, level: Level) {
        let Some(node) = &self.hosts[0].node else { return };
        let id = TicketId(self.next_ticket);
        self.next_ticket += 1;
        let end = node.watermarks().end.lsn;
        let waiting = Waiting { payload: Vec::new(), level, window: None, end, wait: true, cancelled: false };
        self.waiting.insert(id, waiting);
        self.hosts[0].inbox.push_back(Input::Wait { ticket: id, lsn: end, level });
    }

    /// Gives up on a ticket whose batch is sealed: it must not be acknowledged any more.
    pub fn cancel_one(&mut self) {
        let Some(node) = &self.hosts[0].node else { return };
        let sealed = node.watermarks().end.lsn;
        let chosen = self.waiting.iter_mut().find(|(_, waiting)| waiting.end <= sealed && !waiting.cancelled);
        if let Some((id, waiting)) = chosen {
            waiting.cancelled = true;
            self.hosts[0].inbox.push_front(Input::Cancel { ticket: *id });
            *self.faults.entry("cancels").or_default() += 1;
        }
    }

    pub fn set_rule(&mut self, rule: &str) {
        self.next_request += 1;
        let request = self.next_request;
        self.hosts[0].inbox.push_back(Input::SetRule { request, rule: rule.into() });
    }

    pub fn trim(&mut self) {
        let below = self.primary_flushed;
        self.hosts[0].inbox.push_back(Input::Trim { below });
    }

    /// The k-th best of what the rule's standbys have ever reported: reports on their way count, so the primary
    /// knows no more than this.
    fn best_safe(&self, version: u64, stage: usize) -> Option<Position> {
        let rule = SyncRule::parse(self.hosts[0].rules.get(&version)?).ok().flatten()?;
        let names: Vec<String> = (1..self.hosts.len()).map(|n| format!("s{n}")).collect();
        let mut marks: Vec<Position> = (1..=self.setup.standbys)
            .filter(|n| match &rule.members {
                Members::Star => true,
                Members::List(members) => members.contains(&names[n - 1]),
            })
            .map(|n| self.hosts[n].ever[stage])
            .collect();
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.lsn));
        marks.get(usize::from(rule.k) - 1).copied()
    }

    fn handle_ack(&mut self, ticket: TicketId, outcome: TicketOutcome) {
        let waiting = self.waiting.remove(&ticket).expect("a ticket ends once");
        let TicketOutcome::Committed(committed) = outcome else {
            self.indeterminate += 1;
            return;
        };
        assert!(!waiting.cancelled, "a cancelled wait is never a success");
        assert_eq!(committed.end, waiting.end);
        let level = committed.level;
        let own = self.hosts[0].node.as_ref().map(|node| node.watermarks().flushed.lsn);
        assert!(own >= Some(committed.end), "acknowledged before the own flush");
        let place = Level::ALL.iter().position(|known| *known == level).expect("all levels");
        self.by_level[place] += 1;
        if level.is_remote() && committed.window != Some(Window::Infinite) {
            let stage = place - 2;
            let safe = self.best_safe(committed.rule_version, stage).unwrap_or_default();
            let behind = || self.accepted.iter().filter(|(at, ..)| *at >= safe.lsn && *at < committed.end);
            match committed.window {
                None => assert!(safe.lsn >= committed.end, "{level} was acknowledged without k standbys"),
                Some(Window::Bytes(most)) => {
                    let fill: u64 = behind().map(|(_, bytes, _)| bytes).sum();
                    assert!(
                        fill <= most,
                        "fill {fill} over {most} bytes at {level}: {committed:?}, safe {safe:?}"
                    );
                }
                Some(Window::Records(most)) => {
                    assert!(behind().count() as u64 <= most, "over {most} records")
                }
                Some(Window::Micros(most)) => {
                    let oldest = behind().map(|(.., at)| *at).min();
                    let age = self.now_ns - oldest.unwrap_or(self.now_ns);
                    assert!(age <= most * 1000, "oldest is {age} ns");
                }
                Some(Window::Infinite) => {}
            }
        }
        if waiting.level.is_remote() && !level.is_remote() && waiting.window != Some(Window::Infinite) {
            self.degraded += 1;
            assert!(
                self.setup.unmet != Unmet::Stall || self.best_safe(committed.rule_version, 0).is_none(),
                "never silently asynchronous"
            );
        }
        self.waited_for_window += u64::from(committed.waited_for_window);
        self.windowed += u64::from(committed.window.is_some());
        if waiting.wait {
            return;
        }
        self.acked.push(Acked {
            payload: waiting.payload,
            lsn: committed.lsn,
            asked: waiting.level,
            achieved: level,
        });
    }

    /// Tickets of a process that died never get an answer: indeterminate.
    fn forget_tickets(&mut self) {
        self.indeterminate += self.waiting.len() as u64;
        self.waiting.clear();
    }

    // --- faults

    pub fn crash(&mut self, n: usize, power: bool) {
        story::say(|| format!("n{n} {}", if power { "loses its power" } else { "is killed" }));
        let mut rng = StdRng::seed_from_u64(self.rng.random());
        while let Some(index) = self.links.iter().position(|link| link.dialer == n || link.listener == n) {
            self.hosts[n].node = None;
            self.break_link(index);
        }
        let host = &mut self.hosts[n];
        let damage = match (host.stopped, power) {
            (true, _) => Damage::Stopped,
            (false, true) => Damage::PowerCut,
            (false, false) => Damage::Killed,
        };
        self.checker.see(&Told::Damage { node: host.config.node.0, damage });
        host.stop();
        if power {
            host.disk.power_cut(&mut rng);
            host.arena = Default::default();
        } else {
            host.disk.sigkill(&mut rng);
        }
        if n == 0 {
            self.forget_tickets();
            self.off_before_crash = self.off.len();
        }
        *self.faults.entry(if power { "power cuts" } else { "kills" }).or_default() += 1;
    }

    /// Starts a host again, and checks that it has what it had said it had.
    pub fn restart(&mut self, n: usize, after_power_cut: bool) -> Lsn {
        let (flushed, written) = (self.hosts[n].reported_flushed, self.hosts[n].reported_written);
        let end = self.hosts[n].start();
        if n > 0 {
            assert!(end >= flushed, "standby {n} lost what it had reported flushed");
            if !after_power_cut {
                assert!(end >= written, "standby {n} lost what it had reported written");
            }
            self.hosts[n].reported_flushed = Lsn(0);
            self.hosts[n].reported_written = Lsn(0);
        } else {
            assert!(end >= self.primary_flushed, "the primary lost what it had flushed");
            // What was issued before a SIGKILL may have landed; what was accepted beyond is gone.
            self.primary_flushed = end;
            self.accepted.retain(|(at, ..)| *at < end);
        }
        end
    }

    /// A clean stop: nothing accepted is lost, not even at `off`.
    pub fn stop_cleanly(&mut self, n: usize) {
        self.hosts[n].inbox.push_back(Input::Stop);
        self.until("a clean stop", 4_000, |world| world.hosts[n].stopped);
        if n == 0 {
            assert_eq!(self.lost_off_since(self.off_before_crash), 0, "a clean stop loses nothing");
        }
        self.crash(n, true);
        *self.faults.entry("clean stops").or_default() += 1;
        let verdicts = self.hosts[n].disk.verdicts.clone();
        self.restart(n, true);
        if n == 0 {
            let clean = |verdicts: &BTreeMap<&str, u64>| verdicts.get("clean end").copied().unwrap_or(0);
            let now = &self.hosts[n].disk.verdicts;
            assert_eq!(clean(now), clean(&verdicts) + 1, "a stopped log ends cleanly: {now:?}");
        }
    }

    /// A standby comes back with a new disk: it is another node.
    pub fn replace(&mut self, n: usize) {
        self.crash(n, true);
        let config = NodeConfig {
            node: NodeId(self.rng.random_range(1000..u64::MAX)),
            ..self.hosts[n].config.clone()
        };
        let old = std::mem::replace(&mut self.hosts[n], Host::new(n, config, LogId::default()));
        self.hosts[n].apply_chance = old.apply_chance;
        self.hosts[n].counts = old.counts;
        self.hosts[n].ever = old.ever;
        self.hosts[n].apply_told = Lsn(0);
        self.hosts[n].start();
        *self.faults.entry("new disks").or_default() += 1;
    }

    pub fn break_links(&mut self, n: usize) {
        while let Some(index) = self.links.iter().position(|link| link.dialer == n || link.listener == n) {
            self.break_link(index);
        }
    }

    // --- checks

    /// Faults so far; what clients do is none.
    pub fn faults_seen(&self) -> u64 {
        self.faults
            .iter()
            .filter(|(what, _)| !["cancels", "rule changes"].contains(what))
            .map(|(_, n)| n)
            .sum()
    }

    /// Processes that ended without warning so far.
    pub fn crashes_seen(&self) -> u64 {
        ["power cuts", "kills"].iter().filter_map(|what| self.faults.get(what)).sum()
    }

    /// Whether this world has seen what every world must see.
    pub fn has_seen_enough(&self) -> bool {
        self.appends >= LEAST_APPENDS
            && self.faults_seen() >= LEAST_FAULTS
            && self.crashes_seen() >= LEAST_CRASHES
    }

    /// What the checker says of all acks, gauges, readers and lives.
    pub fn judge(&self) -> Verdict {
        self.checker.verdict()
    }

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
        let has_all =
            |host: &Host| host.node.as_ref().is_some_and(|node| node.watermarks().flushed.lsn == end);
        self.leads()
            && self.waiting.is_empty()
            && self.hosts.iter().all(has_all)
            && primary.status().standbys.iter().all(|standby| standby.watermarks.flushed.lsn == end)
    }

    /// Every acknowledged record that `protects` is in the primary's log, once, in LSN order; replicas are equal.
    pub fn check_logs(&self, protects: impl Fn(&Acked) -> bool) {
        let walk = self.hosts[0].disk.walk(GEOMETRY);
        let mut found: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for (place, payload) in walk.payloads().enumerate() {
            assert!(found.insert(payload.clone(), place).is_none(), "a record is in the log twice");
        }
        // What was trimmed is gone by request.
        let kept = |acked: &&Acked| acked.lsn >= self.hosts[0].disk.meta.log_start;
        let mut acked: Vec<&Acked> = self.acked.iter().filter(kept).filter(|acked| protects(acked)).collect();
        acked.sort_by_key(|acked| acked.lsn);
        let mut last = None;
        for acked in acked {
            let place = found.get(&acked.payload);
            let (asked, achieved) = (acked.asked, acked.achieved);
            assert!(
                place.is_some(),
                "lost: {asked} was asked for, {achieved} acknowledged at {:?}, the log ends at {:?}",
                acked.lsn,
                walk.end
            );
            assert!(place > last.as_ref(), "out of order: {:?}", acked.lsn);
            last = place.copied();
        }
        for host in &self.hosts[1..] {
            if host.node.is_none() {
                continue;
            }
            let end = walk.end.lsn.min(host.disk.walk(GEOMETRY).end.lsn);
            let start = self.hosts[0].disk.meta.log_start.max(host.disk.meta.log_start);
            let span = towline_core::types::Span::new(start.max(GEOMETRY.first_batch(0)), end);
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
        self.lost_off_since(0)
    }

    fn lost_off_since(&self, first: usize) -> usize {
        let walk = self.hosts[0].disk.walk(GEOMETRY);
        let found: BTreeSet<&Vec<u8>> = walk.payloads().collect();
        let start = self.hosts[0].disk.meta.log_start;
        self.off[first..].iter().filter(|off| off.lsn >= start && !found.contains(&off.payload)).count()
    }
}

//! Several hosts, the network between them, clients, an operator; one seed is one world.

mod clients;
mod faults;
mod judge;
mod network;
mod operator;
mod storms;

use std::collections::{BTreeMap, BTreeSet};

use towline_core::node::{Input, NodeConfig, StartRole};
use towline_core::types::{LogId, Lsn, NodeId, Term, TicketId};

use self::clients::{Acked, Waiting};
use self::judge::Stream;
use self::network::{Dial, Link};
use self::operator::Plan;
use self::storms::Storm;
use crate::env::Env;
use crate::host::{Host, Wish};
use crate::rng::Rng;
use crate::setup::Setup;
use crate::trace::Trace;

/// A turn of the world.
pub const TURN_NS: u64 = 50_000;

/// A simulated world.
#[derive(Debug)]
pub struct World {
    pub setup: Setup,
    pub env: Env,
    pub hosts: Vec<Host>,
    pub counts: Counts,
    // network
    links: Vec<Link>,
    dials: Vec<Dial>,
    next_session: u64,
    /// Nothing is carried from the one host to the other.
    deaf: BTreeSet<(usize, usize)>,
    /// Hosts whose messages take long.
    far: BTreeSet<usize>,
    // clients
    next_ticket: u64,
    next_record: u64,
    waiting: BTreeMap<TicketId, Waiting>,
    acked: Vec<Acked>,
    // leaderships
    streams: Vec<Stream>,
    /// What each term's leaders, and their successors, ever had flushed of it.
    flushed: BTreeMap<Term, Lsn>,
    disk_losses: u64,
    power_cuts: u64,
    // operator
    plan: Plan,
    storm: Option<Storm>,
}

/// What a world has seen.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Records that got a place.
    pub appends: u64,
    /// By level achieved: off, local, remote_write, on, remote_apply.
    pub acks: [u64; 5],
    pub indeterminate: u64,
    /// Processes that ended without warning.
    pub crashes: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Faults of all kinds.
    pub fn all_faults(&self) -> u64 {
        self.faults.values().sum()
    }
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, keep_lines: bool) -> World {
        let mut rng = Rng::new(seed);
        let setup = Setup::of(&mut rng);
        // In some worlds each node's last life is fed again to a new node.
        World::with(setup, rng, keep_lines, seed.is_multiple_of(8))
    }

    /// A world of this kind.
    pub fn with(setup: Setup, rng: Rng, keep_lines: bool, keep_tapes: bool) -> World {
        let trace = Trace::with_lines(keep_lines);
        let mut world = World {
            env: Env::new(rng, trace),
            hosts: Vec::new(),
            counts: Counts::default(),
            links: Vec::new(),
            dials: Vec::new(),
            next_session: 0,
            deaf: BTreeSet::new(),
            far: BTreeSet::new(),
            next_ticket: 0,
            next_record: 0,
            waiting: BTreeMap::new(),
            acked: Vec::new(),
            streams: Vec::new(),
            flushed: BTreeMap::new(),
            disk_losses: 0,
            power_cuts: 0,
            plan: Plan::default(),
            storm: None,
            setup,
        };
        let hosts = world.setup.nodes + usize::from(world.setup.relay);
        for n in 0..hosts {
            let log = if n == 0 { LogId([9; 16]) } else { LogId::default() };
            let config = world.config(n, NodeId(100 + n as u64));
            let mut host = Host::new(n, config, log, &world.setup);
            host.keeps_tape = keep_tapes;
            world.hosts.push(host);
            world.plan.add(hosts);
        }
        (0..hosts).for_each(|n| world.start(n, if n == 0 { StartRole::Primary } else { StartRole::Standby }));
        world
    }

    fn config(&self, n: usize, node: NodeId) -> NodeConfig {
        let setup = &self.setup;
        NodeConfig {
            node,
            name: format!("n{n}"),
            geometry: setup.geometry,
            unmet: setup.unmet,
            flush_depth: setup.flush_depth,
            arena_bytes: setup.arena_bytes,
            arena_outlives: setup.outlives,
            retention_bytes: setup.retention_bytes,
            hold_bytes: setup.hold_bytes,
            heartbeat_ns: 2_000_000,
            backoff_ns: (1_000_000, 10_000_000),
            seal_after_ns: 2_000_000,
            applies: setup.applies,
            apply_safe: setup.apply_safe,
            ..NodeConfig::default()
        }
    }

    /// Whether the host is one of the fixed set; a relay's standby is not.
    fn is_member(&self, n: usize) -> bool {
        n < self.setup.nodes
    }

    /// One turn of everything.
    pub fn turn(&mut self) {
        self.env.now_ns += TURN_NS;
        for n in 0..self.hosts.len() {
            self.complete_some(n);
            let led = self.hosts[n].leads();
            self.hosts[n].turn(&mut self.env);
            self.hear(n, led);
            self.check_excluded(n);
            for wish in std::mem::take(&mut self.hosts[n].wishes) {
                self.grant(n, wish);
            }
        }
        self.carry();
        self.storm_goes_on();
        self.operate();
    }

    /// Flushes and meta writes complete in any order, some turns late.
    fn complete_some(&mut self, n: usize) {
        let (host, rng) = (&mut self.hosts[n], &mut self.env.rng);
        if host.node.is_none() {
            return;
        }
        let troubles = &mut host.troubles;
        if troubles.write_fails
            && let Some(write) = host.disk.pending.first()
        {
            let input = Input::WriteFailed { span: write.span, error: "input/output error".into() };
            host.inbox.push_back(input);
            troubles.write_fails = false;
            return;
        }
        if troubles.meta_fails && host.disk.pending_meta.is_some() {
            host.inbox.push_back(Input::MetaFailed { error: "input/output error".into() });
            troubles.meta_fails = false;
            return;
        }
        // What has failed stays failed: nothing more is said of this disk until the next start.
        if host.poisoned {
            return;
        }
        let pace = if troubles.slow { self.setup.disk_pace / 20.0 } else { self.setup.disk_pace };
        while !host.disk.pending.is_empty() && rng.chance(pace) {
            let write = host.disk.complete(rng.index(host.disk.pending.len()));
            host.inbox.push_back(Input::Flushed { span: write.span, epoch: write.epoch });
        }
        if host.disk.pending_meta.is_some()
            && rng.chance(pace)
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
            Wish::Say(session, message) => self.say(n, session, message),
            Wish::Close(session) | Wish::ReadFailed(session) => self.close(n, session),
            Wish::Damaged(session) => {
                if !self.plan.ever_damaged {
                    self.env.breaks(format!("n{n} received bytes that are damaged, and no disk is"));
                }
                self.close(n, session);
            }
            Wish::Acked(ticket, outcome) => self.handle_ack(n, ticket, outcome),
            Wish::Applies(upto, term) => self.check_applies(n, upto, term),
        }
    }

    /// One more fault of this kind.
    fn count(&mut self, fault: &'static str) {
        *self.counts.faults.entry(fault).or_default() += 1;
    }
}

//! One process of the simulated world: drives a node by its Inputs and Outputs, as the runtime's shard does.

mod appender;
mod keeper;
mod outputs;
mod receive;
mod tape;

use std::collections::{BTreeMap, VecDeque};

use towline_check::NodeHistory;
use towline_core::format::Frame;
use towline_core::node::{Input, Node, NodeConfig, StartRole, TicketOutcome};
use towline_core::replication::Stage;
use towline_core::types::{LogId, Lsn, Position, SessionId, Span, Term, TermHistory, TicketId};

use self::appender::Open;
use self::keeper::Keeper;
use self::receive::Receiving;
use self::tape::Tape;
use crate::bytes::Bytes;
use crate::disk::{Cut, Disk, OpenError};
use crate::env::Env;
use crate::marks::sometimes;
use crate::setup::Setup;

/// What travels on a connection, in order.
#[derive(Clone, Debug)]
pub enum Message {
    Frame(Frame),
    Bytes(Span, Vec<u8>),
    /// The other end is gone; nothing follows. The number spreads the next dial.
    End(u64),
}

/// What a host wants of the world.
#[derive(Debug)]
pub enum Wish {
    Dial(usize),
    Say(SessionId, Message),
    Close(SessionId),
    Acked(TicketId, TicketOutcome),
    /// A read of its disk failed: the session ends.
    ReadFailed(SessionId),
    /// Bytes came whose checksums do not hold: the session ends.
    Damaged(SessionId),
    /// Its application may see the log up to here, whose last byte this term owns.
    Applies(Lsn, Term),
}

/// What fails in this host, until it is healed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Troubles {
    /// Hardly any segment can be made.
    pub full: bool,
    /// The next write fails.
    pub write_fails: bool,
    /// The next meta write fails.
    pub meta_fails: bool,
    /// The next read for a late standby fails.
    pub read_fails: bool,
    /// Writes take long.
    pub slow: bool,
    /// Segments take very long.
    pub slow_fill: bool,
    /// Stopped and not dead: it hears nothing until it wakes.
    pub paused: bool,
}

/// A process, its disk and its shared memory.
#[derive(Debug)]
pub struct Host {
    pub name: usize,
    pub config: NodeConfig,
    pub node: Option<Node>,
    pub disk: Disk,
    /// The arena; where it is shared memory it survives the process, not the power.
    pub arena: Bytes,
    pub inbox: VecDeque<Input>,
    pub wishes: Vec<Wish>,
    pub troubles: Troubles,
    /// Said that it halted, was poisoned, stepped down, stopped.
    pub halted: Option<String>,
    pub poisoned: bool,
    pub stepped_down: bool,
    pub stopped: bool,
    /// It was asked to promote and will not.
    pub promotion_refused: bool,
    /// A standby of its that has to begin anew.
    pub must_resync: Option<usize>,
    /// One that lost durable data, and counts again only when it begins anew.
    pub excluded: Option<usize>,
    /// Reported since it was started: the next start must find this.
    pub reported: [Lsn; 2],
    /// Of which log.
    pub reported_of: TermHistory,
    /// The highest it ever reported in each term: written, flushed, applied.
    pub ever: BTreeMap<Term, [Lsn; 3]>,
    /// Rules by version, as they went into the log.
    pub rules: BTreeMap<u64, String>,
    /// What a leader took in and said, for the checker, and the histories of the leaderships that began in it.
    pub told: Vec<towline_check::Event>,
    pub leaderships: VecDeque<TermHistory>,
    /// Where its log was cut, and the term that begins there.
    pub cuts: Vec<(Term, Lsn)>,
    pub keeps_tape: bool,
    pub apply_chance: f64,
    open: Option<Open>,
    frozen: bool,
    /// Rule records that have no room yet.
    held_rules: VecDeque<(u64, String)>,
    receiving: Option<Receiving>,
    /// What came before there was room, per session.
    held: BTreeMap<SessionId, VecDeque<Message>>,
    /// Salts of segments that were announced, per session.
    announced: BTreeMap<SessionId, BTreeMap<u64, u32>>,
    keeper: Keeper,
    /// The application: what it may apply, what it has, the ends of batches it can reach.
    apply_upto: Lsn,
    applied: Position,
    ends: BTreeMap<Lsn, Position>,
    history: Option<NodeHistory>,
    /// The last start, and every input and output since, when they are kept.
    tape: Option<Tape>,
}

impl Host {
    pub fn new(name: usize, config: NodeConfig, log: LogId, setup: &Setup) -> Host {
        Host {
            name,
            config,
            node: None,
            disk: Disk { log, max_spares: setup.spare_segments, ..Disk::default() },
            arena: Bytes::default(),
            inbox: VecDeque::new(),
            wishes: Vec::new(),
            troubles: Troubles::default(),
            halted: None,
            poisoned: false,
            stepped_down: false,
            stopped: false,
            promotion_refused: false,
            must_resync: None,
            excluded: None,
            reported: [Lsn(0); 2],
            reported_of: TermHistory::default(),
            ever: BTreeMap::new(),
            rules: BTreeMap::new(),
            told: Vec::new(),
            leaderships: VecDeque::new(),
            cuts: Vec::new(),
            keeps_tape: false,
            apply_chance: setup.apply_pace,
            open: None,
            frozen: true,
            held_rules: VecDeque::new(),
            receiving: None,
            held: BTreeMap::new(),
            announced: BTreeMap::new(),
            keeper: Keeper::new(setup.keeper_pace),
            apply_upto: Lsn(0),
            applied: Position::default(),
            ends: BTreeMap::new(),
            history: None,
            tape: None,
        }
    }

    /// Starts the process on what its disk holds; first it takes over what shared memory has beyond it. Returns
    /// where its log ends. `goes_on`: the world's history has begun already.
    ///
    /// # Errors
    /// When the directory does not open.
    pub fn start(&mut self, goes_on: bool, env: &mut Env) -> Result<Lsn, OpenError> {
        let geometry = self.config.geometry;
        if self.disk.segments.is_empty() && self.config.role == StartRole::Primary {
            self.disk.segments.insert(0, 7);
        }
        self.config.log = self.disk.log;
        self.config.fresh =
            self.config.role == StartRole::Primary && self.disk.meta.adopted == Term::default();
        let arena = std::mem::take(&mut self.arena);
        let recovered = match self.disk.open(geometry, Some(&arena), &mut env.marks) {
            Ok(recovered) => recovered,
            Err(error) => {
                self.arena = arena;
                return Err(error);
            }
        };
        let end = recovered.end.lsn;
        // What lies below the log's start waits to be used again.
        self.disk.recycle(geometry, self.disk.meta.log_start);
        if self.config.applies {
            let walk = self.disk.walk(geometry);
            self.ends = walk.batches.iter().map(|b| (b.header.end, b.header.after())).collect();
        }
        self.rules.extend(recovered.rule.iter().chain(&recovered.pending_rule).cloned());
        (self.apply_upto, self.applied) = (Lsn(0), Position::default());
        self.history = Some(NodeHistory::new(&self.config, &recovered, goes_on));
        let meta = self.disk.meta.clone();
        self.tape = self.keeps_tape.then(|| Tape::new(&self.config, &recovered, &meta));
        self.node = Some(Node::new(self.config.clone(), recovered, meta));
        (self.halted, self.poisoned, self.stepped_down, self.stopped) = (None, false, false, false);
        (self.promotion_refused, self.excluded) = (false, None);
        self.frozen = true;
        self.drain(env);
        Ok(end)
    }

    /// The process is gone, and with it everything volatile. An arena is shared memory on a standby only.
    pub fn stop(&mut self) {
        self.node = None;
        self.open = None;
        self.receiving = None;
        self.inbox.clear();
        self.held.clear();
        self.held_rules.clear();
        self.announced.clear();
        let geometry = self.config.geometry;
        let cut = |span: Span| Cut { span, last: geometry.segment_of(span.start) };
        self.disk.half_cut = self.keeper.stop().map(cut);
        self.wishes.clear();
        self.history = None;
        self.troubles.paused = false;
        if !self.config.arena_outlives {
            self.arena = Bytes::default();
        }
    }

    /// What it has reported as written and flushed, as far as no other leader's log has taken the place since: of two
    /// that led beside each other the later need not know of the other's term at all.
    pub fn still_reported(&self) -> [Lsn; 2] {
        let first = |history: &TermHistory| history.entries().first().map_or(Lsn(0), |entry| entry.start);
        let (mut then, mut now) = (self.reported_of.clone(), self.disk.meta.history.clone());
        let known_from = first(&then).max(first(&now));
        then.prune_below(known_from);
        now.prune_below(known_from);
        let far = Lsn(u64::MAX);
        let fork = then.fork_point(far, &now, far);
        self.reported.map(|mark| mark.min(fork))
    }

    /// Whether it leads and takes appends now.
    pub fn accepts(&self) -> bool {
        !self.frozen && self.open.is_some() && self.node.is_some() && !self.troubles.paused
    }

    /// Whether it calls itself leader.
    pub fn leads(&self) -> bool {
        self.node.is_some() && self.history.as_ref().is_some_and(NodeHistory::is_leading)
    }

    /// Whether it leads, or was started to.
    pub fn contends(&self) -> bool {
        self.config.role == StartRole::Primary || self.leads()
    }

    /// What it has flushed; 0 while it is down.
    pub fn flushed(&self) -> Lsn {
        self.node.as_ref().map_or(Lsn(0), |node| node.watermarks().flushed.lsn)
    }

    /// Whether the inputs of this life, fed to a new node, give the same outputs; `None` without a tape.
    pub fn is_function_of_inputs(&self) -> Option<bool> {
        self.tape.as_ref().map(Tape::gives_the_same_again)
    }

    /// One turn: the clock, what has come in, the open batch, what comes out.
    pub fn turn(&mut self, env: &mut Env) {
        if self.node.is_none() || self.troubles.paused {
            return;
        }
        self.feed(Input::Tick { now_ns: env.now_ns });
        self.apply_some(env);
        for input in std::mem::take(&mut self.inbox) {
            self.feed(input);
        }
        self.pump(env);
        self.maybe_close_batch(env);
        self.drain(env);
        self.keep(env);
    }

    fn feed(&mut self, input: Input) {
        if let Some(tape) = &mut self.tape {
            tape.input(&input);
        }
        let Some(node) = &mut self.node else { return };
        if let Some(history) = self.history.as_mut().filter(|_| node.hears(&input)) {
            history.input(&input, &mut self.told);
        }
        node.handle(input);
    }

    /// The application goes on by a batch now and then.
    fn apply_some(&mut self, env: &mut Env) {
        while self.config.applies && env.rng.chance(self.apply_chance) {
            let next = self.ends.range(self.applied.lsn.plus(1)..).next();
            let Some((_, position)) = next.filter(|(end, _)| **end <= self.apply_upto) else { return };
            self.applied = *position;
            self.feed(Input::Applied { position: self.applied });
        }
    }

    fn drain(&mut self, env: &mut Env) {
        while let Some(output) = self.node.as_mut().and_then(Node::poll_output) {
            if let Some(history) = &mut self.history {
                history.output(&output, &mut self.told);
            }
            env.trace.say(env.now_ns, self.name, &output);
            if let Some(tape) = &mut self.tape {
                tape.output(&output);
            }
            self.carry_out(output, env);
        }
        self.show_gauge();
    }

    /// What the gate shows at a turn's end, for the checker to compare.
    fn show_gauge(&mut self) {
        let (Some(history), Some(node)) = (&mut self.history, &self.node) else { return };
        history.drained(&mut self.told);
        if !history.is_leading() {
            return;
        }
        for (stage, bytes) in Stage::ALL.into_iter().zip(node.exposure_bytes()) {
            let gauge = |exposure_bytes| towline_check::Event::Gauge { stage, exposure_bytes };
            self.told.extend(bytes.map(gauge));
        }
    }

    /// A read for a late standby: fails once if it must.
    fn read_segments(&mut self, span: Span, env: &mut Env) -> Option<Vec<u8>> {
        if std::mem::take(&mut self.troubles.read_fails) {
            sometimes!(env.marks, ReadFailed);
            return None;
        }
        sometimes!(env.marks, CatchUp);
        Some(self.disk.bytes.get(span))
    }
}

//! Log and replication behind one `Input`/`Output` pair.
//!
//! A turn of the driver: [`Node::handle`] a [`Input::Tick`] and everything that has happened since, then
//! [`Node::poll_output`] until `None`. The node settles (writes, sends, reports, acknowledges) when it is polled,
//! so that one turn makes one report and one pass over the tickets however many inputs it had. A run is a function
//! of its inputs: recorded and fed again, with a poll before each tick, they give the same outputs.
//!
//! | way | methods |
//! | --- | --- |
//! | the world in | `handle` |
//! | the world out | `poll_output`, `wants_batch`, `next_deadline_ns` |
//! | getters | `watermarks`, `status`, `hears` |

mod adopting;
mod config;
mod event_text;
mod following;
mod io;
mod leading;
mod meta_keeper;
mod pause;
mod promotion;
mod receiving;
mod reporting;
mod restart;
mod room;
mod sending;
mod settle;
mod shipping;
mod status;
mod unmet;

pub use crate::replication::{Ticket, TicketOutcome};
pub use config::{NodeConfig, StartRole};
pub use io::{BatchWish, Event, FreezeReason, Input, Output, PromoteRequest, Promoted, SealedBatch, Source};
pub use status::{NodeStatus, NodeWatermarks, PeerStatus, RoleStatus};

use std::collections::VecDeque;

use following::Following;
use leading::{Leading, RuleBook};
use meta_keeper::{AfterMeta, MetaKeeper};
use pause::Pause;
use promotion::Promotion;
use restart::Restart;
use shipping::Peer;

use crate::format::LogEnd;
use crate::log::{Recovered, SegmentPlan, Tail};
use crate::replication::CommitGate;
use crate::types::limits::MAX_STANDBYS;
use crate::types::{Lsn, Meta, PeerIndex, Term};

/// One shard's node: its log, its role, its sessions.
#[derive(Debug)]
pub struct Node {
    config: NodeConfig,
    now_ns: u64,
    out: VecDeque<Output>,
    unsettled: bool,
    role: Role,
    tail: Tail,
    segments: SegmentPlan,
    meta: MetaKeeper,
    gate: CommitGate,
    rules: RuleBook,
    /// Sessions that this node dialled: it ships on them.
    peers: Vec<Peer>,
    /// As a standby it ships on to its peers. Those of a primary are its standbys: once it follows, they are another's.
    relays: bool,
    /// The list of standbys becomes this as soon as the earlier ones are let go.
    next_standbys: Option<Vec<String>>,
    promotion: Option<Promotion>,
    pause: Option<Pause>,
    /// Sessions that dialled this node: it follows one of them.
    following: Following,
    /// Arena bytes below are given back.
    released: Lsn,
    /// The last batch is a seal.
    sealed: bool,
    last_batch_ns: u64,
    stopping: bool,
    /// Acknowledged at a remote level here, or could have been: no cut may take it.
    acknowledged: Lsn,
    /// When that was last put on its way to the meta block for its own sake.
    acknowledged_ns: u64,
    /// The operator knows that the sync rule is not met.
    unmet_told: bool,
}

/// What this node is doing.
#[derive(Debug)]
enum Role {
    /// Follows whoever may lead it.
    Standby,
    /// A started primary that may not lead yet.
    Restarting(Restart),
    /// The leader.
    Leading(Leading),
    /// Writes nothing any more; `why` is for the operator.
    Ended { why: String },
}

impl Node {
    /// A node over a recovered log. The first outputs are there to be polled.
    pub fn new(config: NodeConfig, recovered: Recovered, meta: Meta) -> Node {
        let mut segments = SegmentPlan::new(
            config.geometry,
            &recovered.segments,
            config.prepare_ahead,
            meta.log_start.max(config.geometry.first_batch(0)),
            config.retention_bytes,
        );
        recovered.rolls.iter().for_each(|stored_end| segments.rolled(*stored_end));
        let mut gate = CommitGate::new(config.node, config.unmet, recovered.end);
        let mut out = VecDeque::new();
        let mut peers = Vec::new();
        for (index, name) in config.standbys.iter().take(MAX_STANDBYS).enumerate() {
            let index = PeerIndex(index as u16);
            match gate.register(index, name) {
                Ok(()) => peers.push(Peer::new(index, name.clone())),
                Err(refused) => out.push_back(note(refused.to_string())),
            }
        }
        let rules = RuleBook::new(&recovered, &mut gate);
        let tail = Tail::new(config.geometry, config.flush_depth, recovered.end, recovered.previous_hash);
        let acknowledged = meta.acknowledged;
        let mut node = Node {
            now_ns: 0,
            out,
            unsettled: true,
            role: Role::Standby,
            tail,
            segments,
            meta: MetaKeeper::new(meta),
            gate,
            rules,
            peers,
            relays: config.role == StartRole::Standby,
            next_standbys: None,
            promotion: None,
            pause: None,
            following: Following::new(&recovered),
            released: recovered.end.lsn,
            sealed: recovered.sealed,
            last_batch_ns: 0,
            stopping: false,
            acknowledged,
            acknowledged_ns: 0,
            unmet_told: false,
            config,
        };
        if let Some(span) = recovered.cut {
            node.out.push_back(Output::Event(Event::Cut { span }));
        }
        match node.config.role {
            StartRole::Primary => node.begin_candidacy(Term::default()),
            StartRole::Standby => node.freeze(FreezeReason::Unavailable("this node is a standby".into())),
        }
        node
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input) {
        self.unsettled = true;
        match input {
            Input::Tick { now_ns } => self.handle_tick(now_ns),
            Input::BatchSealed(batch) => self.handle_batch_sealed(batch),
            Input::Ticket(ticket) => self.handle_ticket(ticket),
            Input::Wait { ticket, lsn, level } => self.handle_wait(ticket, lsn, level),
            Input::Cancel { ticket } => self.gate.cancel(ticket),
            Input::SetRule { request, rule } => self.handle_set_rule(request, &rule),
            Input::Promote(request) => self.handle_promote(request),
            Input::Pause { request, limit_ns } => self.handle_pause(request, limit_ns),
            Input::Resume => self.resume(),
            Input::Trim { below } => self.handle_trim(below),
            Input::Pressure { bytes } => self.handle_pressure(bytes),
            Input::Stop => self.handle_stop(),
            Input::Flushed { span, epoch } => self.handle_flushed(span, epoch),
            Input::WriteFailed { span, error } => self.poison(&format!("write of {span:?}: {error}")),
            Input::MetaWritten { sequence } => self.handle_meta_written(sequence),
            Input::MetaFailed { error } => self.poison(&format!("meta block: {error}")),
            Input::SegmentReady { seq, salt } => self.handle_segment_ready(seq, salt),
            Input::SegmentFailed { seq, error } => self.handle_segment_failed(seq, &error),
            Input::Truncated { end, previous_hash } => self.handle_truncated(end, previous_hash),
            Input::LogAdopted { log, geometry } => self.handle_log_adopted(log, geometry),
            Input::Connected { peer, session, nonce } => self.handle_connected(peer, session, nonce),
            Input::DialFailed { peer, error, jitter } => self.handle_dial_failed(peer, &error, jitter),
            Input::Accepted { session } => self.handle_accepted(session),
            Input::Disconnected { session, error, jitter } => {
                self.handle_disconnected(session, &error, jitter)
            }
            Input::Frame { session, frame } => self.handle_frame(session, frame),
            Input::Received { session, header, hash, rules } => {
                self.handle_received(session, &header, hash, rules);
            }
            Input::Sent { session, span } => self.handle_sent(session, span),
            Input::Applied { position } => self.handle_applied(position),
        }
    }

    /// The next thing to do; `None` when the turn is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.out.is_empty() && self.unsettled {
            self.unsettled = false;
            self.settle();
        }
        self.out.pop_front()
    }

    /// The node's own log end, as leaderships compare it.
    fn log_end(&self) -> LogEnd {
        let flushed = self.own_flushed();
        LogEnd { last_term: self.meta.get().history.last_term(flushed), flushed }
    }

    /// What is durable here and part of the log: condemned bytes are not.
    fn own_flushed(&self) -> Lsn {
        let flushed = self.tail.flushed().lsn;
        self.following.condemned.map_or(flushed, |span| span.start.min(flushed))
    }

    fn is_leading(&self) -> bool {
        matches!(self.role, Role::Leading(_))
    }

    fn has_ended(&self) -> bool {
        matches!(self.role, Role::Ended { .. })
    }

    fn freeze(&mut self, why: FreezeReason) {
        self.out.push_back(Output::Freeze { why });
    }

    fn say(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }

    /// Invariant 6: the first failed write or flush ends this log. No retry: after a failed flush the kernel may
    /// have dropped the dirty state, and a second one would lie.
    fn poison(&mut self, error: &str) {
        if self.has_ended() {
            return;
        }
        self.say(Event::Poisoned { error: error.to_owned() });
        self.freeze(FreezeReason::Poisoned(error.to_owned()));
        self.end_log(&format!("the log is poisoned: {error}"));
    }

    /// This node must not go on: it would lose what it promised.
    fn halt(&mut self, why: &str) {
        if self.has_ended() {
            return;
        }
        self.say(Event::Halted { why: why.to_owned() });
        self.freeze(FreezeReason::Unavailable(format!("halted: {why}")));
        self.end_log(why);
    }

    fn end_log(&mut self, why: &str) {
        self.fail_promotion(why);
        self.fail_pause(why);
        self.gate.fail_all(why);
        // Now: a node that has ended settles nothing any more, and those who wait would wait for ever.
        self.settle_gate();
        self.report_failing();
        self.close_all_sessions(why);
        self.role = Role::Ended { why: why.to_owned() };
        if self.stopping {
            self.out.push_back(Output::Stopped);
        }
    }

    /// Steps down: a higher term is out there. What waits ends as indeterminate.
    fn step_down(&mut self, why: &str) {
        self.fail_promotion(why);
        self.fail_pause(why);
        if !matches!(self.role, Role::Leading(_) | Role::Restarting(_)) {
            return;
        }
        self.say(Event::SteppedDown { why: why.to_owned() });
        self.freeze(FreezeReason::Fenced(why.to_owned()));
        self.gate.fail_all(why);
        self.close_peers(why);
        self.end_fetch();
        self.role = Role::Standby;
    }

    fn handle_meta_written(&mut self, sequence: u64) {
        let due = self.meta.written(sequence);
        if self.has_ended() {
            return;
        }
        for action in due {
            match action {
                AfterMeta::AskForTerm { term } => self.ask_for_term(term),
                AfterMeta::Lead { term } => self.maybe_lead(term),
                AfterMeta::SayAdopted { session, term, previous } => {
                    self.say_adopted(session, term, previous)
                }
                AfterMeta::Ready { session } => self.source_recorded(session),
                AfterMeta::Permit { upto } => self.following.permit(upto),
                AfterMeta::Started { at } => {
                    self.segments.started(at);
                    self.out.push_back(Output::Recycle { below: at });
                }
            }
        }
    }
}

fn note(text: String) -> Output {
    Output::Event(Event::Note { text })
}

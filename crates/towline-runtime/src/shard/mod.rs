//! One shard: a log, a ring, an arena, its connections, on one thread. Disk and sockets go through the same ring,
//! with one enter per turn.

pub(crate) mod batch;
pub(crate) mod brain;
pub(crate) mod clients;
pub(crate) mod core;
pub(crate) mod files;
mod hand_over;
mod outputs;
mod repeats;
pub(crate) mod seed;
pub(crate) mod sessions;
mod stop;
pub(crate) mod tag;
#[cfg(test)]
mod testing;
mod turn;
mod writes;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use towline_core::node::Output;
use towline_core::types::{Lsn, TicketId};
use towline_uring::{DirLock, RingFd};

use crate::apply::Applier;
use crate::exposure::ExposureHistogram;
use crate::handle::Readers;
use crate::handle::shared::Reply;
use crate::storage::{self, Keeper, ShardDir};
use batch::Batches;
use clients::Clients;
use core::{Answers, Core};
use hand_over::HandOvers;
use sessions::Sessions;
use writes::Writes;

pub(crate) use turn::Pace;

/// A shard at work. It lives and dies on one thread.
pub(crate) struct Shard {
    pub(crate) core: Core,
    batches: Batches,
    writes: Writes,
    sessions: Sessions,
    clients: Clients,
    keeper: Option<Keeper>,
    answers: Answers,
    /// Commands that the keeper had no place for.
    keeping: VecDeque<storage::Command>,
    dir: Arc<ShardDir>,
    applier: Option<Applier>,
    applied_told: u64,
    /// The node needs no arena byte below.
    release_to: Lsn,
    readers: Arc<Readers>,
    rule_requests: HashMap<u64, RuleAsker>,
    hand_overs: HandOvers,
    next_rule_request: u64,
    /// Tickets that were given up, until their batch is sealed.
    cancels: Vec<(TicketId, Lsn)>,
    counters: Counters,
    event: RingFd,
    event_armed: bool,
    hold_limit_ns: u64,
    spin_ns: u64,
    last_active_ns: u64,
    usual_gap_ns: u64,
    /// When the earliest timer in the ring is due.
    timer_ns: Option<u64>,
    /// What the node said behind something that cannot be done yet.
    held_outputs: VecDeque<Output>,
    node_stopped: bool,
    stop_asked_ns: Option<u64>,
    ended: Option<Result<(), String>>,
    about: About,
    arena_file: Option<PathBuf>,
    /// Freed last: a ring that still writes holds it too.
    lock: DirLock,
}

/// Who wants to hear of a rule change.
pub(crate) enum RuleAsker {
    Handle(Arc<Reply<Result<u64, String>>>),
    Client { client: u64, request: u64 },
}

/// What the status says of the storage.
pub(crate) struct About {
    pub(crate) primitive: String,
    pub(crate) flush_depth: usize,
}

/// Counters of this driver.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) turns: u64,
    pub(crate) acks: u64,
    pub(crate) indeterminate: u64,
    pub(crate) waited_for_window: u64,
    /// Per stage, with the acks up to the last observation.
    pub(crate) exposure: [ExposureHistogram; 3],
    pub(crate) observed_acks: u64,
}

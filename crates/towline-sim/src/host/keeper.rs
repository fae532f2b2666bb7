//! The runtime's keeper, mirrored (`storage/keeper.rs` there): segments are made, recycled and cut one after the other,
//! in their own time. A meta write overtakes makings and recyclings and no cut; what cannot be made is tried again
//! later, with all those behind it; an older file stays in place until the one that replaces it does.

use std::collections::{BTreeMap, VecDeque};

use towline_core::bugs::{Bug, bug};
use towline_core::node::Input;
use towline_core::types::{Lsn, Meta, Span};

use super::{Host, Troubles};
use crate::env::{Env, promise};
use crate::marks::sometimes;

/// What waits to be done.
#[derive(Debug, Default)]
pub struct Keeper {
    commands: VecDeque<Command>,
    /// Segments that could not be made yet.
    retries: BTreeMap<u64, Retry>,
    /// How likely a command is done within a turn.
    pace: f64,
}

#[derive(Debug)]
enum Command {
    /// `behind`: the meta write that was under way when it came; it is done before.
    Prepare {
        seq: u64,
        salt: Option<u32>,
        behind: u64,
    },
    Recycle {
        below: Lsn,
    },
    Truncate(Span),
    /// One that came behind a cut.
    WriteMeta(Meta),
}

#[derive(Debug)]
struct Retry {
    salt: Option<u32>,
    at_ns: u64,
    delay_ns: u64,
    /// `None`: it was not tried, because it lies behind another.
    error: Option<&'static str>,
}

impl Keeper {
    pub fn new(pace: f64) -> Keeper {
        Keeper { pace, ..Keeper::default() }
    }

    /// The process is gone: what waits is forgotten. A cut that may have begun.
    pub fn stop(&mut self) -> Option<Span> {
        let first = self.commands.pop_front();
        self.commands.clear();
        self.retries.clear();
        match first {
            Some(Command::Truncate(span)) => Some(span),
            _ => None,
        }
    }

    fn asks_again(&self, wanted: u64) -> bool {
        self.commands.iter().any(|command| matches!(command, Command::Prepare { seq, .. } if *seq == wanted))
    }

    /// A retry that is due, the lowest first.
    fn due(&self, now_ns: u64) -> Option<(u64, Option<u32>)> {
        let mut waiting = self.retries.iter();
        let (seq, retry) = if bug(Bug::SegmentBehindGap) {
            waiting.min_by_key(|(_, retry)| retry.at_ns)?
        } else {
            waiting.next()?
        };
        (retry.at_ns <= now_ns).then_some((*seq, retry.salt))
    }
}

impl Host {
    pub(super) fn ask_for_segment(&mut self, seq: u64, salt: Option<u32>) {
        let behind = self.disk.pending_meta.as_ref().map_or(0, |meta| meta.sequence);
        self.keeper.commands.push_back(Command::Prepare { seq, salt, behind });
    }

    pub(super) fn ask_to_recycle(&mut self, below: Lsn) {
        self.keeper.commands.push_back(Command::Recycle { below });
    }

    pub(super) fn ask_to_cut(&mut self, span: Span) {
        self.keeper.commands.push_back(Command::Truncate(span));
    }

    pub(super) fn ask_for_meta(&mut self, meta: Meta) {
        let stays = |command: &Command| matches!(command, Command::Truncate(_) | Command::WriteMeta(_));
        if self.keeper.commands.iter().any(stays) {
            self.keeper.commands.push_back(Command::WriteMeta(meta));
        } else {
            self.disk.pending_meta = Some(meta);
        }
    }

    /// What the thread gets done within a turn. The node hears of it in the next.
    pub(super) fn keep(&mut self, env: &mut Env) {
        let slowness = match self.troubles {
            Troubles { slow_fill: true, .. } => 100.0,
            Troubles { slow: true, .. } => 20.0,
            _ => 1.0,
        };
        let pace = self.keeper.pace / slowness;
        let first = self.config.geometry.segment_of(self.disk.meta.log_start);
        if self.keeper.commands.is_empty() {
            // What lies below the log's start is not needed any more, and holds up nothing.
            self.keeper.retries = self.keeper.retries.split_off(&first);
        }
        while self.node.is_some() && self.has_work(env.now_ns) && env.rng.chance(pace) {
            match self.keeper.commands.pop_front() {
                Some(Command::Prepare { seq, salt, .. }) => self.prepare(seq, salt, env),
                Some(Command::Recycle { below }) => self.recycle(below, env),
                Some(Command::Truncate(span)) => self.cut(span, env),
                Some(Command::WriteMeta(meta)) => self.disk.pending_meta = Some(meta),
                None => match self.keeper.due(env.now_ns) {
                    Some((seq, salt)) => self.prepare(seq, salt, env),
                    None => return,
                },
            }
        }
    }

    fn has_work(&self, now_ns: u64) -> bool {
        let under_way = self.disk.pending_meta.as_ref().map(|meta| meta.sequence);
        match self.keeper.commands.front() {
            Some(Command::Prepare { behind, .. }) => under_way.is_none_or(|sequence| sequence > *behind),
            Some(_) => under_way.is_none(),
            None => self.keeper.due(now_ns).is_some(),
        }
    }

    fn prepare(&mut self, seq: u64, salt: Option<u32>, env: &mut Env) {
        let retries = &mut self.keeper.retries;
        let is_behind = retries.range(..seq).next().is_some() && !bug(Bug::SegmentBehindGap);
        if is_behind {
            sometimes!(env.marks, HeldUp);
            let retry = Retry { salt, at_ns: env.now_ns, delay_ns: FIRST_RETRY_NS, error: None };
            retries.insert(seq, retry);
            return;
        }
        match self.make(seq, salt, env) {
            Ok(salt) => {
                self.keeper.retries.remove(&seq);
                sometimes!(env.marks, MadeTwice, self.keeper.asks_again(seq));
                self.inbox.push_back(Input::SegmentReady { seq, salt });
            }
            Err(error) => {
                let earlier = self.keeper.retries.remove(&seq);
                let is_new = earlier.as_ref().is_none_or(|retry| retry.error != Some(error));
                let delay_ns =
                    earlier.map_or(FIRST_RETRY_NS, |retry| (retry.delay_ns * 2).min(LAST_RETRY_NS));
                let at_ns = env.now_ns + delay_ns;
                self.keeper.retries.insert(seq, Retry { salt, at_ns, delay_ns, error: Some(error) });
                if is_new {
                    self.inbox.push_back(Input::SegmentFailed { seq, error: error.to_owned() });
                }
            }
        }
    }

    fn make(&mut self, seq: u64, salt: Option<u32>, env: &mut Env) -> Result<u32, &'static str> {
        let geometry = self.config.geometry;
        if let Some(found) = self.disk.segments.get(&seq).copied() {
            if salt.is_none_or(|salt| salt == found) {
                return Ok(found);
            }
            if self.disk.holds_batch(geometry, seq) {
                return Err("it holds batches under another salt; it must be cut first");
            }
        }
        let is_free = self.disk.pending.iter().all(|write| write.file.0 != seq);
        promise!(env, is_free, "segment {seq} is written to and made anew");
        let spare = self.disk.take_spare(salt);
        // Somebody makes room now and then; an old file needs none.
        if spare.is_none() && self.troubles.full && env.rng.chance(0.8) {
            return Err(env.rng.pick(&["no space left", "no space left", "the quota is used up"]));
        }
        let salt = salt.unwrap_or_else(|| env.rng.bits() as u32);
        self.disk.make(geometry, (seq, salt), spare, &mut env.marks);
        Ok(salt)
    }

    fn recycle(&mut self, below: Lsn, env: &mut Env) {
        sometimes!(env.marks, Trim);
        let below = below.min(self.disk.meta.log_start);
        self.disk.recycle(self.config.geometry, below);
        // There may be room now.
        self.keeper.retries.values_mut().for_each(|retry| retry.at_ns = env.now_ns);
    }

    fn cut(&mut self, span: Span, env: &mut Env) {
        let (geometry, to) = (self.config.geometry, span.start);
        let last = geometry.segment_of(to);
        self.keeper.retries.retain(|seq, _| *seq <= last);
        self.disk.cut(geometry, span);
        let walk = self.disk.walk(geometry);
        if self.disk.damaged && walk.end.lsn != to {
            // The copy that is kept of what was cut cannot be made: the operator has to look.
            self.halted = Some("its disk is damaged below the cut".to_owned());
            return;
        }
        promise!(env, walk.end.lsn == to, "a cut at {to}, where no batch ends ({})", walk.end.lsn);
        self.inbox.push_back(Input::Truncated { end: walk.end, previous_hash: walk.hash });
    }
}

const FIRST_RETRY_NS: u64 = 500_000;
const LAST_RETRY_NS: u64 = 8_000_000;

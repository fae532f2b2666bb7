//! What every part of a shard works with.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use towline_core::node::{Event, Input};
use towline_core::types::{Geometry, LogId, NodeId};
use towline_uring::{BufPool, Ring};

use super::brain::Brain;
use super::clients::{LongRecords, ReadMemory};
use super::files::Files;
use super::repeats::Repeats;
use crate::clock::now_ns;
use crate::handle::shared::ShardShared;
use crate::options::EventSink;

/// One shard's ring, files and state machine.
pub(crate) struct Core {
    pub(crate) ring: Ring,
    pub(crate) brain: Brain,
    pub(crate) files: Files,
    /// Buffers for frames and small receives.
    pub(crate) frames: BufPool,
    /// Receive buffers of client connections: one each, so that idle ones keep no other from being heard.
    pub(crate) client_bufs: BufPool,
    /// Send buffers of client connections: slow clients hold theirs for long, and never one of a session's.
    pub(crate) client_frames: BufPool,
    /// Memory for what is read of the log for clients.
    pub(crate) read_memory: Arc<ReadMemory>,
    /// Memory for what clients send that is longer than a connection's own part.
    pub(crate) long_records: LongRecords,
    pub(crate) shared: Arc<ShardShared>,
    pub(crate) log: LogId,
    pub(crate) geometry: Geometry,
    pub(crate) node_id: NodeId,
    pub(crate) now_ns: u64,
    /// Addresses of the standbys, in configuration order.
    pub(crate) peers: Vec<String>,
    /// Addresses of every standby that was named, by name: the configured ones come back when a promotion fails.
    pub(crate) addresses: HashMap<String, String>,
    pub(crate) zero_copy: bool,
    pub(crate) events: Events,
}

/// The last events, for the status; each also goes to whoever listens.
pub(crate) struct Events {
    shard: u16,
    sink: Option<EventSink>,
    /// Of the standbys, in configuration order.
    names: Vec<String>,
    /// They are no longer those that the listener knows.
    renamed: bool,
    last: VecDeque<String>,
    repeats: Repeats,
    pub(crate) counts: EventCounts,
}

/// How often things happened that an operator counts.
#[derive(Clone, Copy, Default)]
pub(crate) struct EventCounts {
    pub(crate) degraded: u64,
    pub(crate) standbys_lost: u64,
}

impl Events {
    pub(crate) fn new(shard: u16, sink: Option<EventSink>, names: Vec<String>) -> Events {
        let last = VecDeque::with_capacity(KEPT_EVENTS);
        Events {
            shard,
            sink,
            names,
            renamed: false,
            last,
            repeats: Repeats::default(),
            counts: EventCounts::default(),
        }
    }

    /// Says it, unless it has just been said: then every so often, with how often it was.
    pub(crate) fn say(&mut self, event: &Event) {
        match event {
            Event::Degraded { .. } => self.counts.degraded += 1,
            Event::StandbyLost { .. } => self.counts.standbys_lost += 1,
            Event::StandbyConnected { .. } => self.repeats.forget(),
            _ => {}
        }
        match event {
            Event::Note { .. }
            | Event::StandbyLost { .. }
            | Event::StandbyUnreachable { .. }
            | Event::StandbyMustResync { .. } => {
                let about = event.line(&self.names).to_string();
                self.say_of(&about, event);
            }
            _ => self.pass_on(event),
        }
    }

    /// As [`say`](Self::say), for an event whose text differs each time: `about` is what does not.
    pub(crate) fn say_of(&mut self, about: &str, event: &Event) {
        match self.repeats.once_more(about, now_ns()) {
            None => {}
            Some(1) => self.pass_on(event),
            Some(count) => self.pass_on(&counted(event, count)),
        }
    }

    fn pass_on(&mut self, event: &Event) {
        if let Some(sink) = &self.sink {
            if self.renamed && is_about_a_standby(event) {
                sink(self.shard, &Event::Note { text: event.line(&self.names).to_string() });
            } else {
                sink(self.shard, event);
            }
        }
        if self.last.len() == KEPT_EVENTS {
            self.last.pop_front();
        }
        self.last.push_back(event.line(&self.names).to_string());
    }

    pub(crate) fn rename(&mut self, names: Vec<String>) {
        self.names = names;
        self.renamed = true;
    }

    pub(crate) fn last(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }
}

/// Its line says a standby's name.
fn is_about_a_standby(event: &Event) -> bool {
    matches!(
        event,
        Event::StandbyConnected { .. }
            | Event::StandbyStreaming { .. }
            | Event::StandbyCatchingUp { .. }
            | Event::StandbyLost { .. }
            | Event::StandbyUnreachable { .. }
            | Event::StandbyMustResync { .. }
            | Event::StandbyExcluded { .. }
            | Event::StandbyIncluded { .. }
    )
}

/// The keeper's answers on their way to the shard.
pub(crate) type Answers = Arc<ArrayQueue<Input>>;

/// The same with how often it has happened.
fn counted(event: &Event, count: u64) -> Event {
    let with_count = |text: &String| format!("{text} ({count} times so far)");
    match event {
        Event::Note { text } => Event::Note { text: with_count(text) },
        Event::StandbyLost { peer, why } => Event::StandbyLost { peer: *peer, why: with_count(why) },
        Event::StandbyUnreachable { peer, why } => {
            Event::StandbyUnreachable { peer: *peer, why: with_count(why) }
        }
        Event::StandbyMustResync { peer, why } => {
            Event::StandbyMustResync { peer: *peer, why: with_count(why) }
        }
        other => other.clone(),
    }
}

const KEPT_EVENTS: usize = 32;

//! One turn of the loop: what has happened goes in, what was decided is carried out, and one enter submits it all.

use std::sync::atomic::Ordering;
use std::time::Duration;

use towline_core::node::{Input, TicketOutcome};
use towline_core::types::Lsn;
use towline_uring::{Completion, EventFd, RingError, Wait};

use super::batch::Surroundings;
use super::clients::connection::Asked;
use super::hand_over::{PauseAsker, PromotionAsker};
use super::tag::Tag;
use super::{RuleAsker, Shard};
use crate::clock::now_ns;
use crate::handle::Handle;
use crate::handle::shared::{Command, UNDEFINED};
use crate::status::{DriverStatus, ShardStatus};

/// How the host goes on after a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// Come back at once; yield in between.
    Spin,
    /// Sleep until something happens, at most this long.
    Park(Duration),
    /// The shard has ended.
    Ended,
}

impl Shard {
    /// Submits what the last turn queued, collects what is ready, and takes a turn if there is anything to do.
    pub(crate) fn turn(&mut self) -> Pace {
        let ready = match self.core.ring.submit_and_wait(Wait::Poll) {
            Ok(ready) => ready,
            Err(error) => {
                self.ring_failed(&error);
                0
            }
        };
        self.core.now_ns = now_ns();
        let brought = self.has_outside_work();
        if ready > 0 || brought || self.has_own_work() {
            let moved = self.work();
            if moved || brought {
                self.note_activity();
            }
        }
        self.pace()
    }

    /// Submits, and sleeps in the ring. For hosts whose thread is the shard's alone.
    pub(crate) fn sleep(&mut self, limit: Duration) {
        let wake = self.core.shared.wake.clone();
        wake.park();
        // After the announcement: whoever brings work from now on wakes the ring.
        let limit = if self.has_outside_work() { Duration::ZERO } else { limit };
        if let Err(error) = self.core.ring.submit_and_wait(Wait::Until(limit)) {
            self.ring_failed(&error);
        }
        wake.unpark();
    }

    /// For hosts that sleep outside the ring: its completions signal the eventfd that producers signal.
    pub(crate) fn share_event(&mut self) -> std::io::Result<&EventFd> {
        let event = self.core.shared.wake.event();
        self.core.ring.register_eventfd(event).map_err(std::io::Error::other)?;
        // The host reads the counter, not the ring.
        self.event_armed = true;
        Ok(event)
    }

    /// Announces a sleep on the eventfd. False when there is work, or a completion, after all.
    pub(crate) fn begin_sleep(&mut self, limit: Duration) -> bool {
        let wake = self.core.shared.wake.clone();
        wake.park();
        let timed = self.set_timer(limit);
        let ready = self.core.ring.submit_and_wait(Wait::Poll);
        if timed && ready.is_ok_and(|ready| ready == 0) && !self.has_outside_work() {
            return true;
        }
        self.end_sleep();
        false
    }

    pub(crate) fn end_sleep(&mut self) {
        self.core.shared.wake.unpark();
    }

    /// The limit is an operation of the ring: its completion signals the eventfd. One that is due early enough
    /// already serves this sleep too.
    fn set_timer(&mut self, limit: Duration) -> bool {
        let due_ns = self.core.now_ns + limit.as_nanos() as u64;
        if self.timer_ns.is_some_and(|set_ns| set_ns <= due_ns + TIMER_SLACK_NS) {
            return true;
        }
        let set = self.core.ring.timeout(limit, Tag::Timer.pack()).is_ok();
        self.timer_ns = set.then_some(due_ns).or(self.timer_ns);
        set
    }

    fn ring_failed(&mut self, error: &RingError) {
        // Nothing can be written, sent or heard any more.
        self.ended.get_or_insert_with(|| Err(format!("the ring failed: {error}")));
    }

    /// Brought by other threads.
    pub(crate) fn has_outside_work(&self) -> bool {
        self.core.shared.has_work()
            || !self.answers.is_empty()
            || self.writes.has_flushed()
            || self.batches.wants_turn(self.core.ring.arena(), &self.core.brain.node)
            || self.applier.as_ref().is_some_and(|applier| applier.told() != self.applied_told)
            || self.clients.has_read()
    }

    fn has_own_work(&self) -> bool {
        // The node has something to say from the first moment; a host that reads the event itself would sleep on it.
        self.counters.turns == 0
            || !self.event_armed
            || self.node_stopped
            || self.next_deadline_ns().is_some_and(|deadline| deadline <= self.core.now_ns)
    }

    /// One turn; whether a completion was more than a timer's.
    fn work(&mut self) -> bool {
        self.counters.turns += 1;
        let now_ns = self.core.now_ns;
        let mut moved = false;
        self.core.brain.handle(Input::Tick { now_ns });
        while let Some(completion) = self.core.ring.next_completion() {
            moved |= self.complete(completion);
        }
        self.take_answers();
        while let Some(command) = self.core.shared.next_command() {
            self.obey(command);
        }
        self.take_pressure();
        self.clients.drive(&mut self.core, &mut self.batches, &mut self.cancels);
        while let Some((client, asked)) = self.clients.next_asked() {
            self.answer(client, asked);
        }
        self.drive_batches();
        self.drive_outputs();
        self.drive_keeper();
        self.release();
        if let Some(position) = self.sessions.drive(&mut self.core) {
            self.batches.set_position(position);
        }
        self.clients.drive(&mut self.core, &mut self.batches, &mut self.cancels);
        self.sessions.relieve(&mut self.core, self.release_to);
        self.arm_event();
        // A fault found while submitting is an input, too; its outputs must not wait for the next event.
        self.drive_outputs();
        self.publish();
        self.drive_stop();
        moved
    }

    /// How long to spin follows from how long the shard was idle between its last events.
    fn note_activity(&mut self) {
        let gap_ns = self.core.now_ns.saturating_sub(self.last_active_ns).min(LONGEST_SLEEP_NS);
        self.usual_gap_ns = (7 * self.usual_gap_ns + gap_ns) / 8;
        self.last_active_ns = self.core.now_ns;
    }

    fn complete(&mut self, completion: Completion) -> bool {
        match Tag::unpack(completion.tag) {
            Tag::Write(slot) => {
                let geometry = self.core.geometry;
                let core = &mut self.core;
                let ended =
                    self.writes.complete(&mut core.ring, &mut core.files, geometry, slot, completion.result);
                if let Some(input) = ended {
                    core.brain.handle(input);
                }
            }
            tag @ (Tag::RecvStage(_)
            | Tag::RecvArena(_)
            | Tag::RecvArmed(_)
            | Tag::Send(_)
            | Tag::Connect(_)
            | Tag::Read(_)) => {
                if let Some(position) = self.sessions.complete(&mut self.core, tag, completion) {
                    self.batches.set_position(position);
                }
            }
            tag @ (Tag::ClientRecv(_) | Tag::ClientSend(_)) => self.clients.complete(tag, completion),
            Tag::Event => self.event_armed = false,
            Tag::Timer => {
                self.timer_ns = None;
                return false;
            }
            Tag::Ignored => return false,
        }
        true
    }

    /// The keeper's, the flusher's and the applier's.
    fn take_answers(&mut self) {
        while let Some(input) = self.answers.pop() {
            match &input {
                Input::Truncated { end, .. } => self.batches.set_position(*end),
                // Made anew, perhaps under another salt: the ring must not write to the file before it.
                Input::SegmentReady { seq, .. } => {
                    let made = *seq;
                    if let Err(error) = self.core.files.release(&mut self.core.ring, |seq| seq == made) {
                        self.ring_failed(&error);
                    }
                }
                _ => {}
            }
            self.core.brain.handle(input);
        }
        while let Some(input) = self.writes.next_flushed() {
            self.core.brain.handle(input);
        }
        let Some(applier) = &self.applier else { return };
        let told = applier.told();
        if told != self.applied_told {
            self.applied_told = told;
            if let Some(position) = applier.applied() {
                self.core.brain.handle(Input::Applied { position });
            }
        }
        if let Some(why) = applier.take_failure() {
            let text = format!("applying has ended: {why}; restart the node once the application can go on");
            self.core.events.say(&towline_core::node::Event::Note { text });
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::SetRule { rule, reply } => self.change_rule(rule, RuleAsker::Handle(reply)),
            Command::Promote { promotion, reply } => self.promote(promotion, PromotionAsker::Handle(reply)),
            Command::Pause { limit, reply } => self.pause(limit, PauseAsker::Handle(reply)),
            Command::Resume => self.core.brain.handle(Input::Resume),
            Command::Trim { below } => self.core.brain.handle(Input::Trim { below }),
            Command::Wait { ticket, lsn, level } => {
                self.core.brain.handle(Input::Wait { ticket, lsn, level })
            }
            Command::Cancel { ticket, lsn } => self.cancels.push((ticket, lsn)),
            Command::Connection(new) => match new.hello.role {
                towline_core::format::HelloRole::Upstream => {
                    self.sessions.accept(&mut self.core, new.socket, new.hello);
                }
                towline_core::format::HelloRole::Client => self.clients.accept(&mut self.core, new.socket),
            },
            Command::Resolved { peer, address } => self.sessions.resolved(&mut self.core, peer, address),
            Command::Stop => self.begin_stop(),
        }
    }

    fn change_rule(&mut self, rule: String, asker: RuleAsker) {
        let request = self.next_rule_request;
        self.next_rule_request += 1;
        self.rule_requests.insert(request, asker);
        self.core.brain.handle(Input::SetRule { request, rule });
    }

    fn answer(&mut self, client: u64, asked: Asked) {
        match asked {
            Asked::Wait { ticket, lsn, level } => self.core.brain.handle(Input::Wait { ticket, lsn, level }),
            Asked::SetRule { request, rule } => self.change_rule(rule, RuleAsker::Client { client, request }),
            Asked::Trim { request, below } => {
                let refused = self.core.brain.node.trim_refusal().unwrap_or_default();
                self.core.brain.handle(Input::Trim { below });
                self.clients.done(client, request, refused.to_owned());
            }
            Asked::Promote { request, promotion } => {
                self.promote(promotion, PromotionAsker::Client { client, request });
            }
            Asked::Pause { request, limit } => self.pause(limit, PauseAsker::Client { client, request }),
            Asked::Resume { request } => {
                self.core.brain.handle(Input::Resume);
                self.clients.done(client, request, String::new());
            }
            Asked::Tail { from, unsafe_too } => {
                let tail = self.handle().tail(from, !unsafe_too);
                self.clients.follow(client, tail, &self.core);
            }
            Asked::ReadLog { span } => self.clients.read_log(client, span, &self.core),
            Asked::Status => {
                let json =
                    serde_json::to_string(&self.status()).unwrap_or_else(|error| format!("\"{error}\""));
                self.clients.push(client, &towline_core::format::Frame::Status { json });
            }
        }
    }

    fn handle(&self) -> Handle {
        let segments = self.core.files.segments().clone();
        Handle::new(std::sync::Arc::clone(&self.core.shared), segments, std::sync::Arc::clone(&self.readers))
    }

    fn take_pressure(&mut self) {
        let bytes = self.core.shared.marks.pressure.swap(0, Ordering::AcqRel);
        if bytes > 0 {
            self.core.brain.handle(Input::Pressure { bytes });
        }
    }

    fn drive_batches(&mut self) {
        let core = &mut self.core;
        let mut with = Surroundings {
            arena: core.ring.arena_mut(),
            shared: &core.shared,
            brain: &mut core.brain,
            files: &core.files,
            log: core.log,
            geometry: core.geometry,
            now_ns: core.now_ns,
            hold_limit_ns: self.hold_limit_ns,
            flushes: self.writes.flushes,
            acks: self.counters.acks,
        };
        if let Err(fault) = self.batches.turn(&mut with) {
            core.brain.handle(fault.into_input());
        }
        // Not through the node: it may lead again by now, and none of their bytes are in its log.
        while let Some(ticket) = self.batches.next_orphan() {
            let why = "this node no longer leads".to_owned();
            self.ack(ticket, &TicketOutcome::Indeterminate(why));
        }
        let core = &mut self.core;
        // Only what the node has heard of can be cancelled there.
        let unsealed = self.batches.unsealed_from(core.ring.arena());
        let brain = &mut core.brain;
        self.cancels.retain(|(ticket, lsn)| {
            let known = lsn.0 < unsealed;
            if known {
                brain.handle(Input::Cancel { ticket: *ticket });
            }
            !known
        });
    }

    fn release(&mut self) {
        let arena = self.core.ring.arena_mut();
        if arena.floor() < self.release_to.0 {
            let before = arena.floor();
            if arena.release(self.release_to.0) > before {
                self.batches.raise_limit(arena, &self.core.shared, self.core.now_ns);
            }
        }
    }

    fn arm_event(&mut self) {
        if !self.event_armed {
            self.event_armed = self.core.ring.read_event(self.event, Tag::Event.pack()).is_ok();
        }
    }

    /// Publishes what readers and producers look at without asking.
    fn publish(&mut self) {
        let marks = &self.core.shared.marks;
        let now = self.core.brain.node.watermarks();
        let safe = now.safe.min(now.flushed.lsn);
        let set = |mark: &std::sync::atomic::AtomicU64, lsn: Lsn| {
            mark.load(Ordering::Relaxed) != lsn.0 && {
                mark.store(lsn.0, Ordering::Release);
                true
            }
        };
        let mut moved = set(&marks.flushed, now.flushed.lsn);
        moved |= set(&marks.safe, safe);
        moved |= set(&marks.applied, now.applied);
        for (marks, now) in marks.standbys.iter().zip(self.core.brain.node.standby_watermarks()) {
            set(&marks[0], now.written.lsn);
            set(&marks[1], now.flushed.lsn);
            set(&marks[2], now.applied.lsn);
        }
        set(&marks.end, now.end.lsn);
        set(&marks.log_start, now.log_start);
        let counters = &mut self.counters;
        let has_acknowledged = counters.observed_acks != counters.acks;
        counters.observed_acks = counters.acks;
        let exposure = self.core.brain.node.exposure_bytes();
        for ((mark, seen), exposed) in marks.exposure.iter().zip(&mut counters.exposure).zip(exposure) {
            mark.store(exposed.unwrap_or(UNDEFINED), Ordering::Relaxed);
            if has_acknowledged && let Some(bytes) = exposed {
                seen.observe(bytes);
            }
        }
        let (rule_version, has_rule) = self.core.brain.node.rule();
        marks.rule_version.store(rule_version, Ordering::Relaxed);
        marks.has_rule.store(has_rule, Ordering::Release);
        if moved {
            self.core.shared.progress.changed();
        }
        if self.core.shared.status.is_asked() {
            let status = self.status();
            self.core.shared.status.serve(|| status);
        }
    }

    pub(super) fn status(&self) -> ShardStatus {
        let ring = self.core.ring.stats();
        let arena = self.core.ring.arena();
        let totals = self.sessions.totals();
        let top = arena.reserved_end().unwrap_or_else(|| arena.published());
        ShardStatus {
            shard: self.core.shared.shard,
            log: self.core.log,
            geometry: self.core.geometry,
            node_id: self.core.node_id,
            node: self.core.brain.node.status(),
            driver: DriverStatus {
                turns: self.counters.turns,
                enters: ring.enters,
                submitting: ring.submitting,
                waits: ring.waits,
                submissions: ring.submissions,
                completions: ring.completions,
                flushes: self.writes.flushes,
                flushed_bytes: self.writes.bytes,
                batches: self.batches.sealed,
                acks: self.counters.acks,
                indeterminate: self.counters.indeterminate,
                waited_for_window: self.counters.waited_for_window,
                degraded_acks: self.core.brain.node.weaker_acks(),
                exposure_at_acks: self.counters.exposure,
                sent_bytes: totals.sent_bytes,
                received_bytes: totals.received_bytes,
                catch_up_bytes: totals.catch_up_bytes,
                sessions_cut_for_room: self.sessions.cut_for_room,
                sessions: self.sessions.count() as u64,
                clients: self.clients.count() as u64,
                arena_bytes: arena.size(),
                arena_used_bytes: top.saturating_sub(arena.floor()),
                arena_registered: self.core.ring.registered(),
                primitive: self.about.primitive.clone(),
                flush_depth: self.about.flush_depth as u64,
                writes_in_flight: self.writes.in_flight() as u64,
            },
            events: self.core.events.last(),
        }
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        let node = self.core.brain.node.next_deadline_ns();
        let retry = self.is_waiting().then(|| self.last_active_ns + RETRY_NS);
        let stop = self.stop_asked_ns.map(|asked| asked.max(self.last_active_ns + RETRY_NS));
        [node, retry, stop, self.sessions.next_deadline_ns(), self.clients.next_deadline_ns()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Something could not go on and is tried again, without any event to tell when.
    fn is_waiting(&self) -> bool {
        self.batches.is_waiting()
            || self.sessions.is_waiting()
            || self.clients.is_waiting(&self.core.long_records)
            || !self.keeping.is_empty()
            || !self.held_outputs.is_empty()
            || !self.cancels.is_empty()
            || self.core.ring.arena().floor() < self.release_to.0
    }

    fn pace(&self) -> Pace {
        if self.ended.is_some() {
            return Pace::Ended;
        }
        let now_ns = self.core.now_ns;
        let idle_ns = now_ns.saturating_sub(self.last_active_ns);
        let answered = self.counters.acks + self.counters.indeterminate;
        let expects = self.writes.in_flight() > 0
            || self.sessions.has_sends()
            || self.clients.has_sends()
            || self.batches.handed_over > answered;
        let spin_ns = match (expects, self.usual_gap_ns) {
            _ if self.spin_ns == 0 => 0,
            (true, _) => EXPECTING_SPIN_NS,
            (false, gap_ns) if gap_ns < BUSY_GAP_NS => 2 * gap_ns,
            _ => 0,
        };
        if idle_ns < spin_ns.max(self.spin_ns) {
            return Pace::Spin;
        }
        let until =
            self.next_deadline_ns().map_or(LONGEST_SLEEP_NS, |deadline| deadline.saturating_sub(now_ns));
        if until == 0 { Pace::Spin } else { Pace::Park(Duration::from_nanos(until.min(LONGEST_SLEEP_NS))) }
    }
}

/// What waits without an event is tried again this often.
const RETRY_NS: u64 = 50_000;
/// While the disk or a peer owes an answer, parking would cost more than it saves; but not for ever.
const EXPECTING_SPIN_NS: u64 = 3_000_000;
/// Events that come faster than this are worth spinning for.
const BUSY_GAP_NS: u64 = 1_000_000;
const TIMER_SLACK_NS: u64 = 1_000_000;
const LONGEST_SLEEP_NS: u64 = 1_000_000_000;

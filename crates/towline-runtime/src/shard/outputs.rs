//! Carrying out what the node decided, in its order.

use std::sync::atomic::Ordering;

use towline_core::format::BatchHeader;
use towline_core::node::{Event, FreezeReason, Input, Output, TicketOutcome};
use towline_core::types::limits::{BATCH_HEADER_BYTES, MAX_TERM_HISTORY};
use towline_core::types::{Geometry, LogId, Lsn, Span, TermHistory, TicketId};
use towline_uring::ArenaError;

use super::Shard;
use super::clients::is_client;
use super::writes::Fault;
use crate::storage;

impl Shard {
    /// Carries out everything the node has to say. What has to wait holds up all behind it: the order counts.
    pub(super) fn drive_outputs(&mut self) {
        while let Some(output) = self.held_outputs.pop_front() {
            if self.must_wait(&output) {
                self.held_outputs.push_front(output);
                break;
            }
            self.carry_out_or_tell(output);
        }
        while let Some(output) = self.core.brain.poll_output() {
            if self.held_outputs.is_empty() && !self.must_wait(&output) {
                self.carry_out_or_tell(output);
            } else {
                self.held_outputs.push_back(output);
            }
        }
    }

    fn carry_out_or_tell(&mut self, output: Output) {
        if let Err(fault) = self.carry_out(output) {
            self.core.brain.handle(fault.into_input());
        }
    }

    /// A restarted primary that has fetched a tail begins its term where it was still receiving: the receive is
    /// called off, and its place is free when it has ended. A batch that came whole and that the node did not take (its
    /// place, its term or what it follows was wrong) lies where the term begins: it is in nobody's log, and goes. So
    /// does the open batch of an earlier term, once its producers are done with it.
    fn must_wait(&mut self, output: &Output) -> bool {
        let Output::PutHeader { header } = output else { return false };
        if self.core.shared.marks.leading.load(Ordering::Relaxed) {
            return false;
        }
        self.sessions.stop_receiving(&mut self.core);
        if self.batches.is_orphaned() {
            return true;
        }
        let start = header.start.0;
        let arena = self.core.ring.arena_mut();
        if arena.is_being_filled(start..u64::MAX) {
            return true;
        }
        arena.published() > start && matches!(arena.rewind(start), Err(ArenaError::Busy))
    }

    fn carry_out(&mut self, output: Output) -> Result<(), Fault> {
        match output {
            Output::OpenBatch { start, limit, preamble } => {
                self.sessions.stop_receiving(&mut self.core);
                self.batches.open(start, limit, preamble);
            }
            Output::AppendRule { version, rule } => self.batches.append_rule(version, rule),
            Output::PutHeader { header } => self.put_header(&header)?,
            Output::Write { span, epoch } => self.write(span, epoch)?,
            Output::PrepareSegment { seq, salt } => self.keep(storage::Command::Prepare { seq, salt }),
            Output::Recycle { below } => {
                let geometry = self.core.geometry;
                // The keeper uses a file again only when nobody holds it.
                if let Err(error) = self.core.files.release_below(&mut self.core.ring, geometry, below) {
                    self.core
                        .events
                        .say(&Event::Note { text: format!("letting go of old segments: {error}") });
                }
                self.keep(storage::Command::Recycle { below });
            }
            Output::WriteMeta { meta } => self.keep(storage::Command::WriteMeta(meta)),
            Output::Truncate { to, until } => self.truncate(to, until),
            Output::Freeze { why } => self.freeze(why),
            Output::Release { below } => self.release_to = self.release_to.max(below),
            Output::AdoptLog { log, geometry } => self.adopt_log(log, geometry),
            Output::Dial { peer } => self.sessions.dial(&mut self.core, peer),
            Output::Frame { session, frame } => self.sessions.push_frame(&mut self.core, session, &frame),
            Output::Send { session, span, source } => self.sessions.push_log(session, span, source),
            Output::Close { session, why } => self.sessions.close(&mut self.core, session, why),
            Output::Receive { session, at, credit } => self.sessions.receive(session, at, credit),
            Output::Ack { ticket, outcome } => self.ack(ticket, &outcome),
            Output::RuleChange { request, result } => self.rule_changed(request, result),
            Output::Promoted { request, result } => self.promoted(request, result),
            Output::Paused { request, result } => self.paused(request, result),
            Output::Standbys { names } => self.standbys_change(names),
            Output::Apply { upto } => {
                if let Some(applier) = &self.applier {
                    applier.apply_to(upto);
                }
            }
            Output::ResetApply { from } => {
                if let Some(applier) = &self.applier {
                    applier.reset(from);
                }
            }
            Output::Event(event) => self.say(&event),
            Output::Stopped => self.node_stopped = true,
        }
        Ok(())
    }

    /// The header goes to its place, the padding becomes zeros: the bytes are now what disk and standbys get.
    fn put_header(&mut self, header: &BatchHeader) -> Result<(), Fault> {
        let stored = header.stored();
        let seq = self.core.geometry.segment_of(header.start);
        let Some(salt) = self.core.files.salt(seq) else {
            return Err(Fault::new(stored, &format!("segment {seq} is not in place")));
        };
        let body_end = (BATCH_HEADER_BYTES + u64::from(header.body_bytes)) as usize;
        let arena = self.core.ring.arena_mut();
        let Some(bytes) = arena.bytes_mut(stored.start.0..stored.end.0) else {
            return Err(Fault::new(stored, "the place of its header is in use"));
        };
        bytes[..BATCH_HEADER_BYTES as usize].copy_from_slice(&header.encode(salt));
        bytes[body_end..].fill(0);
        if let Err(error) = arena.publish(stored.end.0) {
            return Err(Fault::new(stored, &error.to_string()));
        }
        self.batches.set_position(header.after());
        Ok(())
    }

    fn write(&mut self, span: Span, epoch: u64) -> Result<(), Fault> {
        let geometry = self.core.geometry;
        self.writes.begin(&mut self.core.ring, &mut self.core.files, geometry, span, epoch)
    }

    /// A cut waits for the writes that it would meet: the node begins none meanwhile.
    fn truncate(&mut self, to: Lsn, until: Lsn) {
        if let Some(applier) = &self.applier {
            applier.hold_beyond(to);
        }
        let geometry = self.core.geometry;
        let first = geometry.segment_of(to);
        // What was given back beyond is to be received anew.
        self.release_to = self.release_to.min(to);
        // The keeper zeroes and removes files: the ring lets go of them first.
        if let Err(error) = self.core.files.release(&mut self.core.ring, |seq| seq >= first) {
            self.core.events.say(&Event::Note { text: format!("letting go of cut segments: {error}") });
        }
        self.core.shared.marks.cut_to.store(to.0, Ordering::Release);
        self.core.shared.marks.cuts.fetch_add(1, Ordering::AcqRel);
        self.keep(storage::Command::Truncate { to, until });
    }

    fn freeze(&mut self, why: FreezeReason) {
        if !matches!(why, FreezeReason::Full(_)) {
            self.core.shared.marks.leading.store(false, Ordering::Release);
        }
        // The reason first: who finds the arena frozen asks for it.
        self.core.shared.set_freeze_reason(why);
        self.batches.freeze(self.core.ring.arena_mut());
        self.core.shared.room.changed();
    }

    /// Once in a node's life, before it has any byte: the shard may wait for it.
    fn adopt_log(&mut self, log: LogId, geometry: Geometry) {
        let input = match self.dir.adopt_identity(log, geometry) {
            Ok(()) => {
                (self.core.log, self.core.geometry) = (log, geometry);
                Input::LogAdopted { log, geometry }
            }
            Err(error) => Input::MetaFailed { error: error.to_string() },
        };
        self.core.brain.handle(input);
    }

    pub(super) fn ack(&mut self, ticket: TicketId, outcome: &TicketOutcome) {
        match outcome {
            TicketOutcome::Committed(committed) => {
                self.counters.acks += 1;
                self.counters.waited_for_window += u64::from(committed.waited_for_window);
            }
            TicketOutcome::Indeterminate(_) | TicketOutcome::Refused(_) => self.counters.indeterminate += 1,
        }
        if is_client(ticket) {
            self.clients.acked(ticket, outcome);
        } else {
            self.core.shared.slots.complete(ticket, outcome);
        }
    }

    fn rule_changed(&mut self, request: u64, result: Result<u64, String>) {
        match self.rule_requests.remove(&request) {
            Some(super::RuleAsker::Handle(reply)) => reply.put(result),
            Some(super::RuleAsker::Client { client, request }) => {
                self.clients.done(client, request, result.err().unwrap_or_default());
            }
            None => {}
        }
    }

    fn say(&mut self, event: &Event) {
        self.core.events.say(event);
        if let Event::Leading { history } = event
            && let Some(text) = history_warning(history, self.core.geometry)
        {
            self.core.events.say(&Event::Note { text });
        }
    }

    /// Hands a command to the keeper; one that it has no place for waits its turn.
    pub(super) fn keep(&mut self, command: storage::Command) {
        self.keeping.push_back(command);
        self.drive_keeper();
    }

    pub(super) fn drive_keeper(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        while let Some(command) = self.keeping.pop_front() {
            match keeper.send(command) {
                Ok(()) => {}
                Err(storage::SendError::Busy(command)) => {
                    self.keeping.push_front(*command);
                    return;
                }
                Err(storage::SendError::Ended) => {
                    self.core
                        .brain
                        .handle(Input::MetaFailed { error: "the keeper's thread has ended".to_owned() });
                    return;
                }
            }
        }
    }
}

/// A start that finds the term history full waits for a trim before it leads: said while there is time for one.
fn history_warning(history: &TermHistory, geometry: Geometry) -> Option<String> {
    let entries = history.entries();
    let left = MAX_TERM_HISTORY.checked_sub(entries.len())?;
    if entries.len() < WARN_TERMS {
        return None;
    }
    let present = geometry.segment_of(entries.last()?.start);
    let in_present = entries.iter().filter(|entry| geometry.segment_of(entry.start) == present).count();
    Some(format!(
        "{} of {MAX_TERM_HISTORY} terms are in the history since the log's start: trim the log, or this primary will wait \
         for that before it leads, after {left} more restarts; the {in_present} that begin in the present segment ({} to {}) stay until \
         the log has gone on to the next",
        entries.len(),
        geometry.segment_start(present),
        geometry.segment_end(present),
    ))
}

/// Three quarters of what a history can hold.
const WARN_TERMS: usize = MAX_TERM_HISTORY / 4 * 3;

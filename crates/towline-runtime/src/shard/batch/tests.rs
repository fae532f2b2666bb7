//! Gathering, with a made clock: how long a free slot waits for company.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tempfile::TempDir;
use towline_core::log::Recovered;
use towline_core::node::{FreezeReason, NodeConfig, Output, StartRole};
use towline_core::types::{Level, Meta, NodeId};
use towline_uring::Wake;

use super::*;
use crate::handle::{Handle, Readers, Ticket as Waiting};
use crate::shard::testing::{ARENA_BYTES, GEOMETRY, LOG, START, arena, files};

/// A leading node with one flush slot, its batches and its producers; the disk is the test's word.
struct Rig {
    _folder: TempDir,
    arena: ArenaOwner,
    shared: Arc<ShardShared>,
    brain: Brain,
    files: Files,
    batches: Batches,
    handle: Handle,
    flushes: u64,
    acks: u64,
    writing: Option<(Span, u64)>,
    tickets: Vec<Waiting>,
}

impl Rig {
    fn leading(now_ns: u64) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let (mut arena, files) = (arena(), files(&folder, &[]));
        let shared = Arc::new(ShardShared::new(0, arena.appender(), Wake::new().unwrap(), false));
        arena.freeze();
        let segments = files.segments().clone();
        let handle = Handle::new(Arc::clone(&shared), segments, Arc::new(Readers::new(Vec::new())));
        let position = Position { lsn: START, ..Position::default() };
        let config = NodeConfig {
            node: NodeId(1),
            name: "p".to_owned(),
            log: LOG,
            geometry: GEOMETRY,
            role: StartRole::Primary,
            fresh: true,
            flush_depth: 1,
            arena_bytes: ARENA_BYTES,
            prepare_ahead: 0,
            // An idle seal would take a slot in the middle of a test.
            seal_after_ns: u64::MAX / 2,
            ..NodeConfig::default()
        };
        let recovered =
            Recovered { end: position, segments: files.segments().list(), ..Recovered::default() };
        let brain = Brain::new(config, recovered, Meta::default(), None).unwrap();
        let mut rig = Rig {
            _folder: folder,
            arena,
            shared,
            brain,
            files,
            batches: Batches::new(position),
            handle,
            flushes: 0,
            acks: 0,
            writing: None,
            tickets: Vec::new(),
        };
        rig.turn(now_ns);
        // The seal that begins the term.
        rig.flush_ends(now_ns);
        assert!(rig.arena.open_extent().is_some(), "it takes appends");
        assert_eq!(rig.batches.sealed, 0);
        rig
    }

    /// Turns until nothing waits.
    fn turn(&mut self, now_ns: u64) {
        self.turn_once(now_ns);
        if self.batches.is_waiting() {
            self.turn(now_ns);
        }
    }

    /// As the shard's: the clock, the batches, then what the node has to say.
    fn turn_once(&mut self, now_ns: u64) {
        self.brain.handle(Input::Tick { now_ns });
        let mut with = Surroundings {
            arena: &mut self.arena,
            shared: &self.shared,
            brain: &mut self.brain,
            files: &self.files,
            log: LOG,
            geometry: GEOMETRY,
            now_ns,
            hold_limit_ns: HOLD_LIMIT_NS,
            flushes: self.flushes,
            acks: self.acks,
        };
        self.batches.turn(&mut with).unwrap();
        while let Some(output) = self.brain.poll_output() {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::WriteMeta { meta } => {
                self.brain.handle(Input::MetaWritten { sequence: meta.sequence });
            }
            Output::OpenBatch { start, limit, preamble } => {
                self.batches.open(start, limit, preamble);
                self.shared.marks.leading.store(true, Ordering::Release);
            }
            Output::PutHeader { header } => {
                let stored = header.stored();
                self.arena.publish(stored.end.0).unwrap();
                self.batches.set_position(header.after());
            }
            Output::Write { span, epoch } => {
                assert_eq!(self.writing.replace((span, epoch)), None, "one slot");
            }
            Output::Ack { ticket, outcome } => {
                self.acks += 1;
                assert!(self.shared.slots.complete(ticket, &outcome));
            }
            Output::Freeze { .. } => self.batches.freeze(&mut self.arena),
            Output::Release { below } => {
                self.arena.release(below.0);
            }
            // No test comes to the next segment.
            Output::PrepareSegment { .. } | Output::Event(_) => {}
            other => panic!("nobody asked for {other:?}"),
        }
    }

    fn append(&mut self, count: usize) {
        for _ in 0..count {
            self.tickets.push(self.handle.try_append(&[1; 100], Level::Local, None).unwrap());
        }
    }

    /// The write in flight is durable: a slot is free, and the clients of its batch are told.
    fn flush_ends(&mut self, now_ns: u64) {
        let (span, epoch) = self.writing.take().expect("a write is in flight");
        self.flushes += 1;
        self.brain.handle(Input::Flushed { span, epoch });
        self.turn(now_ns);
    }

    /// A first batch of `tickets`, flushed at `now_ns`.
    fn flushed_batch(now_ns: u64, tickets: usize) -> Rig {
        let mut rig = Rig::leading(now_ns - 200 * US);
        rig.append(tickets);
        rig.turn(now_ns - 100 * US);
        assert_eq!((rig.batches.sealed, rig.batches.handed_over), (1, tickets as u64));
        rig.flush_ends(now_ns);
        assert!(rig.tickets.drain(..).all(|ticket| ticket.wait().is_ok()));
        rig
    }
}

#[test]
fn a_free_slot_waits_for_the_clients_that_were_just_acknowledged() {
    let mut rig = Rig::flushed_batch(T, 4);
    for (at_ns, back) in [(T + 2 * US, 1), (T + 4 * US, 2), (T + 5 * US, 1)] {
        rig.append(back);
        rig.turn(at_ns);
        assert_eq!(rig.batches.sealed, 1, "{} ns after the flush it had not waited for all", at_ns - T);
    }
    // All are back and nobody has come since the last look: nothing more to wait for.
    rig.turn(T + 6 * US);
    assert_eq!((rig.batches.sealed, rig.batches.handed_over), (2, 8), "one batch took all four");
    assert!(rig.writing.is_some());
}

#[test]
fn who_does_not_come_back_at_once_is_not_waited_for() {
    let mut rig = Rig::flushed_batch(T, 4);
    rig.append(1);
    let limit_ns = RETURN_LIMIT_NS + 4 * RETURN_NS;
    for at_ns in (0..limit_ns).step_by(US as usize) {
        rig.turn(T + at_ns);
        assert_eq!(rig.batches.sealed, 1, "{at_ns} ns after the flush");
    }
    rig.turn(T + limit_ns);
    assert_eq!((rig.batches.sealed, rig.batches.handed_over), (2, 5));
}

#[test]
fn a_burst_that_does_not_end_is_waited_for_no_longer_than_the_limit() {
    let mut rig = Rig::flushed_batch(T, 4);
    let began_ns = T + RETURN_LIMIT_NS;
    let mut at_ns = began_ns;
    while at_ns < began_ns + GATHER_LIMIT_NS {
        rig.append(1);
        rig.turn(at_ns);
        assert_eq!(rig.batches.sealed, 1, "{} ns into the burst", at_ns - began_ns);
        at_ns += US;
    }
    rig.append(1);
    rig.turn(at_ns);
    assert_eq!((rig.batches.sealed, rig.batches.handed_over), (2, 4 + 11));
}

#[test]
fn a_log_with_one_ticket_per_batch_never_waits() {
    let mut rig = Rig::leading(T);
    for round in 1..=20 {
        let now_ns = T + round * 100 * US;
        rig.append(1);
        rig.turn(now_ns);
        assert_eq!(rig.batches.sealed, round, "sealed in the turn in which it came");
        assert!(rig.writing.is_some());
        rig.flush_ends(now_ns + 50 * US);
    }
}

/// The shard voids a reservation while its holder commits it: the ticket is queued by then, the bytes are gone.
#[test]
fn a_ticket_whose_record_was_voided_is_not_acknowledged_and_claims_nothing() {
    let mut rig = Rig::leading(T);
    let _unacknowledged = rig.handle.try_append(&[1; 100], Level::Off, None).unwrap();
    let id = rig.shared.slots.take().unwrap();
    let bytes = towline_core::format::record_bytes(100);
    // A reservation that is dropped becomes a void record, as one that is voided.
    let reserved = rig.shared.appender.reserve(bytes as usize).unwrap();
    let lsn = Lsn(reserved.pos());
    let end = lsn.plus(bytes);
    drop(reserved);
    let (level, payload_bytes) = (Level::Local, 100);
    let queued = QueuedTicket { id, lsn, end, payload_bytes, level, window: None, accepted_ns: T };
    rig.batches.push_ticket(queued);
    let waiting = Waiting::pending(id, lsn, end, Arc::clone(&rig.shared));
    rig.turn(T + US);
    assert_eq!(rig.brain.node.status().gate.waiting, 0, "the node never hears of it");
    rig.flush_ends(T + 2 * US);
    assert!(waiting.wait().is_err(), "nothing of it is in the log");
}

#[test]
fn what_producers_hold_when_a_leadership_ends_is_in_nobodys_log_and_ends_none() {
    let mut rig = Rig::leading(T);
    let end = rig.brain.node.watermarks().end;
    rig.append(1);
    let held = rig.handle.reserve(100, Level::Local, None).unwrap();
    // The cut takes its segment, and the node leads again before the producer is done.
    rig.carry_out(Output::Freeze { why: FreezeReason::Fenced("another one leads".to_owned()) });
    rig.files.segments().remove(0);
    rig.turn_once(T + US);
    assert!(rig.batches.is_orphaned(), "the next term's first batch has to wait for its place");
    assert_eq!(rig.batches.next_orphan(), None);
    rig.turn_once(crate::clock::now_ns() + HOLD_LIMIT_NS);
    assert!(!rig.batches.is_orphaned() && !rig.batches.is_waiting());
    let orphan = rig.batches.next_orphan().expect("its append is answered");
    assert_eq!(rig.batches.next_orphan(), None);
    assert_eq!((rig.brain.node.watermarks().end, rig.writing), (end, None), "the node was not given it");
    assert!(rig.shared.slots.complete(orphan, &TicketOutcome::Indeterminate("gone".to_owned())));
    assert!(rig.tickets.pop().unwrap().wait().is_err() && held.commit().is_err());
}

const HOLD_LIMIT_NS: u64 = 1_000_000_000;
const US: u64 = 1_000;
/// When a flush ends.
const T: u64 = 1_000_000_000;

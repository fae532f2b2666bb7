//! Histories of the real gate under random traffic: the checker, which shares no code with it, finds them clean,
//! and finds each of them wrong once an ack is given a moment too early.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use towline_check::{AckEvent, Event, Kind, TicketEvent, check};
use towline_core::node::{Ticket, TicketOutcome};
use towline_core::replication::{CommitGate, GateOutput, Stage, SyncRule, Unmet};
use towline_core::types::{Level, Lsn, NodeId, PeerIndex, Position, StandbyWatermarks, TicketId, Window};

/// Payload bytes, and what is waited for.
type Append = (u64, Option<(Level, Option<Window>)>);

const PEERS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<Append>),
    Flush(usize),
    Report { peer: usize, lags: [usize; 3] },
    Live(usize, bool),
    Exclude(usize),
    Change(&'static str),
    Cancel(u64),
    Tick(u64),
}

/// A gate with everything it is told and everything it says written down.
struct Recorder {
    gate: CommitGate,
    events: Vec<Event>,
    ends: Vec<Position>,
    flushed: usize,
    flushed_by: [usize; PEERS],
    version: u64,
    next_id: u64,
    now_ns: u64,
}

impl Recorder {
    fn new(rule: &str) -> Recorder {
        let start = Position { lsn: Lsn(8192), records: 0, payload_bytes: 0 };
        let mut gate = CommitGate::new(NodeId(100), Unmet::DegradeAfter { ns: 8000 }, start);
        let mut events = vec![Event::Setup {
            start: start.lsn,
            records: 0,
            payload_bytes: 0,
            segment_bytes: 0,
            node: 100,
            degrade_after_ns: Some(8000),
        }];
        gate.tick(0);
        events.push(Event::Tick { now_ns: 0 });
        for peer in 0..PEERS {
            let (index, node) = (PeerIndex(peer as u16), peer as u64 + 1);
            let name = ["a", "b", "c"][peer];
            gate.register(index, name).unwrap();
            gate.identify(index, NodeId(node)).unwrap();
            gate.set_live(index, true);
            events.push(Event::Standby { peer: index.0, name: name.to_owned(), node });
            events.push(Event::Live { peer: index.0, live: true });
        }
        gate.install_rule(1, SyncRule::parse(rule).unwrap());
        events.push(Event::Rule { version: 1, rule: rule.to_owned(), record_end: None });
        Recorder {
            gate,
            events,
            ends: vec![start],
            flushed: 0,
            flushed_by: [0; PEERS],
            version: 1,
            next_id: 0,
            now_ns: 0,
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.gate.poll() {
            self.events.push(match output {
                GateOutput::Ack { ticket, outcome: TicketOutcome::Committed(ack) } => Event::Ack(AckEvent {
                    ticket: ticket.0,
                    lsn: ack.lsn,
                    end: ack.end,
                    level: ack.level,
                    window: ack.window,
                    rule_version: ack.rule_version,
                    fill_bytes: ack.fill_bytes,
                    waited_for_window: ack.waited_for_window,
                }),
                GateOutput::Ack { ticket, .. } => Event::Indeterminate { ticket: ticket.0 },
                GateOutput::RuleInForce { version } => Event::RuleInForce { version },
                GateOutput::Degraded { .. } => Event::Degraded,
                GateOutput::Healed => Event::Healed,
            });
        }
        for stage in Stage::ALL {
            if let Some(exposure_bytes) = self.gate.exposure_bytes(stage) {
                self.events.push(Event::Gauge { stage, exposure_bytes });
            }
        }
    }

    fn batch(&mut self, records: &[Append]) -> Lsn {
        let before = self.ends[self.ends.len() - 1];
        let payload: u64 = records.iter().map(|(bytes, _)| bytes).sum();
        let after = Position {
            lsn: before.lsn.plus(128 + payload + 8 * records.len() as u64).block_up(),
            records: before.records + records.len() as u64,
            payload_bytes: before.payload_bytes + payload,
        };
        self.ends.push(after);
        self.events.push(Event::Batch {
            start: before.lsn,
            end: after.lsn,
            records: records.len() as u64,
            payload_bytes: payload,
            accepted_ns: self.now_ns,
        });
        self.gate.batch(before.lsn, after, self.now_ns);
        let (mut lsn, mut count, mut through) = (before.lsn.plus(128), before.records, before.payload_bytes);
        for (bytes, ask) in records {
            let end = lsn.plus(8 + bytes);
            count += 1;
            through += bytes;
            if let Some((level, window)) = *ask {
                let window = window.filter(|_| level.is_remote() && self.gate.rule().1.is_some());
                let id = self.next_id;
                self.next_id += 1;
                self.events.push(Event::Ticket(TicketEvent {
                    ticket: id,
                    lsn,
                    end,
                    records_through: count,
                    payload_through: through,
                    payload_bytes: *bytes,
                    level,
                    window,
                    accepted_ns: self.now_ns,
                }));
                self.gate.ticket(Ticket {
                    id: TicketId(id),
                    lsn,
                    end,
                    records_through: count,
                    payload_through: through,
                    payload_bytes: *bytes,
                    level,
                    window,
                    accepted_ns: self.now_ns,
                });
                self.drain();
            }
            lsn = end;
        }
        after.lsn
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Batch(records) => {
                self.batch(records);
            }
            Step::Flush(batches) => {
                self.flushed = (self.flushed + batches).min(self.ends.len() - 1);
                let position = self.ends[self.flushed];
                self.events.push(Event::OwnFlushed { lsn: position.lsn });
                self.gate.own_flushed(position);
            }
            Step::Report { peer, lags } => {
                // Flushed never falls; written and applied may (a standby restarted).
                let last = self.ends.len() - 1;
                let flushed = self.flushed_by[*peer].max(last.saturating_sub(lags[0] + lags[1]));
                self.flushed_by[*peer] = flushed;
                let written = flushed.max(last.saturating_sub(lags[0]));
                // A standby applies only what it was told to be flushed on the primary.
                let applied = flushed.saturating_sub(lags[2]).min(self.flushed);
                let [written, flushed, applied] = [written, flushed, applied].map(|index| self.ends[index]);
                self.events.push(Event::Report {
                    peer: *peer as u16,
                    written: written.lsn,
                    flushed: flushed.lsn,
                    applied: applied.lsn,
                });
                self.gate.report(PeerIndex(*peer as u16), &StandbyWatermarks { written, flushed, applied });
            }
            Step::Live(peer, live) => {
                self.events.push(Event::Live { peer: *peer as u16, live: *live });
                self.gate.set_live(PeerIndex(*peer as u16), *live);
            }
            Step::Exclude(peer) => {
                self.events.push(Event::Excluded { peer: *peer as u16 });
                self.gate.exclude(PeerIndex(*peer as u16));
            }
            Step::Change(text) => {
                let rule = SyncRule::parse(text).unwrap();
                if self.gate.check_rule(self.version + 1, rule.as_ref()).is_err() {
                    return;
                }
                self.version += 1;
                let end = self.batch(&[]);
                self.events.push(Event::Rule {
                    version: self.version,
                    rule: (*text).to_owned(),
                    record_end: Some(end),
                });
                self.gate.set_rule(self.version, rule, end).unwrap();
            }
            Step::Cancel(id) => self.gate.cancel(TicketId(*id)),
            Step::Tick(micros) => {
                self.now_ns += micros * 1000;
                self.events.push(Event::Tick { now_ns: self.now_ns });
                self.gate.tick(self.now_ns);
            }
        }
        self.drain();
    }
}

const RULES: [&str; 6] = ["", "*", "ANY 1 (a, b)", "ANY 2 (a, b, c)", "FIRST 1 (a, b)", "FIRST 2 (c, a, b)"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let window = prop_oneof![
        2 => Just(None),
        2 => (0u64..300).prop_map(|n| Some(Window::Bytes(n))),
        2 => (0u64..6).prop_map(|n| Some(Window::Records(n))),
        2 => (0u64..12).prop_map(|n| Some(Window::Micros(n))),
        1 => Just(Some(Window::Infinite)),
    ];
    let ask = prop_oneof![
        1 => Just(None),
        6 => (prop::sample::select(Level::ALL[1..].to_vec()), window).prop_map(Some),
    ];
    let peer = 0..PEERS;
    prop::collection::vec(
        prop_oneof![
            12 => prop::collection::vec((0u64..120, ask), 1..4).prop_map(Step::Batch),
            10 => (1usize..4).prop_map(Step::Flush),
            14 => (peer.clone(), [0usize..3, 0..3, 0..3]).prop_map(|(peer, lags)| Step::Report { peer, lags }),
            3 => (peer.clone(), any::<bool>()).prop_map(|(peer, live)| Step::Live(peer, live)),
            1 => peer.prop_map(Step::Exclude),
            2 => prop::sample::select(RULES.to_vec()).prop_map(Step::Change),
            2 => (0u64..40).prop_map(Step::Cancel),
            5 => (0u64..4).prop_map(Step::Tick),
        ],
        1..80,
    )
}

/// Kinds that say that an ack came too early.
const TOO_EARLY: [Kind; 4] = [Kind::NotSealed, Kind::NotFlushed, Kind::NotSafe, Kind::FillOverWindow];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(800) })]

    #[test]
    fn the_gate_keeps_what_the_checker_asks_for(
        rule in prop::sample::select(RULES.to_vec()),
        steps in steps(),
    ) {
        let mut recorder = Recorder::new(rule);
        steps.iter().for_each(|step| recorder.step(step));
        let verdict = check(&recorder.events);
        prop_assert!(verdict.is_clean(), "{:#?}", verdict.violations);
        let acks = verdict.summary.acks.iter().sum::<u64>();
        let ended = acks + verdict.summary.indeterminate;
        prop_assert_eq!(ended + verdict.summary.open, recorder.next_id);
        prop_assert_eq!(verdict.summary.open, recorder.gate.waiting() as u64);
    }

    #[test]
    fn an_ack_right_behind_its_ticket_is_flagged(
        rule in prop::sample::select(RULES[1..].to_vec()),
        steps in steps(),
        pick in any::<prop::sample::Index>(),
    ) {
        let mut recorder = Recorder::new(rule);
        steps.iter().for_each(|step| recorder.step(step));
        let mut events = recorder.events;
        let acks: Vec<usize> =
            (0..events.len()).filter(|at| matches!(events[*at], Event::Ack(_))).collect();
        prop_assume!(!acks.is_empty());
        let ack = events.remove(acks[pick.index(acks.len())]);
        let Event::Ack(early) = &ack else { unreachable!("picked as an ack") };
        let ticket = events.iter().position(|event| matches!(event, Event::Ticket(t) if t.ticket == early.ticket));
        let ticket = ticket.unwrap();
        let Event::Ticket(asked) = &events[ticket] else { unreachable!("found as a ticket") };
        // Its batch was sealed in the same moment and cannot be flushed.
        let end = asked.end;
        events.insert(ticket + 1, ack);
        let flushed = events[..ticket].iter().any(|e| matches!(e, Event::OwnFlushed { lsn } if *lsn >= end));
        prop_assert!(!flushed);
        let verdict = check(&events);
        prop_assert!(TOO_EARLY.iter().any(|kind| verdict.has(*kind)), "{:#?}", verdict.violations);
    }
}

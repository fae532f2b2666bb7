//! The commit gate against an oracle that knows no queue, heap or gauge: after each event it looks at every ticket
//! and every report there ever was. Each run is written down, too, and given to the checker, which shares no code
//! with either: it finds the gate's answers clean, and finds an ack out that is moved forward.

#![allow(clippy::unwrap_used)]

#[path = "gate_oracle/oracle.rs"]
mod oracle;
#[path = "gate_oracle/record.rs"]
mod record;

use std::collections::BTreeMap;

use oracle::{Moment, Oracle, OracleEra, OracleTicket, PEERS};
use proptest::prelude::*;
use record::Record;
use towline_core::node::{Ticket, TicketOutcome};
use towline_core::replication::{CommitGate, GateOutput, Stage, SyncRule, Unmet};
use towline_core::types::{Level, Lsn, NodeId, PeerIndex, Position, StandbyWatermarks, TicketId, Window};

/// Payload bytes, and what is waited for.
type Append = (u64, Option<(Level, Option<Window>)>);

const DEGRADE_NS: u64 = 5_000;

#[derive(Clone, Debug)]
enum Event {
    Batch(Vec<Append>),
    Flush(usize),
    Report { peer: usize, lags: [usize; 3] },
    Live(usize, bool),
    Exclude(usize),
    Include(usize),
    Change(Option<SyncRule>),
    Cancel(usize),
    Wait(usize, Level),
    Tick(u64),
}

struct Pair {
    gate: CommitGate,
    oracle: Oracle,
    next_id: u64,
    version: u64,
    record: Record,
}

impl Pair {
    fn new(rule: Option<SyncRule>, unmet: Unmet) -> Pair {
        let start = Position { lsn: Lsn(8192), records: 0, payload_bytes: 0 };
        let mut gate = CommitGate::new(NodeId(100), unmet, start);
        gate.tick(0);
        for peer in 0..PEERS {
            let index = PeerIndex(peer as u16);
            gate.register(index, ["a", "b", "c"][peer]).unwrap();
            gate.identify(index, NodeId(peer as u64 + 1)).unwrap();
        }
        gate.install_rule(1, rule.clone());
        let record = Record::new(start.lsn, rule.as_ref(), unmet);
        let oracle = Oracle {
            batches: vec![(start, 0, 0)],
            acked: vec![0],
            flushed: start.lsn,
            moments: vec![Moment::default()],
            eras: vec![OracleEra { version: 1, rule, since: 0 }],
            in_force: 0,
            pending_end: Lsn(0),
            waiting: BTreeMap::new(),
            now_ns: 0,
            unmet,
            unmet_since: None,
            degraded: false,
            heal_at: None,
            said: vec![],
        };
        let mut pair = Pair { gate, oracle, next_id: 0, version: 1, record };
        pair.oracle.settle();
        pair
    }

    fn sealed(&self) -> Position {
        self.oracle.batches[self.oracle.batches.len() - 1].0
    }

    fn batch(&mut self, records: &[Append]) {
        let before = self.sealed();
        let body: u64 = records.iter().map(|(bytes, _)| bytes + 8).sum();
        let after = Position {
            lsn: before.lsn.plus(128 + body).block_up(),
            records: before.records + records.len() as u64,
            payload_bytes: before.payload_bytes + records.iter().map(|(bytes, _)| bytes).sum::<u64>(),
        };
        let now_ns = self.oracle.now_ns;
        self.record.batch(before, after, now_ns);
        self.gate.batch(before.lsn, after, now_ns);
        self.oracle.batches.push((after, now_ns, records.len() as u64));
        let unclaimed = records.iter().filter(|(_, ask)| ask.is_none()).map(|(bytes, _)| bytes).sum();
        self.oracle.acked.push(unclaimed);
        self.oracle.settle();
        let (mut lsn, mut count, mut payload) = (before.lsn.plus(128), before.records, before.payload_bytes);
        for (bytes, ask) in records {
            let end = lsn.plus(8 + bytes);
            count += 1;
            payload += bytes;
            if let Some((level, window)) = *ask {
                // What the driver refuses never comes here.
                let window = window.filter(|_| level.is_remote() && self.gate.rule().1.is_some());
                let id = self.next_id;
                self.next_id += 1;
                let ticket = Ticket {
                    id: TicketId(id),
                    lsn,
                    end,
                    records_through: count,
                    payload_through: payload,
                    payload_bytes: *bytes,
                    level,
                    window,
                    accepted_ns: now_ns,
                };
                self.record.ticket(&ticket);
                self.gate.ticket(ticket);
                self.oracle.waiting.insert(
                    id,
                    OracleTicket {
                        lsn,
                        end,
                        records_through: count,
                        payload_through: payload,
                        payload_bytes: *bytes,
                        level,
                        window,
                        era: self.oracle.in_force,
                        waited: false,
                        is_wait: false,
                    },
                );
                self.oracle.settle();
            }
            lsn = end;
        }
    }

    fn change_moment(&mut self, change: impl FnOnce(&mut Moment)) {
        let mut moment = self.oracle.moments[self.oracle.moments.len() - 1].clone();
        change(&mut moment);
        self.oracle.moments.push(moment);
        self.oracle.settle();
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Batch(records) => self.batch(records),
            Event::Flush(steps) => {
                let at = self.oracle.batches.iter().position(|(after, ..)| after.lsn == self.oracle.flushed);
                let to = (at.unwrap() + steps).min(self.oracle.batches.len() - 1);
                let position = self.oracle.batches[to].0;
                self.record.own_flushed(position.lsn);
                self.gate.own_flushed(position);
                self.oracle.flushed = position.lsn;
                self.oracle.settle();
            }
            Event::Report { peer, lags } => {
                let last = self.oracle.batches.len() - 1;
                let mut at = last;
                let [written, flushed, applied] = lags.map(|lag| {
                    at = at.saturating_sub(lag);
                    self.oracle.batches[at].0
                });
                let report = StandbyWatermarks { written, flushed, applied };
                self.record.report(*peer, &report);
                self.gate.report(PeerIndex(*peer as u16), &report);
                self.change_moment(|now| {
                    if !now.excluded[*peer] {
                        now.reports[*peer] = Some(report);
                    }
                });
            }
            Event::Live(peer, live) => {
                self.record.live(*peer, *live);
                self.gate.set_live(PeerIndex(*peer as u16), *live);
                self.change_moment(|now| now.live[*peer] = *live);
            }
            Event::Exclude(peer) => {
                self.record.excluded(*peer);
                self.gate.exclude(PeerIndex(*peer as u16));
                self.change_moment(|now| {
                    now.excluded[*peer] = true;
                    now.reports[*peer] = None;
                });
            }
            Event::Include(peer) => {
                self.record.included(*peer);
                self.gate.include(PeerIndex(*peer as u16));
                self.change_moment(|now| now.excluded[*peer] = false);
            }
            Event::Change(rule) => {
                let is_pending = self.oracle.eras.len() > self.oracle.in_force + 1;
                if self.gate.check_rule(self.version + 1, rule.as_ref()).is_err() {
                    let oldest = self.oracle.waiting.values().filter(|t| t.uses_era()).map(|t| t.era).min();
                    let eras = self.oracle.in_force - oldest.unwrap_or(self.oracle.in_force) + 1;
                    assert!(is_pending || eras >= 4, "refused without need");
                    return;
                }
                assert!(!is_pending);
                self.version += 1;
                self.batch(&[]);
                let end = self.sealed().lsn;
                self.record.rule(self.version, rule.as_ref(), Some(end));
                self.gate.set_rule(self.version, rule.clone(), end).unwrap();
                let since = self.oracle.moments.len() - 1;
                self.oracle.eras.push(OracleEra { version: self.version, rule: rule.clone(), since });
                self.oracle.pending_end = end;
                self.oracle.settle();
            }
            Event::Cancel(nth) => {
                let ids: Vec<u64> = self.oracle.waiting.keys().copied().collect();
                // Also ids that have ended already: nothing may come of it.
                let id = ids.get(*nth).copied().unwrap_or(*nth as u64);
                self.gate.cancel(TicketId(id));
                if self.oracle.waiting.remove(&id).is_some() {
                    self.oracle.said.push(format!("{id} indeterminate"));
                    self.oracle.settle();
                }
            }
            Event::Wait(ahead, level) => {
                let lsn = Lsn(self.sealed().lsn.0.saturating_sub(8192) + 4096 * *ahead as u64);
                let id = self.next_id;
                self.next_id += 1;
                self.record.wait(id, lsn, *level);
                self.gate.wait(TicketId(id), lsn, *level);
                let ticket = OracleTicket {
                    lsn,
                    end: lsn,
                    records_through: 0,
                    payload_through: u64::MAX,
                    payload_bytes: 0,
                    level: *level,
                    window: None,
                    era: self.oracle.in_force,
                    waited: false,
                    is_wait: true,
                };
                self.oracle.waiting.insert(id, ticket);
                self.oracle.settle();
            }
            Event::Tick(micros) => {
                let now_ns = self.oracle.now_ns + micros * 1000;
                self.record.tick(now_ns);
                self.gate.tick(now_ns);
                self.oracle.tick(now_ns);
            }
        }
    }

    fn compare(&mut self, waits: &[u64]) -> Result<(), TestCaseError> {
        let outputs: Vec<GateOutput> = std::iter::from_fn(|| self.gate.poll()).collect();
        outputs.iter().for_each(|output| self.record.output(output));
        self.record.gauges(&self.gate);
        let mut said: Vec<String> = outputs
            .into_iter()
            .map(|output| match output {
                GateOutput::Ack { ticket, outcome: TicketOutcome::Committed(ack) } => {
                    let fill = if waits.contains(&ticket.0) {
                        String::new()
                    } else {
                        format!(" fill {}", ack.fill_bytes)
                    };
                    let (level, window, version) = (ack.level, ack.window, ack.rule_version);
                    let (id, lsn, end) = (ticket.0, ack.lsn, ack.end);
                    format!("{id} {lsn} {end} {level} {window:?} v{version} {}{fill}", ack.waited_for_window)
                }
                GateOutput::Ack { ticket, .. } => format!("{} indeterminate", ticket.0),
                GateOutput::RuleInForce { version } => format!("rule {version}"),
                GateOutput::Degraded { released } => format!("degraded {released}"),
                GateOutput::Healed => "healed".to_owned(),
            })
            .collect();
        said.sort();
        let mut expected = std::mem::take(&mut self.oracle.said);
        expected.sort();
        prop_assert_eq!(said, expected);
        prop_assert_eq!(self.gate.waiting(), self.oracle.waiting.len());
        prop_assert_eq!(self.gate.is_degraded(), self.oracle.degraded);
        for stage in Stage::ALL {
            let safe = self.oracle.safe(self.oracle.in_force, stage).flatten();
            prop_assert_eq!(self.gate.safe(stage), safe, "{}", stage);
            let (shown, truth) = (self.gate.exposure_bytes(stage), self.oracle.exposure(stage));
            prop_assert_eq!(shown, truth, "exposure, {}", stage);
        }
        Ok(())
    }
}

fn rules() -> impl Strategy<Value = Option<SyncRule>> {
    prop::sample::select(vec![
        "",
        "*",
        "ANY 1 (a)",
        "ANY 1 (b, c)",
        "ANY 2 (a, b, c)",
        "FIRST 1 (a, b)",
        "FIRST 2 (c, a, b)",
        "ANY 3 (*)",
    ])
    .prop_map(|text| SyncRule::parse(text).unwrap())
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let level = prop::sample::select(Level::ALL.to_vec()).boxed();
    let window = prop_oneof![
        3 => Just(None),
        2 => (0u64..300).prop_map(|n| Some(Window::Bytes(n))),
        2 => (0u64..6).prop_map(|n| Some(Window::Records(n))),
        2 => (0u64..12).prop_map(|n| Some(Window::Micros(n))),
        1 => Just(Some(Window::Infinite)),
    ];
    let ask = prop_oneof![
        1 => Just(None),
        5 => (prop::sample::select(Level::ALL[1..].to_vec()), window).prop_map(Some),
    ];
    let peer = 0..PEERS;
    prop::collection::vec(
        prop_oneof![
            8 => prop::collection::vec((0u64..120, ask), 0..4).prop_map(Event::Batch),
            8 => (1usize..4).prop_map(Event::Flush),
            10 => (peer.clone(), [0usize..3, 0..3, 0..3]).prop_map(|(peer, lags)| Event::Report { peer, lags }),
            4 => (peer.clone(), any::<bool>()).prop_map(|(peer, live)| Event::Live(peer, live)),
            1 => peer.clone().prop_map(Event::Exclude),
            1 => peer.prop_map(Event::Include),
            2 => rules().prop_map(Event::Change),
            2 => (0usize..12).prop_map(Event::Cancel),
            2 => (0usize..5, level).prop_map(|(ahead, level)| Event::Wait(ahead, level)),
            4 => (0u64..4).prop_map(Event::Tick),
        ],
        1..60,
    )
}

fn run(rule: Option<SyncRule>, unmet: Unmet, events: &[Event]) -> Result<Pair, TestCaseError> {
    let mut pair = Pair::new(rule, unmet);
    let mut waits = vec![];
    for event in events {
        if matches!(event, Event::Wait(..)) {
            waits.push(pair.next_id);
        }
        pair.apply(event);
        pair.compare(&waits)?;
    }
    pair.record.is_clean(&pair.gate, pair.next_id)?;
    Ok(pair)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn decides_as_the_oracle_does(rule in rules(), events in events()) {
        run(rule, Unmet::Stall, &events)?;
    }

    #[test]
    fn decides_as_the_oracle_does_when_it_degrades(rule in rules(), events in events()) {
        run(rule, Unmet::DegradeAfter { ns: DEGRADE_NS }, &events)?;
    }

    #[test]
    fn the_checker_finds_an_ack_out_that_stands_right_behind_its_ticket(
        rule in rules(),
        events in events(),
        pick in any::<prop::sample::Index>(),
    ) {
        let pair = run(rule, Unmet::Stall, &events)?;
        pair.record.early_ack_is_found(pick)?;
    }
}

/// More batches than are tracked: older neighbours merge, and exposure stays at or above the truth.
#[test]
fn exposure_stays_at_or_above_the_truth_when_batches_merge() {
    let mut pair = Pair::new(SyncRule::parse("ANY 1 (a)").unwrap(), Unmet::Stall);
    pair.apply(&Event::Report { peer: 0, lags: [0; 3] });
    let mut exact = 0;
    for round in 0..9000u64 {
        pair.batch(&[(7 + round % 5, None)]);
        if round % 1500 == 1499 {
            // The standby reports a place in the middle of what has been merged.
            let at = (round as usize) / 2;
            let mark = pair.oracle.batches[at].0;
            let report = StandbyWatermarks { written: mark, flushed: mark, applied: mark };
            pair.gate.report(PeerIndex(0), &report);
            pair.change_moment(|now| now.reports[0] = Some(report));
            let truth = pair.oracle.exposure(Stage::Flushed).unwrap();
            let shown = pair.gate.exposure_bytes(Stage::Flushed).unwrap();
            assert!(shown >= truth, "round {round}: {shown} < {truth}");
            // And stays a useful figure: off by at most one merged group.
            assert!(shown <= truth + truth / 8 + 100, "round {round}: {shown} far above {truth}");
            exact += 1;
        }
    }
    assert_eq!(exact, 6);
}

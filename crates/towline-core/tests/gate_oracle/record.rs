//! A run of the gate written down as the checker reads it, and what the checker says of it.

// Private to one test; a mark that is missing here is a test that fails.
#![allow(unreachable_pub, clippy::unwrap_used)]

use proptest::prelude::*;
use proptest::sample::Index;
use towline_check::{AckEvent, Event, Kind, TicketEvent, check};
use towline_core::node::{Ticket, TicketOutcome};
use towline_core::replication::{CommitGate, GateOutput, Stage, SyncRule, Unmet};
use towline_core::types::{Level, Lsn, Position, StandbyWatermarks};

use super::oracle::PEERS;

/// What the gate was told and what it said, in order.
#[derive(Debug)]
pub struct Record {
    events: Vec<Event>,
}

impl Record {
    pub fn new(start: Lsn, rule: Option<&SyncRule>, unmet: Unmet) -> Record {
        let degrade_after_ns = match unmet {
            Unmet::Stall => None,
            Unmet::DegradeAfter { ns } => Some(ns),
        };
        let (records, payload_bytes, segment_bytes, node) = (0, 0, 0, 100);
        let mut record = Record {
            events: vec![
                Event::Setup { start, records, payload_bytes, segment_bytes, node, degrade_after_ns },
                Event::Tick { now_ns: 0 },
            ],
        };
        for peer in 0..PEERS {
            let (name, node) = (["a", "b", "c"][peer].to_owned(), peer as u64 + 1);
            record.events.push(Event::Standby { peer: peer as u16, name, node });
        }
        record.rule(1, rule, None);
        record
    }

    pub fn tick(&mut self, now_ns: u64) {
        self.events.push(Event::Tick { now_ns });
    }

    pub fn rule(&mut self, version: u64, rule: Option<&SyncRule>, record_end: Option<Lsn>) {
        let rule = rule.map(ToString::to_string).unwrap_or_default();
        self.events.push(Event::Rule { version, rule, record_end });
    }

    pub fn batch(&mut self, before: Position, after: Position, accepted_ns: u64) {
        let (records, payload_bytes) =
            (after.records - before.records, after.payload_bytes - before.payload_bytes);
        self.events.push(Event::Batch {
            start: before.lsn,
            end: after.lsn,
            records,
            payload_bytes,
            accepted_ns,
        });
    }

    pub fn ticket(&mut self, ticket: &Ticket) {
        self.events.push(Event::Ticket(TicketEvent {
            ticket: ticket.id.0,
            lsn: ticket.lsn,
            end: ticket.end,
            records_through: ticket.records_through,
            payload_through: ticket.payload_through,
            payload_bytes: ticket.payload_bytes,
            level: ticket.level,
            window: ticket.window,
            accepted_ns: ticket.accepted_ns,
        }));
    }

    pub fn wait(&mut self, ticket: u64, lsn: Lsn, level: Level) {
        self.events.push(Event::Wait { ticket, lsn, level });
    }

    pub fn own_flushed(&mut self, lsn: Lsn) {
        self.events.push(Event::OwnFlushed { lsn });
    }

    pub fn report(&mut self, peer: usize, report: &StandbyWatermarks) {
        let (written, flushed, applied) = (report.written.lsn, report.flushed.lsn, report.applied.lsn);
        self.events.push(Event::Report { peer: peer as u16, written, flushed, applied });
    }

    pub fn live(&mut self, peer: usize, live: bool) {
        self.events.push(Event::Live { peer: peer as u16, live });
    }

    pub fn excluded(&mut self, peer: usize) {
        self.events.push(Event::Excluded { peer: peer as u16 });
    }

    pub fn included(&mut self, peer: usize) {
        self.events.push(Event::Included { peer: peer as u16 });
    }

    pub fn output(&mut self, output: &GateOutput) {
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
            GateOutput::RuleInForce { version } => Event::RuleInForce { version: *version },
            GateOutput::Degraded { .. } => Event::Degraded,
            GateOutput::Healed => Event::Healed,
        });
    }

    pub fn gauges(&mut self, gate: &CommitGate) {
        for stage in Stage::ALL {
            let bytes = gate.exposure_bytes(stage);
            self.events.extend(bytes.map(|exposure_bytes| Event::Gauge { stage, exposure_bytes }));
        }
    }

    /// Whatever the standbys said (these here say what no standby would), the gate's answers to it are right.
    pub fn is_clean(&self, gate: &CommitGate, tickets: u64) -> Result<(), TestCaseError> {
        let verdict = check(&self.events);
        let wrong: Vec<_> = verdict.violations.iter().filter(|v| !OF_REPORTS.contains(&v.kind)).collect();
        prop_assert!(wrong.is_empty(), "{:#?}\n{:#?}", wrong, self.events);
        let summary = &verdict.summary;
        let ended = summary.acks.iter().sum::<u64>() + summary.indeterminate;
        prop_assert_eq!(ended + summary.open, tickets);
        prop_assert_eq!(summary.open, gate.waiting() as u64);
        prop_assert_eq!(summary.max_gauge_excess_bytes, 0);
        Ok(())
    }

    /// Right behind its ticket nothing of it can be flushed yet.
    pub fn early_ack_is_found(mut self, pick: Index) -> Result<(), TestCaseError> {
        let tickets: Vec<(usize, u64)> = (0..self.events.len())
            .filter_map(|at| {
                if let Event::Ticket(ticket) = &self.events[at] { Some((at, ticket.ticket)) } else { None }
            })
            .collect();
        let ack_of = |id: u64| {
            self.events.iter().position(|event| matches!(event, Event::Ack(ack) if ack.ticket == id))
        };
        let acked: Vec<(usize, usize)> =
            tickets.iter().filter_map(|(at, id)| Some((*at, ack_of(*id)?))).collect();
        prop_assume!(!acked.is_empty());
        let (ticket, ack) = acked[pick.index(acked.len())];
        let ack = self.events.remove(ack);
        self.events.insert(ticket + 1, ack);
        let verdict = check(&self.events);
        prop_assert!(
            verdict.violations.iter().any(|v| TOO_EARLY.contains(&v.kind)),
            "{:#?}",
            verdict.violations
        );
        Ok(())
    }
}

/// What reports made at random break, and no standby would.
const OF_REPORTS: [Kind; 2] = [Kind::StandbyLostData, Kind::AppliedUnflushed];
/// What says that an ack came too early.
const TOO_EARLY: [Kind; 4] = [Kind::NotSealed, Kind::NotFlushed, Kind::NotSafe, Kind::FillOverWindow];

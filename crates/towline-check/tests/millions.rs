//! A history of millions of events, fed as it comes: how long the checker takes, and how much memory it keeps.

use std::time::Instant;

use towline_check::{AckEvent, Checker, Damage, Event, Kind, TicketEvent};
use towline_core::types::{Level, Lsn, Position, Window};

const START: Position = Position { lsn: Lsn(8192), records: 0, payload_bytes: 0 };
const RECORD_BYTES: u64 = 100;

/// A run of a primary and two standbys: batches of `RECORDS` tickets at several levels and windows, each batch
/// flushed, reported by one standby and then by the other, acknowledged; now and then a power cut of the primary,
/// which comes back with all that it had flushed.
struct Run {
    end: Position,
    ticket: u64,
    now_ns: u64,
}

const RECORDS: u64 = 50;
const ASKS: [(Level, Option<Window>); 5] = [
    (Level::On, None),
    (Level::Local, None),
    (Level::On, Some(Window::Bytes(RECORDS * RECORD_BYTES))),
    (Level::RemoteWrite, Some(Window::Records(2 * RECORDS))),
    (Level::RemoteApply, Some(Window::Micros(20))),
];

impl Run {
    fn open(&self, see: &mut impl FnMut(Event)) {
        for (peer, name, node) in [(0, "a", 1), (1, "b", 2)] {
            see(Event::Standby { peer, name: name.to_owned(), node });
            see(Event::Live { peer, live: true });
            let lsn = self.end.lsn;
            see(Event::Report { peer, written: lsn, flushed: lsn, applied: lsn });
        }
        see(Event::Rule { version: 1, rule: "ANY 1 (a, b)".to_owned(), record_end: None });
    }

    fn batch(&mut self, see: &mut impl FnMut(Event)) {
        self.now_ns += 10_000;
        let (before, accepted_ns) = (self.end, self.now_ns);
        let payload_bytes = RECORDS * RECORD_BYTES;
        self.end = Position {
            lsn: before.lsn.plus(8192),
            records: before.records + RECORDS,
            payload_bytes: before.payload_bytes + payload_bytes,
        };
        see(Event::Tick { now_ns: self.now_ns });
        let (start, end) = (before.lsn, self.end.lsn);
        see(Event::Batch { start, end, records: RECORDS, payload_bytes, accepted_ns });
        let first = self.ticket;
        self.ticket += RECORDS;
        let place = |n: u64| (start.plus(128 + n * 108), start.plus(128 + (n + 1) * 108));
        for n in 0..RECORDS {
            let (level, window) = ASKS[n as usize % ASKS.len()];
            let (lsn, end) = place(n);
            see(Event::Ticket(TicketEvent {
                ticket: first + n,
                lsn,
                end,
                records_through: before.records + n + 1,
                payload_through: before.payload_bytes + (n + 1) * RECORD_BYTES,
                payload_bytes: RECORD_BYTES,
                level,
                window,
                accepted_ns,
            }));
        }
        see(Event::OwnFlushed { lsn: end });
        for peer in 0..2 {
            see(Event::Report { peer, written: end, flushed: end, applied: end });
        }
        for n in 0..RECORDS {
            let (level, window) = ASKS[n as usize % ASKS.len()];
            let (lsn, end) = place(n);
            let (ticket, rule_version, fill_bytes) = (first + n, 1, 0);
            let waited_for_window = window.is_some();
            see(Event::Ack(AckEvent {
                ticket,
                lsn,
                end,
                level,
                window,
                rule_version,
                fill_bytes,
                waited_for_window,
            }));
        }
    }
}

fn feed(batches: u64, mut see: impl FnMut(Event)) -> Run {
    let mut run = Run { end: START, ticket: 0, now_ns: 0 };
    see(Event::Setup {
        start: START.lsn,
        records: 0,
        payload_bytes: 0,
        segment_bytes: 0,
        node: 100,
        degrade_after_ns: None,
    });
    run.open(&mut see);
    for number in 1..=batches {
        run.batch(&mut see);
        if number.is_multiple_of(batches / 16) {
            see(Event::Damage { node: 100, damage: Damage::PowerCut });
            see(Event::Leads { node: 100, end: run.end.lsn });
            run.open(&mut see);
        }
    }
    run
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
}

#[test]
fn millions_of_events_are_judged_in_seconds_and_bounded_memory() {
    let before_kib = resident_kib();
    let start = Instant::now();
    let mut checker = Checker::new(START);
    let mut events = 0u64;
    let run = feed(20_000, |event| {
        events += 1;
        checker.see(&event);
    });
    let took = start.elapsed();
    let grown_kib = resident_kib().saturating_sub(before_kib);
    let verdict = checker.verdict();
    assert!(verdict.is_clean(), "{:#?}", verdict.violations.first());
    assert!(events > 2_000_000 && run.ticket == 1_000_000);
    assert_eq!(verdict.summary.acks.iter().sum::<u64>(), run.ticket);
    assert_eq!((verdict.summary.leaderships, verdict.summary.damages), (16, 16));
    println!("{events} events, {} tickets: {took:?}, {} MiB", run.ticket, grown_kib >> 10);
    // Room for a busy machine and an unoptimised build: what must not be is a square of it.
    assert!(took.as_secs() < 60, "{took:?}");
    assert!(grown_kib / 1024 < 512, "{grown_kib} KiB for {} tickets", run.ticket);

    // One leader more that has lost the last batch: every record in it that was acknowledged, and nothing else.
    checker.see(&Event::Damage { node: 100, damage: Damage::PowerCut });
    checker.see(&Event::Leads { node: 100, end: Lsn(run.end.lsn.0 - 8192) });
    let verdict = checker.verdict();
    assert_eq!(verdict.violations.len() as u64, RECORDS);
    assert!(verdict.violations.iter().all(|violation| violation.kind == Kind::Lost));
}

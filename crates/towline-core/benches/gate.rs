//! What the commit gate costs per ticket, by level and window: a batch of 32 tickets is sealed, flushed, reported
//! and acknowledged.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use towline_core::node::Ticket;
use towline_core::replication::{CommitGate, SyncRule, Unmet};
use towline_core::types::{Level, Lsn, NodeId, PeerIndex, Position, StandbyWatermarks, TicketId, Window};

const TICKETS_PER_BATCH: u64 = 32;
const RECORD_BYTES: u64 = 256;

/// A gate with two standbys, and a log that goes on from batch to batch.
struct Bench {
    gate: CommitGate,
    end: Position,
    /// Ends of batches that the standby has not reported.
    unreported: std::collections::VecDeque<Position>,
    now_ns: u64,
    next_id: u64,
}

impl Bench {
    fn new(rule: &str) -> Bench {
        let end = Position { lsn: Lsn(8192), records: 0, payload_bytes: 0 };
        let mut gate = CommitGate::new(NodeId(100), Unmet::Stall, end);
        gate.tick(0);
        for (peer, name) in [(PeerIndex(0), "a"), (PeerIndex(1), "b")] {
            gate.register(peer, name).expect("two standbys are within the limit");
            gate.identify(peer, NodeId(u64::from(peer.0) + 1)).expect("two nodes");
            gate.set_live(peer, true);
            gate.report(peer, &StandbyWatermarks { written: end, flushed: end, applied: end });
        }
        gate.install_rule(1, SyncRule::parse(rule).expect("a rule of this file"));
        Bench { gate, end, unreported: std::collections::VecDeque::new(), now_ns: 0, next_id: 0 }
    }

    /// One batch through the gate; the standby is `lag` batches behind.
    fn turn(&mut self, level: Level, window: Option<Window>, lag: usize) -> u64 {
        self.now_ns += 20_000;
        self.gate.tick(self.now_ns);
        let before = self.end;
        let body = TICKETS_PER_BATCH * (RECORD_BYTES + 8);
        self.end = Position {
            lsn: before.lsn.plus(128 + body).block_up(),
            records: before.records + TICKETS_PER_BATCH,
            payload_bytes: before.payload_bytes + TICKETS_PER_BATCH * RECORD_BYTES,
        };
        self.gate.batch(before.lsn, self.end, self.now_ns);
        for place in 0..TICKETS_PER_BATCH {
            let lsn = before.lsn.plus(128 + place * (RECORD_BYTES + 8));
            self.next_id += 1;
            self.gate.ticket(Ticket {
                id: TicketId(self.next_id),
                lsn,
                end: lsn.plus(RECORD_BYTES + 8),
                records_through: before.records + place + 1,
                payload_through: before.payload_bytes + (place + 1) * RECORD_BYTES,
                payload_bytes: RECORD_BYTES,
                level,
                window,
                accepted_ns: self.now_ns,
            });
        }
        self.gate.own_flushed(self.end);
        self.unreported.push_back(self.end);
        while self.unreported.len() > lag {
            let Some(mark) = self.unreported.pop_front() else { break };
            self.gate
                .report(PeerIndex(0), &StandbyWatermarks { written: mark, flushed: mark, applied: mark });
        }
        let mut outputs = 0;
        while let Some(output) = self.gate.poll() {
            black_box(output);
            outputs += 1;
        }
        outputs
    }
}

fn gate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gate");
    group.throughput(Throughput::Elements(TICKETS_PER_BATCH));
    let batch_bytes = TICKETS_PER_BATCH * RECORD_BYTES;
    let cases = [
        ("local", "ANY 1 (a, b)", Level::Local, None, 0),
        ("on", "ANY 1 (a, b)", Level::On, None, 0),
        ("on, 8 batches behind", "ANY 1 (a, b)", Level::On, None, 8),
        ("on, FIRST 1", "FIRST 1 (a, b)", Level::On, None, 0),
        (
            "window in bytes, 8 batches behind",
            "ANY 1 (a, b)",
            Level::On,
            Some(Window::Bytes(4 * batch_bytes)),
            8,
        ),
        ("window in records, 8 batches behind", "ANY 1 (a, b)", Level::On, Some(Window::Records(128)), 8),
        ("window in time, 8 batches behind", "ANY 1 (a, b)", Level::On, Some(Window::Micros(80)), 8),
    ];
    for (name, rule, level, window, lag) in cases {
        let mut bench = Bench::new(rule);
        // Steady state: buffers have grown, the standby is as far behind as it will be.
        (0..1000).for_each(|_| {
            bench.turn(level, window, lag);
        });
        group.bench_function(name, |bencher| {
            bencher.iter_batched(|| (), |()| bench.turn(level, window, lag), BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(benches, gate);
criterion_main!(benches);

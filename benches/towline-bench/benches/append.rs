//! The append path at `off`: reserve, copy, CRC, commit. The disk is kept out of the clock: records come in bursts that
//! the arena holds, and are waited for between them. `append_local` is one append with its flush.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use towline::{Level, Log};

fn append_off(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder can be written");
    let log = Log::open(folder.path().join("log")).expect("a log can be made");
    let mut group = criterion.benchmark_group("append_off");
    for record_bytes in [64usize, 256, 4096] {
        let payload = vec![0x5a; record_bytes];
        let burst = (BURST_BYTES / record_bytes) as u64;
        group.throughput(Throughput::Bytes(record_bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(record_bytes), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut timed = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    let count = left.min(burst);
                    let begun = Instant::now();
                    for _ in 0..count {
                        let _ticket =
                            black_box(log.append(&payload, Level::Off, None).expect("the log takes appends"));
                    }
                    timed += begun.elapsed();
                    let last = log.append(&payload, Level::Local, None).expect("the log takes appends");
                    let end = last.wait().expect("the append is acknowledged").end;
                    log.trim(end).expect("the log can be trimmed");
                    left -= count;
                }
                timed
            });
        });
    }
    group.finish();
    log.close().expect("the log stops cleanly");
}

fn append_local(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder can be written");
    let log = Log::open(folder.path().join("log")).expect("a log can be made");
    let payload = vec![0x5a; 256];
    criterion.bench_function("append_local/256", |bencher| {
        bencher.iter(|| {
            let ticket = log.append(&payload, Level::Local, None).expect("the log takes appends");
            ticket.wait().expect("the append is acknowledged")
        });
    });
    log.close().expect("the log stops cleanly");
}

/// Small beside the default arena.
const BURST_BYTES: usize = 4 << 20;

criterion_group!(benches, append_off, append_local);
criterion_main!(benches);

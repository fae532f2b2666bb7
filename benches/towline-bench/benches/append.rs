//! The append path without a disk in the way: reserve, copy, CRC, commit, at `off`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use towline::{Level, Log};

fn append_off(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder can be written");
    let log = Log::open(folder.path().join("log")).expect("a log can be made");
    let mut group = criterion.benchmark_group("append_off");
    for record_bytes in [64usize, 256, 4096] {
        let payload = vec![0x5a; record_bytes];
        let mut since_trim = 0;
        group.throughput(Throughput::Bytes(record_bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(record_bytes), |bencher| {
            bencher.iter(|| {
                let ticket = log.append(&payload, Level::Off, None).expect("the log takes appends");
                since_trim += record_bytes;
                if since_trim > TRIM_EVERY_BYTES {
                    since_trim = 0;
                    log.trim(ticket.end()).expect("the log can be trimmed");
                }
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

/// Half of the default arena.
const TRIM_EVERY_BYTES: usize = 32 << 20;

criterion_group!(benches, append_off, append_local);
criterion_main!(benches);

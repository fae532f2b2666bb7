//! A real primary's log on a disk that forgets.

use std::collections::BTreeSet;
use std::time::Duration;

use powercut::{Cut, FaultChange, Trouble};
use towline::{Level, Log, Lsn};

use crate::support::Mounted;

pub(crate) fn local_survives_a_cut() {
    let mut cuts_with_loss = 0;
    for seed in 0..4 {
        let mounted = Mounted::new();
        let log = open(&mounted);
        // So that the cut finds writes in flight, and tears them.
        slow(&mounted, 2000);
        let acknowledged: Vec<u64> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4).map(|writer| scope.spawn(appends(&log, writer))).collect();
            std::thread::sleep(Duration::from_millis(150 + 17 * seed));
            let report = mounted.mount.cut(Cut { keep: 0.5, seed: Some(seed) }).unwrap();
            cuts_with_loss += u32::from(report.sectors_lost > 0);
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
        });
        assert!(acknowledged.len() > 20, "{} records is no load", acknowledged.len());
        let found = records(&reopened(&mounted, log));
        let lost = acknowledged.iter().filter(|record| !found.contains(record)).count();
        assert_eq!(lost, 0, "seed {seed}: of {} acknowledged at local", acknowledged.len());
        let once: BTreeSet<&u64> = found.iter().collect();
        assert_eq!(once.len(), found.len(), "seed {seed}: none is doubled");
    }
    assert!(cuts_with_loss > 0, "no cut met a write in flight");
}

pub(crate) fn off_loses_what_was_not_flushed() {
    let mounted = Mounted::new();
    let log = open(&mounted);
    log.append(&payload(0), Level::Local, None).unwrap().wait().unwrap();
    slow(&mounted, 1_000_000);
    for record in 1..=100 {
        log.append(&payload(record), Level::Off, None).unwrap().wait().unwrap();
    }
    mounted.mount.cut(Cut::NOTHING).unwrap();
    let found = records(&reopened(&mounted, log));
    assert_eq!(found.first(), Some(&0), "what was flushed is there");
    assert!(found.len() < 101, "a hundred were acknowledged in memory, the power was cut, and none is lost?");
}

pub(crate) fn a_flush_that_fails_poisons_the_log() {
    let mounted = Mounted::new();
    let log = open(&mounted);
    log.append(&payload(0), Level::Local, None).unwrap().wait().unwrap();
    // For good: once might strike a segment that is being prepared.
    mounted.mount.change_faults(&FaultChange { eio_fsync: Some(Trouble::Always), ..FaultChange::default() });
    let failed = log.append(&payload(1), Level::Local, None).unwrap().wait_timeout(PATIENCE);
    assert!(
        failed.is_err_and(|error| error.to_string().contains("poisoned")),
        "who waits is told at once, and why"
    );
    mounted.mount.change_faults(&FaultChange { clear: true, ..FaultChange::default() });
    // The disk would take it now; the log must not.
    let after = log.append(&payload(2), Level::Local, None);
    assert!(after.is_err() || after.unwrap().wait_timeout(PATIENCE).is_err());
    mounted.mount.cut(Cut::NOTHING).unwrap();
    assert_eq!(records(&reopened(&mounted, log)), [0]);
}

/// A page that a reader brings into the page cache while a direct write to it is under way can stay there as it was: the
/// kernel takes it away before an asynchronous direct write to a FUSE file, and not again after it.
pub(crate) fn who_reads_segments_sees_what_is_written_meanwhile() {
    let mounted = Mounted::new();
    let log = open(&mounted);
    // As many as may read from the arena; what follows has to read the segments.
    let others: Vec<_> = (0..16).map(|_| log.tail(Lsn(0)).unwrap()).collect();
    let mut tail = log.tail(Lsn(0)).unwrap();
    // Most of a write's way lies before its bytes can be read.
    let slow = FaultChange { delay_write_us: Some(4000), ..FaultChange::default() };
    mounted.mount.change_faults(&slow);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let log = &log;
            // Beside one another: when one write has ended, and is read, the next is under way.
            scope.spawn(move || {
                for record in (0..100).map(|number| writer << 32 | number) {
                    log.append(&payload(record), Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
                }
            });
        }
        let found: BTreeSet<u64> = (0..400)
            .map(|_| {
                let found = tail.next().unwrap().unwrap_or_else(|error| panic!("{error}"));
                let record = u64::from_le_bytes(found.payload[..8].try_into().unwrap());
                assert_eq!(found.payload, payload(record), "at {}", found.lsn);
                record
            })
            .collect();
        assert_eq!(found.len(), 400);
    });
    drop(others);
}

fn open(mounted: &Mounted) -> Log {
    // Small and alike on every machine. Its directory is new, too: a log is as durable as its name.
    let builder = Log::builder().segment_bytes(8 << 20).arena_bytes(4 << 20).retention_bytes(32 << 20);
    let builder = builder.options(|options| options.calibrate = false);
    let log = builder.open(mounted.path("logs/fresh")).unwrap();
    assert!(log.wait_leading(LIMIT));
    log
}

/// The log after the cut: the old process has seen its disk die, the power is back, a new one opens it.
fn reopened(mounted: &Mounted, dead: Log) -> Log {
    // It may say that its last writes failed.
    let _ = dead.close();
    mounted.mount.change_faults(&FaultChange { clear: true, ..FaultChange::default() });
    mounted.mount.restore();
    open(mounted)
}

fn slow(mounted: &Mounted, delay_fsync_us: u64) {
    let change = FaultChange { delay_fsync_us: Some(delay_fsync_us), ..FaultChange::default() };
    mounted.mount.change_faults(&change);
}

/// Appends until the disk is gone; returns what was acknowledged.
fn appends(log: &Log, writer: u64) -> impl FnOnce() -> Vec<u64> {
    move || {
        let numbers = (0..).map(|number| writer << 32 | number);
        numbers
            .take_while(|record| {
                let ticket = log.append(&payload(*record), Level::Local, None);
                ticket.is_ok_and(|ticket| ticket.wait_timeout(PATIENCE).is_ok())
            })
            .collect()
    }
}

/// A record's number, and something to tear.
fn payload(record: u64) -> Vec<u8> {
    let mut bytes = vec![record as u8; 1500];
    bytes[..8].copy_from_slice(&record.to_le_bytes());
    bytes
}

/// All records of the log.
fn records(log: &Log) -> Vec<u64> {
    let count = log.snapshot().end.records as usize;
    let numbers = log.tail(Lsn(0)).unwrap().take(count).map(|record| {
        let payload = record.unwrap().payload;
        assert!(payload[8..].iter().all(|byte| *byte == payload[0]), "whole records");
        u64::from_le_bytes(payload[..8].try_into().unwrap())
    });
    numbers.collect()
}

const LIMIT: Duration = Duration::from_secs(20);
/// With a disk that is gone: whoever has no answer by then gets none.
const PATIENCE: Duration = Duration::from_secs(1);

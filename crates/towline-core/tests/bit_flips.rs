//! A sealed log of 64 KiB, damaged in every way that one place can be: each of its 524,288 bits flipped, and its file
//! cut off, or zeroed, from each byte on. The outcome is the same log, or a refusal that names the place; never a
//! shorter log that is called fine.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod recovery_support;

use std::ops::Range;

use recovery_support::{BLOCK, GEOMETRY, MemLog, noise};
use towline_core::log::recovery::{Scan, Standing, Verdict};

/// A full segment of 64 KiB with batches of one to four blocks, and in the next one the seal that proves them.
fn sealed() -> MemLog {
    let mut log = MemLog::new();
    for (seed, bytes) in [1500, 9000, 40, 15_000, 4096, 3000].into_iter().enumerate() {
        log.flush();
        log.append(&[&noise(bytes, seed as u32 + 1), b"", &noise(7, seed as u32 + 100)]);
    }
    while log.place().0 + (BLOCK as u64) < GEOMETRY.segment_bytes {
        log.append(&[b"to the end of the segment"]);
    }
    log.flush();
    log.roll();
    log.prepare(1, 0x101);
    log.append(&[b"first of the next"]);
    log.seal();
    assert_eq!(log.files[&0].len() * 8, 524_288);
    log
}

/// How many damaged logs came to what.
#[derive(Default, PartialEq, Eq, Debug)]
struct Tally {
    identical: u64,
    refused: u64,
}

/// The sound log, which every damaged one is held against.
struct Whole {
    log: MemLog,
    scan: Scan,
}

impl Whole {
    fn new() -> Whole {
        let log = sealed();
        let scan = log.scan();
        assert_eq!(scan.verdict, Verdict::CleanEnd);
        assert_eq!(scan.recovered.end, log.end);
        Whole { log, scan }
    }

    /// Judges a log whose first damaged byte, in segment 0, is `at`.
    fn judge(&self, damaged: &MemLog, at: usize, tally: &mut Tally) {
        let found = damaged.scan();
        match &found.verdict {
            Verdict::Corrupt { span, .. } => {
                assert!(span.start.0 <= at.max(2 * BLOCK) as u64, "byte {at}: {span:?}");
                // Of a file that is too short nothing is believed: its range begins at its first batch.
                let short = found.evidence.standing == Standing::ShortFile;
                assert!(short || at as u64 <= span.end.0, "byte {at}: {span:?}");
                tally.refused += 1;
            }
            Verdict::CleanEnd => {
                assert_eq!(found.recovered, self.scan.recovered, "byte {at}: shorter, and called fine");
                tally.identical += 1;
            }
            cut => panic!("byte {at}: durable bytes would be cut: {cut:?}"),
        }
    }

    /// Does `damage` to the log for each of the cases, in two threads, and judges it.
    fn each(&self, cases: usize, damage: impl Fn(&mut MemLog, usize) -> usize + Sync) -> Tally {
        let part = |cases: Range<usize>| {
            let mut log = self.log.clone();
            let mut tally = Tally::default();
            for case in cases {
                let at = damage(&mut log, case);
                self.judge(&log, at, &mut tally);
                log.files.get_mut(&0).unwrap().clone_from(&self.log.files[&0]);
            }
            tally
        };
        std::thread::scope(|scope| {
            let second = scope.spawn(|| part(cases / 2..cases));
            let mut tally = part(0..cases / 2);
            let other = second.join().unwrap();
            tally.identical += other.identical;
            tally.refused += other.refused;
            tally
        })
    }
}

#[test]
fn every_flipped_bit() {
    let tally = Whole::new().each(524_288, |log, bit| {
        log.files.get_mut(&0).unwrap()[bit / 8] ^= 1 << (bit % 8);
        bit / 8
    });
    // Of the segment's header there are two copies: one of them is enough.
    let header = 2 * BLOCK as u64 * 8;
    assert_eq!(tally, Tally { identical: header, refused: 524_288 - header });
}

#[test]
fn every_truncation() {
    let whole = Whole::new();
    let tally = whole.each(65_536, |log, len| {
        log.files.get_mut(&0).unwrap().truncate(len);
        len
    });
    assert_eq!(tally, Tally { identical: 0, refused: 65_536 });
    // The file gone altogether.
    let mut log = whole.log.clone();
    log.files.remove(&0);
    let found = log.scan();
    assert!(matches!(found.verdict, Verdict::Corrupt { .. }), "{:?}", found.verdict);
    assert_eq!(found.evidence.standing, Standing::SequenceGap);
}

/// As a disk does that lost what it had: the file keeps its length, and holds zeros.
#[test]
fn zeros_from_every_byte_on() {
    let whole = Whole::new();
    let tally = whole.each(65_536, |log, from| {
        let file = log.files.get_mut(&0).unwrap();
        // The first byte that changes: what was zero stays.
        let at = (from..file.len()).find(|at| file[*at] != 0).unwrap_or(file.len() - 1);
        file[from..].fill(0);
        at
    });
    // The last batch rolls the segment: behind its header there are only zeros.
    let header = whole.log.files[&0].iter().rposition(|byte| *byte != 0).unwrap() + 1;
    assert_eq!(tally, Tally { identical: (65_536 - header) as u64, refused: header as u64 });
}

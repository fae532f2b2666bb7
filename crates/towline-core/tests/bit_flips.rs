//! A sealed log of 64 KiB, damaged in every way that one place can be: each of its 524,288 bits flipped, and its file
//! cut off, or zeroed, from each byte on. The outcome is the same log, or a refusal that names the place; never a
//! shorter log that is called fine. With a peer that holds the log, what was refused is mended, byte for byte.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod recovery_support;

use std::ops::Range;

use recovery_support::{BLOCK, GEOMETRY, LOG, MemLog, noise};
use towline_core::format::{SegmentHeader, SegmentVerdict};
use towline_core::log::recovery::{Patch, Scan, ScanInput, Standing, Verdict, Wanted, mending, wanted};
use towline_core::types::Span;

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

/// Mends the log as a node does, with what `peer` holds; false where that is of no help.
fn mend(log: &mut MemLog, peer: &MemLog) -> bool {
    for _ in 0..64 {
        let found = log.scan();
        let meta = log.meta.clone();
        let input = ScanInput { log: LOG, geometry: GEOMETRY, meta: &meta, peer_holds: None };
        if found.verdict == Verdict::CleanEnd {
            return true;
        }
        let done = match wanted(log, input, &found).expect("memory can be read") {
            Some(Wanted::Batches(span)) => {
                let end = span.end.min(GEOMETRY.segment_end(GEOMETRY.segment_of(span.start)));
                let patch =
                    Patch { start: span.start, bytes: peer.bytes(Span::new(span.start, end)).to_vec() };
                let spans = mending(log, input, &found, &patch).expect("memory can be read");
                for span in &spans {
                    log.put(span.start, patch.bytes_of(*span).expect("in the patch"));
                }
                !spans.is_empty()
            }
            Some(Wanted::Header { seq }) => {
                let header = &peer.files[&seq][..2 * BLOCK];
                let ours = matches!(SegmentHeader::judge(header, LOG, seq), SegmentVerdict::Ours { .. });
                log.files.get_mut(&seq).unwrap()[..2 * BLOCK].copy_from_slice(header);
                ours
            }
            Some(Wanted::Segment { seq }) => {
                log.files.insert(seq, peer.files[&seq].clone()).is_none_or(|_| true)
            }
            None => false,
        };
        if !done {
            return false;
        }
    }
    false
}

#[test]
fn a_peer_mends_every_flipped_byte_and_every_truncation() {
    let whole = Whole::new();
    let mut log = whole.log.clone();
    for at in 0..65_536 {
        log.files.get_mut(&0).unwrap()[at] ^= 1 << (at % 8);
        if log.scan().verdict != Verdict::CleanEnd {
            assert!(mend(&mut log, &whole.log), "byte {at}");
        }
        log.files.get_mut(&0).unwrap()[..2 * BLOCK].copy_from_slice(&whole.log.files[&0][..2 * BLOCK]);
        assert!(log.files == whole.log.files, "byte {at}");
    }
    for len in (0..65_536).step_by(97) {
        log.files.get_mut(&0).unwrap().truncate(len);
        assert!(mend(&mut log, &whole.log), "{len} bytes");
        assert!(log.files == whole.log.files, "{len} bytes");
    }
}

/// Damage in many places, and both copies of a header: mended piece by piece.
#[test]
fn a_peer_mends_a_log_with_holes_all_over() {
    let whole = Whole::new();
    let mut log = whole.log.clone();
    for at in (100..65_536).step_by(5000) {
        log.files.get_mut(&0).unwrap()[at] ^= 0x10;
    }
    log.files.get_mut(&0).unwrap()[BLOCK + 7] ^= 1;
    assert!(mend(&mut log, &whole.log));
    assert!(log.files == whole.log.files);
}

/// What a peer sends is checked like everything else: damage, another log's bytes or a shorter log mend nothing.
#[test]
fn nothing_is_written_that_does_not_belong_there() {
    let whole = Whole::new();
    let mut log = whole.log.clone();
    let at = 5 * BLOCK + 300;
    log.files.get_mut(&0).unwrap()[at] ^= 4;
    let damaged = log.files.clone();
    let mut rotten = whole.log.clone();
    rotten.files.get_mut(&0).unwrap()[at + 1] ^= 4;
    let mut other = MemLog::new();
    for seed in 0..12 {
        other.append(&[&noise(3000, 77 + seed)]);
    }
    let mut shorter = whole.log.clone();
    shorter.files.get_mut(&0).unwrap()[3 * BLOCK..].fill(0);
    for peer in [&rotten, &other, &shorter] {
        assert!(!mend(&mut log, peer));
        assert!(log.files == damaged, "a refused patch changes nothing");
    }
    assert!(mend(&mut log, &whole.log));
}

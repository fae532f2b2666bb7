//! Every single flipped bit of a small sealed log, and bytes that no program wrote.

mod recovery_support;

use proptest::collection::vec;
use proptest::prelude::*;
use recovery_support::{BLOCK, GEOMETRY, MemLog, noise};
use towline_core::log::recovery::Verdict;
use towline_core::types::limits::SEGMENT_HEADER_BYTES;

/// 8 KiB of batches behind the 8 KiB of segment header.
fn sealed() -> MemLog {
    let mut log = MemLog::new();
    log.append(&[&noise(1500, 1), b"", &noise(7, 2)]);
    log.seal();
    log
}

/// Each outcome is identical, refused, or a cut that is reported and loses no record: never shorter and fine.
#[test]
fn every_flipped_bit_of_a_sealed_log() {
    let log = sealed();
    let (payloads, whole) = (log.payloads(), log.scan());
    let content = SEGMENT_HEADER_BYTES as usize + 2 * BLOCK;
    let (mut identical, mut refused, mut cut) = (0, 0, 0);
    let mut flipped = log.clone();
    for bit in 0..content * 8 {
        flip(&mut flipped, bit);
        let found = flipped.scan();
        match found.verdict {
            Verdict::Corrupt { span, .. } => {
                assert!(span.contains(towline_core::types::Lsn((bit / 8) as u64)), "bit {bit}: {span:?}");
                refused += 1;
            }
            Verdict::CleanEnd => {
                assert_eq!(found.recovered, whole.recovered, "bit {bit}");
                assert_eq!(found.header_repairs.len(), 1, "bit {bit}");
                identical += 1;
            }
            Verdict::TornTail { .. } | Verdict::InFlight { .. } => {
                assert_eq!(flipped.payloads(), payloads, "bit {bit}");
                cut += 1;
            }
        }
        flip(&mut flipped, bit);
    }
    // Segment header; data batch, which the seal proves; the seal itself, behind which nothing is promised.
    assert_eq!((identical, refused, cut), (2 * BLOCK * 8, BLOCK * 8, BLOCK * 8));
}

/// With a report of this node's own, the seal cannot be lost either.
#[test]
fn every_flipped_bit_of_a_sealed_and_reported_log_is_refused() {
    let mut log = sealed();
    log.meta.reported = log.end.lsn;
    let start = SEGMENT_HEADER_BYTES as usize;
    for bit in start * 8..(start + 2 * BLOCK) * 8 {
        flip(&mut log, bit);
        assert!(matches!(log.scan().verdict, Verdict::Corrupt { .. }), "bit {bit}");
        flip(&mut log, bit);
    }
}

fn flip(log: &mut MemLog, bit: usize) {
    log.files.get_mut(&0).expect("there")[bit / 8] ^= 1 << (bit % 8);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_segments_never_panic(patches in vec((0usize..GEOMETRY.segment_bytes as usize, vec(any::<u8>(), 1..600)), 0..40), keep: bool) {
        let mut log = sealed();
        log.append(&[&noise(9000, 3)]);
        log.roll();
        log.prepare(1, 7);
        log.append(&[&noise(900, 4)]);
        for (seq, (at, bytes)) in patches.into_iter().enumerate() {
            let file = log.files.get_mut(&(seq as u64 % 2)).expect("there");
            // Keeping the headers lets the damage reach the batches.
            let at = if keep { at.max(2 * BLOCK) } else { at };
            let end = (at + bytes.len()).min(file.len());
            file[at..end].copy_from_slice(&bytes[..end - at]);
        }
        let found = log.scan();
        prop_assert!(found.recovered.end.lsn.0 <= GEOMETRY.segment_end(1).0);
        prop_assert_eq!(found, log.scan());
    }
}

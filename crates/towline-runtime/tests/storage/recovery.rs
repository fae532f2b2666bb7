//! What a crash, rot or a human may have done to the files, end to end: the verdict is carried out, or the directory
//! is refused as it was found.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use towline_core::node::Input;
use towline_core::types::{Lsn, Span};
use towline_runtime::storage::{Command, OpenError, ShardDir, Steps};

use crate::support::{GEOMETRY, Log, Place, Written, flip, overwrite, payload, stopping};

/// Opens, closes, and gives what recovery said; then everything is as `expected` and stays so.
fn recovers_to(place: &Place, expected: &[Vec<u8>]) -> Option<Span> {
    let first = place.open().unwrap();
    let (cut, recovered) = (first.recovered.cut, first.recovered.clone());
    drop(first);
    assert_eq!(place.payloads(), expected);
    let again = place.open().unwrap();
    assert_eq!(again.recovered.cut, None, "recovering twice gives the same log");
    assert_eq!(again.recovered, towline_core::log::Recovered { cut: None, ..recovered });
    cut
}

/// Refused with these bytes named, exit code 3, and nothing touched but the meta block's copies.
fn refused(place: &Place, at: Lsn) -> OpenError {
    let before = contents(&place.path);
    let error = place.open().unwrap_err();
    assert!(matches!(&error, OpenError::Corrupt { span, .. } if span.start == at), "{error}");
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains(&at.to_string()), "{error}");
    assert!(contents(&place.path) == before, "a refused directory is left as it was");
    error
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            all.extend(contents(&entry.path()));
        } else if entry.file_name() != "lock" {
            all.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    all
}

fn offset(written: &Written, batch: usize) -> u64 {
    GEOMETRY.offset_of(written.batches[batch].start)
}

#[test]
fn a_log_is_found_as_it_was_left() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    log.lead();
    log.rule(1, "ANY 1 (a, b)");
    log.append(&[payload(0, 10).as_slice(), b""]);
    let roll = log.roll();
    log.append(&[payload(1, 70_000).as_slice()]);
    log.seal();
    let written = log.close();
    let opened = place.open().unwrap();
    let recovered = &opened.recovered;
    assert_eq!((recovered.end, recovered.previous_hash), (written.end, written.hash));
    assert_eq!(recovered.rolls, [roll.stored().end]);
    assert!(recovered.sealed && recovered.cut.is_none());
    assert_eq!(recovered.segments, opened.segments.list());
    assert_eq!(recovered.segments.len(), 2);
    let rule = recovered.rule.clone().or(recovered.pending_rule.clone());
    assert_eq!(rule, Some((1, "ANY 1 (a, b)".to_owned())));
    drop(opened);
    assert_eq!(place.payloads(), written.payloads);
}

#[test]
fn a_torn_tail_is_cut_and_kept() {
    let (place, written) = Place::with_log(3);
    flip(&place.segment(0), offset(&written, 2) + 200);
    let torn = fs::read(place.segment(0)).unwrap();
    let cut = recovers_to(&place, &written.first(2)).unwrap();
    let start = written.batches[2].start;
    assert_eq!(cut, Span::new(start, start.plus(GEOMETRY.in_flight_bytes)));
    let copies: Vec<_> = fs::read_dir(place.path.join("cut")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(copies.len(), 1);
    let stored = written.span(2);
    let kept = fs::read(&copies[0]).unwrap();
    assert_eq!(kept, torn[offset(&written, 2) as usize..][..stored.len() as usize]);
    // The span is remembered until it has been overwritten.
    let meta = place.reader().meta().clone();
    assert_eq!(meta.unfinished, [cut]);
}

#[test]
fn a_log_goes_on_behind_a_cut() {
    let (place, written) = Place::with_log(2);
    flip(&place.segment(0), offset(&written, 1) + 4);
    let mut log = Log::start(place.open().unwrap());
    log.written.payloads = written.first(1);
    log.append(&[b"after the cut"]);
    let written = log.close();
    assert_eq!(recovers_to(&place, &written.payloads), None);
}

#[test]
fn a_start_leaves_64_copies_of_cuts_and_names_what_it_removes() {
    let (place, written) = Place::with_log(2);
    let copies = || std::fs::read_dir(place.path.join("cut")).unwrap().count();
    for number in 0..70 {
        std::fs::write(place.path.join(format!("cut/{number:016x}-ffffffffffffffff.0.cut")), b"x").unwrap();
    }
    let opened = place.open().unwrap();
    assert_eq!(copies(), 64);
    let note = opened.notes.iter().find(|note| note.contains("old copies")).unwrap();
    assert!(note.starts_with("6 old copies") && note.contains("0000000000000000-"), "{note}");
    drop(opened);
    assert!(!place.open().unwrap().notes.iter().any(|note| note.contains("old copies")));
    assert_eq!((copies(), place.payloads()), (64, written.payloads));
}

#[test]
fn writes_in_flight_behind_a_hole_are_cut() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    log.lead();
    log.append(&[b"durable"]);
    // The leader had flushed up to here; what follows was in flight together.
    log.durable_before = Some(log.written.end.lsn);
    for n in 0..3 {
        log.append(&[payload(n, 6000).as_slice()]);
    }
    let written = log.close();
    let hole = vec![0; written.span(1).len() as usize];
    overwrite(&place.segment(0), offset(&written, 1), &hole);
    let cut = recovers_to(&place, &written.first(1)).unwrap();
    assert_eq!(cut.start, written.batches[1].start);
}

#[test]
fn rot_in_the_middle_is_refused_and_named() {
    for (batch, at) in [(0, 4), (0, 130), (1, 60), (1, 3000), (2, 0)] {
        let (place, written) = Place::with_log(5);
        flip(&place.segment(0), offset(&written, batch) + at);
        refused(&place, written.batches[batch].start);
        let reader = place.reader();
        assert!(matches!(
            reader.scan().unwrap().verdict,
            towline_core::log::recovery::Verdict::Corrupt { .. }
        ));
        drop(reader);
        assert_eq!(place.payloads(), written.first(batch), "what is before can still be read");
    }
}

#[test]
fn a_hole_below_what_was_reported_is_corruption() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    log.lead();
    log.append(&[b"one"]);
    let last = log.append(&[b"two"]);
    log.change_meta(|meta| meta.reported = last.end);
    log.close();
    flip(&place.segment(0), GEOMETRY.offset_of(last.start) + 140);
    refused(&place, last.start);
}

#[test]
fn a_segment_that_is_gone_or_short_is_refused() {
    let (place, log) = three_segments();
    fs::remove_file(place.segment(1)).unwrap();
    refused(&place, GEOMETRY.first_batch(1));
    drop(log);

    let (place, _) = three_segments();
    fs::File::options().write(true).open(place.segment(1)).unwrap().set_len(4 << 20).unwrap();
    place.open().unwrap_err();
}

#[test]
fn one_flipped_bit_in_a_header_loses_no_segment() {
    let (place, written) = three_segments();
    flip(&place.segment(1), 40);
    let opened = place.open().unwrap();
    assert!(opened.notes.iter().any(|note| note.contains("header")), "{:?}", opened.notes);
    drop(opened);
    let bytes = fs::read(place.segment(1)).unwrap();
    assert_eq!(bytes[..4096], bytes[4096..8192], "both copies are whole again");
    assert_eq!(place.payloads(), written.payloads);
    // Both copies gone: not a crash, and not the end of the log either.
    flip(&place.segment(1), 40);
    flip(&place.segment(1), 4096 + 40);
    refused(&place, GEOMETRY.first_batch(1));
}

#[test]
fn a_prepared_segment_is_a_clean_end() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    log.lead();
    log.append(&[b"one"]);
    log.roll();
    let salt = log.prepare(1);
    log.prepare(2);
    let written = log.close();
    assert_eq!(recovers_to(&place, &written.payloads), None);
    let opened = place.open().unwrap();
    assert_eq!(opened.recovered.segments.len(), 3);
    assert_eq!(opened.segments.salt(1), Some(salt));
    assert_eq!(opened.recovered.end.lsn, GEOMETRY.segment_end(0));
}

#[test]
fn recovery_stopped_at_any_step_ends_in_the_same_log() {
    let torn_log = || {
        let (place, written) = Place::with_log(3);
        flip(&place.segment(0), offset(&written, 2) + 300);
        flip(&place.segment(0), 50);
        (place, written)
    };
    let (place, _) = torn_log();
    let steps = Steps::count();
    ShardDir::open(&place.path, &stopping(&steps)).unwrap();
    assert!(steps.taken() >= 12, "{}", steps.taken());
    for allowed in 0..steps.taken() {
        let (place, written) = torn_log();
        let from = offset(&written, 2) as usize;
        let torn = fs::read(place.segment(0)).unwrap();
        let stopped = ShardDir::open(&place.path, &stopping(&Steps::stop_after(allowed)));
        assert!(matches!(stopped, Err(OpenError::Stopped(_))), "after {allowed} steps");
        // And stopped once more, early in the second attempt.
        let _ = ShardDir::open(&place.path, &stopping(&Steps::stop_after(allowed % 5)));
        recovers_to(&place, &written.first(2));
        let now = fs::read(place.segment(0)).unwrap();
        assert!(now[from..].iter().all(|byte| *byte == 0), "after {allowed} steps");
        let copies: Vec<_> =
            fs::read_dir(place.path.join("cut")).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(copies.len(), 1, "after {allowed} steps: one cut, one copy");
        let kept = fs::read(&copies[0]).unwrap();
        assert_eq!(kept, torn[from..][..kept.len()], "after {allowed} steps");
        assert_eq!(kept.len() as u64, written.span(2).len());
    }
}

#[test]
fn a_cut_by_the_keeper_stopped_at_any_step_ends_in_the_same_log() {
    let run = |steps: &Steps| {
        let place = Place::new();
        let mut log = Log::start(ShardDir::open(&place.path, &stopping(steps)).unwrap());
        log.lead();
        log.append(&[b"stays"]);
        let to = log.written.end.lsn;
        log.append(&[payload(1, 9000).as_slice()]);
        log.roll();
        log.append(&[payload(2, 9000).as_slice()]);
        let until = log.written.end.lsn.plus(GEOMETRY.in_flight_bytes);
        log.change_meta(|meta| meta.unfinished.push(Span::new(to, until)));
        let before = steps.taken();
        log.kept.send(Command::Truncate { to, until });
        let answer = log.kept.answers.recv_timeout(std::time::Duration::from_secs(20));
        log.close();
        (place, before, answer.ok())
    };
    let steps = Steps::count();
    let (_, before, answer) = run(&steps);
    assert!(matches!(answer, Some(Input::Truncated { .. })), "{answer:?}");
    for allowed in before..steps.taken() {
        let (place, _, answer) = run(&Steps::stop_after(allowed));
        assert_eq!(answer, None, "after {allowed} steps");
        // Not told of the cut, the node would cut again: a cut log, or one that still has a longer, whole prefix.
        let opened = place.open().unwrap();
        assert!(opened.recovered.end.records >= 1);
        drop(opened);
        let payloads = place.payloads();
        let whole = [b"stays".to_vec(), payload(1, 9000), payload(2, 9000)];
        assert!(whole.starts_with(&payloads) && !payloads.is_empty(), "after {allowed} steps");
    }
}

/// Three segments with a batch or two in each.
fn three_segments() -> (Place, Written) {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    log.lead();
    for n in 0..3 {
        log.append(&[payload(n, 3000).as_slice()]);
        if n < 2 {
            log.roll();
        }
    }
    (place, log.close())
}

#[test]
fn a_newer_program_s_segment_is_no_damage() {
    let (place, _) = Place::with_log(1);
    // Both copies with the next version, summed as that program would.
    let mut block = fs::read(place.segment(0)).unwrap()[..4096].to_vec();
    block[8] += 1;
    block[12..16].fill(0);
    let crc = towline_core::format::payload_crc(&block[..512]);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
    overwrite(&place.segment(0), 0, &[block.as_slice(), block.as_slice()].concat());
    let error = place.open().unwrap_err();
    assert!(matches!(error, OpenError::OtherFormat { found: 2, supported: 1, .. }), "{error}");
}

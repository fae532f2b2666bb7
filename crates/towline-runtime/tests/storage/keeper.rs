//! The keeper: segments made ahead, recycled, cut; the meta block written; disks that are full.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::channel;
use std::time::Duration;

use towline_core::format::BatchKind;
use towline_core::node::Input;
use towline_core::types::{LogId, Lsn, NodeId, Span, Term, TermHistory, TermStart};
use towline_runtime::storage::{Command, Keeper, Purpose, SegmentReader, ShardDir, Steps, StorageOptions};

use crate::support::{GEOMETRY, Kept, Log, Place, SmallDisk, options, payload, stopping, write};

#[test]
fn a_segment_is_made_whole_and_asked_for_twice_only_once() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    let salt = log.prepare(0);
    assert_eq!(log.prepare(0), salt);
    let bytes = fs::read(place.segment(0)).unwrap();
    assert_eq!(bytes.len() as u64, GEOMETRY.segment_bytes);
    assert_eq!(bytes[..4096], bytes[4096..8192], "two equal headers");
    assert!(bytes[8192..].iter().all(|byte| *byte == 0));
    assert_eq!(log.segments.list(), [(0, salt)]);
    // A leader's own salt replaces it as long as it is empty.
    let other = salt.wrapping_add(1);
    let answer = log.kept.ask(Command::Prepare { seq: 0, salt: Some(other) });
    assert_eq!(answer, Input::SegmentReady { seq: 0, salt: other });
    log.lead();
    log.append(&[b"one"]);
    let answer = log.kept.ask(Command::Prepare { seq: 0, salt: Some(salt) });
    assert!(
        matches!(answer, Input::SegmentFailed { seq: 0, .. }),
        "a segment with batches stays: {answer:?}"
    );
    log.close();
    assert_eq!(place.payloads(), [b"one"]);
}

#[test]
fn a_meta_write_overtakes_the_making_of_segments() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    for seq in 0..6 {
        log.kept.send(Command::Prepare { seq, salt: None });
    }
    log.meta.sequence += 1;
    log.kept.send(Command::WriteMeta(log.meta.clone()));
    let answers: Vec<Input> = (0..7).map(|_| log.kept.next()).collect();
    let at = answers.iter().position(|answer| matches!(answer, Input::MetaWritten { .. })).unwrap();
    assert!(at < 6, "{answers:?}");
    let made = answers.iter().filter(|answer| matches!(answer, Input::SegmentReady { .. })).count();
    assert_eq!(made, 6);
}

#[test]
fn recycling_never_brings_old_batches_back() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    log.lead();
    log.append(&[payload(1, 4000).as_slice()]);
    log.append(&[payload(2, 4000).as_slice()]);
    log.roll();
    log.append(&[b"in the second segment"]);
    let old = fs::read(place.segment(0)).unwrap();
    let old_salt = log.segments.salt(0).unwrap();
    let start = GEOMETRY.first_batch(1);
    log.change_meta(|meta| meta.log_start = start);
    log.kept.send(Command::Recycle { below: start });
    let salt = log.prepare(2);
    assert!(!place.segment(0).exists(), "the old file became the new one");
    let new = fs::read(place.segment(2)).unwrap();
    assert_eq!(old[8192..], new[8192..], "its content was not touched");
    assert_eq!(log.segments.salt(2), Some(salt));
    assert_ne!(salt, old_salt);
    log.roll();
    // The log goes on over the old content: nothing of it is ever believed.
    log.append(&[b"in the third segment"]);
    log.seal();
    log.close();
    let wanted: [&[u8]; 2] = [b"in the second segment", b"in the third segment"];
    assert_eq!(place.payloads(), wanted);
    let opened = place.open().unwrap();
    assert_eq!(opened.recovered.end.records, 4);
    assert_eq!(opened.recovered.cut, None);
    drop(opened);
    assert_eq!(place.payloads(), wanted);
}

#[test]
fn a_segment_under_a_reader_is_unlinked_and_stays_readable() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    log.lead();
    let batch = log.append(&[b"kept by a reader"]);
    log.roll();
    log.append(&[b"next"]);
    let durable = batch.stored().end;
    let mut reader = SegmentReader::new(log.segments.clone());
    let mut before = vec![0; batch.stored().len() as usize];
    reader.read(batch.stored(), durable, &mut before).unwrap();
    let start = GEOMETRY.first_batch(1);
    log.change_meta(|meta| meta.log_start = start);
    log.kept.send(Command::Recycle { below: start });
    log.prepare(2);
    let mut other = SegmentReader::new(log.segments.clone());
    let mut after = vec![0; before.len()];
    assert_eq!(other.read(batch.stored(), durable, &mut after).unwrap_err().kind(), io::ErrorKind::NotFound);
    reader.rest();
    reader.read(batch.stored(), durable, &mut after).unwrap();
    assert_eq!(after, before, "not recycled under the reader");
    let leaves = Span::new(Lsn(0), GEOMETRY.segment_end(1));
    let refused = reader.read(leaves, leaves.end, &mut vec![0; leaves.len() as usize]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    let refused = reader.read(batch.stored(), durable, &mut after[1..]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    let zeros = fs::read(place.segment(2)).unwrap();
    assert!(zeros[8192..].iter().all(|byte| *byte == 0), "the new segment is a fresh file");
}

#[test]
fn what_was_read_before_a_cut_is_void() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    log.lead();
    log.append(&[b"stays"]);
    let gone = log.append(&[b"is cut"]).stored();
    let mut reader = SegmentReader::new(log.segments.clone());
    let mut before = vec![0; gone.len() as usize];
    reader.read(gone, gone.end, &mut before).unwrap();
    let answer = log.kept.ask(Command::Truncate { to: gone.start, until: gone.end });
    assert!(matches!(answer, Input::Truncated { .. }), "{answer:?}");
    let mut after = vec![0; before.len()];
    reader.read(gone, gone.end, &mut after).unwrap();
    assert!(before != after && after.iter().all(|byte| *byte == 0), "zeros stand there now");
}

#[test]
fn segments_below_the_start_are_few_and_found_again() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    log.lead();
    for n in 0..7 {
        log.append(&[payload(n, 10).as_slice()]);
        log.roll();
    }
    log.append(&[b"last"]);
    let start = GEOMETRY.first_batch(7);
    log.change_meta(|meta| meta.log_start = start);
    log.kept.send(Command::Recycle { below: start });
    log.change_meta(|_| {});
    let left = (0..7).filter(|seq| place.segment(*seq).exists()).count();
    assert_eq!(left, options().spare_segments);
    log.close();
    let mut log = Log::start(place.open().unwrap());
    assert_eq!(log.segments.list().len(), 1);
    log.prepare(8);
    let left = (0..7).filter(|seq| place.segment(*seq).exists()).count();
    assert_eq!(left, options().spare_segments - 1, "one of them was used again");
    log.close();
    assert_eq!(place.payloads(), [b"last"]);
}

#[test]
fn a_cut_keeps_a_copy_and_says_what_lies_before_it() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    log.lead();
    log.append(&[b"stays"]);
    let (end, hash) = (log.written.end, log.written.hash);
    let goes = log.append(&[b"goes"]);
    log.roll();
    log.append(&[b"goes too"]);
    let until = log.written.end.lsn.plus(GEOMETRY.in_flight_bytes);
    let bytes = fs::read(place.segment(0)).unwrap();
    log.change_meta(|meta| meta.unfinished.push(Span::new(end.lsn, until)));
    let answer = log.kept.ask(Command::Truncate { to: end.lsn, until });
    assert_eq!(answer, Input::Truncated { end, previous_hash: hash });
    assert!(!place.segment(1).exists());
    let offset = GEOMETRY.offset_of(end.lsn) as usize;
    assert!(fs::read(place.segment(0)).unwrap()[offset..].iter().all(|byte| *byte == 0));
    let copies: Vec<_> = fs::read_dir(place.path.join("cut")).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(copies.len(), 1);
    assert!(copies[0].file_name().to_string_lossy().starts_with(&format!("{:016x}-", goes.start.0)));
    let copy = fs::File::open(copies[0].path()).unwrap();
    let mut first = vec![0; goes.stored().len() as usize];
    copy.read_exact_at(&mut first, 0).unwrap();
    assert_eq!(first, bytes[offset..][..first.len()]);
    // The second segment's batch lies in the copy where it lay in the log.
    let second = GEOMETRY.first_batch(1).bytes_since(end.lsn);
    let mut magic = [0; 8];
    copy.read_exact_at(&mut magic, second).unwrap();
    assert_eq!(magic, towline_core::format::BATCH_MAGIC);
    log.close();
    assert_eq!(place.payloads(), [b"stays"]);
}

#[test]
fn an_empty_standby_gets_its_first_segment_once_it_has_a_log() {
    let place = Place::new();
    let options = StorageOptions { purpose: Purpose::Standby, ..options() };
    let opened = ShardDir::open(&place.path, &options).unwrap();
    let (sink, answers) = channel();
    let keeper = Keeper::start(opened.keeper, move |input| drop(sink.send(input))).unwrap();
    let kept = Kept { keeper, answers };
    let refused = kept.ask(Command::Prepare { seq: 0, salt: Some(5) });
    assert!(matches!(refused, Input::SegmentFailed { seq: 0, .. }), "{refused:?}");
    let log = LogId([3; 16]);
    opened.dir.adopt_identity(log, GEOMETRY).unwrap();
    // The attempt that failed is made again by itself.
    assert_eq!(kept.next(), Input::SegmentReady { seq: 0, salt: 5 });
    assert_eq!(opened.segments.salt(0), Some(5));
}

#[test]
fn a_segment_that_cannot_be_made_is_tried_again_until_it_can() {
    let place = Place::new();
    let log = Log::start(place.open().unwrap());
    // A directory under the temporary name stands in the way, as a full disk would.
    let obstacle = place.path.join(format!("segments/{:016x}.tmp", 0));
    fs::create_dir(&obstacle).unwrap();
    let answer = log.kept.ask(Command::Prepare { seq: 0, salt: None });
    assert!(matches!(answer, Input::SegmentFailed { seq: 0, .. }), "{answer:?}");
    std::thread::sleep(Duration::from_millis(250));
    assert!(log.kept.answers.try_recv().is_err(), "the same cause is said once");
    fs::remove_dir(&obstacle).unwrap();
    assert!(matches!(log.kept.next(), Input::SegmentReady { seq: 0, .. }));
}

#[test]
fn what_cannot_be_made_holds_up_the_segments_behind_it() {
    let place = Place::new();
    let log = Log::start(place.open().unwrap());
    // There is no room for segment 1, and there would be for those behind it.
    let obstacle = place.path.join(format!("segments/{:016x}.tmp", 1));
    fs::create_dir(&obstacle).unwrap();
    let salt = |seq| Some(10 + seq as u32);
    assert_eq!(
        log.kept.ask(Command::Prepare { seq: 0, salt: salt(0) }),
        Input::SegmentReady { seq: 0, salt: 10 }
    );
    for seq in 1..=3 {
        log.kept.send(Command::Prepare { seq, salt: salt(seq) });
    }
    assert!(matches!(log.kept.next(), Input::SegmentFailed { seq: 1, .. }));
    std::thread::sleep(Duration::from_millis(250));
    assert!(log.kept.answers.try_recv().is_err(), "nothing is made behind a gap");
    let names = fs::read_dir(place.path.join("segments")).unwrap();
    let seqs = names.filter(|name| name.as_ref().unwrap().path().extension().is_some_and(|ext| ext == "seg"));
    assert_eq!(seqs.count(), 1, "a crash now must not find a gap");
    fs::remove_dir(&obstacle).unwrap();
    for seq in 1..=3 {
        assert_eq!(log.kept.next(), Input::SegmentReady { seq, salt: 10 + seq as u32 });
    }
    log.close();
    let opened = place.open().unwrap();
    assert_eq!(opened.segments.list().len(), 4);
}

#[test]
fn a_segment_behind_a_cut_is_not_tried_again() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    log.prepare(0);
    log.lead();
    let batch = log.append(&[b"stays"]);
    let obstacle = place.path.join(format!("segments/{:016x}.tmp", 1));
    fs::create_dir(&obstacle).unwrap();
    let answer = log.kept.ask(Command::Prepare { seq: 1, salt: Some(5) });
    assert!(matches!(answer, Input::SegmentFailed { seq: 1, .. }), "{answer:?}");
    let to = batch.stored().end;
    let answer = log.kept.ask(Command::Truncate { to, until: to.plus(GEOMETRY.in_flight_bytes) });
    assert!(matches!(answer, Input::Truncated { .. }), "{answer:?}");
    fs::remove_dir(&obstacle).unwrap();
    // Longer than until the next attempt: the next leader names another salt.
    std::thread::sleep(Duration::from_millis(250));
    assert!(log.kept.answers.try_recv().is_err() && !place.segment(1).exists(), "it went with the cut");
}

#[test]
fn a_segment_below_the_logs_start_holds_up_none() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    let obstacle = place.path.join(format!("segments/{:016x}.tmp", 0));
    fs::create_dir(&obstacle).unwrap();
    let answer = log.kept.ask(Command::Prepare { seq: 0, salt: None });
    assert!(matches!(answer, Input::SegmentFailed { seq: 0, .. }), "{answer:?}");
    // An empty standby that goes on at the start of a trimmed log.
    log.change_meta(|meta| meta.log_start = GEOMETRY.first_batch(5));
    let answer = log.kept.ask(Command::Prepare { seq: 5, salt: Some(5) });
    assert_eq!(answer, Input::SegmentReady { seq: 5, salt: 5 });
}

#[test]
fn a_segment_with_a_batch_of_its_place_is_not_made_anew_whatever_its_salt() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    let salt = log.prepare(0);
    log.lead();
    // As a node would leave it that took another file for the one it had asked for.
    let (header, bytes) = log.build(BatchKind::Seal, &[]);
    let other = [header.encode(salt ^ 1).as_slice(), &bytes[128..]].concat();
    write(&log.segments.file(0).unwrap(), GEOMETRY.offset_of(header.start), &other);
    let answer = log.kept.ask(Command::Prepare { seq: 0, salt: Some(salt ^ 1) });
    assert!(matches!(answer, Input::SegmentFailed { seq: 0, .. }), "{answer:?}");
}

#[test]
fn what_an_interrupted_cut_left_over_does_not_hold_its_segment() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    let salt = log.prepare(0);
    log.lead();
    log.append(&[payload(1, 100).as_slice()]);
    // Another's term begins where the log does; the cut that its record announces did not come to its end.
    let start = GEOMETRY.first_batch(0);
    log.change_meta(|meta| {
        let term = Term { number: meta.adopted.number + 1, node: NodeId(77) };
        meta.adopted = term;
        meta.history = TermHistory::from_entries(&[TermStart { term, start }]).unwrap();
        meta.unfinished = vec![Span::new(start, start.plus(GEOMETRY.in_flight_bytes))];
    });
    drop(log);
    let opened = place.open().unwrap();
    assert_eq!(
        (opened.recovered.end.lsn, opened.recovered.cut),
        (start, None),
        "another term owns the place"
    );
    let log = Log::start(opened);
    let answer = log.kept.ask(Command::Prepare { seq: 0, salt: Some(salt ^ 1) });
    assert_eq!(answer, Input::SegmentReady { seq: 0, salt: salt ^ 1 });
}

#[test]
fn a_failed_meta_write_ends_all_meta_writes() {
    let place = Place::new();
    let mut log = Log::start(place.open().unwrap());
    log.meta.sequence += 1;
    let mut broken = log.meta.clone();
    broken.unfinished = vec![Span::new(Lsn(0), Lsn(1)); towline_core::format::MAX_UNFINISHED + 1];
    let answer = log.kept.ask(Command::WriteMeta(broken));
    assert!(matches!(answer, Input::MetaFailed { .. }), "{answer:?}");
    let answer = log.kept.ask(Command::WriteMeta(log.meta.clone()));
    assert!(matches!(answer, Input::MetaFailed { .. }), "never tried again: {answer:?}");
    log.close();
    let meta = place.reader();
    assert_eq!(meta.meta().incarnation, 1);
}

#[test]
fn a_full_disk_is_said_and_left_behind_when_there_is_room_again() {
    let place = Place::new();
    let Some(small) = SmallDisk::mount(&place, 20) else {
        println!("skipped: this user cannot mount a small file system");
        return;
    };
    let path = small.0.join("shard-0");
    let buffered = StorageOptions { buffered: true, ..options() };
    let mut log = Log::start(ShardDir::open(&path, &buffered).unwrap());
    let fill = small.0.join("fill");
    fs::write(&fill, vec![1; 8 << 20]).unwrap();
    log.prepare(0);
    let answer = log.kept.ask(Command::Prepare { seq: 1, salt: None });
    match &answer {
        Input::SegmentFailed { seq: 1, error } => assert!(error.contains("no space left"), "{error}"),
        other => panic!("{other:?}"),
    }
    // Reads and meta writes go on.
    log.lead();
    log.append(&[b"still here"]);
    fs::remove_file(&fill).unwrap();
    assert!(matches!(log.kept.next(), Input::SegmentReady { seq: 1, .. }));
    log.close();
}

#[test]
fn making_and_recycling_stopped_at_any_step_leave_a_whole_log() {
    let run = |steps: &Steps| {
        let place = Place::new();
        let opened = ShardDir::open(&place.path, &stopping(&Steps::default())).unwrap();
        drop(opened);
        let opened = ShardDir::open(&place.path, &StorageOptions { spare_segments: 1, ..stopping(steps) });
        let Ok(opened) = opened else { return place };
        let log = Log::start(opened);
        let ask = |command| log.kept.send(command);
        let mut meta = log.meta.clone();
        (0..4).for_each(|seq| ask(Command::Prepare { seq, salt: None }));
        meta.sequence += 1;
        meta.log_start = GEOMETRY.first_batch(2);
        let barrier = meta.clone();
        // In turn, as a node does: the segments below go when the start above them is durable.
        let answers: Vec<_> = (0..4).map_while(|_| log.kept.answers.recv().ok()).collect();
        if answers.len() == 4 {
            ask(Command::WriteMeta(barrier));
            if log.kept.answers.recv().is_ok() {
                ask(Command::Recycle { below: meta.log_start });
                ask(Command::Prepare { seq: 4, salt: None });
                let _ = log.kept.answers.recv();
            }
        }
        log.close();
        place
    };
    let steps = Steps::count();
    let whole = run(&steps);
    assert!(whole.segment(4).exists() && !whole.segment(0).exists());
    assert!(steps.taken() > 25, "{}", steps.taken());
    for allowed in 0..steps.taken() {
        let place = run(&Steps::stop_after(allowed));
        let opened = place.open().unwrap_or_else(|error| panic!("after {allowed} steps: {error}"));
        let listed = opened.segments.list();
        assert!(
            listed.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0),
            "after {allowed} steps: {listed:?}"
        );
        assert_eq!(opened.recovered.segments, listed);
        let names = fs::read_dir(place.path.join("segments")).unwrap();
        let half_made =
            names.filter(|name| name.as_ref().unwrap().path().extension().is_some_and(|ext| ext == "tmp"));
        assert_eq!(half_made.count(), 0, "after {allowed} steps");
    }
}

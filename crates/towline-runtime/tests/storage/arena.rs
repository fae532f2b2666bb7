//! The arena of a killed standby: what it had and the disk had not is taken over; nothing else is.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use towline_core::format::{BatchHeader, BatchKind, RecordKind};
use towline_core::types::{Meta, NodeId, Span, Term};
use towline_runtime::storage::{OpenError, Opened, Purpose, ShardDir, Steps, StorageOptions, arena_path};

use crate::support::{Log, Place, Written, flip, options, overwrite, payload, record};

const ARENA_BYTES: u64 = 4 << 20;

/// A standby's directory, and where its arena lies.
struct Standby {
    place: Place,
    arenas: PathBuf,
    node: NodeId,
}

impl Standby {
    /// With `batches` on the disk; the batches that `more` builds are only in the arena.
    fn killed(batches: &[usize], more: &[usize]) -> (Standby, Written) {
        Standby::killed_with(batches, more, |_, _| {})
    }

    fn killed_with(
        batches: &[usize],
        more: &[usize],
        more_meta: impl FnOnce(&mut Meta, &Written),
    ) -> (Standby, Written) {
        let place = Place::new();
        let arenas = place.path.with_extension("arenas");
        fs::create_dir(&arenas).unwrap();
        let opened = place.open().unwrap();
        let standby = Standby { place, arenas, node: opened.identity.node };
        let arena = fs::File::create(standby.arena()).unwrap();
        arena.set_len(ARENA_BYTES).unwrap();
        let mut log = Log::start(opened);
        log.lead();
        for (n, len) in batches.iter().enumerate() {
            log.append(&[payload(n, *len).as_slice()]);
        }
        for (n, len) in more.iter().enumerate() {
            let payload = payload(100 + n, *len);
            let (header, bytes) = log.build(BatchKind::Data, &record(RecordKind::Data, &payload));
            log.written.payloads.push(payload);
            put(&arena, &header, &bytes);
        }
        let written = log.written.clone();
        log.change_meta(|meta| more_meta(meta, &written));
        (standby, log.close())
    }

    fn arena(&self) -> PathBuf {
        arena_path(&self.arenas, self.node, 0)
    }

    fn options(&self) -> StorageOptions {
        StorageOptions { purpose: Purpose::Standby, arena_dir: Some(self.arenas.clone()), ..options() }
    }

    fn open(&self) -> Opened {
        ShardDir::open(&self.place.path, &self.options()).unwrap()
    }
}

/// Bytes go around the arena's end.
fn put(arena: &fs::File, header: &BatchHeader, bytes: &[u8]) {
    let offset = header.start.0 % ARENA_BYTES;
    let first = bytes.len().min((ARENA_BYTES - offset) as usize);
    arena.write_all_at(&bytes[..first], offset).unwrap();
    arena.write_all_at(&bytes[first..], 0).unwrap();
}

#[test]
fn whole_batches_of_the_arena_reach_the_disk() {
    let (standby, written) = Standby::killed(&[100, 5000], &[100, 9000]);
    let opened = standby.open();
    assert_eq!((opened.recovered.end, opened.recovered.previous_hash), (written.end, written.hash));
    assert!(opened.notes.iter().any(|note| note.starts_with("2 batches")), "{:?}", opened.notes);
    assert!(
        opened.meta.unfinished.is_empty(),
        "what is durable is not in flight: {:?}",
        opened.meta.unfinished
    );
    drop(opened);
    // Now they are on the disk: the arena is not needed again.
    fs::remove_file(standby.arena()).unwrap();
    assert_eq!(standby.open().recovered.end, written.end);
    assert_eq!(standby.place.payloads(), written.payloads);
}

#[test]
fn a_batch_that_goes_around_the_arena_s_end_is_whole() {
    let (standby, written) = Standby::killed(&[1 << 20, 1 << 20, 1 << 20], &[900_000, 1 << 20]);
    let last = written.batches[4].stored();
    assert!(last.start.0 < ARENA_BYTES && last.end.0 > ARENA_BYTES, "{last:?}");
    assert_eq!(standby.open().recovered.end, written.end);
    assert_eq!(standby.place.payloads(), written.payloads);
}

#[test]
fn what_is_torn_on_the_disk_and_whole_in_the_arena_is_not_cut() {
    let (standby, written) = Standby::killed_with(&[100], &[6000, 200], |meta, written| {
        meta.unfinished.push(Span::new(written.batches[1].start, written.end.lsn));
    });
    // The disk has the last batch and half of the one before it; the standby said that both were in flight.
    let torn = written.batches[1];
    let arena = fs::read(standby.arena()).unwrap();
    let at = torn.start.0 as usize;
    overwrite(&standby.place.segment(0), torn.start.0, &arena[at..at + 4096]);
    let last = written.span(2);
    overwrite(&standby.place.segment(0), last.start.0, &arena[last.start.0 as usize..last.end.0 as usize]);
    assert_eq!(standby.open().recovered.end, written.end);
    assert_eq!(standby.place.payloads(), written.payloads);
    assert!(fs::read_dir(standby.place.path.join("cut")).unwrap().next().is_none(), "nothing was cut");
}

#[test]
fn a_torn_batch_in_the_arena_ends_it() {
    let (standby, written) = Standby::killed(&[100], &[300, 9000, 300]);
    flip(&standby.arena(), written.batches[2].start.0 + 5000);
    let opened = standby.open();
    assert_eq!(opened.recovered.end.lsn, written.batches[2].start);
    assert_eq!(opened.recovered.cut, None, "nothing of it was written");
    drop(opened);
    assert_eq!(standby.place.payloads(), written.first(2));
}

#[test]
fn nothing_of_another_life_is_believed() {
    // Another term's batch at the right place, with the right chain: it was truncated meanwhile.
    let (standby, written) = Standby::killed(&[100], &[]);
    let opened = standby.open();
    let mut log = Log::start(opened);
    log.written.batches = written.batches.clone();
    log.term = Term { number: 9, node: NodeId(9) };
    let arena = fs::File::options().write(true).open(standby.arena()).unwrap();
    let (header, bytes) = log.build(BatchKind::Data, &record(RecordKind::Data, b"of nobody's term"));
    put(&arena, &header, &bytes);
    log.close();
    let opened = standby.open();
    assert_eq!(opened.recovered.end, written.end);
    assert!(opened.notes.iter().all(|note| !note.contains("taken over")), "{:?}", opened.notes);
    drop(opened);
    let disk = fs::read(standby.place.segment(0)).unwrap();
    assert!(disk[written.end.lsn.0 as usize..].iter().all(|byte| *byte == 0), "the disk was not touched");

    // A file of a size that no arena has, a link, garbage.
    fs::write(standby.arena(), vec![7; 4097]).unwrap();
    assert_eq!(standby.open().recovered.end, written.end);
    fs::write(standby.arena(), vec![7; ARENA_BYTES as usize]).unwrap();
    assert_eq!(standby.open().recovered.end, written.end);
    let elsewhere = standby.arenas.join("elsewhere");
    fs::rename(standby.arena(), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, standby.arena()).unwrap();
    assert_eq!(standby.open().recovered.end, written.end);
    assert_eq!(standby.place.payloads(), written.payloads);
}

#[test]
fn a_primary_takes_over_and_removes_the_arena() {
    let (standby, written) = Standby::killed(&[100], &[300]);
    let primary = StorageOptions { purpose: Purpose::Primary, ..standby.options() };
    let opened = ShardDir::open(&standby.place.path, &primary).unwrap();
    assert_eq!(opened.recovered.end, written.end);
    assert!(!standby.arena().exists());
}

#[test]
fn taking_over_stopped_at_any_step_ends_in_the_same_log() {
    let (standby, _) = Standby::killed(&[100, 200], &[300, 9000, 400]);
    let steps = Steps::count();
    let counted = StorageOptions { steps: steps.clone(), ..standby.options() };
    ShardDir::open(&standby.place.path, &counted).unwrap();
    assert!(steps.taken() >= 11, "{}", steps.taken());
    for allowed in 0..steps.taken() {
        let (standby, written) = Standby::killed(&[100, 200], &[300, 9000, 400]);
        let stopping = StorageOptions { steps: Steps::stop_after(allowed), ..standby.options() };
        let stopped = ShardDir::open(&standby.place.path, &stopping);
        assert!(matches!(stopped, Err(OpenError::Stopped(_))), "after {allowed} steps");
        assert_eq!(standby.open().recovered.end, written.end, "after {allowed} steps");
        assert_eq!(standby.place.payloads(), written.payloads);
    }
}

#[test]
fn a_power_cut_while_taking_over_is_a_torn_tail_not_corruption() {
    let (standby, written) = Standby::killed(&[100, 200], &[300, 9000, 400]);
    // Stopped when two of the three were written; then the memory is gone, and the first of them was torn.
    let stopping = StorageOptions { steps: Steps::stop_after(6), ..standby.options() };
    assert!(matches!(ShardDir::open(&standby.place.path, &stopping), Err(OpenError::Stopped(_))));
    let arena = fs::read(standby.arena()).unwrap();
    fs::remove_file(standby.arena()).unwrap();
    for batch in 3..5 {
        let span = written.span(batch);
        overwrite(
            &standby.place.segment(0),
            span.start.0,
            &arena[span.start.0 as usize..span.end.0 as usize],
        );
    }
    let torn = written.span(2);
    overwrite(&standby.place.segment(0), torn.start.0, &vec![0; torn.len() as usize]);
    let opened = standby.open();
    assert_eq!(opened.recovered.end.lsn, torn.start);
    assert_eq!(opened.recovered.cut.map(|cut| cut.start), Some(torn.start));
}

#[test]
fn a_file_that_is_too_small_for_an_arena_is_ignored() {
    for bytes in [0, 1, 64, 4096, ARENA_BYTES / 2] {
        let (standby, written) = Standby::killed(&[100], &[300]);
        fs::File::options().write(true).open(standby.arena()).unwrap().set_len(bytes).unwrap();
        assert_eq!(standby.open().recovered.end.lsn, written.batches[1].start, "{bytes} bytes");
        assert_eq!(standby.place.payloads(), written.first(1));
    }
}

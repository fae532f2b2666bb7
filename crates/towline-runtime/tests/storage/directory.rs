//! Making and opening directories, and every directory that must be refused.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command as Process, Stdio};

use towline_core::types::{Geometry, LogId, NodeId};
use towline_runtime::storage::{
    Calibration, Layout, LogReader, OpenError, Origin, Purpose, ShardDir, Steps, StorageOptions,
};

use crate::support::{GEOMETRY, Place, SmallDisk, flip, options, overwrite, stopping};

#[test]
fn opening_twice_gives_the_same_directory() {
    let place = Place::new();
    let first = place.open().unwrap();
    let (identity, meta) = (first.identity.clone(), first.meta.clone());
    assert!(!identity.log_id().is_unset());
    assert_ne!(identity.node, NodeId(0));
    assert_eq!(first.recovered.end.lsn, GEOMETRY.first_batch(0));
    drop(first);

    let second = place.open().unwrap();
    assert_eq!(second.identity, identity);
    assert_eq!(second.meta.incarnation, meta.incarnation + 1, "each opening is a new life");
    assert!(second.meta.sequence > meta.sequence);
    assert_eq!(second.calibration.origin, Origin::Default);
}

#[test]
fn a_standby_waits_for_the_log_it_is_offered() {
    let place = Place::new();
    let options = StorageOptions { purpose: Purpose::Standby, ..options() };
    let opened = ShardDir::open(&place.path, &options).unwrap();
    assert!(opened.identity.log.is_none() && opened.segments.log().is_none());
    let log = LogId([9; 16]);
    opened.dir.adopt_identity(log, GEOMETRY).unwrap();
    opened.dir.adopt_identity(log, GEOMETRY).unwrap();
    let other = opened.dir.adopt_identity(LogId([8; 16]), GEOMETRY).unwrap_err();
    assert!(matches!(other, OpenError::OtherLog { .. }), "{other}");
    assert_eq!(opened.segments.log(), Some((log, GEOMETRY)));
    drop(opened);
    let again = ShardDir::open(&place.path, &options).unwrap();
    assert_eq!(again.identity.log, Some((log, GEOMETRY)));
}

#[test]
fn making_stopped_at_any_step_leaves_nothing_in_the_way() {
    let steps = Steps::count();
    ShardDir::open(&Place::new().path, &stopping(&steps)).unwrap();
    assert!(steps.taken() > 8);
    for allowed in 0..steps.taken() {
        let place = Place::new();
        let stopped = ShardDir::open(&place.path, &stopping(&Steps::stop_after(allowed)));
        assert!(matches!(stopped, Err(OpenError::Stopped(_))), "after {allowed} steps");
        let opened = place.open().unwrap_or_else(|error| panic!("after {allowed} steps: {error}"));
        assert!(opened.identity.log.is_some() && opened.recovered.end.lsn == GEOMETRY.first_batch(0));
    }
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let place = Place::new();
    let first = place.open().unwrap();
    let error = place.open_at_once().unwrap_err();
    assert!(
        matches!(error, OpenError::Locked { holder: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    let error = LogReader::open_readonly(&place.path, false).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    LogReader::open_readonly(&place.path, true).unwrap();
    drop(first);
    drop(place.reader());
}

#[test]
fn another_process_is_waited_for_and_then_told() {
    let place = Place::new();
    drop(place.open().unwrap());
    // A process of its own that holds the directory, ended before the opener gives up.
    let lock = place.path.join("lock");
    let mut holder = Process::new("flock")
        .arg("--exclusive")
        .arg(&lock)
        .args(["sh", "-c", "echo locked; sleep 0.4"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    holder.stdout.take().unwrap().read_exact(&mut said).unwrap();
    assert!(matches!(place.open_at_once(), Err(OpenError::Locked { .. })));
    place.open().unwrap();
    holder.wait().unwrap();
}

#[test]
fn what_is_no_directory_of_ours_is_refused_and_left_alone() {
    let place = Place::new();
    fs::write(&place.path, b"a file").unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, OpenError::NotADirectory { .. }), "{error}");
    assert_eq!(fs::read(&place.path).unwrap(), b"a file");

    let place = Place::new();
    fs::create_dir(&place.path).unwrap();
    fs::write(place.path.join("letter.txt"), b"dear").unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(&error, OpenError::ForeignFiles { names, .. } if names == "letter.txt"), "{error}");
    assert_eq!(fs::read_dir(&place.path).unwrap().count(), 1, "nothing was put beside it");
}

#[test]
fn the_directory_of_another_is_refused() {
    let place = Place::new();
    let log = place.open().unwrap().identity.log_id();
    let open = |options: StorageOptions| ShardDir::open(&place.path, &options).unwrap_err();
    let error = open(StorageOptions { log: Some(LogId([1; 16])), ..options() });
    assert!(matches!(error, OpenError::OtherLog { found, .. } if found == log), "{error}");
    let error = open(StorageOptions { name: "b".to_owned(), ..options() });
    assert!(matches!(error, OpenError::OtherNode { .. }), "{error}");
    let error = open(StorageOptions { node: Some(NodeId(1)), ..options() });
    assert!(matches!(error, OpenError::OtherNode { .. }), "{error}");
    let wanted = Geometry { segment_bytes: 16 << 20, ..GEOMETRY };
    let error = open(StorageOptions { geometry: Some(wanted), ..options() });
    assert!(matches!(error, OpenError::OtherGeometry { .. }), "{error}");
    place.open().unwrap();
}

#[test]
fn impossible_options_are_refused_before_anything_is_made() {
    let place = Place::new();
    let small = Geometry { segment_bytes: 1 << 20, ..GEOMETRY };
    for bad in [
        StorageOptions { name: "a b".to_owned(), ..options() },
        StorageOptions { name: String::new(), ..options() },
        StorageOptions { geometry: Some(small), ..options() },
    ] {
        let error = ShardDir::open(&place.path, &bad).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(!place.path.exists());
    }
}

#[test]
fn a_newer_format_and_a_damaged_identity_are_told_apart() {
    let place = Place::new();
    drop(place.open().unwrap());
    let path = place.path.join("identity");
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, whole.replacen("format 1", "format 2", 1)).unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, OpenError::OtherFormat { found: 2, supported: 1, .. }), "{error}");
    fs::write(&path, whole.replacen("node = ", "node = f", 1)).unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, OpenError::DamagedFile { .. }) && error.exit_code() == 3, "{error}");
    fs::write(&path, whole).unwrap();
    place.open().unwrap();
}

#[test]
fn an_identity_or_a_meta_block_that_is_gone_is_damage() {
    let (place, _) = Place::with_log(1);
    let meta = fs::read(place.path.join("meta")).unwrap();
    fs::remove_file(place.path.join("meta")).unwrap();
    assert!(matches!(place.open(), Err(OpenError::DamagedFile { .. })));
    fs::write(place.path.join("meta"), meta).unwrap();
    fs::remove_file(place.path.join("identity")).unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, OpenError::DamagedFile { .. }), "{error}");
}

#[test]
fn the_meta_block_survives_damage_to_two_copies() {
    let (place, written) = Place::with_log(1);
    let path = place.path.join("meta");
    let copy = 8192;
    for damaged in [vec![0], vec![1], vec![2], vec![3], vec![0, 1], vec![0, 3], vec![2, 3]] {
        let mut sequence = place.reader().meta().sequence;
        damaged.iter().for_each(|at| flip(&path, at * copy + 100));
        let opened = place.open().unwrap();
        assert!(opened.meta.sequence > sequence && opened.meta.history == written.meta.history);
        sequence = opened.meta.sequence;
        drop(opened);
        // All four are equal again.
        let bytes = fs::read(&path).unwrap();
        let copies: Vec<_> = bytes.chunks(copy as usize).collect();
        assert!(copies.windows(2).all(|pair| pair[0] == pair[1]), "{damaged:?}");
        assert_eq!(place.reader().meta().sequence, sequence);
    }
    [0, 1, 2].iter().for_each(|at| flip(&path, at * copy + 100));
    let before = fs::read(&path).unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, OpenError::DamagedFile { .. }) && error.exit_code() == 3, "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_meta_write_torn_at_any_copy_leaves_the_old_or_the_new_one() {
    let (place, written) = Place::with_log(1);
    let path = place.path.join("meta");
    let old = fs::read(&path).unwrap();
    let old_sequence = place.reader().meta().sequence;
    drop(place.open().unwrap());
    let new = fs::read(&path).unwrap();
    for torn in 0..4_usize {
        // Copies before `torn` are new, `torn` itself is half written, the rest is old: half of its fields, here the
        let mut bytes = old.clone();
        // The checksum and half of the sequence number.
        bytes[..torn * 8192 + 20].copy_from_slice(&new[..torn * 8192 + 20]);
        fs::write(&path, &bytes).unwrap();
        let opened = place.open().unwrap();
        let taken = opened.meta.sequence - 1;
        let wanted = if torn >= 2 { old_sequence + 1 } else { old_sequence };
        assert_eq!(taken, wanted, "torn at copy {torn}");
        assert_eq!(opened.meta.history, written.meta.history);
    }
}

#[test]
fn a_file_system_without_direct_writes_is_named_with_the_way_out() {
    // Shared memory cannot do O_DIRECT on older kernels, and can on newer ones: both answers are checked.
    let Ok(home) = tempfile::tempdir_in("/dev/shm") else { return };
    let path = home.path().join("shard-0");
    match ShardDir::open(&path, &options()) {
        Err(error) => {
            assert!(matches!(error, OpenError::NoDirectWrites { .. }), "{error}");
            assert!(error.to_string().contains("--buffered"));
            assert!(!path.exists(), "nothing half-made stays");
        }
        Ok(opened) => drop(opened),
    }
    ShardDir::open(&path, &StorageOptions { buffered: true, ..options() }).unwrap();
}

#[test]
fn a_full_disk_is_refused_at_once_and_nothing_stays() {
    let place = Place::new();
    let Some(small) = SmallDisk::mount(&place, 16) else {
        println!("skipped: this user cannot mount a small file system");
        return;
    };
    let path = small.0.join("shard-0");
    let huge = Geometry { segment_bytes: 64 << 20, in_flight_bytes: 4 << 20 };
    let full = StorageOptions { geometry: Some(huge), buffered: true, ..options() };
    let error = ShardDir::open(&path, &full).unwrap_err();
    assert!(matches!(error, OpenError::Full { .. }), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    if !is_root() {
        println!("skipped: an owner may write to the files in a read-only directory; it takes a second user");
        return;
    }
    let (place, _) = Place::with_log(1);
    // As root every permission is ignored: the check runs as another user.
    let home = place.path.parent().unwrap();
    fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o555)).unwrap();
    let mut probe = Process::new(std::env::current_exe().unwrap());
    probe.args(["--exact", "directory::open_as_somebody_else", "--nocapture", "--ignored"]);
    probe.env("TOWLINE_TEST_DIR", &place.path);
    probe.uid(65534).gid(65534);
    let output = probe.output().unwrap();
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o755)).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("refused: "), "{said}");
    place.open().unwrap();
}

/// Run by the test above, as another user.
#[test]
#[ignore = "started by another test"]
fn open_as_somebody_else() {
    let Some(dir) = std::env::var_os("TOWLINE_TEST_DIR") else { return };
    let error = ShardDir::open(dir.as_ref(), &options()).unwrap_err();
    assert!(matches!(error, OpenError::ReadOnly { .. }), "{error}");
    println!("refused: {error}");
}

#[test]
fn a_primary_s_new_directory_is_calibrated_and_options_override_it() {
    let place = Place::new();
    let measured = StorageOptions { calibrate: true, ..options() };
    let opened = ShardDir::open(&place.path, &measured).unwrap();
    let Calibration { origin, flush_depth, durable_write_ns, .. } = opened.calibration.clone();
    assert_eq!(origin, Origin::Measured, "{:?}", opened.notes);
    assert!((1..=64).contains(&flush_depth) && durable_write_ns.values().all(|ns| *ns > 0));
    drop(opened);
    let forced = StorageOptions { flush_depth: Some(1), ..options() };
    let opened = ShardDir::open(&place.path, &forced).unwrap();
    assert_eq!(opened.calibration.flush_depth, 1);
    drop(opened);
    // Damage is a note, never a refusal.
    overwrite(&Layout::new(&place.path).calibration(), 0, b"\xff\xff");
    let opened = place.open().unwrap();
    assert_eq!(opened.calibration.origin, Origin::Default);
    assert!(opened.notes.iter().any(|note| note.contains("calibration")), "{:?}", opened.notes);
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

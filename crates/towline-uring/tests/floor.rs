//! Every floor is measured once, briefly, on the real disk and between two real processes. The test
//! binary starts itself as the peer.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::time::Duration;

use towline_uring::FileMode;
use towline_uring::floor::{
    FloorError, Limits, Peer, Place, ScratchFile, Waiting, durable_write, durable_write_in,
    durable_writes_per_s, pair_commit, peer_main, round_trip, sequential_write, stream,
};

const LIMITS: Limits = Limits { samples: 300, time: Duration::from_millis(400) };

#[test]
fn disk_floors() {
    let dir = disk_dir();
    let place = Place::new(dir.path(), FileMode::Direct);
    let samples = durable_write(&place, LIMITS).unwrap();
    assert!(!samples.ns.is_empty() && samples.ns.len() <= LIMITS.samples);
    // No disk makes a write durable in a microsecond: less would mean that nothing was waited for.
    assert!(samples.quantile_ns(0.5) > 1_000, "{:?}", samples.quantile_ns(0.5));
    assert!(samples.quantile_ns(0.5) <= samples.quantile_ns(0.99));
    // Sizes that do not divide the file, that are nothing and that are too much are measured, too.
    let file = ScratchFile::new(&place, 1 << 20).unwrap();
    for (blocks, waiting) in
        [(2, Waiting::Parked), (3, Waiting::Spinning), (0, Waiting::Parked), (1000, Waiting::Parked)]
    {
        let samples = durable_write_in(&file, blocks, waiting, LIMITS).unwrap();
        assert!(samples.waiting == waiting && samples.quantile_ns(0.5) > 1_000);
    }
    assert_eq!(file.path().metadata().unwrap().len(), 1 << 20, "written over, not behind");
    drop(file);
    assert!(durable_writes_per_s(&place, 32, LIMITS).unwrap().per_s > 1.0);
    assert!(sequential_write(&place, LIMITS).unwrap().per_s > 1e6);
    assert_eq!(left_behind(dir.path()), 0);
}

#[test]
fn network_and_pair_floors_between_two_processes() {
    let peer = peer();
    let samples = round_trip(&peer, LIMITS).unwrap();
    assert!(!samples.ns.is_empty() && samples.quantile_ns(0.5) > 500);
    let rate = stream(&peer, LIMITS).unwrap();
    assert!(rate.per_s > 1e6, "{rate:?}");
    let dir = disk_dir();
    let place = Place::new(dir.path(), FileMode::Direct);
    let samples = pair_commit(&place, &place, &peer, LIMITS).unwrap();
    assert!(!samples.ns.is_empty() && samples.quantile_ns(0.5) > 1_000);
    assert_eq!(left_behind(dir.path()), 0);
}

#[test]
fn a_peer_that_cannot_work_is_an_error_in_time() {
    let peer = Peer { args: vec!["--list".into()] };
    let error = round_trip(&peer, LIMITS).unwrap_err();
    assert!(matches!(error, FloorError::Peer(_)), "{error}");
    for args in [&["echo"][..], &["nobody", "parked", "127.0.0.1:1"], &["echo", "parked", "192.0.2.1:1"]] {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        assert!(matches!(peer_main(&args), Err(FloorError::Peer(_))), "{args:?}");
    }
}

#[test]
#[ignore = "runs as the peer of another test"]
fn peer_process() {
    let args: Vec<_> = std::env::args().skip_while(|arg| arg != "peer_process").skip(1).collect();
    assert!(args.len() >= 3, "started by hand");
    peer_main(&args).unwrap();
}

/// The harness takes the peer's own arguments for further names of tests; `--exact` keeps them from
/// matching any.
fn peer() -> Peer {
    Peer { args: ["--ignored", "--exact", "--nocapture", "peer_process"].map(str::to_owned).to_vec() }
}

fn left_behind(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

fn disk_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

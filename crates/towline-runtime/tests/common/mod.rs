//! Nodes in temporary folders on a real disk, carried by the host that `TOWLINE_HOST` names.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use towline_core::format::RecordKind;
use towline_core::log::recovery::Step;
use towline_core::node::Event;
use towline_core::types::{Lsn, Span};
use towline_runtime::storage::{self, LogReader};
use towline_runtime::{Handle, Host, NodeOptions, PeerAddress, Role, RunningNode, Status};

/// Far longer than anything here takes on an idle machine.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The host under test: `thread` (default) or `glommio`.
pub fn host() -> Host {
    match std::env::var("TOWLINE_HOST").as_deref() {
        Ok("glommio") => Host::Glommio,
        Ok("thread") | Err(_) => Host::Thread { pin: None },
        Ok(other) => panic!("TOWLINE_HOST={other}: use thread or glommio"),
    }
}

/// A folder on the disk that the build is on, removed with the value.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for test data")
}

/// A small primary without standbys.
pub fn primary(dir: &Path) -> NodeOptions {
    NodeOptions {
        dir: dir.to_path_buf(),
        name: "p".to_owned(),
        segment_bytes: 8 << 20,
        arena_bytes: 4 << 20,
        retention_bytes: 128 << 20,
        hold_bytes: 128 << 20,
        in_flight_bytes: 16 << 20,
        calibrate: false,
        host: host(),
        ..NodeOptions::default()
    }
}

/// A small standby that listens on a free loopback port.
pub fn standby(dir: &Path, name: &str) -> NodeOptions {
    NodeOptions { role: Role::Standby, name: name.to_owned(), listen: Some(any_port()), ..primary(dir) }
}

pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub fn peer(name: &str, node: &RunningNode) -> PeerAddress {
    PeerAddress { name: name.to_owned(), address: node.listen_address().expect("it listens").to_string() }
}

pub fn start(options: NodeOptions) -> RunningNode {
    RunningNode::start(options, None).expect("the node starts")
}

/// The first shard's handle, once it leads.
pub fn leading(node: &RunningNode) -> Handle {
    let handle = node.handle(0).expect("shard 0");
    assert!(handle.wait_leading(LIMIT), "it leads: {:?}", status(node));
    handle
}

pub fn status(node: &RunningNode) -> Status {
    node.status()
}

/// Looks until `is` holds.
pub fn until(what: &str, is: impl FnMut() -> bool) {
    until_or(what, is, String::new);
}

/// Looks until `is` holds; when it never does, says what `tell` knows.
pub fn until_or(what: &str, mut is: impl FnMut() -> bool, tell: impl Fn() -> String) {
    let deadline = Instant::now() + LIMIT;
    while !is() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}; {}", tell());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// All records of a closed directory's first shard: LSN and payload.
pub fn records(dir: &Path) -> Vec<(Lsn, Vec<u8>)> {
    records_of(dir, 0)
}

/// All records of one shard.
pub fn records_of(dir: &Path, shard: u16) -> Vec<(Lsn, Vec<u8>)> {
    let reader = LogReader::open_readonly(&shard_dir(dir, shard), false).expect("the log opens");
    let mut walk = reader.walk();
    let mut found = Vec::new();
    while let Step::Batch(batch) = walk.step().expect("the log reads") {
        let data = storage::records(&batch).filter(|record| record.kind == RecordKind::Data);
        found.extend(data.map(|record| (record.lsn, record.payload.to_vec())));
    }
    found
}

/// The stored bytes of every batch of a closed directory's first shard, with their places.
pub fn stored(dir: &Path) -> Vec<(Span, Vec<u8>)> {
    let reader = LogReader::open_readonly(&shard_dir(dir, 0), false).expect("the log opens");
    let geometry = reader.geometry();
    let mut walk = reader.walk();
    let mut spans = Vec::new();
    while let Step::Batch(batch) = walk.step().expect("the log reads") {
        spans.push(batch.header.stored());
    }
    let read = |span: Span| {
        let seq = geometry.segment_of(span.start);
        let path = shard_dir(dir, 0).join("segments").join(format!("{seq:016x}.seg"));
        let bytes = std::fs::read(path).expect("a segment");
        let from = geometry.offset_of(span.start) as usize;
        bytes[from..from + span.len() as usize].to_vec()
    };
    spans.into_iter().map(|span| (span, read(span))).collect()
}

pub fn shard_dir(dir: &Path, shard: u16) -> PathBuf {
    dir.join(format!("shard-{shard}"))
}

/// Both logs hold the same batches, byte for byte, as far as the shorter one reaches; it has at least `at_least`.
pub fn assert_identical(a: &Path, b: &Path, at_least: Lsn) {
    let (a, b) = (stored(a), stored(b));
    let common = a.len().min(b.len());
    for (left, right) in a.iter().zip(&b) {
        assert_eq!(left.0, right.0);
        assert!(left.1 == right.1, "the batches at {:?} differ", left.0);
    }
    let end = a[..common].last().map_or(Lsn(0), |batch| batch.0.end);
    assert!(end >= at_least, "the shorter log ends at {end}, not at {at_least}");
}

/// What a node has said.
#[derive(Clone, Default, Debug)]
pub struct Said(Arc<Mutex<Vec<String>>>);

impl Said {
    pub fn listen(&self, options: &mut NodeOptions) {
        let lines = Arc::clone(&self.0);
        options.on_event = Some(Arc::new(move |_, event: &Event| {
            lines.lock().expect("no sink panics").push(event.to_string())
        }));
    }

    pub fn has(&self, part: &str) -> bool {
        !self.all(part).is_empty()
    }

    /// The lines with `part` in them.
    pub fn all(&self, part: &str) -> Vec<String> {
        let lines = self.0.lock().expect("no sink panics");
        lines.iter().filter(|line| line.contains(part)).cloned().collect()
    }
}

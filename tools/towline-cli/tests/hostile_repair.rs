//! Damaged durable bytes are replaced by another node's, on a standby as on a primary; where nobody has them, the log
//! is refused as before and nothing of it is lost.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use support::{Folder, Node, NodePlan, PATIENCE, assert_refused, numbered, text, towline};

const BLOCK: u64 = 4096;

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(dir.join("shard-0/segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn first_segment(dir: &Path) -> PathBuf {
    dir.join("shard-0/segments/0000000000000000.seg")
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

/// "X/XXXXXXXX" at the start of a line.
fn lsn(line: &str) -> u64 {
    let (high, low) = line.split(' ').next().unwrap().split_once('/').unwrap();
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

/// Runs `towline log`. A killed node's files are let go of a moment after its end.
fn log(arguments: &[&str]) -> Output {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = towline(&[&["log"], arguments].concat());
        if !text(&output.stderr).contains("in use by another process") || Instant::now() > deadline {
            return output;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn repair(dir: &Path, from: &str) -> Output {
    log(&["repair", dir.to_str().unwrap(), "--from", from])
}

/// A primary with one standby that holds all of its log: records in batches of their own.
struct Pair {
    folder: Folder,
    primary: Node,
    standby: Node,
    lsns: Vec<u64>,
}

impl Pair {
    fn new() -> Pair {
        let folder = Folder::new();
        let standby = NodePlan::standby("a", folder.join("a")).start();
        let primary =
            NodePlan::primary(folder.join("p")).ships_to(&standby).flag("--sync-rule=ANY 1 (a)").start();
        let records = numbered(0..12);
        let append = |record: &String| lsn(&primary.append("on", std::slice::from_ref(record))[0]);
        let lsns = records.iter().map(append).collect();
        primary.wait_caught_up(0);
        // What a standby recovered at a start was not in flight: from now on damage there is rot, not a crash.
        let standby = standby.stop().start();
        primary.wait_caught_up(0);
        Pair { folder, primary, standby, lsns }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

#[test]
fn a_standbys_damaged_batches_come_back_from_its_primary() {
    let pair = Pair::new();
    let dir = pair.dir("a");
    let plan = pair.standby.kill();
    let before = fs::read(first_segment(&dir)).unwrap();
    for record in [3, 4, 9] {
        flip(&first_segment(&dir), pair.lsns[record] + 10);
    }
    assert_refused(&plan.refused(), 3, &["damaged", "towline log repair"]);

    let from = format!("--repair-from={}", pair.primary.address());
    let standby = plan.flag(from).start();
    standby.wait_said("have been replaced by those of");
    assert_eq!(standby.tail_unsafe(), numbered(0..12));
    pair.primary.append("on", &numbered(12..14));
    pair.primary.wait_caught_up(0);
    assert_eq!(standby.tail_unsafe(), numbered(0..14));
    pair.primary.stop();
    standby.stop();
    let end = pair.lsns[11] as usize;
    assert!(fs::read(first_segment(&dir)).unwrap()[..end] == before[..end], "byte for byte what it was");
    assert!(fs::read(first_segment(&pair.folder.join("p"))).unwrap()[..end] == before[..end]);
}

#[test]
fn a_primarys_damaged_batches_come_back_from_its_standby_at_its_start() {
    let pair = Pair::new();
    let dir = pair.dir("p");
    let plan = pair.primary.kill();
    let before = fs::read(first_segment(&dir)).unwrap();
    flip(&first_segment(&dir), pair.lsns[5] + 10);
    let primary = plan.start();
    primary.wait_said("have been replaced by those of");
    primary.wait_leading();
    primary.append("on", &numbered(12..13));
    assert_eq!(primary.tail(), numbered(0..13));
    primary.stop();
    pair.standby.stop();
    let end = pair.lsns[11] as usize;
    assert!(fs::read(first_segment(&dir)).unwrap()[..end] == before[..end]);
}

#[test]
fn both_copies_of_a_segments_header_come_back() {
    let pair = Pair::new();
    let dir = pair.dir("a");
    let plan = pair.standby.kill();
    let before = fs::read(first_segment(&dir)).unwrap();
    flip(&first_segment(&dir), 9);
    flip(&first_segment(&dir), BLOCK + 9);
    // And the first batch, without which the header proves nothing.
    flip(&first_segment(&dir), pair.lsns[0] + 10);
    let address = pair.primary.address().to_string();
    assert_refused(&log(&["verify", dir.to_str().unwrap()]), 3, &["damaged"]);
    let output = repair(&dir, &address);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("sound"), "{}", text(&output.stdout));
    assert!(fs::read(first_segment(&dir)).unwrap() == before);
    let again = repair(&dir, &address);
    assert!(text(&again.stdout).contains("nothing is damaged"), "{}", text(&again.stdout));
    plan.start().stop();
    pair.primary.stop();
}

#[test]
fn a_segment_that_is_gone_or_too_short_comes_back_whole() {
    let pair = Pair::new();
    let lines: Vec<String> = (0..24).map(|n| format!("{n:02} {}", "w".repeat(900_000))).collect();
    pair.primary.append("on", &lines);
    pair.primary.wait_caught_up(0);
    let dir = pair.dir("a");
    let plan = pair.standby.kill();
    let files = segments(&dir);
    assert!(files.len() > 3, "{files:?}");
    let before: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    fs::remove_file(&files[1]).unwrap();
    fs::OpenOptions::new().write(true).open(&files[0]).unwrap().set_len(100_000).unwrap();
    let output = repair(&dir, &pair.primary.address().to_string());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for (path, bytes) in files.iter().zip(&before).take(2) {
        assert!(&fs::read(path).unwrap() == bytes, "{} is what it was", path.display());
    }
    let standby = plan.start();
    pair.primary.append("on", &numbered(0..2));
    assert_eq!(standby.tail_unsafe().len(), 12 + 24 + 2);
    pair.primary.stop();
    standby.stop();
}

#[test]
fn what_no_peer_holds_stays_refused_and_is_left_as_it_was() {
    let pair = Pair::new();
    let primary_address = pair.primary.address().to_string();
    // The same place is damaged on both: neither can help the other.
    let (standby, primary) = (pair.standby.kill(), pair.primary.kill());
    let dirs = [pair.folder.join("a"), pair.folder.join("p")];
    for dir in &dirs {
        flip(&first_segment(dir), pair.lsns[4] + 10);
    }
    let before = fs::read(first_segment(&dirs[0])).unwrap();
    // Nobody serves there any more.
    let output = repair(&dirs[0], &primary_address);
    assert_refused(&output, 3, &["no other node could replace", "no connection"]);
    // A node of another log serves there.
    let stranger = NodePlan::primary(pair.folder.join("x")).start();
    stranger.append("local", &numbered(0..20));
    let output = repair(&dirs[0], &stranger.address().to_string());
    assert_refused(&output, 3, &["it holds log"]);
    // What is no node at all.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = deaf.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = deaf.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let output = repair(&dirs[0], &address);
    answering.join().unwrap();
    assert_refused(&output, 3, &["no other node could replace"]);
    assert_refused(&primary.flag(format!("--repair-from={address}")).refused(), 3, &["no connection"]);
    assert!(fs::read(first_segment(&dirs[0])).unwrap() == before, "a refusal changes nothing");
    assert_refused(&standby.refused(), 3, &["damaged"]);
    // Whole again: nothing was lost.
    flip(&first_segment(&dirs[0]), pair.lsns[4] + 10);
    let node = standby.start();
    assert_eq!(node.tail_unsafe(), numbered(0..12));
}

#[test]
fn usage_of_repair() {
    let folder = Folder::new();
    let dir = folder.join("p");
    let missing = towline(&["log", "repair", dir.to_str().unwrap()]);
    assert_refused(&missing, 2, &["--from"]);
    let node = NodePlan::primary(&dir).start();
    node.append("local", &numbered(0..2));
    let address = node.address().to_string();
    // Not while a node has it open.
    let output = towline(&["log", "repair", dir.to_str().unwrap(), "--from", &address]);
    assert_refused(&output, 1, &["in use by another process"]);
    let empty = folder.join("none");
    fs::create_dir(&empty).unwrap();
    assert_refused(&repair(&empty, &address), 1, &["holds no log"]);
    node.stop();
}

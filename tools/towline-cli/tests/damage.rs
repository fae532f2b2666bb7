//! Disks and directories that are not, or no longer, what a log needs: refused or got over, and nothing is lost.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use support::{Appender, Folder, NodePlan, PATIENCE, assert_refused, command, numbered, run, text, towline};

/// The file of the log's first segment; an LSN in it is its offset.
fn first_segment(dir: &Path) -> PathBuf {
    dir.join("shard-0/segments/0000000000000000.seg")
}

/// "X/XXXXXXXX" at the start of a text.
fn lsn(text: &str) -> u64 {
    let word = text.split([' ', ':']).next().unwrap();
    let (high, low) = word.split_once('/').unwrap_or_else(|| panic!("no LSN in '{text}'"));
    u64::from_str_radix(high, 16).unwrap() << 32 | u64::from_str_radix(low, 16).unwrap()
}

/// Runs `towline log`. A killed node's files are let go of a moment after its end.
fn log(command: &str, dir: &Path) -> Output {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = towline(&["log", command, dir.to_str().unwrap()]);
        if !text(&output.stderr).contains("in use by another process") || Instant::now() > deadline {
            return output;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A log that was stopped by a kill: records in batches of their own, and the LSN of each.
fn killed_log(dir: &Path) -> (NodePlan, Vec<String>, Vec<u64>) {
    let node = NodePlan::primary(dir).start();
    let records = numbered(0..10);
    let lsns = records.iter().map(|record| lsn(&node.append("local", std::slice::from_ref(record))[0]));
    let lsns = lsns.collect();
    (node.kill(), records, lsns)
}

/// Where the log ends, as `inspect` says.
fn end_of(dir: &Path) -> u64 {
    let said = text(&log("inspect", dir).stdout);
    let line =
        said.lines().find_map(|line| line.trim().strip_prefix("end ")).unwrap_or_else(|| panic!("{said}"));
    lsn(line.trim())
}

#[test]
fn damage_in_the_middle_is_refused_with_its_range_and_left_alone() {
    let folder = Folder::new();
    let dir = folder.join("p");
    let (plan, records, lsns) = killed_log(&dir);
    let segment = fs::OpenOptions::new().read(true).write(true).open(first_segment(&dir)).unwrap();
    let mut byte = [0];
    segment.read_exact_at(&mut byte, lsns[4] + 14).unwrap();
    segment.write_all_at(&[byte[0] ^ 1], lsns[4] + 14).unwrap();
    let before = fs::read(first_segment(&dir)).unwrap();

    let batch = lsns[4] & !4095;
    let range = format!("{:X}/{:08X}", batch >> 32, batch & 0xFFFF_FFFF);
    assert_refused(&log("verify", &dir), 3, &["damaged", &range, "another node"]);
    assert_refused(&plan.refused(), 3, &[&range]);
    // What comes before is printed, and that it is not all.
    let dumped = log("dump", &dir);
    assert_refused(&dumped, 3, &["damaged", &range]);
    assert_eq!(text(&dumped.stdout).lines().count(), 4);
    assert_refused(&log("inspect", &dir), 3, &["damaged", &range]);
    assert!(fs::read(first_segment(&dir)).unwrap() == before, "a refusal changes nothing");

    segment.write_all_at(&byte, lsns[4] + 14).unwrap();
    assert_eq!(plan.start().tail(), records);
}

#[test]
fn a_torn_tail_is_cut_and_the_cut_is_kept() {
    let folder = Folder::new();
    let dir = folder.join("p");
    let (plan, records, _) = killed_log(&dir);
    let node = plan.start();
    let last = lsn(&node.append("local", &["torn ".repeat(4000)])[0]) & !4095;
    let plan = node.kill();
    let end = end_of(&dir);
    assert!(end > last + 16384);
    // What a power cut leaves of a batch that was on its way: some of its blocks, the first among them.
    let segment = fs::OpenOptions::new().read(true).write(true).open(first_segment(&dir)).unwrap();
    let mut torn = [0; 8192];
    segment.read_exact_at(&mut torn, last).unwrap();
    segment.write_all_at(&[0; 4096], last + 8192).unwrap();

    let verdict = log("verify", &dir);
    assert_eq!(verdict.status.code(), Some(0), "{}", text(&verdict.stderr));
    assert!(text(&verdict.stdout).contains("in flight"), "{}", text(&verdict.stdout));
    let node = plan.start();
    node.wait_said("the log was cut at");
    assert_eq!(node.tail(), records);
    let cuts: Vec<PathBuf> =
        fs::read_dir(dir.join("shard-0/cut")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(cuts.len(), 1, "{cuts:?}");
    let kept = fs::read(&cuts[0]).unwrap();
    assert!(kept.windows(torn.len()).any(|window| window == torn), "the cut bytes are kept");
    node.append("local", &numbered(10..20));
    node.stop();
    assert_eq!(log("verify", &dir).status.code(), Some(0));
}

#[test]
fn old_content_behind_the_end_is_not_taken_for_records() {
    let folder = Folder::new();
    let dir = folder.join("p");
    let (plan, records, lsns) = killed_log(&dir);
    let end = end_of(&dir);
    // As in a segment file that is used again: a whole batch, of another place.
    let segment = fs::OpenOptions::new().read(true).write(true).open(first_segment(&dir)).unwrap();
    let mut batch = [0; 4096];
    segment.read_exact_at(&mut batch, lsns[2] & !4095).unwrap();
    segment.write_all_at(&batch, end).unwrap();
    let verdict = log("verify", &dir);
    assert_eq!(verdict.status.code(), Some(0), "{}", text(&verdict.stderr));
    let node = plan.start();
    assert_eq!(node.tail(), records, "none is doubled");
    node.append("local", &numbered(10..12));
    node.kill().start().stop();
    let dumped = towline(&["log", "dump", "--format=raw", dir.to_str().unwrap()]);
    assert_eq!(text(&dumped.stdout).lines().collect::<Vec<_>>(), numbered(0..12));
}

#[test]
fn recycled_segments_never_bring_records_back() {
    let folder = Folder::new();
    let dir = folder.join("p");
    let node = NodePlan::primary(&dir).flag("--retain=16M").start();
    let lines: Vec<String> = (0..64).map(|n| format!("{n:02} {}", "y".repeat(1_000_000))).collect();
    node.append("local", &lines);
    node.wait_status("trimmed", |node| node["watermarks"]["log_start"].as_u64().unwrap() > 24 << 20);
    let plan = node.kill();
    assert_eq!(log("verify", &dir).status.code(), Some(0));
    let node = plan.start();
    let kept = node.tail();
    assert!(!kept.is_empty() && lines.ends_with(&kept), "{} records, not the last ones", kept.len());
    node.stop();
}

#[test]
fn a_directory_of_a_newer_format_is_refused_and_left_alone() {
    let folder = Folder::new();
    let dir = folder.join("p");
    let (plan, records, _) = killed_log(&dir);
    let identity = dir.join("shard-0/identity");
    let own = fs::read_to_string(&identity).unwrap();
    let newer = own.replacen(" 1\n", " 7\n", 1);
    assert_ne!(own, newer);
    fs::write(&identity, &newer).unwrap();
    assert_refused(&plan.refused(), 1, &["format 7", "reads 1", "newer program"]);
    assert_refused(&log("verify", &dir), 1, &["format 7", "newer program"]);
    assert_eq!(fs::read_to_string(&identity).unwrap(), newer);
    fs::write(&identity, own).unwrap();
    assert_eq!(plan.start().tail(), records);
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let folder = Folder::new();
    let dir = folder.join("p");
    let (plan, records, _) = killed_log(&dir);
    for path in [folder.path(), dir.as_path()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    set_writable(&dir.join("shard-0"), false);
    let mut node = command();
    node.args(plan.arguments());
    // To root nothing is read-only: the node runs as somebody else.
    if rustix::process::getuid().is_root() {
        node.uid(65534).gid(65534);
        let mut probe = Command::new("test");
        probe.arg("-x").arg(env!("CARGO_BIN_EXE_towline")).uid(65534).gid(65534);
        if !probe.status().unwrap().success() {
            eprintln!("SKIPPED: another user cannot reach the program here");
            return;
        }
    }
    let output = run(node, b"");
    set_writable(&dir.join("shard-0"), true);
    assert_refused(&output, 1, &["cannot be written", "shard-0"]);
    assert_eq!(plan.start().tail(), records);
}

/// A folder with all that is in it.
fn set_writable(path: &Path, writable: bool) {
    let mut mode = if path.is_dir() { 0o555 } else { 0o444 };
    mode |= if writable { 0o200 } else { 0 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| set_writable(&entry.unwrap().path(), writable));
    }
}

/// A file system of a few MiB; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, said aloud, where this user may not mount one.
    fn mount(folder: &Folder, mebibytes: u64) -> Option<SmallDisk> {
        let dir = folder.join("small");
        fs::create_dir(&dir).unwrap();
        let size = format!("size={mebibytes}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&dir).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(dir));
        }
        eprintln!("SKIPPED: this user cannot mount a small file system");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_disk_that_is_too_small_is_refused_at_once() {
    let folder = Folder::new();
    let Some(small) = SmallDisk::mount(&folder, 4) else { return };
    let dir = small.0.join("p");
    assert_refused(&NodePlan::primary(&dir).flag("--buffered").refused(), 1, &["no space left", "free some"]);
    assert!(!first_segment(&dir).exists(), "nothing half-made stays");
}

#[test]
fn appends_wait_while_the_disk_is_full_and_none_is_lost() {
    let folder = Folder::new();
    let Some(small) = SmallDisk::mount(&folder, 40) else { return };
    let dir = small.0.join("p");
    let node = NodePlan::primary(&dir).flag("--buffered").flag("--prepare-segments=1").start();
    node.append("local", &["first".to_owned()]);
    let fill = small.0.join("fill");
    // Until nothing more fits.
    let mut file = fs::File::create(&fill).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 65536]).is_ok() {}
    let mut appender = Appender::start(&node, &["--level=local", "--outstanding=4"]);
    let lines: Vec<String> = (0..24).map(|n| format!("{n:02} {}", "z".repeat(900_000))).collect();
    let sent = lines.clone();
    let feeder = std::thread::spawn(move || {
        assert!(sent.iter().all(|line| appender.send(line)));
        appender.finish()
    });
    node.wait_said("no space left");
    node.wait_said("appends WAIT for room");
    let shown = text(&node.ask("status", &[]).stdout);
    assert!(shown.contains("appends WAIT for room") && shown.contains("no space left"), "{shown}");
    // Reads go on.
    assert_eq!(node.tail()[0], "first");
    assert!(!feeder.is_finished(), "what does not fit waits");
    drop(file);
    fs::remove_file(&fill).unwrap();
    let (code, acks) = feeder.join().unwrap();
    assert_eq!(code, Some(0), "{}", node.said());
    assert!(acks.len() == 24 && acks.iter().all(|ack| ack.ends_with(" local")), "{acks:?}");
    let node = node.kill().start();
    let found = node.tail();
    assert!(found[0] == "first" && found[1..] == lines, "{} of 25 records", found.len());
}

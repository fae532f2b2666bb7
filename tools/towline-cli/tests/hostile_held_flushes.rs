//! Every node killed at a moment when no standby has flushed what was acknowledged at `remote_write`: made, not waited
//! for. Each standby's disk takes long for a flush, and loses at the kill what was not flushed. What is left of the
//! acknowledged records beside the primary's disk is the standbys' shared memory, and it has to be enough.
//!
//! Needs a mount of `powercut`; where none can be made the test says so and passes.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs;
use std::path::PathBuf;

use powercut::{Cut, FaultChange, Mount, MountOptions};
use rustix::process::Signal;
use support::{Folder, NodePlan, numbered, text, towline};

/// How long a flush takes: longer than everything between the first append and the kill.
const HELD_US: u64 = 15_000_000;

/// A disk that forgets what was not flushed.
struct Disk {
    mount: Mount,
    dir: PathBuf,
}

impl Disk {
    fn new(folder: &Folder, name: &str) -> Result<Disk, String> {
        let (at, below) = (folder.join(&format!("{name}-disk")), folder.join(&format!("{name}-below")));
        fs::create_dir(&at).unwrap();
        fs::create_dir(&below).unwrap();
        // More threads than flushes can be held: reads are to be answered.
        let options = MountOptions { threads: 16, ..MountOptions::default() };
        let mount = Mount::start(&at, &below, &options).map_err(|error| error.to_string())?;
        Ok(Disk { mount, dir: at.join("log") })
    }

    /// From now on a flush takes longer than this test.
    fn hold_flushes(&self) {
        self.mount.change_faults(&FaultChange { delay_fsync_us: Some(HELD_US), ..FaultChange::default() });
    }

    /// The power goes and comes back: what was not flushed is gone, and flushes are quick again.
    fn cut(&self) {
        self.mount.cut(Cut::NOTHING).unwrap();
    }

    fn restore(&self) {
        self.mount.change_faults(&FaultChange { clear: true, ..FaultChange::default() });
        self.mount.restore();
    }
}

/// The records in a directory's files.
fn on_disk(dir: &std::path::Path) -> Vec<String> {
    let output = towline(&["log", "dump", dir.to_str().unwrap(), "--format=raw", "--force"]);
    text(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn remote_write_survives_a_kill_of_every_node_while_all_standbys_are_behind() {
    let folder = Folder::new();
    let disks = Disk::new(&folder, "a").and_then(|a| Ok([a, Disk::new(&folder, "b")?]));
    let disks = match disks {
        Ok(disks) => disks,
        Err(why) => return eprintln!("SKIPPED: no disk that forgets can be mounted here: {why}"),
    };
    let [a, b] = ["a", "b"].map(|name| {
        NodePlan::standby(name, disks[usize::from(name == "b")].dir.clone()).flag("--arena-bytes=16M").start()
    });
    let primary = NodePlan::primary(folder.join("p"))
        .ships_to(&a)
        .ships_to(&b)
        .flag("--sync-rule=ANY 1 (a, b)")
        .start();
    let (flushed, held) = (numbered(0..20), numbered(20..320));
    primary.append("on", &flushed);
    (0..2).for_each(|standby| primary.wait_caught_up(standby));

    disks.iter().for_each(Disk::hold_flushes);
    let acks = primary.append("remote_write", &held);
    assert!(acks.len() == held.len() && acks.iter().all(|ack| ack.ends_with(" remote_write")), "{acks:?}");

    // All of them, before any of them has ended: an operation that the disk holds ends with its power only.
    for node in [&primary, &a, &b] {
        node.signal(Signal::KILL);
    }
    disks.iter().for_each(Disk::cut);
    let (primary, a, b) = (primary.kill(), a.kill(), b.kill());
    disks.iter().for_each(Disk::restore);

    let all = [flushed.clone(), held].concat();
    let mut holders = 0;
    for (disk, plan) in disks.iter().zip([&a, &b]) {
        let found = on_disk(&disk.dir);
        assert!(all.starts_with(&found) && found.len() < all.len(), "{} were flushed after all", found.len());
        // What the primary's disk would have to do with it is not asked: it stays where it is.
        let standby = plan.start();
        let found = standby.tail_unsafe();
        assert!(all.starts_with(&found) && found.len() >= flushed.len(), "{} of {}", found.len(), all.len());
        holders += usize::from(found.len() == all.len());
        standby.stop();
    }
    assert!(holders > 0, "what was acknowledged at remote_write is on no standby");

    // And the log goes on.
    let (a, b) = (a.start(), b.start());
    let primary = primary.start();
    primary.wait_leading();
    primary.append("on", &numbered(320..325));
    assert_eq!(primary.tail(), numbered(0..325));
    primary.stop();
    a.stop();
    b.stop();
    for disk in disks {
        disk.mount.unmount().unwrap();
    }
}

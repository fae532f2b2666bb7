//! The program, as a user calls it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Folder, fsync_directory, is_mounted, wait_for};

pub(crate) fn mounts_cuts_restores_and_ends() {
    let folder = Folder::new();
    let running = Running::start(&folder, &["--seed", "42"]);
    let mut file = File::create(folder.mount.join("file")).unwrap();
    file.write_all(b"durable").unwrap();
    file.sync_all().unwrap();
    fsync_directory(&folder.mount);
    file.write_all(b", lost").unwrap();
    fs::write(folder.mount.join("nameless"), b"x").unwrap();
    let status = ok(powercut(&["status"], &folder.mount));
    assert!(status.contains("unflushed   1024 bytes in 2 files, 1 changes of names"), "{status}");
    let cut = ok(powercut(&["cut"], &folder.mount));
    assert!(cut.contains("2 sectors and 1 changes of names lost, 0 and 0 kept by chance (seed 42)"), "{cut}");
    assert!(fails(powercut(&["cut"], &folder.mount)).contains("off already"));
    assert!(fs::read(folder.mount.join("file")).is_err());
    let json = ok(powercut(&["status", "--json"], &folder.mount));
    assert!(json.contains("\"up\": false"), "{json}");
    ok(powercut(&["restore"], &folder.mount));
    assert_eq!(fs::read(folder.mount.join("file")).unwrap(), b"durable");
    assert!(!folder.mount.join("nameless").exists());
    ok(powercut(&["fault", "--eio-write", "once", "--delay-fsync-us", "10"], &folder.mount));
    assert!(fs::write(folder.mount.join("file"), b"x").is_err());
    ok(powercut(&["fault", "--clear"], &folder.mount));
    fs::write(folder.mount.join("file"), b"flushed by the end").unwrap();
    drop(file);
    ok(powercut(&["unmount"], &folder.mount));
    assert!(running.ended().success());
    assert!(!is_mounted(&folder.mount));
    assert_eq!(fs::read(folder.below.join("file")).unwrap(), b"flushed by the end");
    assert_eq!(fs::read_dir(&folder.below).unwrap().count(), 1, "nothing else is left below");
}

pub(crate) fn a_killed_mount_is_a_cut_and_is_cleaned() {
    let folder = Folder::new();
    let mut running = Running::start(&folder, &[]);
    let mut file = File::create(folder.mount.join("file")).unwrap();
    file.write_all(b"durable").unwrap();
    file.sync_all().unwrap();
    fsync_directory(&folder.mount);
    file.write_all(b", lost").unwrap();
    fs::rename(folder.mount.join("file"), folder.mount.join("renamed")).unwrap();
    running.child.kill().unwrap();
    running.child.wait().unwrap();
    drop(file);
    assert!(is_mounted(&folder.mount), "dead, and still there");
    let error = fails(powercut(&["status"], &folder.mount));
    assert!(error.contains("no powercut is mounted there"), "{error}");
    // One elsewhere lets it be: it may be somebody else's.
    let elsewhere = Folder::new();
    drop(Running::start(&elsewhere, &[]));
    assert!(is_mounted(&folder.mount), "cleaned from elsewhere");
    // The next one cleans the place, and finds what was durable.
    let again = Running::start(&folder, &[]);
    assert_eq!(fs::read(folder.mount.join("file")).unwrap(), b"durable");
    assert!(!folder.mount.join("renamed").exists());
    let mut again = again;
    again.child.kill().unwrap();
    again.child.wait().unwrap();
    // Or somebody cleans it by hand.
    assert!(ok(powercut(&["unmount"], &folder.mount)).contains("cleaned a dead mount"));
    assert!(!is_mounted(&folder.mount));
}

pub(crate) fn a_signal_ends_a_busy_mount() {
    for signal in [Signal::INT, Signal::TERM] {
        let folder = Folder::new();
        let running = Running::start(&folder, &["--threads", "6", "--flush-below"]);
        let mut file = File::create(folder.mount.join("file")).unwrap();
        file.write_all(b"written").unwrap();
        kill_process(Pid::from_child(&running.child), signal).unwrap();
        assert!(running.ended().success());
        assert!(!is_mounted(&folder.mount));
        assert!(file.write_all(b"x").is_err());
        assert_eq!(fs::read(folder.below.join("file")).unwrap(), b"written");
    }
}

pub(crate) fn mistakes_are_explained() {
    let folder = Folder::new();
    let error = fails(powercut(&["cut"], &folder.mount));
    assert!(error.contains("no powercut is mounted there") && error.contains("--over"), "{error}");
    assert!(fails(powercut(&["cut", "--keep", "1.5"], &folder.mount)).contains("from 0 to 1"));
    assert!(fails(powercut(&["fault", "--eio-read", "twice"], &folder.mount)).contains("possible values"));
    fs::write(folder.mount.join("occupied"), b"").unwrap();
    let over = folder.below.to_str().unwrap();
    assert!(fails(powercut(&["mount", "--over", over], &folder.mount)).contains("not empty"));
    let below = fails(powercut(&["mount", "--threads", "0", "--over", over], &folder.mount));
    assert!(below.contains("threads: 1 to"), "{below}");
    let help = ok(Command::new(PROGRAM).arg("--help").output().unwrap());
    for word in ["fsync", "below/", "--keep 0.5 --seed 7", "unmount"] {
        assert!(help.contains(word), "{help}");
    }
}

/// `powercut mount` in a process of its own.
struct Running {
    child: Child,
    mount: std::path::PathBuf,
}

impl Running {
    fn start(folder: &Folder, options: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .arg("mount")
            .args(options)
            .arg(&folder.mount)
            .arg("--over")
            .arg(&folder.below)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("mounted "), "{line}");
        Self { child, mount: folder.mount.clone() }
    }

    fn ended(mut self) -> ExitStatus {
        wait_for("its end", || self.child.try_wait().unwrap().is_some());
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failed test: ended already, and not mounted, otherwise.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = powercut(&["unmount"], &self.mount);
    }
}

fn powercut(arguments: &[&str], mount: &Path) -> Output {
    Command::new(PROGRAM).args(arguments).arg(mount).output().unwrap()
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn fails(output: Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_powercut");

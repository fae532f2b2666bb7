//! What goes wrong with a peer is that peer's: it is said in a line, the others are measured, and nothing is left.
//!
//! Peers that misbehave in a way of their own are scripts in a search path of their own; those that die are the real
//! thing, where it is installed.

#![allow(clippy::unwrap_used)] // A test that cannot go on ends.

use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

#[test]
fn a_peer_that_is_missing_too_old_or_does_not_start_is_a_line_and_the_others_are_measured() {
    let bed = Bed::new();
    bed.fake("etcd", "echo 'etcd Version: 3.1.0'");
    bed.fake(
        "redis-server",
        "[ \"$1\" = --version ] && echo 'Redis server v=7.0.15' && exit 0\necho 'no room for me' >&2; exit 3",
    );
    let output = bed
        .compare(&["etcd", "nats", "redis", "--repetitions", "3"])
        .env("PATH", bed.path("bin"))
        .output()
        .unwrap();
    let (said, complained) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{said}{complained}");
    for line in [
        "nats: not part of this run: NATS is not installed: apt-get install nats-server",
        "etcd: not part of this run: etcd 3.1.0 is too old",
    ] {
        assert_eq!(said.lines().filter(|found| found.starts_with(line)).count(), 1, "{line}\n{said}");
    }
    let lines: Vec<&str> = complained.lines().filter(|line| line.starts_with("redis: ")).collect();
    assert!(lines[0].contains("exit status: 3") && lines[0].contains("no room for me"), "{complained}");
    assert_eq!(lines.len(), 2, "it is tried again, and then no more: {complained}");
    let report = bed.report(&said);
    assert_eq!(systems(&report), ["towline"]);
    assert!(notes(&report).iter().any(|note| note.contains("no room for me")), "{:?}", notes(&report));
    bed.assert_clean();
}

#[test]
fn a_peer_whose_port_is_taken_is_told_with_the_port() {
    let bed = Bed::new();
    bed.fake("redis-server", "echo 'Redis server v=7.0.15'");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = bed.compare(&["redis", "--first-port", &port]);
    let output = command.env("PATH", bed.path("bin")).output().unwrap();
    let (said, complained) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{said}{complained}");
    let line = complained.lines().find(|line| line.starts_with("redis: ")).unwrap_or_default();
    assert!(line.contains(&format!("port {port} is taken by another program")), "{complained}");
    assert_eq!(systems(&bed.report(&said)), ["towline"]);
    bed.assert_clean();
}

#[test]
fn a_peer_that_dies_in_mid_run_loses_that_repetition_and_nothing_else() {
    let Some(bed) = Bed::with_redis() else { return };
    let mut run = bed.compare(&["redis", "--repetitions", "3"]).spawn().unwrap();
    let primary = bed.wait_for_redis(&mut run, "redis-1");
    signal(primary, rustix::process::Signal::KILL);
    let output = run.wait_with_output().unwrap();
    let (said, complained) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{said}{complained}");
    let line = complained.lines().find(|line| line.starts_with("redis: ")).unwrap_or_default();
    assert!(line.contains("redis primary ended by itself (signal: 9"), "{complained}");
    let report = bed.report(&said);
    assert!(repetitions(&report, "redis").is_superset(&[0, 2].into()), "it gets another chance");
    assert_eq!(repetitions(&report, "towline"), [0, 1, 2].into(), "the others go on");
    bed.assert_clean();
}

#[test]
fn ctrl_c_keeps_what_was_measured_marks_it_and_leaves_nothing() {
    let Some(bed) = Bed::with_redis() else { return };
    let mut run = bed.compare(&["redis", "--repetitions", "50"]).spawn().unwrap();
    bed.wait_for_redis(&mut run, "redis-1");
    let own = rustix::process::Pid::from_child(&run);
    let asked = Instant::now();
    signal(own, rustix::process::Signal::INT);
    let output = run.wait_with_output().unwrap();
    let (said, complained) = texts(&output);
    assert_eq!(output.status.code(), Some(130), "{said}{complained}");
    assert!(asked.elapsed() < Duration::from_secs(60));
    let report = bed.report(&said);
    assert!(notes(&report)[0].starts_with("partial: the run was interrupted"), "{:?}", notes(&report));
    assert!(repetitions(&report, "redis").contains(&0) && repetitions(&report, "towline").contains(&0));
    assert!(report["points"].as_array().unwrap().iter().all(|point| point["achieved_per_s"] != 0.0));
    bed.assert_clean();
}

/// A place for one run: its data, its results, and programs of its own.
struct Bed {
    dir: TempDir,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        Self { dir }
    }

    fn with_redis() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let found = std::env::split_paths(&path).any(|dir| dir.join("redis-server").is_file());
        if !found {
            eprintln!("redis-server is not installed: this test needs it");
        }
        found.then(Self::new)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program of the search path `bin`.
    fn fake(&self, name: &str, script: &str) {
        let file = self.path("bin").join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn compare(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_towline-compare"));
        command.args(arguments).arg("--program").arg(towline());
        command.arg("--dir").arg(self.path("data")).arg("--results").arg(self.path("results"));
        command.args(["--clients=1", "--duration-ms=500", "--warm-up-ms=20", "--no-agreement"]);
        if !arguments.contains(&"--repetitions") {
            command.arg("--repetitions=1");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Waits until that turn of Redis takes requests; the process id of its primary.
    fn wait_for_redis(&self, run: &mut Child, turn: &str) -> rustix::process::Pid {
        let deadline = Instant::now() + Duration::from_secs(180);
        loop {
            let at = |node: &str| {
                let dir = Path::new(turn).join(node);
                processes(self.dir.path()).into_iter().find(|(_, place)| place.ends_with(&dir))
            };
            if let (Some((pid, _)), Some(_), Some(_)) = (at("primary"), at("a"), at("b")) {
                return pid;
            }
            assert!(run.try_wait().unwrap().is_none(), "it ended before");
            assert!(Instant::now() < deadline, "{turn} never came");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The report that `said` names.
    fn report(&self, said: &str) -> Value {
        let page = said.lines().find_map(|line| line.strip_prefix("page: ")).expect("no page was named");
        let json = std::fs::read(Path::new(page).with_file_name("report.json")).unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    fn assert_clean(&self) {
        assert!(!self.path("data").exists(), "data is left");
        assert_eq!(processes(self.dir.path()), [], "processes are left");
    }
}

/// Processes that work below `dir`, with where.
fn processes(dir: &Path) -> Vec<(rustix::process::Pid, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { continue };
        let place = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let names = String::from_utf8_lossy(&command).contains(&*dir.to_string_lossy());
        let is_run = command.starts_with(env!("CARGO_BIN_EXE_towline-compare").as_bytes());
        if place.starts_with(dir) || (names && !is_run) {
            found.push((pid, place));
        }
    }
    found
}

fn signal(pid: rustix::process::Pid, signal: rustix::process::Signal) {
    rustix::process::kill_process(pid, signal).unwrap();
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn systems(report: &Value) -> Vec<String> {
    let points = report["points"].as_array().unwrap();
    let names = points.iter().map(|point| point["system"].as_str().unwrap().to_owned());
    names.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn repetitions(report: &Value, system: &str) -> std::collections::BTreeSet<u64> {
    let points = report["points"].as_array().unwrap().iter().filter(|point| point["system"] == system);
    points.map(|point| point["repetition"].as_u64().unwrap()).collect()
}

fn notes(report: &Value) -> Vec<String> {
    report["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap().to_owned()).collect()
}

/// The program beside the one under test; built when nobody has.
fn towline() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_BIN_EXE_towline-compare")).with_file_name("towline");
        if !program.is_file() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--package", "towline-cli", "--bin", "towline"]);
            build.current_dir(env!("CARGO_MANIFEST_DIR"));
            if !cfg!(debug_assertions) {
                build.arg("--release");
            }
            assert!(build.status().unwrap().success(), "towline cannot be built");
        }
        program
    })
}

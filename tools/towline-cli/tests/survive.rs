//! `towline survive` as a user runs it: a verdict and its exit code, wrong names, Ctrl-C; nothing is left mounted or
//! running. Where nothing can be mounted, the message says what is missing.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

#[test]
fn a_cell_passes_in_both_directions_and_leaves_a_page() {
    let folder = folder();
    let output =
        survive(folder.path(), &["--level=off,on", "--failure=primary-disk-loss", "--seed=1", "--lanes=1"]);
    // Where it is not root a helper may mount for it, or may not.
    if !can_mount() && text(&output.stderr).contains("cannot mount here") {
        assert_eq!(output.status.code(), Some(1));
        return;
    }
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
    let run = std::fs::read_dir(folder.path().join("results")).unwrap().next().unwrap().unwrap().path();
    let json = std::fs::read_to_string(run.join("survive.json")).unwrap();
    let report: Value = serde_json::from_str(&json).unwrap();
    let [off, on] = [0, 1].map(|at| &report["cells"][at]);
    assert_eq!((&off["row"]["name"], &on["row"]["name"]), (&Value::from("off"), &Value::from("on")));
    assert!(off["lost"].as_u64().unwrap() > 0, "off loses what only the primary held: {off}");
    assert_eq!(on["lost"], 0, "{on}");
    assert!(on["acked"].as_u64().unwrap() >= 300, "{on}");
    let page = std::fs::read_to_string(run.join("survive.html")).unwrap();
    assert!(page.contains("primary-disk") && !page.contains("http"), "one page that needs no network");
    std::fs::remove_file(run.join("survive.html")).unwrap();
    let again = Command::new(env!("CARGO_BIN_EXE_towline")).arg("report").arg(&run).output().unwrap();
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert!(text(&again.stdout).contains("2 passed, 0 failed"), "{}", text(&again.stdout));
    assert_eq!(std::fs::read_to_string(run.join("survive.html")).unwrap(), page, "the page as it was");
    assert_nothing_left(folder.path());
}

#[test]
fn an_old_primary_that_is_not_gone_follows_the_promoted_standby() {
    if !can_mount() {
        return;
    }
    let folder = folder();
    let output =
        survive(folder.path(), &["--level=off,on", "--failure=pause,partition-one-way", "--lanes=1"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("4 passed, 0 failed, 0 not shown"), "{}", text(&output.stdout));
    assert_nothing_left(folder.path());
}

#[test]
fn a_cell_that_does_not_exist_is_refused_with_those_that_do() {
    let folder = folder();
    for (flag, known) in [("--level=onn", "remote_apply"), ("--failure=meteor", "primary-disk")] {
        let output = survive(folder.path(), &[flag]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(known), "{}", text(&output.stderr));
    }
    let output = survive(folder.path(), &["--list", "--level=on"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("primary-disk"));
    assert!(!folder.path().join("results").exists(), "a list runs nothing");
}

#[test]
fn a_name_that_the_list_offers_is_taken_and_what_only_advise_knows_says_so() {
    let folder = folder();
    let said = text(&survive(folder.path(), &["--list", "--level=on"]).stdout);
    let aliases = said.split("longer names of failures:\n").nth(1).unwrap();
    let aliases = aliases.lines().take_while(|line| line.starts_with("  "));
    let aliases: Vec<&str> = aliases.map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(aliases.contains(&"primary-disk-loss"), "{said}");
    let all = format!("--failure={}", aliases.join(","));
    let output = survive(folder.path(), &["--list", "--level=on", &all]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for name in ["all-disk-loss", "clean-stop"] {
        let output = survive(folder.path(), &[&format!("--failure={name}")]);
        assert_eq!(output.status.code(), Some(2));
        let wanted = format!("'{name}' is a failure for `advise` only");
        assert!(text(&output.stderr).contains(&wanted), "{}", text(&output.stderr));
    }
}

#[test]
fn a_soak_too_short_to_show_anything_is_not_shown_and_its_rounds_can_be_played_again() {
    if !can_mount() {
        return;
    }
    let folder = folder();
    let output = survive(folder.path(), &["--soak=1s", "--seed=3", "--lanes=1"]);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("the long run is not shown: no cluster with"), "{said}");
    let played = |at: usize| {
        let mut runs: Vec<_> = std::fs::read_dir(folder.path().join("results")).unwrap().collect();
        runs.sort_by_key(|run| run.as_ref().unwrap().path());
        let json = runs[at].as_ref().unwrap().path().join("survive.json");
        let report: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
        let soak = report["soak"].clone();
        (soak["by_failure"].clone(), soak["rows"][0]["row"]["name"].clone())
    };
    // The first round is over after the second that was asked for: it is all there is.
    let output = survive(folder.path(), &["--soak=1s", "--round=0", "--seed=3"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert_eq!(played(0), played(1));
    assert_nothing_left(folder.path());
}

#[test]
fn ctrl_c_or_a_closed_terminal_leaves_nothing_mounted_or_running() {
    if !can_mount() {
        return;
    }
    for signal in [Signal::INT, Signal::HUP] {
        let folder = folder();
        let mut child = Run(command(folder.path(), &["--level=on", "--times=1000"]).spawn().unwrap());
        wait("the mounts", || mounts(folder.path()) >= 3);
        std::thread::sleep(Duration::from_millis(300));
        kill_process(Pid::from_child(&child.0), signal).unwrap();
        assert_eq!(ended(&mut child.0), Some(130), "{signal:?}");
        assert_nothing_left(folder.path());
    }
}

#[test]
fn a_place_that_takes_no_result_is_told_before_anything_is_played() {
    if !can_mount() {
        return;
    }
    let folder = folder();
    std::fs::write(folder.path().join("results"), "a file").unwrap();
    let output = survive(folder.path(), &["--level=on", "--times=1000"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("results"), "{}", text(&output.stderr));
    assert_nothing_left(folder.path());
}

#[test]
fn what_was_played_is_kept_when_the_run_cannot_go_on() {
    if !can_mount() {
        return;
    }
    // The third time, no cluster can be made.
    let folder = folder();
    let flags = ["--level=local", "--failure=primary-kill", "--times=1000", "--lanes=1"];
    let mut child = Run(command(folder.path(), &flags).spawn().unwrap());
    wait("the first cell", || mounts(folder.path()) >= 1);
    std::fs::write(folder.path().join("work/towline-survive/cluster-2"), "no folder").unwrap();
    assert_eq!(ended(&mut child.0), Some(1));
    let run = std::fs::read_dir(folder.path().join("results")).unwrap().next().unwrap().unwrap().path();
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(run.join("survive.json")).unwrap()).unwrap();
    assert_eq!(report["cells"][0]["runs"], 2, "{report}");
    assert!(report["broken_off"].as_str().unwrap().contains("cluster-2"), "{report}");
    let again = Command::new(env!("CARGO_BIN_EXE_towline")).arg("report").arg(&run).output().unwrap();
    assert!(text(&again.stdout).contains("INCOMPLETE: given up"), "{}", text(&again.stdout));
}

#[test]
fn what_was_played_is_shown_when_it_cannot_be_written() {
    if !can_mount() {
        return;
    }
    let folder = folder();
    let flags = ["--level=local", "--failure=primary-kill", "--lanes=1"];
    let child = command(folder.path(), &flags).spawn().unwrap();
    wait("the cell", || mounts(folder.path()) >= 1);
    std::fs::remove_dir_all(folder.path().join("results")).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("1 passed"), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("survive.json: cannot be written"), "{}", text(&output.stderr));
    assert_nothing_left(folder.path());
}

#[test]
fn what_a_killed_run_left_is_cleaned_by_the_next() {
    if !can_mount() {
        return;
    }
    let folder = folder();
    let mut child = Run(command(folder.path(), &["--soak=10m", "--lanes=1"]).spawn().unwrap());
    let results = || std::fs::read_dir(folder.path().join("results")).into_iter().flatten().flatten();
    let result = || results().next().map(|run| run.path().join("survive.json")).filter(|path| path.exists());
    wait("the first round's result", || result().is_some());
    wait("the mounts", || mounts(folder.path()) >= 3);
    std::thread::sleep(Duration::from_millis(300));
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(result().unwrap()).unwrap()).unwrap();
    assert!(kept["soak"]["acked"].as_u64().unwrap() > 0, "{kept}");
    assert!(kept["broken_off"].as_str().unwrap().contains("killed"), "{kept}");
    // Its nodes end by themselves: their input has ended.
    wait("the end of the nodes", || nodes(folder.path()).is_empty());
    assert!(mounts(folder.path()) > 0, "a killed process cannot unmount");
    let output = survive(folder.path(), &["--level=local", "--failure=primary-kill", "--lanes=1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_nothing_left(folder.path());
}

#[test]
fn a_standby_that_ends_by_itself_fails_its_cell() {
    if !can_mount() {
        return;
    }
    let folder = folder();
    // At `local` nobody waits for it.
    let child =
        command(folder.path(), &["--level=local", "--failure=link-both", "--lanes=1"]).spawn().unwrap();
    let mut standby = None;
    wait("a standby", || {
        let found = processes(folder.path()).into_iter().find(|(_, line)| line.contains(" standby "));
        standby = found.map(|(pid, _)| pid);
        standby.is_some() && processes(folder.path()).iter().any(|(_, line)| line.contains(" primary "))
    });
    // Both follow by then, and the load has begun.
    std::thread::sleep(Duration::from_millis(150));
    kill_process(Pid::from_raw(standby.unwrap()).unwrap(), Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    let said = "'a' ended by itself (signal: 9 (SIGKILL))";
    assert!(text(&output.stdout).contains(said), "{}", text(&output.stdout));
    assert_nothing_left(folder.path());
}

/// A run that ends with its test, also with one that fails.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn survive(folder: &Path, flags: &[&str]) -> Output {
    command(folder, flags).output().unwrap()
}

fn command(folder: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_towline"));
    command.arg("survive").args(flags).env("RUST_BACKTRACE", "0");
    command.arg(format!("--dir={}", folder.join("work").display()));
    command.arg(format!("--results={}", folder.join("results").display()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn can_mount() -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !can {
        eprintln!("not tested: it needs root and /dev/fuse");
    }
    can
}

#[track_caller]
fn assert_nothing_left(folder: &Path) {
    assert_eq!(mounts(folder), 0, "mounted");
    assert_eq!(nodes(folder), Vec::<String>::new(), "running");
    assert!(!folder.join("work").exists(), "the work folder is empty and gone");
}

fn mounts(folder: &Path) -> usize {
    let list = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    list.lines().filter(|line| line.contains(folder.to_str().unwrap())).count()
}

/// Command lines of processes that name the folder.
fn nodes(folder: &Path) -> Vec<String> {
    processes(folder).into_iter().map(|(_, line)| line).collect()
}

/// The same with their pids.
fn processes(folder: &Path) -> Vec<(i32, String)> {
    let place = folder.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let lines = pids.filter_map(|pid: i32| Some((pid, std::fs::read(format!("/proc/{pid}/cmdline")).ok()?)));
    let words = lines.map(|(pid, line)| (pid, String::from_utf8_lossy(&line).replace('\0', " ")));
    words.filter(|(_, line)| line.contains(place)).collect()
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what} never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ended(child: &mut Child) -> Option<i32> {
    let mut code = None;
    wait("the end", || {
        code = child.try_wait().unwrap().map(|status| status.code());
        code.is_some()
    });
    code.flatten()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

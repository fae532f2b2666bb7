//! What a command says that waits, is interrupted, or asks a node that is silent: nothing hangs without a word, and no
//! append's outcome is left out.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Folder, Node, NodePlan, PATIENCE, assert_refused, command, numbered, text, towline};

/// A primary whose only synchronous standby is not there.
fn stalled(folder: &Folder) -> Node {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let primary = NodePlan::primary(folder.join("p"))
        .flag(format!("--standby=a={nobody}"))
        .flag("--sync-rule=ANY 1 (a)")
        .start();
    primary.wait_leading();
    primary
}

/// An append with its input left open.
fn appending(node: &Node, flags: &[&str], lines: &str) -> Child {
    let mut child = command()
        .arg("append")
        .arg(format!("--address={}", node.address()))
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(lines.as_bytes()).unwrap();
    child
}

fn flushed_records(node: &serde_json::Value) -> u64 {
    node["watermarks"]["flushed"]["records"].as_u64().unwrap()
}

/// SEMANTICS section 2: a wait that is cancelled ends as indeterminate.
#[test]
fn an_interrupted_append_says_what_is_in_flight() {
    let folder = Folder::new();
    let node = stalled(&folder);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let before = flushed_records(&node.status()["shards"][0]["node"]);
        let child = appending(&node, &["--level=on"], "one\ntwo\nthree\n");
        node.wait_status("flushed and waiting", |node| flushed_records(node) == before + 3);
        kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_refused(&output, code, &["3 append(s) in flight may be in the log or not"]);
        let lines = text(&output.stdout);
        assert_eq!(lines.lines().filter(|line| line.starts_with("indeterminate: ")).count(), 3, "{lines}");
    }
    node.stop();
}

#[test]
fn an_append_that_stalls_says_why_and_gives_up_when_told_to() {
    let folder = Folder::new();
    let node = stalled(&folder);
    let begun = Instant::now();
    let output = node.ask_with("append", &["--level=on", "--timeout=1s"], b"one\ntwo\n");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_refused(&output, 4, &["2 append(s) in flight may be in the log or not", "1s"]);
    assert_eq!(text(&output.stdout).matches("indeterminate: nothing has ended for 1s").count(), 2);
    // What needs no standby goes on.
    node.append("local", &numbered(0..3));

    let mut child = appending(&node, &["--level=on"], "three\n");
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    for word in ["1 append(s) at on have waited", "ANY 1 (a) is not met", "a is "] {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    node.stop();
}

#[test]
fn acknowledgements_that_nobody_reads_are_no_success() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    let mut child = appending(&node, &["--level=local"], "one\n");
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut ack = String::new();
    stdout.read_line(&mut ack).unwrap();
    assert!(ack.ends_with("local\n"), "{ack}");
    drop(stdout);
    let mut stdin = child.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        // Until the append has ended.
        while stdin.write_all(b"more\n").is_ok() {}
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert_refused(&output, 4, &["standard output", "nobody was told"]);
    // A reader that has seen enough is another matter.
    let mut tail = command();
    tail.args(["tail", &format!("--address={}", node.address())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut tail = tail.spawn().unwrap();
    drop(tail.stdout.take());
    assert!(tail.wait().unwrap().success());
    node.stop();
}

#[test]
fn a_record_over_the_limit_is_named_by_its_place() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    let mut input = b"one\ntwo\n".to_vec();
    input.extend(std::iter::repeat_n(b'x', (1 << 20) + 1));
    input.extend(b"\nfour\n");
    let output = node.ask_with("append", &["--level=local"], &input);
    assert_refused(&output, 1, &["record 3 of standard input", "what follows it"]);
    assert_eq!(text(&output.stdout).lines().count(), 2);
    assert_eq!(node.tail(), ["one", "two"]);
    node.stop();
}

#[test]
fn reading_where_nothing_is_says_so() {
    let folder = Folder::new();
    let node = stalled(&folder);
    node.append("local", &numbered(0..3));
    // Nothing is safe while the standby has never come.
    let output = node.ask("tail", &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty());
    assert!(text(&output.stderr).contains("--unsafe-too"), "{}", text(&output.stderr));
    for from in ["9/00000000", "0/00300000"] {
        let from = format!("--from={from}");
        for flags in [&[from.as_str()][..], &[&from, "--unsafe-too"]] {
            assert_refused(&node.ask("tail", flags), 1, &["nothing begins at", "ends at"]);
        }
    }
    // Any place in the log: what begins there or later.
    let all = node.ask("tail", &["--unsafe-too", "--format=json"]);
    let lines = text(&all.stdout);
    let second: serde_json::Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
    let at = u64::from_str_radix(second["lsn"].as_str().unwrap().rsplit('/').next().unwrap(), 16).unwrap();
    for (from, wanted) in [(at, numbered(1..3)), (at - 1, numbered(1..3)), (at + 1, numbered(2..3))] {
        let output = node.ask("tail", &["--unsafe-too", &format!("--from={from}")]);
        assert_eq!(
            text(&output.stdout).lines().collect::<Vec<_>>(),
            wanted,
            "{from} {}",
            text(&output.stderr)
        );
    }
    let dir = node.dir().to_str().unwrap().to_owned();
    node.stop();
    assert_refused(
        &towline(&["log", "dump", &dir, "--from=9/00000000"]),
        1,
        &["nothing begins at", "ends at"],
    );
    let inspected = towline(&["log", "inspect", &dir]);
    assert!(text(&inspected.stdout).contains("start 0/00002000"), "{}", text(&inspected.stdout));
}

#[test]
fn a_node_that_does_not_answer_is_unavailable_and_a_shard_that_is_not_there_is_wrong_usage() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).flag("--metrics=127.0.0.1:0").start();
    for subcommand in ["append", "tail", "status", "trim"] {
        let flags: &[&str] = if subcommand == "trim" { &["--shard=7", "0/0"] } else { &["--shard=7"] };
        assert_refused(&node.ask_with(subcommand, flags, b"x\n"), 2, &["no shard 7"]);
    }
    node.wait_said("metrics at http://");
    let said = node.said();
    let metrics = said.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let asked = towline(&["status", &format!("--address={metrics}")]);
    assert!(matches!(asked.status.code(), Some(1 | 4)), "{asked:?}");
    assert!(
        !text(&asked.stderr).contains("in the log or not"),
        "nothing was written: {}",
        text(&asked.stderr)
    );
    let mut page = TcpStream::connect(metrics).unwrap();
    page.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut html = String::new();
    page.read_to_string(&mut html).unwrap();
    assert!(html.contains("primary in term") && !html.contains("Primary("), "{html}");

    node.signal(Signal::STOP);
    let asked = node.ask("status", &[]);
    node.signal(Signal::CONT);
    assert_refused(&asked, 4, &["has not answered within 3s"]);
    node.stop();
}

#[test]
fn an_interrupted_probe_leaves_nothing() {
    let folder = Folder::new();
    let dir = folder.join("disk");
    std::fs::create_dir(&dir).unwrap();
    let scratch = |dir: &std::path::Path| {
        let names = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect::<Vec<String>>()
    };
    // Of a measurement that was killed: no process has this number.
    std::fs::write(dir.join(".towline-floor-4194305-0"), "x").unwrap();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let child = command()
            .args(["probe", "--dir", dir.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let own = format!(".towline-floor-{}-", child.id());
        let deadline = Instant::now() + PATIENCE;
        while !scratch(&dir).iter().any(|name| name.starts_with(&own)) {
            assert!(Instant::now() < deadline, "it never measured");
            std::thread::sleep(Duration::from_millis(5));
        }
        kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(code));
        assert_eq!(scratch(&dir), Vec::<String>::new());
    }
}

/// The failover of the README: the new primary's rule names the old one alone, which is gone.
#[test]
fn a_former_primary_that_comes_back_meets_the_rule_that_names_it() {
    let folder = Folder::new();
    let a = NodePlan::standby("a", folder.join("a")).start();
    let primary = NodePlan::primary(folder.join("p")).ships_to(&a).flag("--sync-rule=ANY 1 (a)").start();
    primary.wait_leading();
    primary.append("on", &numbered(0..3));
    let old = primary.kill();
    let back = format!("--standbys=primary={}", old.listen_address());
    let promoted = towline(&["promote", &a.address().to_string(), &back, "--sync-rule=ANY 1 (primary)"]);
    assert_eq!(promoted.status.code(), Some(0), "{}", text(&promoted.stderr));
    let status = text(&a.ask("status", &[]).stdout);
    assert!(status.contains("in the rule") && !status.contains("candidate"), "{status}");

    let former =
        NodePlan::standby("primary", folder.join("p")).at(old.listen_address().parse().unwrap()).start();
    a.wait_caught_up(0);
    a.append("on", &numbered(3..6));
    let status = text(&a.ask("status", &[]).stdout);
    assert!(status.contains("candidate"), "{status}");
    former.stop();
    a.stop();
}

//! Real nodes on loopback: every level over the socket, kills and restarts, clean stops.

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use support::{Appender, Folder, Node, NodePlan, assert_refused, numbered, text, towline};

/// A primary with two standbys, any one of them synchronous.
fn cluster(folder: &Folder) -> (Node, [Node; 2]) {
    let a = NodePlan::standby("a", folder.join("a")).start();
    let b = NodePlan::standby("b", folder.join("b")).start();
    let primary = NodePlan::primary(folder.join("p"))
        .ships_to(&a)
        .ships_to(&b)
        .flag("--sync-rule=ANY 1 (a, b)")
        .start();
    primary.wait_leading();
    (primary, [a, b])
}

#[test]
fn every_level_is_acknowledged_as_what_it_is() {
    let folder = Folder::new();
    let (primary, [a, b]) = cluster(&folder);
    let mut records = Vec::new();
    let mut last_lsn = String::new();
    for (number, level) in ["off", "local", "remote_write", "on", "remote_apply"].into_iter().enumerate() {
        let lines = numbered(number * 100..number * 100 + 100);
        for ack in primary.append(level, &lines) {
            let (lsn, achieved) = ack.split_once(' ').unwrap();
            assert_eq!(achieved, level);
            assert!(lsn > last_lsn.as_str(), "{lsn} after {last_lsn}");
            last_lsn = lsn.to_owned();
        }
        records.extend(lines);
    }
    assert_eq!(primary.tail(), records);
    for (number, standby) in [&a, &b].into_iter().enumerate() {
        primary.wait_caught_up(number);
        assert_eq!(standby.tail_unsafe(), records);
    }
    primary.stop();
    a.stop();
    b.stop();
    for name in ["p", "a", "b"] {
        let output = towline(&["log", "dump", "--format=raw", folder.join(name).to_str().unwrap()]);
        assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), records, "{name}");
        let output = towline(&["log", "verify", folder.join(name).to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("500 records"), "{}", text(&output.stdout));
    }
}

#[test]
fn without_a_rule_remote_levels_say_local() {
    let folder = Folder::new();
    let primary = NodePlan::primary(folder.join("p")).start();
    for ack in primary.append("on", &numbered(0..5)) {
        assert!(ack.ends_with(" local"), "{ack}");
    }
    let refused = primary.ask_with("append", &["--level=on", "--window=64K"], b"x\n");
    assert_refused(&refused, 1, &["refused"]);
    assert!(text(&refused.stdout).contains("sync rule"), "{}", text(&refused.stdout));
    let refused = primary.ask_with("append", &["--level=local", "--window=64K"], b"x\n");
    assert_refused(&refused, 1, &["refused"]);
    assert_eq!(primary.tail().len(), 5, "what was refused is not in the log");
}

#[test]
fn a_killed_primary_keeps_what_it_acknowledged_and_leads_again() {
    let folder = Folder::new();
    let (primary, [a, b]) = cluster(&folder);
    let mut kept = numbered(0..200);
    primary.append("local", &kept[..100]);
    primary.append("on", &kept[100..]);
    let primary = primary.kill().start();
    primary.wait_leading();
    let more = numbered(200..300);
    primary.append("on", &more);
    kept.extend(more);
    assert_eq!(primary.tail(), kept);
    primary.wait_caught_up(0);
    primary.wait_caught_up(1);
    assert_eq!(a.tail_unsafe(), kept);
    assert_eq!(b.tail_unsafe(), kept);
}

#[test]
fn a_killed_standby_comes_back_and_catches_up() {
    let folder = Folder::new();
    let (primary, [a, b]) = cluster(&folder);
    primary.append("on", &numbered(0..50));
    let plan = a.kill();
    // The other one is enough.
    primary.append("on", &numbered(50..100));
    let a = plan.start();
    primary.append("on", &numbered(100..150));
    primary.wait_caught_up(0);
    assert_eq!(a.tail_unsafe(), numbered(0..150));
    drop(b);
}

#[test]
fn without_standbys_remote_levels_wait_and_local_ones_do_not() {
    let folder = Folder::new();
    let (primary, [a, b]) = cluster(&folder);
    primary.append("on", &numbered(0..10));
    let (plan_a, plan_b) = (a.kill(), b.kill());
    let mut waiting = Appender::start(&primary, &["--level=on"]);
    assert!(waiting.send("record 10"));
    primary.append("local", &numbered(11..20));
    assert_eq!(waiting.acks(), Vec::<String>::new());
    let (a, _b) = (plan_a.start(), plan_b.start());
    waiting.wait_acks(1);
    let (code, acks) = waiting.finish();
    assert_eq!(code, Some(0));
    assert!(acks[0].ends_with(" on"), "{acks:?}");
    primary.wait_caught_up(0);
    assert_eq!(a.tail_unsafe().len(), 20);
}

#[test]
fn a_degrading_primary_says_so_and_heals() {
    let folder = Folder::new();
    let a = NodePlan::standby("a", folder.join("a")).start();
    let primary = NodePlan::primary(folder.join("p"))
        .ships_to(&a)
        .flag("--sync-rule=ANY 1 (a)")
        .flag("--degrade-after=300ms")
        .start();
    primary.append("on", &numbered(0..5));
    let plan = a.kill();
    for ack in primary.append("on", &numbered(5..10)) {
        assert!(ack.ends_with(" local"), "{ack}");
    }
    primary.wait_said("DEGRADED");
    let a = plan.start();
    primary.wait_said("healed");
    for ack in primary.append("on", &numbered(10..15)) {
        assert!(ack.ends_with(" on"), "{ack}");
    }
    primary.wait_caught_up(0);
    assert_eq!(a.tail_unsafe(), numbered(0..15));
}

#[test]
fn a_clean_stop_keeps_even_what_was_only_accepted() {
    let folder = Folder::new();
    for signal in [Signal::TERM, Signal::INT] {
        let dir = folder.join(&format!("{signal:?}"));
        let node = NodePlan::primary(&dir).start();
        node.append("off", &numbered(0..1000));
        assert_eq!(node.stop_with(signal).code(), Some(0));
        let output = towline(&["log", "inspect", dir.to_str().unwrap()]);
        assert!(text(&output.stdout).contains("sealed"), "{}", text(&output.stdout));
        let node = NodePlan::primary(&dir).start();
        assert_eq!(node.tail(), numbered(0..1000));
    }
}

#[test]
fn the_rule_is_changed_while_appends_wait() {
    let folder = Folder::new();
    let (primary, [a, b]) = cluster(&folder);
    primary.append("on", &numbered(0..5));
    let output = primary.ask("rule", &["FIRST 2 (a, b)"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let status =
        primary.wait_status("under the new rule", |node| node["gate"]["rule"]["rule"] == "FIRST 2 (a, b)");
    assert_eq!(status["gate"]["rule"]["version"], 2);
    primary.append("on", &numbered(5..10));
    assert_refused(&primary.ask("rule", &["ANY 3 (a, b)"]), 1, &["3"]);
    assert_refused(&primary.ask("rule", &["ANY 1 (z)"]), 1, &["z"]);
    assert_eq!(primary.tail(), numbered(0..10));
    // The rule is in the log: a restart finds it there, whatever the flag said.
    drop((a, b));
}

#[test]
fn records_of_any_bytes_go_in_and_come_out() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    let records: [&[u8]; 4] = [b"", b"\x00\xff\n\r", &[0x80; 300_000], b"end"];
    let mut input = Vec::new();
    for record in records {
        input.extend((record.len() as u32).to_le_bytes());
        input.extend(record);
    }
    let output = node.ask_with("append", &["--level=local", "--length-prefixed"], &input);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 4);
    let output = node.ask("tail", &["--format=json"]);
    let lines: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bytes: Vec<u64> = lines.iter().map(|line| line["bytes"].as_u64().unwrap()).collect();
    assert_eq!(bytes, [0, 4, 300_000, 3]);
    assert_eq!(lines[1]["hex"], "00ff0a0d");
    assert_eq!(lines[3]["text"], "end");
    let over = [&(1_048_577_u32).to_le_bytes()[..], &[0; 16]].concat();
    assert_refused(&node.ask_with("append", &["--length-prefixed"], &over), 1, &["1048577", "1048576"]);
    let short = [&5_u32.to_le_bytes()[..], b"ab"].concat();
    assert_refused(&node.ask_with("append", &["--length-prefixed"], &short), 1, &["inside record"]);
    assert_eq!(node.tail_unsafe().len(), text(&node.ask("tail", &[]).stdout).lines().count());
}

#[test]
fn a_tail_follows_from_where_another_ended() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    node.append("local", &numbered(0..10));
    let output = node.ask("tail", &["--format=json"]);
    let last: serde_json::Value = serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap();
    node.append("local", &numbered(10..20));
    let from = format!("--from={}", last["next"].as_str().unwrap());
    let output = node.ask("tail", &[&from]);
    assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), numbered(10..20));

    let mut follow = Command::new(env!("CARGO_BIN_EXE_towline"))
        .args(["tail", "--follow", &format!("--address={}", node.address())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(follow.stdout.take().unwrap()));
    let seen: Vec<String> = (0..20).map(|_| lines.next().unwrap().unwrap()).collect();
    assert_eq!(seen, numbered(0..20));
    node.append("local", &numbered(20..21));
    assert_eq!(lines.next().unwrap().unwrap(), "record 20");
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    let lines: Vec<String> = (0..20_000).map(|number| format!("{number} {}", "x".repeat(50))).collect();
    node.append("local", &lines);
    let mut child = Command::new(env!("CARGO_BIN_EXE_towline"))
        .args(["tail", &format!("--address={}", node.address())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 100];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut some).unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn an_append_whose_primary_dies_does_not_claim_success() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    let mut appender = Appender::start(&node, &["--level=local"]);
    assert!(appender.send("record 0"));
    appender.wait_acks(1);
    let plan = node.kill();
    // Some are sent into the void; how many depends on when the client notices.
    for number in 1..50 {
        appender.send(&format!("record {number}"));
    }
    let (code, acks) = appender.finish();
    assert_eq!(code, Some(4));
    assert!(acks[1..].iter().all(|ack| ack.starts_with("indeterminate")), "{acks:?}");
    let node = plan.start();
    assert_eq!(node.tail(), numbered(0..1));
}

#[test]
fn a_trimming_primary_keeps_what_it_was_told_to() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).flag("--retain=16M").start();
    let record = "y".repeat(1_000_000);
    let lines: Vec<String> = (0..60).map(|_| record.clone()).collect();
    node.append("local", &lines);
    node.wait_status("trimmed", |node| node["watermarks"]["log_start"].as_u64().unwrap() > 24 << 20);
    let kept = node.tail().len();
    assert!((16..60).contains(&kept), "{kept} of 60 are kept");
    // Not one that a script should try again.
    assert_refused(&node.ask("tail", &["--from=0/00002000"]), 1, &["the log starts at", "trimmed"]);
    let output = node.ask("trim", &["F/00000000"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("where the log ends: it does not reach to F/00000000"));
    let output = node.ask("trim", &["0/00002000"]);
    assert_eq!(text(&output.stdout), "trimmed below 0/00002000\n");
    let inspected = towline(&["log", "inspect", node.dir().to_str().unwrap()]);
    assert_refused(&inspected, 1, &["in use by another process", "--force"]);
    node.stop();
}

#[test]
fn status_is_a_table_for_people() {
    let folder = Folder::new();
    let (primary, [a, b]) = cluster(&folder);
    primary.append("on", &numbered(0..5));
    primary.wait_caught_up(0);
    primary.wait_caught_up(1);
    let shown = text(&primary.ask("status", &[]).stdout);
    for word in ["primary in term", "ANY 1 (a, b)", "exposure", "candidate", "streaming", "flushed"] {
        assert!(shown.contains(word), "'{word}' is not in: {shown}");
    }
    let shown = text(&a.ask("status", &[]).stdout);
    assert!(shown.contains("standby in term"), "{shown}");
    drop(b);
}

#[test]
fn an_orphan_stops_when_its_input_ends() {
    let folder = Folder::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_towline"))
        .args(NodePlan::primary(folder.join("p")).flag("--until-input-ends").arguments())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut ready)
        .unwrap();
    assert!(
        ready.starts_with("ready address=127.0.0.1:") && ready.ends_with("name=primary role=primary\n"),
        "{ready}"
    );
    child.stdin.as_mut().unwrap().write_all(b"ignored\n").unwrap();
    assert!(child.try_wait().unwrap().is_none());
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_tail_over_a_line_that_falls_silent_ends_no_sooner() {
    let folder = Folder::new();
    let node = NodePlan::primary(folder.join("p")).start();
    let lines: Vec<String> = (0..6).map(|n| format!("{n} {}", "w".repeat(200_000))).collect();
    node.append("local", &lines);
    let line = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("--address={}", line.local_addr().unwrap());
    // Two connections: one asks for the end, the other follows.
    let halting = std::thread::spawn({
        let to = node.address();
        move || {
            let pairs: Vec<_> = (0..2)
                .map(|_| {
                    let (near, _) = line.accept().unwrap();
                    let far = std::net::TcpStream::connect(to).unwrap();
                    let up = (near.try_clone().unwrap(), far.try_clone().unwrap());
                    [
                        std::thread::spawn(move || forward(up.0, up.1)),
                        std::thread::spawn(move || forward(far, near)),
                    ]
                })
                .collect();
            pairs.into_iter().flatten().for_each(|direction| direction.join().unwrap());
        }
    });
    let output = support::towline_with(&["tail", &address], b"");
    halting.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), lines);
    node.stop();
}

/// Halts for longer than any pause that could be taken for the end, once in the middle of the records.
fn forward(mut from: std::net::TcpStream, mut to: std::net::TcpStream) {
    use std::io::Read;
    let (mut buffer, mut passed) = (vec![0; 64 << 10], 0);
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if passed < 400_000 && passed + read >= 400_000 {
            std::thread::sleep(std::time::Duration::from_millis(700));
        }
        passed += read;
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

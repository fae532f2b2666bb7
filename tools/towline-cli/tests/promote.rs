//! Real nodes on loopback: promotion after a kill and over a paused primary, refusals, and a switchover under load.

mod support;

use std::process::Output;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Appender, Folder, Node, NodePlan, PATIENCE, assert_refused, numbered, text, towline};

/// A primary with two standbys, any one of them synchronous.
fn cluster(folder: &Folder) -> (Node, Node, Node) {
    let a = NodePlan::standby("a", folder.join("a")).start();
    let b = NodePlan::standby("b", folder.join("b")).start();
    let primary = NodePlan::primary(folder.join("p"))
        .ships_to(&a)
        .ships_to(&b)
        .flag("--sync-rule=ANY 1 (a, b)")
        .start();
    primary.wait_leading();
    for standby in 0..2 {
        primary.wait_caught_up(standby);
    }
    (primary, a, b)
}

fn others(names: &[(&str, std::net::SocketAddr)]) -> String {
    let all: Vec<String> = names.iter().map(|(name, address)| format!("{name}={address}")).collect();
    format!("--standbys={}", all.join(","))
}

fn promote(node: &Node, flags: &[&str]) -> Output {
    let address = node.address().to_string();
    let arguments: Vec<&str> = ["promote", &address].into_iter().chain(flags.iter().copied()).collect();
    towline(&arguments)
}

#[track_caller]
fn assert_done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn wait_follows(node: &Node) {
    node.wait_status("following", |status| status["role"] == "standby" && status["follows"] == true);
}

/// What was acknowledged, each line of the input by its ack.
fn acknowledged(lines: &[String], acks: &[String], level: &str) -> Vec<String> {
    let is_acked = |ack: &String| ack.split(' ').nth(1) == Some(level);
    lines.iter().zip(acks).filter(|(_, ack)| is_acked(ack)).map(|(line, _)| line.clone()).collect()
}

fn assert_holds(node: &Node, acknowledged: &[String]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let held = node.tail_unsafe();
        let missing: Vec<&String> = acknowledged.iter().filter(|line| !held.contains(line)).collect();
        if missing.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "'{}' lacks {missing:?}", node.name());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn after_a_kill_the_promoted_standby_has_all_that_was_acknowledged_and_the_old_primary_follows() {
    let folder = Folder::new();
    let (primary, a, b) = cluster(&folder);
    let lines = numbered(0..4000);
    let mut appender = Appender::start(&primary, &["--level=on", "--outstanding=64"]);
    let feed: Vec<String> = lines.clone();
    let feeder = std::thread::spawn(move || {
        feed.iter().take_while(|line| appender.send(line)).count();
        appender
    });
    primary
        .wait_status("taking records", |node| node["watermarks"]["flushed"]["records"].as_u64() > Some(200));
    let p_address = primary.address();
    primary.kill();
    let (_, acks) = feeder.join().unwrap().finish();
    let kept = acknowledged(&lines, &acks, "on");
    assert!(kept.len() > 100, "only {} were acknowledged", kept.len());

    // The one with the longer log; the other's refusal names it.
    let of_a = others(&[("b", b.address()), ("primary", p_address)]);
    let of_b = others(&[("a", a.address()), ("primary", p_address)]);
    let first = promote(&a, &[&of_a, "--sync-rule=ANY 1 (b, primary)"]);
    let (new, other) = if first.status.success() {
        (&a, &b)
    } else {
        assert_refused(&first, 1, &["'b' is ahead", "promote 'b' instead"]);
        assert_done(&promote(&b, &[&of_b, "--sync-rule=ANY 1 (a, primary)"]));
        (&b, &a)
    };
    new.wait_leading();
    assert_holds(new, &kept);
    new.append("on", &numbered(5000..5010));
    wait_follows(other);
    let shown = text(&new.ask("status", &[]).stdout);
    assert!(shown.contains("primary in term"), "{shown}");

    // It comes back with what was in flight at its death; whatever nobody else has is cut.
    let back = NodePlan::standby("primary", folder.join("p")).at(p_address).start();
    wait_follows(&back);
    assert_holds(&back, &kept);
    new.append("on", &numbered(6000..6010));
    let all = new.tail();
    new.wait_status("caught up", |node| {
        let standbys = node["standbys"].as_array().unwrap();
        standbys.iter().all(|peer| peer["state"] == "streaming" && peer["lag_bytes"] == 0)
    });
    assert_eq!(back.tail_unsafe(), all);
    assert_eq!(other.tail_unsafe(), all);
}

#[test]
fn an_old_primary_comes_back_with_a_longer_tail_and_is_cut_with_a_copy_kept() {
    let folder = Folder::new();
    let (primary, a, b) = cluster(&folder);
    primary.append("on", &numbered(0..50));
    for standby in 0..2 {
        primary.wait_caught_up(standby);
    }
    let (a_plan, b_plan) = (a.stop(), b.stop());
    primary.append("local", &numbered(50..60));
    let p_address = primary.address();
    primary.kill();
    let (a, b) = (a_plan.start(), b_plan.start());
    // It was stopped last: a seal that followed the end of the other one is in its log alone.
    let set = others(&[("a", a.address()), ("primary", p_address)]);
    assert_done(&promote(&b, &[&set, "--sync-rule=ANY 1 (a, primary)"]));
    b.append("on", &numbered(100..110));
    let back = NodePlan::standby("primary", folder.join("p")).at(p_address).start();
    back.wait_said("CUT the log");
    wait_follows(&back);
    let expected = [numbered(0..50), numbered(100..110)].concat();
    assert_eq!(b.tail(), expected);
    assert_holds(&back, &expected);
    assert_eq!(back.tail_unsafe(), expected, "what was local to the old primary is gone from its log");
    let kept = walk(&folder.join("p")).into_iter().any(|path| path.to_string_lossy().contains("cut"));
    assert!(kept, "a copy is kept: {:?}", walk(&folder.join("p")));
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path());
        found.extend(walk(&entry.path()));
    }
    found
}

#[test]
fn a_paused_primary_that_wakes_acknowledges_nothing_at_on() {
    let folder = Folder::new();
    let (primary, a, b) = cluster(&folder);
    primary.append("on", &numbered(0..20));
    for standby in 0..2 {
        primary.wait_caught_up(standby);
    }
    let mut late = Appender::start(&primary, &["--level=on"]);
    late.send("in time");
    late.wait_acks(1);
    for standby in 0..2 {
        primary.wait_caught_up(standby);
    }
    primary.signal(Signal::STOP);
    let set = others(&[("b", b.address()), ("primary", primary.address())]);
    assert_done(&promote(&a, &[&set, "--sync-rule=ANY 1 (b, primary)"]));
    a.append("on", &numbered(100..120));
    late.send("too late");
    primary.signal(Signal::CONT);
    wait_follows(&primary);
    let (code, acks) = late.finish();
    assert_ne!(code, Some(0), "{acks:?}");
    assert!(acks[0].ends_with(" on") && acks[1..].iter().all(|ack| !ack.ends_with(" on")), "{acks:?}");
    assert_holds(&primary, &numbered(100..120));
    assert!(!primary.tail_unsafe().contains(&"too late".to_owned()));
    let refused = primary.ask_with("append", &["--level=local"], b"x\n");
    assert_refused(&refused, 4, &["refused"]);
    assert!(text(&refused.stdout).contains("term"), "{}", text(&refused.stdout));
}

#[test]
fn a_promotion_that_is_refused_changes_nothing() {
    let folder = Folder::new();
    let (primary, a, b) = cluster(&folder);
    let b_address = b.address();
    drop(b);
    let set = others(&[("b", b_address), ("primary", primary.address())]);
    let rule = "--sync-rule=ANY 1 (primary)";
    let refused = promote(&a, &[&set, rule, "--timeout=1s"]);
    assert_refused(&refused, 1, &["2 of 2 standbys", "not heard of: b"]);
    let short = promote(&a, &["--standbys=primary=127.0.0.1:9", rule, "--timeout=300ms"]);
    assert_refused(&short, 1, &["2 of 2 standbys", "not heard of: primary"]);
    assert_refused(&promote(&primary, &[&set]), 1, &["leads already"]);
    assert_refused(&promote(&a, &["--standbys=nonsense"]), 2, &["NAME=HOST:PORT"]);
    // The primary leads on, and its standby follows it.
    wait_follows(&a);
    primary.append("on", &numbered(0..10));
}

#[test]
fn a_switchover_under_load_loses_nothing() {
    let folder = Folder::new();
    let (primary, a, b) = cluster(&folder);
    let lines = numbered(0..3000);
    let mut appender = Appender::start(&primary, &["--level=local", "--outstanding=16"]);
    let feed = lines.clone();
    let feeder = std::thread::spawn(move || {
        for line in &feed {
            if !appender.send(line) {
                break;
            }
            std::thread::sleep(Duration::from_micros(300));
        }
        appender
    });
    primary
        .wait_status("taking records", |node| node["watermarks"]["flushed"]["records"].as_u64() > Some(100));
    let set = others(&[("b", b.address()), ("primary", primary.address())]);
    let flags = [format!("--from={}", primary.address()), format!("--to={}", a.address())];
    let done = towline(&["switchover", &flags[0], &flags[1], &set, "--sync-rule=ANY 1 (b, primary)"]);
    assert!(assert_done(&done).contains("follows it"), "{}", text(&done.stdout));
    let (_, acks) = feeder.join().unwrap().finish();
    let kept = acknowledged(&lines, &acks, "local");
    assert!(kept.len() > 50 && kept.len() < lines.len(), "{} of {}", kept.len(), lines.len());
    assert_holds(&a, &kept);
    a.append("on", &numbered(9000..9010));
    wait_follows(&primary);
    assert_holds(&primary, &numbered(9000..9010));
    assert!(!primary.said().contains("CUT"), "{}", primary.said());
    // And back again, with the log's own rule.
    let set = others(&[("a", a.address()), ("b", b.address())]);
    let flags = [format!("--from={}", a.address()), format!("--to={}", primary.address())];
    assert_done(&towline(&["switchover", &flags[0], &flags[1], &set, "--sync-rule=ANY 1 (a, b)"]));
    primary.append("on", &numbered(9100..9110));
    assert_holds(&a, &numbered(9100..9110));
}

#[test]
fn a_switchover_that_fails_leaves_the_old_primary_leading() {
    let folder = Folder::new();
    let (primary, a, b) = cluster(&folder);
    let b_address = b.address();
    drop(b);
    let set = others(&[("b", b_address), ("primary", primary.address())]);
    let flags = [format!("--from={}", primary.address()), format!("--to={}", a.address())];
    let rule = "--sync-rule=ANY 1 (b, primary)";
    let refused = towline(&["switchover", &flags[0], &flags[1], &set, rule, "--timeout=1s"]);
    assert_refused(&refused, 1, &["not switched over", "takes appends again"]);
    primary.append("on", &numbered(0..10));
    wait_follows(&a);
}

#[test]
fn a_forced_promotion_says_what_may_be_lost() {
    let folder = Folder::new();
    let (primary, a, b) = cluster(&folder);
    primary.append("on", &numbered(0..10));
    for standby in 0..2 {
        primary.wait_caught_up(standby);
    }
    let set = others(&[("b", b.address()), ("primary", primary.address())]);
    drop(b);
    drop(primary);
    let rule = "--sync-rule=ANY 1 (b, primary)";
    assert_refused(&promote(&a, &[&set, rule, "--timeout=500ms"]), 1, &["not heard of: b, primary"]);
    let done =
        assert_done(&promote(&a, &[&set, "--force", "--timeout=2s", "--sync-rule=ANY 1 (b, primary)"]));
    assert!(done.contains("forced: 1 of 2 standbys") && done.contains("may be missing"), "{done}");
    a.append("local", &numbered(10..20));
    assert_eq!(a.tail_unsafe(), numbered(0..20));
}

#[test]
fn a_switchover_that_would_strand_or_stall_is_refused_before_the_pause() {
    let folder = Folder::new();
    let (primary, a, b) = cluster(&folder);
    let flags = [format!("--from={}", primary.address()), format!("--to={}", a.address())];
    let switchover = |more: &[&str]| towline(&[&["switchover", &flags[0], &flags[1]], more].concat());
    let before = primary.status()["shards"][0]["events"].clone();

    let rule = "--sync-rule=ANY 1 (b)";
    let without = switchover(&[&others(&[("b", b.address())]), rule]);
    assert_refused(&without, 2, &["does not name", &primary.address().to_string(), "--standbys NAME="]);
    let nobody = switchover(&["--standbys=b=127.0.0.1:9", rule]);
    assert_refused(&nobody, 2, &["does not name"]);
    let set = others(&[("b", b.address()), ("primary", primary.address())]);
    let stalls = switchover(&[&set]);
    assert_refused(&stalls, 2, &["'ANY 1 (a, b)'", "'a'", "--sync-rule 'ANY 1 (b, primary)'"]);
    let fewer = switchover(&[&set, "--sync-rule="]);
    assert_refused(&fewer, 2, &["fewer standbys", "ANY 1 (a, b)"]);
    let foreign = switchover(&[&set, "--sync-rule=ANY 1 (zz)"]);
    assert_refused(&foreign, 2, &["'zz'"]);
    let same = towline(&["switchover", &flags[0], &flags[0].replace("from", "to"), &set]);
    assert_refused(&same, 2, &["one node"]);

    assert_eq!(primary.status()["shards"][0]["events"], before, "it was never paused");
    primary.append("on", &numbered(0..10));
    wait_follows(&a);

    assert_done(&switchover(&[&set, "--sync-rule=ANY 1 (b, primary)"]));
    let again = switchover(&[&set, "--sync-rule=ANY 1 (b, primary)"]);
    assert_refused(&again, 1, &["leads already"]);
}

#[test]
fn a_promotion_says_that_the_default_level_waits_for_a_standby() {
    let folder = Folder::new();
    let a = NodePlan::standby("a", folder.join("a")).start();
    let primary = NodePlan::primary(folder.join("p")).ships_to(&a).flag("--sync-rule=ANY 1 (a)").start();
    primary.append("on", &numbered(0..10));
    primary.wait_caught_up(0);
    let plan = primary.kill();
    let set = format!("--standbys=primary={}", plan.listen_address());
    let done = assert_done(&promote(&a, &[&set, "--sync-rule=ANY 1 (primary)"]));
    assert!(done.contains("NOT MET") && done.contains("not here: primary"), "{done}");
    let address = plan.listen_address().parse().unwrap();
    let _back = NodePlan::standby("primary", folder.join("p")).at(address).start();
    a.wait_status("met", |node| node["gate"]["unmet_since_ns"].is_null());
}

//! Nothing that an operator has to know stays unsaid: standbys that cannot be reached, rules that cannot be met, logs that
//! would not be served.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod support;

use std::fs;

use support::{Folder, NodePlan, assert_refused, numbered, text};

#[test]
fn standbys_that_cannot_be_reached_and_what_waits_for_them_are_said() {
    let folder = Folder::new();
    let primary = NodePlan::primary(folder.join("p"))
        .flag("--standby=a=127.0.0.1:1")
        .flag("--standby=b=nohost.invalid:9")
        .flag("--sync-rule=ANY 1 (a, b)")
        .start();
    primary.wait_said("standby 'a' cannot be reached: 127.0.0.1:1: Connection refused");
    primary.wait_said("standby 'b' cannot be reached: nohost.invalid:9: ");
    primary.wait_said("NOT MET, and appends at remote levels wait: ANY 1 (a, b); standby 'a': 127.0.0.1:1: ");
    let shown = text(&primary.ask("status", &[]).stdout);
    assert!(shown.contains("standby 'a': 127.0.0.1:1: Connection refused"), "{shown}");
    let said = primary.said();
    assert_eq!(said.matches("standby 'a' cannot be reached").count(), 1, "once: {said}");
}

#[test]
fn a_rule_in_the_log_that_nobody_can_meet_is_said_at_the_start_and_healed_aloud() {
    let folder = Folder::new();
    let a = NodePlan::standby("a", folder.join("a")).start();
    let plan = NodePlan::primary(folder.join("p"));
    let primary = plan.clone().ships_to(&a).flag("--sync-rule=ANY 1 (a)").start();
    primary.append("on", &numbered(0..5));
    primary.stop();
    let alone = plan.clone().flag("--alone").start();
    alone.wait_said("NOT MET, and appends at remote levels wait: ANY 1 (a); the sync rule names standby 'a', which is not");
    alone.stop();
    let a_plan = a.stop();
    let primary = plan.flag(format!("--standby=a={}", a_plan.listen_address())).flag("--alone").start();
    primary.wait_said("NOT MET");
    let _a = a_plan.start();
    primary.wait_said("the sync rule is met again");
}

#[test]
fn a_rule_change_that_waits_ends_in_time_and_says_for_what() {
    let folder = Folder::new();
    let a = NodePlan::standby("a", folder.join("a")).start();
    let primary = NodePlan::primary(folder.join("p")).ships_to(&a).flag("--sync-rule=ANY 1 (a)").start();
    primary.append("on", &numbered(0..5));
    let plan = a.stop();
    let waits = primary.ask("rule", &["", "--timeout=300ms"]);
    assert_refused(
        &waits,
        4,
        &["not in force after 300ms", "it is in the log", "ANY 1 (a)", "towline status"],
    );
    let _a = plan.start();
    primary.wait_status("without a rule", |node| node["gate"]["rule"]["rule"] == "");
}

#[test]
fn a_start_that_would_leave_logs_behind_is_refused() {
    let folder = Folder::new();
    let dir = folder.join("p");
    let node = NodePlan::primary(&dir).flag("--shards=2").start();
    assert_eq!(node.ask_with("append", &["--shard=1", "--level=local"], b"kept\n").status.code(), Some(0));
    let plan = node.stop();
    assert_refused(&plan.clone().flag("--shards=1").refused(), 2, &["2 shards", "--shards 2"]);
    let inside = NodePlan::primary(dir.join("shard-0")).refused();
    assert_refused(&inside, 2, &["one shard", dir.to_str().unwrap()]);
    assert!(!dir.join("shard-0/shard-0").exists(), "nothing was made");
    let foreign = folder.join("photos");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("cat.jpg"), "").unwrap();
    assert_refused(&NodePlan::primary(&foreign).refused(), 1, &["cat.jpg"]);
    assert!(!foreign.join("shard-0").exists(), "nothing was made");
    let node = plan.start();
    assert_eq!(text(&node.ask("tail", &["--shard=1"]).stdout), "kept\n");
}

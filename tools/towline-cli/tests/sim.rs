//! `towline sim`: worlds from the command line.

mod support;

use std::fs;

use support::{Folder, text, towline};

#[test]
fn a_world_is_replayed_line_for_line_and_a_trace_of_another_version_is_refused() {
    let folder = Folder::new();
    let path = folder.join("world.txt");
    let file = path.display().to_string();
    let output = towline(&["sim", "run", "--seed", "0x3", "--trace", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("every promise held"));
    let trace = fs::read_to_string(&path).expect("it was written");
    assert!(trace.lines().count() > 500, "a trace tells what happened");

    let output = towline(&["sim", "replay", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    let changed = trace.replacen("Heartbeat", "Heartbeet", 1);
    fs::write(&path, &changed).expect("a file of this test");
    let output = towline(&["sim", "replay", &file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("departs"), "{}", text(&output.stderr));

    fs::write(&path, trace.replacen("version=", "version=9", 1)).expect("a file of this test");
    let output = towline(&["sim", "replay", &file]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("of version 9"), "{}", text(&output.stderr));

    fs::write(&path, "something else\n").expect("a file of this test");
    assert_eq!(towline(&["sim", "replay", &file]).status.code(), Some(2));
}

#[test]
fn a_swarm_counts_what_it_saw() {
    let output = towline(&["sim", "swarm", "--seeds", "4"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    for word in ["4 worlds", "appends", "crashes", "never reached", "broken promises: 0"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn seeds_and_minutes_that_cannot_be_are_usage_errors() {
    let cases: &[&[&str]] = &[
        &["sim"],
        &["sim", "run"],
        &["sim", "run", "--seed", "seven"],
        &["sim", "run", "--seed", "-1"],
        &["sim", "run", "--seed", "18446744073709551616"],
        &["sim", "swarm", "--minutes", "0"],
        &["sim", "swarm", "--seeds", "0"],
        &["sim", "replay"],
    ];
    for case in cases {
        let output = towline(case);
        assert_eq!(output.status.code(), Some(2), "{case:?}: {}", text(&output.stderr));
    }
    assert_eq!(towline(&["sim", "replay", "no-such-file"]).status.code(), Some(2));
}

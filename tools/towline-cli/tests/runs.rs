//! `towline report` and `towline advise` over run folders: what they answer, what they refuse, what they leave alone.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use support::{Folder, assert_refused, text, towline};

/// A canonical run of an early version: every level at 1, 8 and 32 clients and two window sweeps. Kept beside the
/// test, since results/runs changes with every measurement; and old reports stay readable.
const CANONICAL: &str = include_str!("fixtures/canonical.json");

/// Run folders made from that one.
struct Runs(Folder);

impl Runs {
    fn new() -> Runs {
        Runs(Folder::new())
    }

    /// A copy of it, changed, as `results/runs/<name>`.
    fn put(&self, name: &str, change: impl Fn(&mut Value)) -> PathBuf {
        let mut report: Value = serde_json::from_str(CANONICAL).unwrap();
        change(&mut report);
        let folder = self.0.join("results").join("runs").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("report.json"), serde_json::to_string_pretty(&report).unwrap()).unwrap();
        folder
    }

    /// The same with `repetitions` copies of each point, p50 and p99 times `factor` of the repetition.
    fn repeated(&self, name: &str, repetitions: u32, factor: impl Fn(u32) -> f64) -> PathBuf {
        self.put(name, |report| {
            let points = report["points"].as_array().unwrap().clone();
            let copies = (0..repetitions).flat_map(|repetition| {
                let factor = factor(repetition);
                points.iter().map(move |point| {
                    let mut point = point.clone();
                    point["repetition"] = repetition.into();
                    for quantile in ["p50", "p99"] {
                        let value = point["latency_ns"][quantile].as_f64().unwrap();
                        point["latency_ns"][quantile] = ((value * factor) as u64).into();
                    }
                    // The floor stays where it was.
                    if let Some(ratio) = point["ratio_to_floor"]["p50_ratio"].as_f64() {
                        point["ratio_to_floor"]["p50_ratio"] = (ratio * factor).into();
                    }
                    point
                })
            });
            report["points"] = copies.collect::<Vec<_>>().into();
        })
    }

    fn results(&self) -> String {
        self.0.join("results").display().to_string()
    }
}

/// As measured on the machine that runs the test.
fn here(report: &mut Value) {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    report["environment"]["cpu"] = model.map_or("unknown", |(_, name)| name.trim()).into();
    report["environment"]["cores"] = std::thread::available_parallelism().unwrap().get().into();
}

fn succeeded(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn advice_names_level_window_and_neighbours() {
    let runs = Runs::new();
    let run = runs.put("20260101T000000Z-a-canonical", here);
    let goal = ["advise", "--survive", "primary-disk-loss", "--p99", "1s", "--run", path(&run)];
    let answer = succeeded(&towline(&goal));
    for expected in [
        "answer: remote_write, sync rule ANY 1 (a, b), no window",
        "remote_apply",
        "loses",
        "lag windows at on",
    ] {
        assert!(answer.contains(expected), "{expected:?} is missing in\n{answer}");
    }
    let answer = succeeded(&towline(&[&goal[..], &["--lose", "1M", "--json"]].concat()));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["verdict"]["answer"], "met");
    assert_eq!(answer["verdict"]["window_bytes"], 16_000, "the widest that this run measured without a link");
    assert_eq!(answer["rungs"].as_array().unwrap().len(), 5);
    let far = ["--link-rtt", "5ms", "--p99", "3ms", "--lose", "1M"];
    let goal = ["advise", "--survive", "primary-disk-loss", "--run", path(&run)];
    let answer = succeeded(&towline(&[&goal[..], &far[..]].concat()));
    assert!(answer.contains("answer: on") && answer.contains("the level alone is too slow"), "{answer}");
}

#[test]
fn an_impossible_goal_names_its_half_and_the_nearest() {
    let runs = Runs::new();
    let run = runs.put("20260101T000000Z-a-canonical", here);
    let ask = |survive: &str, p99: &str| {
        towline(&["advise", "--survive", survive, "--p99", p99, "--run", path(&run)])
    };
    let slow = ask("primary-disk-loss", "20us");
    assert_eq!(slow.status.code(), Some(1));
    let answer = text(&slow.stdout);
    for expected in
        ["cannot be met", "half that cannot is the p99", "nearest:", "the lowest p99 that survives it"]
    {
        assert!(answer.contains(expected), "{expected:?} is missing in\n{answer}");
    }
    let lost = ask("all-disk-loss", "1s");
    assert_eq!(lost.status.code(), Some(1));
    assert!(
        text(&lost.stdout).contains("half that cannot is what it must survive"),
        "{}",
        text(&lost.stdout)
    );
}

#[test]
fn advice_rests_on_a_run_of_this_machine_or_is_refused() {
    let runs = Runs::new();
    let goal = ["advise", "--survive", "primary-kill", "--p99", "1s"];
    let from = |more: &[&str]| towline(&[&goal[..], more].concat());
    assert_refused(&from(&["--run", "/nowhere/at/all"]), 2, &["/nowhere/at/all"]);
    assert_refused(&from(&["--results", &runs.results()]), 1, &["no runs in", "towline bench"]);

    let other = runs.put("20260103T000000Z-c-other", |report| report["environment"]["cores"] = 4096.into());
    assert_refused(&from(&["--run", path(&other)]), 1, &["4096", "--anyway"]);
    let marked = succeeded(&from(&["--run", path(&other), "--anyway"]));
    assert!(marked.contains("NOT THIS MACHINE: ") && marked.contains("cores: 4096"), "{marked}");
    assert_refused(&from(&["--results", &runs.results()]), 1, &["no run of this machine"]);

    // The newest of this machine that is whole and measured enough.
    runs.put("20260101T000000Z-a-old", here);
    runs.put("20260102T000000Z-b-good", |report| {
        here(report);
        report["name"] = "the one".into();
    });
    fs::create_dir_all(runs.0.join("results/runs/20260104T000000Z-d-interrupted")).unwrap();
    runs.put("20260105T000000Z-e-replay-only", |report| {
        here(report);
        report["points"].as_array_mut().unwrap().retain(|point| point["experiment"] == "replay");
    });
    let answer = succeeded(&from(&["--results", &runs.results()]));
    assert!(answer.contains("run:  the one of"), "{answer}");
    assert_refused(&from(&["--results", &runs.results(), "--clients", "7"]), 1, &["7 clients"]);
}

#[test]
fn goals_that_are_none_are_usage_errors() {
    for (arguments, word) in [
        (&["advise", "--survive", "bad-luck", "--p99", "2ms"][..], "primary-disk"),
        (&["advise", "--survive", "primary-kill", "--p99", "2"], "duration"),
        (&["advise", "--survive", "primary-kill", "--p99", "0ms"], "--p99"),
        (&["advise", "--survive", "primary-kill"], "--p99"),
        (&["advise", "--survive", "primary-kill", "--p99", "2ms", "--lose", "much"], "size"),
        (&["advise", "--survive", "primary-kill", "--p99", "2ms", "--anyway"], "--run"),
        (&["report", "x", "--against", "y", "--bound", "five"], "percent"),
        (&["report", "x", "--bound", "5%"], "--against"),
    ] {
        assert_refused(&towline(arguments), 2, &[word]);
    }
}

#[test]
fn a_page_is_written_anew_and_nothing_else_is_touched() {
    let runs = Runs::new();
    let run = runs.put("20260101T000000Z-a-canonical", |_| ());
    let before = fs::read(run.join("report.json")).unwrap();
    let said = succeeded(&towline(&["report", path(&run)]));
    assert!(said.contains("page: ") && said.contains("all runs: "), "{said}");
    assert_eq!(
        fs::read(run.join("report.json")).unwrap(),
        before,
        "what was measured stays as it was written"
    );
    let mut files: Vec<_> = fs::read_dir(&run).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["report.html", "report.json"]);
    assert!(runs.0.join("results/index.html").exists());
}

#[test]
fn two_runs_are_held_against_each_other() {
    let runs = Runs::new();
    let noise = |repetition: u32| 1.0 + 0.004 * f64::from(repetition % 3);
    let old = runs.repeated("old", 6, noise);
    let same = runs.repeated("same", 6, |repetition| noise(repetition + 1));
    let slower = runs.repeated("slower", 6, |repetition| 1.2 * noise(repetition));
    let against = |run: &Path, more: &[&str]| {
        towline(&[&["report", path(run), "--against", path(&old)][..], more].concat())
    };
    assert!(succeeded(&against(&same, &[])).contains("no difference shown"));
    let found = against(&slower, &[]);
    assert_eq!(found.status.code(), Some(1));
    assert!(text(&found.stdout).contains("REGRESSED") && text(&found.stderr).contains("5.0 %"));
    assert!(succeeded(&against(&slower, &["--bound", "30%"])).contains("worse, within the bound"));
    let json: Value = serde_json::from_str(&succeeded(&against(&slower, &["--bound=30", "--json"]))).unwrap();
    let p50 = json["changes"].as_array().unwrap().iter().find(|change| change["figure"] == "p50").unwrap();
    assert!((p50["ratio"].as_f64().unwrap() - 1.2).abs() < 0.02, "{p50}");
    assert!(p50["interval"]["low"].as_f64().unwrap() > 1.1, "{p50}");
    assert!(!slower.join("report.html").exists(), "a comparison writes nothing");
    // Three repetitions claim nothing, whatever the factor.
    let few = runs.repeated("few", 3, |_| 3.0);
    assert!(succeeded(&against(&few, &[])).contains("too few repetitions"));
}

#[test]
fn runs_that_cannot_be_compared_are_refused() {
    let runs = Runs::new();
    let good = runs.put("good", |_| ());
    let against = |other: &Path, more: &[&str]| {
        towline(&[&["report", path(&good), "--against", path(other)][..], more].concat())
    };
    assert_refused(&against(&runs.0.join("none"), &[]), 2, &["none", "does not exist"]);

    let empty = runs.0.join("empty");
    fs::create_dir(&empty).unwrap();
    assert_refused(&against(&empty, &[]), 1, &["no report", "empty"]);

    let half = runs.put("half", |_| ());
    let whole = fs::read_to_string(half.join("report.json")).unwrap();
    fs::write(half.join("report.json"), &whole[..whole.len() / 2]).unwrap();
    assert_refused(&against(&half, &[]), 1, &["half", "not a whole report"]);

    let newer = runs.put("newer", |report| report["schema_version"] = 99.into());
    assert_refused(&against(&newer, &[]), 1, &["schema version 99", "newer towline"]);

    let other = runs.put("other", |report| report["environment"]["cpu"] = "Another CPU".into());
    assert_refused(&against(&other, &[]), 1, &["different machines", "Another CPU", "--anyway"]);
    let marked = succeeded(&against(&other, &["--anyway"]));
    assert!(marked.contains("NOT THE SAME MACHINE: processor"), "{marked}");

    let nothing = runs.put("nothing", |report| report["points"] = Value::Array(Vec::new()));
    assert_refused(&against(&nothing, &[]), 1, &["no point in common"]);
}

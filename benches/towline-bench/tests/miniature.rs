//! A whole run in miniature: real processes, a real disk, a run folder. Has a `main` of its own, because the nodes of a
//! run are this very program, started again.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use towline::Standby;
use towline_bench::{BenchOptions, Outcome, PEER_SUBCOMMAND, peer_entry, run};
use towline_report::Report;
use towline_report::schema::{Level, Window};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("standby") => standby(&arguments[2..]),
        Some(PEER_SUBCOMMAND) => peer_entry(&arguments[2..]),
        // What `cargo test -- --list` and filters ask of a test harness.
        Some("--list") => ExitCode::SUCCESS,
        _ => {
            let base =
                tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder can be written");
            ladder(base.path());
            window(base.path());
            assert_eq!(left_over(base.path()), BTreeSet::from(["results".into()]), "only results stay");
            println!("miniature: ok");
            ExitCode::SUCCESS
        }
    }
}

fn ladder(base: &Path) {
    let outcome = measure(base, "ladder", 200, |options| {
        options.clients = Some(vec![1, 8]);
        options.standbys = Some(1);
        options.repetitions = Some(2);
    });
    let report = &outcome.report;
    assert_eq!(report.points.len(), 5 * 2 * 2);
    for point in &report.points {
        assert!(point.latency_ns.samples > 0 && point.achieved_per_s > 0.0, "{point:?}");
        let latency = &point.latency_ns;
        assert!(latency.p50 <= latency.p99 && latency.p99 <= latency.max, "{point:?}");
        assert_eq!(point.acks_by_achieved_level.keys().collect::<Vec<_>>(), [&point.level], "{point:?}");
        assert!(point.ratio_to_floor.is_some(), "{point:?}");
        assert!(point.level == Level::Off || point.flushes > Some(0), "{point:?}");
    }
    // A remote level waits for two disks; `off` for none.
    let p50 = |level| {
        let points = report.points.iter().filter(|point| point.level == level);
        points.map(|point| point.latency_ns.p50).min()
    };
    assert!(p50(Level::Off) < p50(Level::Local) && p50(Level::Local) <= p50(Level::On).map(|ns| 2 * ns));
    assert_eq!(report.floors.by_repetition.len(), 2);
    assert!(report.indicative);
    whole_folder(&outcome);
}

fn window(base: &Path) {
    let outcome = measure(base, "window", 200, |options| {
        options.rate_per_s = Some(1000.0);
        options.link_rtt_us = Some(30_000);
    });
    let report = &outcome.report;
    let windows: Vec<_> = report.points.iter().filter_map(|point| point.window).collect();
    assert!(windows.len() >= 8 && windows.contains(&Window::Bytes(0)) && windows.contains(&Window::Inf));
    for point in report.points.iter().filter(|point| point.window.is_some()) {
        assert!(!point.note.as_deref().unwrap_or("").contains("beyond their window"), "{point:?}");
        if let (Some(Window::Bytes(bytes)), Some(fill)) = (point.window, point.fill_bytes) {
            // An empty fill is kept as one byte.
            assert!(fill.max <= bytes.max(1) + bytes / 500, "{point:?}");
        }
    }
    let p50 = |window| {
        let mut points = report.points.iter().filter(|point| point.window == Some(window));
        points.next().map(|point| point.latency_ns.p50)
    };
    // The link's round trip is waited for with ω = 0, and not with ω = ∞.
    assert!(
        p50(Window::Bytes(0)) > Some(30_000_000) && p50(Window::Inf) < Some(30_000_000),
        "{:?}",
        report.points
    );
    assert!(report.points.iter().any(|point| point.waited_for_window > 0));
    whole_folder(&outcome);
}

fn measure(base: &Path, experiment: &str, duration_ms: u64, set: impl FnOnce(&mut BenchOptions)) -> Outcome {
    let mut options = BenchOptions {
        experiment: Some(experiment.into()),
        duration_ms: Some(duration_ms),
        dir: Some(base.join("data")),
        results_dir: Some(base.join("results")),
        allocations: Some(|| ALLOCATOR.stats().allocations as u64),
        ..BenchOptions::default()
    };
    set(&mut options);
    let outcome = run(&options).unwrap_or_else(|error| panic!("{experiment}: {error}"));
    assert_eq!((outcome.exit_code(), &outcome.failures), (0, &Vec::new()));
    outcome
}

fn whole_folder(outcome: &Outcome) {
    let files = left_over(&outcome.folder);
    for file in ["report.json", "report.html", "environment.json", "command.txt", "histograms"] {
        assert!(files.contains(file), "{file} is missing: {files:?}");
    }
    let loaded = Report::load(&outcome.folder).expect("the report can be read back");
    assert_eq!(loaded.points.len(), outcome.report.points.len());
    let histograms = left_over(&outcome.folder.join("histograms"));
    for point in &loaded.points {
        let name = format!("{}.hlog", point.histogram.as_deref().unwrap_or("none"));
        assert!(histograms.contains(&name), "{name} is missing: {histograms:?}");
    }
}

fn left_over(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).expect("the folder is there").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A standby, as `towline standby` starts one.
fn standby(arguments: &[String]) -> ExitCode {
    let mut signals = Signals::new([SIGINT, SIGTERM]).expect("signals can be watched");
    let mut dir = None;
    let mut builder = Standby::builder().on_event(|_, event| eprintln!("{event:?}"));
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let (flag, value) = word.split_once('=').unwrap_or((word, ""));
        builder = match flag {
            "--dir" => {
                dir = words.next();
                builder
            }
            "--listen" => builder.listen(value.parse().expect("an address")),
            "--name" => builder.name(value),
            "--shards" => builder.shards(value.parse().expect("a number")),
            _ => builder,
        };
    }
    let standby = match builder.open(dir.expect("--dir")) {
        Ok(standby) => standby,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!("ready address={}", standby.listen_address());
    signals.forever().next();
    if standby.close().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

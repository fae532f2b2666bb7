//! A whole run in miniature: real processes, a real disk, a run folder. Has a `main` of its own, because the nodes of a
//! run are this very program, started again.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use towline::Standby;
use towline_bench::{BenchError, BenchOptions, Outcome, PEER_SUBCOMMAND, peer_entry, run};
use towline_report::Report;
use towline_report::noise::PRESSURE_PERCENT;
use towline_report::schema::{Level, Window};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("standby") => standby(&arguments[2..]),
        Some(PEER_SUBCOMMAND) => peer_entry(&arguments[2..]),
        // What `cargo test -- --list` and filters ask of a test harness.
        Some("--list") => {
            PARTS.iter().for_each(|(name, _)| println!("{name}: test"));
            ExitCode::SUCCESS
        }
        filter => {
            let filter = filter.filter(|filter| !filter.starts_with('-')).unwrap_or("");
            let base =
                tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder can be written");
            let mut passed = 0;
            for (name, part) in PARTS.iter().filter(|(name, _)| name.contains(filter)) {
                // A part that fails panics: the exit code says so, and nothing after it runs.
                patiently(name, |longer| part(base.path(), longer));
                assert_eq!(left_over(base.path()), BTreeSet::from(["results".into()]), "only results stay");
                println!("test {name} ... ok");
                passed += 1;
            }
            println!("\ntest result: ok. {passed} passed; {} filtered out", PARTS.len() - passed);
            ExitCode::SUCCESS
        }
    }
}

/// A part's name, and what it does in the folder that it is given, with loads so many times as long as usual.
type Part = (&'static str, fn(&Path, u64) -> Claimed);

/// Why a claim about times did not hold. What must hold on every machine at every moment is asserted instead.
type Claimed = Result<(), String>;

/// A fraction of a second on a machine that does other things at the time may show nothing of a log. A part whose claims
/// about times did not hold is measured again, with loads that are twice as long, until they hold or the time is up.
fn patiently(name: &str, part: impl Fn(u64) -> Claimed) {
    for longer in [1, 2, 4, 8] {
        match part(longer) {
            Ok(()) => return,
            Err(why) => println!("{name}, loads {longer} times as long: {why}"),
        }
    }
    panic!("{name}: not even in loads 8 times as long");
}

/// Ends a part whose claim about times does not hold.
macro_rules! claim {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

const PARTS: [Part; 7] = [
    ("ladder", ladder),
    ("window", window),
    ("timeline", timeline),
    ("stall", stall),
    ("knee", knee),
    ("mixed", mixed),
    ("interrupted", interrupted),
];

fn mixed(base: &Path, longer: u64) -> Claimed {
    let outcome = measure(base, "mixed", 300 * longer, |options| options.clients = Some(vec![8]));
    let points = &outcome.report.points;
    assert_eq!(points.len(), 4);
    claim!(
        points.iter().all(|point| point.latency_ns.samples > 0),
        "a level had no acknowledgement: {points:?}"
    );
    for one_in in [10, 100] {
        let acks = |level| {
            let of = |point: &&towline_report::schema::Point| {
                point.detail.one_in == Some(one_in) && point.level == level
            };
            let point = points.iter().find(of).expect("both levels of both shares");
            assert_eq!(point.acks_by_achieved_level.keys().collect::<Vec<_>>(), [&level], "{point:?}");
            point.latency_ns.samples as f64
        };
        let share = acks(Level::On) / (acks(Level::On) + acks(Level::Local));
        claim!((0.4..2.5).contains(&(share * f64::from(one_in))), "1 in {one_in}: {share}");
    }
    whole_folder(&outcome);
    Ok(())
}

/// Ctrl-C in the middle: what was measured is kept, held against floors and marked; nothing else stays.
fn interrupted(base: &Path, longer: u64) -> Claimed {
    let options = BenchOptions {
        experiment: Some("ladder".into()),
        duration_ms: Some(300),
        repetitions: Some(50),
        dir: Some(base.join("data")),
        results_dir: Some(base.join("results")),
        ..BenchOptions::default()
    };
    // A busy machine may have measured nothing by then: of such a run nothing is kept, and later is tried.
    let outcome = [9, 18, 36, 72].into_iter().find_map(|seconds| {
        let presses = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(seconds * longer));
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::INT)
                .expect("a signal to this process");
        });
        let outcome = run(&options);
        presses.join().expect("the signal was sent");
        match outcome {
            Err(BenchError::Interrupted) => None,
            outcome => Some(outcome.expect("nothing but Ctrl-C ends it")),
        }
    });
    let outcome = outcome.expect("a part of the run is kept");
    assert!(outcome.interrupted && outcome.exit_code() == 130, "{:?}", outcome.failures);
    let report = &outcome.report;
    assert!(report.notes.iter().any(|note| note.starts_with("partial")), "{:?}", report.notes);
    assert!(!report.points.is_empty());
    assert!(report.points.iter().all(|point| point.ratio_to_floor.is_some()), "each has its floor");
    whole_folder(&outcome);
    let parent = format!("/proc/self/task/{}/children", std::process::id());
    let children = std::fs::read_to_string(parent).expect("the kernel tells of children");
    assert_eq!(children.trim(), "", "processes stayed");
    Ok(())
}

fn timeline(base: &Path, longer: u64) -> Claimed {
    let outcome = measure(base, "timeline", 1000 * longer, |options| {
        options.clients = Some(vec![4]);
        options.repetitions = Some(1);
    });
    let report = &outcome.report;
    let [seen] = &report.timelines[..] else { panic!("{:?}", report.timelines) };
    claim!(seen.records > 100 && seen.left_out * 10 < seen.records, "{seen:?}");
    let nodes: Vec<_> = seen.stages.iter().map(|stage| (stage.node.as_str(), stage.stage.as_str())).collect();
    assert_eq!(nodes[..3], [("primary", "accepted"), ("primary", "batched"), ("primary", "flushed")]);
    assert_eq!(nodes[3..6], [("a", "written"), ("a", "flushed"), ("a", "applied")]);
    assert_eq!(nodes.len(), 9);
    for stage in &seen.stages {
        assert_eq!(stage.after_ns.samples, seen.records, "{stage:?}");
    }
    // On the same records a stronger level is never earlier.
    let p50s: Vec<_> = seen.levels.iter().map(|level| level.after_ns.p50).collect();
    assert_eq!(p50s.len(), 5);
    assert!(p50s.is_sorted(), "{p50s:?}");
    // What the watermarks say of `on` is what the client saw, to within a look or two.
    let (said, saw) = (p50s[3] as f64, seen.acknowledged_ns.p50 as f64);
    claim!((0.5..2.0).contains(&(said / saw)), "the watermarks say {said} ns, the client saw {saw}");
    claim!(seen.instrument.is_some_and(|cost| cost.pairs >= 5), "{:?}", seen.instrument);
    let cost = seen.instrument.expect("looked at above");
    assert!(cost.interval.low <= cost.ratio && cost.ratio <= cost.interval.high, "{cost:?}");
    assert!(report.checks.iter().any(|check| check.measure.contains("watermark") && check.value.is_some()));
    whole_folder(&outcome);
    Ok(())
}

fn stall(base: &Path, longer: u64) -> Claimed {
    let outcome = measure(base, "stall", 1500 * longer, |options| {
        options.rate_per_s = Some(500.0);
        options.stopped_ms = Some(400 * longer);
    });
    let points = &outcome.report.points;
    assert_eq!(points.len(), 4);
    for point in points {
        let stall = point.detail.stall.as_ref().expect("each point says what the stall did");
        assert!(stall.until_s - stall.from_s >= 0.35, "{stall:?}");
        let samples = [&stall.before_ns, &stall.during_ns, &stall.after_ns].map(|part| part.samples);
        claim!(samples.iter().all(|samples| *samples > 50) && stall.slices.len() >= 10, "{stall:?}");
        // Slices whose records were all due while the standby was stopped, and how long it still was at their end.
        let inside = stall.slices.iter().filter_map(|slice| {
            let left_s = stall.until_s - (slice.at_s + 0.1);
            (slice.at_s >= stall.from_s && left_s > 0.05).then_some((slice, left_s))
        });
        let waited: Vec<bool> =
            inside.map(|(slice, left_s)| slice.latency_ns.p50 as f64 >= left_s * 1e9).collect();
        claim!(waited.len() >= 2, "{stall:?}");
        // A rule that needs the stopped standby waits for it, with every record; one that does not goes on.
        if ["ANY 2 (a, b)", "FIRST 1 (a, b)"].contains(&point.sync_rule.as_str()) {
            assert!(waited.iter().all(|waited| *waited), "{}: {stall:?}", point.sync_rule);
            continue;
        }
        let rule = &point.sync_rule;
        if point.detail.kept_up == Some(false) {
            // This very process, primary and generator, did not run for most of the stall.
            println!("{rule}: refused, {:?}", point.detail.generator_lag_ns);
            continue;
        }
        claim!(waited.iter().any(|waited| !*waited), "{rule}: {stall:?}");
        // Nor is one record held up; on a machine that let all processes run, as the point itself says.
        if point.detail.cpu_pressure_percent.is_some_and(|percent| percent <= PRESSURE_PERCENT) {
            claim!(stall.during_ns.max < 250_000_000, "{rule}: {stall:?}");
        }
    }
    whole_folder(&outcome);
    Ok(())
}

fn knee(base: &Path, longer: u64) -> Claimed {
    let outcome =
        measure(base, "knee", 150 * longer, |options| options.levels = Some(vec![towline::Level::On]));
    let points = &outcome.report.points;
    assert_eq!(points.len(), 9);
    for point in points {
        let detail = &point.detail;
        assert!(detail.of_saturation.is_some() && detail.kept_up.is_some(), "{point:?}");
        claim!(detail.generator_lag_ns.is_some_and(|lag| lag.samples > 0), "{point:?}");
        assert_eq!(detail.arrivals.as_deref(), Some("poisson"));
    }
    whole_folder(&outcome);
    Ok(())
}

fn ladder(base: &Path, longer: u64) -> Claimed {
    let outcome = measure(base, "ladder", 200 * longer, |options| {
        options.clients = Some(vec![1, 8]);
        options.standbys = Some(1);
        options.repetitions = Some(2);
    });
    let report = &outcome.report;
    assert_eq!(report.points.len(), 5 * 2 * 2);
    for point in &report.points {
        claim!(point.latency_ns.samples > 0 && point.achieved_per_s > 0.0, "{point:?}");
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
    let [off, local, on] = [Level::Off, Level::Local, Level::On].map(p50);
    claim!(off < local && local <= on.map(|ns| 2 * ns), "p50 at off, local, on: {off:?} {local:?} {on:?}");
    assert_eq!(report.floors.by_repetition.len(), 2);
    assert!(report.indicative);
    whole_folder(&outcome);
    Ok(())
}

fn window(base: &Path, longer: u64) -> Claimed {
    let outcome = measure(base, "window", 200 * longer, |options| {
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
    assert!(p50(Window::Bytes(0)).is_none_or(|ns| ns == 0 || ns > 30_000_000), "{:?}", report.points);
    claim!(
        p50(Window::Bytes(0)) > Some(0) && p50(Window::Inf).is_some_and(|ns| (1..30_000_000).contains(&ns)),
        "{:?}",
        report.points
    );
    claim!(report.points.iter().any(|point| point.waited_for_window > 0), "nothing waited for a window");
    whole_folder(&outcome);
    Ok(())
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

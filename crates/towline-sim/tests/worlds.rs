//! A few hundred worlds: each keeps every promise, and together they come by every rare path. `SIM_SEEDS` asks for
//! more worlds, `SIM_FROM` for the first of them.

use std::collections::BTreeMap;

use towline_sim::{LEAST_APPENDS, LEAST_CRASHES, LEAST_FAULTS, MARKS, Run, run};

/// Seeds that once failed, each with what it found.
const LEDGER: &str = include_str!("ledger.txt");

#[test]
fn whatever_crashes_every_acknowledgement_keeps_its_promise() {
    let (first, seeds) = (asked_for("SIM_FROM").unwrap_or(0), asked_for("SIM_SEEDS").unwrap_or(200));
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let runs: Vec<Run> = std::thread::scope(|scope| {
        let each =
            |thread| move || (first + thread..first + seeds).step_by(threads as usize).map(one).collect();
        let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(each(thread))).collect();
        let joined = handles.into_iter().map(|handle| handle.join().expect("a failed world is a result"));
        joined.flat_map(|runs: Vec<Run>| runs).collect()
    });
    let failed: Vec<u64> = runs.iter().filter(|run| run.failure.is_some()).map(|run| run.seed).collect();
    assert!(failed.is_empty(), "{} worlds broke a promise: {failed:?}", failed.len());
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    runs.iter().flat_map(|run| &run.counts).for_each(|(what, n)| *counts.entry(what).or_default() += n);
    let sum = |of: fn(&Run) -> u64| runs.iter().map(of).sum::<u64>();
    println!(
        "{seeds} worlds, {} appends, {} faults, {} crashes\n{counts:#?}",
        sum(|run| run.appends),
        sum(|run| run.faults),
        sum(|run| run.crashes)
    );
    for run in &runs {
        let seen = (run.appends >= LEAST_APPENDS, run.faults >= LEAST_FAULTS, run.crashes >= LEAST_CRASHES);
        assert_eq!(seen, (true, true, true), "world {} was too quiet: {run:?}", run.seed);
    }
    if seeds >= 100 {
        for mark in MARKS {
            assert!(counts.get(mark).is_some_and(|n| *n > 0), "never seen: {mark}");
        }
        assert!(
            (0..5).all(|level| runs.iter().any(|run| run.acks[level] > 0)),
            "every level was acknowledged"
        );
    }
}

#[test]
fn seeds_that_once_failed_are_kept_and_hold() {
    for line in LEDGER.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let seed = line.split_whitespace().next().and_then(|seed| seed.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| panic!("a line of the ledger begins with a seed: {line}"));
        assert_eq!(one(seed).failure, None, "{line}");
    }
}

#[test]
fn a_seed_twice_is_the_same_trace_and_another_seed_is_another() {
    for seed in 0..8 {
        let (once, twice) = (run(seed, true), run(seed, true));
        assert_eq!((once.hash, &once.trace), (twice.hash, &twice.trace), "seed {seed} gave two worlds");
        assert!(once.trace.len() > 1_000, "a trace tells what happened");
        assert_ne!(once.hash, run(seed + 8, false).hash);
    }
}

fn one(seed: u64) -> Run {
    let run = run(seed, false);
    if let Some(failure) = &run.failure {
        println!("world {seed}: {failure}\nreplay: cargo run --release -p towline-sim -- run --seed {seed}");
    }
    run
}

fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

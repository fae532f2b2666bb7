//! Some hundred worlds: each keeps every promise, and together they come by the rare paths. `SIM_SEEDS` asks for
//! more worlds, `SIM_FROM` for the first of them.

use towline_sim::{Mark, Swarm, run, swarm};

/// Seeds that once failed, each with what it found.
const LEDGER: &str = include_str!("ledger.txt");

#[test]
fn whatever_happens_every_acknowledgement_keeps_its_promise() {
    let (from, seeds) = (asked_for("SIM_FROM").unwrap_or(0), asked_for("SIM_SEEDS").unwrap_or(300));
    let report = swarm(Swarm { from, seeds: Some(seeds), time: None }, |_| true);
    for (seed, failure) in report.failures.iter().take(10) {
        println!("world {seed}: {failure}\nreplay: towline sim run --seed {seed}");
    }
    println!(
        "{} worlds, {} appends, {} faults, {} crashes, acks {:?}\n{:?}\nnever reached: {:?}\ngauges above the truth: {:?}",
        report.worlds,
        report.appends,
        report.faults,
        report.crashes,
        report.acks,
        report.fault_kinds,
        report.marks.missing(),
        report.gauges_above
    );
    assert_eq!(report.worlds, seeds);
    assert!(report.failures.is_empty(), "{} worlds broke a promise", report.failures.len());
    assert_eq!(report.too_quiet, Vec::<u64>::new(), "every world has appends, faults and a crash");
    if seeds >= 300 && from == 0 {
        let missing = report.marks.missing();
        let expected = |mark: &&Mark| !RARER.contains(mark);
        assert_eq!(missing.iter().find(expected), None, "paths that some hundred worlds must come by");
        assert!(report.acks.iter().all(|acks| *acks > 1_000), "every level was acknowledged");
    }
}

/// Reached in thousands of worlds, not in each few hundred.
const RARER: &[Mark] = &[
    Mark::Excluded,
    Mark::Halted,
    Mark::LostWritten,
    Mark::DamagedStream,
    Mark::LostWindowed,
    Mark::EqualTerms,
    Mark::MadeTwice,
];

#[test]
fn seeds_that_once_failed_are_kept_and_hold() {
    let mut replayed = 0;
    for line in LEDGER.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let seed = line.split_whitespace().next().and_then(|seed| seed.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| panic!("a line of the ledger begins with a seed: {line}"));
        assert_eq!(run(seed, false).failure, None, "{line}");
        replayed += 1;
    }
    assert!(replayed > 0, "the ledger was read");
}

#[test]
fn a_seed_twice_is_the_same_trace_and_another_seed_is_another() {
    for seed in 0..8 {
        let (once, twice) = (run(seed, true), run(seed, true));
        assert_eq!((once.hash, &once.trace), (twice.hash, &twice.trace), "seed {seed} gave two worlds");
        assert!(once.trace.len() > 500, "a trace tells what happened");
        assert_eq!(once.hash, run(seed, false).hash, "watched or not, it is the same world");
        assert_ne!(once.hash, run(seed + 8, false).hash);
    }
}

fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

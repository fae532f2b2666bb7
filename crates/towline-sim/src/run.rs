//! One world from its seed to its end: safety under faults, then all faults end, then liveness.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::marks::Tally;
use crate::world::World;

/// Appends that every world sees at least.
pub const LEAST_APPENDS: u64 = 500;
/// Faults that every world sees at least.
pub const LEAST_FAULTS: u64 = 5;
/// Crashes that every world sees at least.
pub const LEAST_CRASHES: u64 = 1;

/// What became of one world.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Its seed.
    pub seed: u64,
    /// Hash over everything that happened: equal for equal seeds.
    pub hash: u64,
    /// Records that were appended.
    pub appends: u64,
    /// Faults of all kinds.
    pub faults: u64,
    /// Processes that ended without warning.
    pub crashes: u64,
    /// Acknowledgements by level achieved (off, local, remote_write, on, remote_apply).
    pub acks: [u64; 5],
    /// Faults by kind.
    pub fault_kinds: BTreeMap<&'static str, u64>,
    /// Rare paths that were taken.
    pub marks: Tally,
    /// The most that a leader showed as exposure above the truth.
    pub gauge_excess_bytes: u64,
    /// The promise that was broken, if one was.
    pub failure: Option<String>,
    /// What happened, line by line, if it was asked for.
    pub trace: Vec<String>,
}

impl Run {
    /// Whether the world saw what every world must see.
    pub fn has_seen_enough(&self) -> bool {
        self.appends >= LEAST_APPENDS && self.faults >= LEAST_FAULTS && self.crashes >= LEAST_CRASHES
    }
}

/// Runs the world of `seed` to its end, or to its first broken promise.
pub fn run(seed: u64, with_trace: bool) -> Run {
    // The core asserts its own invariants: such a panic is a finding like any other.
    let mut world = match catch_unwind(|| World::new(seed, with_trace)) {
        Ok(world) => world,
        Err(panic) => return Run { seed, failure: Some(panicked(panic.as_ref())), ..Run::default() },
    };
    let panic = catch_unwind(AssertUnwindSafe(|| live(&mut world))).err();
    Run {
        seed,
        hash: world.env.trace.hash(),
        appends: world.counts.appends,
        faults: world.counts.all_faults(),
        crashes: world.counts.crashes,
        acks: world.counts.acks,
        gauge_excess_bytes: world.gauge_excess_bytes(),
        fault_kinds: world.counts.faults,
        marks: world.env.marks,
        failure: world.env.broken.or(panic.map(|panic| panicked(panic.as_ref()))),
        trace: world.env.trace.into_lines(),
    }
}

/// What a panic said.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or_default())
}

fn live(world: &mut World) {
    run_safety(world);
    world.heal();
    run_liveness(world);
    if world.env.broken.is_none() {
        world.check_logs();
    }
}

/// Faults and load until the world has seen enough.
fn run_safety(world: &mut World) {
    for _ in 0..MOST_TURNS {
        let counts = &world.counts;
        let enough = counts.appends >= world.setup.appends
            && counts.all_faults() >= LEAST_FAULTS
            && counts.crashes >= LEAST_CRASHES;
        if enough || world.env.broken.is_some() {
            return;
        }
        // In a storm there is more time between two appends.
        if !world.setup.stormy || world.env.rng.chance(0.5) {
            world.load();
        }
        if world.env.rng.chance(world.setup.fault_chance) {
            world.strike();
        }
        if world.setup.stormy && world.env.rng.chance(STORM_CHANCE) {
            world.storm_gathers();
        }
        world.turn();
    }
}

/// Without faults everybody gets everything, and nobody waits.
fn run_liveness(world: &mut World) {
    let mut comes_late = false;
    for turn in 0..MOST_TURNS_TO_QUIET {
        if world.env.broken.is_some() {
            return;
        }
        // A leader that came late has not had its appends yet.
        if comes_late && world.counts.appends < LEAST_APPENDS {
            world.load();
        }
        world.turn();
        if turn % 8 == 7 && world.is_quiet() {
            if world.counts.appends >= LEAST_APPENDS {
                return;
            }
            comes_late = true;
        }
    }
    let states = world.describe();
    world.env.breaks(format!("never quiet again after the faults ended:\n{states}"));
}

/// That a storm gathers in a turn, where there are any.
const STORM_CHANCE: f64 = 0.02;
/// A world whose leader is hardly ever there ends all the same.
const MOST_TURNS: u64 = 12_000;
const MOST_TURNS_TO_QUIET: u64 = 20_000;

//! Crashes of all kinds under a mixed load, then peace: every world must become quiet again.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::RngExt;
use towline_core::types::{Level, Window};

use crate::setup::setup;
use crate::story;
use crate::world::World;

/// Appends that every world sees at least.
pub const LEAST_APPENDS: u64 = 500;
/// Faults that every world sees at least.
pub const LEAST_FAULTS: u64 = 5;
/// Crashes that every world sees at least.
pub const LEAST_CRASHES: u64 = 1;

/// Rare paths: a swarm that never came by one of them has not looked there.
pub const MARKS: &[&str] = &[
    "lost at off",
    "waited for their window",
    "degraded",
    "indeterminate",
    "cuts",
    "catch-ups",
    "rolls",
    "trims",
    "torn tail",
    "in flight",
    "clean end",
    "taken over",
    "cancels",
    "new disks",
    "failed writes",
    "clean stops",
    "rule changes",
    "cuts of a link",
    "fetches",
    "gauges compared",
    "leaderships after a crash",
];

/// What became of one world.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its seed.
    pub seed: u64,
    /// Hash over every output of every node: equal for equal seeds.
    pub hash: u64,
    /// Records that were appended.
    pub appends: u64,
    /// Faults of all kinds.
    pub faults: u64,
    /// Processes that ended without warning.
    pub crashes: u64,
    /// Acknowledgements by level achieved (off, local, remote_write, on, remote_apply).
    pub acks: [u64; 5],
    /// How often each path was taken.
    pub counts: BTreeMap<&'static str, u64>,
    /// The promise that was broken, if one was.
    pub failure: Option<String>,
    /// What happened, line by line, if it was asked for.
    pub trace: Vec<String>,
}

/// Runs the world of `seed` to its end, or to its first broken promise.
pub fn run(seed: u64, with_trace: bool) -> Run {
    story::begin(with_trace);
    let outcome = catch_unwind(AssertUnwindSafe(|| finished(seed)));
    let trace = story::end();
    match outcome {
        Ok(run) => Run { trace, ..run },
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Run { failure: Some(text.unwrap_or_default()), trace, ..empty(seed) }
        }
    }
}

fn empty(seed: u64) -> Run {
    Run {
        seed,
        hash: 0,
        appends: 0,
        faults: 0,
        crashes: 0,
        acks: [0; 5],
        counts: BTreeMap::new(),
        failure: None,
        trace: Vec::new(),
    }
}

fn finished(seed: u64) -> Run {
    let world = storm(seed);
    world.check_logs(|_| true);
    let verdict = world.judge();
    assert!(verdict.is_clean(), "{:#?}", verdict.violations);
    assert_eq!(verdict.summary.max_gauge_excess_bytes, 0, "the gauge is not the truth");
    let mut run = Run { acks: world.by_level, appends: world.appends, ..empty(seed) };
    (run.faults, run.crashes) = (world.faults_seen(), world.crashes_seen());
    run.hash = world.hosts.iter().fold(0, |hash: u64, host| hash.rotate_left(7) ^ host.hash);
    let mut add = |what: &'static str, n: u64| *run.counts.entry(what).or_default() += n;
    add("lost at off", world.lost_off() as u64);
    add("waited for their window", world.waited_for_window);
    add("windowed", world.windowed);
    add("degraded", world.degraded);
    add("indeterminate", world.indeterminate);
    add("gauges compared", verdict.summary.gauges);
    add("leaderships after a crash", verdict.summary.leaderships);
    for host in &world.hosts {
        host.counts.iter().chain(&host.disk.verdicts).for_each(|(what, n)| add(what, *n));
    }
    world.faults.iter().for_each(|(what, n)| add(what, *n));
    run
}

/// Safety under faults, then all faults end, then liveness: everybody has everything, and nobody waits.
fn storm(seed: u64) -> World {
    let setup = setup(seed);
    let (standbys, applies) = (setup.standbys, setup.applies);
    let mut world = World::with(seed, setup);
    if applies {
        world.hosts.iter_mut().for_each(|host| host.apply_chance = 0.3);
    }
    let mut strikes = 0;
    while strikes < 6 || (strikes < MOST_STRIKES && !world.has_seen_enough()) {
        load(&mut world, 60, applies);
        let victim = world.rng.random_range(0..world.hosts.len());
        strike(&mut world, victim, standbys, applies);
        strikes += 1;
        let halted = world.hosts.iter().find(|host| host.halted);
        assert!(halted.is_none(), "halted: {:?}", halted.map(|host| &host.events));
    }
    world.deaf.clear();
    world.until("the world is quiet again", 20_000, World::is_quiet);
    world
}

fn window(world: &mut World) -> Option<Window> {
    let rng = &mut world.rng;
    match rng.random_range(0..8) {
        0 => Some(Window::Bytes(rng.random_range(0..2_000))),
        1 => Some(Window::Records(rng.random_range(0..8))),
        2 => Some(Window::Micros(rng.random_range(0..1_000))),
        3 => Some(Window::Infinite),
        _ => None,
    }
}

fn load(world: &mut World, turns: usize, applies: bool) {
    for _ in 0..turns {
        for _ in 0..world.rng.random_range(0..4) {
            let levels = if applies { 5 } else { 4 };
            let level = Level::ALL[world.rng.random_range(0..levels)];
            let window = if level.is_remote() { window(world) } else { None };
            world.append(level, window);
        }
        match world.rng.random_range(0..100) {
            0 => world.cancel_one(),
            1 => {
                let level = Level::ALL[world.rng.random_range(1..4)];
                world.wait(level);
            }
            2 => world.trim(),
            _ => {}
        }
        world.turn();
    }
}

fn strike(world: &mut World, victim: usize, standbys: usize, applies: bool) {
    match world.rng.random_range(0..12) {
        0 => world.break_links(victim),
        kind @ 1..=4 => {
            world.crash(victim, kind <= 2);
            let pause = world.rng.random_range(0..60);
            load(world, pause, applies);
            world.restart(victim, kind <= 2);
        }
        5 => {
            (0..world.hosts.len()).for_each(|n| world.crash(n, true));
            (0..world.hosts.len()).for_each(|n| {
                world.restart(n, true);
            });
        }
        6 => {
            let other = if victim == 0 { world.rng.random_range(1..=standbys) } else { 0 };
            world.deaf.insert((victim, other));
            if world.rng.random_bool(0.5) {
                world.deaf.insert((other, victim));
            }
            let long = world.rng.random_range(20..260);
            load(world, long, applies);
            world.deaf.clear();
            *world.faults.entry("cuts of a link").or_default() += 1;
        }
        7 if victim > 0 => world.replace(victim),
        8 => {
            let meta = world.rng.random_bool(0.3);
            world.hosts[victim].write_fails = !meta;
            world.hosts[victim].meta_fails = meta;
            load(world, 40, applies);
            world.hosts[victim].write_fails = false;
            world.hosts[victim].meta_fails = false;
            let power = world.rng.random_bool(0.5);
            world.crash(victim, power);
            world.restart(victim, power);
            *world.faults.entry("failed writes").or_default() += 1;
        }
        9 => {
            world.hosts[victim].full = true;
            load(world, 60, applies);
            world.hosts[victim].full = false;
        }
        10 => world.stop_cleanly(victim),
        _ if standbys > 1 => {
            let rules = ["ANY 1 (s1, s2)", "ANY 2 (s1, s2)", "FIRST 1 (s2, s1)", "ANY 1 (*)"];
            let rule = rules[world.rng.random_range(0..rules.len())];
            world.set_rule(rule);
            load(world, 20, applies);
            *world.faults.entry("rule changes").or_default() += 1;
        }
        _ => {}
    }
}

/// A world whose leader is hardly ever there ends all the same.
const MOST_STRIKES: usize = 60;

#[cfg(test)]
mod tests {
    use towline_core::node::{Input, Node};

    use super::*;
    use crate::host;
    use crate::setup::Setup;

    #[test]
    fn a_record_goes_from_append_to_ack_at_every_level() {
        let mut setup = Setup::new(2, Some("ANY 1 (s1, s2)"));
        setup.applies = true;
        let mut world = World::with(1, setup);
        world.until("the primary leads", 2_000, World::leads);
        for level in Level::ALL {
            world.until("room", 100, |world| world.hosts[0].accepts());
            assert!(world.append(level, None));
        }
        world.until("all are acknowledged", 2_000, World::is_quiet);
        assert_eq!(world.acked.len(), 4);
        for acked in &world.acked {
            assert_eq!(acked.achieved, acked.asked);
        }
        world.check_logs(|_| true);
    }

    #[test]
    fn one_seed_is_one_world_and_its_inputs_are_its_outputs() {
        for seed in 0..8 {
            let (mut one, other) = (storm(seed), storm(seed));
            let hashes = |world: &World| world.hosts.iter().map(|host| host.hash).collect::<Vec<_>>();
            assert_eq!(hashes(&one), hashes(&other), "seed {seed} gave two worlds");
            one.hosts.iter_mut().for_each(|host| host.record = true);
            (0..one.hosts.len()).for_each(|n| {
                one.crash(n, false);
                one.restart(n, false);
            });
            load(&mut one, 100, false);
            for host in &one.hosts {
                assert_eq!(replay(host), host.outputs, "fed again, the inputs gave other outputs");
            }
        }
    }

    /// The recorded inputs, fed to a new node: polled before each tick, and at the end.
    fn replay(host: &host::Host) -> Vec<String> {
        let (config, recovered, meta) = host.born.clone().expect("it was started");
        let mut node = Node::new(config, recovered, meta);
        let mut outputs = Vec::new();
        let mut poll = |node: &mut Node| {
            while let Some(output) = node.poll_output() {
                outputs.push(format!("{output:?}"));
            }
        };
        for input in &host.trace {
            if matches!(input, Input::Tick { .. }) {
                poll(&mut node);
            }
            node.handle(input.clone());
        }
        poll(&mut node);
        outputs
    }
}

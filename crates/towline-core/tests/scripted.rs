#![allow(unreachable_pub)]
//! The very node that ships, on a scripted disk and network: whatever crashes, every acknowledgement keeps its
//! level's promise. `SCRIPTED_SEEDS` asks for more worlds, `SCRIPTED_FROM` for the first of them.

#[path = "scripted"]
mod scripted {
    mod claims;
    pub mod disk;
    pub mod host;
    pub mod world;
}
use scripted::{host, world};

use std::collections::BTreeMap;

use rand::RngExt;
use towline_core::node::{Event, Input, Node};
use towline_core::replication::Unmet;
use towline_core::types::{Level, Window};
use world::{Setup, World};

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

/// The kinds of worlds.
fn setup(seed: u64) -> Setup {
    match seed % 8 {
        0 => Setup::new(1, Some("ANY 1 (s1)")),
        1 => Setup { hold_bytes: 16 << 20, ..Setup::new(2, Some("ANY 1 (s1, s2)")) },
        2 => Setup::new(2, Some("FIRST 1 (s1, s2)")),
        3 => Setup { applies: true, apply_safe: true, ..Setup::new(3, Some("ANY 2 (s1, s2, s3)")) },
        4 => Setup {
            record_bytes: 50_000..900_000,
            arena_bytes: 4 << 20,
            retention_bytes: 40 << 20,
            ..Setup::new(2, Some("ANY 1 (s1, s2)"))
        },
        5 => Setup { applies: true, relay: true, ..Setup::new(2, Some("FIRST 1 (*)")) },
        6 => Setup {
            unmet: Unmet::DegradeAfter { ns: 5_000_000 },
            relay: true,
            ..Setup::new(2, Some("ANY 2 (s1, s2)"))
        },
        _ => Setup { outlives: false, ..Setup::new(3, Some("FIRST 2 (s1, s2, s3)")) },
    }
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

/// Crashes of all kinds, one at a time, under a mixed load.
fn storm(seed: u64) -> World {
    let setup = setup(seed);
    let (standbys, applies) = (setup.standbys, setup.applies);
    let mut world = World::with(seed, setup);
    if applies {
        for host in &mut world.hosts {
            host.apply_chance = 0.3;
        }
    }
    for _ in 0..6 {
        load(&mut world, 60, applies);
        let victim = world.rng.random_range(0..world.hosts.len());
        strike(&mut world, victim, standbys, applies);
        assert!(!world.hosts.iter().any(|host| host.halted), "halted: {:?}", events(&world));
    }
    world.deaf.clear();
    world.until("the world is quiet again", 20_000, World::is_quiet);
    world
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

fn events(world: &World) -> Vec<&Event> {
    world.hosts.iter().flat_map(|host| &host.events).collect()
}

#[test]
fn whatever_crashes_every_acknowledgement_keeps_its_promise() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut by_level = [0; 5];
    let mut failed = Vec::new();
    let first: u64 = std::env::var("SCRIPTED_FROM").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds() {
        let run = std::panic::AssertUnwindSafe(|| {
            let world = storm(seed);
            world.check_logs(|_| true);
            let verdict = world.judge();
            assert!(verdict.is_clean(), "world {seed}: {:#?}", verdict.violations);
            assert_eq!(verdict.summary.max_gauge_excess_bytes, 0, "world {seed}: the gauge is not the truth");
            world
        });
        let Ok(world) = std::panic::catch_unwind(run) else {
            println!(
                "replay: SCRIPTED_FROM={seed} SCRIPTED_SEEDS=1 cargo test -p towline-core --test scripted whatever"
            );
            failed.push(seed);
            continue;
        };
        let mut add = |what: &'static str, n: u64| *counts.entry(what).or_default() += n;
        add("worlds", 1);
        add("lost at off", world.lost_off() as u64);
        add("waited for their window", world.waited_for_window);
        add("windowed", world.windowed);
        add("degraded", world.degraded);
        add("indeterminate", world.indeterminate);
        let judged = world.judge().summary;
        add("acks judged", judged.acks.iter().sum());
        add("gauges compared", judged.gauges);
        add("leaderships after a crash", judged.leaderships);
        for host in &world.hosts {
            host.counts.iter().chain(&host.disk.verdicts).for_each(|(what, n)| add(what, *n));
        }
        world.faults.iter().for_each(|(what, n)| add(what, *n));
        world.by_level.iter().zip(&mut by_level).for_each(|(n, sum)| *sum += n);
    }
    assert!(failed.is_empty(), "{} worlds broke a promise: {failed:?}", failed.len());
    println!("{counts:#?}\nacknowledged by level: {by_level:?}");
    for what in [
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
        "acks judged",
        "gauges compared",
        "leaderships after a crash",
    ] {
        assert!(counts.get(what).is_some_and(|n| *n > 0), "never seen: {what}");
    }
    assert!(by_level.iter().all(|n| *n > 0), "every level was acknowledged");
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

/// How many worlds; `SCRIPTED_SEEDS` asks for more.
fn seeds() -> u64 {
    std::env::var("SCRIPTED_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(48)
}

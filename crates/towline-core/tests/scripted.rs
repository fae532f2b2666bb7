#![allow(unreachable_pub)]
//! The very node that ships, on a scripted disk and network: whatever crashes, every acknowledgement keeps its
//! level's promise.

#[path = "scripted"]
mod scripted {
    pub mod disk;
    pub mod host;
    pub mod world;
}
use scripted::{disk, host, world};

use rand::RngExt;
use towline_core::types::{Level, Window};
use world::World;

#[test]
fn a_record_goes_from_append_to_ack_at_every_level() {
    let mut world = World::new(1, 2, Some("ANY 1 (s1, s2)"), 1);
    world.until("the primary leads", 2_000, World::leads);
    for level in [Level::Off, Level::Local, Level::RemoteWrite, Level::On] {
        world.until("room", 100, |world| world.hosts[0].accepts());
        assert!(world.append(level, None));
    }
    world.until("all are acknowledged", 2_000, World::is_quiet);
    assert_eq!(world.acked.len(), 3);
    for acked in &world.acked {
        assert_eq!(acked.achieved, acked.asked);
    }
    world.check_logs(|_| true);
}

/// Crashes of all kinds, one at a time, under a mixed load.
fn storm(seed: u64, standbys: usize, rule: &str, k: usize) -> World {
    let mut world = World::new(seed, standbys, Some(rule), k);
    for _ in 0..6 {
        for _ in 0..60 {
            for _ in 0..world.rng.random_range(0..4) {
                let level = Level::ALL[world.rng.random_range(0..4)];
                let window = (level.is_remote() && world.rng.random_bool(0.3))
                    .then(|| Window::Bytes(world.rng.random_range(0..2_000)));
                world.append(level, window);
            }
            world.turn();
        }
        let victim = world.rng.random_range(0..=standbys);
        match world.rng.random_range(0..4) {
            0 => world.break_links(victim),
            kind => {
                let power = kind == 1;
                world.crash(victim, power);
                let pause = world.rng.random_range(0..60);
                world.turns(pause);
                world.restart(victim, power);
            }
        }
    }
    if world.hosts.iter().any(|host| host.halted) {
        panic!("a node halted: {:?}", world.hosts.iter().flat_map(|host| &host.events).collect::<Vec<_>>());
    }
    world.until("the world is quiet again", 20_000, World::is_quiet);
    world
}

#[test]
fn whatever_crashes_every_acknowledgement_keeps_its_promise() {
    let (mut acked, mut lost_off, mut waited) = (0, 0, 0);
    let first: u64 = std::env::var("SCRIPTED_FROM").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds() {
        let (standbys, rule, k) = match seed % 4 {
            0 => (1, "ANY 1 (s1)", 1),
            1 => (2, "ANY 1 (s1, s2)", 1),
            2 => (2, "FIRST 1 (s1, s2)", 1),
            _ => (3, "ANY 2 (s1, s2, s3)", 2),
        };
        println!("seed {seed}: {rule}");
        let world = storm(seed, standbys, rule, k);
        world.check_logs(|_| true);
        acked += world.acked.len();
        lost_off += world.lost_off();
        waited += world.waited_for_window;
    }
    println!("{acked} acknowledged, {lost_off} lost at off, {waited} waited for their window");
    assert!(lost_off > 0, "off must be seen to lose");
    assert!(waited > 0, "windows must be seen to bind");
}

/// How many worlds; `SCRIPTED_SEEDS` asks for more.
fn seeds() -> u64 {
    std::env::var("SCRIPTED_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(60)
}

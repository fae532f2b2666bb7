//! Real processes killed under load: a primary and two standbys, any one of them synchronous, SIGKILL at random
//! moments, restarts, and in the end every record against every acknowledgement.
//!
//! Per level, in rounds of a fresh cluster each: one client keeps hundreds of appends outstanding while primary,
//! standby, several or all are killed. Held against each other are
//! - what was acknowledged and what the log holds at the end (by the socket and from the files): nothing lost, changed,
//!   doubled or out of order, each incarnation's records a prefix of what was sent to it, nothing refused is there;
//! - at every death of a primary, before it is back: what was acknowledged at a remote level and what the standbys hold
//!   alone, the one with the longer log. At `on` and above a killed standby may lose its arena too;
//! - the three logs, byte for byte.
//!
//! What it cannot see: **a SIGKILL passes without a single flush**, since the kernel survives it and completes what was
//! handed to it. Tried on purpose: `local` acknowledged when its write was handed over, and writes without any flush,
//! both passed; the scripted disk is there for those. Seen were an `on` that no standby stands behind, a window twice as
//! wide as said, and a standby that calls flushed what is only in its arena. An arena that is not taken over passes
//! mostly, for it takes a death of everybody at a moment when both standbys are behind with their writes. A node is
//! never killed before it said that it is ready: deaths inside a recovery belong to the storage tests.
//!
//! `TOWLINE_KILLS=200` is the full run (SIGKILLs per level, 12 otherwise), `TOWLINE_SEED` repeats a choice of victims
//! and moments, `--nocapture` shows the counts.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod cluster;
mod judge;
mod load;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use towline::{Level, Window};

use cluster::{Cluster, Victims};
use judge::Tally;
use load::{Load, Plan};

/// A log keeps at most 64 terms until it is trimmed, and each restart of a primary starts one.
const KILLS_PER_ROUND: u64 = 40;

#[test]
fn off_loses_the_newest_and_nothing_else() {
    let tally = run(Plan { barrier_every: 512, ..Plan::at(Level::Off) });
    assert!(tally.lost > 0, "no loss was seen, and without one nothing about 'off' was shown: {tally}");
}

#[test]
fn local_survives_kills() {
    run(Plan::at(Level::Local));
}

#[test]
fn remote_write_survives_kills() {
    run(Plan::at(Level::RemoteWrite));
}

#[test]
fn on_survives_kills() {
    run(Plan::at(Level::On));
}

#[test]
fn remote_apply_survives_kills() {
    run(Plan::at(Level::RemoteApply));
}

#[test]
fn a_window_bounds_what_the_standbys_lack() {
    let window = Window::Bytes(64 << 10);
    let tally = run(Plan { window: Some(window), ..Plan::at(Level::On) });
    assert!(tally.max_fill_bytes > 0 && tally.waited > 0, "the window never bound: {tally}");
}

/// Kills as many as asked for, in rounds, and judges each.
fn run(plan: Plan) -> Tally {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let kills = number("TOWLINE_KILLS").unwrap_or(12);
    let seed = number("TOWLINE_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 | kills);
    println!("{plan}: TOWLINE_SEED={seed}");
    let began = Instant::now();
    let mut random = Random::new(seed ^ u64::from(plan.level.to_wire()) << 8 ^ plan.window.is_some() as u64);
    let mut tally = Tally::default();
    // Of a few kills none may hit what is only in memory; then it takes some more.
    let unseen = |tally: &Tally| plan.level == Level::Off && tally.lost == 0 && tally.kills() < 10 * kills;
    while tally.kills() < kills || unseen(&tally) {
        let upto = (tally.kills() + KILLS_PER_ROUND).min(kills.max(tally.kills() + 4));
        round(plan, upto, &mut random, &mut tally);
    }
    println!("{plan}: {tally}; {:.1} s, seed {seed}", began.elapsed().as_secs_f64());
    tally
}

/// One cluster from its start to its clean stop.
fn round(plan: Plan, upto: u64, random: &mut Random, tally: &mut Tally) {
    let mut cluster = Cluster::start();
    let load = Load::start(plan, cluster.primary().address(), random.next());
    let mut gaps = Vec::new();
    while tally.kills() < upto {
        // Mostly under full load, sometimes while the last restart is still being caught up with.
        if random.below(4) > 0 {
            load.wait_more_acks(random.below(1500), || cluster.tell());
        }
        std::thread::sleep(Duration::from_millis(random.below(60)));
        let victims = Victims::choose(random);
        tally.count(victims);
        cluster.kill(victims);
        let lose_arenas = plan.level >= Level::On && random.below(2) == 0;
        if victims.primary {
            load.wait_disconnected();
            cluster.restart_standbys(lose_arenas);
            if plan.level.is_remote() {
                gaps.push(judge::standbys_hold(plan, &cluster, &load, victims));
            }
            cluster.restart_primary();
        } else {
            let sent = load.sent();
            std::thread::sleep(Duration::from_millis(random.below(60)));
            if victims.standbys == [true, true] && plan.level.is_remote() && plan.window.is_none() {
                assert_eq!(load.acks_from(sent), 0, "acknowledged at {} while no standby ran", plan.level);
            }
            cluster.restart_standbys(lose_arenas);
        }
    }
    load.wait_more_acks(1, || cluster.tell());
    let journal = load.finish(|| cluster.tell());
    let logs = cluster.settle_and_stop(plan.level);
    judge::judge(plan, &journal, &logs, &gaps, tally);
}

/// The same seed gives the same victims.
pub(crate) struct Random(SmallRng);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(SmallRng::seed_from_u64(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.random()
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0.random_range(0..limit.max(1))
    }
}

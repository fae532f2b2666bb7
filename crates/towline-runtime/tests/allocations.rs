//! Heap allocations per commit in steady state: none on the shard's thread, none on the client's.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::alloc::System;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use towline_core::types::Level;
use towline_runtime::{Host, NodeOptions};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Spins as long as it may. To sleep in a glommio executor is a read that glommio allocates for: on a slow disk there is
/// one per commit. What is counted here is the work.
fn awake(options: NodeOptions) -> NodeOptions {
    NodeOptions { spin: Duration::from_millis(100), ..options }
}

/// Of 500 commits. A glommio executor has timers of its own, which allocate as time goes by: one in a hundred
/// milliseconds, and on a busy machine 500 commits take seconds.
fn most(on_a_thread: usize) -> usize {
    match host() {
        Host::Thread { .. } => on_a_thread,
        Host::Glommio => 250,
    }
}

#[test]
fn a_commit_allocates_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let node = start(awake(primary(&folder.path().join("p"))));
    let log = leading(&node);
    let payload = [7; 256];
    let commit = |count: usize| {
        for _ in 0..count {
            log.append(&payload, Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
        }
    };
    // Every vector has its size, and the commits measured lie in one segment.
    commit(500);
    let region = Region::new(ALLOCATOR);
    commit(500);
    let change = region.change();
    assert!(change.allocations + change.reallocations < most(25), "500 commits: {change:?}");
    node.stop().unwrap();
}

#[test]
fn nor_does_one_that_a_standby_flushes() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let standby = start(awake(standby(&folder.path().join("a"), "a")));
    let mut options = awake(primary(&folder.path().join("p")));
    options.standbys = vec![peer("a", &standby)];
    options.sync_rule = Some("ANY 1 (a)".to_owned());
    let node = start(options);
    let log = leading(&node);
    let commit = |count: usize| {
        for _ in 0..count {
            log.append(&[7; 256], Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
        }
    };
    commit(500);
    // Both nodes are in this process: what either allocates is counted.
    let (region, began) = (Region::new(ALLOCATOR), Instant::now());
    commit(500);
    let change = region.change();
    // Heartbeats go by the clock: on a busy machine there are many of them to so many commits.
    let by_the_clock = (began.elapsed().as_millis() / 50) as usize;
    assert!(
        change.allocations + change.reallocations < most(50) + by_the_clock,
        "500 commits on both nodes in {:?}: {change:?}",
        began.elapsed()
    );
    node.stop().unwrap();
    standby.stop().unwrap();
}

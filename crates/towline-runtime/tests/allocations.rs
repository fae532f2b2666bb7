//! Heap allocations per commit in steady state: none on the shard's thread, none on the client's.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::alloc::System;

use common::*;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use towline_core::types::Level;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_commit_allocates_nothing() {
    let folder = folder();
    let node = start(primary(&folder.path().join("p")));
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
    assert!(change.allocations + change.reallocations < 25, "500 commits: {change:?}");
    node.stop().unwrap();
}

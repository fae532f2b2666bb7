//! A shard as a task in somebody's own glommio executor: its neighbours make progress.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::*;
use glommio::LocalExecutorBuilder;
use towline_core::types::Level;
use towline_runtime::{Host, RunningNode, ShardSeed};

#[test]
fn a_neighbour_makes_progress_while_the_shard_works_and_while_it_sleeps() {
    let folder = folder();
    let (to, seeds) = mpsc::channel::<ShardSeed>();
    let (count_to, counts) = mpsc::channel();
    let executor = std::thread::spawn(move || {
        let seed = seeds.recv().unwrap();
        let executor = LocalExecutorBuilder::default().io_memory(64 << 10).make().unwrap();
        executor.run(async move {
            let over = Rc::new(Cell::new(false));
            let neighbour_over = Rc::clone(&over);
            let neighbour = glommio::spawn_local(async move {
                let mut count = 0u64;
                while !neighbour_over.get() {
                    count += 1;
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                }
                count
            });
            let ended = seed.run_in_glommio().await.unwrap();
            over.set(true);
            count_to.send(neighbour.await).unwrap();
            ended
        })
    });
    let node = RunningNode::start_in(primary(&folder.path().join("p")), None, |seed| to.send(seed).unwrap())
        .unwrap();
    let log = leading(&node);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(300) {
        log.append(&[1; 256], Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    }
    std::thread::sleep(Duration::from_millis(200));
    // Asleep, and found again.
    log.append(b"woken", Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    node.stop().unwrap();
    executor.join().unwrap().unwrap();
    let count = counts.recv().unwrap();
    assert!(count > 50, "the neighbour ran {count} times in half a second");
}

/// What a node has to do when it starts is nobody's event: slept on, it would wait for the longest sleep, a second.
#[test]
fn a_shard_goes_to_work_as_soon_as_it_is_carried() {
    let folder = folder();
    let start_once = || {
        let mut options = primary(&folder.path().join("p"));
        options.host = Host::Glommio;
        let began = Instant::now();
        let node = start(options);
        leading(&node);
        let took = began.elapsed();
        node.stop().unwrap();
        took
    };
    // The best of a few: a busy machine makes none of them faster.
    let best = (0..5).map(|_| start_once()).min().unwrap();
    assert!(best < Duration::from_millis(600), "{best:?}");
}

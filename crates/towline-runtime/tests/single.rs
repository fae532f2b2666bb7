//! One process: append, flush, acknowledge, restart.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use common::*;
use towline_core::types::{Level, Lsn, Window};
use towline_runtime::AppendError;

#[test]
fn appends_are_acknowledged_flushed_and_found_again() {
    let folder = folder();
    let dir = folder.path().join("p");
    let mut wanted = Vec::new();
    for round in 0..2u8 {
        let node = start(primary(&dir));
        let log = leading(&node);
        for number in 0..50u8 {
            let payload = vec![number; 1 + usize::from(number) * 7];
            let level = if number % 2 == 0 { Level::Local } else { Level::Off };
            let ticket = log.append(&payload, level, None).unwrap();
            let lsn = ticket.lsn();
            let committed = ticket.wait_timeout(LIMIT).unwrap();
            assert_eq!((committed.lsn, committed.level), (lsn, level), "round {round}");
            wanted.push((lsn, payload));
        }
        let snapshot = log.snapshot();
        assert!(snapshot.leading && snapshot.flushed.records > 0, "{snapshot:?}");
        node.stop().unwrap();
        assert!(matches!(log.try_append(b"x", Level::Local, None), Err(AppendError::Stopping)));
    }
    assert_eq!(records(&dir), wanted);
}

#[test]
fn without_a_rule_remote_levels_say_local_and_windows_are_refused() {
    let folder = folder();
    let node = start(primary(&folder.path().join("p")));
    let log = leading(&node);
    let committed = log.append(b"x", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    assert_eq!((committed.level, committed.rule_version), (Level::Local, 0));
    for (level, window) in [(Level::Local, Window::Bytes(1)), (Level::On, Window::Records(0))] {
        assert!(matches!(log.append(b"x", level, Some(window)), Err(AppendError::Window(_))));
    }
    node.stop().unwrap();
}

#[test]
fn many_threads_append_in_one_order_over_many_segments() {
    let folder = folder();
    let dir = folder.path().join("p");
    let node = start(primary(&dir));
    let log = leading(&node);
    let payload = |thread: u8, number: u32| {
        let mut payload = vec![thread; 3000];
        payload[..4].copy_from_slice(&number.to_le_bytes());
        payload
    };
    let acked: Vec<Vec<Lsn>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4u8)
            .map(|thread| {
                let log = log.clone();
                scope.spawn(move || {
                    let mut lsns = Vec::new();
                    let mut open = std::collections::VecDeque::new();
                    for number in 0..2000u32 {
                        open.push_back(log.append(&payload(thread, number), Level::Local, None).unwrap());
                        if open.len() >= 32 {
                            lsns.push(open.pop_front().unwrap().wait_timeout(LIMIT).unwrap().lsn);
                        }
                    }
                    lsns.extend(open.into_iter().map(|ticket| ticket.wait_timeout(LIMIT).unwrap().lsn));
                    lsns
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let status = node.status();
    node.stop().unwrap();
    let records = records(&dir);
    assert_eq!(records.len(), 8000);
    let mut next = [0usize; 4];
    for (lsn, bytes) in &records {
        let thread = usize::from(bytes[4]);
        assert_eq!(*lsn, acked[thread][next[thread]]);
        assert_eq!(*bytes, payload(thread as u8, next[thread] as u32));
        next[thread] += 1;
    }
    let driver = &status.shards[0].driver;
    assert!(driver.batches < 4000, "group commit: {driver:?}");
}

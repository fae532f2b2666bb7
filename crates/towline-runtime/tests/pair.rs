//! A primary and standbys over loopback, each with its own folder on the disk.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::time::Duration;

use common::*;
use towline_core::types::{Level, Lsn, Window};
use towline_runtime::{NodeOptions, RunningNode};

struct Group {
    folder: tempfile::TempDir,
    primary: RunningNode,
    standbys: Vec<RunningNode>,
}

fn dirs(folder: &tempfile::TempDir, count: usize) -> Vec<std::path::PathBuf> {
    (0..count).map(|number| folder.path().join(NAMES[number])).collect()
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn group(count: usize, rule: &str, change: impl Fn(&mut NodeOptions)) -> Group {
    let folder = folder();
    let standbys: Vec<RunningNode> = dirs(&folder, count)
        .iter()
        .enumerate()
        .map(|(number, dir)| {
            let mut options = standby(dir, NAMES[number]);
            change(&mut options);
            start(options)
        })
        .collect();
    let mut options = primary(&folder.path().join("p"));
    options.standbys = standbys.iter().enumerate().map(|(number, node)| peer(NAMES[number], node)).collect();
    options.sync_rule = Some(rule.to_owned());
    change(&mut options);
    Group { primary: start(options), folder, standbys }
}

impl Group {
    /// Stops all; every log holds the same bytes, at least up to `at_least`.
    fn finish(self, at_least: Lsn) {
        let Group { folder, primary, standbys } = self;
        primary.stop().unwrap();
        let count = standbys.len();
        standbys.into_iter().for_each(|node| node.stop().unwrap());
        for dir in dirs(&folder, count) {
            assert_identical(&folder.path().join("p"), &dir, at_least);
        }
    }
}

#[test]
fn every_level_is_reached_with_one_standby() {
    let group = group(1, "ANY 1 (a)", |_| {});
    let log = leading(&group.primary);
    let mut end = Lsn(0);
    for level in Level::ALL {
        for number in 0..20u32 {
            let committed = log.append(&number.to_le_bytes(), level, None).unwrap().wait_timeout(LIMIT);
            let committed =
                committed.unwrap_or_else(|error| panic!("{level}: {error}: {:?}", group.primary.status()));
            assert_eq!(committed.level, level);
            assert_eq!(committed.rule_version, 1);
            end = committed.end;
        }
    }
    let status = group.primary.status();
    assert_eq!(status.shards[0].node.standbys[0].state, "streaming", "{status:?}");
    log.wait(end, Level::On).unwrap().wait_timeout(LIMIT).unwrap();
    group.finish(end);
}

#[test]
fn two_standbys_must_both_flush_under_first_2() {
    let group = group(2, "FIRST 2 (a, b)", |_| {});
    let log = leading(&group.primary);
    let committed = log.append(&[7; 100_000], Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    let snapshot = log.snapshot();
    assert!(
        snapshot.standbys.iter().all(|standby| standby.watermarks.flushed.lsn >= committed.end),
        "{snapshot:?}"
    );
    group.finish(committed.end);
}

#[test]
fn a_window_acknowledges_before_the_standby_and_stays_within_its_bound() {
    let group = group(1, "ANY 1 (a)", |_| {});
    let log = leading(&group.primary);
    log.append(b"first", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    let mut tickets = Vec::new();
    for _ in 0..500 {
        tickets.push(log.append(&[1; 256], Level::On, Some(Window::Bytes(1024))).unwrap());
    }
    let mut end = Lsn(0);
    for ticket in tickets {
        let committed = ticket.wait_timeout(LIMIT).unwrap();
        assert!(committed.fill_bytes <= 1024, "{committed:?}");
        assert_eq!(committed.window, Some(Window::Bytes(1024)));
        end = committed.end;
    }
    log.wait(end, Level::On).unwrap().wait_timeout(LIMIT).unwrap();
    group.finish(end);
}

#[test]
fn streams_through_rolls_and_stays_identical() {
    let group = group(1, "ANY 1 (a)", |_| {});
    let log = leading(&group.primary);
    let payload = vec![0xA5; 60_000];
    for _ in 0..600 {
        drop(log.append(&payload, Level::Off, None).unwrap());
    }
    let ticket = log.append(b"last", Level::On, None).unwrap();
    let end = ticket.end();
    ticket.wait_timeout(LIMIT).unwrap_or_else(|error| {
        panic!("{error}: {:?} {:?}", group.primary.status(), group.standbys[0].status())
    });
    assert!(end > Lsn(32 << 20));
    group.finish(end);
}

#[test]
fn a_standby_that_was_away_catches_up_from_segments_under_load() {
    let mut group = group(1, "ANY 1 (a)", |_| {});
    let log = leading(&group.primary);
    log.append(b"x", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    let address = group.standbys[0].listen_address().unwrap();
    group.standbys.pop().unwrap().stop().unwrap();
    // Far more than the arena holds, over several segments.
    let payload = vec![3; 50_000];
    for _ in 0..500 {
        log.append(&payload, Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    }
    let mut options = standby(&group.folder.path().join("a"), "a");
    options.listen = Some(address);
    group.standbys.push(start(options));
    let mut end = Lsn(0);
    until("the standby streams", || {
        end = log.append(&payload, Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap().end;
        group.primary.status().shards[0].node.standbys[0].state == "streaming"
    });
    log.wait(end, Level::On).unwrap().wait_timeout(LIMIT).unwrap();
    assert!(group.primary.status().shards[0].driver.catch_up_bytes > 20 << 20);
    group.finish(end);
}

#[test]
fn the_rule_stalls_and_heals_and_a_timeout_is_indeterminate() {
    let mut group = group(1, "ANY 1 (a)", |_| {});
    let log = leading(&group.primary);
    log.append(b"x", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    let address = group.standbys[0].listen_address().unwrap();
    group.standbys.pop().unwrap().stop().unwrap();
    let waiting = log.append(b"waits", Level::On, None).unwrap();
    let given_up = log.append(b"given up", Level::On, None).unwrap();
    let error = given_up.wait_timeout(Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains("indeterminate"), "{error}");
    let mut options = standby(&group.folder.path().join("a"), "a");
    options.listen = Some(address);
    group.standbys.push(start(options));
    let committed = waiting.wait_timeout(LIMIT).unwrap();
    assert_eq!(committed.level, Level::On);
    group.finish(committed.end);
}

#[test]
fn a_restarted_primary_leads_again_once_its_standby_adopts() {
    let Group { folder, primary: first, standbys } = group(1, "ANY 1 (a)", |_| {});
    let log = leading(&first);
    let one = log.append(b"one", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    first.stop().unwrap();
    let mut options = primary(&folder.path().join("p"));
    options.standbys = vec![peer("a", &standbys[0])];
    options.sync_rule = Some("ANY 1 (a)".to_owned());
    let primary = start(options);
    let log = leading(&primary);
    let two = log.append(b"two", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    assert!(two.lsn > one.end);
    Group { folder, primary, standbys }.finish(two.end);
}

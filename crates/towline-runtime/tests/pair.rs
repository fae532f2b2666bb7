//! A primary and standbys over loopback, each with its own folder on the disk.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::time::{Duration, Instant};

use common::*;
use towline_core::format::Committed;
use towline_core::types::{Level, Lsn, Window};
use towline_runtime::{AppendError, HandOverError, Handle, NodeOptions, PeerAddress, Promotion, RunningNode};

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

#[test]
fn a_handle_pauses_resumes_and_promotes() {
    let group = group(1, "ANY 1 (a)", |options| options.listen = Some(any_port()));
    let log = leading(&group.primary);
    let standby = group.standbys[0].handle(0).unwrap();
    assert_refused(standby.pause(LIMIT), "does not lead");
    log.append(b"one", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    log.pause(LIMIT).unwrap();
    assert_refused(log.pause(LIMIT), "paused already");
    assert_unavailable(&log);
    log.resume().unwrap();
    until("appends go on", || log.append(b"two", Level::On, None).is_ok());
    let end = log.pause(LIMIT).unwrap();
    until("the standby has it all", || {
        status(&group.standbys[0]).shards[0].node.watermarks.flushed.lsn >= end
    });
    let itself = promotion(vec![peer("a", &group.primary)], "ANY 1 (a)", LIMIT);
    assert_refused(standby.promote(itself), "is the node to be promoted");
    let promoted = standby.promote(promotion(vec![peer("p", &group.primary)], "ANY 1 (p)", LIMIT)).unwrap();
    assert!(promoted.start >= end, "{promoted:?}");
    let three = first_append(&standby, b"three");
    assert_eq!(three.level, Level::On, "the former primary follows");
    let refused = log.try_append(b"no", Level::Local, None);
    assert!(matches!(refused, Err(AppendError::Fenced(_) | AppendError::Unavailable(_))), "{refused:?}");
    assert_refused(log.pause(LIMIT), "does not lead");
    group.finish(three.end);
}

/// A producer holds its reservation from one leadership of a node into the next, which begins where it lies.
#[test]
fn what_is_held_across_two_leaderships_is_in_no_log_and_ends_none() {
    let Group { folder, primary, standbys } = group(1, "ANY 1 (a)", |options| {
        options.listen = Some(any_port());
        options.hold_limit = Duration::from_secs(2);
    });
    let log = leading(&primary);
    let standby = standbys[0].handle(0).unwrap();
    let one = log.append(b"one", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    until("the standby has it", || standby.snapshot().flushed.lsn >= one.end);
    let held = log.reserve(4, Level::On, None).unwrap();
    standby.promote(promotion(vec![peer("p", &primary)], "ANY 1 (p)", LIMIT)).unwrap();
    // It is gone for good, and the former primary is to lead again, alone.
    standbys.into_iter().for_each(|node| node.stop().unwrap());
    let alone = Promotion { force: true, ..promotion(Vec::new(), "", LIMIT) };
    log.promote(alone).unwrap();
    let two = first_append(&log, b"two");
    assert!(two.lsn > one.end && held.commit().is_err());
    primary.stop().unwrap();
    let payloads: Vec<Vec<u8>> =
        records(&folder.path().join("p")).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, [b"one", b"two"]);
}

#[test]
fn a_pause_that_nobody_ends_is_over_after_its_limit() {
    let folder = folder();
    let node = start(primary(&folder.path().join("p")));
    let log = leading(&node);
    log.pause(Duration::from_millis(50)).unwrap();
    until("appends go on", || log.append(b"one", Level::Local, None).is_ok());
    log.resume().unwrap();
    node.stop().unwrap();
    assert!(matches!(log.pause(LIMIT), Err(HandOverError::Stopped)));
    assert!(matches!(log.resume(), Err(HandOverError::Stopped)));
    let nobody = promotion(Vec::new(), "", LIMIT);
    assert!(matches!(log.promote(nobody), Err(HandOverError::Stopped)));
}

#[test]
fn a_promotion_gives_up_in_time_and_leaves_the_standby_as_it_was() {
    let Group { folder, primary, mut standbys } = group(2, "ANY 1 (a, b)", |options| {
        options.listen = Some(any_port());
        options.heartbeat = Duration::from_millis(50);
    });
    let log = leading(&primary);
    let one = log.append(b"one", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    let [a, b] = [0, 1].map(|at| standbys[at].handle(0).unwrap());
    until("both have it", || [&a, &b].iter().all(|standby| standby.snapshot().flushed.lsn >= one.end));
    let others = vec![peer("b", &standbys[1]), peer("p", &primary)];
    primary.stop().unwrap();
    standbys.pop().unwrap().stop().unwrap();
    let limit = Duration::from_millis(300);
    let began = Instant::now();
    assert_refused(a.promote(promotion(others.clone(), "ANY 1 (b, p)", limit)), "not heard of: b, p");
    let took = began.elapsed();
    assert!(took >= limit && took < LIMIT, "it took {took:?}");
    assert_unavailable(&a);
    let mut options = standby(&folder.path().join("b"), "b");
    options.listen = Some(others[0].address.parse().unwrap());
    standbys.push(start(options));
    a.promote(promotion(others, "ANY 1 (b, p)", LIMIT)).unwrap();
    let two = first_append(&a, b"two");
    assert_eq!((two.level, two.lsn > one.lsn), (Level::On, true));
    standbys.into_iter().for_each(|node| node.stop().unwrap());
    assert_identical(&folder.path().join("a"), &folder.path().join("b"), two.end);
}

#[test]
fn a_ticket_waits_as_long_as_it_is_told_and_its_record_may_be_there_all_the_same() {
    let Group { folder, primary, standbys } = group(1, "ANY 1 (a)", |_| {});
    let log = leading(&primary);
    log.append(b"first", Level::On, None).unwrap().wait_timeout(Duration::MAX).unwrap();
    standbys.into_iter().for_each(|node| node.stop().unwrap());
    for limit in [Duration::ZERO, Duration::from_millis(20)] {
        let began = Instant::now();
        let error = log.append(b"given up", Level::On, None).unwrap().wait_timeout(limit).unwrap_err();
        assert!(error.to_string().contains("indeterminate"), "{error}");
        assert!(began.elapsed() >= limit);
    }
    log.append(b"last", Level::Local, None).unwrap().wait_timeout(LIMIT).unwrap();
    primary.stop().unwrap();
    let payloads: Vec<Vec<u8>> =
        records(&folder.path().join("p")).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, [&b"first"[..], b"given up", b"given up", b"last"], "never taken for not written");
}

/// A promotion is answered when it is decided; the log is open a moment later.
fn first_append(log: &Handle, record: &[u8]) -> Committed {
    let mut ticket = None;
    until("appends are taken", || {
        ticket = log.try_append(record, Level::On, None).ok();
        ticket.is_some()
    });
    ticket.unwrap().wait_timeout(LIMIT).unwrap()
}

fn assert_unavailable(log: &Handle) {
    let result = log.try_append(b"no", Level::Local, None);
    assert!(matches!(result, Err(AppendError::Unavailable(_))), "{result:?}");
}

fn promotion(standbys: Vec<PeerAddress>, rule: &str, timeout: Duration) -> Promotion {
    Promotion { standbys, rule: Some(rule.to_owned()), force: false, timeout }
}

fn assert_refused<T: std::fmt::Debug>(result: Result<T, HandOverError>, why: &str) {
    assert!(matches!(&result, Err(HandOverError::Refused(said)) if said.contains(why)), "{result:?}");
}

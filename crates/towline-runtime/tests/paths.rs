//! Ways through a shard that a default pair does not take: other primitives, zero-copy sends, relays.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::path::PathBuf;
use std::time::Duration;

use common::*;
use towline_core::types::{Level, Lsn};
use towline_runtime::{Handle, NodeOptions, Primitive, RunningNode, TicketError};

/// A primary with one standby, both under `change`; appends at `on`, over several segments, until both are stopped.
fn ship_through(change: impl Fn(&mut NodeOptions)) -> Vec<towline_runtime::Status> {
    let folder = folder();
    let mut options = standby(&folder.path().join("a"), "a");
    change(&mut options);
    let standby = start(options);
    let mut options = primary(&folder.path().join("p"));
    options.standbys = vec![peer("a", &standby)];
    options.sync_rule = Some("ANY 1 (a)".to_owned());
    change(&mut options);
    let node = start(options);
    let log = leading(&node);
    let end = append_many(&log, Level::On, 400, 50_000);
    let status = vec![node.status(), standby.status()];
    assert!(end > Lsn(2 * (8 << 20)), "more than one segment");
    node.stop().unwrap();
    standby.stop().unwrap();
    assert_identical(&folder.path().join("p"), &folder.path().join("a"), end);
    assert_eq!(records(&folder.path().join("a")).len(), 400);
    status
}

/// Up to 32 at a time in flight. The last one's end.
fn append_many(log: &Handle, level: Level, count: usize, bytes: usize) -> Lsn {
    let payload = vec![0x5A; bytes];
    let mut open = std::collections::VecDeque::new();
    let mut end = Lsn(0);
    for _ in 0..count {
        open.push_back(log.append(&payload, level, None).unwrap());
        if open.len() >= 32 {
            end = open.pop_front().unwrap().wait_timeout(LIMIT).unwrap().end;
        }
    }
    for ticket in open {
        end = ticket.wait_timeout(LIMIT).unwrap().end;
    }
    end
}

#[test]
fn every_primitive_carries_a_pair() {
    for primitive in Primitive::ALL {
        let status = ship_through(|options| options.primitive = Some(primitive));
        for node in status {
            let driver = &node.shards[0].driver;
            assert_eq!(driver.primitive, primitive.name());
            assert!(driver.flushes > 0 && driver.flushed_bytes > 16 << 20, "{driver:?}");
        }
    }
}

#[test]
fn zero_copy_sends_ship_the_same_bytes() {
    let status = ship_through(|options| options.zero_copy_send = true);
    assert!(status[0].shards[0].driver.sent_bytes > 16 << 20);
}

/// Primary `p` ships to `a` and `c`, and `a` to `b`.
struct Cascade {
    folder: tempfile::TempDir,
    primary: RunningNode,
    a: RunningNode,
    b: RunningNode,
    c: Option<RunningNode>,
}

impl Cascade {
    fn start() -> Cascade {
        let folder = folder();
        let dir = |name: &str| folder.path().join(name);
        let b = start(standby(&dir("b"), "b"));
        let mut options = standby(&dir("a"), "a");
        options.standbys = vec![peer("b", &b)];
        let a = start(options);
        let c = start(standby(&dir("c"), "c"));
        let mut options = primary(&dir("p"));
        options.standbys = vec![peer("a", &a), peer("c", &c)];
        options.sync_rule = Some("ANY 2 (a, c)".to_owned());
        let primary = start(options);
        Cascade { folder, primary, a, b, c: Some(c) }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn b_has_flushed(&self, end: Lsn) {
        let b = self.b.handle(0).unwrap();
        until_or(
            "the cascaded standby flushes",
            || b.snapshot().flushed.lsn >= end,
            || format!("{:?} {:?}", self.a.status(), self.b.status()),
        );
    }
}

#[test]
fn a_cascaded_standby_holds_the_same_bytes_and_never_counts() {
    let mut cascade = Cascade::start();
    let log = leading(&cascade.primary);
    let end = append_many(&log, Level::On, 400, 50_000);
    cascade.b_has_flushed(end);
    let listed = log.snapshot().standbys;
    assert_eq!(listed.iter().map(|standby| standby.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);

    // Two nodes beside the primary flush it, but one of them is not the rule's to count.
    cascade.c.take().unwrap().stop().unwrap();
    let waiting = log.append(b"b must not count", Level::On, None).unwrap();
    let end = waiting.end();
    cascade.b_has_flushed(end);
    let a = cascade.a.handle(0).unwrap();
    until("the relay flushes", || a.snapshot().flushed.lsn >= end);
    let ended = waiting.wait_timeout(Duration::from_millis(300));
    assert!(matches!(&ended, Err(TicketError::Indeterminate(_))), "{ended:?}");

    let folders = ["p", "a", "b"].map(|name| cascade.dir(name));
    let Cascade { primary, a, b, folder: _folder, .. } = cascade;
    primary.stop().unwrap();
    a.stop().unwrap();
    b.stop().unwrap();
    assert_identical(&folders[0], &folders[1], end);
    assert_identical(&folders[0], &folders[2], end);
}

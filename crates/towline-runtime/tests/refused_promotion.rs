//! The addresses that a promotion names: it dials them, and one that fails leaves relayed standbys where they were.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::time::Duration;

use common::*;
use towline_core::types::Level;
use towline_runtime::{PeerAddress, Promotion, RunningNode};

#[test]
fn a_refused_promotion_sends_no_relay_elsewhere() {
    let folder = folder();
    let behind = start(standby(&folder.path().join("b"), "b"));
    let mut options = standby(&folder.path().join("a"), "a");
    options.standbys = vec![peer("b", &behind)];
    let relay = start(options);
    let other = start(standby(&folder.path().join("c"), "c"));
    let mut options = primary(&folder.path().join("p"));
    options.standbys = vec![peer("a", &relay), peer("c", &other)];
    options.sync_rule = Some("ANY 1 (a, c)".to_owned());
    let node = start(options);
    let handle = leading(&node);
    let reaches = |what: &str| {
        let end = handle.append(b"x", Level::On, None).unwrap().wait().unwrap().end;
        let flushed = || status(&behind).shards[0].node.watermarks.flushed.lsn;
        until(what, || flushed() >= end);
    };
    reaches("the relay feeds b");
    // 127.0.0.1:9 answers nobody, and without b there is no quorum.
    let wrong = PeerAddress { name: "b".to_owned(), address: "127.0.0.1:9".to_owned() };
    let timeout = Duration::from_millis(300);
    let promotion = Promotion { standbys: vec![wrong], rule: None, force: false, timeout };
    assert!(relay.handle(0).unwrap().promote(promotion).is_err());
    reaches("b is where it was");
    for node in [node, relay, other, behind] {
        node.stop().unwrap();
    }
}

#[test]
fn a_promotion_dials_the_address_that_it_names_not_the_one_that_was_known() {
    let folder = folder();
    let other = start(standby(&folder.path().join("b"), "b"));
    let mut options = standby(&folder.path().join("a"), "a");
    // b has moved since this was written.
    options.standbys = vec![PeerAddress { name: "b".to_owned(), address: "127.0.0.1:9".to_owned() }];
    let promoted = start(options);
    let mut options = primary(&folder.path().join("p"));
    options.standbys = vec![peer("a", &promoted), peer("b", &other)];
    options.sync_rule = Some("ANY 1 (a, b)".to_owned());
    let node = start(options);
    let one = leading(&node).append(b"one", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    let holds = |node: &RunningNode| status(node).shards[0].node.watermarks.flushed.lsn >= one.end;
    until_or("both have it", || holds(&promoted) && holds(&other), || format!("{:#?}", status(&node)));
    node.stop().unwrap();
    let standbys = vec![peer("b", &other)];
    let promotion = Promotion { standbys, rule: Some("ANY 1 (b)".to_owned()), force: false, timeout: LIMIT };
    promoted.handle(0).unwrap().promote(promotion).unwrap();
    let two = leading(&promoted).append(b"two", Level::On, None).unwrap().wait_timeout(LIMIT).unwrap();
    assert_eq!(two.level, Level::On);
    for node in [promoted, other] {
        node.stop().unwrap();
    }
    assert_identical(&folder.path().join("a"), &folder.path().join("b"), two.end);
}

//! A promotion that fails leaves the standbys that were relayed to where they were, whatever addresses it named.
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program with helpers of its own")]

mod common;

use std::time::Duration;

use common::*;
use towline_core::types::Level;
use towline_runtime::{PeerAddress, Promotion};

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

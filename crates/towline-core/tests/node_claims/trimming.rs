//! What a trim leaves for those who have not read it yet.

use towline_core::node::{Input, NodeConfig, PromoteRequest};
use towline_core::types::{Lsn, Meta, NodeId};

use crate::probe::*;

#[test]
fn a_promoted_standby_keeps_what_its_application_has_not_read() {
    let end = GEOMETRY.first_batch(2).plus(4096);
    let config = NodeConfig {
        node: NodeId(1),
        log: LOG,
        geometry: GEOMETRY,
        name: "s1".into(),
        applies: true,
        ..NodeConfig::default()
    };
    let meta = Meta { adopted: term(1, 100), reported: end, history: OLD(), ..Meta::default() };
    let mut standby = Probe::new(config, at(end.0), 77, None, meta);
    standby.hello(1, 100);
    standby.stream(1, term(1, 100), OLD(), end.0);
    let request = PromoteRequest {
        request: 1,
        standbys: Vec::new(),
        rule: Some(String::new()),
        force: true,
        timeout_ns: 1_000_000_000,
    };
    standby.feed(Input::Promote(request));
    for turn in 1..10 {
        standby.feed(Input::Tick { now_ns: turn * 200_000_000 });
    }
    assert!(standby.leads());
    let below = GEOMETRY.first_batch(2);
    standby.feed(Input::Trim { below });
    assert_eq!(standby.meta.log_start, Lsn(0), "it has read nothing yet");
    standby.feed(Input::Applied { position: at(GEOMETRY.first_batch(1).0) });
    standby.feed(Input::Trim { below });
    assert_eq!(standby.meta.log_start, GEOMETRY.first_batch(1), "one segment, and not the next");
    standby.feed(Input::Applied { position: at(end.0) });
    standby.feed(Input::Trim { below });
    assert_eq!(standby.meta.log_start, below);
}

//! What a node ignored is no part of the history that is made of its inputs and outputs.

use towline_check::{Event, NodeHistory};
use towline_core::format::{BatchHeader, BatchKind};
use towline_core::log::Recovered;
use towline_core::node::{Event as NodeEvent, Input, NodeConfig, Output};
use towline_core::types::{LogId, Lsn, NodeId, Position, SessionId, Term, TermHistory};

const START: u64 = 8192;
const BLOCK: u64 = 4096;

fn term(number: u64, node: u64) -> Term {
    Term { number, node: NodeId(node) }
}

/// Block number `place` of the log, with one record of 10 bytes; a seal has none.
fn header(place: u64, of: Term, kind: BatchKind, records_before: u64) -> BatchHeader {
    let records = u32::from(kind == BatchKind::Data);
    BatchHeader {
        kind,
        log: LogId([7; 16]),
        term: of,
        start: Lsn(START + place * BLOCK),
        end: Lsn(START + (place + 1) * BLOCK),
        body_bytes: records * 24,
        records,
        payload_bytes: u64::from(records) * 10,
        records_before,
        payload_before: records_before * 10,
        durable_before: Lsn(START),
        previous_hash: 0,
        body_crc: 0,
    }
}

fn received(header: BatchHeader, rules: Vec<(u64, String)>) -> Input {
    Input::Received { session: SessionId(1), header, hash: 0, rules }
}

#[test]
fn what_came_on_a_session_that_the_node_had_closed_does_not_stand_before_its_own_term() {
    let config = NodeConfig { node: NodeId(2), ..NodeConfig::default() };
    let start = Position { lsn: Lsn(START), ..Position::default() };
    let recovered = Recovered {
        end: start,
        previous_hash: 0,
        sealed: false,
        rule: Some((1, "ANY 1 (*)".to_owned())),
        pending_rule: None,
        segments: Vec::new(),
        rolls: Vec::new(),
        leader_flushed: Lsn(0),
        leader_claimed: Lsn(0),
        cut: None,
    };
    let mut history = NodeHistory::new(&config, &recovered, false);
    let mut events = Vec::new();
    let (old, new) = (term(1, 1), term(2, 2));
    history.input(&received(header(0, old, BatchKind::Data, 0), Vec::new()), &mut events);
    // The node has closed the session: these two, and the rule in one of them, are not in its log.
    let rule = vec![(2, "ANY 2 (*)".to_owned())];
    history.input(&received(header(1, old, BatchKind::Data, 1), rule), &mut events);
    history.input(&received(header(2, old, BatchKind::Data, 2), Vec::new()), &mut events);

    let mut terms = TermHistory::default();
    terms.push(old, Lsn(START)).unwrap();
    terms.push(new, Lsn(START + BLOCK)).unwrap();
    history.output(&Output::Event(NodeEvent::Leading { history: terms }), &mut events);
    history.output(&Output::PutHeader { header: header(1, new, BatchKind::Seal, 1) }, &mut events);
    let setup = events.iter().find(|event| matches!(event, Event::Setup { .. }));
    assert!(
        matches!(setup, Some(Event::Setup { start, records: 1, payload_bytes: 10, .. }) if start.0 == START + BLOCK),
        "{setup:?}"
    );
    let batch = events.iter().find(|event| matches!(event, Event::Batch { .. }));
    assert!(
        matches!(batch, Some(Event::Batch { start, .. }) if start.0 == START + BLOCK),
        "the first batch of the term: {events:?}"
    );
    assert!(!events.iter().any(|event| matches!(event, Event::Rule { version: 2, .. })), "{events:?}");
}

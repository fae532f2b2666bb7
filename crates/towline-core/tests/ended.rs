//! A log that has ended owes an answer to everybody who waits.

use towline_core::log::Recovered;
use towline_core::node::{Input, Node, NodeConfig, Output, RoleStatus, StartRole, TicketOutcome};
use towline_core::types::{Geometry, Level, LogId, Lsn, Meta, NodeId, Position, Span, TicketId};

const START: Lsn = Lsn(8192);

/// A primary without standbys that leads; the seal of its term is being written. Returns its span.
fn leading() -> (Node, Span) {
    let config = NodeConfig {
        node: NodeId(1),
        log: LogId([9; 16]),
        geometry: Geometry { segment_bytes: 8 << 20, in_flight_bytes: 8 << 20 },
        name: "p".into(),
        role: StartRole::Primary,
        ..NodeConfig::default()
    };
    let end = Position { lsn: START, ..Position::default() };
    let recovered = Recovered { end, segments: vec![(0, 7)], ..Recovered::default() };
    let mut node = Node::new(config, recovered, Meta::default());
    let mut seal = None;
    while let Some(output) = node.poll_output() {
        match output {
            Output::WriteMeta { meta } => node.handle(Input::MetaWritten { sequence: meta.sequence }),
            Output::Write { span, .. } => seal = Some(span),
            _ => {}
        }
    }
    (node, seal.expect("a term begins with a seal"))
}

fn outcome_of(node: &mut Node, asked: TicketId) -> Option<TicketOutcome> {
    std::iter::from_fn(|| node.poll_output()).find_map(|output| match output {
        Output::Ack { ticket, outcome } if ticket == asked => Some(outcome),
        _ => None,
    })
}

#[test]
fn a_failed_write_ends_what_waits_as_indeterminate_at_once() {
    let (mut node, seal) = leading();
    let ticket = TicketId(5);
    node.handle(Input::Wait { ticket, lsn: seal.start.plus(1), level: Level::Local });
    assert_eq!(outcome_of(&mut node, ticket), None, "the seal is not flushed");
    node.handle(Input::WriteFailed { span: seal, error: "EIO".into() });
    assert!(matches!(node.status().role, RoleStatus::Ended { .. }), "{:?}", node.status().role);
    let outcome = outcome_of(&mut node, ticket);
    assert!(matches!(outcome, Some(TicketOutcome::Indeterminate(_))), "{outcome:?}");
}

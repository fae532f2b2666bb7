//! The primary's tape, fed again to a node of our own: its events, and the gauge that the gate showed after each turn.

use std::io::{BufRead, BufReader};
use std::path::Path;

use towline_check::{Event, NodeHistory};
use towline_core::node::Node;
use towline_core::replication::Stage;
use towline_runtime::TapeLine;

/// The events of a tape. The node's outputs must come out again as they were recorded.
pub fn read(path: &Path) -> Vec<Event> {
    let file = BufReader::new(std::fs::File::open(path).unwrap());
    let mut events = Vec::new();
    let mut life: Option<(Node, NodeHistory)> = None;
    for line in file.lines() {
        let line: TapeLine = serde_json::from_str(&line.unwrap()).unwrap();
        match (line, &mut life) {
            (TapeLine::Start { config, recovered, meta }, life @ None) => {
                let history = NodeHistory::new(&config, &recovered, false);
                *life = Some((Node::new(*config, *recovered, *meta), history));
            }
            (TapeLine::In(input), Some((node, history))) => {
                if node.hears(&input) {
                    history.input(&input, &mut events);
                }
                node.handle(*input);
            }
            (TapeLine::Out(output), Some((node, history))) => {
                assert_eq!(node.poll_output().as_ref(), Some(&*output), "it does not come out again");
                history.output(&output, &mut events);
            }
            (TapeLine::Drained, Some((node, history))) => {
                assert_eq!(node.poll_output(), None);
                history.drained(&mut events);
                if history.is_leading() {
                    for (stage, bytes) in Stage::ALL.into_iter().zip(node.exposure_bytes()) {
                        events.extend(bytes.map(|exposure_bytes| Event::Gauge { stage, exposure_bytes }));
                    }
                }
            }
            (line, _) => panic!("{line:?} stands where it cannot"),
        }
    }
    events
}

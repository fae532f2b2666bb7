//! A life of a node on tape: the node is a function of its inputs, and this holds it to that.

use towline_core::log::Recovered;
use towline_core::node::{Input, Node, NodeConfig, Output};
use towline_core::types::Meta;

use crate::trace::TraceHash;

/// What one life of a node was made of, took in and put out.
#[derive(Debug)]
pub struct Tape {
    config: NodeConfig,
    recovered: Recovered,
    meta: Meta,
    inputs: Vec<Input>,
    outputs: TraceHash,
}

impl Tape {
    pub fn new(config: &NodeConfig, recovered: &Recovered, meta: &Meta) -> Tape {
        Tape {
            config: config.clone(),
            recovered: recovered.clone(),
            meta: meta.clone(),
            inputs: Vec::new(),
            outputs: TraceHash::default(),
        }
    }

    pub fn input(&mut self, input: &Input) {
        self.inputs.push(input.clone());
    }

    pub fn output(&mut self, output: &Output) {
        self.outputs.take(output);
    }

    /// The inputs, fed to a new node: polled before each tick, and at the end.
    pub fn gives_the_same_again(&self) -> bool {
        let mut node = Node::new(self.config.clone(), self.recovered.clone(), self.meta.clone());
        let mut outputs = TraceHash::default();
        for input in &self.inputs {
            if matches!(input, Input::Tick { .. }) {
                poll(&mut node, &mut outputs);
            }
            node.handle(input.clone());
        }
        poll(&mut node, &mut outputs);
        outputs.value() == self.outputs.value()
    }
}

fn poll(node: &mut Node, outputs: &mut TraceHash) {
    while let Some(output) = node.poll_output() {
        outputs.take(&output);
    }
}

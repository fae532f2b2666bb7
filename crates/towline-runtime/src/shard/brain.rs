//! The state machine with its tape: every input and output can be recorded, to be replayed.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::thread::JoinHandle;

use crossbeam::channel::{Sender, bounded};
use serde::{Deserialize, Serialize};
use towline_core::log::Recovered;
use towline_core::node::{Input, Node, NodeConfig, Output};
use towline_core::types::Meta;

/// The node, and the tape if one is wanted.
pub(crate) struct Brain {
    pub(crate) node: Node,
    tape: Option<Tape>,
}

/// One line of a tape.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum TapeLine {
    /// What the node was made of: first on the tape.
    Start {
        /// Its configuration.
        config: Box<NodeConfig>,
        /// Its log.
        recovered: Box<Recovered>,
        /// Its meta block.
        meta: Box<Meta>,
    },
    /// It was given this.
    In(Box<Input>),
    /// It answered this.
    Out(Box<Output>),
    /// It had no more to say. Asked again, it would say nothing.
    Drained,
}

impl Brain {
    pub(crate) fn new(
        config: NodeConfig,
        recovered: Recovered,
        meta: Meta,
        record: Option<&Path>,
    ) -> std::io::Result<Brain> {
        let tape = record.map(Tape::start).transpose()?;
        if let Some(tape) = &tape {
            tape.write(TapeLine::Start {
                config: Box::new(config.clone()),
                recovered: Box::new(recovered.clone()),
                meta: Box::new(meta.clone()),
            });
        }
        Ok(Brain { node: Node::new(config, recovered, meta), tape })
    }

    pub(crate) fn handle(&mut self, input: Input) {
        if let Some(tape) = &self.tape {
            tape.write(TapeLine::In(Box::new(input.clone())));
        }
        self.node.handle(input);
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        let output = self.node.poll_output();
        if let Some(tape) = &self.tape {
            tape.write(
                output.as_ref().map_or(TapeLine::Drained, |output| TapeLine::Out(Box::new(output.clone()))),
            );
        }
        output
    }
}

/// A thread that writes lines: the shard waits for it only when it is thousands of lines behind.
struct Tape {
    lines: Option<Sender<TapeLine>>,
    thread: Option<JoinHandle<()>>,
}

impl Tape {
    fn start(path: &Path) -> std::io::Result<Tape> {
        let mut file = BufWriter::new(File::create(path)?);
        let (lines, inbox) = bounded::<TapeLine>(MAX_LINES);
        let thread = std::thread::Builder::new().name("towline-tape".to_owned()).spawn(move || {
            while let Ok(line) = inbox.recv() {
                let written = serde_json::to_writer(&mut file, &line).map_err(std::io::Error::from);
                if written.and_then(|()| file.write_all(b"\n")).is_err() {
                    // A tape that ends early replays as far as it goes.
                    return;
                }
                if inbox.is_empty() && file.flush().is_err() {
                    return;
                }
            }
        })?;
        Ok(Tape { lines: Some(lines), thread: Some(thread) })
    }

    fn write(&self, line: TapeLine) {
        if let Some(lines) = &self.lines {
            // An error means that the writer ended: the disk is full, the log goes on.
            let _ = lines.send(line);
        }
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a replay found.
#[derive(Clone, PartialEq, Debug)]
pub struct Replay {
    /// Inputs fed.
    pub inputs: u64,
    /// Outputs compared, all equal.
    pub outputs: u64,
}

/// Feeds the inputs of a tape to a new node and compares its outputs with the recorded ones.
///
/// # Errors
/// The first difference, or what is wrong with the tape, as a line for a person.
pub fn replay(path: &Path) -> Result<Replay, String> {
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut node: Option<Node> = None;
    let mut found = Replay { inputs: 0, outputs: 0 };
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let at = |what: String| format!("{}:{}: {what}", path.display(), number + 1);
        let line = line.map_err(|error| at(error.to_string()))?;
        let line = serde_json::from_str(&line).map_err(|error| at(error.to_string()))?;
        match (line, &mut node) {
            (TapeLine::Start { config, recovered, meta }, None) => {
                node = Some(Node::new(*config, *recovered, *meta))
            }
            (TapeLine::In(input), Some(node)) => {
                node.handle(*input);
                found.inputs += 1;
            }
            (TapeLine::Out(recorded), Some(node)) => {
                let replayed = node.poll_output();
                if replayed.as_ref() != Some(&*recorded) {
                    return Err(at(format!("recorded {recorded:?}, replayed {replayed:?}")));
                }
                found.outputs += 1;
            }
            (TapeLine::Drained, Some(node)) => {
                if let Some(more) = node.poll_output() {
                    return Err(at(format!("nothing more was recorded, replayed {more:?}")));
                }
            }
            (line, _) => return Err(at(format!("{line:?} stands where it cannot"))),
        }
    }
    Ok(found)
}

const MAX_LINES: usize = 8192;

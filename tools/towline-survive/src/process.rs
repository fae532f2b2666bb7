//! One node as a child process of this program: started, signalled, asked, and ended by its own pid whatever happens.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use towline::client::{Client, ClientOptions};
use towline_runtime::ShardStatus;

use crate::context::Context;
use crate::error::{Result, SurviveError};

/// How a node is started, and started again.
#[derive(Clone, Debug)]
pub(crate) struct NodePlan {
    pub(crate) role: &'static str,
    pub(crate) name: &'static str,
    pub(crate) dir: PathBuf,
    /// Port 0 until it was started once: later starts are found where the first was.
    pub(crate) listen: SocketAddr,
    pub(crate) flags: Vec<String>,
}

impl NodePlan {
    /// Sizes are small and nothing is calibrated, so that a start takes milliseconds; one flush at a time, so that
    /// there is always something that is not flushed yet.
    pub(crate) fn new(role: &'static str, name: &'static str, dir: &Path, listen: SocketAddr) -> NodePlan {
        let flags = [
            "--arena-bytes=4M",
            "--retention-bytes=256M",
            "--prepare-segments=1",
            "--primitive=dsync",
            "--flush-depth=1",
            "--heartbeat=100ms",
            "--until-input-ends",
        ];
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        NodePlan { role, name, dir: dir.to_owned(), listen, flags }
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![self.role.to_owned(), format!("--dir={}", self.dir.display())];
        arguments.push(format!("--name={}", self.name));
        arguments.push(format!("--listen={}", self.listen));
        arguments.extend(self.flags.iter().cloned());
        arguments
    }
}

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    /// It stops when this ends: when this program is killed, nobody else would end it.
    _input: Option<ChildStdin>,
    address: SocketAddr,
    said: Arc<Said>,
}

/// How a start ended.
pub(crate) enum Started {
    Ready(Node),
    /// It ended instead, by itself or by a signal.
    Refused {
        status: ExitStatus,
        said: String,
    },
}

impl Node {
    pub(crate) fn start(context: &Context, plan: &NodePlan) -> Result<Node> {
        match Node::try_start(context, plan)? {
            Started::Ready(node) => Ok(node),
            Started::Refused { status, said } => Err(SurviveError::Node {
                name: plan.name.to_owned(),
                what: format!("did not start ({status})"),
                said,
            }),
        }
    }

    /// Starts it and waits until it says that it is ready, or ends.
    pub(crate) fn try_start(context: &Context, plan: &NodePlan) -> Result<Started> {
        let mut command = Command::new(&context.program);
        command.args(plan.arguments()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C is for this program; it ends its nodes itself.
        command.process_group(0).env("RUST_BACKTRACE", "0");
        // What this process asks of its allocator is not for them: they run as they ship.
        command.env_remove("MALLOC_MMAP_THRESHOLD_");
        let mut child = command.spawn().map_err(SurviveError::file(&context.program, "cannot be started"))?;
        let said = Arc::new(Said::default());
        if let Some(stderr) = child.stderr.take() {
            let keep = Arc::clone(&said);
            // Read on to the end: a full pipe would stop the node.
            std::thread::spawn(move || {
                BufReader::new(stderr).lines().map_while(|line| line.ok()).for_each(|line| keep.add(line));
            });
        }
        let ready = ready_line(&mut child);
        let input = child.stdin.take();
        let mut node = Node { child, _input: input, address: plan.listen, said };
        let ended = context.wait(&format!("node '{}' to be ready", plan.name), START_LIMIT, || {
            if let Ok(address) = ready.try_recv() {
                node.address = address;
                return Ok(Some(None));
            }
            Ok(node.child.try_wait().ok().flatten().map(Some))
        });
        match ended {
            Ok(None) => Ok(Started::Ready(node)),
            Ok(Some(status)) => Ok(Started::Refused { status, said: node.said() }),
            Err(SurviveError::Late(what)) => {
                Err(SurviveError::Late(format!("waited in vain for {what}{}", node.said())))
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The last lines it wrote, for a message.
    pub(crate) fn said(&self) -> String {
        self.said.last()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended by itself; it has not been waited for, so the pid is still its own.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// How it has ended by itself, where it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub(crate) fn status(&self) -> Result<ShardStatus> {
        status_of(self.address)
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the shard at an address says of itself.
pub(crate) fn status_of(address: SocketAddr) -> Result<ShardStatus> {
    let text = connect(address)?.status()?;
    serde_json::from_str(&text)
        .map_err(|error| SurviveError::Late(format!("the status of {address} cannot be read: {error}")))
}

pub(crate) fn connect(address: SocketAddr) -> Result<Client> {
    let options = ClientOptions { max_outstanding: 1 << 15, ..ClientOptions::default() };
    Ok(Client::connect_with(address, 0, options)?)
}

/// Gives the address when the node says it.
fn ready_line(child: &mut Child) -> Receiver<SocketAddr> {
    let (sender, receiver) = channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
                let mut words = line.strip_prefix("ready ").unwrap_or_default().split(' ');
                if let Some(address) = words.find_map(|word| word.strip_prefix("address=")?.parse().ok()) {
                    // Nobody waits for a second one.
                    let _ = sender.send(address);
                }
            }
        });
    }
    receiver
}

/// The last lines of standard error.
#[derive(Debug, Default)]
struct Said(Mutex<VecDeque<String>>);

impl Said {
    fn add(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == SAID_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn last(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(|line| format!("\n  {line}")).collect()
    }
}

const SAID_LINES: usize = 12;
const START_LIMIT: Duration = Duration::from_secs(20);

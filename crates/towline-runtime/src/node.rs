//! A running node: its shards, its port, its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::apply::ApplyFactory;
use crate::error::{StartError, StopError};
use crate::handle::Handle;
use crate::handle::shared::Command;
use crate::host::{glommio, thread};
use crate::listen::Listener;
use crate::metrics::{Responder, prometheus};
use crate::node_dir::check_node_dir;
use crate::options::{Host, NodeOptions};
use crate::shard::seed::ShardSeed;
use crate::status::Status;

/// A node at work. Dropping it stops it as [`stop`](RunningNode::stop) does, without telling how that went.
pub struct RunningNode {
    name: String,
    handles: Vec<Handle>,
    threads: Vec<Option<JoinHandle<Result<(), String>>>>,
    listener: Option<Listener>,
    responder: Option<Responder>,
}

impl RunningNode {
    /// Opens the directories, recovers the logs, and puts every shard to work. A primary may not lead yet when this
    /// returns: [`Handle::wait_leading`].
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub fn start(options: NodeOptions, apply: Option<ApplyFactory>) -> Result<RunningNode, StartError> {
        let host = options.host;
        RunningNode::start_with(options, apply, |seed, up| spawn(host, seed, up))
    }

    /// As [`start`](RunningNode::start), with shards carried as tasks of the caller's own glommio executors: `carry`
    /// is given each seed, to be polled with [`ShardSeed::run_in_glommio`]. The node then ends when those tasks do:
    /// [`stop`](RunningNode::stop) asks them to, and waits until they have.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_in(
        options: NodeOptions,
        apply: Option<ApplyFactory>,
        mut carry: impl FnMut(ShardSeed),
    ) -> Result<RunningNode, StartError> {
        RunningNode::start_with(options, apply, |seed, up| {
            carry(seed);
            // Its own errors are the task's result.
            let _ = up.send(Ok(()));
            Ok(None)
        })
    }

    fn start_with(
        options: NodeOptions,
        apply: Option<ApplyFactory>,
        mut carry: impl FnMut(
            ShardSeed,
            Sender<Result<(), StartError>>,
        ) -> Result<Option<ShardThread>, StartError>,
    ) -> Result<RunningNode, StartError> {
        options.check()?;
        check_node_dir(&options.dir, options.shards)?;
        let mut seeds = Vec::with_capacity(usize::from(options.shards));
        let mut node = None;
        for number in 0..options.shards {
            let app = apply.as_ref().map(|make| make(number));
            let seed = ShardSeed::open(number, &options, node, app)?;
            node.get_or_insert(seed.node_id());
            seeds.push(seed);
        }
        let handles: Vec<Handle> = seeds.iter().map(ShardSeed::handle).collect();
        // The ports before the shards: a taken port leaves nothing to be stopped.
        let listener = match options.listen {
            Some(address) => {
                let shards = handles.iter().map(|handle| Arc::clone(&handle.shared)).collect();
                let listen = |source| StartError::Listen { address, source };
                Some(Listener::start(address, shards).map_err(listen)?)
            }
            None => None,
        };
        let name = options.name.clone();
        let mut running = RunningNode { name, handles, threads: Vec::new(), listener, responder: None };
        for seed in seeds {
            let (up, started): (_, Receiver<Result<(), StartError>>) = bounded(1);
            let shard = seed.number();
            // An early return drops `running`, which stops the shards before this one.
            let thread = carry(seed, up)?;
            running.threads.push(thread);
            match started.recv() {
                Ok(result) => result?,
                Err(_) => {
                    return Err(StartError::Node { shard, why: "its thread ended at once".to_owned() });
                }
            }
        }
        if let Some(address) = options.metrics {
            let (name, listen) = (running.name.clone(), running.listen_address());
            let handles = running.handles.clone();
            let responder = Responder::start(address, move || status(&name, listen, &handles))
                .map_err(|source| StartError::Listen { address, source })?;
            running.responder = Some(responder);
        }
        Ok(running)
    }

    /// A shard, for the threads of this program.
    pub fn handle(&self, shard: u16) -> Option<Handle> {
        self.handles.get(usize::from(shard)).cloned()
    }

    /// Where peers and clients connect.
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(Listener::address)
    }

    /// Where metrics and the status page are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.responder.as_ref().map(Responder::address)
    }

    /// The state of every shard.
    pub fn status(&self) -> Status {
        status(&self.name, self.listen_address(), &self.handles)
    }

    /// The same as Prometheus text.
    pub fn metrics(&self) -> String {
        prometheus(&self.status())
    }

    /// Whether every shard still works: false once one has ended by itself.
    pub fn is_running(&self) -> bool {
        self.handles.iter().all(|handle| !handle.shared.is_stopped())
    }

    /// Stops cleanly: everything accepted is flushed and sealed, then files close.
    ///
    /// # Errors
    /// [`StopError`]; what was acknowledged keeps its level's promise.
    pub fn stop(mut self) -> Result<(), StopError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), StopError> {
        // No new connections; those that are open end with their shards.
        self.listener = None;
        self.responder = None;
        for handle in &self.handles {
            handle.shared.command_waiting(Command::Stop);
        }
        let deadline = Instant::now() + STOP_LIMIT;
        let mut result = Ok(());
        for (number, handle) in self.handles.iter().enumerate() {
            let shard = number as u16;
            while !handle.shared.is_stopped() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !handle.shared.is_stopped() {
                // Its thread is left behind: it may be in the middle of a write that never ends.
                self.threads.get_mut(number).map(Option::take);
                result = result.and(Err(StopError::TimedOut { shard, seconds: STOP_LIMIT.as_secs() }));
                continue;
            }
            let Some(thread) = self.threads.get_mut(number).and_then(Option::take) else { continue };
            let ended = match thread.join() {
                Ok(ended) => ended,
                Err(_) => Err("its thread panicked".to_owned()),
            };
            result = result.and(ended.map_err(|why| StopError::Shard { shard, why }));
        }
        result
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        // How it went is for those who call `stop`.
        let _ = self.end();
    }
}

type ShardThread = JoinHandle<Result<(), String>>;

/// A thread for the shard; what became of its start is told through `up`.
fn spawn(
    host: Host,
    seed: ShardSeed,
    up: Sender<Result<(), StartError>>,
) -> Result<Option<ShardThread>, StartError> {
    let number = usize::from(seed.number());
    let shared = seed.handle().shared;
    let carry = move || {
        // Whatever ends this thread, a panic included: nobody waits for the shard after that.
        let _stopped = Stopped(shared);
        match host {
            Host::Thread { pin } => {
                if let Some(first) = pin {
                    thread::pin(first + number);
                }
                match seed.grow() {
                    Ok(shard) => {
                        let _ = up.send(Ok(()));
                        thread::carry(shard)
                    }
                    Err(error) => refused(&up, error),
                }
            }
            Host::Glommio => glommio::carry_alone(seed, &up),
        }
    };
    let thread = std::thread::Builder::new().name(format!("towline-shard-{number}")).spawn(carry);
    thread.map(Some).map_err(StartError::system("start a shard's thread"))
}

pub(crate) fn refused(up: &Sender<Result<(), StartError>>, error: StartError) -> Result<(), String> {
    let why = error.to_string();
    let _ = up.send(Err(error));
    Err(why)
}

/// Marks the shard as stopped, and wakes everybody who waits for it.
pub(crate) struct Stopped(pub(crate) Arc<crate::handle::shared::ShardShared>);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.end("the shard's thread has ended");
    }
}

fn status(name: &str, listen: Option<SocketAddr>, handles: &[Handle]) -> Status {
    Status {
        name: name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        listen: listen.map(|address| address.to_string()),
        shards: handles.iter().filter_map(Handle::status).map(|status| (*status).clone()).collect(),
    }
}

/// A disk that takes longer is given up; what it has not acknowledged is found out by the next start.
const STOP_LIMIT: Duration = Duration::from_secs(30);

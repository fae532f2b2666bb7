//! What stands side by side: each system is started, loaded through its client crate, and stopped here.

mod etcd;
mod library;
mod nats;
mod postgres;
mod redis;
mod sockets;
mod towline;

pub(crate) use library::{CHILD_COMMAND, child_main};
pub(crate) use postgres::{Postgres, STATEMENT};

use crate::load::Measured;
use crate::process::Ports;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use towline_bench::load::{Timing, Work};
use towline_report::schema::{Client, Level};

/// One system in one arrangement.
pub(crate) trait System {
    /// As in the report: `towline`, `postgres`, ….
    fn name(&self) -> &'static str;

    /// As it is told apart in messages: the name, and the arrangement where there are several.
    fn label(&self) -> String {
        self.name().into()
    }

    /// What it says about itself.
    fn version(&self) -> String;

    /// The points of one repetition.
    fn points(&self, clients: &[u32]) -> Vec<Spec>;

    /// Starts it below `dir`, which is made anew for each start, and waits until it takes requests.
    fn start(&mut self, dir: &Path) -> Result<()>;

    /// Loads it.
    fn measure(&mut self, spec: &Spec) -> Result<Measured>;

    /// An error when a part of it has ended by itself.
    fn check(&mut self) -> Result<()>;

    /// Ends it in order.
    fn stop(&mut self) -> Result<()>;
}

/// What all systems of a run have in common.
#[derive(Clone)]
pub(crate) struct Setting {
    /// The `towline` program.
    pub(crate) program: PathBuf,
    pub(crate) ports: Ports,
    pub(crate) record_bytes: usize,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    pub(crate) stop: Arc<AtomicBool>,
    /// Primitive and flush depth of every Towline node, raced once for the run.
    pub(crate) flushing: Option<(towline_uring::primitive::Primitive, usize)>,
    /// What the disk takes, measured at the start of the run.
    pub(crate) disk_bytes_per_s: Option<f64>,
}

impl Setting {
    /// One load of a point; what is not needed any more is trimmed on the way.
    pub(crate) fn work(&self, spec: &Spec, timing: Timing) -> Work<'_> {
        Work {
            level: towline_bench::level::of(spec.level),
            window: None,
            record_bytes: self.record_bytes,
            sizes: None,
            trim: true,
            timing,
            stop: &self.stop,
        }
    }
}

/// One point.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec {
    pub(crate) client: Client,
    /// The rung of the ladder whose promise the acknowledgement makes, or the nearest below.
    pub(crate) level: Level,
    pub(crate) clients: u32,
    /// OS threads, where each client is one.
    pub(crate) threads: Option<u32>,
    pub(crate) connections: Option<u32>,
    pub(crate) standbys: u32,
    pub(crate) sync_rule: &'static str,
    pub(crate) durable: bool,
    pub(crate) survives: &'static str,
    /// The setting in the system's own words.
    pub(crate) how: &'static str,
}

impl Spec {
    /// A point over sockets, a connection for each client.
    fn socket(clients: u32, level: Level, sync_rule: &'static str, how: &'static str) -> Self {
        Self {
            client: Client::Socket,
            level,
            clients,
            threads: None,
            connections: Some(clients),
            standbys: 2,
            sync_rule,
            durable: level != Level::Off,
            survives: survives(level),
            how,
        }
    }

    /// A point in this process, without standbys.
    fn alone(clients: u32, level: Level, how: &'static str) -> Self {
        Self {
            client: Client::Embedded,
            level,
            clients,
            threads: (level != Level::Off).then_some(clients),
            connections: None,
            standbys: 0,
            sync_rule: "",
            durable: level != Level::Off,
            survives: survives(level),
            how,
        }
    }

    /// In messages.
    pub(crate) fn describe(&self) -> String {
        format!("{} ({}), {} clients", self.level, self.how, self.clients)
    }
}

/// What a level survives, in the words of the ladder.
pub(crate) fn survives(level: Level) -> &'static str {
    match level {
        Level::Off => "a clean stop",
        Level::Local => "crash or power cut of the primary, if its disk comes back",
        Level::RemoteWrite => "loss of the primary; SIGKILL of a standby process",
        Level::On => "loss of the primary plus power cut of the standbys",
        Level::RemoteApply => {
            "loss of the primary plus power cut of the standbys; a read on the standbys sees it"
        }
    }
}

/// Written to the operating system and not flushed.
pub(crate) const SURVIVES_SIGKILL: &str = "SIGKILL of the process; not a power cut";
/// In the page cache of a majority.
pub(crate) const SURVIVES_ONE_NODE: &str = "loss of one node, SIGKILL of all; not a power cut of all";

/// Why a system is not part of a run.
#[derive(Debug)]
pub(crate) struct Absent(pub(crate) String);

/// What a run is made of.
pub(crate) struct Chosen {
    pub(crate) present: Vec<Box<dyn System>>,
    pub(crate) absent: Vec<(&'static str, Absent)>,
}

/// The systems named, or all; those that are not there say how to get them.
pub(crate) fn choose(names: &[String], setting: &Setting) -> Chosen {
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    let mut put = |name: &'static str, found: Result<Box<dyn System>, Absent>| match found {
        Ok(system) => present.push(system),
        Err(why) => absent.push((name, why)),
    };
    let wanted = |name: &str| names.is_empty() || names.iter().any(|given| given == name);
    let libraries = library::Library::ALL.iter().any(|library| wanted(library.name()));
    // Towline is what the others stand beside.
    put("towline", Ok(Box::new(towline::Towline::new(setting, towline::Arrangement::Socket))));
    put("towline", Ok(Box::new(towline::Towline::new(setting, towline::Arrangement::Embedded))));
    if libraries {
        put("towline", Ok(Box::new(towline::Towline::new(setting, towline::Arrangement::Off))));
        put("towline", Ok(Box::new(towline::Towline::new(setting, towline::Arrangement::Alone))));
    }
    if wanted("postgres") {
        put("postgres", postgres::Postgres::find(setting).map(|system| Box::new(system) as _));
    }
    if wanted("etcd") {
        put("etcd", etcd::Etcd::find(setting).map(|system| Box::new(system) as _));
    }
    if wanted("nats") {
        put("nats", nats::Nats::find(setting).map(|system| Box::new(system) as _));
    }
    if wanted("redis") {
        put("redis", redis::Redis::find(setting).map(|system| Box::new(system) as _));
    }
    for library in library::Library::ALL.into_iter().filter(|library| wanted(library.name())) {
        put(library.name(), Ok(Box::new(library::Libraries::new(setting, library))));
    }
    Chosen { present, absent }
}

/// Names that can be given.
pub(crate) const NAMES: [&str; 8] =
    ["towline", "postgres", "etcd", "nats", "redis", "raft-engine", "okaywal", "walrus"];

/// A runtime for client crates: one thread, as the other generators.
fn client_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a client runtime")
}

fn make_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

/// A part of a system has to answer within this time of its start.
const START_LIMIT: Duration = Duration::from_secs(30);

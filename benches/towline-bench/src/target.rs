//! A primary under test, embedded or behind a socket, as a [`Target`].

use crate::cluster::NodeSizes;
use crate::count::{Counters, ring_workers};
use crate::embedded::Embedded;
use crate::error::BenchError;
use crate::load::timeline::{OWN_MARKS, STANDBY_MARKS};
use crate::load::{Pending, Target};
use crate::measure::Observer;
use crate::plan::{ClientKind, Experiment, HostKind};
use crate::process::Process;
use std::collections::HashMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use towline::client::{Client, ClientOptions, Completion};
use towline::{Host, Level, Log, Lsn, Shard, Status, Ticket, Window};
use towline_core::format::{Committed, Outcome};

/// A primary under test.
pub(crate) struct Primary {
    way: Way,
    allocations: Option<fn() -> u64>,
}

enum Way {
    Embedded { log: Log, shards: Vec<Shard> },
    Socket { process: Process, appends: Vec<Arc<Mutex<Pipe>>>, control: Vec<Mutex<Client>> },
}

/// A connection with the ends of its appends that came before they were asked for.
pub(crate) struct Pipe {
    client: Client,
    ended: HashMap<u64, Outcome>,
}

impl Primary {
    /// Starts a primary in `dir` that ships to `standbys` (name and address).
    pub(crate) fn start(
        experiment: &Experiment,
        sizes: &NodeSizes,
        standbys: &[(String, String)],
        dir: &Path,
        logs: &Path,
        allocations: Option<fn() -> u64>,
    ) -> Result<Self, BenchError> {
        let way = match experiment.client {
            ClientKind::Embedded => embedded(experiment, sizes, standbys, dir)?,
            ClientKind::Socket => socket(experiment, sizes, standbys, dir, logs)?,
        };
        Ok(Self { way, allocations })
    }

    /// The process that the primary lives in.
    pub(crate) fn pid(&self) -> u32 {
        match &self.way {
            Way::Embedded { .. } => std::process::id(),
            Way::Socket { process, .. } => process.pid(),
        }
    }

    /// Everything that it tells about itself.
    pub(crate) fn status(&self) -> Result<Status, BenchError> {
        match &self.way {
            Way::Embedded { log, .. } => Ok(log.status()),
            Way::Socket { process, control, .. } => {
                // A connection is one shard's, and so is its answer.
                let shard = |client: &Mutex<Client>| {
                    let json = lock(client).status().map_err(|error| BenchError::failed("status", error))?;
                    serde_json::from_str(&json).map_err(|error| BenchError::failed("status", error))
                };
                Ok(Status {
                    name: "primary".into(),
                    version: env!("CARGO_PKG_VERSION").into(),
                    listen: Some(process.address.to_string()),
                    shards: control.iter().map(shard).collect::<Result<_, _>>()?,
                })
            }
        }
    }

    /// Appends one record to every shard and waits for it: everything before it is then as safe as `level` makes it.
    pub(crate) fn settle(&self, level: Level, limit: Duration) -> Result<(), BenchError> {
        let deadline = Instant::now() + limit;
        for shard in 0..self.shards() {
            let append = self.append(shard, b"settled.", level, None);
            let mut pending = append.map_err(|why| BenchError::failed("the log takes no append", why))?;
            loop {
                match pending.try_get() {
                    Some(Ok(_)) => break,
                    Some(Err(why)) => return Err(BenchError::failed("an append failed", why)),
                    None if Instant::now() > deadline => {
                        return Err(BenchError::Failed(format!(
                            "no acknowledgement at {level} within {} s: {}",
                            limit.as_secs(),
                            self.standing()
                        )));
                    }
                    None => std::thread::sleep(Duration::from_micros(200)),
                }
            }
        }
        Ok(())
    }

    /// Stops cleanly.
    pub(crate) fn close(self) -> Result<(), BenchError> {
        match self.way {
            Way::Embedded { log, shards } => {
                drop(shards);
                log.close().map_err(|error| BenchError::failed("the primary did not stop cleanly", error))
            }
            Way::Socket { process, appends, control } => {
                drop((appends, control));
                process.end()
            }
        }
    }

    /// Follows the log of a shard from its start and hands every payload to `on_record`, until there is nothing new.
    /// Embedded only.
    pub(crate) fn read_all(
        &self,
        shard: usize,
        upto: Lsn,
        mut on_record: impl FnMut(&[u8]),
    ) -> Result<(), BenchError> {
        let Way::Embedded { shards, .. } = &self.way else {
            return Err(BenchError::Failed("a log behind a socket is verified on disk, not read".into()));
        };
        let from = self.status()?.shards.get(shard).map_or(Lsn(0), |shard| shard.node.watermarks.log_start);
        let failed = |error: &dyn std::fmt::Display| BenchError::failed("reading the log back", error);
        let mut tail = shards[shard].tail_unsafe(from).map_err(|error| failed(&error))?;
        // All of it is flushed: what does not come at once does not come.
        while let Some(record) = tail.next_timeout(READ_LIMIT).map_err(|error| failed(&error))? {
            on_record(&record.payload);
            if tail.next_batch() >= upto && record.end.block_up() >= upto {
                return Ok(());
            }
        }
        if tail.next_batch() >= upto {
            return Ok(());
        }
        Err(BenchError::Failed(format!("reading the log back ended at {}, before {upto}", tail.next_batch())))
    }
}

impl Target for Primary {
    type Pending = AnyPending;

    fn shards(&self) -> usize {
        match &self.way {
            Way::Embedded { shards, .. } => shards.len(),
            Way::Socket { appends, .. } => appends.len(),
        }
    }

    #[inline]
    fn append(
        &self,
        shard: usize,
        payload: &[u8],
        level: Level,
        window: Option<Window>,
    ) -> Result<AnyPending, String> {
        match &self.way {
            Way::Embedded { shards, .. } => {
                Ok(AnyPending::Embedded(Embedded(shards).append(shard, payload, level, window)?))
            }
            Way::Socket { appends, .. } => {
                let pipe = &appends[shard];
                let request = lock(pipe).submit(payload, level, window)?;
                Ok(AnyPending::Socket { request, pipe: Arc::clone(pipe) })
            }
        }
    }

    fn trim(&self, shard: usize, below: Lsn) {
        match &self.way {
            Way::Embedded { shards, .. } => Embedded(shards).trim(shard, below),
            // One that is refused leaves the log longer, as there.
            Way::Socket { control, .. } => {
                let _ = lock(&control[shard]).trim(below);
            }
        }
    }

    fn exposure_bytes(&self) -> Option<u64> {
        match &self.way {
            Way::Embedded { shards, .. } => shards.iter().map(|shard| shard.exposure_bytes()[1]).sum(),
            Way::Socket { .. } => None,
        }
    }

    #[inline]
    fn watermarks(&self, shard: usize, into: &mut [Lsn]) {
        let Way::Embedded { shards, .. } = &self.way else { return };
        let (own, standbys) = into.split_at_mut(OWN_MARKS.min(into.len()));
        own.copy_from_slice(&shards[shard].own_lsns()[..own.len()]);
        for (standby, marks) in standbys.chunks_exact_mut(STANDBY_MARKS).enumerate() {
            if let Some(lsns) = shards[shard].standby_lsns(standby) {
                marks.copy_from_slice(&lsns);
            }
        }
    }

    fn standing(&self) -> String {
        let Ok(status) = self.status() else { return "the primary does not answer".into() };
        let mut parts = Vec::new();
        for shard in status.shards {
            let (marks, gate) = (shard.node.watermarks, shard.node.gate);
            parts.push(format!(
                "shard {} is {:?}, end {}, flushed {}, {} tickets wait",
                shard.shard, shard.node.role, marks.end.lsn, marks.flushed.lsn, gate.waiting
            ));
            for standby in shard.node.standbys {
                let (name, state, marks) = (standby.name, standby.state, standby.watermarks);
                parts.push(format!(
                    "standby '{name}' is {state}, sent {}, written {}, flushed {}, applied {}",
                    standby.sent, marks.written.lsn, marks.flushed.lsn, marks.applied.lsn
                ));
            }
            parts.extend(shard.events.into_iter().rev().take(3));
        }
        parts.join("; ")
    }
}

/// An append of either kind.
pub(crate) enum AnyPending {
    Embedded(Ticket),
    Socket { request: u64, pipe: Arc<Mutex<Pipe>> },
}

impl Pending for AnyPending {
    #[inline]
    fn try_get(&mut self) -> Option<Result<Committed, String>> {
        match self {
            Self::Embedded(ticket) => Pending::try_get(ticket),
            Self::Socket { request, pipe } => lock(pipe).ended(*request),
        }
    }

    #[inline]
    fn end(&self) -> Option<Lsn> {
        match self {
            Self::Embedded(ticket) => Pending::end(ticket),
            Self::Socket { .. } => None,
        }
    }

    fn wait(self) -> Result<Committed, String> {
        match self {
            Self::Embedded(ticket) => Pending::wait(ticket),
            Self::Socket { request, pipe } => loop {
                // One client per connection waits like this; the plan allows no more.
                if let Some(outcome) = lock(&pipe).ended(request) {
                    return outcome;
                }
                std::thread::yield_now();
            },
        }
    }
}

impl Pipe {
    fn submit(&mut self, payload: &[u8], level: Level, window: Option<Window>) -> Result<u64, String> {
        let request = self.client.submit(&[payload], level, window).map_err(|error| error.to_string())?;
        // Out at once: a closed loop with one client has nothing to gather.
        self.client.flush().map_err(|error| error.to_string())?;
        Ok(request)
    }

    fn ended(&mut self, request: u64) -> Option<Result<Committed, String>> {
        loop {
            if let Some(outcome) = self.ended.remove(&request) {
                return Some(match outcome {
                    Outcome::Committed(committed) => Ok(committed),
                    Outcome::Refused(why) | Outcome::Indeterminate(why) => Err(why),
                });
            }
            match self.client.try_recv() {
                Ok(Some(Completion { request, outcome })) => self.ended.insert(request, outcome),
                Ok(None) => return None,
                Err(error) => return Some(Err(error.to_string())),
            };
        }
    }
}

/// A primary as seen from the side, by the stage that a level waits for.
pub(crate) struct Watch<'a> {
    pub(crate) primary: &'a Primary,
    pub(crate) level: Level,
}

impl Observer for Watch<'_> {
    fn sample_every(&self) -> Duration {
        match self.primary.way {
            Way::Embedded { .. } => Duration::from_millis(4),
            // A status over the socket is work for the primary.
            Way::Socket { .. } => Duration::from_millis(50),
        }
    }

    fn exposure_bytes(&self) -> Option<u64> {
        let stage = match self.level {
            Level::RemoteWrite => 0,
            Level::RemoteApply => 2,
            Level::Off | Level::Local | Level::On => 1,
        };
        if let Way::Embedded { shards, .. } = &self.primary.way {
            return shards.iter().map(|shard| shard.exposure_bytes()[stage]).sum();
        }
        let status = self.primary.status().ok()?;
        let exposures = status.shards.iter().map(|shard| shard.node.gate.exposure_bytes[stage]);
        exposures.sum::<Option<u64>>()
    }

    fn counters(&self) -> Counters {
        let Ok(status) = self.primary.status() else { return Counters::default() };
        let mut counters = Counters { submitting_enters: Some(0), ..Counters::default() };
        for shard in &status.shards {
            counters.enters += shard.driver.enters;
            counters.submitting_enters =
                counters.submitting_enters.map(|enters| enters + shard.driver.submitting);
            counters.flushes += shard.driver.flushes;
            counters.batches += shard.driver.batches;
            counters.degraded_acks += shard.driver.degraded_acks;
            let flushed = shard.node.standbys.iter().map(|standby| standby.watermarks.flushed.payload_bytes);
            counters.standby_payload_bytes += flushed.min().unwrap_or(0);
        }
        counters
    }

    fn allocations(&self) -> Option<u64> {
        self.primary.allocations.map(|count| count())
    }

    fn ring_workers(&self) -> usize {
        ring_workers(self.primary.pid()).unwrap_or(0)
    }
}

fn embedded(
    experiment: &Experiment,
    sizes: &NodeSizes,
    standbys: &[(String, String)],
    dir: &Path,
) -> Result<Way, BenchError> {
    let mut builder = Log::builder().name("primary").shards(experiment.shards).host(match experiment.host {
        HostKind::Thread => Host::Thread { pin: None },
        HostKind::Glommio => Host::Glommio,
    });
    for (name, address) in standbys {
        builder = builder.standby(name, address);
    }
    if let Some(rule) = &experiment.sync_rule {
        builder = builder.sync_rule(rule);
    }
    let log = builder
        .options(|options| {
            options.retention_bytes = sizes.retention_bytes;
            options.hold_bytes = sizes.hold_bytes;
            options.prepare_segments = sizes.prepare_segments;
            options.buffered = sizes.buffered;
            options.primitive = sizes.durability.map(|(primitive, _)| primitive);
            options.flush_depth = sizes.durability.map(|(_, depth)| depth);
        })
        .open(dir)
        .map_err(|error| BenchError::failed("the primary cannot start", error))?;
    let shards = log.shards().to_vec();
    Ok(Way::Embedded { log, shards })
}

fn socket(
    experiment: &Experiment,
    sizes: &NodeSizes,
    standbys: &[(String, String)],
    dir: &Path,
    logs: &Path,
) -> Result<Way, BenchError> {
    let mut arguments: Vec<OsString> = vec!["primary".into(), "--dir".into(), dir.into()];
    let mut flag = |name: &str, value: String| arguments.push(format!("--{name}={value}").into());
    flag("listen", "127.0.0.1:0".into());
    flag("until-input-ends", "true".into());
    flag("name", "primary".into());
    flag("shards", experiment.shards.to_string());
    flag("host", experiment.host.as_str().into());
    flag("retention-bytes", sizes.retention_bytes.to_string());
    flag("hold-bytes", sizes.hold_bytes.to_string());
    flag("prepare-segments", sizes.prepare_segments.to_string());
    if let Some((primitive, depth)) = sizes.durability {
        flag("primitive", primitive.name().into());
        flag("flush-depth", depth.to_string());
    }
    if sizes.buffered {
        flag("buffered", "true".into());
    }
    for (name, address) in standbys {
        flag("standby", format!("{name}={address}"));
    }
    if let Some(rule) = &experiment.sync_rule {
        flag("sync-rule", rule.clone());
    }
    let process = Process::start("primary", &arguments, logs)?;
    let connect = |shard: u16| {
        let options =
            ClientOptions { max_outstanding: 60_000, name: "bench".into(), ..ClientOptions::default() };
        connect(process.address, shard, options)
    };
    let mut appends = Vec::new();
    let mut control = Vec::new();
    for shard in 0..experiment.shards {
        appends.push(Arc::new(Mutex::new(Pipe { client: connect(shard)?, ended: HashMap::new() })));
        control.push(Mutex::new(connect(shard)?));
    }
    Ok(Way::Socket { process, appends, control })
}

fn connect(address: SocketAddr, shard: u16, options: ClientOptions) -> Result<Client, BenchError> {
    Client::connect_with(address, shard, options)
        .map_err(|error| BenchError::failed("connecting to the primary", error))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A generator that panicked has ended the measurement; what it left is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const READ_LIMIT: Duration = Duration::from_secs(1);

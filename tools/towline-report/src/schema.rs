//! `report.json`: names that other programs read. Fields may be added; none is renamed or removed without a new
//! [`SCHEMA_VERSION`].

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

pub use crate::environment::Environment;
pub use crate::experiments::*;

/// The version this crate writes, and the newest it reads.
pub const SCHEMA_VERSION: u32 = 1;

/// Name of the report inside a run folder.
pub const REPORT_FILE: &str = "report.json";

/// One run: its floors, its points, and the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`] at the time of writing.
    pub schema_version: u32,
    /// What the run is called, `canonical` for the run without arguments.
    pub name: String,
    /// RFC 3339, UTC.
    pub started_utc: String,
    /// How long the run took, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_s: Option<f64>,
    /// The arguments, without paths of the machine; see [`crate::environment::portable_command`].
    pub command: Vec<String>,
    /// Too few repetitions for claims: true below ten.
    pub indicative: bool,
    /// What a reader must know beside the numbers: noise seen, parts left out and why.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What the bare machine can do, measured in this run.
    pub floors: Floors,
    /// Every measured point, one per repetition.
    pub points: Vec<Point>,
    /// The measured table "What it must reach".
    #[serde(default)]
    pub checks: Vec<Check>,
    /// How the durability primitives raced on this device.
    #[serde(default)]
    pub primitives: Vec<PrimitiveRace>,
    /// Where the window sweeps bend; [`crate::knee::of_report`] computes them.
    #[serde(default)]
    pub knees: Vec<Knee>,
    /// Records timed at every watermark, one for each load and repetition.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timelines: Vec<Timeline>,
    /// The machine and the code.
    pub environment: Environment,
}

impl Report {
    /// A report with nothing in it yet, started now.
    pub fn new(name: impl Into<String>, command: Vec<String>, environment: Environment) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            name: name.into(),
            started_utc: crate::run_folder::utc_now_rfc3339(),
            took_s: None,
            command,
            indicative: true,
            notes: Vec::new(),
            floors: Floors::default(),
            points: Vec::new(),
            checks: Vec::new(),
            primitives: Vec::new(),
            knees: Vec::new(),
            timelines: Vec::new(),
            environment,
        }
    }

    /// Reads `report.json` of a run folder, or the file itself.
    ///
    /// # Errors
    /// [`LoadError`]: no such run, not a whole report, or one written by a newer version.
    pub fn load(run: &Path) -> Result<Self, LoadError> {
        let path = if run.is_dir() { run.join(REPORT_FILE) } else { run.to_owned() };
        let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => LoadError::Missing { path: path.clone() },
            _ => LoadError::Unreadable { path: path.clone(), source },
        })?;
        // The version first: a newer report may well not parse, and that is not the reason to give.
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        let damaged = |source| LoadError::Damaged { path: path.clone(), source };
        let found = serde_json::from_str::<Version>(&text).map_err(damaged)?.schema_version;
        if found > SCHEMA_VERSION {
            return Err(LoadError::Newer { path, found });
        }
        serde_json::from_str(&text).map_err(damaged)
    }

    /// Writes `report.json` into the folder `run`, replacing an older one in one step.
    ///
    /// # Errors
    /// What the file system said; or that a figure is not a number, which JSON cannot hold and no one could load.
    pub fn save(&self, run: &Path) -> Result<(), crate::FolderError> {
        let path = run.join(REPORT_FILE);
        let loads_again = serde_json::to_value(self).and_then(serde_json::from_value::<Self>);
        if let Err(error) = loads_again {
            let reason = format!("the report holds a figure that is not a number ({error})");
            return Err(crate::FolderError { path, source: std::io::Error::other(reason) });
        }
        crate::run_folder::write_json(&path, self)
    }

    /// Points of one experiment.
    pub fn experiment<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Point> {
        self.points.iter().filter(move |point| point.experiment == name)
    }

    /// How many repetitions the points hold.
    pub fn repetitions(&self) -> usize {
        self.points.iter().map(|point| point.repetition as usize + 1).max().unwrap_or(0)
    }
}

/// Why a report cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is none.
    #[error("no report at {}: give a folder under results/runs/, or a report.json", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It is there and cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// Cut short, or not a report.
    #[error("{} is not a whole report ({source}): was the run interrupted, or the file edited?", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where reading it stopped.
        source: serde_json::Error,
    },
    /// Written by a newer version.
    #[error("{} has schema version {found}, this program reads up to {SCHEMA_VERSION}: use a newer towline", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// What the bare machine can do; each waiting in the way that is fastest on it. `None` is not measured in this run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Floors {
    /// One durable 4 KiB write at depth 1, ns.
    pub durable_write_ns: Option<FloorNs>,
    /// Two bare processes: a durable write in parallel with shipping to one peer that does the same and answers, ns.
    pub pair_commit_ns: Option<FloorNs>,
    /// A small message there and back, ns.
    pub round_trip_ns: Option<FloorNs>,
    /// Sequential direct writes, bytes per second.
    pub disk_bytes_per_s: Option<f64>,
    /// One TCP stream between two processes, bytes per second.
    pub net_bytes_per_s: Option<f64>,
    /// Durable 4 KiB writes per second with 32 in flight.
    pub durable_writes_per_s_depth32: Option<f64>,
    /// Copy, CRC and reserve of one 256-byte record, ns: the floor of `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append_copy_ns: Option<FloorNs>,
    /// The floors of each repetition, where they were measured between the points.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_repetition: Vec<FloorsOfRepetition>,
}

/// Quantiles of one floor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FloorNs {
    /// Median, ns.
    pub p50: u64,
    /// 99th percentile, ns.
    pub p99: u64,
    /// How many were timed.
    #[serde(default)]
    pub samples: u64,
    /// How it waited: `spin` or `park`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

/// Medians of the floors measured beside one repetition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FloorsOfRepetition {
    /// Counted from 0.
    pub repetition: u32,
    /// p50, ns.
    pub durable_write_ns: Option<u64>,
    /// p50, ns.
    pub pair_commit_ns: Option<u64>,
    /// p50, ns.
    pub round_trip_ns: Option<u64>,
    /// Per second.
    pub durable_writes_per_s_depth32: Option<f64>,
    /// Bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes_per_s: Option<f64>,
    /// Bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_bytes_per_s: Option<f64>,
}

/// One measured point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// `towline`, or what stands beside it.
    pub system: String,
    /// `ladder`, `replay`, `window`, or another name.
    pub experiment: String,
    /// How the client reached the log.
    pub client: Client,
    /// Commit level asked for.
    pub level: Level,
    /// Lag window asked for; `None` for none.
    pub window: Option<Window>,
    /// As `ANY 1 (a, b)`; empty for none.
    pub sync_rule: String,
    /// Standbys connected.
    pub standbys: u32,
    /// Round trip that the emulated link adds, µs; 0 is bare loopback.
    pub link_rtt_us: f64,
    /// Offered load.
    pub load: Load,
    /// Payload bytes of a record; the mean where they vary.
    pub record_bytes: f64,
    /// Shards of the primary.
    pub shards: u32,
    /// Commits acknowledged per second.
    pub achieved_per_s: f64,
    /// Commit latency as the client saw it.
    pub latency_ns: LatencyNs,
    /// Payload bytes past the safe LSN at each windowed ack.
    pub fill_bytes: Option<Spread>,
    /// Acknowledged payload bytes past the safe LSN, sampled over time.
    pub exposure_bytes: Option<Spread>,
    /// Tickets that their window held back.
    pub waited_for_window: u64,
    /// Counted from 0.
    pub repetition: u32,

    /// p50 against the floor of its level, in the same repetition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio_to_floor: Option<FloorRatio>,
    /// Mean latency, ns: far above p50 where something disturbed the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_ns: Option<f64>,
    /// The window's fill in its own unit (records, or µs), where that is not bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill_in_unit: Option<Spread>,
    /// Commits offered per second, open loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offered_per_s: Option<f64>,
    /// Round trip through the link as measured in this run, µs, p50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_rtt_measured_us: Option<f64>,
    /// Seconds on the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
    /// Submitting ring enters of the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enters: Option<u64>,
    /// Flushes of the primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flushes: Option<u64>,
    /// Batches closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches: Option<u64>,
    /// Submitting enters per flush, in the steady state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enters_per_flush: Option<f64>,
    /// Heap allocations per commit, in the steady state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocations_per_commit: Option<f64>,
    /// Acks by the level that was achieved.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub acks_by_achieved_level: std::collections::BTreeMap<Level, u64>,
    /// Share of processor time that the hypervisor took away meanwhile, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal_percent: Option<f64>,
    /// Name of this point's histogram in `histograms/`, without the ending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub histogram: Option<String>,
    /// What is special about this point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,

    /// Version of the system, where several stand side by side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether an acknowledged record survives a power cut of every node, as configured here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<bool>,
    /// What an acknowledgement survives, in the words of the ladder. Rows are ranked only with rows of the same words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survives: Option<String>,
    /// Connections that the clients share; `None` where there are none, or where it was not varied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// What only some experiments have; in `report.json` among the fields above.
    #[serde(flatten)]
    pub detail: Detail,
}

impl Point {
    /// Payload bytes acknowledged per second.
    pub fn bytes_per_s(&self) -> f64 {
        self.achieved_per_s * self.record_bytes
    }
}

/// How a client reaches the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Client {
    /// Through the library, in the primary's process.
    Embedded,
    /// Over the socket.
    Socket,
}

impl Client {
    /// The name in `report.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Socket => "socket",
        }
    }
}

/// Commit levels, named as PostgreSQL's `synchronous_commit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Accepted.
    Off,
    /// Own flush.
    Local,
    /// And k standbys written.
    RemoteWrite,
    /// And k standbys flushed.
    On,
    /// And k standbys applied.
    RemoteApply,
}

impl Level {
    /// All of them, weakest first.
    pub const ALL: [Self; 5] = [Self::Off, Self::Local, Self::RemoteWrite, Self::On, Self::RemoteApply];

    /// The name in `report.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Local => "local",
            Self::RemoteWrite => "remote_write",
            Self::On => "on",
            Self::RemoteApply => "remote_apply",
        }
    }

    /// What its acknowledgement waits for, for people.
    pub fn waits_for(self) -> &'static str {
        match self {
            Self::Off => "a place in the log",
            Self::Local => "own flush",
            Self::RemoteWrite => "own flush, standby memory",
            Self::On => "own flush, standby flush",
            Self::RemoteApply => "own flush, standby apply",
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|level| level.as_str() == name);
        found.ok_or_else(|| format!("level '{name}': off, local, remote_write, on or remote_apply"))
    }
}

/// A lag window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// Payload bytes.
    Bytes(u64),
    /// Records.
    Records(u64),
    /// Microseconds between acceptances.
    Micros(u64),
    /// No bound: `local`.
    Inf,
}

/// Offered load: how requests arrive and from how many threads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// `closed` or `open_per_s`.
    #[serde(flatten)]
    pub arrival: Arrival,
    /// OS threads of the generator; `None` is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
}

impl Load {
    /// `clients` outstanding appends of one thread.
    pub fn closed(clients: u32) -> Self {
        Self { arrival: Arrival::Closed(clients), threads: None }
    }

    /// Appends at `rate_per_s`, with intended start times.
    pub fn open(rate_per_s: f64) -> Self {
        Self { arrival: Arrival::OpenPerS(rate_per_s), threads: None }
    }
}

/// How requests arrive.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrival {
    /// Closed loop: so many outstanding appends, each replaced when it is acknowledged.
    Closed(u32),
    /// Open loop: so many per second, late or not.
    OpenPerS(f64),
}

/// Latency quantiles from a merged histogram, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyNs {
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Largest.
    pub max: u64,
    /// How many.
    pub samples: u64,
}

/// Quantiles of a gauge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Largest.
    pub max: u64,
}

/// A ratio to one floor of the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FloorRatio {
    /// The floor's name, as `durable_write_ns`.
    pub floor: String,
    /// p50 of the point over p50 of the floor.
    pub p50_ratio: f64,
}

/// One row of "What it must reach".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What is measured.
    pub measure: String,
    /// The bar in words, as `≤ 1.15 × durable-write floor`.
    pub bar: String,
    /// What was measured, in `unit`; `None` when this run did not.
    pub value: Option<f64>,
    /// `×`, `per second`, `%`, or a word.
    #[serde(default)]
    pub unit: String,
    /// Over the repetitions, in the same unit.
    pub spread: Option<Interval>,
    /// The floor it is held against, in words with its figure.
    pub floor: Option<String>,
    /// `None` when this run did not measure it.
    pub met: Option<bool>,
    /// Where it is out of reach: where the time goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// From `low` to `high`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// How one durability primitive did on this device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrimitiveRace {
    /// As `write_dsync`, `write_then_fsync`.
    pub name: String,
    /// Writes in flight.
    pub depth: u32,
    /// p50, ns.
    pub p50_ns: u64,
    /// p99, ns.
    pub p99_ns: u64,
    /// Durable writes per second.
    pub per_s: f64,
    /// The one that the run used.
    pub chosen: bool,
}

/// Where one curve of the window sweep bends. Sizes in payload bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Knee {
    /// Round trip that the emulated link adds, µs.
    pub link_rtt_us: f64,
    /// The load of the curve.
    pub load: Load,
    /// λ, payload bytes per second.
    pub lambda_bytes_per_s: f64,
    /// F, ns.
    pub durable_write_ns: f64,
    /// N + F_standby, ns.
    pub remote_ns: f64,
    /// W* = λ (N + F_standby − F), at least one batch.
    pub formula_bytes: f64,
    /// The formula with F and N + F_standby as this load saw them: p50 at ω = ∞ and at ω = 0.
    pub formula_under_load_bytes: Option<f64>,
    /// The smallest window whose p50 is within 10 % of that at ω = ∞.
    pub measured_bytes: Option<f64>,
    /// The next smaller window of the sweep: the knee lies above it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub too_small_bytes: Option<f64>,
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;

//! An [`Experiment`] that can be run: what it does, and which keys each kind knows. [`table`] is how it is written,
//! [`resolve`](mod@resolve) how it is checked.

mod estimate;
mod resolve;
mod table;

pub(crate) use resolve::resolve;
pub use table::Overrides;
pub(crate) use table::Table;

pub use crate::load::payloads::Sizes;

use serde::Deserialize;
use std::time::Duration;
use towline_core::types::{Level, Window};

/// One experiment, checked: everything it needs is here, nothing contradicts.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// As in the report's points.
    pub name: String,
    /// What is done.
    pub kind: Kind,
    /// How the client reaches the log.
    pub client: ClientKind,
    /// What hosts the primary's shards.
    pub host: HostKind,
    /// Commit levels, each a point.
    pub levels: Vec<Level>,
    /// Outstanding appends, closed loop; each a point.
    pub clients: Vec<u32>,
    /// One thread for all clients, or a thread for each.
    pub generators: Vec<Generator>,
    /// Payload bytes of a record.
    pub record_bytes: usize,
    /// Sizes of the records, where they vary; `record_bytes` is then their mean.
    pub record_sizes: Option<Sizes>,
    /// Standbys started here, named `a`, `b`, ….
    pub standbys: u32,
    /// Standbys that run elsewhere: name and address.
    pub remote: Vec<(String, String)>,
    /// Who counts; `None` where no standby does.
    pub sync_rule: Option<String>,
    /// Round trips that the emulated link adds, µs; each a cluster of its own. 0 is no emulator.
    pub link_rtts_us: Vec<u64>,
    /// Rate of the emulated link, bytes per second; `None` is unlimited.
    pub link_rate_bytes_per_s: Option<u64>,
    /// Lag windows, each a point.
    pub windows: Windows,
    /// Open loads, each a point.
    pub rates: Vec<Rate>,
    /// How open loads arrive.
    pub arrivals: Arrivals,
    /// Not measured before this much time has passed.
    pub warm_up: Duration,
    /// Measured.
    pub duration: Duration,
    /// How often each point is measured.
    pub repetitions: u32,
    /// Shards of the primary.
    pub shards: u16,
    /// `memory` and `stall`: how long the standby is stopped.
    pub stopped: Duration,
    /// `mixed`: one record in so many is appended at the stronger level.
    pub one_in: u32,
    /// `memory`: how far registered standbys hold trimming back; `None` is the default.
    pub hold_bytes: Option<u64>,
}

impl Experiment {
    /// Names of all standbys, in the order of the configuration.
    pub fn standby_names(&self) -> Vec<String> {
        let started = (0..self.standbys).map(|index| char::from(b'a' + index as u8).to_string());
        started.chain(self.remote.iter().map(|(name, _)| name.clone())).collect()
    }

    /// Points of one repetition, over all links.
    pub fn points(&self) -> usize {
        let per_link = match self.kind {
            Kind::Ladder => self.levels.len() * self.clients.len() * self.generators.len(),
            Kind::Replay => self.levels.len(),
            // The plain level and `local` stand beside the windows, at the same load.
            Kind::Window => self.windows.len() * self.levels.len() + 2,
            Kind::Rates | Kind::Knee => self.levels.len() * self.rates.len(),
            Kind::Timeline => self.levels.len() * self.clients.len(),
            Kind::Mixed => self.clients.len(),
            Kind::Stall => self.levels.len(),
            Kind::Off | Kind::Stream | Kind::Memory => 1,
        };
        per_link * self.link_rtts_us.len()
    }

    /// Seconds that its points take at least.
    pub fn measured_s(&self) -> f64 {
        // Of a stall the stop is part of the measured time.
        let stopped = if self.kind == Kind::Stall { Duration::ZERO } else { self.stopped };
        let point = self.warm_up + self.duration + stopped;
        point.as_secs_f64() * self.points() as f64 * f64::from(self.repetitions)
    }
}

/// What an experiment does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Levels by clients, closed loop.
    Ladder,
    /// Real WAL at each level.
    Replay,
    /// Latency against the lag window, open loop.
    Window,
    /// Latency against the offered load, open loop.
    Rates,
    /// Records per second at `off`, then `log verify`.
    Off,
    /// Bytes per second to one standby at `off`, trimming.
    Stream,
    /// Memory while a standby is stopped.
    Memory,
    /// Every record timed at every watermark, closed loop; what that itself costs.
    Timeline,
    /// The offered load swept past saturation, open loop.
    Knee,
    /// A standby is stopped for a moment in mid-run, open loop.
    Stall,
    /// One stream at two levels, closed loop.
    Mixed,
}

impl Kind {
    /// The name in a workload.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ladder => "ladder",
            Self::Replay => "replay",
            Self::Window => "window",
            Self::Rates => "rates",
            Self::Off => "off",
            Self::Stream => "stream",
            Self::Memory => "memory",
            Self::Timeline => "timeline",
            Self::Knee => "knee",
            Self::Stall => "stall",
            Self::Mixed => "mixed",
        }
    }

    /// Whether a key has a meaning for it.
    fn knows(self, key: &str) -> bool {
        let own: &[&str] = match self {
            Self::Ladder => &[
                "levels",
                "clients",
                "generators",
                "record_bytes",
                "record_sizes",
                "duration_ms",
                "sync_rule",
            ],
            Self::Mixed => {
                &["levels", "clients", "one_in", "record_bytes", "record_sizes", "duration_ms", "sync_rule"]
            }
            Self::Replay => &["levels", "duration_ms", "sync_rule"],
            Self::Window => &[
                "levels",
                "windows",
                "window_unit",
                "window_steps",
                "rate_per_s",
                "rate_fraction",
                "arrivals",
                "burst",
                "record_bytes",
                "record_sizes",
                "duration_ms",
                "sync_rule",
            ],
            Self::Timeline => &["levels", "clients", "record_bytes", "duration_ms", "sync_rule"],
            Self::Stall => &[
                "levels",
                "rate_per_s",
                "rate_fraction",
                "arrivals",
                "burst",
                "record_bytes",
                "record_sizes",
                "duration_ms",
                "stopped_ms",
                "sync_rule",
            ],
            Self::Rates | Self::Knee => &[
                "levels",
                "rate_per_s",
                "rate_fractions",
                "arrivals",
                "burst",
                "record_bytes",
                "record_sizes",
                "duration_ms",
                "sync_rule",
            ],
            Self::Off | Self::Stream => &["record_bytes", "duration_ms"],
            Self::Memory => {
                &["record_bytes", "rate_bytes_per_s", "stopped_ms", "hold_bytes", "standbys", "sync_rule"]
            }
        };
        let shipping = ["standbys", "remote", "link_rtt_us", "link_rate_bytes_per_s"];
        let ships = !matches!(self, Self::Off | Self::Memory);
        COMMON.contains(&key) || own.contains(&key) || (ships && shipping.contains(&key))
    }
}

/// How the client reaches the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientKind {
    /// Through the library; the primary lives in the measuring process.
    Embedded,
    /// Over the socket; the primary is a process of its own.
    Socket,
}

/// What hosts the primary's shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostKind {
    /// A thread per shard.
    Thread,
    /// A task in a glommio executor per shard.
    Glommio,
}

impl HostKind {
    /// The name in a workload and on a command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Glommio => "glommio",
        }
    }
}

/// What the clients of a closed loop are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Generator {
    /// Outstanding tickets of one thread, which polls them.
    OneThread,
    /// A thread each, parked while it waits.
    Threads,
}

/// Which lag windows.
#[derive(Clone, Debug, PartialEq)]
pub enum Windows {
    /// 0, finite steps around the measured knee, ∞.
    Sweep {
        /// How many in all.
        steps: usize,
    },
    /// These.
    List(Vec<Window>),
}

impl Windows {
    fn len(&self) -> usize {
        match self {
            Self::Sweep { steps } => *steps,
            Self::List(windows) => windows.len(),
        }
    }
}

/// An open load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Records per second.
    PerS(f64),
    /// A share of what a closed loop got from the same cluster; above 1 is overload.
    OfSaturation(f64),
}

/// How an open load arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// Exponential distances.
    Poisson,
    /// Equal distances.
    Constant,
    /// So many at once, the bursts at exponential distances.
    Bursts(u32),
}

impl Arrivals {
    /// As points say it.
    pub(crate) fn words(self) -> String {
        match self {
            Self::Poisson => "poisson".into(),
            Self::Constant => "constant".into(),
            Self::Bursts(count) => format!("bursts of {count}"),
        }
    }
}

/// Keys of every experiment.
const COMMON: [&str; 7] = ["kind", "name", "client", "host", "warm_up_ms", "repetitions", "shards"];

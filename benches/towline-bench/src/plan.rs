//! From a table of keys to an [`Experiment`] that can be run: which keys each kind knows, their defaults, their
//! ranges, and which of them contradict each other.

use crate::rule;
use serde::Deserialize;
use std::time::Duration;
use towline_core::types::limits::{MAX_RECORD_BYTES, MAX_STANDBYS};
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
    /// `memory`: how long the standby is stopped.
    pub stopped: Duration,
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
            Kind::Rates => self.levels.len() * self.rates.len(),
            Kind::Off | Kind::Stream | Kind::Memory => 1,
        };
        per_link * self.link_rtts_us.len()
    }

    /// Seconds that its points take at least.
    pub fn measured_s(&self) -> f64 {
        let point = self.warm_up + self.duration + self.stopped;
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
        }
    }

    /// Whether a key has a meaning for it.
    fn knows(self, key: &str) -> bool {
        let own: &[&str] = match self {
            Self::Ladder => &["levels", "clients", "generators", "record_bytes", "duration_ms", "sync_rule"],
            Self::Replay => &["levels", "duration_ms", "sync_rule"],
            Self::Window => &[
                "levels",
                "windows",
                "window_unit",
                "window_steps",
                "rate_per_s",
                "rate_fraction",
                "arrivals",
                "record_bytes",
                "duration_ms",
                "sync_rule",
            ],
            Self::Rates => &[
                "levels",
                "rate_per_s",
                "rate_fractions",
                "arrivals",
                "record_bytes",
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
    /// A share of what a closed loop got from the same cluster.
    OfSaturation(f64),
}

/// How an open load arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Exponential distances.
    Poisson,
    /// Equal distances.
    Constant,
}

/// Settings from flags, which replace those of a workload wherever they have a meaning.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)] // Each is the key of the same name.
pub struct Overrides {
    pub levels: Option<Vec<Level>>,
    pub clients: Option<Vec<u32>>,
    pub sync_rule: Option<String>,
    pub standbys: Option<u32>,
    pub remote: Vec<(String, String)>,
    pub record_bytes: Option<u64>,
    pub rate_per_s: Option<f64>,
    pub duration_ms: Option<u64>,
    pub repetitions: Option<u32>,
    pub shards: Option<u16>,
    pub link_rtt_us: Option<u64>,
    pub link_rate_bytes_per_s: Option<u64>,
    pub client: Option<ClientKind>,
    pub host: Option<HostKind>,
}

impl Overrides {
    /// Puts each flag into every experiment that knows it; one that none knows is refused.
    pub(crate) fn apply(&self, tables: &mut [Table]) -> Result<(), String> {
        let mut put = |key: &str, given: bool, set: &mut dyn FnMut(&mut Table)| {
            if !given {
                return Ok(());
            }
            let mut obeyed = false;
            for table in tables.iter_mut().filter(|table| table.kind.knows(key)) {
                set(table);
                obeyed = true;
            }
            let flag = key.replace('_', "-");
            if obeyed {
                Ok(())
            } else {
                Err(format!("no experiment of this run knows {flag}: leave the flag out"))
            }
        };
        put("levels", self.levels.is_some(), &mut |table| {
            table.levels =
                self.levels.as_ref().map(|levels| levels.iter().map(|level| level.to_string()).collect());
        })?;
        put("clients", self.clients.is_some(), &mut |table| table.clients = self.clients.clone())?;
        // A rule of the workload names standbys that flags may have taken away.
        let other_standbys = self.standbys.is_some() || !self.remote.is_empty();
        put("standbys", other_standbys, &mut |table| {
            table.standbys = Some(self.standbys.unwrap_or(0));
            table.sync_rule = None;
        })?;
        put("sync_rule", self.sync_rule.is_some(), &mut |table| table.sync_rule = self.sync_rule.clone())?;
        put("record_bytes", self.record_bytes.is_some(), &mut |table| {
            table.record_bytes = self.record_bytes
        })?;
        put("rate_per_s", self.rate_per_s.is_some(), &mut |table| {
            table.rate_per_s = self.rate_per_s.map(OneOrMore::One);
            table.rate_fraction = None;
            table.rate_fractions = None;
        })?;
        put("duration_ms", self.duration_ms.is_some(), &mut |table| table.duration_ms = self.duration_ms)?;
        put("repetitions", self.repetitions.is_some(), &mut |table| table.repetitions = self.repetitions)?;
        put("shards", self.shards.is_some(), &mut |table| table.shards = self.shards)?;
        put("link_rtt_us", self.link_rtt_us.is_some(), &mut |table| {
            table.link_rtt_us = self.link_rtt_us.map(OneOrMore::One);
        })?;
        put("link_rate_bytes_per_s", self.link_rate_bytes_per_s.is_some(), &mut |table| {
            table.link_rate_bytes_per_s = self.link_rate_bytes_per_s;
        })?;
        put("client", self.client.is_some(), &mut |table| table.client = self.client)?;
        put("host", self.host.is_some(), &mut |table| table.host = self.host)
    }
}

/// One `[[experiment]]` as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    pub(crate) kind: Kind,
    name: Option<String>,
    client: Option<ClientKind>,
    host: Option<HostKind>,
    levels: Option<Vec<String>>,
    clients: Option<Vec<u32>>,
    generators: Option<Vec<Generator>>,
    record_bytes: Option<u64>,
    standbys: Option<u32>,
    sync_rule: Option<String>,
    link_rtt_us: Option<OneOrMore<u64>>,
    link_rate_bytes_per_s: Option<u64>,
    windows: Option<RawWindows>,
    window_unit: Option<WindowUnit>,
    window_steps: Option<usize>,
    rate_per_s: Option<OneOrMore<f64>>,
    rate_fraction: Option<f64>,
    rate_fractions: Option<Vec<f64>>,
    rate_bytes_per_s: Option<u64>,
    arrivals: Option<Arrivals>,
    warm_up_ms: Option<u64>,
    duration_ms: Option<u64>,
    repetitions: Option<u32>,
    shards: Option<u16>,
    stopped_ms: Option<u64>,
    hold_bytes: Option<u64>,
}

/// Keys of every experiment.
const COMMON: [&str; 7] = ["kind", "name", "client", "host", "warm_up_ms", "repetitions", "shards"];

impl Table {
    /// Keys that were given.
    fn given(&self) -> Vec<&'static str> {
        [
            ("levels", self.levels.is_some()),
            ("clients", self.clients.is_some()),
            ("generators", self.generators.is_some()),
            ("record_bytes", self.record_bytes.is_some()),
            ("standbys", self.standbys.is_some()),
            ("sync_rule", self.sync_rule.is_some()),
            ("link_rtt_us", self.link_rtt_us.is_some()),
            ("link_rate_bytes_per_s", self.link_rate_bytes_per_s.is_some()),
            ("windows", self.windows.is_some()),
            ("window_unit", self.window_unit.is_some()),
            ("window_steps", self.window_steps.is_some()),
            ("rate_per_s", self.rate_per_s.is_some()),
            ("rate_fraction", self.rate_fraction.is_some()),
            ("rate_fractions", self.rate_fractions.is_some()),
            ("rate_bytes_per_s", self.rate_bytes_per_s.is_some()),
            ("arrivals", self.arrivals.is_some()),
            ("duration_ms", self.duration_ms.is_some()),
            ("stopped_ms", self.stopped_ms.is_some()),
            ("hold_bytes", self.hold_bytes.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, given)| given.then_some(key))
        .collect()
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::More(more) => more,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum RawWindows {
    Word(String),
    List(Vec<RawWindow>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum RawWindow {
    Size(u64),
    Word(String),
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WindowUnit {
    #[default]
    Bytes,
    Records,
    Micros,
}

/// Checks a table and fills in the defaults of its kind.
pub(crate) fn resolve(table: Table, repetitions: u32, overrides: &Overrides) -> Result<Experiment, String> {
    let kind = table.kind;
    if let Some(key) = table.given().into_iter().find(|key| !kind.knows(key)) {
        return Err(format!("key '{key}' has no meaning here: remove it"));
    }
    let remote = if kind.knows("remote") { overrides.remote.clone() } else { Vec::new() };
    let mut experiment = Experiment {
        name: table.name.clone().unwrap_or_else(|| kind.as_str().to_owned()),
        kind,
        client: table.client.unwrap_or(ClientKind::Embedded),
        host: table.host.unwrap_or(HostKind::Thread),
        levels: levels(&table)?,
        clients: table.clients.clone().unwrap_or_else(|| vec![1, 8, 32]),
        generators: table.generators.clone().unwrap_or_else(|| vec![Generator::OneThread]),
        record_bytes: usize::try_from(table.record_bytes.unwrap_or(256)).unwrap_or(usize::MAX),
        standbys: table.standbys.unwrap_or(match kind {
            Kind::Off => 0,
            Kind::Memory => 2,
            _ if remote.is_empty() => 1,
            _ => 0,
        }),
        remote,
        sync_rule: table.sync_rule.clone(),
        link_rtts_us: table.link_rtt_us.clone().map_or_else(|| vec![0], OneOrMore::into_vec),
        link_rate_bytes_per_s: table.link_rate_bytes_per_s,
        windows: windows(&table)?,
        rates: rates(&table)?,
        arrivals: table.arrivals.unwrap_or(Arrivals::Poisson),
        warm_up: Duration::from_millis(table.warm_up_ms.unwrap_or(500)),
        duration: Duration::from_millis(table.duration_ms.unwrap_or(if kind == Kind::Memory {
            0
        } else {
            2000
        })),
        repetitions: table.repetitions.unwrap_or(repetitions),
        shards: table.shards.unwrap_or(1),
        stopped: Duration::from_millis(table.stopped_ms.unwrap_or(if kind == Kind::Memory {
            30_000
        } else {
            0
        })),
        hold_bytes: table.hold_bytes,
    };
    check_ranges(&experiment)?;
    check_cluster(&mut experiment)?;
    Ok(experiment)
}

fn levels(table: &Table) -> Result<Vec<Level>, String> {
    let default = match table.kind {
        Kind::Ladder | Kind::Replay => Level::ALL.to_vec(),
        Kind::Off | Kind::Stream => vec![Level::Off],
        Kind::Window | Kind::Rates | Kind::Memory => vec![Level::On],
    };
    let Some(names) = &table.levels else { return Ok(default) };
    names.iter().map(|name| name.parse::<Level>().map_err(|error| format!("levels: {error}"))).collect()
}

fn windows(table: &Table) -> Result<Windows, String> {
    let unit = table.window_unit.unwrap_or_default();
    let sized = |size: u64| match unit {
        WindowUnit::Bytes => Window::Bytes(size),
        WindowUnit::Records => Window::Records(size),
        WindowUnit::Micros => Window::Micros(size),
    };
    match &table.windows {
        Some(RawWindows::List(list)) => {
            if table.window_steps.is_some() {
                return Err("window_steps goes with windows = \"sweep\", not with a list: remove one".into());
            }
            let window = |raw: &RawWindow| match raw {
                RawWindow::Size(size) => Ok(sized(*size)),
                RawWindow::Word(word) if word == "inf" => Ok(Window::Infinite),
                RawWindow::Word(word) => Err(format!("windows: '{word}': a number or \"inf\"")),
            };
            let list = list.iter().map(window).collect::<Result<Vec<_>, _>>()?;
            if list.is_empty() {
                Err("windows is empty: give at least one".into())
            } else {
                Ok(Windows::List(list))
            }
        }
        Some(RawWindows::Word(word)) if word != "sweep" => {
            Err(format!("windows: '{word}': \"sweep\" or a list of numbers and \"inf\""))
        }
        _ if !matches!(unit, WindowUnit::Bytes) => {
            Err("window_unit: a sweep is in bytes: list the windows, or remove the unit".into())
        }
        _ => {
            let steps = table.window_steps.unwrap_or(9);
            if (4..=64).contains(&steps) {
                Ok(Windows::Sweep { steps })
            } else {
                Err(format!("window_steps = {steps}: use 4 to 64"))
            }
        }
    }
}

fn rates(table: &Table) -> Result<Vec<Rate>, String> {
    let per_s = table.rate_per_s.clone().map(OneOrMore::into_vec);
    let fractions = table.rate_fractions.clone().or(table.rate_fraction.map(|fraction| vec![fraction]));
    if table.rate_fraction.is_some() && per_s.is_some() {
        return Err("rate_per_s and rate_fraction both say the load: remove one".into());
    }
    if table.rate_fractions.is_some() && per_s.is_some() {
        return Err("rate_per_s and rate_fractions both say the load: remove one".into());
    }
    let rates: Vec<Rate> = match (table.kind, per_s, fractions) {
        (Kind::Memory, ..) => {
            let record_bytes = table.record_bytes.unwrap_or(256).max(1);
            vec![Rate::PerS(table.rate_bytes_per_s.unwrap_or(20_000_000) as f64 / record_bytes as f64)]
        }
        (_, Some(per_s), _) => per_s.into_iter().map(Rate::PerS).collect(),
        (_, None, Some(fractions)) => fractions.into_iter().map(Rate::OfSaturation).collect(),
        (Kind::Rates, None, None) => [0.2, 0.5, 0.8, 0.95].map(Rate::OfSaturation).to_vec(),
        _ => vec![Rate::OfSaturation(0.5)],
    };
    for rate in &rates {
        match rate {
            Rate::PerS(rate) if !(0.1..=1e8).contains(rate) => {
                return Err(format!("rate_per_s = {rate}: use 0.1 to 100000000"));
            }
            Rate::OfSaturation(fraction) if !(0.01..=1.0).contains(fraction) => {
                return Err(format!("rate_fraction = {fraction}: use 0.01 to 1"));
            }
            _ => {}
        }
    }
    if table.kind == Kind::Window && rates.len() != 1 {
        return Err("rate_per_s: a window sweep has one load, the same for every window: give one".into());
    }
    if rates.is_empty() { Err("rate_per_s is empty: give at least one".into()) } else { Ok(rates) }
}

fn check_ranges(experiment: &Experiment) -> Result<(), String> {
    let bad_clients = experiment.clients.iter().any(|clients| !(1..=MAX_CLIENTS).contains(clients));
    if experiment.clients.is_empty() || bad_clients {
        return Err(format!("clients: give at least one number, each 1 to {MAX_CLIENTS}"));
    }
    if experiment.generators.is_empty() {
        return Err("generators: give one_thread, threads or both".into());
    }
    let threads = experiment.generators.contains(&Generator::Threads);
    if threads && experiment.clients.iter().any(|&clients| clients > MAX_THREADS) {
        return Err(format!("clients: the generator 'threads' takes at most {MAX_THREADS}"));
    }
    if threads && experiment.client == ClientKind::Socket {
        return Err(
            "generators: 'threads' needs client = \"embedded\": over the socket one thread polls".into()
        );
    }
    if experiment.levels.is_empty() {
        return Err("levels: give at least one".into());
    }
    // Room for the number that every synthetic record begins with.
    if !(8..=MAX_RECORD_BYTES).contains(&(experiment.record_bytes as u64)) {
        return Err(format!("record_bytes = {}: use 8 to {MAX_RECORD_BYTES}", experiment.record_bytes));
    }
    let an_hour = Duration::from_secs(3600);
    if experiment.kind != Kind::Memory
        && !(Duration::from_millis(10)..=an_hour).contains(&experiment.duration)
    {
        return Err("duration_ms: use 10 to 3600000".into());
    }
    if experiment.kind == Kind::Memory && !(Duration::from_secs(1)..=an_hour).contains(&experiment.stopped) {
        return Err("stopped_ms: use 1000 to 3600000".into());
    }
    if experiment.warm_up > an_hour {
        return Err("warm_up_ms: use at most 3600000".into());
    }
    if !(1..=1000).contains(&experiment.repetitions) {
        return Err("repetitions: use 1 to 1000".into());
    }
    if !(1..=64).contains(&experiment.shards) {
        return Err("shards: use 1 to 64".into());
    }
    if experiment.link_rtts_us.is_empty() || experiment.link_rtts_us.iter().any(|&rtt_us| rtt_us > 10_000_000)
    {
        return Err("link_rtt_us: give at least one, each at most 10000000 (ten seconds)".into());
    }
    if experiment.link_rate_bytes_per_s == Some(0) {
        return Err("link_rate_bytes_per_s = 0: a link that lets nothing pass cannot be measured".into());
    }
    Ok(())
}

/// Standbys, rule, link and levels must fit each other.
fn check_cluster(experiment: &mut Experiment) -> Result<(), String> {
    let names = experiment.standby_names();
    // Started standbys have a letter each.
    if names.len() > MAX_STANDBYS {
        return Err(format!("standbys: at most {MAX_STANDBYS}, remote ones included"));
    }
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    if distinct.len() != names.len() {
        return Err(
            "standbys: two have the same name; started ones are called a, b, …: rename the remote one".into(),
        );
    }
    if names.is_empty() {
        if experiment.sync_rule.is_some() {
            return Err("sync_rule without a standby cannot be met: add standbys, or remove it".into());
        }
        if experiment.link_rtts_us != [0] || experiment.link_rate_bytes_per_s.is_some() {
            return Err("link_rtt_us and link_rate_bytes_per_s need a standby at the other end".into());
        }
        if matches!(experiment.kind, Kind::Window | Kind::Stream | Kind::Memory) {
            return Err("standbys = 0: this experiment needs one".into());
        }
    } else {
        let rule = experiment.sync_rule.get_or_insert_with(|| format!("ANY 1 ({})", names.join(", ")));
        rule::check(rule, &names)?;
    }
    if experiment.kind == Kind::Memory && experiment.standbys < 2 {
        return Err("standbys: one is stopped and another must go on: use at least 2".into());
    }
    if experiment.kind == Kind::Window && experiment.levels.iter().any(|level| !level.is_remote()) {
        return Err("levels: a window needs a remote level: remote_write, on or remote_apply".into());
    }
    Ok(())
}

/// Tickets of one closed loop.
const MAX_CLIENTS: u32 = 16_384;
/// Threads of one closed loop.
const MAX_THREADS: u32 = 512;

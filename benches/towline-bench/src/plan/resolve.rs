//! From a table to an [`Experiment`]: the defaults of its kind, the ranges, and what contradicts.

use super::table::{ArrivalsName, OneOrMore, RawWindow, RawWindows, Table, WindowUnit};
use super::{Arrivals, ClientKind, Experiment, Generator, HostKind, Kind, Overrides, Rate, Sizes, Windows};
use crate::rule;
use std::time::Duration;
use towline_core::types::limits::{MAX_RECORD_BYTES, MAX_STANDBYS};
use towline_core::types::{Level, Window};

/// Checks a table and fills in the defaults of its kind.
pub(crate) fn resolve(table: Table, repetitions: u32, overrides: &Overrides) -> Result<Experiment, String> {
    let kind = table.kind;
    if let Some(key) = table.given().into_iter().find(|key| !kind.knows(key)) {
        return Err(format!("key '{key}' has no meaning here: remove it"));
    }
    let remote = if kind.knows("remote") { overrides.remote.clone() } else { Vec::new() };
    let record_sizes = record_sizes(&table)?;
    let mut experiment = Experiment {
        name: table.name.clone().unwrap_or_else(|| kind.as_str().to_owned()),
        kind,
        client: table.client.unwrap_or(ClientKind::Embedded),
        host: table.host.unwrap_or(HostKind::Thread),
        levels: levels(&table)?,
        clients: table.clients.clone().unwrap_or_else(|| match kind {
            Kind::Timeline => vec![1, 32],
            _ => vec![1, 8, 32],
        }),
        generators: table.generators.clone().unwrap_or_else(|| vec![Generator::OneThread]),
        record_bytes: match &record_sizes {
            Some(sizes) => sizes.mean_bytes().round() as usize,
            None => usize::try_from(table.record_bytes.unwrap_or(256)).unwrap_or(usize::MAX),
        },
        record_sizes,
        standbys: table.standbys.unwrap_or(match kind {
            Kind::Off => 0,
            Kind::Memory | Kind::Timeline | Kind::Stall | Kind::Mixed => 2,
            _ if remote.is_empty() => 1,
            _ => 0,
        }),
        remote,
        sync_rule: table.sync_rule.clone(),
        link_rtts_us: table.link_rtt_us.clone().map_or_else(|| vec![0], OneOrMore::into_vec),
        link_rate_bytes_per_s: table.link_rate_bytes_per_s,
        windows: windows(&table)?,
        rates: rates(&table)?,
        arrivals: arrivals(&table)?,
        warm_up: Duration::from_millis(table.warm_up_ms.unwrap_or(500)),
        duration: Duration::from_millis(table.duration_ms.unwrap_or(if kind == Kind::Memory {
            0
        } else {
            2000
        })),
        repetitions: table.repetitions.unwrap_or(repetitions),
        shards: table.shard_count(),
        one_in: table.one_in.unwrap_or(10),
        stopped: Duration::from_millis(table.stopped_ms.unwrap_or(match kind {
            Kind::Memory => 30_000,
            Kind::Stall => 1000,
            _ => 0,
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
        Kind::Mixed => vec![Level::Local, Level::On],
        Kind::Window | Kind::Rates | Kind::Memory | Kind::Timeline | Kind::Knee | Kind::Stall => {
            vec![Level::On]
        }
    };
    let Some(names) = &table.levels else { return Ok(default) };
    names.iter().map(|name| name.parse::<Level>().map_err(|error| format!("levels: {error}"))).collect()
}

fn arrivals(table: &Table) -> Result<Arrivals, String> {
    match (table.arrivals, table.burst) {
        (Some(ArrivalsName::Bursts), burst) => match burst.unwrap_or(32) {
            count @ 2..=4096 => Ok(Arrivals::Bursts(count)),
            count => Err(format!("burst = {count}: use 2 to 4096")),
        },
        (_, Some(_)) => Err("burst goes with arrivals = \"bursts\": add that, or remove it".into()),
        (Some(ArrivalsName::Constant), None) => Ok(Arrivals::Constant),
        (Some(ArrivalsName::Poisson) | None, None) => Ok(Arrivals::Poisson),
    }
}

fn record_sizes(table: &Table) -> Result<Option<Sizes>, String> {
    let Some(pairs) = &table.record_sizes else { return Ok(None) };
    if table.record_bytes.is_some() {
        return Err("record_bytes and record_sizes both say the size: remove one".into());
    }
    // Room for the number that every synthetic record begins with.
    if let Some((bytes, _)) = pairs.iter().find(|(bytes, _)| !(8..=MAX_RECORD_BYTES).contains(bytes)) {
        return Err(format!("record_sizes: {bytes} bytes: use 8 to {MAX_RECORD_BYTES}"));
    }
    let pairs = pairs.iter().map(|(bytes, weight)| (*bytes as usize, *weight)).collect();
    match Sizes::new(pairs) {
        Some(sizes) => Ok(Some(sizes)),
        None => Err("record_sizes: give [bytes, weight] pairs with weights of at least 1".into()),
    }
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
        (Kind::Knee, None, None) => {
            [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5].map(Rate::OfSaturation).to_vec()
        }
        (Kind::Stall, None, None) => vec![Rate::OfSaturation(0.2)],
        _ => vec![Rate::OfSaturation(0.5)],
    };
    // Only a sweep past saturation has a use for overload.
    let most = if table.kind == Kind::Knee { 2.0 } else { 1.0 };
    for rate in &rates {
        match rate {
            Rate::PerS(rate) if !(0.1..=1e8).contains(rate) => {
                return Err(format!("rate_per_s = {rate}: use 0.1 to 100000000"));
            }
            Rate::OfSaturation(fraction) if !(0.01..=most).contains(fraction) => {
                return Err(format!("rate_fraction = {fraction}: use 0.01 to {most}"));
            }
            _ => {}
        }
    }
    if matches!(table.kind, Kind::Window | Kind::Stall) && rates.len() != 1 {
        return Err("rate_per_s: this experiment has one load, the same for every point: give one".into());
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
    if experiment.kind == Kind::Stall
        && (experiment.stopped.is_zero() || experiment.stopped * 3 > experiment.duration)
    {
        return Err("stopped_ms: use at least 1, and at most a third of duration_ms".into());
    }
    if experiment.kind == Kind::Mixed {
        let [weak, strong] = experiment.levels[..] else {
            return Err("levels: a mixed stream has two, the usual one and the stronger one".into());
        };
        if weak >= strong || weak == Level::Off {
            return Err(
                "levels: the second must be stronger than the first, and the first at least local".into()
            );
        }
        if !(2..=100_000).contains(&experiment.one_in) {
            return Err(format!("one_in = {}: use 2 to 100000", experiment.one_in));
        }
    }
    if experiment.kind == Kind::Timeline && experiment.client == ClientKind::Socket {
        return Err("client: watermarks are looked at in the primary's process: use \"embedded\"".into());
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
        if matches!(experiment.kind, Kind::Window | Kind::Stream | Kind::Memory | Kind::Stall) {
            return Err("standbys = 0: this experiment needs one".into());
        }
    } else {
        let rule = experiment.sync_rule.get_or_insert_with(|| format!("ANY 1 ({})", names.join(", ")));
        rule::parse(rule, &names)?;
    }
    if experiment.kind == Kind::Stall && experiment.standbys == 0 {
        return Err("standbys: one that was started here is stopped: use at least 1".into());
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

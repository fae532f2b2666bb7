//! One `[[experiment]]` as it is written, and the flags that replace its keys.

use super::{ClientKind, Generator, HostKind, Kind};
use serde::Deserialize;
use towline_core::types::Level;

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
    pub stopped_ms: Option<u64>,
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
            table.record_bytes = self.record_bytes;
            table.record_sizes = None;
        })?;
        put("rate_per_s", self.rate_per_s.is_some(), &mut |table| {
            table.rate_per_s = self.rate_per_s.map(OneOrMore::One);
            table.rate_fraction = None;
            table.rate_fractions = None;
        })?;
        put("duration_ms", self.duration_ms.is_some(), &mut |table| table.duration_ms = self.duration_ms)?;
        put("stopped_ms", self.stopped_ms.is_some(), &mut |table| table.stopped_ms = self.stopped_ms)?;
        put("repetitions", self.repetitions.is_some(), &mut |table| table.repetitions = self.repetitions)?;
        put("shards", self.shards.is_some(), &mut |table| {
            table.shards = self.shards.map(RawShards::Count);
        })?;
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
    pub(super) name: Option<String>,
    pub(super) client: Option<ClientKind>,
    pub(super) host: Option<HostKind>,
    pub(super) levels: Option<Vec<String>>,
    pub(super) clients: Option<Vec<u32>>,
    pub(super) generators: Option<Vec<Generator>>,
    pub(super) record_bytes: Option<u64>,
    pub(super) standbys: Option<u32>,
    pub(super) sync_rule: Option<String>,
    pub(super) link_rtt_us: Option<OneOrMore<u64>>,
    pub(super) link_rate_bytes_per_s: Option<u64>,
    pub(super) windows: Option<RawWindows>,
    pub(super) window_unit: Option<WindowUnit>,
    pub(super) window_steps: Option<usize>,
    pub(super) rate_per_s: Option<OneOrMore<f64>>,
    pub(super) rate_fraction: Option<f64>,
    pub(super) rate_fractions: Option<Vec<f64>>,
    pub(super) rate_bytes_per_s: Option<u64>,
    pub(super) arrivals: Option<ArrivalsName>,
    pub(super) burst: Option<u32>,
    pub(super) record_sizes: Option<Vec<(u64, u32)>>,
    pub(super) one_in: Option<u32>,
    pub(super) warm_up_ms: Option<u64>,
    pub(super) duration_ms: Option<u64>,
    pub(super) repetitions: Option<u32>,
    pub(super) shards: Option<RawShards>,
    pub(super) stopped_ms: Option<u64>,
    pub(super) hold_bytes: Option<u64>,
}

impl Table {
    /// One table for each number of shards that `shards = "to_cores"` stands for: powers of two, then all cores.
    pub(crate) fn expanded(self, cores: u16) -> Result<Vec<Table>, String> {
        match &self.shards {
            Some(RawShards::Word(word)) if word == "to_cores" => {
                let mut counts: Vec<u16> =
                    (0..16).map(|power| 1u16 << power).take_while(|n| *n < cores).collect();
                counts.push(cores);
                let with = |count| Table { shards: Some(RawShards::Count(count)), ..self.clone() };
                Ok(counts.into_iter().map(with).collect())
            }
            Some(RawShards::Word(word)) => Err(format!("shards = '{word}': use a number, or \"to_cores\"")),
            _ => Ok(vec![self]),
        }
    }

    pub(super) fn shard_count(&self) -> u16 {
        match self.shards {
            Some(RawShards::Count(count)) => count,
            _ => 1,
        }
    }

    /// Keys that were given.
    pub(super) fn given(&self) -> Vec<&'static str> {
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
            ("burst", self.burst.is_some()),
            ("record_sizes", self.record_sizes.is_some()),
            ("one_in", self.one_in.is_some()),
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
pub(super) enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    pub(super) fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::More(more) => more,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawWindows {
    Word(String),
    List(Vec<RawWindow>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawWindow {
    Size(u64),
    Word(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawShards {
    Count(u16),
    Word(String),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ArrivalsName {
    Poisson,
    Constant,
    Bursts,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WindowUnit {
    #[default]
    Bytes,
    Records,
    Micros,
}

//! A workload is data: which experiments to run, against which standbys and links, under which load.
//!
//! Files are TOML (`workloads/*.toml`). Every key is checked against the kind of its experiment before anything is
//! started: a key that would be ignored is refused. Start at [`Workload::parse`] and [`Workload::bundled`].

use crate::error::BenchError;
use crate::plan::{self, Experiment, Overrides};
use serde::Deserialize;
use std::path::Path;

/// What one run measures.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What the run is called.
    pub name: String,
    /// Decides the order of the points and the arrivals of open loads.
    pub seed: u64,
    /// The experiments, in order.
    pub experiments: Vec<Experiment>,
}

impl Workload {
    /// A workload that comes with the program: `canonical`, `ladder`, `acceptance`, ….
    ///
    /// # Errors
    /// No such workload, or overrides that none of its experiments can obey.
    pub fn bundled(name: &str, overrides: &Overrides) -> Result<Self, BenchError> {
        let found = BUNDLED.iter().find(|(known, _)| *known == name);
        let (_, text) = found.ok_or_else(|| {
            let names: Vec<_> = BUNDLED.iter().map(|(name, _)| *name).collect();
            BenchError::Usage(format!(
                "no workload is called '{name}': use {}, or a TOML file",
                names.join(", ")
            ))
        })?;
        Self::parse(text, &format!("{name}.toml"), overrides)
    }

    /// A workload from a file.
    ///
    /// # Errors
    /// A file that cannot be read, or as [`Workload::parse`].
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, BenchError> {
        let text = std::fs::read_to_string(path).map_err(|source| BenchError::File {
            what: "cannot read the workload",
            path: path.to_owned(),
            source,
        })?;
        let name = path.file_name().map_or("workload".into(), |name| name.to_string_lossy().into_owned());
        Self::parse(&text, &name, overrides)
    }

    /// Reads a workload; `file` is how errors call it.
    ///
    /// # Errors
    /// [`BenchError::Usage`] with file, key and what to do: unknown keys, keys that have no meaning for their kind of
    /// experiment, values outside their range, values that contradict each other, overrides that nothing can obey.
    pub fn parse(text: &str, file: &str, overrides: &Overrides) -> Result<Self, BenchError> {
        let refuse = |error: toml::de::Error| {
            BenchError::Usage(format!(
                "{file}: {}: correct the key, or remove it",
                error.to_string().trim_end()
            ))
        };
        let raw: RawWorkload = toml::from_str(text).map_err(refuse)?;
        if raw.experiment.is_empty() {
            return Err(BenchError::Usage(format!("{file}: no [[experiment]]: add at least one")));
        }
        let mut tables = raw.experiment;
        overrides.apply(&mut tables).map_err(|text| BenchError::Usage(format!("{file}: {text}")))?;
        let mut experiments = Vec::new();
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(64) as u16);
        for (index, table) in tables.into_iter().enumerate() {
            let place = format!("{file}: experiment {} ({})", index + 1, table.kind.as_str());
            let refuse = |text| BenchError::Usage(format!("{place}: {text}"));
            for table in table.expanded(cores).map_err(refuse)? {
                let experiment =
                    plan::resolve(table, raw.repetitions.unwrap_or(1), overrides).map_err(refuse)?;
                experiments.push(experiment);
            }
        }
        Ok(Self { name: raw.name, seed: raw.seed.unwrap_or(1), experiments })
    }

    /// What the measured parts take at least, in seconds; floors, starts and stops come on top.
    pub fn measured_s(&self) -> f64 {
        self.experiments.iter().map(Experiment::measured_s).sum()
    }

    /// What the whole run will take, about, in seconds on two cores.
    pub fn estimated_s(&self) -> f64 {
        RACE_S + self.experiments.iter().map(Experiment::estimated_s).sum::<f64>()
    }

    /// The most repetitions of any experiment.
    pub fn repetitions(&self) -> u32 {
        self.experiments.iter().map(|experiment| experiment.repetitions).max().unwrap_or(1)
    }
}

/// Durability primitives raced against each other, and the first floors with the bandwidths.
const RACE_S: f64 = 6.0;
/// The workloads that are part of the program.
const BUNDLED: [(&str, &str); 20] = [
    ("canonical", include_str!("../workloads/canonical.toml")),
    ("ladder", include_str!("../workloads/ladder.toml")),
    ("replay", include_str!("../workloads/replay.toml")),
    ("window", include_str!("../workloads/window.toml")),
    ("rates", include_str!("../workloads/rates.toml")),
    ("off", include_str!("../workloads/off.toml")),
    ("stream", include_str!("../workloads/stream.toml")),
    ("memory", include_str!("../workloads/memory.toml")),
    ("timeline", include_str!("../workloads/timeline.toml")),
    ("knee", include_str!("../workloads/knee.toml")),
    ("stall", include_str!("../workloads/stall.toml")),
    ("sync_rules", include_str!("../workloads/sync_rules.toml")),
    ("standbys", include_str!("../workloads/standbys.toml")),
    ("rtt", include_str!("../workloads/rtt.toml")),
    ("shards", include_str!("../workloads/shards.toml")),
    ("mixed", include_str!("../workloads/mixed.toml")),
    ("bursts", include_str!("../workloads/bursts.toml")),
    ("sizes", include_str!("../workloads/sizes.toml")),
    ("full", include_str!("../workloads/full.toml")),
    ("acceptance", include_str!("../workloads/acceptance.toml")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkload {
    name: String,
    #[serde(default, rename = "about")]
    _about: String,
    seed: Option<u64>,
    repetitions: Option<u32>,
    #[serde(default)]
    experiment: Vec<plan::Table>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Kind, Rate, Windows};
    use towline_core::types::{Level, Window};

    fn parse(text: &str) -> Result<Workload, String> {
        let text = format!("name = \"t\"\n{text}");
        Workload::parse(&text, "t.toml", &Overrides::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn every_bundled_workload_is_valid_and_the_canonical_one_fits_its_time() {
        for (name, _) in BUNDLED {
            let workload = Workload::bundled(name, &Overrides::default()).unwrap();
            assert_eq!(workload.name, name);
        }
        let canonical = Workload::bundled("canonical", &Overrides::default()).unwrap();
        let kinds: Vec<_> = canonical.experiments.iter().map(|experiment| experiment.kind).collect();
        assert_eq!(kinds, [Kind::Ladder, Kind::Replay, Kind::Window]);
        assert_eq!(canonical.experiments[0].levels, Level::ALL);
        assert_eq!(canonical.experiments[0].clients, [1, 8, 32]);
        assert_eq!(canonical.experiments[1].levels, Level::ALL);
        assert_eq!(canonical.experiments[2].link_rtts_us, [0, 5000]);
        // Three minutes less floors, starts and stops.
        assert!(canonical.measured_s() < 120.0, "{} s", canonical.measured_s());
        // A quarter of an hour less floors, starts and stops.
        let full = Workload::bundled("full", &Overrides::default()).unwrap();
        assert!(full.estimated_s() < 700.0, "{} s", full.estimated_s());
        // As the canonical and the acceptance run were seen to take on two cores.
        for (name, took_s) in [("canonical", 108.0), ("acceptance", 810.0)] {
            let estimated_s = Workload::bundled(name, &Overrides::default()).unwrap().estimated_s();
            assert!((estimated_s / took_s - 1.0f64).abs() < 0.1, "{name}: {estimated_s} s");
        }
        for kind in [Kind::Timeline, Kind::Knee, Kind::Stall, Kind::Mixed, Kind::Window, Kind::Replay] {
            assert!(full.experiments.iter().any(|experiment| experiment.kind == kind), "{kind:?}");
        }
    }

    #[test]
    fn unknown_and_meaningless_keys_are_refused_with_file_key_and_advice() {
        let error = parse("[[experiment]]\nkind = \"ladder\"\nclinets = [1]").unwrap_err();
        assert!(error.contains("t.toml") && error.contains("clinets") && error.contains("line 4"), "{error}");
        let error = parse("[[experiment]]\nkind = \"ladder\"\nwindows = [0]").unwrap_err();
        assert!(error.contains("experiment 1 (ladder)") && error.contains("'windows'"), "{error}");
        let error = parse("[[experiment]]\nkind = \"race\"").unwrap_err();
        assert!(error.contains("race") && error.contains("ladder"), "{error}");
        assert!(parse("").unwrap_err().contains("[[experiment]]"));
    }

    #[test]
    fn values_that_cannot_be_or_contradict_each_other_are_refused() {
        for (keys, word) in [
            ("kind = \"ladder\"\nclients = []", "clients"),
            ("kind = \"ladder\"\nclients = [0]", "clients"),
            ("kind = \"ladder\"\nlevels = [\"sometimes\"]", "sometimes"),
            ("kind = \"ladder\"\nlevels = [\"on\"]\nstandbys = 0\nsync_rule = \"ANY 1 (a)\"", "sync_rule"),
            ("kind = \"ladder\"\nstandbys = 2\nsync_rule = \"ANY 3 (a, b)\"", "ANY 3"),
            ("kind = \"ladder\"\nstandbys = 1\nsync_rule = \"ANY 1 (z)\"", "'z'"),
            ("kind = \"ladder\"\nduration_ms = 0", "duration_ms"),
            ("kind = \"ladder\"\nrecord_bytes = 2000000", "record_bytes"),
            ("kind = \"ladder\"\nstandbys = 0\nlink_rtt_us = [5000]", "link_rtt_us"),
            ("kind = \"window\"\nlevels = [\"local\"]", "level"),
            ("kind = \"window\"\nrate_per_s = 10.0\nrate_fraction = 0.5", "rate_fraction"),
            ("kind = \"window\"\nstandbys = 0", "standbys"),
            ("kind = \"window\"\nwindows = [0, 1]\nwindow_steps = 9", "window_steps"),
            ("kind = \"window\"\nwindows = [\"many\"]", "many"),
            ("kind = \"off\"\nstandbys = 1", "'standbys'"),
            ("kind = \"ladder\"\nshards = \"many\"", "many"),
            ("kind = \"ladder\"\nrecord_sizes = [[4, 1]]", "4 bytes"),
            ("kind = \"ladder\"\nrecord_sizes = [[64, 1]]\nrecord_bytes = 64", "record_sizes"),
            ("kind = \"rates\"\nburst = 8", "bursts"),
            ("kind = \"rates\"\narrivals = \"bursts\"\nburst = 1", "burst = 1"),
            ("kind = \"mixed\"\nlevels = [\"on\", \"local\"]", "stronger"),
            ("kind = \"mixed\"\none_in = 1", "one_in"),
            ("kind = \"stall\"\nstopped_ms = 1000\nduration_ms = 2000", "stopped_ms"),
            ("kind = \"timeline\"\nclient = \"socket\"", "embedded"),
            ("kind = \"rates\"\nrate_fractions = [1.2]", "1.2"),
            ("kind = \"ladder\"\nclient = \"socket\"\nhost = \"glommio\"\nshards = 0", "shards"),
        ] {
            let error = parse(&format!("[[experiment]]\n{keys}")).unwrap_err();
            assert!(error.contains(word), "{keys}\n gave: {error}");
        }
    }

    #[test]
    fn shards_to_cores_are_an_experiment_each_and_sizes_have_a_mean() {
        let cores = std::thread::available_parallelism().unwrap().get().min(64) as u16;
        let text =
            "[[experiment]]\nkind = \"ladder\"\nshards = \"to_cores\"\nrecord_sizes = [[64, 3], [256, 1]]";
        let experiments = parse(text).unwrap().experiments;
        assert_eq!(experiments.first().map(|first| first.shards), Some(1));
        assert_eq!(experiments.last().map(|last| last.shards), Some(cores));
        assert!(experiments.windows(2).all(|pair| pair[0].shards < pair[1].shards));
        assert_eq!(experiments[0].record_bytes, 112);
    }

    #[test]
    fn a_window_experiment_says_its_windows_its_unit_and_its_load() {
        let text = "[[experiment]]\nkind = \"window\"\nwindows = [0, 4096, \"inf\"]\nrate_per_s = 1000.0";
        let experiment = &parse(text).unwrap().experiments[0];
        let listed = vec![Window::Bytes(0), Window::Bytes(4096), Window::Infinite];
        assert_eq!(experiment.windows, Windows::List(listed));
        assert_eq!(experiment.rates, [Rate::PerS(1000.0)]);
        let text = "[[experiment]]\nkind = \"window\"\nwindow_unit = \"micros\"\nwindows = [50]";
        let experiment = &parse(text).unwrap().experiments[0];
        assert_eq!(experiment.windows, Windows::List(vec![Window::Micros(50)]));
        assert!(matches!(experiment.rates[..], [Rate::OfSaturation(_)]));
    }

    #[test]
    fn flags_change_what_they_can_and_are_refused_where_nothing_obeys() {
        let flags = Overrides {
            repetitions: Some(10),
            clients: Some(vec![4]),
            levels: Some(vec![Level::On]),
            ..Overrides::default()
        };
        let workload = Workload::bundled("canonical", &flags).unwrap();
        assert_eq!(workload.repetitions(), 10);
        assert_eq!(workload.experiments[0].clients, [4]);
        assert_eq!(workload.experiments[0].levels, [Level::On]);
        let flags = Overrides { clients: Some(vec![4]), ..Overrides::default() };
        let error = Workload::bundled("window", &flags).unwrap_err().to_string();
        assert!(error.contains("clients"), "{error}");
        let flags = Overrides { remote: vec![("far".into(), "h:1".into())], ..Overrides::default() };
        let workload = Workload::bundled("ladder", &flags).unwrap();
        assert_eq!(workload.experiments[0].standby_names(), ["far"]);
        assert_eq!(workload.experiments[0].sync_rule.as_deref(), Some("ANY 1 (far)"));
    }
}

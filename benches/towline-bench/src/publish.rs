//! From what was measured to what the report keeps.

use crate::cluster::RunningCluster;
use crate::floors::FloorSet;
use crate::level;
use crate::load::parts::Parts;
use crate::measure::Measured;
use crate::plan::{Arrivals, ClientKind, Experiment, Generator, Kind, Sizes};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use towline_core::types::{Level, Window};
use towline_report::histograms::TaggedHistogram;
use towline_report::noise::MEAN_OVER_P50;
use towline_report::schema::{self, Client, Detail, FloorsOfRepetition, Load, Point, Spread};
use towline_report::stats::{latency_of, spread_of};
use towline_report::{FolderError, RunFolder};

/// One load at one level and window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PointSpec {
    pub(crate) level: Level,
    pub(crate) window: Option<Window>,
    pub(crate) load: PointLoad,
}

/// How the load of one point is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum PointLoad {
    Closed(u32, Generator),
    Open(f64),
    Replay,
    /// `off` from one thread, as fast as it goes.
    Flood {
        /// A latency in so many is recorded.
        sample_every: u64,
        /// It waits while more payload than that is not safe.
        exposure_limit: Option<u64>,
    },
}

/// A measured point with what belongs to it beside the report.
#[derive(Clone, Debug)]
pub(crate) struct PointResult {
    pub(crate) point: Point,
    pub(crate) latency_ns: Histogram<u64>,
    pub(crate) began: SystemTime,
    pub(crate) duration: Duration,
    /// Medians of the floors before and after its repetition.
    pub(crate) floors: FloorsOfRepetition,
    pub(crate) counting: usize,
    pub(crate) link_rtt_us: u64,
    pub(crate) ring_workers: usize,
    pub(crate) level: Level,
}

impl PointResult {
    pub(crate) fn new(
        experiment: &Experiment,
        link_rtt_us: u64,
        spec: &PointSpec,
        repetition: u32,
        measured: &Measured,
        record_bytes: f64,
        cluster: &RunningCluster,
    ) -> Self {
        let recorder = &measured.recorder;
        let windowed = spec.window.is_some();
        let flushes = measured.counters.flushes;
        let per = |count: u64, of: u64| (of > 0).then(|| count as f64 / of as f64);
        let point = Point {
            system: "towline".into(),
            experiment: experiment.name.clone(),
            client: match experiment.client {
                ClientKind::Embedded => Client::Embedded,
                ClientKind::Socket => Client::Socket,
            },
            level: level::shown(spec.level),
            window: spec.window.map(window),
            sync_rule: experiment.sync_rule.clone().unwrap_or_default(),
            standbys: experiment.standby_names().len() as u32,
            link_rtt_us: link_rtt_us as f64,
            load: load(&spec.load),
            record_bytes,
            shards: u32::from(experiment.shards),
            achieved_per_s: measured.per_s(),
            latency_ns: latency_of(&recorder.latency_ns),
            fill_bytes: (windowed && !recorder.fill_bytes.is_empty()).then(|| gauge(&recorder.fill_bytes)),
            exposure_bytes: (!measured.exposure_bytes.is_empty()).then(|| gauge(&measured.exposure_bytes)),
            waited_for_window: recorder.waited_for_window,
            repetition,
            ratio_to_floor: None,
            mean_ns: (!recorder.latency_ns.is_empty()).then(|| recorder.latency_ns.mean()),
            fill_in_unit: None,
            offered_per_s: (recorder.offered > 0)
                .then(|| recorder.offered as f64 / measured.duration.as_secs_f64()),
            link_rtt_measured_us: cluster.link_rtt_measured_us(),
            duration_s: Some(measured.duration.as_secs_f64()),
            enters: Some(measured.counters.enters),
            flushes: Some(flushes),
            batches: Some(measured.counters.batches),
            enters_per_flush: measured.counters.submitting_enters.and_then(|enters| per(enters, flushes)),
            allocations_per_commit: measured
                .allocations
                .filter(|_| experiment.client == ClientKind::Embedded)
                .and_then(|allocations| per(allocations, recorder.acked)),
            acks_by_achieved_level: achieved(&recorder.achieved),
            steal_percent: measured.steal_percent,
            histogram: Some(histogram_name(experiment, link_rtt_us, spec)),
            note: note(measured, spec),
            version: None,
            durable: None,
            survives: None,
            connections: None,
            detail: detail(experiment, spec, measured),
        };
        Self {
            point,
            latency_ns: recorder.latency_ns.clone(),
            began: measured.began,
            duration: measured.duration,
            floors: FloorsOfRepetition::default(),
            counting: cluster.counting(),
            link_rtt_us,
            ring_workers: measured.ring_workers,
            level: spec.level,
        }
    }

    /// Holds the point against the floors before and after its repetition.
    pub(crate) fn hold_against(&mut self, floors: &FloorSet) {
        self.floors = floors.medians(self.point.repetition);
        let p50_ns = self.point.latency_ns.p50;
        let open = matches!(self.point.load.arrival, schema::Arrival::OpenPerS(_));
        // A floor is a latency without a queue: under an open load or a flood the ratio would mean something else.
        if p50_ns > 0 && !open {
            // The emulator's own delay belongs to the link, not to the log.
            let link_ns = match (self.point.link_rtt_measured_us, floors.round_trip_p50_ns()) {
                (Some(measured_us), Some(bare_ns)) => ((measured_us * 1e3) as u64).saturating_sub(bare_ns),
                _ => self.link_rtt_us * 1000,
            };
            self.point.ratio_to_floor = floors.ratio(self.level, self.counting, link_ns, p50_ns);
        }
    }
}

/// Writes one interval log for each point, with an interval for each repetition.
pub(crate) fn write_histograms(folder: &RunFolder, results: &[PointResult]) -> Result<(), FolderError> {
    let mut by_name: BTreeMap<&str, Vec<(String, &PointResult)>> = BTreeMap::new();
    for result in results.iter().filter(|result| !result.latency_ns.is_empty()) {
        if let Some(name) = &result.point.histogram {
            let tag = format!("repetition-{}", result.point.repetition);
            by_name.entry(name).or_default().push((tag, result));
        }
    }
    for (name, repetitions) in by_name {
        let intervals: Vec<TaggedHistogram<'_>> = repetitions
            .iter()
            .map(|(tag, result)| TaggedHistogram {
                tag,
                start: result.began,
                duration: result.duration,
                histogram: &result.latency_ns,
            })
            .collect();
        folder.write_histograms(name, &intervals)?;
    }
    Ok(())
}

fn window(window: Window) -> schema::Window {
    match window {
        Window::Bytes(n) => schema::Window::Bytes(n),
        Window::Records(n) => schema::Window::Records(n),
        Window::Micros(n) => schema::Window::Micros(n),
        Window::Infinite => schema::Window::Inf,
    }
}

fn load(load: &PointLoad) -> Load {
    match *load {
        PointLoad::Closed(clients, Generator::OneThread) => Load::closed(clients),
        PointLoad::Closed(clients, Generator::Threads) => {
            Load { threads: Some(clients), ..Load::closed(clients) }
        }
        PointLoad::Open(rate_per_s) => Load::open(rate_per_s),
        PointLoad::Replay => Load::closed(crate::replay::OUTSTANDING as u32),
        PointLoad::Flood { .. } => Load::closed(1),
    }
}

fn gauge(histogram: &Histogram<u64>) -> Spread {
    spread_of(histogram)
}

fn achieved(counts: &[u64; 5]) -> BTreeMap<schema::Level, u64> {
    let counted = Level::ALL.into_iter().map(|each| (level::shown(each), counts[each as usize]));
    counted.filter(|(_, count)| *count > 0).collect()
}

/// What only some points have.
fn detail(experiment: &Experiment, spec: &PointSpec, measured: &Measured) -> Detail {
    let recorder = &measured.recorder;
    let open = matches!(spec.load, PointLoad::Open(_)) && recorder.offered > 0;
    Detail {
        arrivals: open.then(|| experiment.arrivals.words()),
        generator_lag_ns: open.then(|| latency_of(&recorder.lag_ns)),
        kept_up: open.then(|| recorder.kept_up()),
        cpu_pressure_percent: measured.pressure_percent,
        one_in: (experiment.kind == Kind::Mixed).then_some(experiment.one_in),
        record_sizes: experiment.record_sizes.as_ref().map(Sizes::words),
        // What a stall does to its load is no lack of warm-up.
        start_over_rest: recorder
            .parts
            .as_ref()
            .filter(|_| experiment.kind != Kind::Stall && experiment.kind != Kind::Memory)
            .and_then(Parts::start_over_rest),
        ..Detail::default()
    }
}

/// What a reader must know before believing the point.
fn note(measured: &Measured, spec: &PointSpec) -> Option<String> {
    let recorder = &measured.recorder;
    let mut notes = Vec::new();
    if recorder.offered > 0 && !recorder.kept_up() {
        notes.push(format!(
            "refused: the generator could not keep up, a tenth of its appends were made more than {} µs late",
            recorder.lag_ns.value_at_quantile(0.9) / 1000
        ));
    }
    if recorder.offered > 0 && !recorder.took_it() {
        let (acked, offered) = (recorder.acked, recorder.offered);
        notes.push(format!("overload: {acked} of {offered} appends were acknowledged in the measured time"));
    }
    if measured.tries_without_ack > 0 {
        notes.push(format!(
            "not one append was acknowledged in the measured time of {} tries",
            measured.tries_without_ack
        ));
    }
    if recorder.indeterminate > 0 {
        let reason = recorder.reason.as_deref().unwrap_or("no reason given");
        notes.push(format!("{} appends ended as indeterminate ({reason})", recorder.indeterminate));
    }
    if recorder.beyond_window > 0 {
        notes.push(format!("{} acknowledgements had a fill beyond their window", recorder.beyond_window));
    }
    if measured.counters.degraded_acks > 0 {
        notes.push(format!("{} acknowledgements were degraded", measured.counters.degraded_acks));
    }
    if measured.ring_workers > 0 {
        notes.push(format!("{} kernel worker threads were seen", measured.ring_workers));
    }
    let closed = !matches!(spec.load, PointLoad::Open(_) | PointLoad::Flood { .. });
    let p50_ns = recorder.latency_ns.value_at_quantile(0.5) as f64;
    if closed && recorder.latency_ns.len() > 100 && recorder.latency_ns.mean() > MEAN_OVER_P50 * p50_ns {
        let pressure = measured
            .pressure_percent
            .map_or(String::new(), |percent| format!(" (CPU pressure {percent:.0} %)"));
        notes.push(format!(
            "noisy: the mean is far above the median, something else used the processors{pressure}"
        ));
    }
    (!notes.is_empty()).then(|| notes.join("; "))
}

fn histogram_name(experiment: &Experiment, link_rtt_us: u64, spec: &PointSpec) -> String {
    let load = match spec.load {
        PointLoad::Closed(clients, Generator::OneThread) => format!("{clients}-clients"),
        PointLoad::Closed(clients, Generator::Threads) => format!("{clients}-threads"),
        PointLoad::Open(rate) => format!("{rate:.0}-per-s"),
        PointLoad::Replay => "replay".into(),
        PointLoad::Flood { .. } => "flood".into(),
    };
    let window = match spec.window {
        None => String::new(),
        Some(Window::Bytes(n)) => format!("-window-{n}-bytes"),
        Some(Window::Records(n)) => format!("-window-{n}-records"),
        Some(Window::Micros(n)) => format!("-window-{n}-micros"),
        Some(Window::Infinite) => "-window-inf".into(),
    };
    let link = if link_rtt_us == 0 { String::new() } else { format!("-rtt-{link_rtt_us}-us") };
    // What tables of one experiment differ in: their histograms must not be taken for repetitions of each other.
    let mut more = String::new();
    if experiment.kind == Kind::Mixed {
        more.push_str(&format!("-1-in-{}", experiment.one_in));
    }
    if let (Arrivals::Bursts(count), PointLoad::Open(_)) = (experiment.arrivals, spec.load) {
        more.push_str(&format!("-bursts-of-{count}"));
    }
    if experiment.record_sizes.is_some() {
        more.push_str("-sizes");
    }
    if OWN_CLUSTERS.contains(&experiment.name.as_str()) {
        let rule = experiment.sync_rule.as_deref().unwrap_or("no rule");
        let word: String = rule.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
        let (standbys, shards) = (experiment.standby_names().len(), experiment.shards);
        more.push_str(&format!("-{standbys}-standbys-{word}-{shards}-shards"));
    }
    format!("{}-{}-{load}{window}{link}{more}", experiment.name, spec.level)
}

/// Experiments that vary the cluster under one name.
const OWN_CLUSTERS: [&str; 4] = ["standbys", "sync_rules", "shards", "stall"];

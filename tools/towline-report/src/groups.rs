//! Points condensed over their repetitions: one row per thing measured.

use crate::schema::{Arrival, FloorNs, Floors, Interval, LatencyNs, Level, Point, Spread};
use crate::stats::{ENOUGH_PAIRS, Summary, bootstrap_median};

/// All repetitions of one point.
pub(crate) struct Row<'a> {
    pub(crate) point: &'a Point,
    pub(crate) repetitions: Vec<&'a Point>,
}

impl<'a> Row<'a> {
    pub(crate) fn latency(&self, quantile: impl Fn(&LatencyNs) -> u64) -> Summary {
        self.summary(|point| Some(quantile(&point.latency_ns) as f64)).unwrap_or_default()
    }

    pub(crate) fn p50(&self) -> Summary {
        self.latency(|latency| latency.p50)
    }

    pub(crate) fn p99(&self) -> Summary {
        self.latency(|latency| latency.p99)
    }

    pub(crate) fn max_ns(&self) -> f64 {
        self.latency(|latency| latency.max).max
    }

    pub(crate) fn per_s(&self) -> Summary {
        self.summary(|point| Some(point.achieved_per_s)).unwrap_or_default()
    }

    pub(crate) fn samples(&self) -> u64 {
        self.repetitions.iter().map(|point| point.latency_ns.samples).sum()
    }

    pub(crate) fn ratio(&self) -> Option<Summary> {
        self.summary(|point| point.ratio_to_floor.as_ref().map(|ratio| ratio.p50_ratio))
    }

    /// Medians of the fill's p50 and p99; the largest fill of all.
    pub(crate) fn fill(&self) -> Option<(f64, f64, f64)> {
        let of = |value: fn(&Spread) -> u64| {
            self.summary(|point| point.fill_bytes.as_ref().map(|s| value(s) as f64))
        };
        Some((of(|fill| fill.p50)?.median, of(|fill| fill.p99)?.median, of(|fill| fill.max)?.max))
    }

    pub(crate) fn exposure_max(&self) -> Option<f64> {
        Some(self.summary(|point| Some(point.exposure_bytes.as_ref()?.max as f64))?.max)
    }

    pub(crate) fn waited(&self) -> u64 {
        self.repetitions.iter().map(|point| point.waited_for_window).sum()
    }

    pub(crate) fn summary(&self, value: impl Fn(&Point) -> Option<f64>) -> Option<Summary> {
        Summary::of(self.repetitions.iter().filter_map(|point| value(point)))
    }

    /// 95 % bootstrap interval of the median over the repetitions; the range where there are too few; `None` for one.
    pub(crate) fn p50_interval(&self) -> Option<Interval> {
        interval(self.repetitions.iter().map(|point| point.latency_ns.p50 as f64).collect())
    }

    /// The same of the p99.
    pub(crate) fn p99_interval(&self) -> Option<Interval> {
        interval(self.repetitions.iter().map(|point| point.latency_ns.p99 as f64).collect())
    }

    /// Samples of the repetition that has the fewest.
    pub(crate) fn least_samples(&self) -> u64 {
        self.repetitions.iter().map(|point| point.latency_ns.samples).min().unwrap_or(0)
    }

    /// The repetitions as they were measured.
    pub(crate) fn in_order(&self) -> Vec<&'a Point> {
        let mut points = self.repetitions.clone();
        points.sort_by_key(|point| point.repetition);
        points
    }

    /// As `8 clients`, `5,000/s`, `32 threads`.
    pub(crate) fn load_label(&self) -> String {
        load_label(self.point)
    }
}

fn interval(values: Vec<f64>) -> Option<Interval> {
    match values.len() {
        0 | 1 => None,
        count if count < ENOUGH_PAIRS => Summary::of(values).map(|summary| summary.range()),
        _ => bootstrap_median(&values, 0.95),
    }
}

pub(crate) fn load_label(point: &Point) -> String {
    let mut label = arrival_label(point);
    if let Some(bursts) = point.detail.arrivals.as_deref().filter(|arrivals| arrivals.starts_with("bursts")) {
        label.push_str(&format!(" in {bursts}"));
    }
    if let Some(one_in) = point.detail.one_in {
        label.push_str(&format!(", 1 in {one_in} at the higher level"));
    }
    label
}

fn arrival_label(point: &Point) -> String {
    match (point.load.arrival, point.load.threads) {
        (Arrival::Closed(1), Some(1)) => "1 thread".into(),
        (Arrival::Closed(clients), Some(threads)) if clients == threads => format!("{threads} threads"),
        (Arrival::Closed(clients), Some(1)) => format!("{clients} clients"),
        (Arrival::Closed(1), None) => "1 client".into(),
        (Arrival::Closed(clients), None) => format!("{clients} clients"),
        (Arrival::Closed(clients), Some(threads)) => format!("{clients} clients, {threads} threads"),
        (Arrival::OpenPerS(rate), _) => format!("{}/s", crate::units::per_second(rate)),
    }
}

/// The rows of one experiment, in ladder order: level, then load, then what else is varied, then the order of the report.
pub(crate) fn rows<'a>(points: impl IntoIterator<Item = &'a Point>) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'a>> = Vec::new();
    for point in points {
        match rows.iter_mut().find(|row| same(row.point, point)) {
            Some(row) => row.repetitions.push(point),
            None => rows.push(Row { point, repetitions: vec![point] }),
        }
    }
    rows.sort_by(|a, b| order(a.point).partial_cmp(&order(b.point)).unwrap_or(std::cmp::Ordering::Equal));
    rows
}

/// The floor that a level is held against: its name, its p50 in ns.
pub(crate) fn floor_of(level: Level, standbys: u32, floors: &Floors) -> Option<(&'static str, f64)> {
    let p50 = |floor: &Option<FloorNs>| floor.as_ref().map(|floor| floor.p50 as f64);
    match level {
        Level::Off => Some(("copy + CRC", p50(&floors.append_copy_ns)?)),
        Level::Local => Some(("durable write", p50(&floors.durable_write_ns)?)),
        _ if standbys == 0 => Some(("durable write", p50(&floors.durable_write_ns)?)),
        Level::RemoteWrite => {
            let (disk, net) = (p50(&floors.durable_write_ns)?, p50(&floors.round_trip_ns)?);
            Some(if disk >= net { ("durable write", disk) } else { ("round trip", net) })
        }
        Level::On | Level::RemoteApply => Some(("bare pair", p50(&floors.pair_commit_ns)?)),
    }
}

/// The floor's name in words, from its name in `report.json`.
pub(crate) fn floor_words(name: &str) -> &str {
    match name {
        "durable_write_ns" => "durable write",
        "pair_commit_ns" => "bare pair",
        "round_trip_ns" => "round trip",
        "append_copy_ns" => "copy + CRC",
        other => other,
    }
}

fn same(a: &Point, b: &Point) -> bool {
    a.system == b.system
        && a.experiment == b.experiment
        && a.client == b.client
        && a.level == b.level
        && a.window == b.window
        && a.sync_rule == b.sync_rule
        && a.standbys == b.standbys
        && a.link_rtt_us == b.link_rtt_us
        && a.load == b.load
        && a.record_bytes == b.record_bytes
        && a.shards == b.shards
        && a.connections == b.connections
        && a.durable == b.durable
        && a.detail.one_in == b.detail.one_in
        && a.detail.record_sizes == b.detail.record_sizes
        && a.detail.arrivals == b.detail.arrivals
}

fn order(point: &Point) -> (Level, f64, u32, u32, f64, u32) {
    let load = match point.load.arrival {
        Arrival::Closed(clients) => f64::from(clients),
        Arrival::OpenPerS(rate) => 1e6 + rate,
    };
    let threads = point.load.threads.unwrap_or(1);
    (point.level, load, threads, point.standbys, point.link_rtt_us, point.shards)
}

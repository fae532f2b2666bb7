//! The table "What it must reach", computed as ratios inside one run: each repetition against the floors beside it,
//! then the median over the repetitions, with its spread.

use crate::publish::PointResult;
use crate::run::Facts;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use towline_core::types::Level;
use towline_report::grouped;
use towline_report::schema::{Arrival, Check, Interval};
use towline_report::stats::{Summary, bootstrap_median};

/// All rows; those that this run did not measure have no value.
pub(crate) fn compute(results: &[PointResult], facts: &Facts) -> Vec<Check> {
    let mut rows = latency_rows(results);
    rows.extend(throughput_rows(results, facts));
    rows.extend(window_rows(facts));
    rows.extend(steady_rows(results, facts));
    rows.extend(memory_rows(facts));
    rows.push(instrument_row(facts));
    rows
}

fn latency_rows(results: &[PointResult]) -> Vec<Check> {
    let ratio = |result: &PointResult| result.point.ratio_to_floor.as_ref().map(|ratio| ratio.p50_ratio);
    let local = |result: &&PointResult| is_closed(result, Level::Local, 1) && result.point.standbys == 0;
    let on = |result: &&PointResult| is_closed(result, Level::On, 1) && result.point.standbys == 1;
    let floor = |ns: Option<f64>, name: &str| ns.map(|ns| format!("{name} {:.1} µs", ns / 1e3));
    vec![
        Row {
            measure: "p50 local, 1 client, 256 B, no standby",
            bar: "≤ 1.15 × durable-write floor",
            unit: "×",
            values: results.iter().filter(local).filter_map(ratio).collect(),
            floor: floor(
                median(results.iter().filter(local), |result| {
                    result.floors.durable_write_ns.map(|ns| ns as f64)
                }),
                "durable write",
            ),
            met: |value| value <= 1.15,
        }
        .check(),
        Row {
            measure: "p50 on, one standby, 1 client, 256 B",
            bar: "≤ 1.20 × pair floor",
            unit: "×",
            values: results.iter().filter(on).filter_map(ratio).collect(),
            floor: floor(
                median(results.iter().filter(on), |result| result.floors.pair_commit_ns.map(|ns| ns as f64)),
                "bare pair",
            ),
            met: |value| value <= 1.20,
        }
        .check(),
    ]
}

fn throughput_rows(results: &[PointResult], facts: &Facts) -> Vec<Check> {
    let local = |result: &&PointResult| is_closed(result, Level::Local, 32) && result.point.standbys == 0;
    let on = |result: &&PointResult| is_closed(result, Level::On, 32) && result.point.standbys == 2;
    let per_floor = |result: &PointResult| {
        Some(
            result.point.achieved_per_s
                / result.floors.durable_writes_per_s_depth32.filter(|floor| *floor > 0.0)?,
        )
    };
    // One client of a bare pair commits once per pair commit.
    let per_pair =
        |result: &PointResult| Some(result.point.achieved_per_s * result.floors.pair_commit_ns? as f64 / 1e9);
    let off = |result: &&PointResult| result.point.experiment == "off";
    let stream = |result: &&PointResult| result.point.experiment == "stream";
    let stream_floor = |result: &PointResult| {
        Some(result.floors.net_bytes_per_s?.min(result.floors.disk_bytes_per_s? / 2.0))
            .filter(|floor| *floor > 0.0)
    };
    let mut off_row = Row {
        measure: "off, 256 B, no standby, one shard thread",
        bar: "≥ 3 million records/s for 10 s, all found by log verify",
        unit: "per second",
        values: results.iter().filter(off).map(|result| result.point.achieved_per_s).collect(),
        floor: median(results.iter().filter(off), |result| {
            result.point.ratio_to_floor.as_ref().map(|r| r.p50_ratio)
        })
        .map(|ratio| format!("p50 is {ratio:.1} × copy + CRC")),
        met: |value| value >= 3e6,
    }
    .check();
    if let Some(verified) = &facts.off_verified {
        off_row.note = Some(verified.text.clone());
        off_row.met = off_row.met.map(|met| met && verified.all_found);
    }
    let mut local_row = Row {
        measure: "commits/s local, 32 clients, no standby",
        bar: "≥ 1.8 × durable writes/s at depth 32",
        unit: "×",
        values: results.iter().filter(local).filter_map(per_floor).collect(),
        floor: median(results.iter().filter(local), |result| result.floors.durable_writes_per_s_depth32)
            .map(|floor| format!("durable writes at depth 32: {}/s", grouped(floor))),
        met: |value| value >= 1.8,
    }
    .check();
    local_row.note = shape_of_closed_loop(results.iter().filter(local));
    vec![
        local_row,
        Row {
            measure: "commits/s on, ANY 1 of 2, 32 clients",
            bar: "≥ 12 × the bare pair's rate at one client",
            unit: "×",
            values: results.iter().filter(on).filter_map(per_pair).collect(),
            floor: median(results.iter().filter(on), |result| {
                Some(1e9 / result.floors.pair_commit_ns? as f64)
            })
            .map(|floor| format!("bare pair, one client: {}/s", grouped(floor))),
            met: |value| value >= 12.0,
        }
        .check(),
        off_row,
        Row {
            measure: "streaming 4 KiB records at off to one standby, trimming",
            bar: "≥ 0.7 × min(net floor, half the disk floor)",
            unit: "×",
            values: results
                .iter()
                .filter(stream)
                .filter_map(|result| Some(result.point.bytes_per_s() / stream_floor(result)?))
                .collect(),
            floor: median(results.iter().filter(stream), stream_floor)
                .map(|floor| format!("min(net, disk / 2): {:.2} GB/s", floor / 1e9)),
            met: |value| value >= 0.7,
        }
        .check(),
    ]
}

/// What a closed loop can reach at all: each client waits for one durable write.
fn shape_of_closed_loop<'a>(results: impl Iterator<Item = &'a PointResult> + Clone) -> Option<String> {
    let most_per_s = median(results.clone(), |result| Some(32e9 / result.floors.durable_write_ns? as f64))?;
    let reached = median(results.clone(), |result| {
        Some(100.0 * result.point.achieved_per_s * result.floors.durable_write_ns? as f64 / 32e9)
    })?;
    let per_flush = median(results, |result| {
        let commits = result.point.achieved_per_s * result.point.duration_s?;
        Some(commits / result.point.flushes.filter(|flushes| *flushes > 0)? as f64)
    })?;
    Some(format!(
        "32 clients that each wait for a durable write make at most {}/s here; reached {reached:.0} % of \
         that, {per_flush:.1} commits per flush",
        grouped(most_per_s)
    ))
}

fn window_rows(facts: &Facts) -> Vec<Check> {
    let row = |measure: &'static str, infinite: bool| {
        let pairs: Vec<_> = facts
            .equal_pairs
            .iter()
            .filter(|pair| pair.infinite == infinite && pair.link_rtt_us == 0)
            .collect();
        let plain_ns: Vec<f64> = pairs.iter().map(|pair| pair.plain_p50_ns).collect();
        let slices: usize = pairs.iter().map(|pair| pair.slices).sum();
        let mut check = Row {
            measure,
            bar: "within 5 %",
            unit: "×",
            values: pairs.iter().map(|pair| pair.ratio).collect(),
            floor: median_of(&plain_ns).map(|ns| format!("plain level at the same load: {:.1} µs", ns / 1e3)),
            met: |value| (value - 1.0).abs() <= 0.05,
        }
        .check();
        check.note = check.value.map(|_| {
            format!("median over the repetitions, of {slices} pairs of neighbouring slices in all, in the order ABBA")
        });
        check
    };
    vec![
        row("window ω = 0 against on, same load, p50", false),
        row("window ω = ∞ against local, same load, p50", true),
    ]
}

fn steady_rows(results: &[PointResult], facts: &Facts) -> Vec<Check> {
    // `off` never waits for a flush: its shard has nothing to be steady about.
    let waiting = || {
        results.iter().filter(|result| {
            // An emulated link runs in this process, and its allocations would be the log's.
            result.level > Level::Off
                && result.point.link_rtt_us == 0.0
                && result.point.load.threads.is_none()
                && matches!(result.point.load.arrival, Arrival::Closed(_))
        })
    };
    let worst = |measure: &str, bar: &str, unit: &str, values: Vec<f64>, most: f64| {
        let summary = Summary::of(values);
        Check {
            measure: measure.into(),
            bar: bar.into(),
            value: summary.as_ref().map(|summary| summary.max),
            unit: unit.into(),
            spread: summary.as_ref().map(Summary::range),
            floor: None,
            met: summary.map(|summary| summary.max <= most),
            note: None,
        }
    };
    let mut workers = worst(
        "kernel worker threads of the primary, all points",
        "none",
        "threads",
        results.iter().map(|result| result.ring_workers as f64).collect(),
        0.0,
    );
    // Said with the figure: a sync of its own is what the kernel gives to a worker.
    workers.note = facts.primitive.filter(|primitive| primitive.name() != "dsync").map(|primitive| {
        format!(
            "{} won the race of primitives on this disk: each of its syncs takes a worker",
            primitive.name()
        )
    });
    vec![
        workers,
        worst(
            "heap allocations per commit, closed loops on loopback, worst point",
            "none (≤ 0.01: a new segment allocates)",
            "per commit",
            waiting().filter_map(|result| result.point.allocations_per_commit).collect(),
            ALLOCATIONS_OF_SEGMENTS,
        ),
        worst(
            "submitting ring enters per flush, closed loops on loopback, worst point",
            "≤ 2 (≤ 2.05: heartbeats enter too)",
            "per flush",
            waiting().filter_map(|result| result.point.enters_per_flush).collect(),
            MOST_ENTERS,
        ),
    ]
}

fn memory_rows(facts: &Facts) -> Vec<Check> {
    let flat = facts.memory.as_ref();
    let growth =
        flat.map(|memory| 100.0 * (memory.most_bytes as f64 / memory.before_bytes.max(1) as f64 - 1.0));
    let row = |measure: &str,
               bar: &str,
               value: Option<f64>,
               unit: &str,
               met: Option<bool>,
               note: Option<String>| Check {
        measure: measure.into(),
        bar: bar.into(),
        value,
        unit: unit.into(),
        spread: None,
        floor: None,
        met,
        note,
    };
    vec![
        row(
            "primary's RssAnon + RssShmem while a standby is stopped",
            "flat within 10 %",
            growth,
            "%",
            growth.map(|growth| growth.abs() <= 10.0),
            flat.map(|memory| {
                format!(
                    "{:.1} MB before, {:.1} MB at most; p99 of commits meanwhile {:.1} µs",
                    memory.before_bytes as f64 / 1e6,
                    memory.most_bytes as f64 / 1e6,
                    memory.p99_ns as f64 / 1e3
                )
            }),
        ),
        row(
            "the stopped standby catches up, nothing lost or doubled",
            "identical logs, every record once and in order",
            flat.and_then(|memory| memory.caught_up_s),
            "s",
            flat.map(|memory| memory.caught_up_s.is_some() && memory.verified.is_ok()),
            flat.map(|memory| match &memory.verified {
                Ok(text) | Err(text) => text.clone(),
            }),
        ),
        row(
            "a standby stopped past the retention",
            "is told to resync",
            None,
            "",
            facts.resync.as_ref().map(|resync| resync.told),
            facts.resync.as_ref().map(|resync| resync.text.clone()),
        ),
    ]
}

/// Ratios of neighbouring slices with and without: a floor is not needed.
fn instrument_row(facts: &Facts) -> Check {
    let mut by_load: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for (clients, cost) in &facts.instrument {
        by_load.entry(*clients).or_default().push(cost.ratio);
    }
    // The load that pays most: a cheap one must not hide a dear one.
    let dearest = by_load
        .into_values()
        .max_by(|one, other| median_of(one).partial_cmp(&median_of(other)).unwrap_or(Ordering::Equal));
    let ratios = dearest.unwrap_or_default();
    let pairs: u32 = facts.instrument.iter().map(|(_, cost)| cost.pairs).sum();
    let mut row = Row {
        measure: "timing every record at every watermark: p50 with against without, dearest load",
        bar: "≤ 1.03 ×",
        unit: "×",
        values: ratios,
        floor: None,
        met: |value| value <= 1.03,
    }
    .check();
    row.note = row.value.map(|_| format!("{pairs} pairs of neighbouring slices"));
    row
}

struct Row {
    measure: &'static str,
    bar: &'static str,
    unit: &'static str,
    /// One per repetition.
    values: Vec<f64>,
    floor: Option<String>,
    met: fn(f64) -> bool,
}

impl Row {
    fn check(self) -> Check {
        let value = median_of(&self.values);
        Check {
            measure: self.measure.into(),
            bar: self.bar.into(),
            value,
            unit: self.unit.into(),
            spread: spread(&self.values),
            floor: self.floor,
            met: value.map(self.met),
            note: None,
        }
    }
}

/// A bootstrap interval where there are enough repetitions for one, else from the least to the most.
fn spread(values: &[f64]) -> Option<Interval> {
    if values.len() >= ENOUGH {
        bootstrap_median(values, 0.95)
    } else {
        Some(Summary::of(values.iter().copied())?.range())
    }
}

fn median_of(values: &[f64]) -> Option<f64> {
    Summary::of(values.iter().copied()).map(|summary| summary.median)
}

fn median<'a>(
    results: impl Iterator<Item = &'a PointResult>,
    value: impl Fn(&PointResult) -> Option<f64>,
) -> Option<f64> {
    median_of(&results.filter_map(value).collect::<Vec<_>>())
}

/// A plain closed loop of one generator thread, embedded, 256 B, on the bare loopback, outside the replay.
fn is_closed(result: &PointResult, level: Level, clients: u32) -> bool {
    let point = &result.point;
    result.level == level
        && !OTHER_EXPERIMENTS.contains(&point.experiment.as_str())
        && point.load.arrival == Arrival::Closed(clients)
        && point.load.threads.is_none()
        && point.window.is_none()
        && point.record_bytes == 256.0
        && point.link_rtt_us == 0.0
        && point.client == towline_report::schema::Client::Embedded
}

/// Their clusters or loads are varied on purpose; some of their points look like those of a bar.
const OTHER_EXPERIMENTS: [&str; 6] = ["standbys", "sync_rules", "shards", "rtt", "timeline", "mixed"];
/// Per commit: a segment that is prepared or recycled allocates (names of files, its entry in the tables), some thousand
/// commits do not.
const ALLOCATIONS_OF_SEGMENTS: f64 = 0.01;
/// Per flush: two, and room for the heartbeats, a few per second.
const MOST_ENTERS: f64 = 2.05;
/// Fewer repetitions have no interval worth the name.
const ENOUGH: usize = 10;

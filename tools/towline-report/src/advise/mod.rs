//! From a goal to a commit level and a window: the weakest rung that survives a failure and keeps a p99, on what a run
//! measured; what its neighbours cost and lose; and for a goal that cannot be met, which half of it and what is nearest.
//!
//! A figure meets a bound when the upper end of its interval does: with fewer than five repetitions the slowest one.

mod choice;
mod failure;
mod text;

pub use failure::{ALIASES, Failure, failure_name};
pub use text::format_advice;

use crate::groups::{Row, rows};
use crate::knee::{self, Curve};
use crate::schema::{Arrival, Client, Level, Point, Report, Spread, Window};
use crate::stats;
use failure::standbys_of_rule;
use serde::Serialize;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// No acknowledged record may be lost by this, but for `lose_bytes`.
    pub survive: Failure,
    /// A client waits at most so long at p99, ns.
    pub p99_ns: f64,
    /// Acknowledged payload that may be lost, bytes: what a lag window may be as wide as.
    pub lose_bytes: u64,
    /// The load: outstanding appends. `None`: every load that the run measured.
    pub clients: Option<u32>,
    /// Round trip to the standbys that an emulated link added, µs. `None`: the shortest that the run measured.
    pub link_rtt_us: Option<f64>,
}

/// The answer, with the figures it rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// What was asked.
    pub goal: Goal,
    /// Name and start of the run that answers.
    pub run: String,
    /// Below ten repetitions: no claim about a p99.
    pub indicative: bool,
    /// What tells the run's machine from this one, where it was used all the same.
    pub machine_differs: Vec<String>,
    /// Every rung that the run measured, weakest first.
    pub rungs: Vec<Rung>,
    /// The window sweep that fits the goal best; empty where the run has none.
    pub windows: Vec<WindowPoint>,
    /// The load of that sweep, for people.
    pub windows_at: String,
    /// Whether the goal can be met, and by what.
    pub verdict: Verdict,
}

/// One level as measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rung {
    /// The commit level.
    pub level: Level,
    /// Who counted; empty for nobody.
    pub sync_rule: String,
    /// How many standbys the rule waits for.
    pub waits_for_standbys: u32,
    /// How the clients reached the log.
    pub client: Client,
    /// Payload bytes of a record.
    pub record_bytes: f64,
    /// By load, the lightest first.
    pub loads: Vec<LoadFigures>,
    /// Every acknowledged record survives the failure asked about.
    pub survives: bool,
    /// What is gone after it.
    pub loses: String,
}

impl Rung {
    /// p99 at the load where it is largest, upper end, ns.
    pub fn worst_p99_ns(&self) -> f64 {
        self.loads.iter().map(|load| load.p99_upper_ns).fold(0.0, f64::max)
    }

    /// The most commits per second over its loads.
    pub fn most_per_s(&self) -> f64 {
        self.loads.iter().map(|load| load.per_s).fold(0.0, f64::max)
    }

    fn meets(&self, p99_ns: f64) -> bool {
        !self.loads.is_empty() && self.worst_p99_ns() <= p99_ns
    }
}

/// One load of a rung.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadFigures {
    /// For people, as `8 clients` or `5,000/s`.
    pub load: String,
    /// Outstanding appends; `None` in an open loop.
    pub clients: Option<u32>,
    /// Median over the repetitions, ns.
    pub p50_ns: f64,
    /// Median over the repetitions, ns.
    pub p99_ns: f64,
    /// What the p99 is judged by, ns.
    pub p99_upper_ns: f64,
    /// Commits per second.
    pub per_s: f64,
}

/// One window of the sweep.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WindowPoint {
    /// Commit level.
    pub level: Level,
    /// ω, payload bytes; what can be lost at most.
    pub window_bytes: u64,
    /// Median over the repetitions, ns.
    pub p50_ns: f64,
    /// Median over the repetitions, ns.
    pub p99_ns: f64,
    /// What the p99 is judged by, ns.
    pub p99_upper_ns: f64,
}

/// Whether a goal can be met.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Verdict {
    /// By this level and window.
    Met {
        /// The weakest level.
        level: Level,
        /// Who must count.
        sync_rule: String,
        /// The widest window, payload bytes; `None` is no window, as ω = 0.
        window_bytes: Option<u64>,
        /// The level meets the p99 at every load asked for without the window too.
        without_window: bool,
    },
    /// By none.
    Impossible {
        /// Which half.
        half: Half,
        /// Why, in a sentence.
        why: String,
        /// What comes nearest, in sentences.
        nearest: Vec<String>,
    },
}

/// The half of a goal that cannot be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Half {
    /// No level survives it.
    Survival,
    /// What survives it is slower.
    Latency,
}

/// Why a run cannot answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AdviseError {
    /// It has no points of Towline without a window.
    #[error("this run measured no commit level on its own; `towline bench ladder` does")]
    NoLadder,
    /// Not at that load.
    #[error(
        "this run did not measure {asked} clients, only {measured}; `towline bench ladder --clients {asked}` does"
    )]
    NoSuchLoad {
        /// What was asked for.
        asked: u32,
        /// What there is.
        measured: String,
    },
    /// Not over that link.
    #[error(
        "this run did not measure a link of {asked_us} µs, only {measured}; `towline bench ladder --link-rtt {asked_us}us` does"
    )]
    NoSuchLink {
        /// What was asked for, µs.
        asked_us: u64,
        /// What there is.
        measured: String,
    },
    /// No rung that survives the failure was measured.
    #[error(
        "what survives this is at least `{level}` with a rule that waits for {standbys} standbys, and this run did not measure it; \
         `towline bench ladder --standbys {more} --sync-rule 'ANY {standbys} (…)'` does"
    )]
    NoSurvivor {
        /// The weakest level that does.
        level: Level,
        /// How many standbys its rule waits for.
        standbys: u32,
        /// How many there should be.
        more: u32,
    },
}

/// Answers `goal` from what `report` measured.
///
/// # Errors
/// [`AdviseError`]: the run did not measure what the answer would rest on. An impossible goal is an answer.
pub fn advise(report: &Report, goal: Goal) -> Result<Advice, AdviseError> {
    let all = rows(report.points.iter().filter(|point| is_rung(point)));
    if all.is_empty() {
        return Err(AdviseError::NoLadder);
    }
    let link_rtt_us = link(&all, &goal)?;
    let rungs = rungs(&all, &goal, link_rtt_us)?;
    let curve = fitting_curve(report, &goal, link_rtt_us);
    let windows = curve.as_ref().map(windows).unwrap_or_default();
    let verdict = choice::verdict(&goal, &rungs, &windows)?;
    Ok(Advice {
        run: format!("{} of {}, commit {}", report.name, report.started_utc, report.environment.commit),
        indicative: report.indicative,
        machine_differs: Vec::new(),
        windows_at: curve.map(|curve| crate::groups::load_label(curve.points[0])).unwrap_or_default(),
        goal,
        rungs,
        windows,
        verdict,
    })
}

/// Experiments whose load is no client waiting for its commits, or not under ordinary circumstances.
const OTHER_EXPERIMENTS: [&str; 8] =
    ["replay", "off", "stream", "memory", "stall", "timeline", "knee", "rates"];

/// A point that stands for its level: Towline's own, without a window, under ordinary circumstances.
pub(crate) fn is_rung(point: &Point) -> bool {
    point.system == "towline"
        && point.window.is_none()
        && point.latency_ns.samples > 0
        && point.detail.kept_up != Some(false)
        && point.detail.one_in.is_none()
        && !OTHER_EXPERIMENTS.iter().any(|name| point.experiment.starts_with(name))
}

fn link(all: &[Row<'_>], goal: &Goal) -> Result<f64, AdviseError> {
    let remote = all.iter().filter(|row| row.point.level > Level::Local);
    let mut links: Vec<f64> = remote.map(|row| row.point.link_rtt_us).collect();
    links.sort_by(f64::total_cmp);
    links.dedup();
    match goal.link_rtt_us {
        None => Ok(links.first().copied().unwrap_or(0.0)),
        Some(asked) if links.contains(&asked) => Ok(asked),
        Some(asked) => {
            let measured: Vec<String> = links.iter().map(|us| crate::table::link_words(*us)).collect();
            Err(AdviseError::NoSuchLink { asked_us: asked as u64, measured: measured.join(", ") })
        }
    }
}

/// What rows must share to be compared as rungs of one ladder.
fn setting<'a>(row: &Row<'a>) -> (&'a str, Client, &'a str, u32, u64, u32, Option<u32>) {
    let point = row.point;
    let threads = point.load.threads.map(|_| 1);
    let record = point.record_bytes as u64;
    (&point.experiment, point.client, &point.sync_rule, point.standbys, record, point.shards, threads)
}

fn rungs(all: &[Row<'_>], goal: &Goal, link_rtt_us: f64) -> Result<Vec<Rung>, AdviseError> {
    let need = goal.survive.need().map_or(0, |need| need.standbys);
    // Levels that wait for nobody are the same over every link.
    let fits = |row: &&Row<'_>| row.point.level <= Level::Local || row.point.link_rtt_us == link_rtt_us;
    let fitting: Vec<&Row<'_>> = all.iter().filter(fits).collect();
    let has = |of: &_, level| fitting.iter().any(|row| row.point.level == level && setting(row) == *of);
    let mut settings: Vec<_> = Vec::new();
    for row in &fitting {
        if !settings.contains(&setting(row)) {
            settings.push(setting(row));
        }
    }
    let levels_of = |of: &_| Level::ALL.into_iter().filter(|level| has(of, *level)).count();
    let mut found = Vec::new();
    for level in Level::ALL {
        // The setting that has the most rungs, so that they can be compared; in it the fewest standbys that suffice.
        let best = settings.iter().filter(|of| has(of, level)).min_by_key(|of| {
            let counts = standbys_of_rule(of.2);
            let too_few = level > Level::Local && counts < need;
            let sweep = of.0 == "window";
            (too_few, of.6.is_some(), sweep, 5 - levels_of(of), of.0 != "ladder", of.1, of.5, counts)
        });
        let Some(of) = best else { continue };
        let of_level = |row: &&&Row<'_>| row.point.level == level && setting(row) == *of;
        let mut rows: Vec<&Row<'_>> = fitting.iter().filter(of_level).copied().collect();
        if rows.iter().any(|row| row.point.link_rtt_us == link_rtt_us) {
            rows.retain(|row| row.point.link_rtt_us == link_rtt_us);
        }
        found.push(rung(&rows, goal));
    }
    match goal.clients {
        Some(asked) => with_load(found, asked),
        None => Ok(found),
    }
}

/// The rungs at this load only.
fn with_load(mut found: Vec<Rung>, asked: u32) -> Result<Vec<Rung>, AdviseError> {
    let survivor = found.iter().any(|rung| rung.survives);
    let loads = found.iter().flat_map(|rung| &rung.loads);
    let mut measured: Vec<u32> = loads.filter_map(|load| load.clients).collect();
    measured.sort_unstable();
    measured.dedup();
    found.iter_mut().for_each(|rung| rung.loads.retain(|load| load.clients == Some(asked)));
    found.retain(|rung| !rung.loads.is_empty());
    if found.is_empty() || survivor && !found.iter().any(|rung| rung.survives) {
        let measured: Vec<String> = measured.iter().map(u32::to_string).collect();
        return Err(AdviseError::NoSuchLoad { asked, measured: measured.join(", ") });
    }
    Ok(found)
}

fn rung(rows: &[&Row<'_>], goal: &Goal) -> Rung {
    let point = rows[0].point;
    let standbys = standbys_of_rule(&point.sync_rule);
    // Rows come in the order of their loads.
    let loads = rows.iter().map(|row| LoadFigures {
        load: row.load_label(),
        clients: match row.point.load.arrival {
            Arrival::Closed(clients) => Some(clients),
            Arrival::OpenPerS(_) => None,
        },
        p50_ns: row.p50().median,
        p99_ns: row.p99().median,
        p99_upper_ns: upper_ns(&row.repetitions),
        per_s: row.per_s().median,
    });
    let exposures = || rows.iter().flat_map(|row| &row.repetitions).filter_map(|point| point.exposure_bytes);
    let exposure = exposures().next().is_some().then(|| Spread {
        p50: stats::median(&exposures().map(|e| e.p50 as f64).collect::<Vec<_>>()).unwrap_or(0.0) as u64,
        p99: exposures().map(|e| e.p99).max().unwrap_or(0),
        max: exposures().map(|e| e.max).max().unwrap_or(0),
    });
    Rung {
        level: point.level,
        sync_rule: point.sync_rule.clone(),
        waits_for_standbys: if point.level > Level::Local { standbys } else { 0 },
        client: point.client,
        record_bytes: point.record_bytes,
        survives: goal.survive.survived_by(point.level, standbys),
        loses: goal.survive.loss(point.level, standbys, exposure),
        loads: loads.collect(),
    }
}

/// The upper end of the p99's interval over the repetitions; the slowest of few.
fn upper_ns(repetitions: &[&Point]) -> f64 {
    let values: Vec<f64> = repetitions.iter().map(|point| point.latency_ns.p99 as f64).collect();
    let slowest = values.iter().copied().fold(0.0, f64::max);
    if values.len() < stats::ENOUGH_PAIRS {
        return slowest;
    }
    stats::bootstrap_median(&values, 0.95).map_or(slowest, |interval| interval.high)
}

/// The busiest sweep over the link at a level that is strong enough: a window's latency grows with the load.
fn fitting_curve<'a>(report: &'a Report, goal: &Goal, link_rtt_us: f64) -> Option<Curve<'a>> {
    let need = goal.survive.need()?;
    let fits = |curve: &Curve<'_>| {
        let point = curve.points[0];
        let standbys = standbys_of_rule(&point.sync_rule);
        let bytes = curve.points.iter().any(|point| matches!(point.window, Some(Window::Bytes(_))));
        bytes
            && curve.link_rtt_us == link_rtt_us
            && need.level > Level::Local
            && goal.survive.survived_by(point.level, standbys)
    };
    let curves = knee::curves(report).into_iter().filter(fits);
    curves.max_by(|a, b| a.lambda_bytes_per_s().total_cmp(&b.lambda_bytes_per_s()))
}

fn windows(curve: &Curve<'_>) -> Vec<WindowPoint> {
    let of_window = |window| {
        let Window::Bytes(window_bytes) = window else { return None };
        let repetitions: Vec<&Point> =
            curve.points.iter().copied().filter(|point| point.window == Some(window)).collect();
        Some(WindowPoint {
            level: curve.points[0].level,
            window_bytes,
            p50_ns: curve.median_of(window, |point| point.latency_ns.p50 as f64)?,
            p99_ns: curve.median_of(window, |point| point.latency_ns.p99 as f64)?,
            p99_upper_ns: upper_ns(&repetitions),
        })
    };
    curve.windows().into_iter().filter_map(of_window).collect()
}

#[cfg(test)]
#[path = "advise_tests.rs"]
mod tests;

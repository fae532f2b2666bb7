//! Two runs side by side: what changed, with intervals.
//!
//! Each figure is first divided by the floor of its own repetition where both runs have one, so that a machine that
//! was slower as a whole does not pass for a change of the code. Repetitions are paired in the order they were
//! measured; a change is claimed only where the interval of the paired ratios excludes 1 and there were at least five.

use crate::groups::{Row, floor_words, load_label, rows};
use crate::schema::{Environment, Interval, Point, Report};
use crate::stats::PairedRatio;
use serde::Serialize;

/// What changed between two runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The run asked about, by its start.
    pub run: String,
    /// The run it is held against, by its start.
    pub against: String,
    /// What differs between the machines; empty on the same class.
    pub machine_differs: Vec<String>,
    /// How far a figure may be worse, as a share.
    pub bound: f64,
    /// One for each figure that both runs have.
    pub changes: Vec<Change>,
    /// Points that only one of the runs has.
    pub without_partner: usize,
}

impl Comparison {
    /// Changes for the worse that are claimed and past the bound.
    pub fn regressions(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.verdict == Verdict::Regressed)
    }
}

/// One figure of one point in both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// System, experiment, client, level, load, and what else tells it from its neighbours.
    pub point: String,
    /// `p50`, `p99` or `commits/s`.
    pub figure: String,
    /// The floor that both runs were divided by; `None` where the figures themselves are compared.
    pub floor: Option<String>,
    /// The run over the other: the median of the paired ratios.
    pub ratio: f64,
    /// 95 % bootstrap interval of that median.
    pub interval: Interval,
    /// Pairs of repetitions.
    pub pairs: usize,
    /// What may be said.
    pub verdict: Verdict,
}

/// What may be said of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Worse, and by more than the bound.
    Regressed,
    /// Worse, within the bound.
    Worse,
    /// Better.
    Better,
    /// The interval holds 1.
    Same,
    /// Too few pairs for a claim.
    TooFew,
}

impl Verdict {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Regressed => "REGRESSED",
            Self::Worse => "worse, within the bound",
            Self::Better => "better",
            Self::Same => "no difference shown",
            Self::TooFew => "too few repetitions",
        }
    }
}

/// Holds `run` against `against`; a figure worse by more than the share `bound` is a regression.
pub fn compare(run: &Report, against: &Report, bound: f64) -> Comparison {
    let (new, old) = (rows(&run.points), rows(&against.points));
    let mut comparison = Comparison {
        run: run.started_utc.clone(),
        against: against.started_utc.clone(),
        machine_differs: machine_differences(&run.environment, &against.environment),
        bound,
        changes: Vec::new(),
        without_partner: 0,
    };
    for row in &new {
        match old.iter().find(|other| label(other.point) == label(row.point)) {
            Some(other) => comparison.changes.extend(changes(row, other, bound)),
            None => comparison.without_partner += 1,
        }
    }
    let missing = old.iter().filter(|row| !new.iter().any(|other| label(other.point) == label(row.point)));
    comparison.without_partner += missing.count();
    comparison
}

/// What tells two machines apart so far that their figures say nothing about each other.
pub fn machine_differences(a: &Environment, b: &Environment) -> Vec<String> {
    let pairs = [
        ("processor", a.cpu.clone(), b.cpu.clone()),
        ("cores", a.cores.to_string(), b.cores.to_string()),
        ("file system", a.file_system.clone(), b.file_system.clone()),
        ("device", a.device.clone(), b.device.clone()),
        ("durability primitive", a.durability_primitive.clone(), b.durability_primitive.clone()),
    ];
    let differing = pairs.into_iter().filter(|(_, a, b)| a != b);
    differing.map(|(name, a, b)| format!("{name}: {a} and {b}")).collect()
}

/// What tells two machines apart whatever disk a run was on: processor and cores.
pub fn hardware_differences(a: &Environment, b: &Environment) -> Vec<String> {
    let without_disk = |environment: &Environment| Environment {
        cpu: environment.cpu.clone(),
        cores: environment.cores,
        ..Environment::default()
    };
    machine_differences(&without_disk(a), &without_disk(b))
}

fn changes(new: &Row<'_>, old: &Row<'_>, bound: f64) -> Vec<Change> {
    // Only where every repetition of both has the same floor beside it.
    let floor = new.point.ratio_to_floor.as_ref().map(|ratio| ratio.floor.clone());
    let has_floor = |row: &Row<'_>| {
        row.repetitions.iter().all(|point| point.ratio_to_floor.as_ref().map(|r| &r.floor) == floor.as_ref())
    };
    let floor = floor.clone().filter(|_| has_floor(new) && has_floor(old));
    let latency = |row: &Row<'_>, quantile: fn(&Point) -> u64| -> Vec<f64> {
        let value = |point: &&Point| {
            let raw = quantile(point) as f64;
            let ratio = point.ratio_to_floor.as_ref().filter(|_| floor.is_some());
            // p50 over its ratio is the floor of this repetition.
            ratio.map_or(raw, |ratio| raw * ratio.p50_ratio / (point.latency_ns.p50 as f64).max(1.0))
        };
        row.in_order().iter().map(value).collect()
    };
    let per_s = |row: &Row<'_>| row.in_order().iter().map(|point| point.achieved_per_s).collect::<Vec<_>>();
    let figures: [(&str, Vec<f64>, Vec<f64>, bool); 3] = [
        ("p50", latency(new, |p| p.latency_ns.p50), latency(old, |p| p.latency_ns.p50), true),
        ("p99", latency(new, |p| p.latency_ns.p99), latency(old, |p| p.latency_ns.p99), true),
        ("commits/s", per_s(new), per_s(old), false),
    ];
    let mut found = Vec::new();
    for (figure, new_values, old_values, less_is_better) in figures {
        let pairs = new_values.len().min(old_values.len());
        let Some(ratio) = PairedRatio::of(&new_values[..pairs], &old_values[..pairs]) else { continue };
        found.push(Change {
            point: label(new.point),
            figure: figure.into(),
            floor: floor.as_deref().filter(|_| less_is_better).map(|name| floor_words(name).to_owned()),
            ratio: ratio.summary.median,
            interval: ratio.interval,
            pairs: ratio.summary.count,
            verdict: verdict(&ratio, less_is_better, bound),
        });
    }
    found
}

fn verdict(ratio: &PairedRatio, less_is_better: bool, bound: f64) -> Verdict {
    let median = ratio.summary.median;
    if ratio.summary.count < crate::stats::ENOUGH_PAIRS {
        return Verdict::TooFew;
    }
    if !ratio.differs() {
        return Verdict::Same;
    }
    match (median > 1.0) != less_is_better {
        true => Verdict::Better,
        false if less_is_better && median > 1.0 + bound => Verdict::Regressed,
        false if !less_is_better && median < 1.0 - bound => Verdict::Regressed,
        false => Verdict::Worse,
    }
}

/// What a point is, told from all its neighbours.
pub(crate) fn label(point: &Point) -> String {
    let mut label =
        format!("{} {} {} {}", point.system, point.experiment, point.client.as_str(), point.level);
    label.push_str(&format!(", {}, {}", load_label(point), crate::units::bytes(point.record_bytes)));
    if let Some(window) = point.window {
        label.push_str(&format!(", ω = {}", crate::table::window_words(Some(window))));
    }
    if point.standbys > 0 {
        let word = if point.standbys == 1 { "standby" } else { "standbys" };
        label.push_str(&format!(", {} {word} {}", point.standbys, point.sync_rule));
    }
    if point.link_rtt_us > 0.0 {
        label.push_str(&format!(", {} µs link", point.link_rtt_us));
    }
    if point.shards > 1 {
        label.push_str(&format!(", {} shards", point.shards));
    }
    if let Some(connections) = point.connections {
        label.push_str(&format!(", {connections} connections"));
    }
    if point.durable == Some(false) {
        label.push_str(", not durable");
    }
    for words in [&point.detail.record_sizes, &point.detail.arrivals].into_iter().flatten() {
        label.push_str(&format!(", {words}"));
    }
    label.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::canonical_report;

    fn slowed(repetitions: u32, factor: f64) -> Report {
        let mut report = canonical_report(repetitions);
        for point in &mut report.points {
            point.latency_ns.p50 = (point.latency_ns.p50 as f64 * factor) as u64;
        }
        report
    }

    #[test]
    fn a_run_against_itself_has_no_difference() {
        let run = canonical_report(6);
        let comparison = compare(&run, &run, 0.05);
        assert!(comparison.changes.len() > 100 && comparison.without_partner == 0);
        assert!(
            comparison.changes.iter().all(|change| change.verdict == Verdict::Same && change.ratio == 1.0)
        );
    }

    #[test]
    fn a_known_factor_is_found_and_held_against_the_bound() {
        let (old, new) = (canonical_report(6), slowed(6, 1.2));
        let p50 = |bound| {
            let comparison = compare(&new, &old, bound);
            comparison.changes.into_iter().filter(|change| change.figure == "p50").collect::<Vec<_>>()
        };
        assert!(p50(0.05).iter().all(|change| change.verdict == Verdict::Regressed));
        assert!(p50(0.05).iter().all(|change| (change.ratio - 1.2).abs() < 0.02));
        assert!(p50(0.30).iter().all(|change| change.verdict == Verdict::Worse));
        assert!(compare(&old, &new, 0.05).changes.iter().any(|change| change.verdict == Verdict::Better));
        assert_eq!(compare(&old, &new, 0.05).regressions().count(), 0);
    }

    #[test]
    fn few_repetitions_claim_nothing_however_large_the_change() {
        let comparison = compare(&slowed(4, 3.0), &canonical_report(4), 0.05);
        assert!(comparison.changes.iter().all(|change| change.verdict == Verdict::TooFew));
    }

    #[test]
    fn a_machine_that_was_slower_as_a_whole_is_no_regression() {
        let with_floor = |floor_ns: f64, factor: f64| {
            let mut report = slowed(6, factor);
            for point in &mut report.points {
                let p50_ratio = point.latency_ns.p50 as f64 / floor_ns;
                point.ratio_to_floor =
                    Some(crate::schema::FloorRatio { floor: "durable_write_ns".into(), p50_ratio });
            }
            report
        };
        let comparison = compare(&with_floor(150e3, 1.5), &with_floor(100e3, 1.0), 0.05);
        let p50 = comparison.changes.iter().filter(|change| change.figure == "p50");
        assert!(p50.clone().all(|change| (change.ratio - 1.0).abs() < 0.02), "{comparison:?}");
        assert!(p50.clone().all(|change| change.floor.as_deref() == Some("durable write")));
    }

    #[test]
    fn another_machine_is_named() {
        let run = canonical_report(1);
        let mut other = run.clone();
        other.environment.cores = 64;
        assert_eq!(compare(&run, &other, 0.05).machine_differs, ["cores: 2 and 64"]);
    }
}

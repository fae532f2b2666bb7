//! What disturbed a run: marks by stated bounds, so that a reader need not guess which figures to trust.

use crate::groups::rows;
use crate::schema::{Arrival, FloorsOfRepetition, Level, Report};
use crate::series::{ENOUGH_VALUES, autocorrelation_bound, lag1_autocorrelation, steady_from};
use crate::stats::median;
use serde::Serialize;

/// The hypervisor took more than this share of the processors' time, percent.
pub const STEAL_PERCENT: f64 = 2.0;
/// Some task waited for a processor for more than this share of the time, percent. A loaded run on two cores makes more
/// than half of that by itself.
pub const PRESSURE_PERCENT: f64 = 75.0;
/// A mean this many times the median is no tail of the log's own making.
pub const MEAN_OVER_P50: f64 = 2.0;
/// A floor that lies this share away from its median over the run.
pub const FLOOR_DRIFT: f64 = 0.25;
/// A repetition with fewer samples has no quantile but its median.
pub const FEW_SAMPLES: u64 = 100;
/// More of the rows marked than this make the run a noisy one.
pub const MARKED_ROWS: f64 = 0.1;

/// The marks of one run. Computed from its figures whenever it is read, never stored: a run of an older version is held
/// against today's bounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Noise {
    /// What holds for the run as a whole.
    pub of_run: Vec<Mark>,
    /// The rows that have marks.
    pub of_rows: Vec<MarkedRow>,
    /// Rows that were looked at.
    pub rows: usize,
}

impl Noise {
    /// The run as a whole is to be read with care.
    pub fn is_noisy(&self) -> bool {
        !self.of_run.is_empty() || self.of_rows.len() as f64 > MARKED_ROWS * self.rows as f64
    }
}

/// One bound that was passed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// Which bound.
    pub kind: MarkKind,
    /// The same with its figure, for people.
    pub text: String,
}

/// What a mark is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkKind {
    /// The hypervisor took processor time: [`STEAL_PERCENT`].
    Steal,
    /// Tasks waited for a processor: [`PRESSURE_PERCENT`]. More threads than cores make it by themselves.
    CrowdedProcessors,
    /// The mean is far above the median: [`MEAN_OVER_P50`].
    MeanOverP50,
    /// The generator could not offer the load.
    GeneratorLate,
    /// A repetition with less than [`FEW_SAMPLES`].
    FewSamples,
    /// The warm-up was too short.
    NotSteady,
    /// The repetitions are not independent.
    RepetitionsHangTogether,
    /// A floor moved within the run: [`FLOOR_DRIFT`].
    FloorDrift,
}

impl MarkKind {
    fn says(self, text: impl Into<String>) -> Mark {
        Mark { kind: self, text: text.into() }
    }
}

/// A row and its marks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MarkedRow {
    /// Its name, as in a comparison.
    pub row: String,
    /// One or more.
    pub marks: Vec<Mark>,
}

impl MarkedRow {
    /// It has this kind of mark and no other.
    pub fn is_only(&self, kind: MarkKind) -> bool {
        self.marks.iter().all(|mark| mark.kind == kind)
    }

    /// All its marks in words.
    pub fn why(&self) -> String {
        let texts: Vec<&str> = self.marks.iter().map(|mark| mark.text.as_str()).collect();
        texts.join("; ")
    }
}

/// Holds a run against the bounds.
pub fn of_report(report: &Report) -> Noise {
    let mut noise = Noise { of_run: run_marks(report), ..Noise::default() };
    for row in rows(&report.points) {
        noise.rows += 1;
        let mut marks = Vec::new();
        let steal = row.summary(|point| point.steal_percent).map_or(0.0, |steal| steal.median);
        if steal > STEAL_PERCENT {
            marks.push(MarkKind::Steal.says(format!("steal time {steal:.1} %")));
        }
        let pressure = row.summary(|point| point.detail.cpu_pressure_percent).map_or(0.0, |p| p.median);
        if pressure > PRESSURE_PERCENT {
            marks.push(MarkKind::CrowdedProcessors.says(format!("CPU pressure {pressure:.0} %")));
        }
        // The mean of `off` holds its waits for room, and that of an open load its queue.
        let closed = matches!(row.point.load.arrival, Arrival::Closed(_)) && row.point.level != Level::Off;
        let over = row.summary(|point| Some(point.mean_ns? / point.latency_ns.p50.max(1) as f64));
        if let Some(over) = over.filter(|over| closed && over.median > MEAN_OVER_P50) {
            marks.push(MarkKind::MeanOverP50.says(format!("mean {:.1} × p50", over.median)));
        }
        if row.repetitions.iter().any(|point| point.detail.kept_up == Some(false)) {
            marks.push(MarkKind::GeneratorLate.says("the generator could not offer the load: refused"));
        }
        let samples = row.least_samples();
        if samples < FEW_SAMPLES {
            marks.push(MarkKind::FewSamples.says(format!("only {samples} samples in a repetition")));
        }
        let starts: Vec<f64> =
            row.repetitions.iter().filter_map(|point| point.detail.start_over_rest).collect();
        if let Some(middle) = median(&starts).filter(|_| 2 * starts.len() > row.repetitions.len()) {
            marks.push(MarkKind::NotSteady.says(format!(
                "not steady: p50 of the first quarter of its time is {middle:.2} × that of the rest"
            )));
        }
        let p50: Vec<f64> = row.in_order().iter().map(|point| point.latency_ns.p50 as f64).collect();
        marks.extend(hang_together(&p50));
        if !marks.is_empty() {
            noise.of_rows.push(MarkedRow { row: crate::against::label(row.point), marks });
        }
    }
    noise
}

/// Whether the repetitions are not independent, so that an interval over them is too narrow.
fn hang_together(values: &[f64]) -> Option<Mark> {
    let r = lag1_autocorrelation(values).filter(|_| values.len() >= ENOUGH_VALUES)?;
    if r <= autocorrelation_bound(values.len()) {
        return None;
    }
    let steady = match steady_from(values) {
        Some(0) => String::new(),
        Some(cut) => format!(", steady from repetition {} on", cut + 1),
        None => ", never steady".into(),
    };
    let text = format!("repetitions hang together (lag-1 autocorrelation {r:.2}{steady})");
    Some(MarkKind::RepetitionsHangTogether.says(text))
}

fn run_marks(report: &Report) -> Vec<Mark> {
    let mut marks = Vec::new();
    let environment = &report.environment;
    if let Some(steal) = environment.steal_percent.filter(|steal| *steal > STEAL_PERCENT) {
        let text = format!("the hypervisor took {steal:.1} % of the processors' time");
        marks.push(MarkKind::Steal.says(text));
    }
    if let Some(pressure) = environment.cpu_pressure_percent.filter(|share| *share > PRESSURE_PERCENT) {
        let text = format!("tasks waited for a processor for {pressure:.0} % of the time");
        marks.push(MarkKind::CrowdedProcessors.says(text));
    }
    type Floor = fn(&FloorsOfRepetition) -> Option<u64>;
    let floors: [(&str, Floor); 3] = [
        ("durable write", |floors| floors.durable_write_ns),
        ("bare pair", |floors| floors.pair_commit_ns),
        ("round trip", |floors| floors.round_trip_ns),
    ];
    for (name, of) in floors {
        let values: Vec<f64> =
            report.floors.by_repetition.iter().filter_map(of).map(|ns| ns as f64).collect();
        let Some(middle) = median(&values).filter(|middle| *middle > 0.0) else { continue };
        let farthest =
            values.iter().map(|value| value / middle - 1.0).max_by(|a, b| a.abs().total_cmp(&b.abs()));
        if let Some(drift) = farthest.filter(|drift| drift.abs() > FLOOR_DRIFT) {
            let text =
                format!("the {name} floor of one repetition is {:+.0} % off its median", 100.0 * drift);
            marks.push(MarkKind::FloorDrift.says(text));
        }
    }
    marks
}

/// The bounds in words.
pub fn bounds() -> String {
    format!(
        "steal time above {STEAL_PERCENT} %, CPU pressure above {PRESSURE_PERCENT} %, a mean above {MEAN_OVER_P50} × p50 in a \
         closed loop, a floor more than {:.0} % off its median, repetitions whose lag-1 autocorrelation is above 2/√n, a \
         first quarter of the measured time that differs from the rest by more than chance and a tenth in most \
         repetitions, fewer than {FEW_SAMPLES} samples, or a load that the generator could not offer",
        100.0 * FLOOR_DRIFT
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::canonical_report;

    #[test]
    fn a_quiet_run_has_no_mark_and_each_bound_makes_one() {
        let quiet = canonical_report(3);
        let noise = of_report(&quiet);
        assert!(!noise.is_noisy() && noise.of_rows.is_empty() && noise.rows > 30, "{noise:?}");

        let mut steal = quiet.clone();
        steal.environment.steal_percent = Some(2.1);
        assert!(of_report(&steal).is_noisy());
        let mut pressure = quiet.clone();
        pressure.environment.cpu_pressure_percent = Some(76.0);
        assert!(of_report(&pressure).is_noisy());

        let mut drift = quiet.clone();
        drift.floors.by_repetition = [100, 101, 99, 126]
            .map(|us| FloorsOfRepetition { durable_write_ns: Some(us * 1000), ..Default::default() })
            .to_vec();
        let marks = of_report(&drift).of_run;
        assert!(
            marks.len() == 1
                && marks[0].kind == MarkKind::FloorDrift
                && marks[0].text.contains("durable write")
                && marks[0].text.contains("+25 %"),
            "{marks:?}"
        );
        drift.floors.by_repetition[3].durable_write_ns = Some(124_000);
        assert!(!of_report(&drift).is_noisy());
    }

    #[test]
    fn a_row_is_marked_by_its_own_figures() {
        let mut report = canonical_report(3);
        let disturbed =
            |point: &&mut crate::schema::Point| point.experiment == "ladder" && point.level == Level::On;
        for point in report
            .points
            .iter_mut()
            .filter(disturbed)
            .filter(|point| point.load == crate::schema::Load::closed(8))
        {
            point.mean_ns = Some(2.1 * point.latency_ns.p50 as f64);
        }
        let noise = of_report(&report);
        assert_eq!(noise.of_rows.len(), 1);
        let marked = &noise.of_rows[0];
        assert!(marked.row.contains("on, 8 clients") && marked.why().contains("2.1 × p50"));
        assert!(marked.is_only(MarkKind::MeanOverP50) && !marked.is_only(MarkKind::CrowdedProcessors));
        assert!(!noise.is_noisy(), "one row of many does not spoil a run");
        report.points[0].detail.kept_up = Some(false);
        report.points[0].latency_ns.samples = 11;
        let late = |row: &MarkedRow| row.marks.iter().any(|mark| mark.kind == MarkKind::GeneratorLate);
        assert!(of_report(&report).of_rows.iter().any(late));
        assert!(of_report(&report).of_rows.iter().any(|row| row.why().contains("only 11 samples")));
    }

    #[test]
    fn repetitions_that_drift_are_marked() {
        let mut report = canonical_report(12);
        report.points.retain(|point| point.experiment == "replay" && point.level == Level::Local);
        assert_eq!(of_report(&report).of_rows, []);
        for point in &mut report.points {
            point.latency_ns.p50 = 100_000 + 10_000 * u64::from(point.repetition);
        }
        let noise = of_report(&report);
        assert!(noise.of_rows[0].is_only(MarkKind::RepetitionsHangTogether), "{noise:?}");
        assert!(noise.of_rows[0].why().contains("never steady"), "{noise:?}");
    }

    #[test]
    fn a_row_whose_warm_up_was_too_short_in_most_repetitions_is_not_steady() {
        let mut report = canonical_report(3);
        report.points.retain(|point| point.experiment == "replay" && point.level == Level::Local);
        report.points[0].detail.start_over_rest = Some(1.4);
        assert_eq!(of_report(&report).of_rows, [], "one of three may be chance");
        report.points[1].detail.start_over_rest = Some(1.6);
        let noise = of_report(&report);
        assert!(noise.of_rows[0].is_only(MarkKind::NotSteady), "{noise:?}");
        assert!(noise.of_rows[0].why().contains("1.50 ×"), "{noise:?}");
    }
}

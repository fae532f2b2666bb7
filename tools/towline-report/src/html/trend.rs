//! The trend over kept runs of one machine: ratios to the floors of the same run, the oldest run first.

use super::charts::{Dot, DotRow, RowGroup, dot_rows};
use super::tables::{numbers, table};
use super::{escape, figure};
use crate::advise::is_rung;
use crate::against::machine_differences;
use crate::groups::{Row, rows};
use crate::schema::{Arrival, Client, Level, Report};
use crate::stats::Summary;
use crate::units;

/// A section for each machine that has two runs or more to compare. `runs` are the oldest first, with their folders.
pub(crate) fn sections(runs: &[(String, Report)]) -> String {
    let mut machines: Vec<Vec<&Report>> = Vec::new();
    for (_, report) in runs {
        let same = |machine: &&mut Vec<&Report>| {
            machine_differences(&machine[0].environment, &report.environment).is_empty()
        };
        match machines.iter_mut().find(same) {
            Some(machine) => machine.push(report),
            None => machines.push(vec![report]),
        }
    }
    let parts = machines.iter().enumerate();
    parts.map(|(index, machine)| section(index, machine)).collect()
}

/// One measure over the runs that have it.
struct Series {
    name: String,
    runs: Vec<(String, Summary)>,
}

fn section(index: usize, machine: &[&Report]) -> String {
    let latency = series(machine, latency_ratio);
    let rate = series(machine, rate_ratio);
    if latency.is_empty() && rate.is_empty() {
        return String::new();
    }
    let environment = &machine[0].environment;
    let title = format!("{}, {} cores, {}", environment.cpu, environment.cores, environment.device);
    let mut text = format!(
        "<section id=\"trend-{index}\"><h2>Trend by commit</h2><p class=\"lead\">{}. Each figure is a ratio to the floor that \
         the same run measured; the oldest run stands first. A commit that was measured twice shows how far runs differ by \
         themselves; what changed is claimed by <code>towline report RUN --against RUN</code> alone.</p>",
        escape(&title)
    );
    let kinds = [
        ("p50", latency, "p50 over the floor of its level, one client", "Less is better"),
        ("rate", rate, "commits per second over bare durable writes, 32 in flight", "More is better"),
    ];
    for (key, series, axis, caption) in kinds {
        if series.is_empty() {
            continue;
        }
        text.push_str(&figure(
            &format!("trend-{index}-{key}"),
            spans_decades(&series),
            "<span><i class=\"dot\"></i>median of the repetitions; (≥ 10) has ten or more</span><span><i class=\"floor\"></i>the floor</span>",
            &dot_rows(&groups(&series), &format!("Trend: {axis}, {title}"), axis, &units::ratio),
            &format!("{caption}. Whiskers span the repetitions."),
        ));
        text.push_str(&series_table(&series));
    }
    text + "</section>"
}

/// What one row of one run says: its place among the measures, the measure's name, the ratio.
type Measured = (((Level, u32, u32), String), Summary);

fn series(machine: &[&Report], of_row: impl Fn(&Report, &Row<'_>) -> Option<Measured>) -> Vec<Series> {
    let mut found: Vec<((Level, u32, u32), Series)> = Vec::new();
    for report in machine {
        for row in of_one_setting(report) {
            let Some(((key, name), summary)) = of_row(report, &row) else { continue };
            let commit: String = report.environment.commit.chars().take(9).collect();
            let run = format!("{commit} {}{}", report.name, if report.indicative { "" } else { " (≥ 10)" });
            match found.iter_mut().find(|(other, _)| *other == key) {
                Some((_, series)) => series.runs.push((run, summary)),
                None => found.push((key, Series { name, runs: vec![(run, summary)] })),
            }
        }
    }
    found.sort_by_key(|(key, _)| *key);
    // One run is no trend.
    found.into_iter().map(|(_, series)| series).filter(|series| series.runs.len() > 1).collect()
}

/// Several experiments of a run may measure one setting: they are repetitions of it.
fn of_one_setting(report: &Report) -> Vec<Row<'_>> {
    let mut found: Vec<Row<'_>> = Vec::new();
    for row in rows(report.points.iter().filter(|point| is_rung(point))) {
        let point = row.point;
        let plain = point.client == Client::Embedded
            && point.link_rtt_us == 0.0
            && point.load.threads.is_none()
            && point.shards == 1;
        if !plain {
            continue;
        }
        let same = |other: &&mut Row<'_>| {
            let other = other.point;
            (other.level, other.standbys, other.load) == (point.level, point.standbys, point.load)
        };
        match found.iter_mut().find(same) {
            Some(other) => other.repetitions.extend(&row.repetitions),
            None => found.push(row),
        }
    }
    found
}

fn latency_ratio(_: &Report, row: &Row<'_>) -> Option<Measured> {
    let point = row.point;
    let one = point.load.arrival == Arrival::Closed(1) && point.level > Level::Off;
    Some((((point.level, point.standbys, 1), name(row)), row.ratio().filter(|_| one)?))
}

fn rate_ratio(report: &Report, row: &Row<'_>) -> Option<Measured> {
    let point = row.point;
    let bare = report.floors.durable_writes_per_s_depth32.filter(|rate| *rate > 0.0)?;
    let many = point.load.arrival == Arrival::Closed(32) && point.level > Level::Off;
    let ratio = row.summary(|point| Some(point.achieved_per_s / bare)).filter(|_| many)?;
    Some((((point.level, point.standbys, 32), name(row)), ratio))
}

fn name(row: &Row<'_>) -> String {
    match row.point.standbys {
        0 => format!("{}, alone", row.point.level),
        1 => format!("{}, 1 standby", row.point.level),
        standbys => format!("{}, {standbys} standbys", row.point.level),
    }
}

/// On a linear axis the others would lie on one another.
fn spans_decades(series: &[Series]) -> bool {
    let values = || series.iter().flat_map(|one| &one.runs).map(|(_, ratio)| ratio.median);
    values().fold(0.0, f64::max) > 10.0 * values().fold(f64::INFINITY, f64::min)
}

fn groups(series: &[Series]) -> Vec<RowGroup> {
    let row = |(run, summary): &(String, Summary)| DotRow {
        label: run.clone(),
        strong: false,
        bar: None,
        dots: vec![Dot {
            value: summary.median,
            low: summary.min,
            high: summary.max,
            filled: true,
            text: format!(
                "{} ({} – {})",
                units::ratio(summary.median),
                units::ratio(summary.min),
                units::ratio(summary.max)
            ),
        }],
    };
    let group = |series: &Series| RowGroup {
        name: series.name.clone(),
        floor: Some((1.0, "the floor".into())),
        rows: series.runs.iter().map(row).collect(),
    };
    series.iter().map(group).collect()
}

fn series_table(series: &[Series]) -> String {
    let mut body = String::new();
    for one in series {
        for (index, (run, summary)) in one.runs.iter().enumerate() {
            let first = match index {
                0 => {
                    let rows = one.runs.len();
                    format!("<th scope=\"rowgroup\" rowspan=\"{rows}\"><b>{}</b></th>", escape(&one.name))
                }
                _ => String::new(),
            };
            let range = match summary.count {
                1 => "–".into(),
                _ => format!("{} – {}", units::ratio(summary.min), units::ratio(summary.max)),
            };
            let cells = [units::ratio(summary.median), range, summary.count.to_string()];
            body.push_str(&format!(
                "<tr{}>{first}<td class=\"nowrap\">{}</td>{}</tr>",
                if index == 0 { "" } else { " class=\"more\"" },
                escape(run),
                numbers(&cells)
            ));
        }
    }
    table(&["level", "commit and run", "#ratio to the floor", "#range", "#measured"], &body)
}

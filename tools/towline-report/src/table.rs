//! The tables that a run prints on the terminal: the same figures as the page, in plain text.

use crate::against::{Comparison, Verdict};
use crate::groups::{Row, floor_of, floor_words, rows};
use crate::knee;
use crate::schema::{Arrival, Check, Point, Report, Timeline, Window};
use crate::units;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, LineStyle, Table};

/// Prints [`format_tables`] to standard output.
pub fn print_tables(report: &Report) {
    use std::io::Write;
    // A closed pipe (`| head`) is no reason to fail a run that has been measured and saved.
    let _ = writeln!(std::io::stdout().lock(), "{}", format_tables(report));
}

/// What changed between two runs, as text: the regressions first.
pub fn format_comparison(comparison: &Comparison) -> String {
    let mut table =
        table(&["point", "figure", "ratio", "95 % interval", "pairs", "over its floor", "verdict"]);
    let mut changes: Vec<_> = comparison.changes.iter().collect();
    changes.sort_by_key(|change| change.verdict != Verdict::Regressed);
    for change in changes {
        let figures = [
            change.figure.clone(),
            units::ratio(change.ratio),
            format!("{:.2} – {:.2}", change.interval.low, change.interval.high),
            change.pairs.to_string(),
            change.floor.clone().unwrap_or_default(),
            change.verdict.words().into(),
        ];
        table.add_row(cells(&change.point, &figures));
    }
    let mut text = format!("Run of {} against run of {}\n", comparison.run, comparison.against);
    for difference in &comparison.machine_differs {
        text.push_str(&format!("NOT THE SAME MACHINE: {difference}\n"));
    }
    text.push_str(&format!("{table}\n"));
    if comparison.without_partner > 0 {
        text.push_str(&format!("{} points are in one of the runs only\n", comparison.without_partner));
    }
    text
}

/// Floors, ladder, replay, window sweep and checks as text; parts without a figure are left out.
pub fn format_tables(report: &Report) -> String {
    let mut parts = vec![floors(report)];
    for experiment in latency_experiments(report) {
        let points = rows(report.experiment(experiment));
        parts.push((title_of(experiment), latency_table(report, &points)));
    }
    for name in ["knee", "rates", "stall"] {
        let points = rows(report.experiment(name));
        if !points.is_empty() {
            parts.push((title_of(name), latency_table(report, &points)));
        }
    }
    for class in crate::peers::classes(report) {
        let durable = if class.durable { "" } else { "NOT DURABLE, " };
        let title = format!("{durable}as {}; an acknowledgement survives {}", class.level, class.survives);
        parts.push((title, class_table(&class)));
    }
    for timeline in report.timelines.iter().filter(|timeline| timeline.repetition == 0) {
        parts.push((timeline_title(timeline), timeline_table(timeline)));
    }
    for curve in knee::curves(report) {
        let points = rows(curve.points.iter().copied());
        let title = format!("Window sweep · {} · {}", link_words(curve.link_rtt_us), points[0].load_label());
        parts.push((title, window_table(&curve, &points)));
    }
    if !report.checks.is_empty() {
        parts.push(("What it must reach".into(), checks_table(&report.checks)));
    }
    let mut text = String::new();
    for (title, table) in parts {
        text.push_str(&format!("\n{title}\n{table}\n"));
    }
    for knee in knees(report) {
        let measured = knee.measured_bytes.map_or("not reached".into(), units::bytes);
        text.push_str(&format!(
            "knee at {}: {} by the formula, {measured} measured\n",
            link_words(knee.link_rtt_us),
            units::bytes(knee.formula_bytes),
        ));
    }
    let noise = crate::noise::of_report(report);
    if noise.is_noisy() {
        let marks = noise.of_rows.len();
        text.push_str(&format!("\nNOISY: {marks} of {} rows are marked; the page names them", noise.rows));
        for mark in &noise.of_run {
            text.push_str(&format!("; {}", mark.text));
        }
        text.push('\n');
    }
    if report.indicative {
        text.push_str("\nIndicative: fewer than ten repetitions; compare ratios inside this run only.\n");
    }
    text
}

/// Experiments that have tables of their own.
const APART: [&str; 6] = ["window", "compare", "knee", "rates", "stall", "timeline"];

/// Experiments with a latency table, the ladder first; those of [`APART`] left out.
pub(crate) fn latency_experiments(report: &Report) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for point in report.points.iter().filter(|point| !APART.contains(&point.experiment.as_str())) {
        if !names.contains(&point.experiment.as_str()) {
            names.push(&point.experiment);
        }
    }
    names.sort_by_key(|name| match *name {
        "ladder" => 0,
        "replay" => 1,
        "sync_rules" => 3,
        "standbys" => 4,
        "shards" => 5,
        "rtt" => 6,
        _ => 2,
    });
    names
}

pub(crate) fn title_of(experiment: &str) -> String {
    match experiment {
        "ladder" => "The ladder".into(),
        "replay" => "Replay of PostgreSQL WAL".into(),
        "sync_rules" => "Sync rules".into(),
        "standbys" => "One to eight standbys".into(),
        "shards" => "Shards".into(),
        "rtt" => "Distance".into(),
        "mixed" => "Two levels in one stream".into(),
        "bursts" => "The same load in bursts".into(),
        "sizes" => "Records of many sizes".into(),
        "off" => "Off: what the log takes".into(),
        "stream" => "Streaming to a standby".into(),
        "local_alone" => "Durable on this machine, no standby".into(),
        "on_one_standby" => "Durable here and on one standby".into(),
        "on_any_1_of_2" => "Durable here and on one of two standbys".into(),
        "memory" => "While a standby is stopped".into(),
        "memory_past_retention" => "A standby stopped past the retention".into(),
        other => capitalised(&other.replace(['_', '-'], " ")),
    }
}

pub(crate) fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters
        .next()
        .map_or(String::new(), |first| first.to_uppercase().collect::<String>() + characters.as_str())
}

pub(crate) fn link_words(link_rtt_us: f64) -> String {
    if link_rtt_us == 0.0 {
        "loopback".into()
    } else {
        format!("{} link", units::duration(link_rtt_us * 1e3))
    }
}

/// Those of the report, or computed from its points where it has none.
pub(crate) fn knees(report: &Report) -> Vec<crate::schema::Knee> {
    if report.knees.is_empty() { knee::of_report(report) } else { report.knees.clone() }
}

pub(crate) fn window_words(window: Option<Window>) -> String {
    match window {
        None => "none".into(),
        Some(Window::Inf) => "∞".into(),
        Some(Window::Bytes(0) | Window::Records(0) | Window::Micros(0)) => "0".into(),
        Some(Window::Bytes(bytes)) => units::bytes(bytes as f64),
        Some(Window::Records(1)) => "1 record".into(),
        Some(Window::Records(records)) => format!("{} records", units::grouped(records as f64)),
        Some(Window::Micros(micros)) => units::duration(micros as f64 * 1e3),
    }
}

fn floors(report: &Report) -> (String, Table) {
    let mut table = table(&["floor", "p50 µs", "p99 µs", "rate"]);
    let floors = &report.floors;
    let latencies = [
        ("durable 4 KiB write", &floors.durable_write_ns),
        ("bare pair: write, ship, peer writes", &floors.pair_commit_ns),
        ("round trip", &floors.round_trip_ns),
        ("copy + CRC of 256 B", &floors.append_copy_ns),
    ];
    for (name, floor) in latencies {
        if let Some(floor) = floor {
            table.add_row(cells(
                name,
                &[units::micros(floor.p50 as f64), units::micros(floor.p99 as f64), String::new()],
            ));
        }
    }
    let rates = [
        (
            "durable writes, 32 in flight",
            floors.durable_writes_per_s_depth32.map(|n| format!("{}/s", units::per_second(n))),
        ),
        ("disk, sequential", floors.disk_bytes_per_s.map(units::bandwidth)),
        ("network, one stream", floors.net_bytes_per_s.map(units::bandwidth)),
    ];
    for (name, rate) in rates {
        if let Some(rate) = rate {
            table.add_row(cells(name, &[String::new(), String::new(), rate]));
        }
    }
    ("Floors of this machine, in this run".into(), table)
}

fn latency_table(report: &Report, points: &[Row<'_>]) -> Table {
    let mut table =
        table(&["level", "load", "p50 µs", "p90", "p99", "p99.9", "max", "commits/s", "× floor", "floor"]);
    let mut level_before = None;
    for row in points {
        let level = row.point.level;
        let name = if level_before == Some(level) { "" } else { level.as_str() };
        level_before = Some(level);
        let mut figures = vec![format!("{}{}", row.load_label(), cluster_words(row, points))];
        figures.extend(quantiles(row));
        figures.push(units::per_second(row.per_s().median));
        let (ratio, floor) = ratio_and_floor(report, row);
        figures.extend([ratio, floor]);
        table.add_row(cells(name, &figures));
    }
    table
}

fn class_table(class: &crate::peers::Class<'_>) -> Table {
    let mut table = table(&["system", "version", "load", "p50 µs", "p99 µs", "commits/s"]);
    for (load, rows) in &class.loads {
        for row in rows {
            let figures = [
                row.point.version.clone().unwrap_or_default(),
                load.clone(),
                units::micros(row.p50().median),
                units::micros(row.p99().median),
                units::per_second(row.per_s().median),
            ];
            table.add_row(cells(&class.name(row), &figures));
        }
    }
    table
}

fn timeline_title(timeline: &Timeline) -> String {
    let load = match timeline.load.arrival {
        Arrival::Closed(clients) => format!("{clients} clients"),
        Arrival::OpenPerS(rate) => format!("{}/s", units::per_second(rate)),
    };
    format!("Where a record is when, first repetition · {load} · {} · {}", timeline.level, timeline.sync_rule)
}

fn timeline_table(timeline: &Timeline) -> Table {
    let mut table = table(&["watermark", "p50 µs", "p99 µs"]);
    let stages = timeline.stages.iter().map(|at| (format!("{} {}", at.node, at.stage.as_str()), at.after_ns));
    let levels = timeline.levels.iter().map(|at| (format!("would acknowledge {}", at.level), at.after_ns));
    for (name, latency) in stages.chain(levels) {
        table.add_row(cells(&name, &[units::micros(latency.p50 as f64), units::micros(latency.p99 as f64)]));
    }
    table
}

/// What a row's cluster has that others of its table have not: where an experiment varies the cluster, its rows differ
/// in nothing else.
fn cluster_words(row: &Row<'_>, points: &[Row<'_>]) -> String {
    let differs = |same: fn(&Point, &Point) -> bool| points.iter().any(|other| !same(row.point, other.point));
    let mut words = String::new();
    if differs(|a, b| a.standbys == b.standbys) {
        words.push_str(&format!(", {} standbys", row.point.standbys));
    }
    if differs(|a, b| a.sync_rule == b.sync_rule) && !row.point.sync_rule.is_empty() {
        words.push_str(&format!(", {}", row.point.sync_rule));
    }
    if differs(|a, b| a.shards == b.shards) {
        words.push_str(&format!(", {} shards", row.point.shards));
    }
    if differs(|a, b| a.link_rtt_us == b.link_rtt_us) {
        words.push_str(&format!(", {}", link_words(row.point.link_rtt_us)));
    }
    words
}

/// The ratio to the level's floor and that floor's name; empty where there is no such floor.
pub(crate) fn ratio_and_floor(report: &Report, row: &Row<'_>) -> (String, String) {
    if let (Some(ratio), Some(named)) = (row.ratio(), &row.point.ratio_to_floor) {
        return (units::ratio(ratio.median), floor_words(&named.floor).to_owned());
    }
    match floor_of(row.point.level, row.point.standbys, &report.floors) {
        Some((name, p50_ns)) if p50_ns > 0.0 && row.point.link_rtt_us == 0.0 => {
            (units::ratio(row.p50().median / p50_ns), name.to_owned())
        }
        _ => ("–".into(), String::new()),
    }
}

fn window_table(curve: &knee::Curve<'_>, points: &[Row<'_>]) -> Table {
    let mut table =
        table(&["window ω", "p50 µs", "p99 µs", "commits/s", "fill p50", "fill p99", "fill max", "waited"]);
    for window in curve.windows() {
        for row in points.iter().filter(|row| row.point.window == Some(window)) {
            let fill = row.fill();
            let fill_of = |value: Option<f64>| value.map_or("–".into(), units::bytes);
            table.add_row(cells(
                &window_words(row.point.window),
                &[
                    units::micros(row.p50().median),
                    units::micros(row.p99().median),
                    units::per_second(row.per_s().median),
                    fill_of(fill.map(|fill| fill.0)),
                    fill_of(fill.map(|fill| fill.1)),
                    fill_of(fill.map(|fill| fill.2)),
                    units::grouped(row.waited() as f64),
                ],
            ));
        }
    }
    table
}

fn checks_table(checks: &[Check]) -> Table {
    let mut table = table(&["measure", "bar", "measured", "spread", "floor", "met"]);
    for check in checks {
        let measured = check_value(check);
        let mut row = cells(&check.measure, &[]);
        row.extend([Cell::new(&check.bar), Cell::new(measured).set_alignment(CellAlignment::Right)]);
        row.extend([
            Cell::new(check_spread(check)).set_alignment(CellAlignment::Right),
            Cell::new(check.floor.as_deref().unwrap_or("–")),
            Cell::new(verdict_words(check)).add_attribute(Attribute::Bold),
        ]);
        table.add_row(row);
    }
    table
}

pub(crate) fn verdict_words(check: &Check) -> &'static str {
    match check.met {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "not measured",
    }
}

pub(crate) fn check_value(check: &Check) -> String {
    check.value.map_or("–".into(), |value| in_unit(value, &check.unit))
}

/// In the unit of the measured figure, which stands beside it; nothing where there is only one value.
pub(crate) fn check_spread(check: &Check) -> String {
    let digits = |value: f64| if check.unit == "×" { format!("{value:.2}") } else { units::digits(value) };
    let spread = check.spread.filter(|spread| spread.low < spread.high);
    spread.map_or("–".into(), |spread| format!("{} – {}", digits(spread.low), digits(spread.high)))
}

fn in_unit(value: f64, unit: &str) -> String {
    match unit {
        "×" => units::ratio(value),
        "%" => format!("{} %", units::digits(value)),
        "" => units::digits(value),
        unit => format!("{} {unit}", units::digits(value)),
    }
}

fn quantiles(row: &Row<'_>) -> [String; 5] {
    [
        units::micros(row.p50().median),
        units::micros(row.latency(|latency| latency.p90).median),
        units::micros(row.p99().median),
        units::micros(row.latency(|latency| latency.p999).median),
        units::micros(row.max_ns()),
    ]
}

pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()))
        .set_content_arrangement(ContentArrangement::Dynamic);
    let align = |index: usize| if index == 0 { CellAlignment::Left } else { CellAlignment::Right };
    table.set_header(
        header.iter().enumerate().map(|(index, name)| Cell::new(name).set_alignment(align(index))),
    );
    table
}

pub(crate) fn cells(name: &str, figures: &[String]) -> Vec<Cell> {
    let mut row = vec![Cell::new(name)];
    row.extend(figures.iter().map(|figure| Cell::new(figure).set_alignment(CellAlignment::Right)));
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    #[test]
    fn every_part_is_printed_with_its_figures() {
        let text = format_tables(&synthetic::canonical_report(3));
        for expected in [
            "Floors of this machine",
            "The ladder",
            "remote_apply",
            "32 clients",
            "Replay of PostgreSQL WAL",
            "Window sweep · loopback",
            "Window sweep · 5\u{a0}ms link",
            "knee at 5\u{a0}ms link",
            "What it must reach",
            "Indicative",
        ] {
            assert!(text.contains(expected), "{expected:?} is missing in\n{text}");
        }
    }

    #[test]
    fn rows_that_differ_only_in_their_cluster_say_how() {
        let mut report = synthetic::canonical_report(1);
        let first = report.experiment("ladder").next().cloned();
        let mut rtt = first.into_iter().collect::<Vec<_>>();
        rtt.extend(rtt.clone());
        for (point, link_rtt_us) in rtt.iter_mut().zip([0.0, 5000.0]) {
            (point.experiment, point.link_rtt_us, point.shards) = ("rtt".into(), link_rtt_us, 1);
        }
        rtt[1].sync_rule = "ANY 2 (a, b)".into();
        report.points.extend(rtt);
        let text = format_tables(&report);
        assert!(text.contains(", ANY 2 (a, b), 5\u{a0}ms link") && text.contains(", loopback"), "{text}");
        assert!(!text.contains(" shards"), "{text}");
    }

    #[test]
    fn an_empty_report_prints_an_empty_table_and_does_not_fail() {
        let report = Report::new("empty", Vec::new(), Default::default());
        assert!(format_tables(&report).contains("Floors of this machine"));
    }
}

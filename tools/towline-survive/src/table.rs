//! A run as tables for a terminal.

use comfy_table::{CellAlignment, Table, presets};

use crate::predict::Promise;
use crate::record::{CellResult, SurviveReport, Verdict};
use crate::replay;
use crate::soak::SoakResult;

/// The tables of a run.
pub fn render(report: &SurviveReport) -> String {
    let mut text = String::new();
    if report.cells.len() > DETAILS {
        text += &format!("{}\n{LEGEND}\n", matrix(&report.cells));
    } else if !report.cells.is_empty() {
        text += &format!("{}\n", details(&report.cells));
    }
    if !report.windows.is_empty() {
        text += &format!("{}\n", details(&report.windows));
    }
    for cell in report.cells.iter().chain(&report.windows).filter(|cell| cell.verdict != Verdict::Passed) {
        text += &format!("{} under {}: {}", cell.row.name, cell.failure, cell.verdict.words());
        text += &match cell.verdict {
            Verdict::NotShown => format!(", a loss is due and none was seen in {} runs\n", cell.runs),
            _ => format!("\n  {}\n", cell.notes.join("\n  ")),
        };
        text += &format!("  again: {}\n", replay::of_cell(report, cell));
    }
    for read in &report.reads {
        text += &format!(
            "read on a standby right after an acknowledgement at {}: {} misses in {} reads, {} {}\n",
            read.level,
            read.misses,
            read.reads,
            read.verdict.words(),
            read.note,
        );
    }
    if let Some(soak) = &report.soak {
        text += &soak_text(report, soak);
    }
    let count = |verdict| report.verdicts().filter(|one| *one == verdict).count();
    let cells = report.cells.iter().chain(&report.windows);
    let acked = cells.map(|cell| cell.acked).sum::<u64>() + report.soak.as_ref().map_or(0, |soak| soak.acked);
    text += &format!(
        "{:.0} s, seed {}, {acked} acknowledged records: {} passed, {} failed, {} not shown\n",
        report.seconds,
        report.seed,
        count(Verdict::Passed),
        count(Verdict::Failed),
        count(Verdict::NotShown),
    );
    let incomplete = report.incomplete();
    if !incomplete.is_empty() {
        text += &format!("INCOMPLETE: {incomplete}\n");
    }
    text
}

fn soak_text(report: &SurviveReport, soak: &SoakResult) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "level",
        "clusters",
        "acked",
        "doubled, changed, out of order",
        "lost",
        "clusters with a loss",
        "largest loss",
        "verdict",
    ]);
    for row in &soak.rows {
        table.add_row([
            row.row.name.clone(),
            row.rounds.to_string(),
            row.acked.to_string(),
            row.anomalies.to_string(),
            row.lost.to_string(),
            row.losing_rounds.to_string(),
            format!("{} records, {} B", row.largest.records, row.largest.payload_bytes),
            row.verdict().words().to_owned(),
        ]);
    }
    align(&mut table, 1);
    let mut text = format!(
        "{table}\n{} faults on {} clusters; lost at on and above under what they survive: {}; doubled, changed, out of order: {}\n",
        soak.faults, soak.rounds, soak.lost_at_on_and_above, soak.anomalies
    );
    for row in soak.rows.iter().filter(|row| !row.notes.is_empty()) {
        text += &format!("{}: FAILED\n  {}\n", row.row.name, row.notes.join("\n  "));
        for number in &row.failed_rounds {
            text += &format!("  again: {}\n", replay::of_round(report, *number));
        }
    }
    if !soak.missing.is_empty() {
        text += &format!("the long run is not shown: {}\n", soak.missing.join("; "));
    }
    text
}

/// Failures down, levels across.
fn matrix(cells: &[CellResult]) -> Table {
    let rows = row_names(cells);
    let mut failures = Vec::new();
    for cell in cells {
        if !failures.contains(&cell.failure) {
            failures.push(cell.failure);
        }
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let heads = rows.iter().map(|name| name.replace(['-', '_'], "\n"));
    table.set_header(std::iter::once("lost acknowledged\nrecords".to_owned()).chain(heads));
    for failure in failures {
        let of = |row: &&str| {
            let cell = cells.iter().find(|cell| cell.failure == failure && cell.row.name == **row);
            cell.map_or_else(String::new, short)
        };
        table.add_row(std::iter::once(failure.to_string()).chain(rows.iter().map(of)));
    }
    let p50 =
        |row: &&str| level_p50_us(cells, row).map_or_else(String::new, |us| format!("{:.2} ms", us / 1000.0));
    table.add_row(std::iter::once("p50 before the failure".to_owned()).chain(rows.iter().map(p50)));
    align(&mut table, 1);
    table
}

/// The rows that are there, in their order.
pub(crate) fn row_names(cells: &[CellResult]) -> Vec<&str> {
    let mut rows: Vec<&str> = Vec::new();
    for cell in cells {
        if !rows.contains(&cell.row.name.as_str()) {
            rows.push(&cell.row.name);
        }
    }
    rows
}

/// The middle one of a row's medians, in microseconds.
pub(crate) fn level_p50_us(cells: &[CellResult], row: &str) -> Option<f64> {
    let of_row = cells.iter().filter(|cell| cell.row.name == row && cell.p50_us > 0.0);
    let mut values: Vec<f64> = of_row.map(|cell| cell.p50_us).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// A cell of the matrix.
pub(crate) fn short(cell: &CellResult) -> String {
    match (cell.verdict, cell.promise) {
        (Verdict::Failed, _) => format!("FAILED {}", cell.lost),
        (Verdict::NotShown, _) => "not shown".to_owned(),
        (Verdict::Passed, Promise::Zero) => "0".to_owned(),
        (Verdict::Passed, Promise::Within(_)) => {
            format!("{} = {:.0} %", cell.largest.records, cell.largest.window_share * 100.0)
        }
        (Verdict::Passed, Promise::Loses | Promise::Latest(_)) => format!("{} lost", cell.largest.records),
    }
}

/// One line a cell.
fn details(cells: &[CellResult]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "level",
        "failure",
        "promise",
        "runs",
        "acked",
        "lost",
        "largest loss",
        "spread",
        "of window",
        "p50",
        "verdict",
    ]);
    for cell in cells {
        let loss = &cell.largest;
        table.add_row([
            cell.row.name.clone(),
            cell.failure.to_string(),
            cell.promise.to_string(),
            cell.runs.to_string(),
            cell.acked.to_string(),
            format!("{} in {} runs", cell.lost, cell.losing_runs),
            format!("{} records, {} B", loss.records, loss.payload_bytes),
            format!("{:.1} ms", loss.spread_us as f64 / 1000.0),
            cell.row.bound().map_or_else(String::new, |_| format!("{:.0} %", loss.window_share * 100.0)),
            format!("{:.2} ms", cell.p50_us / 1000.0),
            cell.verdict.words().to_owned(),
        ]);
    }
    align(&mut table, 3);
    table
}

fn align(table: &mut Table, from: usize) {
    for column in table.column_iter_mut().skip(from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// More cells than these are shown as a matrix.
const DETAILS: usize = 12;
const LEGEND: &str = "\
0: nothing lost, as promised. 17 lost: the level does not survive this, and the run saw it. 17 = 40 %: lost within the
window, and which share of it. Times with several clusters at once: for the order of the levels, not as a benchmark.";

//! A run as tables for a terminal.

use comfy_table::{CellAlignment, Table, presets};

use crate::predict::Promise;
use crate::record::{CellResult, SurviveReport, Verdict};

/// The tables of a run.
pub fn render(report: &SurviveReport) -> String {
    let mut text = String::new();
    if report.cells.len() > DETAILS {
        text += &format!("{}\n{LEGEND}\n", matrix(&report.cells));
    } else {
        text += &format!("{}\n", details(&report.cells));
    }
    for cell in report.cells.iter().filter(|cell| cell.verdict != Verdict::Passed) {
        text += &format!("{} under {}: {}", cell.row.name, cell.failure, cell.verdict.words());
        text += &match cell.verdict {
            Verdict::NotShown => format!(", a loss is due and none was seen in {} runs\n", cell.runs),
            _ => format!("\n  {}\n", cell.notes.join("\n  ")),
        };
    }
    let count = |verdict| report.cells.iter().filter(|cell| cell.verdict == verdict).count();
    let acked: u64 = report.cells.iter().map(|cell| cell.acked).sum();
    text += &format!(
        "{} cells in {:.0} s, {acked} acknowledged records: {} passed, {} failed, {} not shown\n",
        report.cells.len(),
        report.seconds,
        count(Verdict::Passed),
        count(Verdict::Failed),
        count(Verdict::NotShown),
    );
    text
}

/// Failures down, levels across.
fn matrix(cells: &[CellResult]) -> Table {
    let mut rows: Vec<&str> = Vec::new();
    let mut failures = Vec::new();
    for cell in cells {
        if !rows.contains(&cell.row.name.as_str()) {
            rows.push(&cell.row.name);
        }
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
    let p50 = |row: &&str| {
        let mut values: Vec<f64> = cells
            .iter()
            .filter(|cell| cell.row.name == **row && cell.p50_us > 0.0)
            .map(|cell| cell.p50_us)
            .collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).map_or_else(String::new, |us| format!("{:.2} ms", us / 1000.0))
    };
    table.add_row(std::iter::once("p50, unloaded by failures".to_owned()).chain(rows.iter().map(p50)));
    align(&mut table, 1);
    table
}

fn short(cell: &CellResult) -> String {
    match (cell.verdict, cell.promise) {
        (Verdict::Failed, _) => format!("FAILED {}", cell.lost),
        (Verdict::NotShown, _) => "not shown".to_owned(),
        (Verdict::Passed, Promise::Zero) => "0".to_owned(),
        (Verdict::Passed, Promise::Within(_)) => {
            format!("{} = {:.0} %", cell.largest.records, cell.largest.window_share * 100.0)
        }
        (Verdict::Passed, Promise::Loses) => format!("{} lost", cell.largest.records),
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

//! The line that plays again what went wrong.

use crate::record::{CellResult, SurviveReport};

/// Plays all runs of a cell again, at the same moments.
pub(crate) fn of_cell(report: &SurviveReport, cell: &CellResult) -> String {
    // A window of the sweep has another load than the cell of its name.
    let is_window = report.windows.iter().any(|window| std::ptr::eq(window, cell));
    let failure = if is_window { String::new() } else { format!(" --failure {}", cell.failure) };
    let mode = if is_window { " --windows" } else { "" };
    let (level, times, seed) = (&cell.row.name, cell.runs, report.seed);
    format!("towline survive{mode} --level {level}{failure} --times {times} --seed {seed}")
}

/// Plays one round of a long run again.
pub(crate) fn of_round(report: &SurviveReport, number: u64) -> String {
    format!("towline survive --soak 1m --round {number} --seed {}", report.seed)
}

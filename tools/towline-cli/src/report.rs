//! `towline report`: shows a run again, from its `report.json`.

use std::path::PathBuf;

use clap::Args;
use towline_report::{Report, RunFolder, print_tables, write_index};

use crate::exit::{Code, Failure, Outcome};
use crate::out;

#[derive(Args)]
#[command(after_help = "\
Example:
  towline report results/runs/20261123T071500Z-8a79b3d-canonical

Prints the tables again and writes report.html anew; open that page in any browser, it needs no network.")]
pub(crate) struct ReportArgs {
    /// The run's folder, or its report.json
    run: PathBuf,
}

pub(crate) fn report(args: ReportArgs) -> Outcome {
    let report = Report::load(&args.run).map_err(|error| Failure::new(Code::Failed, error))?;
    let folder =
        if args.run.is_dir() { args.run } else { args.run.parent().map(PathBuf::from).unwrap_or_default() };
    print_tables(&report);
    RunFolder::at(&folder).write(&report).map_err(|error| Failure::new(Code::Failed, error))?;
    out::line(&format!("page: {}", folder.join("report.html").display()))?;
    // A run in its usual place is one of a collection, which has a page of its own.
    if let Some(results) =
        folder.parent().filter(|runs| runs.ends_with("runs")).and_then(|runs| runs.parent())
    {
        write_index(results).map_err(|error| Failure::new(Code::Failed, error))?;
        out::line(&format!("all runs: {}", results.join("index.html").display()))?;
    }
    Ok(())
}

//! `towline report`: shows a run again, from its `report.json`, or holds it against another.

use std::path::{Path, PathBuf};

use clap::Args;
use towline_report::survive_run::SURVIVE_FILE;
use towline_report::{Report, RunFolder, SurviveRun, against, format_comparison, print_tables, write_index};

use crate::exit::{Code, Failure, Outcome};
use crate::out;

#[derive(Args)]
#[command(after_help = "\
Examples:
  towline report results/runs/20261123T071500Z-8a79b3d-canonical
  towline report results/survive-20261123T165000Z
  towline report results/runs/NEW --loss results/survive-20261123T165000Z
  towline report results/runs/NEW --against results/runs/OLD --bound 5%

Prints the tables again and writes report.html anew; open that page in any browser, it needs no network. Under the \
window curves it shows what crashes lost at each window, as `towline survive --windows` found it. \
With --against nothing is written: it prints what changed, and ends with 1 on a regression past the bound. A change is \
claimed only where the interval of the paired ratios excludes 1 and both runs have five repetitions or more.")]
pub(crate) struct ReportArgs {
    /// The run's folder, or its report.json; a survival run's folder too
    run: PathBuf,
    /// The run to hold it against
    #[arg(long, value_name = "RUN")]
    against: Option<PathBuf>,
    /// The survival run whose losses stand under the window curves
    /// [default: the newest one with windows, of the same machine, beside the run's collection]
    #[arg(long, value_name = "RUN", conflicts_with = "against")]
    loss: Option<PathBuf>,
    /// How much worse a figure may be
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = parse_percent, requires = "against")]
    bound: f64,
    /// Compare runs of different machines too
    #[arg(long, requires = "against")]
    anyway: bool,
    /// Print the comparison as JSON
    #[arg(long, requires = "against")]
    json: bool,
}

pub(crate) fn report(args: ReportArgs) -> Outcome {
    for path in [Some(&args.run), args.against.as_ref(), args.loss.as_ref()].into_iter().flatten() {
        Failure::unless_there(path)?;
    }
    if args.run.join(SURVIVE_FILE).is_file() && args.against.is_none() && args.loss.is_none() {
        return survival(&args.run);
    }
    let report = Report::load(&args.run).map_err(|error| Failure::new(Code::Failed, error))?;
    if let Some(other) = &args.against {
        let other = Report::load(other).map_err(|error| Failure::new(Code::Failed, error))?;
        return compare(&report, &other, &args);
    }
    let folder =
        if args.run.is_dir() { args.run } else { args.run.parent().map(PathBuf::from).unwrap_or_default() };
    print_tables(&report);
    let run = RunFolder::at(&folder);
    let loss = match &args.loss {
        Some(path) => Some(loss_of(path)?),
        None => run.newest_loss(&report),
    };
    run.write_page(&report, loss.as_ref()).map_err(|error| Failure::new(Code::Failed, error))?;
    out::line(&format!("page: {}", folder.join("report.html").display()))?;
    if let Some(loss) = &loss {
        out::line(&format!("losses under its window curves: {}", loss.folder))?;
    }
    // A run in its usual place is one of a collection, which has a page of its own.
    if let Some(results) =
        folder.parent().filter(|runs| runs.ends_with("runs")).and_then(|runs| runs.parent())
    {
        write_index(results).map_err(|error| Failure::new(Code::Failed, error))?;
        out::line(&format!("all runs: {}", results.join("index.html").display()))?;
    }
    Ok(())
}

/// A survival run has tables and a page of its own.
fn survival(folder: &Path) -> Outcome {
    let report = towline_survive::rewrite(folder)
        .map_err(|error| Failure::new(Code::Failed, anyhow::Error::msg(error.to_string())))?;
    out::line(towline_survive::render(&report).trim_end())?;
    out::line(&format!("page: {}", folder.join("survive.html").display()))?;
    // Beside measured runs it is one of a collection.
    if let Some(results) = folder.parent().filter(|results| results.join("runs").is_dir()) {
        write_index(results).map_err(|error| Failure::new(Code::Failed, error))?;
        out::line(&format!("all runs: {}", results.join("index.html").display()))?;
    }
    Ok(())
}

/// A survival run that crashed windows.
fn loss_of(path: &Path) -> Result<SurviveRun, Failure> {
    let loss = SurviveRun::load(path).map_err(|error| Failure::new(Code::Failed, error))?;
    if loss.windows.is_empty() {
        let text = format!("{} crashed no windows; `towline survive --windows` does", path.display());
        return Err(Failure::new(Code::Failed, anyhow::Error::msg(text)));
    }
    Ok(loss)
}

fn compare(run: &Report, other: &Report, args: &ReportArgs) -> Outcome {
    let comparison = against::compare(run, other, args.bound);
    if !comparison.machine_differs.is_empty() && !args.anyway {
        return Err(Failure::new(
            Code::Failed,
            anyhow::anyhow!(
                "the runs are from different machines ({}); --anyway compares them and marks it",
                comparison.machine_differs.join("; ")
            ),
        ));
    }
    if comparison.changes.is_empty() {
        return Err(Failure::new(Code::Failed, anyhow::anyhow!("the runs have no point in common")));
    }
    if args.json {
        let text = serde_json::to_string_pretty(&comparison).map_err(anyhow::Error::from)?;
        out::line(&text)?;
    } else {
        out::line(format_comparison(&comparison).trim_end())?;
    }
    match comparison.regressions().count() {
        0 => Ok(()),
        count => Err(Failure::new(
            Code::Failed,
            anyhow::anyhow!("{count} figures are worse by more than {:.1} %", 100.0 * args.bound),
        )),
    }
}

/// `5%` or `0.5 %` as a share.
fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim_end();
    match number.parse::<f64>() {
        Ok(percent) if (0.0..=1000.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err(format!("'{text}' is no bound: write it in percent, as 5%")),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_percent;

    #[test]
    fn bounds_are_percents() {
        assert_eq!(parse_percent("5%"), Ok(0.05));
        assert_eq!(parse_percent("50"), Ok(0.5));
        for bad in ["", "%", "-1%", "NaN", "five"] {
            assert!(parse_percent(bad).is_err(), "{bad}");
        }
    }
}

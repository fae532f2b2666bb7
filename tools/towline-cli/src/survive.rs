//! `towline survive`: what each commit level survives, shown on real processes.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use towline_survive::{
    Failure as Trouble, Mode, Row, SurviveError, SurviveOptions, cells, predict, render, run,
};

use crate::exit::{Code, Failure, Outcome};
use crate::out;
use crate::units::parse_duration;

#[derive(Args)]
#[command(after_help = "\
Examples:
  towline survive                                       every level × every failure: minutes
  towline survive --list                                the cells, and what is promised for each
  towline survive --level on --failure primary-disk --times 20
  towline survive --windows --times 10                  window against loss
  towline survive --soak 60m                            random failures, one after the other

Each cell is a real primary and two standbys, processes of this program, each on a file system that forgets what was \
not flushed; it needs /dev/fuse, and root or fusermount3. Acknowledged records are looked for where the log survives. \
The run folder with survive.json and survive.html is printed at the end.

Exit codes: 0 all as predicted, 1 a promise was broken or a cluster did not come back, 2 wrong usage, 3 a loss that is \
due was not seen (nothing was shown there), 130 interrupted; nothing is left mounted or running.")]
pub(crate) struct SurviveArgs {
    /// Only these levels, as --list names them
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    level: Vec<String>,
    /// Only these failures
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    failure: Vec<String>,
    /// How often each cell is played
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    times: u64,
    /// Windows of many sizes, each under losses of the primary with its disk: bound and largest loss
    #[arg(long, conflicts_with_all = ["level", "failure", "soak", "list"])]
    windows: bool,
    /// Random failures of all kinds for so long; every acknowledged record is looked for
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with_all = ["level", "failure", "list", "times"])]
    soak: Option<Duration>,
    /// Print the cells and their promises, and run nothing
    #[arg(long)]
    list: bool,
    /// Decides the moments and what a power cut keeps
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Clusters at the same time [default: one a processor, at most 3]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    lanes: usize,
    /// Where disks and mounts live while it runs; emptied again
    #[arg(long, value_name = "DIR", default_value = "data/survive")]
    dir: PathBuf,
    /// Where the run folder goes
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

pub(crate) fn survive(args: SurviveArgs) -> Result<u8, Failure> {
    if args.list {
        list(&args)?;
        return Ok(0);
    }
    if args.soak.is_some_and(|time| time.is_zero()) {
        return Err(Failure::usage("--soak 0s tests nothing: give it a minute or more"));
    }
    let program = std::env::current_exe()?;
    let outcome = run(&SurviveOptions {
        program,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: match (args.windows, args.soak) {
            (true, _) => Mode::Windows,
            (false, Some(time)) => Mode::Soak(time),
            (false, None) => Mode::Cells,
        },
        levels: args.level,
        failures: args.failure,
        times: args.times,
        lanes: args.lanes,
        seed: args.seed,
        dir: args.dir,
        results: args.results,
    })
    .map_err(failure)?;
    let mut to = out::stdout();
    write!(to, "{}", render(&outcome.report))?;
    writeln!(to, "{}", outcome.folder.display())?;
    to.flush()?;
    Ok(outcome.exit_code())
}

fn list(args: &SurviveArgs) -> Outcome {
    let cells = cells(&args.level, &args.failure).map_err(failure)?;
    let mut to = out::stdout();
    writeln!(to, "levels:")?;
    for row in Row::all() {
        let window = row.window.map(|window| format!(" within {window}")).unwrap_or_default();
        writeln!(to, "  {:<18} {}{window}, {}", row.name, row.level, row.rule)?;
    }
    writeln!(to, "failures:")?;
    for trouble in Trouble::ALL {
        writeln!(to, "  {:<28} {}", trouble.name(), trouble.what())?;
    }
    writeln!(to, "cells: level, failure, acknowledged records lost")?;
    for (row, trouble) in cells {
        writeln!(to, "  {:<18} {:<28} {}", row.name, trouble.name(), predict(&row, trouble))?;
    }
    to.flush()?;
    Ok(())
}

fn failure(error: SurviveError) -> Failure {
    let code = match error.exit_code() {
        2 => Code::Usage,
        130 => Code::Interrupted,
        _ => Code::Failed,
    };
    Failure::new(code, anyhow::Error::msg(error.to_string()))
}

//! `towline survive`: what each commit level survives, shown on real processes.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Args;
use towline_report::advise::{ALIASES, Failure as Advised, failure_name};
use towline_report::environment::Environment;
use towline_report::{Report, survive_run, write_index};
use towline_survive::{
    Failure as Trouble, Mode, Origin, Row, SurviveError, SurviveOptions, cells, predict, render, run,
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
  towline survive --windows                             window against loss: four minutes
  towline survive --soak 60m                            random failures, one after the other

Each cell is a real primary and two standbys, processes of this program, each on a file system that forgets what was \
not flushed; it needs /dev/fuse, and root or fusermount3. Acknowledged records are looked for where the log survives. \
The run folder with survive.json and survive.html is printed at the end. Failures have longer names, too: `advise` and \
this command take the same ones, and --list shows them.

Exit codes: 0 all as predicted, 1 a promise was broken, a cluster did not come back or the run could not go on, 2 wrong usage, 3 a loss that is \
due was not seen, or a long run did not play every level and failure (nothing was shown there), 130 interrupted (Ctrl-C, SIGTERM, or the end of its terminal): what was \
played until then is kept. Nothing is left mounted or running. What failed or was not shown is followed by the line that \
plays it again: the same failures, and the same choices at their moments.")]
pub(crate) struct SurviveArgs {
    /// Only these levels, as --list names them; with --windows only these windows: `window-64K`, `window-20ms`
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    level: Vec<String>,
    /// Only these failures
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    failure: Vec<String>,
    /// How often each cell is played [default: 1; with --windows 10, or as often as fits into four minutes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    times: Option<u64>,
    /// Windows of many sizes, each under losses of the primary with its disk: bound, median and largest loss
    #[arg(long, conflicts_with_all = ["failure", "soak", "list"])]
    windows: bool,
    /// Whose windows: a measured run with a window sweep, under whose curves `towline report` then shows what was lost
    /// [default: the newest one of this machine in --results]
    #[arg(long, value_name = "RUN", requires = "windows")]
    sweep: Option<PathBuf>,
    /// Random failures of all kinds for so long, a cluster of the next level each time; every acknowledged record is
    /// looked for. What is too short to play every level and every failure (a minute or two) is not shown
    #[arg(long, value_name = "TIME", value_parser = parse_duration, conflicts_with_all = ["level", "failure", "list", "times"])]
    soak: Option<Duration>,
    /// Only this round of a long run with that --seed, once more
    #[arg(long, value_name = "N", requires_all = ["soak", "seed"])]
    round: Option<u64>,
    /// Print the cells and their promises, and run nothing
    #[arg(long)]
    list: bool,
    /// Decides the moments and what a power cut keeps
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Clusters at the same time [default: one a processor, at most 3]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    lanes: usize,
    /// Disks and mounts live in DIR/towline-survive while it runs, and go with it; nothing else in DIR is touched
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
    let failures = failures(&args)?;
    if args.soak.is_some_and(|time| time.is_zero()) && args.round.is_none() {
        return Err(Failure::usage("--soak 0s tests nothing: give it a minute or more"));
    }
    give_large_blocks_back();
    let program = std::env::current_exe()?;
    let here = Environment::collect(Path::new("."), Path::new("."));
    let window_bytes = if args.windows { window_bytes(&args, &here)? } else { Vec::new() };
    let outcome = run(&SurviveOptions {
        program,
        origin: Origin {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: here.commit + if here.dirty == Some(true) { " + changes" } else { "" },
            cpu: here.cpu,
            cores: here.cores,
        },
        mode: match (args.windows, args.soak, args.round) {
            (true, ..) => Mode::Windows,
            (false, _, Some(number)) => Mode::Round(number),
            (false, Some(time), None) => Mode::Soak(time),
            (false, None, None) => Mode::Cells,
        },
        window_bytes,
        levels: args.level,
        failures,
        times: args.times,
        lanes: args.lanes,
        seed: args.seed,
        dir: args.dir,
        results: args.results.clone(),
    })
    .map_err(failure)?;
    let mut to = out::stdout();
    write!(to, "{}", render(&outcome.report))?;
    if let Some(error) = outcome.unwritten {
        to.flush()?;
        return Err(failure(error));
    }
    writeln!(to, "{}", outcome.folder.display())?;
    // Beside measured runs it is one of a collection, which has a page of its own.
    if args.results.join("runs").is_dir() {
        write_index(&args.results).map_err(|error| Failure::new(Code::Failed, error))?;
        writeln!(to, "all runs: {}", args.results.join("index.html").display())?;
    }
    if args.windows {
        writeln!(to, "`towline report RUN` shows it under the window curves of a measured run")?;
    }
    to.flush()?;
    Ok(outcome.exit_code())
}

/// Each thread of a mount has a buffer of 16 MiB of which it uses little. The C library learns from the first one it
/// frees to keep such blocks, touched to their end: a gigabyte after a minute. Told not to, it takes them from the
/// kernel and gives them back; it reads that only when a program starts.
fn give_large_blocks_back() {
    if std::env::var_os(MMAP_THRESHOLD).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        let mut again = Command::new(program);
        again.args(std::env::args_os().skip(1)).env(MMAP_THRESHOLD, (1 << 20).to_string());
        // It comes back only where it failed: then this process goes on, and is larger.
        let _ = again.exec();
    }
}

/// The windows of the sweep that is asked for, or of the newest of this machine.
fn window_bytes(args: &SurviveArgs, here: &Environment) -> Result<Vec<u64>, Failure> {
    let Some(run) = &args.sweep else { return Ok(survive_run::newest_sweep(&args.results, here)) };
    let report = Report::load(run).map_err(|error| Failure::new(Code::Failed, error))?;
    match survive_run::sweep_bytes(&report) {
        sizes if sizes.is_empty() => {
            Err(Failure::new(Code::Failed, anyhow::anyhow!("{} has no window sweep in bytes", run.display())))
        }
        sizes => Ok(sizes),
    }
}

const MMAP_THRESHOLD: &str = "MALLOC_MMAP_THRESHOLD_";

/// The failures that are asked for, by their short names.
fn failures(args: &SurviveArgs) -> Result<Vec<String>, Failure> {
    let advised = advised_only();
    match args.failure.iter().find(|name| advised.contains(&failure_name(name))) {
        Some(name) => Err(Failure::usage(format!(
            "'{name}' is a failure for `advise` only: nothing is left to look in or to look for; `--list` names those that \
             are played"
        ))),
        None => Ok(args.failure.iter().map(|name| failure_name(name).to_owned()).collect()),
    }
}

/// Those that a goal can name and no run can show: of every disk nothing is left, and a clean stop loses nothing.
fn advised_only() -> Vec<&'static str> {
    Advised::ALL.into_iter().map(Advised::as_str).filter(|name| !is_played(name)).collect()
}

fn is_played(name: &str) -> bool {
    Trouble::ALL.iter().any(|trouble| trouble.name() == name)
}

fn list(args: &SurviveArgs) -> Outcome {
    let cells = cells(&args.level, &failures(args)?).map_err(failure)?;
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
    writeln!(to, "longer names of failures:")?;
    for (alias, name) in ALIASES.into_iter().filter(|(_, name)| is_played(name)) {
        writeln!(to, "  {alias:<38} {name}")?;
    }
    writeln!(
        to,
        "for `advise` only, nothing is left to look in or to look for: {}",
        advised_only().join(", ")
    )?;
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

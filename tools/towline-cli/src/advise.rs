//! `towline advise`: from what must survive and how long a client may wait to a commit level and a window.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use towline_report::advise::{
    Advice, AdviseError, Failure as Survived, Goal, Verdict, advise as answer, format_advice,
};
use towline_report::against::hardware_differences;
use towline_report::environment::Environment;
use towline_report::{LoadError, Report};

use crate::exit::{Code, Failure, Outcome};
use crate::out;
use crate::units::{parse_bytes, parse_duration};

#[derive(Args)]
#[command(after_help = "\
Examples:
  towline advise --survive primary-disk-loss --p99 2ms
  towline advise --survive primary-disk-loss --p99 300us --lose 64K --run results/runs/RUN
  towline advise --survive primary-disk+standbys-power --p99 2ms --clients 8 --json

Failures, mildest first: clean-stop, primary-kill, primary-power, all-power, primary-disk, primary-disk+standbys-kill, \
primary-disk+standby-power, primary-disk+standbys-power, two-disks, all-disks: the names of `towline survive`, which plays \
all of them but clean-stop and all-disks. Longer ones are understood too: primary-disk-loss for primary-disk, and so on.

It names the weakest level, and the widest window within --lose, that meet both at every load that the run measured, and \
what the levels above and below would cost and lose. It answers from a run of this machine, by default the newest under \
results/runs that can. The end is 1 where the goal cannot be met: it says which half and what is nearest.")]
pub(crate) struct AdviseArgs {
    /// What must not lose an acknowledged record
    #[arg(long, value_name = "FAILURE")]
    survive: Survived,
    /// How long a client waits at most, at p99
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    p99: Duration,
    /// Acknowledged payload that may be lost all the same: the widest window
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "0")]
    lose: u64,
    /// Only this load: outstanding appends [default: every load of the run]
    #[arg(long, value_name = "N")]
    clients: Option<u32>,
    /// Round trip of the emulated link to the standbys, as measured [default: the shortest of the run]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    link_rtt: Option<Duration>,
    /// The run to answer from [default: the newest that can]
    #[arg(long)]
    run: Option<PathBuf>,
    /// Where runs are looked for
    #[arg(long, value_name = "DIR", default_value = "results", conflicts_with = "run")]
    results: PathBuf,
    /// Answer from a run of another machine too
    #[arg(long, requires = "run")]
    anyway: bool,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn advise(args: AdviseArgs) -> Outcome {
    if args.p99.is_zero() {
        return Err(Failure::usage("--p99 0: no wait is no goal"));
    }
    let goal = Goal {
        survive: args.survive,
        p99_ns: args.p99.as_nanos() as f64,
        lose_bytes: args.lose,
        clients: args.clients,
        link_rtt_us: args.link_rtt.map(|rtt| rtt.as_nanos() as f64 / 1e3),
    };
    let here = Environment::collect(Path::new("."), Path::new("."));
    let advice = match &args.run {
        Some(run) => from_run(run, goal, &here, args.anyway)?,
        None => from_newest(&args.results, &goal, &here)?,
    };
    if args.json {
        out::line(&serde_json::to_string_pretty(&advice).map_err(anyhow::Error::from)?)?;
    } else {
        out::line(format_advice(&advice).trim_end())?;
    }
    match &advice.verdict {
        Verdict::Met { .. } => Ok(()),
        Verdict::Impossible { .. } => {
            Err(Failure::new(Code::Failed, anyhow::anyhow!("this goal cannot be met here")))
        }
    }
}

fn from_run(run: &Path, goal: Goal, here: &Environment, anyway: bool) -> Result<Advice, Failure> {
    Failure::unless_there(run)?;
    let report = Report::load(run).map_err(failed)?;
    let machine_differs = hardware_differences(&report.environment, here);
    if !machine_differs.is_empty() && !anyway {
        return Err(failed(anyhow::anyhow!(
            "the run is of another machine ({}); --anyway answers from it and marks it",
            machine_differs.join("; ")
        )));
    }
    let advice = answer(&report, goal).map_err(failed)?;
    Ok(Advice { machine_differs, ..advice })
}

/// The newest run of this machine that measured what the goal needs; else why the newest of them cannot answer.
fn from_newest(results: &Path, goal: &Goal, here: &Environment) -> Result<Advice, Failure> {
    let runs = results.join("runs");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(&runs)
        .map_err(|error| {
            failed(anyhow::anyhow!("no runs in {}: {error}; `towline bench` makes one", runs.display()))
        })?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    // Their names begin with the time.
    folders.sort();
    // A run that measured a ladder, but not this one, says the most.
    let (mut reason, mut weak_reason) = (None, None);
    for folder in folders.iter().rev() {
        let report = match Report::load(folder) {
            Ok(report) => report,
            Err(error @ LoadError::Missing { .. } | error @ LoadError::Damaged { .. }) => {
                weak_reason.get_or_insert(anyhow::Error::new(error));
                continue;
            }
            Err(error) => return Err(failed(error)),
        };
        if !hardware_differences(&report.environment, here).is_empty() {
            continue;
        }
        match answer(&report, goal.clone()) {
            Ok(advice) => return Ok(advice),
            Err(error) => {
                let slot = if error == AdviseError::NoLadder { &mut weak_reason } else { &mut reason };
                slot.get_or_insert(anyhow::Error::new(error).context(folder.display().to_string()));
            }
        }
    }
    Err(failed(reason.or(weak_reason).unwrap_or_else(|| {
        anyhow::anyhow!("no run of this machine in {}; `towline bench` makes one", runs.display())
    })))
}

fn failed(error: impl Into<anyhow::Error>) -> Failure {
    Failure::new(Code::Failed, error)
}

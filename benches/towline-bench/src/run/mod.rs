//! A run: floors, experiments, checks, and the folder that keeps them.

mod cluster_points;
mod memory;
mod off;
pub(crate) mod pair;
mod point;
mod session;
mod stall;
mod stream;
mod sweep;
mod timeline;

pub(crate) use cluster_points::LOOKS_OF_A_SWEEP;
pub use off::{OffRoom, wait_for_segments};
pub(crate) use session::Facts;

use crate::error::BenchError;
use crate::options::BenchOptions;
use crate::plan::{Experiment, Kind};
use crate::workload::Workload;
use crate::{checks, publish};
use session::Session;
use std::path::PathBuf;
use std::time::Instant;
use towline_report::environment::{CpuTimes, Environment, portable_command};
use towline_report::{Report, RunFolder, knee, print_tables};

/// What a run left behind.
#[derive(Debug)]
pub struct Outcome {
    /// The run folder.
    pub folder: PathBuf,
    /// What is in its `report.json`.
    pub report: Report,
    /// Ctrl-C ended it early.
    pub interrupted: bool,
    /// Experiments that failed, with why.
    pub failures: Vec<String>,
}

impl Outcome {
    /// 0; 130 after Ctrl-C; 1 when an experiment failed. A bar that was missed is a result, not a failure.
    pub fn exit_code(&self) -> u8 {
        match (self.interrupted, self.failures.is_empty()) {
            (true, _) => 130,
            (false, true) => 0,
            (false, false) => 1,
        }
    }
}

/// Measures what `options` ask for, prints the tables, and leaves a run folder.
///
/// # Errors
/// [`BenchError::Usage`] before anything is started; later, when not even a part of the run could be kept.
pub fn run(options: &BenchOptions) -> Result<Outcome, BenchError> {
    let workload = options.workload()?;
    let name = options.name.clone().unwrap_or_else(|| workload.name.clone());
    let started = Instant::now();
    let cpu_before = CpuTimes::now();
    let mut session = Session::start(options, &workload)?;
    session.announce(&name, &workload);
    let here = std::env::current_dir().unwrap_or_default();
    let environment = Environment {
        network_path: network_path(&workload).into(),
        ..Environment::collect(session.data_dir(), &here)
    };
    let mut report = Report::new(name.clone(), portable_command(options.command.clone()), environment);

    let mut failures = Vec::new();
    if let Err(error) = session.first_floors() {
        failures.push(format!("floors: {error}"));
    }
    for experiment in &workload.experiments {
        if session.is_stopped() || (session.results.is_empty() && !failures.is_empty()) {
            break;
        }
        session.announce_next(&experiment.name, started.elapsed());
        let result = match experiment.kind {
            Kind::Ladder
            | Kind::Replay
            | Kind::Window
            | Kind::Rates
            | Kind::Knee
            | Kind::Timeline
            | Kind::Stall
            | Kind::Mixed => session.cluster_points(experiment),
            Kind::Off => session.off(experiment),
            Kind::Stream => session.stream(experiment),
            Kind::Memory => session.memory(experiment),
        };
        match result {
            Ok(()) | Err(BenchError::Interrupted) => {}
            // Nodes that are ended in the middle of a load complain; after Ctrl-C that is no finding.
            Err(_) if session.is_stopped() => {}
            Err(error) => failures.push(format!("{}: {error}", experiment.name)),
        }
    }
    let interrupted = session.is_stopped();
    if session.results.is_empty() && session.facts.is_empty() {
        return Err(match failures.into_iter().next() {
            Some(failure) if !interrupted => BenchError::Failed(failure),
            _ => BenchError::Interrupted,
        });
    }

    let cpu_after = CpuTimes::now();
    session.finish_progress();
    report.took_s = Some(started.elapsed().as_secs_f64());
    report.floors = session.report_floors();
    report.points = session.results.iter().map(|result| result.point.clone()).collect();
    report.checks = checks::compute(&session.results, &session.facts);
    report.timelines = std::mem::take(&mut session.timelines);
    report.primitives = std::mem::take(&mut session.primitives);
    report.indicative = report.repetitions() < ENOUGH_REPETITIONS;
    report.environment.steal_percent = cpu_after.steal_percent_since(&cpu_before);
    report.environment.cpu_pressure_percent = cpu_after.pressure_percent_since(&cpu_before);
    if let Some((primitive, flush_depth)) = session.durability.take() {
        report.environment.durability_primitive = primitive;
        report.environment.flush_depth = flush_depth;
    }
    report.notes = std::mem::take(&mut session.notes);
    if interrupted {
        report.notes.insert(0, "partial: the run was interrupted; what was measured before is kept".into());
    }
    report.notes.extend(failures.iter().map(|failure| format!("failed: {failure}")));
    report.knees = knee::of_report(&report);

    let results_dir = options.results_dir.clone().unwrap_or_else(|| "results".into());
    let kept = |error: towline_report::FolderError| BenchError::Failed(error.to_string());
    let folder = RunFolder::create(&results_dir, &report.environment.commit, &name).map_err(kept)?;
    publish::write_histograms(&folder, &session.results).map_err(kept)?;
    folder.write(&report).map_err(kept)?;
    print_tables(&report);
    Ok(Outcome { folder: folder.path().to_owned(), report, interrupted, failures })
}

fn network_path(workload: &Workload) -> &'static str {
    let any = |what: fn(&Experiment) -> bool| workload.experiments.iter().any(what);
    if any(|experiment| !experiment.remote.is_empty()) {
        "network"
    } else if any(|each| each.link_rate_bytes_per_s.is_some() || each.link_rtts_us.iter().any(|rtt| *rtt > 0))
    {
        "loopback, emulated links"
    } else {
        "loopback"
    }
}

/// As PERFORMANCE asks before anything is claimed.
const ENOUGH_REPETITIONS: usize = 10;

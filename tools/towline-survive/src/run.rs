//! A run from its options to its folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::context::Context;
use crate::error::{Result, SurviveError};
use crate::failure::Failure;
use crate::matrix::{Cell, Plan, play_cells};
use crate::page;
use crate::reads::read_after_write;
use crate::record::{SurviveReport, Verdict};
use crate::row::Row;
use crate::scene::{HIGH_RATE_PER_S, RATE_PER_S};
use crate::soak::soak;

/// What kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Levels × failures.
    Cells,
    /// Windows of many sizes, each under losses of the primary with its disk. It begins no more of them after three and
    /// a half minutes, so that it is over in four.
    Windows,
    /// Random failures of all kinds for so long.
    Soak(Duration),
}

/// What to run, and where.
#[derive(Clone, Debug)]
pub struct SurviveOptions {
    /// The `towline` program: nodes are children of it.
    pub program: PathBuf,
    /// Where it comes from and runs.
    pub origin: Origin,
    /// What kind of run.
    pub mode: Mode,
    /// Windows of payload bytes that [`Mode::Windows`] plays, beside those of other units; some by itself when empty.
    pub window_bytes: Vec<u64>,
    /// Rows by name; all when empty.
    pub levels: Vec<String>,
    /// Failures by name; all when empty.
    pub failures: Vec<String>,
    /// How often each cell is played; `None` is once, and ten times for windows.
    pub times: Option<u64>,
    /// Clusters at the same time; 0 chooses by the number of processors.
    pub lanes: usize,
    /// Decides moments and what cuts keep; `None` draws one.
    pub seed: Option<u64>,
    /// In a folder of its own below it disks and mounts live while it runs; nothing else there is touched.
    pub dir: PathBuf,
    /// Where the run folder goes.
    pub results: PathBuf,
}

/// The program and the machine, for those who hold the run against another.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The version of the program.
    pub version: String,
    /// The commit of its code; empty when nobody knows.
    pub commit: String,
    /// Model of the processor.
    pub cpu: String,
    /// Cores that it may use.
    pub cores: u32,
}

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Everything.
    pub report: SurviveReport,
    /// Where it was written.
    pub folder: PathBuf,
}

impl Outcome {
    /// 0: all as predicted; 1: a promise was broken; 3: a loss that is due was not shown; 130: interrupted.
    pub fn exit_code(&self) -> u8 {
        let any = |verdict| self.report.verdicts().any(|one| one == verdict);
        match () {
            () if any(Verdict::Failed) => 1,
            () if self.report.interrupted => 130,
            () if any(Verdict::NotShown) => 3,
            () => 0,
        }
    }
}

/// The cells that names ask for, in the order of the matrix.
///
/// # Errors
/// [`SurviveError::Usage`] with the names there are.
pub fn cells(
    levels: &[String],
    failures: &[String],
) -> std::result::Result<Vec<(Row, Failure)>, SurviveError> {
    let rows = Row::all();
    let unknown = |what: &str, name: &str, names: Vec<&str>| {
        Err(SurviveError::Usage(format!("there is no {what} '{name}'; there are: {}", names.join(", "))))
    };
    if let Some(name) = levels.iter().find(|name| !rows.iter().any(|row| row.name == **name)) {
        return unknown("level", name, rows.iter().map(|row| row.name.as_str()).collect());
    }
    if let Some(name) =
        failures.iter().find(|name| !Failure::ALL.iter().any(|failure| failure.name() == **name))
    {
        return unknown("failure", name, Failure::ALL.iter().map(|failure| failure.name()).collect());
    }
    let is_asked = |names: &[String], name: &str| names.is_empty() || names.iter().any(|asked| asked == name);
    let mut cells: Vec<Cell> = Vec::new();
    for row in rows.into_iter().filter(|row| is_asked(levels, &row.name)) {
        let failures = Failure::ALL.into_iter().filter(|failure| is_asked(failures, failure.name()));
        cells.extend(failures.map(|failure| (row.clone(), failure)));
    }
    Ok(cells)
}

/// Plays the cells and writes the run folder. SIGINT and SIGTERM end it early, with what was played.
///
/// # Errors
/// [`SurviveError`]: nothing is left mounted or running.
pub fn run(options: &SurviveOptions) -> Result<Outcome> {
    let cells = cells(&options.levels, &options.failures)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(SurviveError::file(&options.program, "signals cannot be taken"))?;
    }
    let (began, clock) = (SystemTime::now(), Instant::now());
    let seed = options.seed.unwrap_or_else(|| seed_of(began));
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    let lanes = if options.lanes > 0 { options.lanes } else { processors.clamp(1, MAX_LANES) };
    let context = Context::open(&options.program, &options.dir, Arc::clone(&stop))?;
    let windows = options.mode == Mode::Windows;
    let rate_per_s = if options.mode == Mode::Cells { RATE_PER_S } else { HIGH_RATE_PER_S };
    let plan = Plan {
        times: options.times.unwrap_or(if windows { WINDOW_TIMES } else { 1 }).max(1),
        lanes,
        seed,
        rate_per_s,
        // Who says how often waits for as long as that takes.
        limit: (windows && options.times.is_none()).then_some(WINDOWS_LIMIT),
    };
    let mut report = SurviveReport {
        version: FORMAT,
        began: rfc3339(began),
        seed,
        lanes,
        rate_per_s,
        machine: format!("{}, {processors} processors", kernel()),
        program: options.origin.version.clone(),
        commit: options.origin.commit.clone(),
        cpu: options.origin.cpu.clone(),
        cores: options.origin.cores,
        ..SurviveReport::default()
    };
    match options.mode {
        Mode::Cells => {
            let is_whole = options.levels.is_empty() && options.failures.is_empty();
            report.cells = play_cells(&context, cells, plan)?;
            if is_whole && context.check().is_ok() {
                report.reads = or_interrupted(read_after_write(&context))?;
            }
        }
        Mode::Windows => {
            let rows = Row::windows(&options.window_bytes);
            let cells = rows.into_iter().map(|row| (row, Failure::PrimaryDisk)).collect();
            report.windows = play_cells(&context, cells, plan)?;
        }
        Mode::Soak(time) => report.soak = Some(soak(&context, time, lanes, seed)?),
    }
    report.interrupted = context.check().is_err();
    report.seconds = clock.elapsed().as_secs_f64();
    drop(context);
    let folder = write(&options.results, &report, began)?;
    Ok(Outcome { report, folder })
}

fn write(results: &Path, report: &SurviveReport, began: SystemTime) -> Result<PathBuf> {
    let name = format!("survive-{}", rfc3339(began).replace([':', '-'], ""));
    let folder = results.join(name);
    fs::create_dir_all(&folder).map_err(SurviveError::file(&folder, "cannot be made"))?;
    let path = folder.join("survive.json");
    let json = serde_json::to_vec_pretty(report).map_err(|error| SurviveError::Late(error.to_string()))?;
    fs::write(&path, json).map_err(SurviveError::file(&path, "cannot be written"))?;
    let path = folder.join("survive.html");
    fs::write(&path, page::render(report)).map_err(SurviveError::file(&path, "cannot be written"))?;
    Ok(folder)
}

/// What an interrupt leaves out is missing.
fn or_interrupted<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(SurviveError::Interrupted) => Ok(T::default()),
        other => other,
    }
}

fn seed_of(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as u64 ^ u64::from(std::process::id()) << 32
}

fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

fn kernel() -> String {
    let read = |name: &str| fs::read_to_string(name).unwrap_or_default().trim().to_owned();
    format!("Linux {}", read("/proc/sys/kernel/osrelease"))
}

const FORMAT: u32 = 1;
const WINDOW_TIMES: u64 = 10;
const WINDOWS_LIMIT: Duration = Duration::from_secs(210);
/// More clusters at once than this wait for each other's disks and processors.
const MAX_LANES: usize = 3;

//! A run from its options to its folder.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::context::Context;
use crate::error::{Result, SurviveError};
use crate::failure::Failure;
use crate::folder::RunFolder;
use crate::matrix::{Broken, Cell, Plan, play_cells};
use crate::reads::read_after_write;
use crate::record::{SurviveReport, Verdict};
use crate::row::Row;
use crate::scene::{HIGH_RATE_PER_S, RATE_PER_S};
use crate::soak::{SoakResult, replay, soak};

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
    /// The soak's round of this number under the seed, once more.
    Round(u64),
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
#[derive(Debug)]
pub struct Outcome {
    /// Everything.
    pub report: SurviveReport,
    /// Where it was written.
    pub folder: PathBuf,
    /// Why it could not be written: what was played is in the report all the same.
    pub unwritten: Option<SurviveError>,
}

impl Outcome {
    /// 0: all as predicted; 1: a promise was broken, or the run was given up or could not be written; 3: a loss that is
    /// due was not shown; 130: interrupted.
    pub fn exit_code(&self) -> u8 {
        let any = |verdict| self.report.verdicts().any(|one| one == verdict);
        match () {
            () if any(Verdict::Failed) || self.report.broken_off.is_some() => 1,
            () if self.unwritten.is_some() => 1,
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

/// The windows that are asked for, or all; one of payload bytes may be named that no sweep has.
fn window_cells(options: &SurviveOptions) -> Result<Vec<Cell>> {
    let mut sizes = options.window_bytes.clone();
    sizes.extend(options.levels.iter().filter_map(|name| Row::window_bytes(name)));
    let rows = Row::windows(&sizes);
    if let Some(name) = options.levels.iter().find(|name| !rows.iter().any(|row| row.name == **name)) {
        let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        let text =
            format!("there is no window '{name}'; there are, beside other sizes: {}", names.join(", "));
        return Err(SurviveError::Usage(text));
    }
    let is_asked = |row: &Row| options.levels.is_empty() || options.levels.contains(&row.name);
    Ok(rows.into_iter().filter(is_asked).map(|row| (row, Failure::PrimaryDisk)).collect())
}

/// Plays the cells and writes the run folder. SIGINT, SIGTERM and SIGHUP end it early, with what was played.
///
/// # Errors
/// [`SurviveError`]: nothing came to its end, and nothing is left mounted or running. What gives a run up later is in its
/// report.
pub fn run(options: &SurviveOptions) -> Result<Outcome> {
    let cells = match options.mode {
        Mode::Windows => window_cells(options)?,
        _ => cells(&options.levels, &options.failures)?,
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // `nohup` means that it goes on.
        if signal == SIGHUP && ignores_hangup() {
            continue;
        }
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(SurviveError::file(&options.program, "signals cannot be taken"))?;
    }
    let (began, clock) = (SystemTime::now(), Instant::now());
    let seed = options.seed.unwrap_or_else(|| seed_of(began));
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    let lanes = if options.lanes > 0 { options.lanes } else { processors.clamp(1, MAX_LANES) };
    let context = Context::open(&options.program, &options.dir, Arc::clone(&stop))?;
    let folder = RunFolder::make(&options.results, &rfc3339(began))?;
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
    let broken;
    match options.mode {
        Mode::Cells => {
            let is_whole = options.levels.is_empty() && options.failures.is_empty();
            let (cells, mut trouble) = play_cells(&context, cells, plan);
            report.cells = cells;
            if is_whole && trouble.is_none() && context.check().is_ok() {
                match read_after_write(&context) {
                    Ok(reads) => report.reads = reads,
                    Err(error) => trouble = Broken::of("reads on a standby".to_owned(), error),
                }
            }
            broken = trouble;
        }
        Mode::Windows => {
            (report.windows, broken) = play_cells(&context, cells, plan);
        }
        Mode::Soak(time) => {
            let begun = report.clone();
            let keep = |so_far: SoakResult| {
                let why = Some("it was killed, or goes on".to_owned());
                let seconds = clock.elapsed().as_secs_f64();
                // What cannot be written now is told at the end.
                let _ = folder.write(&SurviveReport {
                    soak: Some(so_far),
                    broken_off: why,
                    seconds,
                    ..begun.clone()
                });
            };
            let (result, trouble) = soak(&context, time, lanes, seed, keep);
            (report.soak, broken) = (Some(result), trouble);
        }
        Mode::Round(number) => {
            let (result, trouble) = replay(&context, seed, number);
            (report.soak, broken) = (Some(result), trouble);
        }
    }
    report.interrupted = context.check().is_err();
    report.seconds = clock.elapsed().as_secs_f64();
    drop(context);
    if let Some(broken) = broken {
        if report.is_empty() {
            return Err(broken.error);
        }
        report.broken_off = Some(broken.to_string());
    }
    let unwritten = folder.write(&report).err();
    Ok(Outcome { report, folder: folder.path().to_owned(), unwritten })
}

/// Whether whoever started this program made it deaf to the end of its terminal. The list of the ignored is a mask, the
/// first signal its lowest bit.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask >> (SIGHUP - 1) & 1 == 1
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

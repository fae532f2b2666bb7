//! What the experiments of one run share: the data folder, floors, results, progress, and Ctrl-C.

use crate::error::BenchError;
use crate::floors::FloorSet;
use crate::options::BenchOptions;
use crate::plan::Experiment;
use crate::process;
use crate::publish::PointResult;
use crate::run_floors::{RunFloors, race_primitives};
use crate::target::Primary;
use crate::workload::Workload;
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use towline_report::schema::{Floors, InstrumentCost, PrimitiveRace, Timeline};
use towline_uring::primitive::Primitive;

/// One run in progress.
pub(crate) struct Session {
    pub(super) buffered: bool,
    pub(super) seed: u64,
    pub(super) allocations: Option<fn() -> u64>,
    pub(super) results: Vec<PointResult>,
    pub(super) timelines: Vec<Timeline>,
    pub(super) facts: Facts,
    pub(super) notes: Vec<String>,
    pub(super) primitives: Vec<PrimitiveRace>,
    /// Primitive and flush depth of every node of this run.
    pub(super) flushing: Option<(Primitive, usize)>,
    /// The same, as the first primary says.
    pub(super) durability: Option<(String, u32)>,
    data: DataDir,
    floors: RunFloors,
    progress: ProgressBar,
    interrupt: Interrupt,
    clusters: u32,
}

/// What an experiment found that is no point.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) off_verified: Option<OffVerified>,
    pub(crate) memory: Option<MemoryFact>,
    pub(crate) resync: Option<ResyncFact>,
    /// What timing every record cost, one for each load (outstanding appends) and repetition.
    pub(crate) instrument: Vec<(u32, InstrumentCost)>,
    /// Windows beside the plain levels that they must equal, one for each load, link and repetition.
    pub(crate) equal_pairs: Vec<EqualPair>,
    /// What makes a write durable in this run.
    pub(crate) primitive: Option<Primitive>,
}

/// A window and the plain level that it must equal, measured in turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EqualPair {
    /// ω = ∞ beside `local`; else ω = 0 beside the level itself.
    pub(crate) infinite: bool,
    pub(crate) link_rtt_us: u64,
    /// p50 windowed over plain, the median of its pairs of slices.
    pub(crate) ratio: f64,
    pub(crate) plain_p50_ns: f64,
    /// Pairs of slices.
    pub(crate) slices: usize,
}

impl Facts {
    pub(super) fn is_empty(&self) -> bool {
        self.off_verified.is_none() && self.memory.is_none() && self.resync.is_none()
    }
}

/// Whether `log verify` found everything that the `off` load appended.
#[derive(Clone, Debug)]
pub(crate) struct OffVerified {
    pub(crate) all_found: bool,
    pub(crate) text: String,
}

/// What a stopped standby did to its primary, and the other way round.
#[derive(Clone, Debug)]
pub(crate) struct MemoryFact {
    pub(crate) before_bytes: u64,
    pub(crate) most_bytes: u64,
    pub(crate) p99_ns: u64,
    /// From SIGCONT on; `None` when it did not.
    pub(crate) caught_up_s: Option<f64>,
    pub(crate) verified: Result<String, String>,
}

/// Whether a standby that was stopped too long was told so.
#[derive(Clone, Debug)]
pub(crate) struct ResyncFact {
    pub(crate) told: bool,
    pub(crate) text: String,
}

impl Session {
    pub(super) fn start(options: &BenchOptions, workload: &Workload) -> Result<Self, BenchError> {
        let data = DataDir::create(options.dir.clone().unwrap_or_else(|| "data".into()))?;
        let points: usize = workload
            .experiments
            .iter()
            .map(|experiment| experiment.points() * experiment.repetitions as usize)
            .sum();
        let progress = ProgressBar::new(points as u64);
        if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} {wide_msg}")
        {
            progress.set_style(style.progress_chars("=> "));
        }
        Ok(Self {
            buffered: options.buffered,
            seed: workload.seed,
            allocations: options.allocations,
            results: Vec::new(),
            timelines: Vec::new(),
            facts: Facts::default(),
            notes: Vec::new(),
            primitives: Vec::new(),
            flushing: None,
            durability: None,
            floors: RunFloors::new(&data.path, options.buffered),
            data,
            progress,
            interrupt: Interrupt::install()?,
            clusters: 0,
        })
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data.path
    }

    /// A folder for the next cluster.
    pub(super) fn next_cluster_dir(&mut self) -> PathBuf {
        self.clusters += 1;
        self.data.path.join(format!("cluster-{}", self.clusters))
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.interrupt.stop.load(Ordering::Relaxed)
    }

    pub(super) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupt.stop)
    }

    /// An error once Ctrl-C was pressed: the way out of any depth.
    pub(super) fn go_on(&self) -> Result<(), BenchError> {
        if self.is_stopped() { Err(BenchError::Interrupted) } else { Ok(()) }
    }

    /// Floors before anything else, bandwidths and the race of primitives among them.
    pub(super) fn first_floors(&mut self) -> Result<(), BenchError> {
        self.say("floors");
        let (flushing, primitives) = race_primitives(&self.data.path, self.buffered)?;
        self.primitives = primitives;
        self.flushing = Some(flushing);
        self.facts.primitive = Some(flushing.0);
        self.floors.measure(None, true)?;
        Ok(())
    }

    /// Floors beside a repetition; returns their place for [`floors_between`](Self::floors_between).
    pub(super) fn measure_floors(&mut self, repetition: u32, bandwidths: bool) -> Result<usize, BenchError> {
        self.go_on()?;
        self.say("floors");
        self.floors.measure(Some(repetition), bandwidths)
    }

    /// Two sets as one: what stood before and after a repetition.
    pub(super) fn floors_between(&self, before: usize, after: usize) -> FloorSet {
        self.floors.between(before, after)
    }

    /// The last floors measured.
    pub(super) fn latest_floors(&self) -> FloorSet {
        self.floors.latest()
    }

    /// All floors of the run as the report has them.
    pub(super) fn report_floors(&self) -> Floors {
        self.floors.report()
    }

    /// Remembers how the primary makes writes durable.
    pub(super) fn note_durability(&mut self, primary: &Primary) {
        if self.durability.is_some() {
            return;
        }
        if let Some(shard) = primary.status().ok().and_then(|status| status.shards.into_iter().next()) {
            self.durability = Some((shard.driver.primitive, shard.driver.flush_depth as u32));
        }
    }

    /// What is coming and how long it will take, before it starts.
    pub(super) fn announce(&self, name: &str, workload: &Workload) {
        let (points, estimated_s) = (self.progress.length().unwrap_or(0), workload.estimated_s());
        let time = match estimated_s {
            ..90.0 => format!("{estimated_s:.0} seconds"),
            _ => format!("{:.0} minutes", estimated_s / 60.0),
        };
        eprintln!("{name}: {points} points, about {time}");
    }

    /// Where it stands, for those who see no bar: a file, a CI log.
    pub(super) fn announce_next(&self, experiment: &str, elapsed: Duration) {
        if self.progress.is_hidden() {
            let (done, all) = (self.progress.position(), self.progress.length().unwrap_or(0));
            eprintln!("{:>4.0} s  {done} of {all} points  {experiment}", elapsed.as_secs_f64());
        }
    }

    pub(super) fn say(&self, what: impl Into<String>) {
        self.progress.set_message(what.into());
    }

    pub(super) fn point_done(&self) {
        self.progress.inc(1);
    }

    pub(super) fn finish_progress(&self) {
        self.progress.finish_and_clear();
    }

    /// As points say where they stand.
    pub(super) fn label(experiment: &Experiment, link_rtt_us: u64, rest: &str) -> String {
        let link =
            if link_rtt_us == 0 { String::new() } else { format!(" at {} ms", link_rtt_us as f64 / 1e3) };
        format!("{}{link}: {rest}", experiment.name)
    }
}

/// The folder of this run's logs, removed at the end.
struct DataDir {
    path: PathBuf,
}

impl DataDir {
    fn create(parent: PathBuf) -> Result<Self, BenchError> {
        let path = parent.join(format!("bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|source| BenchError::File {
            what: "cannot make the data folder",
            path: path.clone(),
            source,
        })?;
        // Absolute: nodes are processes of their own.
        let path = path.canonicalize().map_err(|source| BenchError::File {
            what: "cannot use the data folder",
            path: path.clone(),
            source,
        })?;
        Ok(Self { path })
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        // The folder around it, when nobody else uses it.
        if let Some(parent) = self.path.parent() {
            let _ = std::fs::remove_dir(parent);
        }
    }
}

/// The first Ctrl-C ends the run in order; the second ends everything at once.
struct Interrupt {
    stop: Arc<AtomicBool>,
    handle: Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Interrupt {
    fn install() -> Result<Self, BenchError> {
        let mut signals = Signals::new([SIGINT, SIGTERM])
            .map_err(|error| BenchError::failed("cannot watch for Ctrl-C", error))?;
        let handle = signals.handle();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let watch = move || {
            for _ in signals.forever() {
                if flag.swap(true, Ordering::Relaxed) {
                    process::kill_all();
                    std::process::exit(130);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("signals".into())
            .spawn(watch)
            .map_err(|error| BenchError::failed("cannot watch for Ctrl-C", error))?;
        Ok(Self { stop, handle, thread: Some(thread) })
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

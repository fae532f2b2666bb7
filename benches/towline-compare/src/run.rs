//! A comparison: in every repetition each system is started, loaded and stopped alone, in a shuffled order, with the
//! floors in between.

use crate::agree;
use crate::checks;
use crate::interrupt::Interrupt;
use crate::process::Ports;
use crate::systems::{self, Absent, Setting, Spec, System};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};
use towline_report::environment::{CpuTimes, Environment, portable_command};
use towline_report::histograms::TaggedHistogram;
use towline_report::schema::{Load, Point};
use towline_report::stats::latency_of;
use towline_report::{Report, RunFolder};

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) systems: Vec<String>,
    pub(crate) program: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) results: PathBuf,
    pub(crate) clients: Vec<u32>,
    pub(crate) record_bytes: usize,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    pub(crate) repetitions: u32,
    pub(crate) ports: Ports,
    pub(crate) seed: u64,
    /// Whether pgbench, fio and pg_test_fsync are run at the end.
    pub(crate) agreement: bool,
    /// No repetition begins that would not end in this time, once there are [`LEAST_REPETITIONS`].
    pub(crate) at_most: Duration,
    pub(crate) command: Vec<String>,
}

/// What a run left behind.
pub(crate) struct Outcome {
    pub(crate) folder: PathBuf,
    pub(crate) interrupted: bool,
    pub(crate) failures: Vec<String>,
}

struct Kept {
    point: Point,
    latency_ns: Histogram<u64>,
    began: SystemTime,
    duration: Duration,
}

/// Measures, prints the tables and leaves a run folder.
pub(crate) fn run(options: &Options) -> Result<Outcome> {
    let started = Instant::now();
    let cpu_before = CpuTimes::now();
    let interrupt = Interrupt::install()?;
    let data = DataDir::create(&options.dir)?;
    let here = std::env::current_dir().unwrap_or_default();
    let environment = Environment::collect(&data.path, &here);
    let mut report = Report::new("compare", portable_command(options.command.clone()), environment);
    let (flushing, primitives) = towline_bench::race_primitives(&data.path, false)?;
    report.primitives = primitives;
    report.environment.durability_primitive = flushing.0.name().into();
    report.environment.flush_depth = flushing.1 as u32;

    let mut floors = towline_bench::RunFloors::new(&data.path, false);
    // With the disk's bandwidth: `off` needs so many segments.
    floors.measure(None, true)?;
    let setting = Setting {
        program: options.program.clone(),
        ports: options.ports,
        record_bytes: options.record_bytes,
        warm_up: options.warm_up,
        duration: options.duration,
        stop: Arc::clone(&interrupt.stop),
        flushing: Some(flushing),
        disk_bytes_per_s: floors.report().disk_bytes_per_s,
    };
    let systems::Chosen { present, absent } = systems::choose(&options.systems, &setting);
    for (name, Absent(why)) in &absent {
        println!("{name}: not part of this run: {why}");
        report.notes.push(format!("{name} is not part of this run: {why}"));
    }
    println!("{}", estimate(options, &present));
    let mut session = Session {
        options,
        data: &data,
        interrupt: &interrupt,
        started,
        kept: Vec::new(),
        failures: Vec::new(),
        notes: Vec::new(),
    };
    session.repetitions(present, &mut floors)?;
    let (kept, mut failures) = (session.kept, session.failures);
    report.notes.append(&mut session.notes);
    // One that was asked for by name and is not there is a failure; without names the run takes what there is.
    if !options.systems.is_empty() {
        failures.extend(absent.iter().map(|(name, Absent(why))| format!("{name}: {why}")));
    }
    let mut agreement = Vec::new();
    let postgres = options.systems.is_empty() || options.systems.iter().any(|name| name == "postgres");
    if options.agreement && postgres && !interrupt.stop.load(Ordering::Relaxed) {
        agreement = agree::measure(&setting, &data, &mut failures);
    }
    if options.agreement && !interrupt.stop.load(Ordering::Relaxed) {
        agreement.insert(0, agree::instrument(&setting, &data, &mut failures));
    }
    let interrupted = interrupt.stop.load(Ordering::Relaxed);
    if kept.is_empty() {
        bail!("nothing was measured{}", failures.first().map_or(String::new(), |why| format!(": {why}")));
    }

    report.took_s = Some(started.elapsed().as_secs_f64());
    report.floors = floors.report();
    report.points = kept.iter().map(|kept| kept.point.clone()).collect();
    report.checks = checks::compute(&report.points);
    report.checks.extend(agreement);
    report.indicative = report.repetitions() < ENOUGH_REPETITIONS;
    let cpu_after = CpuTimes::now();
    report.environment.steal_percent = cpu_after.steal_percent_since(&cpu_before);
    report.environment.cpu_pressure_percent = cpu_after.pressure_percent_since(&cpu_before);
    report.notes.push(
        "closed loops: every client has one request outstanding; latency is from issuing a request to seeing its \
         acknowledgement; each system runs alone, through its own client crate as it comes"
            .into(),
    );
    if interrupted {
        report.notes.insert(0, "partial: the run was interrupted; what was measured before is kept".into());
    }
    report.notes.extend(failures.iter().map(|failure| format!("failed: {failure}")));
    let folder = RunFolder::create(&options.results, &report.environment.commit, &report.name)?;
    write_histograms(&folder, &kept)?;
    folder.write(&report)?;
    towline_report::print_tables(&report);
    for note in &report.notes {
        println!("note: {note}");
    }
    Ok(Outcome { folder: folder.path().to_owned(), interrupted, failures })
}

struct Session<'a> {
    options: &'a Options,
    data: &'a DataDir,
    interrupt: &'a Interrupt,
    started: Instant,
    kept: Vec<Kept>,
    failures: Vec<String>,
    notes: Vec<String>,
}

impl Session<'_> {
    fn repetitions(
        &mut self,
        mut systems: Vec<Box<dyn System>>,
        floors: &mut towline_bench::RunFloors,
    ) -> Result<()> {
        let options = self.options;
        let per_repetition: usize = systems.iter().map(|system| system.points(&options.clients).len()).sum();
        let progress = ProgressBar::new(per_repetition as u64 * u64::from(options.repetitions));
        if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} {wide_msg}")
        {
            progress.set_style(style.progress_chars("=> "));
        }
        let mut rng = SmallRng::seed_from_u64(options.seed);
        let mut longest = Duration::ZERO;
        let mut failures_of: BTreeMap<String, u32> = BTreeMap::new();
        for repetition in 0..options.repetitions {
            if repetition >= LEAST_REPETITIONS
                && self.started.elapsed() + longest + tail(options) > options.at_most
            {
                self.notes.push(format!(
                    "{repetition} of {} repetitions: another would not have ended within {} minutes",
                    options.repetitions,
                    options.at_most.as_secs() / 60
                ));
                break;
            }
            let began = Instant::now();
            // A drift of the machine must not fall on the same system every time.
            systems.shuffle(&mut rng);
            for (index, system) in systems.iter_mut().enumerate() {
                if self.is_stopped() {
                    break;
                }
                let label = system.label();
                if index % FLOORS_EVERY == 0 {
                    progress.set_message("floors");
                    floors.measure(Some(repetition), false)?;
                }
                let dir = self.data.path.join(format!("{}-{repetition}", label.replace(' ', "-")));
                if let Err(error) = self.system(system.as_mut(), &dir, repetition, &mut rng, &progress)
                    && !self.is_stopped()
                {
                    progress.suspend(|| eprintln!("{label}: {error:#}"));
                    self.failures.push(format!("{label}, repetition {}: {error:#}", repetition + 1));
                    *failures_of.entry(label).or_default() += 1;
                }
                let _ = std::fs::remove_dir_all(&dir);
            }
            // A mishap costs one repetition; what fails again would go on failing.
            systems
                .retain(|system| failures_of.get(&system.label()).is_none_or(|count| *count < MOST_FAILURES));
            longest = longest.max(began.elapsed());
            if self.is_stopped() {
                break;
            }
        }
        progress.finish_and_clear();
        Ok(())
    }

    fn system(
        &mut self,
        system: &mut dyn System,
        dir: &Path,
        repetition: u32,
        rng: &mut SmallRng,
        progress: &ProgressBar,
    ) -> Result<()> {
        let label = system.label();
        progress.set_message(format!("{label}: starting"));
        let measured = system.start(dir).context("it could not be started").and_then(|()| {
            let mut points = system.points(&self.options.clients);
            points.shuffle(rng);
            for spec in points {
                progress.set_message(format!("{label}: {}", spec.describe()));
                let measured = system.measure(&spec).or_else(|error| {
                    // The end of a process says more than a connection that was lost.
                    system.check().with_context(|| format!("while loaded with {}", spec.describe()))?;
                    Err(error.context(spec.describe()))
                })?;
                // A standby that is gone does not end the load, but the point is another one.
                system.check().with_context(|| format!("while loaded with {}", spec.describe()))?;
                if self.is_stopped() {
                    // Cut short: its figures would be those of another duration.
                    bail!("interrupted");
                }
                self.keep(system, &spec, repetition, measured);
                progress.inc(1);
            }
            Ok(())
        });
        let stopped = system.stop();
        measured?;
        stopped
    }

    fn keep(&mut self, system: &dyn System, spec: &Spec, repetition: u32, measured: crate::load::Measured) {
        let point = Point {
            system: system.name().into(),
            experiment: "compare".into(),
            client: spec.client,
            level: spec.level,
            window: None,
            sync_rule: spec.sync_rule.into(),
            standbys: spec.standbys,
            link_rtt_us: 0.0,
            load: Load { threads: spec.threads, ..Load::closed(spec.clients) },
            record_bytes: self.options.record_bytes as f64,
            shards: 1,
            achieved_per_s: measured.recorder.acked as f64 / measured.duration.as_secs_f64(),
            latency_ns: latency_of(&measured.recorder.latency_ns),
            fill_bytes: None,
            exposure_bytes: None,
            waited_for_window: 0,
            repetition,
            ratio_to_floor: None,
            mean_ns: Some(measured.recorder.latency_ns.mean()),
            fill_in_unit: None,
            offered_per_s: None,
            link_rtt_measured_us: None,
            duration_s: Some(measured.duration.as_secs_f64()),
            enters: None,
            flushes: None,
            batches: None,
            enters_per_flush: None,
            allocations_per_commit: None,
            acks_by_achieved_level: BTreeMap::new(),
            steal_percent: measured.steal_percent,
            histogram: Some(histogram_name(system.name(), spec)),
            note: Some(spec.how.into()),
            version: Some(system.version()),
            durable: Some(spec.durable),
            survives: Some(spec.survives.into()),
            connections: spec.connections,
            detail: Default::default(),
        };
        let latency_ns = measured.recorder.latency_ns;
        self.kept.push(Kept { point, latency_ns, began: measured.began, duration: measured.duration });
    }

    fn is_stopped(&self) -> bool {
        self.interrupt.stop.load(Ordering::Relaxed)
    }
}

/// How long it will take, before anything is started.
fn estimate(options: &Options, systems: &[Box<dyn System>]) -> String {
    let points: usize = systems.iter().map(|system| system.points(&options.clients).len()).sum();
    let loads = (options.warm_up + options.duration + BESIDE_POINT) * points as u32;
    let once = loads + BESIDE_SYSTEM * systems.len() as u32;
    let all = once * options.repetitions + tail(options);
    let minutes = |time: Duration| time.as_secs_f64() / 60.0;
    format!(
        "{points} points of {} arrangements, {} times: about {:.0} minutes; no repetition begins that would end after {:.0}",
        systems.len(),
        options.repetitions,
        minutes(all).ceil(),
        minutes(options.at_most)
    )
}

/// What comes after the last repetition.
fn tail(options: &Options) -> Duration {
    if options.agreement { AGREEMENT } else { Duration::ZERO }
}

fn histogram_name(system: &str, spec: &Spec) -> String {
    let threads = if spec.threads.is_some() { "-threads" } else { "" };
    let one =
        if spec.connections.is_some_and(|count| count != spec.clients) { "-one-connection" } else { "" };
    let client = spec.client.as_str();
    format!(
        "compare-{system}-{client}-{}-{}-clients-{}-standbys{threads}{one}",
        spec.level, spec.clients, spec.standbys
    )
}

fn write_histograms(folder: &RunFolder, kept: &[Kept]) -> Result<()> {
    let mut by_name: BTreeMap<&str, Vec<(String, &Kept)>> = BTreeMap::new();
    for kept in kept {
        if let Some(name) = &kept.point.histogram {
            by_name.entry(name).or_default().push((format!("repetition-{}", kept.point.repetition), kept));
        }
    }
    for (name, repetitions) in by_name {
        let intervals: Vec<TaggedHistogram<'_>> = repetitions
            .iter()
            .map(|(tag, kept)| TaggedHistogram {
                tag,
                start: kept.began,
                duration: kept.duration,
                histogram: &kept.latency_ns,
            })
            .collect();
        folder.write_histograms(name, &intervals)?;
    }
    Ok(())
}

/// The folder of this run's data, removed at the end.
pub(crate) struct DataDir {
    pub(crate) path: PathBuf,
}

impl DataDir {
    pub(crate) fn create(parent: &Path) -> Result<Self> {
        let path = parent.join(format!("compare-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        // Absolute: the systems are processes of their own.
        let path = path.canonicalize().with_context(|| format!("cannot use {}", path.display()))?;
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

/// As is asked before anything is claimed.
const ENOUGH_REPETITIONS: usize = 10;
const FLOORS_EVERY: usize = 4;
const LEAST_REPETITIONS: u32 = 3;
/// Of one arrangement, until it is left out of the rest of the run.
const MOST_FAILURES: u32 = 2;
/// Connecting, and the end of the last requests.
const BESIDE_POINT: Duration = Duration::from_millis(150);
/// Starting and stopping: a database is made and copied twice, gigabytes of segments are prepared, half a floor.
const BESIDE_SYSTEM: Duration = Duration::from_secs(4);
/// pgbench, fio, pg_test_fsync and a timeline.
const AGREEMENT: Duration = Duration::from_secs(130);

//! A standby that takes nothing for a while: what it costs the primary, and what becomes of it.

use super::point::PointBench;
use super::session::{MemoryFact, ResyncFact, Session};
use crate::cluster::{Cluster, NodeSizes, RunningCluster};
use crate::count::memory_bytes;
use crate::error::BenchError;
use crate::load::schedule::Schedule;
use crate::load::{Target, Timing, Work, open};
use crate::measure::{Measured, measure};
use crate::plan::{Arrivals, Experiment, Rate};
use crate::process::Process;
use crate::publish::{PointLoad, PointSpec};
use crate::target::Watch;
use crate::verify;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use towline_core::types::{Level, Lsn};
use towline_report::grouped;

impl Session {
    /// Stops the last standby under load; with `hold_bytes`, for longer than its part of the log is held.
    pub(super) fn memory(&mut self, experiment: &Experiment) -> Result<(), BenchError> {
        for repetition in 0..experiment.repetitions {
            self.go_on()?;
            self.say(Session::label(experiment, 0, "starting the cluster"));
            let usual = NodeSizes::usual(self.data_dir(), self.buffered, self.flushing);
            let sizes = NodeSizes { hold_bytes: experiment.hold_bytes.unwrap_or(usual.hold_bytes), ..usual };
            let dir = self.next_cluster_dir();
            let mut cluster = Cluster::start(experiment, 0, &sizes, &dir, self.allocations)?;
            self.note_durability(cluster.primary()?);
            self.stopped_standby(experiment, repetition, &mut cluster)?;
            self.point_done();
        }
        Ok(())
    }

    fn stopped_standby(
        &mut self,
        experiment: &Experiment,
        repetition: u32,
        cluster: &mut RunningCluster,
    ) -> Result<(), BenchError> {
        let stop = self.stop_flag();
        let seconds = experiment.stopped.as_secs();
        self.say(Session::label(experiment, 0, &format!("a standby is stopped for {seconds} s")));
        // The victim is the last: by the rule the others go on without it.
        let mut victim = match cluster.cluster.standbys.last_mut().and_then(|node| node.process.take()) {
            Some(process) => process,
            None => return Err(BenchError::Failed("there is no standby to stop".into())),
        };
        // The load goes on while the standby catches up: that is part of the price.
        let loaded = Experiment { duration: experiment.stopped + AFTERWARDS, ..experiment.clone() };
        let rate_per_s = match experiment.rates.first() {
            Some(Rate::PerS(rate)) => *rate,
            _ => return Err(BenchError::Failed("the memory experiment has no rate".into())),
        };
        let spec = PointSpec { level: Level::On, window: None, load: PointLoad::Open(rate_per_s) };
        let timing = Timing::from_now(loaded.warm_up, loaded.duration);
        let past_holding = experiment.hold_bytes.is_some();
        let watched = std::thread::scope(|scope| {
            let watching = scope.spawn(|| watch(cluster, &mut victim, timing, experiment.stopped, &stop));
            let measured = self.offer(&loaded, cluster, &spec, rate_per_s, timing, past_holding, &stop);
            let watched =
                watching.join().map_err(|_| BenchError::Failed("the watching thread panicked".into()))?;
            Ok::<_, BenchError>((measured?, watched?))
        });
        let (measured, watched) = watched?;
        self.go_on()?;

        let bench = PointBench { experiment: &loaded, link_rtt_us: 0, cluster, wal: None, stop: &stop };
        let mut result = bench.result(&spec, repetition, &measured);
        result.hold_against(&self.latest_floors());
        let p99_ns = result.point.latency_ns.p99;
        self.results.push(result);

        self.say(Session::label(experiment, 0, "waiting for the standby that was stopped"));
        let primary = cluster.primary()?;
        primary.settle(Level::On, CATCH_UP_LIMIT)?;
        let ends: Vec<(Lsn, u64)> = primary
            .status()?
            .shards
            .iter()
            .map(|shard| (shard.node.watermarks.flushed.lsn, shard.geometry.segment_bytes))
            .collect();
        let name = cluster.cluster.standbys.last().map(|node| node.name.clone()).unwrap_or_default();
        let fate = fate(cluster, &name, &ends, watched.resumed, &stop)?;
        if past_holding {
            self.facts.resync = Some(ResyncFact {
                told: matches!(fate, Fate::MustResync(_)),
                text: match fate {
                    Fate::MustResync(line) => line,
                    Fate::CaughtUp(seconds) => {
                        format!("it caught up in {seconds:.1} s: the log was still held")
                    }
                    Fate::Neither(state) => format!("it was not told: {state}"),
                },
            });
            return Ok(());
        }
        let in_order = in_order(cluster, &ends);
        if let Some(node) = cluster.cluster.standbys.last_mut() {
            node.process = Some(victim);
        }
        cluster.stop()?;
        let verified = in_order.and_then(|records| verified(cluster, &ends, records));
        self.facts.memory = Some(MemoryFact {
            before_bytes: watched.before_bytes,
            most_bytes: watched.most_bytes,
            p99_ns,
            caught_up_s: if let Fate::CaughtUp(seconds) = fate { Some(seconds) } else { None },
            verified,
        });
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // One load, described once.
    fn offer(
        &self,
        experiment: &Experiment,
        cluster: &RunningCluster,
        spec: &PointSpec,
        rate_per_s: f64,
        timing: Timing,
        trim: bool,
        stop: &AtomicBool,
    ) -> Result<Measured, BenchError> {
        let primary = cluster.primary()?;
        let bench = PointBench { experiment, link_rtt_us: 0, cluster, wal: None, stop };
        // Where nothing is trimmed, everything can be compared afterwards.
        let work = Work { trim, ..bench.work(spec, timing) };
        let schedule = Schedule::new(rate_per_s, Arrivals::Constant, self.seed);
        measure(&Watch { primary, level: spec.level }, timing, || open::run(primary, &work, schedule))
    }
}

/// What was seen of the primary's memory.
struct Watched {
    before_bytes: u64,
    most_bytes: u64,
    /// When the standby was let go on.
    resumed: Instant,
}

/// Stops the victim when measuring starts, lets it go on after `stopped`, and samples the primary's memory.
fn watch(
    cluster: &RunningCluster,
    victim: &mut Process,
    timing: Timing,
    stopped: Duration,
    stop: &AtomicBool,
) -> Result<Watched, BenchError> {
    let pid = cluster.primary()?.pid();
    let sample = || memory_bytes(pid).ok_or_else(|| BenchError::Failed("the primary is gone".into()));
    let mut before = Vec::new();
    while Instant::now() < timing.measure_from && !stop.load(Relaxed) {
        before.push(sample()?);
        std::thread::sleep(SAMPLE_EVERY);
    }
    // The last second of the warm-up: by then everything has been touched once.
    let recent = &before[before.len().saturating_sub(10)..];
    let before_bytes = match recent.iter().max() {
        Some(bytes) => *bytes,
        None => sample()?,
    };
    victim.stop()?;
    let resume_at = Instant::now() + stopped;
    let mut most_bytes = 0;
    while Instant::now() < resume_at && !stop.load(Relaxed) {
        most_bytes = most_bytes.max(sample()?);
        std::thread::sleep(SAMPLE_EVERY);
    }
    victim.resume()?;
    let resumed = Instant::now();
    while Instant::now() < timing.until && !stop.load(Relaxed) {
        most_bytes = most_bytes.max(sample()?);
        std::thread::sleep(SAMPLE_EVERY);
    }
    Ok(Watched { before_bytes, most_bytes, resumed })
}

/// What became of a standby.
enum Fate {
    /// It holds everything; seconds after it was let go on.
    CaughtUp(f64),
    /// In words.
    MustResync(String),
    /// Neither within the limit; its state.
    Neither(String),
}

fn fate(
    cluster: &RunningCluster,
    name: &str,
    ends: &[(Lsn, u64)],
    resumed: Instant,
    stop: &AtomicBool,
) -> Result<Fate, BenchError> {
    let deadline = Instant::now() + CATCH_UP_LIMIT;
    loop {
        let status = cluster.primary()?.status()?;
        let mut state = "unknown to the primary".to_owned();
        let mut caught_up = 0;
        for (shard, (upto, _)) in status.shards.iter().zip(ends) {
            for standby in shard.node.standbys.iter().filter(|standby| standby.name == name) {
                if standby.state == "must resync" {
                    return Ok(Fate::MustResync(format!("'{name}' is told to resync")));
                }
                caught_up += usize::from(standby.watermarks.flushed.lsn >= *upto);
                state = format!("'{name}' is {}, {} bytes behind", standby.state, standby.lag_bytes);
            }
        }
        if caught_up == ends.len() {
            return Ok(Fate::CaughtUp(resumed.elapsed().as_secs_f64()));
        }
        if Instant::now() > deadline || stop.load(Relaxed) {
            return Ok(Fate::Neither(format!("{state}; {}", cluster.primary()?.standing())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Reads the primary's logs back: every record of the load once, in order, and each in its turn's shard. Returns how
/// many.
fn in_order(cluster: &RunningCluster, ends: &[(Lsn, u64)]) -> Result<u64, String> {
    let primary = cluster.primary().map_err(|error| error.to_string())?;
    let shards = ends.len() as u64;
    let mut records = 0u64;
    for (shard, (upto, _)) in ends.iter().enumerate() {
        let mut next = shard as u64;
        let mut wrong = None;
        let read = primary.read_all(shard, *upto, |payload| {
            // The records that settle a cluster are shorter than any of the load.
            if payload.len() <= 8 {
                return;
            }
            let number = payload.first_chunk::<8>().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
            if number != next {
                wrong.get_or_insert(format!("record {number} stands where {next} belongs"));
            }
            next = number.wrapping_add(shards);
            records += 1;
        });
        read.map_err(|error| error.to_string())?;
        if let Some(wrong) = wrong {
            return Err(format!("shard {shard}: {wrong}"));
        }
    }
    Ok(records)
}

/// Checks both logs on disk, and one against the other.
fn verified(cluster: &RunningCluster, ends: &[(Lsn, u64)], records: u64) -> Result<String, String> {
    let primary_dir = cluster.primary_dir();
    let Some(standby) = cluster.cluster.standbys.last() else { return Err("there is no standby".into()) };
    for dir in [&primary_dir, &standby.dir] {
        verify::log(dir).map_err(|error| error.to_string())?;
    }
    let bytes = verify::identical(&primary_dir, &standby.dir, ends)?;
    Ok(format!(
        "{} records once and in order; {} MB identical on the standby",
        grouped(records as f64),
        grouped(bytes as f64 / 1e6)
    ))
}

/// How long the load goes on after the standby may.
const AFTERWARDS: Duration = Duration::from_secs(5);
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

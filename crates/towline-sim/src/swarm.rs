//! Many worlds, on all cores, and what they came by together.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::marks::Tally;
use crate::run::{Run, panicked, run};

/// Which worlds to visit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Swarm {
    /// The first seed.
    pub from: u64,
    /// How many seeds; `None`: until the time is over.
    pub seeds: Option<u64>,
    /// For how long; `None`: until the seeds are over.
    pub time: Option<Duration>,
}

/// What a swarm saw.
#[derive(Clone, Debug, Default)]
pub struct SwarmReport {
    /// Worlds.
    pub worlds: u64,
    /// Records that were appended.
    pub appends: u64,
    /// Faults.
    pub faults: u64,
    /// Processes that ended without warning.
    pub crashes: u64,
    /// Acknowledgements by level achieved.
    pub acks: [u64; 5],
    /// Faults by kind.
    pub fault_kinds: BTreeMap<&'static str, u64>,
    /// Rare paths.
    pub marks: Tally,
    /// Worlds that broke a promise: seed and promise.
    pub failures: Vec<(u64, String)>,
    /// Worlds in which a leader showed more exposure than there was: seed and the most bytes too much.
    pub gauges_above: Vec<(u64, u64)>,
    /// Worlds that saw less than every world should.
    pub too_quiet: Vec<u64>,
    /// Wall time in seconds, and threads.
    pub seconds: f64,
    /// Threads.
    pub threads: usize,
}

/// Runs worlds until the time or the seeds are over; with neither, one. `on_world` hears of each as it ends, and
/// ends the swarm by returning false.
pub fn swarm(which: Swarm, on_world: impl Fn(&Run) -> bool + Sync) -> SwarmReport {
    let start = Instant::now();
    let next = AtomicU64::new(0);
    let seeds = match (which.seeds, which.time) {
        (None, None) => Some(1),
        (seeds, _) => seeds,
    };
    let is_due = |place: u64| {
        seeds.is_none_or(|seeds| place < seeds) && which.time.is_none_or(|time| start.elapsed() < time)
    };
    let work = || {
        let mut report = SwarmReport::default();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            if !is_due(place) {
                return report;
            }
            let run = run(which.from.wrapping_add(place), false);
            report.take(&run);
            if !on_world(&run) {
                // Far beyond any number of seeds, and far from its end.
                next.fetch_max(u64::MAX / 2, Ordering::Relaxed);
                return report;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let reports: Vec<SwarmReport> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        // A thread that was lost has looked at nothing that could be told: the search has failed.
        let lost = |panic: Box<dyn Any + Send>| SwarmReport {
            failures: vec![(which.from, format!("the search {}", panicked(panic.as_ref())))],
            ..SwarmReport::default()
        };
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(lost)).collect()
    });
    let mut report = reports.into_iter().fold(SwarmReport::default(), SwarmReport::and);
    report.failures.sort_unstable();
    report.gauges_above.sort_unstable();
    (report.seconds, report.threads) = (start.elapsed().as_secs_f64(), threads);
    report
}

impl SwarmReport {
    fn take(&mut self, run: &Run) {
        let is_quiet = run.failure.is_none() && !run.has_seen_enough();
        let one = SwarmReport {
            worlds: 1,
            appends: run.appends,
            faults: run.faults,
            crashes: run.crashes,
            acks: run.acks,
            fault_kinds: run.fault_kinds.clone(),
            marks: run.marks.clone(),
            failures: run.failure.iter().map(|failure| (run.seed, failure.clone())).collect(),
            gauges_above: Some((run.seed, run.gauge_excess_bytes))
                .filter(|above| above.1 > 0)
                .into_iter()
                .collect(),
            too_quiet: if is_quiet { vec![run.seed] } else { Vec::new() },
            ..SwarmReport::default()
        };
        *self = std::mem::take(self).and(one);
    }

    fn and(mut self, other: SwarmReport) -> SwarmReport {
        self.worlds += other.worlds;
        self.appends += other.appends;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.acks.iter_mut().zip(other.acks).for_each(|(sum, n)| *sum += n);
        other.fault_kinds.into_iter().for_each(|(kind, n)| *self.fault_kinds.entry(kind).or_default() += n);
        self.marks.add(&other.marks);
        self.failures.extend(other.failures);
        self.gauges_above.extend(other.gauges_above);
        self.too_quiet.extend(other.too_quiet);
        self
    }
}

//! One measured point: a generator thread under load, and an observer beside it that samples gauges and counters.

use crate::count::Counters;
use crate::error::BenchError;
use crate::load::{Recorder, Timing, record};
use hdrhistogram::Histogram;
use std::time::{Duration, Instant, SystemTime};
use towline_report::environment::CpuTimes;

/// What can be seen of a log from the side, while it is under load.
pub(crate) trait Observer {
    /// Acknowledged payload bytes past the safe LSN; `None` where no standby counts.
    fn exposure_bytes(&self) -> Option<u64>;

    /// Counters since the start.
    fn counters(&self) -> Counters;

    /// Kernel worker threads of the primary.
    fn ring_workers(&self) -> usize;

    /// Heap allocations of this process so far; `None` where they are not counted.
    fn allocations(&self) -> Option<u64> {
        None
    }

    /// How often to look: often enough for a p99 of a second's run, rare enough not to be part of the load.
    fn sample_every(&self) -> Duration {
        Duration::from_millis(4)
    }
}

/// Everything that one point left behind.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// What the generator saw.
    pub recorder: Recorder,
    /// Exposure over time, bytes; empty where no standby counts.
    pub exposure_bytes: Histogram<u64>,
    /// What was counted while measuring.
    pub counters: Counters,
    /// Heap allocations of this process, without those of watching it; `None` where they are not counted.
    pub allocations: Option<u64>,
    /// The most kernel worker threads seen at once.
    pub ring_workers: usize,
    /// Measured time.
    pub duration: Duration,
    /// When measuring began.
    pub began: SystemTime,
    /// Processor time that the hypervisor took away meanwhile, percent.
    pub steal_percent: Option<f64>,
    /// Share of the time in which some task waited for a processor, percent.
    pub pressure_percent: Option<f64>,
    /// Earlier tries, and this one, in whose measured time not one append was acknowledged.
    pub tries_without_ack: u32,
}

impl Measured {
    /// Adds a later part of the same load.
    pub(crate) fn merge(&mut self, later: &Self) {
        self.recorder.merge(&later.recorder);
        // Parts of different times are no longer the parts of one.
        self.recorder.parts = None;
        // The same bounds everywhere, so adding cannot fail.
        let _ = self.exposure_bytes.add(&later.exposure_bytes);
        self.counters = self.counters.plus(&later.counters);
        self.allocations = self.allocations.zip(later.allocations).map(|(one, other)| one + other);
        self.ring_workers = self.ring_workers.max(later.ring_workers);
        self.duration += later.duration;
        let larger = |one: Option<f64>, other: Option<f64>| one.zip(other).map(|(one, other)| one.max(other));
        self.steal_percent = larger(self.steal_percent, later.steal_percent);
        self.pressure_percent = larger(self.pressure_percent, later.pressure_percent);
    }

    /// Acknowledgements per second.
    pub(crate) fn per_s(&self) -> f64 {
        self.recorder.acked as f64 / self.duration.as_secs_f64()
    }
}

/// Runs `load` on a thread of its own and watches it until it is done.
pub(crate) fn measure<L>(observer: &impl Observer, timing: Timing, load: L) -> Result<Measured, BenchError>
where
    L: FnOnce() -> Result<Recorder, BenchError> + Send,
{
    std::thread::scope(|scope| {
        let generator = std::thread::Builder::new()
            .name("generator".into())
            .spawn_scoped(scope, load)
            .map_err(|error| BenchError::failed("cannot start the generator thread", error))?;
        let done = || generator.is_finished();
        sleep_until(timing.measure_from, &done);
        let began = SystemTime::now();
        let counters_before = observer.counters();
        let cpu_before = CpuTimes::now();
        // Between the two looks at the counters, which allocate, too.
        let allocated_before = observer.allocations();
        let mut exposure_bytes = record::new_histogram();
        let mut ring_workers = 0;
        let mut next_look = Instant::now();
        let mut of_watching = 0;
        while Instant::now() < timing.until && !done() {
            let allocated = observer.allocations();
            if let Some(bytes) = observer.exposure_bytes() {
                exposure_bytes.saturating_record(bytes);
            }
            if Instant::now() >= next_look {
                ring_workers = ring_workers.max(observer.ring_workers());
                next_look += LOOK_EVERY;
            }
            // What the looking itself allocates is not the log's.
            of_watching += observer.allocations().zip(allocated).map_or(0, |(after, before)| after - before);
            std::thread::sleep(observer.sample_every());
        }
        let allocated = observer.allocations().zip(allocated_before).map(|(after, before)| after - before);
        let counters = observer.counters().since(&counters_before);
        let cpu_after = CpuTimes::now();
        let recorder = match generator.join() {
            Ok(recorder) => recorder?,
            Err(_) => return Err(BenchError::Failed("the generator thread panicked".into())),
        };
        Ok(Measured {
            recorder,
            exposure_bytes,
            counters,
            allocations: allocated.map(|all| all.saturating_sub(of_watching)),
            ring_workers,
            duration: timing.duration(),
            began,
            steal_percent: cpu_after.steal_percent_since(&cpu_before),
            pressure_percent: cpu_after.pressure_percent_since(&cpu_before),
            tries_without_ack: 0,
        })
    })
}

fn sleep_until(when: Instant, done: &impl Fn() -> bool) {
    while let Some(left) = when.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        if done() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(20)));
    }
}

/// Worker threads live for seconds.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct Seen(Cell<u64>);

    impl Observer for Seen {
        fn exposure_bytes(&self) -> Option<u64> {
            self.0.set(self.0.get() + 1);
            Some(1000)
        }

        fn counters(&self) -> Counters {
            Counters { flushes: self.0.get(), ..Counters::default() }
        }

        fn ring_workers(&self) -> usize {
            3
        }
    }

    #[test]
    fn gauges_are_sampled_and_counters_differ_between_the_ends_of_the_measured_part() {
        let timing = Timing::from_now(Duration::from_millis(20), Duration::from_millis(100));
        let seen = Seen(Cell::new(0));
        let measured = measure(&seen, timing, || {
            std::thread::sleep(Duration::from_millis(130));
            Ok(Recorder::new())
        })
        .unwrap();
        assert!(measured.exposure_bytes.len() >= 5);
        assert_eq!(measured.exposure_bytes.len(), measured.counters.flushes);
        assert_eq!(measured.ring_workers, 3);
        assert_eq!(measured.duration, Duration::from_millis(100));
    }

    #[test]
    fn a_load_that_fails_ends_the_watch_at_once() {
        let timing = Timing::from_now(Duration::from_secs(5), Duration::from_secs(5));
        let began = Instant::now();
        let result = measure(&Seen(Cell::new(0)), timing, || Err(BenchError::Failed("refused".into())));
        assert!(result.unwrap_err().to_string().contains("refused"));
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}

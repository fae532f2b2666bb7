//! Closed loops: every client has one request outstanding, and issues the next when it is acknowledged.
//!
//! Latency is from the moment a request is issued until its acknowledgement is seen, for every system alike.

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use towline_report::environment::CpuTimes;
use towline_report::stats::new_histogram;

/// When a load starts, when measuring starts, and when it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) measure_from: Instant,
    pub(crate) until: Instant,
}

impl Timing {
    pub(crate) fn from_now(warm_up: Duration, duration: Duration) -> Self {
        let start = Instant::now();
        Self { measure_from: start + warm_up, until: start + warm_up + duration }
    }

    fn counts(&self, at: Instant) -> bool {
        self.measure_from <= at && at < self.until
    }
}

/// One load.
#[derive(Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) timing: Timing,
    pub(crate) record_bytes: usize,
    /// Ctrl-C.
    pub(crate) stop: &'a AtomicBool,
}

impl Work<'_> {
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        now >= self.timing.until || self.stop.load(Ordering::Relaxed)
    }
}

/// What a generator keeps of its acknowledgements.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    pub(crate) latency_ns: Histogram<u64>,
    pub(crate) acked: u64,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { latency_ns: new_histogram(), acked: 0 }
    }

    /// A request issued at `since` was acknowledged at `now`.
    pub(crate) fn ack(&mut self, timing: &Timing, since: Instant, now: Instant) {
        self.acked += u64::from(timing.counts(now));
        if timing.counts(since) {
            let latency_ns = u64::try_from((now - since).as_nanos()).unwrap_or(u64::MAX);
            self.latency_ns.saturating_record(latency_ns.max(1));
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        // The same bounds everywhere, so adding cannot fail.
        let _ = self.latency_ns.add(&other.latency_ns);
        self.acked += other.acked;
    }
}

/// Everything that one point left behind.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) recorder: Recorder,
    pub(crate) began: SystemTime,
    pub(crate) duration: Duration,
    pub(crate) steal_percent: Option<f64>,
}

/// Runs `load`, watching what the hypervisor takes meanwhile.
pub(crate) fn measured(
    warm_up: Duration,
    duration: Duration,
    load: impl FnOnce(Timing) -> Result<Recorder>,
) -> Result<Measured> {
    let before = CpuTimes::now();
    let began = SystemTime::now() + warm_up;
    let recorder = load(Timing::from_now(warm_up, duration))?;
    if recorder.latency_ns.is_empty() {
        bail!("nothing was acknowledged in the measured time");
    }
    let steal_percent = CpuTimes::now().steal_percent_since(&before);
    Ok(Measured { recorder, began, duration, steal_percent })
}

/// A client of a system: one request at a time.
pub(crate) trait Session {
    /// Stores one record and waits for its acknowledgement.
    async fn commit(&mut self, payload: &[u8]) -> Result<()>;
}

/// All sessions at once, from one thread: as the client crates do it, asleep while nothing can be done.
pub(crate) async fn run_sessions<S: Session + 'static>(
    sessions: Vec<S>,
    work: &Work<'_>,
) -> Result<Recorder> {
    let timing = work.timing;
    let record_bytes = work.record_bytes;
    let local = tokio::task::LocalSet::new();
    let mut tasks = Vec::new();
    for (client, mut session) in sessions.into_iter().enumerate() {
        tasks.push(local.spawn_local(async move {
            let mut recorder = Recorder::new();
            let mut payloads = Payloads::new(record_bytes, (client as u64) << 40);
            loop {
                let since = Instant::now();
                if since >= timing.until {
                    return Ok::<_, anyhow::Error>(recorder);
                }
                session.commit(payloads.next()).await?;
                recorder.ack(&timing, since, Instant::now());
            }
        }));
    }
    let all = local.run_until(async {
        let mut merged = Recorder::new();
        for task in tasks {
            merged.merge(&task.await.context("a client ended early")??);
        }
        Ok(merged)
    });
    let limit = timing.until.saturating_duration_since(Instant::now()) + DRAIN;
    tokio::select! {
        result = all => result,
        () = stopped(work.stop) => bail!("interrupted"),
        () = tokio::time::sleep(limit) => {
            bail!("requests were not acknowledged within {} s after the load ended", DRAIN.as_secs())
        }
    }
}

async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A thread for each client, for interfaces that block. `commit` gets the client's number.
pub(crate) fn run_threads<C>(clients: usize, work: &Work<'_>, commit: C) -> Result<Recorder>
where
    C: Fn(usize, &[u8]) -> Result<()> + Sync,
{
    let commit = &commit;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|client| {
                scope.spawn(move || -> Result<Recorder> {
                    let mut recorder = Recorder::new();
                    let mut payloads = Payloads::new(work.record_bytes, (client as u64) << 40);
                    loop {
                        let since = Instant::now();
                        if work.is_over(since) {
                            return Ok(recorder);
                        }
                        commit(client, payloads.next())?;
                        recorder.ack(&work.timing, since, Instant::now());
                    }
                })
            })
            .collect();
        let mut merged = Recorder::new();
        for thread in threads {
            match thread.join() {
                Ok(recorder) => merged.merge(&recorder?),
                Err(_) => bail!("a client thread panicked"),
            }
        }
        Ok(merged)
    })
}

/// One thread as fast as it goes, for acknowledgements that are the return of a call. Every sixteenth is timed: the
/// clock costs as much as a tenth of an append.
pub(crate) fn flood(work: &Work<'_>, mut commit: impl FnMut(&[u8]) -> Result<()>) -> Result<Recorder> {
    let mut recorder = Recorder::new();
    let mut payloads = Payloads::new(work.record_bytes, 0);
    loop {
        let since = Instant::now();
        if work.is_over(since) {
            return Ok(recorder);
        }
        commit(payloads.next())?;
        recorder.ack(&work.timing, since, Instant::now());
        let counted = work.timing.counts(since);
        for _ in 1..FLOOD_TIMED {
            commit(payloads.next())?;
        }
        recorder.acked += u64::from(counted) * (FLOOD_TIMED - 1);
    }
}

/// Payloads that do not compress, each beginning with its own number.
pub(crate) struct Payloads {
    bytes: Vec<u8>,
    next: u64,
}

impl Payloads {
    pub(crate) fn new(record_bytes: usize, first: u64) -> Self {
        let mut bytes = vec![0; record_bytes.max(8)];
        SmallRng::seed_from_u64(first ^ 0x9e37_79b9).fill(&mut bytes[..]);
        Self { bytes, next: first }
    }

    pub(crate) fn next(&mut self) -> &[u8] {
        self.bytes[..8].copy_from_slice(&self.next.to_le_bytes());
        self.next += 1;
        &self.bytes
    }
}

const FLOOD_TIMED: u64 = 16;
/// How long an acknowledgement may still come after the load has ended.
pub(crate) const DRAIN: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    struct Slow(Duration);

    impl Session for Slow {
        async fn commit(&mut self, payload: &[u8]) -> Result<()> {
            assert_eq!(payload.len(), 64);
            tokio::time::sleep(self.0).await;
            Ok(())
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn work(stop: &AtomicBool, millis: u64) -> Work<'_> {
        let timing = Timing::from_now(Duration::from_millis(20), Duration::from_millis(millis));
        Work { timing, record_bytes: 64, stop }
    }

    #[test]
    fn sessions_run_side_by_side_and_latency_is_theirs() {
        let stop = AtomicBool::new(false);
        let sessions = (0..4).map(|_| Slow(Duration::from_millis(5))).collect();
        let recorder = runtime().block_on(run_sessions(sessions, &work(&stop, 100))).unwrap();
        // Four clients at 5 ms each are 80 at most in 100 ms; a busy machine gives less.
        assert!((8..=84).contains(&recorder.acked), "{}", recorder.acked);
        assert!(recorder.latency_ns.min() >= 4_900_000);
    }

    #[test]
    fn ctrl_c_ends_sessions_that_never_end() {
        let stop = AtomicBool::new(true);
        let sessions = vec![Slow(Duration::from_secs(3600))];
        let began = Instant::now();
        let error = runtime().block_on(run_sessions(sessions, &work(&stop, 60_000))).unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn threads_and_floods_count_what_was_acknowledged_while_measuring() {
        let stop = AtomicBool::new(false);
        let calls = std::sync::atomic::AtomicU64::new(0);
        let commit = |_: usize, _: &[u8]| {
            calls.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(2));
            Ok(())
        };
        let recorder = run_threads(3, &work(&stop, 60), commit).unwrap();
        assert!(recorder.acked > 0 && recorder.acked < calls.load(Ordering::Relaxed));
        let mut count = 0u64;
        let flooded = flood(&work(&stop, 30), |_| {
            count += 1;
            Ok(())
        })
        .unwrap();
        assert!(flooded.acked > 0 && flooded.acked < count, "{} of {count}", flooded.acked);
    }
}

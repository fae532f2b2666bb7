//! What the other systems are loaded with: closed loops, in which every client has one request outstanding and issues
//! the next when it is acknowledged. Times, records and recorders are those of `towline-bench`.
//!
//! Latency is from the moment a request is issued until its acknowledgement is seen, for every system alike.

use anyhow::{Context, Result, bail};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use towline_bench::load::{DRAIN, Payloads, Recorder, Timing, Work};
use towline_report::environment::CpuTimes;

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
    if let Some(reason) = &recorder.reason {
        bail!("{} appends were not acknowledged: {reason}", recorder.indeterminate);
    }
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
    let local = tokio::task::LocalSet::new();
    let mut tasks = Vec::new();
    for (client, mut session) in sessions.into_iter().enumerate() {
        let mut payloads = Payloads::of_size(work.record_bytes, (client as u64) << 40);
        tasks.push(local.spawn_local(async move {
            let mut recorder = Recorder::new();
            loop {
                let since = Instant::now();
                if since >= timing.until {
                    return Ok::<_, anyhow::Error>(recorder);
                }
                session.commit(payloads.next()).await?;
                recorder.seen(&timing, since, Instant::now());
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

#[cfg(test)]
mod tests {
    use super::*;
    use towline::Level;

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
        Work { level: Level::On, window: None, record_bytes: 64, sizes: None, trim: false, timing, stop }
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
}

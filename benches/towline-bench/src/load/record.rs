//! What a generator keeps of its acknowledgements; one per thread, merged afterwards.

use super::Timing;
use super::parts::Parts;
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};
use towline_core::format::Committed;
use towline_core::types::{Level, Window};

/// Counts and histograms of one generator thread.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// From the (intended) start of an append to its acknowledgement as the client saw it, ns.
    pub latency_ns: Histogram<u64>,
    /// Payload bytes past the safe LSN at each windowed acknowledgement.
    pub fill_bytes: Histogram<u64>,
    /// Open loop: how much later than intended, or than the log had room, an append was made, ns.
    pub lag_ns: Histogram<u64>,
    /// Open loop: appends were left out though the log had room.
    pub left_out_with_room: bool,
    /// Acknowledgements seen while measuring.
    pub acked: u64,
    /// Appends that were due while measuring, open loop.
    pub offered: u64,
    /// Tickets that waited for their window.
    pub waited_for_window: u64,
    /// Acknowledgements by the level achieved, weakest first.
    pub achieved: [u64; 5],
    /// Acknowledgements of a finite window whose fill was larger: a broken promise.
    pub beyond_window: u64,
    /// Tickets that ended as indeterminate.
    pub indeterminate: u64,
    /// The first of those reasons.
    pub reason: Option<String>,
    /// Each latency with the time since measuring began at which its append was due, ns, where that is asked for.
    pub trace: Option<Vec<(u64, u64)>>,
    /// A mixed stream: what the records at the strong level saw; the rest is here.
    pub strong: Option<Box<Recorder>>,
    /// The latencies by the part of the measured time in which their appends were due.
    pub(crate) parts: Option<Parts>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            latency_ns: new_histogram(),
            fill_bytes: new_histogram(),
            lag_ns: new_histogram(),
            left_out_with_room: false,
            acked: 0,
            offered: 0,
            waited_for_window: 0,
            achieved: [0; 5],
            beyond_window: 0,
            indeterminate: 0,
            reason: None,
            trace: None,
            strong: None,
            parts: Some(Parts::new()),
        }
    }

    /// Keeps each latency beside the histogram, with when it was due.
    pub(crate) fn traced(mut self) -> Self {
        self.trace = Some(Vec::new());
        self
    }

    /// Records an acknowledgement of an append that started at `since`, seen at `now`.
    pub fn ack(&mut self, timing: &Timing, since: Instant, now: Instant, outcome: Result<Committed, String>) {
        let committed = match outcome {
            Ok(committed) => committed,
            Err(reason) => {
                self.indeterminate += 1;
                self.reason.get_or_insert(reason);
                return;
            }
        };
        if !self.seen(timing, since, now) {
            return;
        }
        self.achieved[committed.level as usize] += 1;
        if let Some(parts) = &mut self.parts {
            parts.record(timing, since, now);
        }
        if let Some(trace) = &mut self.trace {
            trace.push((nanos(since - timing.measure_from), nanos(now - since)));
        }
        if committed.window.is_some() {
            self.fill_bytes.saturating_record(committed.fill_bytes);
            self.waited_for_window += u64::from(committed.waited_for_window);
        }
        if let Some(Window::Bytes(window_bytes)) = committed.window {
            self.beyond_window += u64::from(committed.fill_bytes > window_bytes);
        }
    }

    /// Records an acknowledgement of whatever kind. Says whether its latency counts.
    pub fn seen(&mut self, timing: &Timing, since: Instant, now: Instant) -> bool {
        self.acked += u64::from(timing.counts(now));
        // By its start: an append made in time and acknowledged late is what a percentile is for.
        let counts = timing.counts(since);
        if counts {
            self.latency_ns.saturating_record(nanos(now - since));
        }
        counts
    }

    /// Records a latency of `off`, where the append itself is the acknowledgement.
    pub fn off(&mut self, latency: Duration) {
        self.latency_ns.saturating_record(nanos(latency));
    }

    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        // All histograms here have the same bounds, so adding cannot fail.
        let _ = self.latency_ns.add(&other.latency_ns);
        let _ = self.fill_bytes.add(&other.fill_bytes);
        let _ = self.lag_ns.add(&other.lag_ns);
        self.left_out_with_room |= other.left_out_with_room;
        self.acked += other.acked;
        self.offered += other.offered;
        self.waited_for_window += other.waited_for_window;
        for level in Level::ALL {
            self.achieved[level as usize] += other.achieved[level as usize];
        }
        self.beyond_window += other.beyond_window;
        self.indeterminate += other.indeterminate;
        self.reason = self.reason.take().or_else(|| other.reason.clone());
        if let (Some(trace), Some(more)) = (&mut self.trace, &other.trace) {
            trace.extend(more);
        }
        if let (Some(parts), Some(more)) = (&mut self.parts, &other.parts) {
            parts.merge(more);
        }
    }

    /// Whether an open load was really offered: appends were made when they were due, or as soon as the log had room,
    /// not when the generator had time. Nine tenths within a millisecond, or within a fifth of the latency's p90, and
    /// none left out while there was room.
    pub(crate) fn kept_up(&self) -> bool {
        let lag_ns = self.lag_ns.value_at_quantile(0.9);
        let negligible_ns = self.latency_ns.value_at_quantile(0.9) / 5;
        !self.left_out_with_room && lag_ns <= MAX_LAG_P90_NS.max(negligible_ns)
    }

    /// Whether the log acknowledged what was offered, a queue at the end apart.
    pub(crate) fn took_it(&self) -> bool {
        self.acked as f64 >= 0.97 * self.offered as f64
    }
}

/// 1 ns to 60 s, three digits.
pub(crate) fn new_histogram() -> Histogram<u64> {
    // The bounds are constants that the library accepts: 1 ≤ low, 2 × low ≤ high, digits ≤ 5.
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("constant bounds are valid")
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1)
}

/// More than a tenth of the appends later than this, and the generator may have been the bottleneck.
const MAX_LAG_P90_NS: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use towline_core::types::Lsn;

    fn committed(window: Option<Window>, fill_bytes: u64) -> Committed {
        Committed {
            lsn: Lsn(0),
            end: Lsn(8),
            level: Level::On,
            window,
            rule_version: 1,
            fill_bytes,
            waited_for_window: fill_bytes > 0,
        }
    }

    #[test]
    fn warm_up_is_left_out_and_a_late_acknowledgement_is_kept() {
        let timing = Timing::from_now(Duration::from_millis(100), Duration::from_millis(100));
        let at = |ms| timing.start + Duration::from_millis(ms);
        let mut recorder = Recorder::new();
        recorder.ack(&timing, at(50), at(150), Ok(committed(None, 0)));
        assert_eq!((recorder.acked, recorder.latency_ns.len()), (1, 0));
        recorder.ack(&timing, at(150), at(250), Ok(committed(None, 0)));
        assert_eq!((recorder.acked, recorder.latency_ns.len()), (1, 1));
        assert!(recorder.latency_ns.max().abs_diff(100_000_000) < 100_000);
    }

    #[test]
    fn a_load_is_refused_when_a_tenth_of_it_was_late_unless_its_latencies_dwarf_that() {
        let recorder = |lag_ns: u64, latency_ns: u64| {
            let mut recorder = Recorder::new();
            for n in 0..100 {
                recorder.lag_ns.saturating_record(if n < 85 { 100 } else { lag_ns });
                recorder.latency_ns.saturating_record(latency_ns);
            }
            recorder
        };
        assert!(recorder(900_000, 100_000).kept_up());
        assert!(!recorder(2_000_000, 5_000_000).kept_up());
        assert!(recorder(2_000_000, 50_000_000).kept_up());
        assert!(!Recorder { left_out_with_room: true, ..recorder(100, 100) }.kept_up());
    }

    #[test]
    fn fills_waits_broken_windows_and_lost_tickets_are_counted_and_merged() {
        let timing = Timing::from_now(Duration::ZERO, Duration::from_secs(9));
        let mut one = Recorder::new();
        let now = Instant::now();
        one.ack(&timing, now, now, Ok(committed(Some(Window::Bytes(100)), 100)));
        one.ack(&timing, now, now, Ok(committed(Some(Window::Bytes(100)), 101)));
        one.ack(&timing, now, now, Ok(committed(None, 999)));
        let mut two = Recorder::new();
        two.ack(&timing, now, now, Err("gone".into()));
        one.merge(&two);
        assert_eq!((one.fill_bytes.len(), one.fill_bytes.max()), (2, 101));
        assert_eq!((one.waited_for_window, one.beyond_window, one.indeterminate), (2, 1, 1));
        assert_eq!(one.achieved[Level::On as usize], 3);
        assert_eq!(one.reason.as_deref(), Some("gone"));
    }
}

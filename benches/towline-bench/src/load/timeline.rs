//! Every record timed at every watermark: what a generator looks at between its polls, and what it makes of it.
//!
//! A look costs a few loads and a reading of the clock; histograms are filled after the load has ended.

use super::{Target, Timing};
use crate::load::record::{nanos, new_histogram};
use crate::rule::Quorum;
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};
use towline_core::types::limits::MAX_STANDBYS;
use towline_core::types::{Level, Lsn};

/// What a closed loop tells about each append, and when it has time for a look.
pub(crate) trait Onlooker<T> {
    /// An append has just returned.
    fn appended(&mut self, shard: usize, since: Instant, end: Option<Lsn>);
    /// Between two polls.
    fn look(&mut self, target: &T);
}

/// Nobody looks.
impl<T> Onlooker<T> for () {
    #[inline]
    fn appended(&mut self, _: usize, _: Instant, _: Option<Lsn>) {}
    #[inline]
    fn look(&mut self, _: &T) {}
}

/// The watermarks of one shard: batched and flushed on the primary, then written, flushed and applied of each standby.
pub(crate) const OWN_MARKS: usize = 2;
/// Of one standby.
pub(crate) const STANDBY_MARKS: usize = 3;
/// Of a shard with as many standbys as can be.
pub(crate) const MAX_MARKS: usize = OWN_MARKS + STANDBY_MARKS * MAX_STANDBYS;

/// Times records; used for one slice of load after the other.
pub(crate) struct Tracker {
    timing: Timing,
    marks: usize,
    shards: Vec<Track>,
    look_every_ns: Histogram<u64>,
    last_look: Instant,
    left_out: u64,
}

struct Track {
    records: Vec<Timed>,
    /// For each record, for each watermark: when it was reached.
    after_ns: Vec<u32>,
    /// For each watermark: records that it has reached.
    reached: Vec<usize>,
    seen: Vec<Lsn>,
}

#[derive(Clone)]
struct Timed {
    since: Instant,
    end: Lsn,
    accepted_ns: u32,
}

impl Tracker {
    /// For `standbys` standbys on each of `shards` logs.
    pub(crate) fn new(shards: usize, standbys: usize) -> Self {
        let marks = OWN_MARKS + STANDBY_MARKS * standbys.min(MAX_STANDBYS);
        let now = Instant::now();
        let track = || {
            // Touched once here: the first records must not pay for fresh pages.
            let mut records = vec![Timed { since: now, end: Lsn(0), accepted_ns: 0 }; CAPACITY / shards];
            records.clear();
            let after_ns = vec![0; CAPACITY / shards * marks];
            Track { records, after_ns, reached: vec![0; marks], seen: vec![Lsn(0); marks] }
        };
        Self {
            timing: Timing::from_now(Duration::ZERO, Duration::ZERO),
            marks,
            shards: (0..shards).map(|_| track()).collect(),
            look_every_ns: new_histogram(),
            last_look: now,
            left_out: 0,
        }
    }

    /// Forgets the last slice; records that start while `timing` measures are timed.
    pub(crate) fn begin(&mut self, timing: Timing) {
        self.timing = timing;
        self.last_look = Instant::now();
        for track in &mut self.shards {
            track.records.clear();
            track.reached.fill(0);
        }
    }

    /// After the load: looks on until every record has reached every watermark, or nothing more comes.
    pub(crate) fn finish<T: Target>(&mut self, target: &T) {
        let deadline = Instant::now() + LAST_MARKS;
        while Instant::now() < deadline && self.shards.iter().any(|track| !track.is_whole()) {
            self.look(target);
            std::thread::yield_now();
        }
    }

    /// Adds what this slice saw to `all`.
    pub(crate) fn fold(&self, all: &mut Stages, quorum: Option<&Quorum>) {
        for track in &self.shards {
            let whole = track.reached.iter().copied().min().unwrap_or(0);
            all.left_out += (track.records.len() - whole) as u64;
            for (record, after) in track.records[..whole].iter().zip(track.after_ns.chunks_exact(self.marks))
            {
                all.add(record.accepted_ns, after, quorum);
            }
        }
        all.left_out += self.left_out;
        let _ = all.look_every_ns.add(&self.look_every_ns);
    }
}

impl<T: Target> Onlooker<T> for Tracker {
    fn appended(&mut self, shard: usize, since: Instant, end: Option<Lsn>) {
        if !self.timing.counts(since) {
            return;
        }
        let track = &mut self.shards[shard];
        match end {
            Some(end) if track.records.len() * self.marks < track.after_ns.len() => {
                track.records.push(Timed { since, end, accepted_ns: short(since.elapsed()) });
            }
            _ => self.left_out += 1,
        }
    }

    fn look(&mut self, target: &T) {
        let now = Instant::now();
        if self.timing.counts(now) {
            self.look_every_ns.saturating_record(nanos(now - self.last_look));
        }
        self.last_look = now;
        let mut marks = [Lsn(0); MAX_MARKS];
        for (shard, track) in self.shards.iter_mut().enumerate() {
            target.watermarks(shard, &mut marks[..self.marks]);
            track.moved(&marks[..self.marks], now);
        }
    }
}

impl Track {
    fn moved(&mut self, marks: &[Lsn], now: Instant) {
        let width = marks.len();
        for (mark, lsn) in marks.iter().enumerate() {
            if *lsn <= self.seen[mark] {
                continue;
            }
            self.seen[mark] = *lsn;
            let reached = &mut self.reached[mark];
            while let Some(record) = self.records.get(*reached).filter(|record| record.end <= *lsn) {
                self.after_ns[*reached * width + mark] = short(now.saturating_duration_since(record.since));
                *reached += 1;
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.reached.iter().all(|reached| *reached == self.records.len())
    }
}

/// Times of all records, by watermark and by level.
#[derive(Clone)]
pub(crate) struct Stages {
    pub(crate) accepted_ns: Histogram<u64>,
    /// In the order of [`OWN_MARKS`] and [`STANDBY_MARKS`].
    pub(crate) marks_ns: Vec<Histogram<u64>>,
    /// When each level would have acknowledged, weakest first; remote ones without a rule as `local`.
    pub(crate) levels_ns: [Histogram<u64>; 5],
    pub(crate) look_every_ns: Histogram<u64>,
    pub(crate) left_out: u64,
}

impl Stages {
    pub(crate) fn new(standbys: usize) -> Self {
        Self {
            accepted_ns: new_histogram(),
            marks_ns: vec![new_histogram(); OWN_MARKS + STANDBY_MARKS * standbys],
            levels_ns: std::array::from_fn(|_| new_histogram()),
            look_every_ns: new_histogram(),
            left_out: 0,
        }
    }

    fn add(&mut self, accepted_ns: u32, after_ns: &[u32], quorum: Option<&Quorum>) {
        self.accepted_ns.saturating_record(u64::from(accepted_ns.max(1)));
        for (histogram, after) in self.marks_ns.iter_mut().zip(after_ns) {
            histogram.saturating_record(u64::from((*after).max(1)));
        }
        let flushed = after_ns.get(1).copied().unwrap_or(accepted_ns);
        for level in Level::ALL {
            let after = match level {
                Level::Off => accepted_ns,
                Level::Local => flushed,
                _ => {
                    let stage = level as usize - Level::RemoteWrite as usize;
                    let of =
                        |standby: usize| after_ns.get(OWN_MARKS + STANDBY_MARKS * standby + stage).copied();
                    quorum.and_then(|quorum| quorum.reached(of)).map_or(flushed, |safe| safe.max(flushed))
                }
            };
            self.levels_ns[level as usize].saturating_record(u64::from(after.max(1)));
        }
    }
}

fn short(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX)
}

/// Records of one slice, over all shards.
const CAPACITY: usize = 1 << 18;
/// A standby applies within a few milliseconds; one that hangs must not hang the run.
const LAST_MARKS: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    const STANDBYS: usize = 2;
    const WIDTH: usize = OWN_MARKS + STANDBY_MARKS * STANDBYS;

    /// All marks at `lsn`, those in `but` lower.
    fn marks(lsn: u64, but: &[(usize, u64)]) -> Vec<Lsn> {
        let mut marks = vec![Lsn(lsn); WIDTH];
        but.iter().for_each(|(mark, lower)| marks[*mark] = Lsn(*lower));
        marks
    }

    #[test]
    fn a_record_is_timed_when_a_watermark_has_passed_its_end_and_levels_follow_the_rule() {
        let mut tracker = Tracker::new(1, STANDBYS);
        let timing = Timing::from_now(Duration::ZERO, Duration::from_secs(9));
        tracker.begin(timing);
        let start = timing.start;
        let track = &mut tracker.shards[0];
        for end in [100, 200] {
            track.records.push(Timed { since: start, end: Lsn(end), accepted_ns: 50 });
        }
        let at = |us| start + Duration::from_micros(us);
        // Only the first record; then the second, standby b's flushed and applied (marks 6 and 7) last.
        track.moved(&marks(199, &[]), at(100));
        track.moved(&marks(200, &[(6, 150), (7, 150)]), at(200));
        assert!(!track.is_whole());
        track.moved(&marks(200, &[(7, 150)]), at(300));
        track.moved(&marks(200, &[]), at(400));
        assert!(track.is_whole());
        let p100 = |text: &str| {
            let names = ["a".to_owned(), "b".to_owned()];
            let mut all = Stages::new(STANDBYS);
            tracker.fold(&mut all, crate::rule::parse(text, &names).ok().as_ref());
            assert_eq!(all.left_out, 0);
            Level::ALL.map(|level| (all.levels_ns[level as usize].max() as f64 / 1e3).round() as u64)
        };
        assert_eq!(p100("ANY 1 (a, b)"), [0, 200, 200, 200, 200]);
        assert_eq!(p100("ANY 2 (a, b)"), [0, 200, 200, 300, 400]);
        assert_eq!(p100("FIRST 1 (b, a)"), [0, 200, 200, 300, 400]);
    }

    #[test]
    fn what_is_not_seen_at_every_watermark_is_left_out_and_counted() {
        let mut tracker = Tracker::new(1, STANDBYS);
        tracker.begin(Timing::from_now(Duration::ZERO, Duration::from_secs(9)));
        let now = Instant::now();
        let track = &mut tracker.shards[0];
        for end in [100, 200] {
            track.records.push(Timed { since: now, end: Lsn(end), accepted_ns: 1 });
        }
        track.moved(&marks(200, &[(4, 100)]), now);
        let mut all = Stages::new(STANDBYS);
        tracker.fold(&mut all, None);
        assert_eq!((all.left_out, all.accepted_ns.len(), all.marks_ns[4].len()), (1, 1, 1));
    }
}

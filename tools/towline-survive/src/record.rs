//! What a run leaves behind: `survive.json`.

use serde::{Deserialize, Serialize};
use towline::Window;

use crate::failure::Failure;
use crate::predict::Promise;
use crate::reads::ReadResult;
use crate::row::Row;
use crate::scene::Played;
use crate::soak::SoakResult;

/// A run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SurviveReport {
    /// Of this format.
    pub version: u32,
    /// When it began, RFC 3339, UTC.
    pub began: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Decides the moments and what the cuts keep.
    pub seed: u64,
    /// Clusters that ran at the same time.
    pub lanes: usize,
    /// Appends a second that each cluster was offered.
    pub rate_per_s: f64,
    /// The machine: kernel, processors.
    pub machine: String,
    /// The version of the program.
    pub program: String,
    /// The commit of its code, where it was run in a checkout.
    #[serde(default)]
    pub commit: String,
    /// Model of the processor.
    #[serde(default)]
    pub cpu: String,
    /// Cores that the run might use.
    #[serde(default)]
    pub cores: u32,
    /// Whether it was interrupted: then cells are missing.
    pub interrupted: bool,
    /// What gave it up before its end, and where: then cells are missing.
    #[serde(default)]
    pub broken_off: Option<String>,
    /// Each row × failure.
    pub cells: Vec<CellResult>,
    /// Reads on a standby after an acknowledgement.
    pub reads: Vec<ReadResult>,
    /// Windows of many sizes, each under losses of the primary with its disk.
    pub windows: Vec<CellResult>,
    /// A long run.
    pub soak: Option<SoakResult>,
}

impl SurviveReport {
    /// Whether nothing came to its end.
    pub(crate) fn is_empty(&self) -> bool {
        let rounds = self.soak.as_ref().map_or(0, |soak| soak.rounds);
        self.cells.is_empty() && self.windows.is_empty() && self.reads.is_empty() && rounds == 0
    }

    /// Why something is missing; empty where nothing is.
    pub(crate) fn incomplete(&self) -> String {
        match &self.broken_off {
            Some(why) => format!("given up, the rest is missing: {why}"),
            None if self.interrupted => "interrupted, the rest is missing".to_owned(),
            None => String::new(),
        }
    }

    /// Every verdict of the run.
    pub fn verdicts(&self) -> impl Iterator<Item = Verdict> + '_ {
        let cells = self.cells.iter().chain(&self.windows).map(|cell| cell.verdict);
        let soak = self.soak.iter().map(SoakResult::verdict);
        cells.chain(self.reads.iter().map(|read| read.verdict)).chain(soak)
    }
}

/// How a cell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As predicted.
    Passed,
    /// A promise was broken, or the cluster did not come back.
    Failed,
    /// A loss is due and none was seen, or a long run did not play what it is for: nothing was shown.
    NotShown,
}

impl Verdict {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "FAILED",
            Verdict::NotShown => "not shown",
        }
    }
}

/// One row under one failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellResult {
    /// What the appends asked for.
    pub row: Row,
    /// What went wrong.
    pub failure: Failure,
    /// What SEMANTICS.md says.
    pub promise: Promise,
    /// How it ended.
    pub verdict: Verdict,
    /// How often it was played.
    pub runs: u64,
    /// How many of them lost something.
    pub losing_runs: u64,
    /// Appends, in all runs.
    pub sent: u64,
    /// Those that were acknowledged.
    pub acked: u64,
    /// Those whose outcome nobody knows.
    pub indeterminate: u64,
    /// Acknowledged records that are gone, in all runs.
    pub lost: u64,
    /// The largest loss of one run: by its share of the window where one binds, else by its records.
    pub largest: Loss,
    /// How much each run lost, in their order: the span in the unit of the window, payload bytes where none binds.
    #[serde(default)]
    pub loss_sizes: Vec<u64>,
    /// Median time from when an append was due to its acknowledgement, before the failure, in microseconds. Other
    /// clusters ran beside it: for the order of the levels, not as a benchmark.
    pub p50_us: f64,
    /// The 99th percentile of the same.
    pub p99_us: f64,
    /// What was wrong.
    pub notes: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// What one run lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// Acknowledged records.
    pub records: u64,
    /// Their payload bytes.
    pub payload_bytes: u64,
    /// Payload bytes from the first of them to the last, others between them included.
    pub span_bytes: u64,
    /// Records of that span.
    pub span_records: u64,
    /// Spread of the times at which they were sent, in microseconds.
    pub spread_us: u64,
    /// The span as a share of the window; 0 without one.
    pub window_share: f64,
}

impl CellResult {
    pub(crate) fn new(row: &Row, failure: Failure, promise: Promise) -> CellResult {
        CellResult {
            row: row.clone(),
            failure,
            promise,
            verdict: Verdict::NotShown,
            runs: 0,
            losing_runs: 0,
            sent: 0,
            acked: 0,
            indeterminate: 0,
            lost: 0,
            largest: Loss::default(),
            loss_sizes: Vec::new(),
            p50_us: 0.0,
            p99_us: 0.0,
            notes: Vec::new(),
            seconds: 0.0,
        }
    }

    /// Adds a run that came to its end.
    pub(crate) fn add(&mut self, played: &Played) {
        let judged = &played.judgement;
        self.runs += 1;
        self.losing_runs += u64::from(judged.lost > 0);
        self.sent += judged.sent;
        self.acked += judged.acked;
        self.indeterminate += judged.indeterminate;
        self.lost += judged.lost;
        let share = self
            .row
            .bound()
            .map_or(0.0, |window| judged.span_in(window) as f64 / size_of_window(window).max(1) as f64);
        self.loss_sizes.push(self.row.bound().map_or(judged.lost_bytes, |window| judged.span_in(window)));
        // What counts is how near it comes to the window; without one, all shares are 0.
        if (share, judged.lost) > (self.largest.window_share, self.largest.records) {
            self.largest = Loss {
                records: judged.lost,
                payload_bytes: judged.lost_bytes,
                span_bytes: judged.span.payload_bytes,
                span_records: judged.span.records,
                spread_us: judged.span.accepted_spread_ns / 1000,
                window_share: share,
            };
        }
        let broken = match self.promise {
            Promise::Zero => (judged.lost > 0).then(String::new),
            Promise::Within(window) => {
                judged.surest_span().check(window).map(|violation| format!(": {}", violation.detail))
            }
            Promise::Latest(micros) => {
                let lost = judged.surest_span().check(Window::Micros(micros));
                lost.map(|violation| format!(": {}", violation.detail))
            }
            Promise::Loses => None,
        };
        if let Some(why) = broken {
            let (lost, promise) = (judged.lost, self.promise);
            self.notes.push(format!("{lost} acknowledged records are gone; the promise is {promise}{why}"));
        }
        self.notes.extend(judged.anomalies.iter().take(NOTES).cloned());
        let percentile = |share: f64| {
            let at = (played.latencies_ns.len() as f64 * share) as usize;
            played.latencies_ns.get(at).map_or(0.0, |ns| *ns as f64 / 1000.0)
        };
        if self.runs == 1 {
            (self.p50_us, self.p99_us) = (percentile(0.5), percentile(0.99));
        }
        self.conclude();
    }

    /// The median of what its runs lost, in the unit of [`Self::loss_sizes`].
    pub fn median_loss(&self) -> Option<u64> {
        let mut sizes = self.loss_sizes.clone();
        sizes.sort_unstable();
        sizes.get(sizes.len() / 2).copied()
    }

    /// Adds a run that did not come to its end.
    pub(crate) fn add_failure(&mut self, why: String) {
        self.runs += 1;
        self.notes.push(why);
        self.conclude();
    }

    fn conclude(&mut self) {
        self.verdict = if !self.notes.is_empty() {
            Verdict::Failed
        } else if self.promise == Promise::Zero || self.losing_runs > 0 {
            Verdict::Passed
        } else {
            Verdict::NotShown
        };
    }
}

/// A window's number, in its unit.
pub(crate) fn size_of_window(window: Window) -> u64 {
    match window {
        Window::Bytes(size) | Window::Records(size) | Window::Micros(size) => size,
        Window::Infinite => u64::MAX,
    }
}

const NOTES: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Judgement;
    use towline::Level;

    fn played(lost: u64) -> Played {
        let mut judgement = Judgement { acked: 100, lost, ..Judgement::default() };
        judgement.span.records = lost;
        Played { judgement, latencies_ns: vec![1000, 2000, 3000] }
    }

    fn cell(promise: Promise, window: Option<Window>) -> CellResult {
        CellResult::new(&Row::new("row", Level::On, window), Failure::PrimaryKill, promise)
    }

    #[test]
    fn a_verdict_holds_in_both_directions() {
        let window = Window::Records(10);
        let cases = [
            (Promise::Zero, None, 0, Verdict::Passed),
            (Promise::Zero, None, 1, Verdict::Failed),
            (Promise::Loses, None, 0, Verdict::NotShown),
            (Promise::Loses, None, 7, Verdict::Passed),
            (Promise::Within(window), Some(window), 0, Verdict::NotShown),
            (Promise::Within(window), Some(window), 10, Verdict::Passed),
            (Promise::Within(window), Some(window), 11, Verdict::Failed),
        ];
        for (promise, window, lost, verdict) in cases {
            let mut cell = cell(promise, window);
            cell.add(&played(lost));
            assert_eq!(cell.verdict, verdict, "{promise:?} {lost}");
        }
    }

    #[test]
    fn the_size_of_each_loss_is_kept_in_the_unit_of_the_window() {
        let window = Window::Records(10);
        let mut windowed = cell(Promise::Within(window), Some(window));
        [4, 0, 9].map(played).iter().for_each(|played| windowed.add(played));
        assert_eq!((windowed.loss_sizes.as_slice(), windowed.median_loss()), ([4, 0, 9].as_slice(), Some(4)));
        let mut endless = cell(Promise::Loses, Some(Window::Infinite));
        let mut loss = played(3);
        loss.judgement.lost_bytes = 300;
        endless.add(&loss);
        assert_eq!(endless.median_loss(), Some(300), "payload bytes where no window binds");
    }

    #[test]
    fn the_largest_loss_is_the_one_nearest_to_its_window() {
        let window = Window::Bytes(1000);
        let of = |lost: u64, span_bytes: u64| {
            let mut played = played(lost);
            played.judgement.span.payload_bytes = span_bytes;
            played
        };
        // Few large records, then many small ones over less of the window.
        let runs = [of(2, 990), of(30, 700), of(5, 800)];
        let mut windowed = cell(Promise::Within(window), Some(window));
        runs.iter().for_each(|played| windowed.add(played));
        assert_eq!((windowed.largest.window_share, windowed.largest.records), (0.99, 2));
        let mut plain = cell(Promise::Loses, None);
        runs.iter().for_each(|played| plain.add(played));
        assert_eq!(plain.largest.records, 30, "without a window by what is gone");
    }

    #[test]
    fn a_window_of_time_is_held_against_the_spread_that_is_sure() {
        let window = Window::Micros(20_000);
        for (sure_ns, verdict) in [(20_000_000, Verdict::Passed), (20_000_001, Verdict::Failed)] {
            let mut loss = played(9);
            loss.judgement.span.lost = 9;
            // When they were sent says less: they may have waited.
            loss.judgement.span.accepted_spread_ns = 90_000_000;
            loss.judgement.least_spread_ns = sure_ns;
            let mut cell = cell(Promise::Within(window), Some(window));
            cell.add(&loss);
            assert_eq!(cell.verdict, verdict, "{sure_ns}: {:?}", cell.notes);
        }
    }

    #[test]
    fn what_off_loses_is_the_latest_only() {
        let promise = Promise::Latest(150_000);
        for (lost, sure_ns, verdict) in
            [(0, 0, Verdict::NotShown), (9, 150_000_000, Verdict::Passed), (9, 151_000_000, Verdict::Failed)]
        {
            let mut loss = played(lost);
            loss.judgement.span.lost = lost;
            loss.judgement.least_spread_ns = sure_ns;
            let mut cell = cell(promise, None);
            cell.add(&loss);
            assert_eq!(cell.verdict, verdict, "{lost} over {sure_ns} ns: {:?}", cell.notes);
        }
    }

    #[test]
    fn a_run_that_failed_is_not_forgotten_by_a_later_one() {
        let mut cell = cell(Promise::Zero, None);
        cell.add_failure("did not come back".to_owned());
        cell.add(&played(0));
        assert_eq!((cell.verdict, cell.runs), (Verdict::Failed, 2));
    }
}

//! The long run: clusters under load, one trouble after the other until time is up, and in the end of each round every
//! record against every acknowledgement.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::draw::{self, Round, promises_all};
use crate::error::SurviveError;
use crate::failure::Failure;
use crate::matrix::{Broken, lock};
use crate::predict::{Promise, predict};
use crate::progress::Progress;
use crate::record::{CellResult, Loss, Verdict};
use crate::row::Row;
use crate::scene::{HIGH_RATE_PER_S, Played, play_many};

/// What a long run showed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SoakResult {
    /// Clusters that were made.
    pub rounds: u64,
    /// Failures that were made to happen, of all kinds, in clusters that came to their end.
    pub faults: u64,
    /// The same by kind.
    pub by_failure: BTreeMap<String, u64>,
    /// Acknowledged records.
    pub acked: u64,
    /// Acknowledged at `on` or above, without a window, and lost where the level survives.
    pub lost_at_on_and_above: u64,
    /// Doubled, changed, out of order, or weaker than asked for, at any level.
    pub anomalies: u64,
    /// What a long run has to show and this one did not: then it is not shown, whatever it kept.
    #[serde(default)]
    pub missing: Vec<String>,
    /// By row.
    pub rows: Vec<SoakRow>,
}

/// One row of a long run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SoakRow {
    /// What the appends asked for.
    pub row: Row,
    /// Clusters.
    pub rounds: u64,
    /// Acknowledged records.
    pub acked: u64,
    /// Acknowledged records that are gone.
    pub lost: u64,
    /// Rounds that lost something.
    pub losing_rounds: u64,
    /// The largest loss of one round.
    pub largest: Loss,
    /// Doubled, changed, out of order, or weaker than asked for.
    #[serde(default)]
    pub anomalies: u64,
    /// Broken promises, and rounds that did not come to their end.
    pub notes: Vec<String>,
    /// Their numbers.
    #[serde(default)]
    pub failed_rounds: Vec<u64>,
}

impl SoakRow {
    /// How its losses are to be read.
    pub fn verdict(&self) -> SoakVerdict {
        match () {
            () if !self.notes.is_empty() => SoakVerdict::Failed,
            () if self.lost == 0 => SoakVerdict::NothingLost,
            () if promises_all(&self.row) => SoakVerdict::CopiesGone,
            () if self.row.bound().is_some() => SoakVerdict::WithinWindow,
            () => SoakVerdict::LevelLoses,
        }
    }
}

/// How the losses of a row of a long run are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoakVerdict {
    /// A promise was broken, or a round did not come to its end.
    Failed,
    /// Nothing was lost.
    NothingLost,
    /// `on` or above: lost only where every copy that counted was gone.
    CopiesGone,
    /// Within the window, where that is promised.
    WithinWindow,
    /// A measured loss: the level does not survive what was done to it.
    LevelLoses,
}

impl SoakVerdict {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Failed => "FAILED",
            Self::NothingLost => "kept: nothing lost",
            Self::CopiesGone => "kept: lost only where every copy that counted was gone",
            Self::WithinWindow => "kept: within the window where it binds",
            Self::LevelLoses => "measured: the level does not survive this",
        }
    }
}

impl SoakResult {
    /// Passed: no promise was broken, and all that a long run is for was played.
    pub fn verdict(&self) -> Verdict {
        match () {
            () if self.rows.iter().any(|row| !row.notes.is_empty()) => Verdict::Failed,
            () if !self.missing.is_empty() => Verdict::NotShown,
            () => Verdict::Passed,
        }
    }
}

/// Plays one round of a long run again.
pub(crate) fn replay(context: &Context, seed: u64, number: u64) -> (SoakResult, Option<Broken>) {
    let total = Mutex::new(Tally::default());
    let broken = play_round(context, seed, number, &total).err().flatten();
    (total.into_inner().unwrap_or_else(PoisonError::into_inner).result(), broken)
}

/// Plays rounds until `time` is up, or the run is to stop, or cannot go on. `keep` gets what there is after the first
/// round and every minute: nobody can ask a killed run for its hour.
pub(crate) fn soak(
    context: &Context,
    time: Duration,
    lanes: usize,
    seed: u64,
    keep: impl Fn(SoakResult) + Sync,
) -> (SoakResult, Option<Broken>) {
    let progress = Progress::new(time.as_secs(), "{elapsed_precise} of {len} s {bar:30} {msg}");
    let total = Mutex::new(Tally::default());
    let broken: Mutex<Option<Broken>> = Mutex::new(None);
    let next = AtomicU64::new(0);
    let next_keep = Mutex::new(Duration::ZERO);
    let lane = || {
        while progress.elapsed() < time && context.check().is_ok() && lock(&broken).is_none() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if let Err(trouble) = play_round(context, seed, number, &total) {
                let mut broken = lock(&broken);
                *broken = broken.take().or(trouble);
            }
            let (rounds, faults, acked) = {
                let now = &lock(&total).result;
                (now.rounds, now.faults, now.acked)
            };
            // Held while it is written: the lanes keep one after the other.
            let mut next_keep = lock(&next_keep);
            if rounds > 0 && progress.elapsed() >= *next_keep {
                *next_keep = progress.elapsed() + KEEP_EVERY;
                let so_far = lock(&total).clone().result();
                keep(SoakResult { missing: missing(&so_far), ..so_far });
            }
            drop(next_keep);
            progress.set(progress.elapsed().as_secs().min(time.as_secs()));
            progress.say(format!("{rounds} rounds, {faults} faults, {acked} acknowledged"), || {
                format!("{} s to go", time.saturating_sub(progress.elapsed()).as_secs())
            });
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..lanes.max(1) {
            scope.spawn(lane);
        }
    });
    progress.end();
    let broken = lock(&broken).take();
    let mut result = std::mem::take(&mut *lock(&total)).result();
    result.missing = missing(&result);
    (result, broken)
}

/// What all lanes add to.
#[derive(Clone, Default)]
struct Tally {
    result: SoakResult,
    rows: Vec<RowTally>,
}

#[derive(Clone)]
struct RowTally {
    cell: CellResult,
    anomalies: u64,
    failed_rounds: Vec<u64>,
}

impl Tally {
    fn row(&mut self, row: &Row) -> &mut RowTally {
        let at = self.rows.iter().position(|known| known.cell.row == *row).unwrap_or_else(|| {
            // Its rounds have failures and promises of their own.
            let cell = CellResult::new(row, Failure::PrimaryKill, Promise::Zero);
            self.rows.push(RowTally { cell, anomalies: 0, failed_rounds: Vec::new() });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    fn add(&mut self, round: &Round, number: u64, played: Result<Played, String>) {
        let Round { row, failures, .. } = round;
        self.result.rounds += 1;
        let tally = self.row(row);
        let before = tally.cell.notes.len();
        match played {
            Ok(played) => {
                let promise = promise_of(round);
                let (acked, lost) = (played.judgement.acked, played.judgement.lost);
                let strange = played.judgement.anomalies.len() as u64;
                tally.anomalies += strange;
                tally.cell.promise = promise;
                tally.cell.add(&played);
                self.result.faults += failures.len() as u64;
                for failure in failures {
                    *self.result.by_failure.entry(failure.name().to_owned()).or_default() += 1;
                }
                self.result.acked += acked;
                self.result.anomalies += strange;
                if promises_all(row) && promise == Promise::Zero {
                    self.result.lost_at_on_and_above += lost;
                }
            }
            Err(why) => tally.cell.add_failure(why),
        }
        let tally = self.row(row);
        if tally.cell.notes.len() > before {
            let names: Vec<&str> = failures.iter().map(|failure| failure.name()).collect();
            let place = format!("round {number} ({}): ", names.join(", "));
            tally.cell.notes[before..].iter_mut().for_each(|note| note.insert_str(0, &place));
            tally.failed_rounds.push(number);
        }
    }

    fn result(mut self) -> SoakResult {
        let order = draw::rows();
        self.rows.sort_by_key(|tally| order.iter().position(|listed| *listed == tally.cell.row));
        let rows = self.rows.into_iter().map(|RowTally { cell, anomalies, failed_rounds }| SoakRow {
            row: cell.row,
            rounds: cell.runs,
            acked: cell.acked,
            lost: cell.lost,
            losing_rounds: cell.losing_runs,
            largest: cell.largest,
            anomalies,
            notes: cell.notes,
            failed_rounds,
        });
        SoakResult { rows: rows.collect(), ..self.result }
    }
}

/// One cluster: several troubles that it recovers from, and often one that changes the leader. An error ends the run: a
/// trouble, or `None` for an interrupt.
fn play_round(context: &Context, seed: u64, number: u64, total: &Mutex<Tally>) -> Result<(), Option<Broken>> {
    let round = draw::round(seed, number);
    let played = match play_many(context, &round.row, &round.failures, round.seed, HIGH_RATE_PER_S) {
        Ok(played) => Ok(played),
        Err(error @ (SurviveError::Late(_) | SurviveError::Node { .. } | SurviveError::Client(_))) => {
            Err(error.to_string())
        }
        Err(error) => return Err(Broken::of(format!("round {number}"), error)),
    };
    lock(total).add(&round, number, played);
    Ok(())
}

/// The weakest of what is promised; a loss that is due in one of them may be there.
fn promise_of(round: &Round) -> Promise {
    let promises: Vec<Promise> = round.failures.iter().map(|failure| predict(&round.row, *failure)).collect();
    match promises.iter().find(|promise| **promise != Promise::Zero) {
        // The latest of several kills are not one after the other.
        Some(_) if promises.iter().any(|promise| matches!(promise, Promise::Loses | Promise::Latest(_))) => {
            Promise::Loses
        }
        Some(within) => *within,
        None => Promise::Zero,
    }
}

/// What a long run is for and was not played.
fn missing(result: &SoakResult) -> Vec<String> {
    let mut missing = Vec::new();
    if !result.rows.iter().any(|row| promises_all(&row.row) && row.acked > 0) {
        missing.push("nothing was acknowledged at on or above".to_owned());
    }
    let acked = |row: &Row| result.rows.iter().any(|played| played.row == *row && played.acked > 0);
    let rows: Vec<String> = draw::rows().into_iter().filter(|row| !acked(row)).map(|row| row.name).collect();
    if !rows.is_empty() {
        missing.push(format!("no cluster with {}", rows.join(", ")));
    }
    let kinds: Vec<&str> = Failure::ALL
        .into_iter()
        .map(Failure::name)
        .filter(|name| !result.by_failure.contains_key(*name))
        .collect();
    if !kinds.is_empty() {
        missing.push(format!("never a {}", kinds.join(", ")));
    }
    missing
}

const KEEP_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use towline::Level;

    use super::*;
    use crate::judge::Judgement;

    fn played(lost: u64) -> Result<Played, String> {
        let judgement = Judgement { acked: 500, lost, ..Judgement::default() };
        Ok(Played { judgement, ..Played::default() })
    }

    /// Rounds of a run, all to their end, but those that `fails` names.
    fn result(rounds: u64, fails: impl Fn(u64) -> Option<Result<Played, String>>) -> SoakResult {
        let mut total = Tally::default();
        for number in 0..rounds {
            total.add(&draw::round(3, number), number, fails(number).unwrap_or_else(|| played(0)));
        }
        let result = total.result();
        SoakResult { missing: missing(&result), ..result }
    }

    #[test]
    fn a_run_that_did_not_play_what_it_is_for_shows_nothing() {
        let whole = result(15, |_| None);
        assert_eq!((whole.missing.as_slice(), whole.verdict()), ([].as_slice(), Verdict::Passed));
        let short = result(2, |_| None);
        assert_eq!(short.verdict(), Verdict::NotShown);
        assert!(short.missing.iter().any(|what| what.starts_with("never a ")), "{:?}", short.missing);
        let mut weak = whole;
        weak.rows.retain(|row| row.row.level < Level::On);
        assert!(missing(&weak)[0].contains("at on or above"), "{:?}", missing(&weak));
        assert_eq!(result(0, |_| None).verdict(), Verdict::NotShown);
    }

    #[test]
    fn what_went_wrong_names_the_round_and_what_was_done_to_it() {
        let soak = result(15, |number| match number {
            1 => Some(Err("'a' did not follow".to_owned())),
            2 => Some(played(4)),
            _ => None,
        });
        assert_eq!(soak.verdict(), Verdict::Failed);
        let failed: Vec<&SoakRow> = soak.rows.iter().filter(|row| !row.notes.is_empty()).collect();
        let mut rounds: Vec<u64> = failed.iter().flat_map(|row| row.failed_rounds.clone()).collect();
        rounds.sort_unstable();
        assert!(
            rounds.starts_with(&[1]) && rounds.iter().all(|number| [1, 2].contains(number)),
            "{rounds:?}"
        );
        for row in failed {
            let number = row.failed_rounds[0];
            let names = draw::round(3, number).failures.iter().map(|one| one.name()).collect::<Vec<_>>();
            let place = format!("round {number} ({}): ", names.join(", "));
            assert!(row.notes.iter().all(|note| note.starts_with(&place)), "{:?}", row.notes);
        }
    }
}

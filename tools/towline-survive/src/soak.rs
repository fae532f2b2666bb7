//! The long run: clusters under load, one trouble after the other until time is up, and in the end of each round every
//! record against every acknowledgement.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use towline::{Level, Window};

use crate::context::Context;
use crate::error::{Result, SurviveError};
use crate::failure::Failure;
use crate::matrix::{Broken, lock};
use crate::predict::{Promise, predict};
use crate::progress::Progress;
use crate::random::Random;
use crate::record::{CellResult, Loss};
use crate::row::Row;
use crate::scene::{HIGH_RATE_PER_S, play_many};

/// What a long run showed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SoakResult {
    /// Clusters that were made.
    pub rounds: u64,
    /// Failures that were made to happen, of all kinds.
    pub faults: u64,
    /// The same by kind.
    pub by_failure: BTreeMap<String, u64>,
    /// Acknowledged records.
    pub acked: u64,
    /// Acknowledged at `on` or above, without a window, and lost where the level survives.
    pub lost_at_on_and_above: u64,
    /// Doubled, changed, out of order, or weaker than asked for, at any level.
    pub anomalies: u64,
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
}

impl SoakRow {
    /// How its losses are to be read.
    pub fn verdict(&self) -> SoakVerdict {
        match () {
            () if !self.notes.is_empty() => SoakVerdict::Failed,
            () if self.lost == 0 => SoakVerdict::NothingLost,
            () if self.row.level >= Level::On && self.row.is_strict() => SoakVerdict::CopiesGone,
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
    /// Whether no promise was broken.
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.notes.is_empty())
    }
}

/// Plays rounds until `time` is up, or the run is to stop, or cannot go on.
pub(crate) fn soak(
    context: &Context,
    time: Duration,
    lanes: usize,
    seed: u64,
) -> (SoakResult, Option<Broken>) {
    let progress = Progress::new(time.as_secs(), "{elapsed_precise} of {len} s {bar:30} {msg}");
    let total = Mutex::new(Tally::default());
    let broken: Mutex<Option<Broken>> = Mutex::new(None);
    let lane = |number: usize| {
        let mut random = Random::new(seed ^ (number as u64) << 32);
        while progress.elapsed() < time && context.check().is_ok() && lock(&broken).is_none() {
            if let Err(error) = round(context, &mut random, &total) {
                let mut broken = lock(&broken);
                *broken = broken.take().or(Broken::of("the long run".to_owned(), error));
            }
            let (rounds, faults, acked) = {
                let now = &lock(&total).result;
                (now.rounds, now.faults, now.acked)
            };
            progress.set(progress.elapsed().as_secs().min(time.as_secs()));
            progress.say(format!("{rounds} rounds, {faults} faults, {acked} acknowledged"), || {
                format!("{} s to go", time.saturating_sub(progress.elapsed()).as_secs())
            });
        }
    };
    std::thread::scope(|scope| {
        for number in 0..lanes.max(1) {
            let lane = &lane;
            scope.spawn(move || lane(number));
        }
    });
    progress.end();
    let broken = lock(&broken).take();
    let Tally { mut result, mut rows, anomalies } = std::mem::take(&mut *lock(&total));
    let order = self::rows();
    rows.sort_by_key(|row| order.iter().position(|listed| *listed == row.row));
    result.rows = rows
        .into_iter()
        .map(|row| SoakRow {
            anomalies: anomalies.get(&row.row.name).copied().unwrap_or_default(),
            row: row.row,
            rounds: row.runs,
            acked: row.acked,
            lost: row.lost,
            losing_rounds: row.losing_runs,
            largest: row.largest,
            notes: row.notes,
        })
        .collect();
    (result, broken)
}

/// What all lanes add to.
#[derive(Default)]
struct Tally {
    result: SoakResult,
    rows: Vec<CellResult>,
    /// By row.
    anomalies: BTreeMap<String, u64>,
}

/// One cluster: several troubles that it recovers from, and often one that changes the leader.
fn round(context: &Context, random: &mut Random, total: &Mutex<Tally>) -> Result<()> {
    let rows = rows();
    let row = &rows[random.below(rows.len() as u64) as usize];
    let mut failures: Vec<Failure> =
        (0..FAULTS).map(|_| pick(random, |failure| !failure.promotes())).collect();
    if random.below(3) > 0 {
        failures.push(pick(random, Failure::promotes));
    }
    // The weakest of what is promised; a loss that is due in one of them may be there.
    let promises: Vec<Promise> = failures.iter().map(|failure| predict(row, *failure)).collect();
    let promise = match promises.iter().find(|promise| **promise != Promise::Zero) {
        Some(_) if promises.contains(&Promise::Loses) => Promise::Loses,
        Some(within) => *within,
        None => Promise::Zero,
    };
    let played = play_many(context, row, &failures, random.next(), HIGH_RATE_PER_S);
    let mut total = lock(total);
    let Tally { result, rows, anomalies } = &mut *total;
    let at = rows.iter().position(|known| known.row == *row).unwrap_or_else(|| {
        rows.push(CellResult::new(row, failures[0], Promise::Zero));
        rows.len() - 1
    });
    result.rounds += 1;
    match played {
        Ok(played) => {
            result.faults += failures.len() as u64;
            for failure in &failures {
                *result.by_failure.entry(failure.name().to_owned()).or_default() += 1;
            }
            result.acked += played.judgement.acked;
            let strange = played.judgement.anomalies.len() as u64;
            result.anomalies += strange;
            *anomalies.entry(row.name.clone()).or_default() += strange;
            if row.level >= Level::On && row.is_strict() && promise == Promise::Zero {
                result.lost_at_on_and_above += played.judgement.lost;
            }
            rows[at].promise = promise;
            rows[at].add(&played);
        }
        Err(error @ (SurviveError::Late(_) | SurviveError::Node { .. } | SurviveError::Client(_))) => {
            rows[at].add_failure(format!("{failures:?}: {error}"));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Mostly the levels that promise nothing lost, and some of those that do.
fn rows() -> Vec<Row> {
    let mut rows = Row::all();
    rows.retain(|row| row.degrade_after.is_none() && row.window != Some(Window::Infinite));
    rows
}

fn pick(random: &mut Random, wanted: impl Fn(Failure) -> bool) -> Failure {
    // A full disk needs large records, which this load does not send.
    let choice: Vec<Failure> = Failure::ALL
        .into_iter()
        .filter(|failure| *failure != Failure::FullDisk && wanted(*failure))
        .collect();
    choice[random.below(choice.len() as u64) as usize]
}

/// Troubles of one cluster before its leader may change.
const FAULTS: usize = 8;

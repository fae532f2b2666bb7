//! The matrix: every cell played by a few lanes at once, with progress, until all are done or the run is to stop.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::error::SurviveError;
use crate::failure::Failure;
use crate::predict::{Promise, predict};
use crate::progress::Progress;
use crate::record::{CellResult, Verdict};
use crate::row::Row;
use crate::scene::play;

/// A row under a failure.
pub(crate) type Cell = (Row, Failure);

/// How cells are played.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How often each.
    pub(crate) times: u64,
    /// How many at once.
    pub(crate) lanes: usize,
    pub(crate) seed: u64,
    pub(crate) rate_per_s: f64,
    /// After it no cell is begun that was played before.
    pub(crate) limit: Option<Duration>,
}

/// Why a run was given up, and where. What was played before stands.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) place: String,
    pub(crate) error: SurviveError,
}

impl Broken {
    /// `None` for an interrupt: that is no trouble of the run's.
    pub(crate) fn of(place: String, error: SurviveError) -> Option<Broken> {
        (!matches!(error, SurviveError::Interrupted)).then_some(Broken { place, error })
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.error)
    }
}

/// Plays every cell in turn, `times` times over: what a limit leaves out is missing evenly. What an interrupt or a
/// trouble leaves out altogether is not among the results.
pub(crate) fn play_cells(
    context: &Context,
    cells: Vec<Cell>,
    plan: Plan,
) -> (Vec<CellResult>, Option<Broken>) {
    let steps = cells.len() as u64 * plan.times;
    let table = Table {
        context,
        plan,
        progress: Progress::new(steps, "{pos}/{len} {bar:30} {elapsed} of about {duration}  {msg}"),
        results: Mutex::new(
            cells
                .iter()
                .map(|(row, failure)| CellResult::new(row, *failure, predict(row, *failure)))
                .collect(),
        ),
        broken: Mutex::new(None),
    };
    table.play_all(
        (0..plan.times).flat_map(|round| (0..cells.len()).map(move |cell| (cell, round))).collect(),
    );
    // A loss that is due and was not seen gets some more chances.
    for _ in 0..MORE_TRIES {
        let due: VecDeque<Job> = lock(&table.results)
            .iter()
            .enumerate()
            .filter(|(_, result)| result.promise != Promise::Zero && result.verdict == Verdict::NotShown)
            .filter(|(_, result)| result.runs > 0)
            // Without a gap, also where a limit cut the rounds short: so many times over, all are played again.
            .map(|(cell, result)| (cell, result.runs))
            .collect();
        table.play_all(due);
    }
    table.progress.end();
    let mut results = std::mem::take(&mut *lock(&table.results));
    results.retain(|result| result.runs > 0);
    (results, lock(&table.broken).take())
}

/// The number of a cell, and how often it has been asked for before.
type Job = (usize, u64);

/// What the lanes share.
struct Table<'a> {
    context: &'a Context,
    plan: Plan,
    progress: Progress,
    results: Mutex<Vec<CellResult>>,
    broken: Mutex<Option<Broken>>,
}

impl Table<'_> {
    fn play_all(&self, jobs: VecDeque<Job>) {
        let queue = Mutex::new(jobs);
        // A function of its own: in the loop's head the lock would be held while the cell is played.
        let next = || lock(&queue).pop_front();
        let lane = || {
            while let Some((cell, round)) = next() {
                if lock(&self.broken).is_some() || self.context.check().is_err() {
                    return;
                }
                if round > 0 && self.plan.limit.is_some_and(|limit| self.progress.elapsed() > limit) {
                    continue;
                }
                if let Err(trouble) = self.play(cell, round) {
                    // The run cannot go on, for whatever lane.
                    let mut broken = lock(&self.broken);
                    *broken = broken.take().or(trouble);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.plan.lanes.max(1) {
                scope.spawn(lane);
            }
        });
    }

    /// An error ends the run: a trouble, or `None` for an interrupt.
    fn play(&self, cell: usize, round: u64) -> Result<(), Option<Broken>> {
        let began = Instant::now();
        let (row, failure) = {
            let results = lock(&self.results);
            (results[cell].row.clone(), results[cell].failure)
        };
        self.progress.say(format!("{} {failure}", row.name), || {
            let (done, all) = self.progress.steps();
            format!("{done} of {all} cells")
        });
        let name = row.name.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let moment = self.plan.seed ^ name << 16 ^ (failure as u64) << 8 ^ round;
        let played = play(self.context, &row, failure, moment, self.plan.rate_per_s);
        let mut results = lock(&self.results);
        match played {
            Ok(played) => results[cell].add(&played),
            Err(error @ (SurviveError::Late(_) | SurviveError::Node { .. } | SurviveError::Client(_))) => {
                results[cell].add_failure(error.to_string());
            }
            Err(error) => return Err(Broken::of(format!("{} under {failure}", row.name), error)),
        }
        results[cell].seconds += began.elapsed().as_secs_f64();
        if round < self.plan.times {
            self.progress.step();
        }
        Ok(())
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const MORE_TRIES: u64 = 3;

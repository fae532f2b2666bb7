//! The matrix: every cell played by a few lanes at once, with progress, until all are done or the run is to stop.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::context::Context;
use crate::error::{Result, SurviveError};
use crate::failure::Failure;
use crate::predict::{Promise, predict};
use crate::record::{CellResult, Verdict};
use crate::row::Row;
use crate::scene::play;

/// A row under a failure.
pub(crate) type Cell = (Row, Failure);

/// Plays every cell `times` times, in their order; what an interrupt leaves out is missing.
pub(crate) fn play_cells(
    context: &Context,
    cells: Vec<Cell>,
    times: u64,
    lanes: usize,
    seed: u64,
) -> Result<Vec<CellResult>> {
    let bar = ProgressBar::new(cells.len() as u64 * times);
    let style = ProgressStyle::with_template("{pos}/{len} {bar:30} {elapsed} of about {duration}  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let order: Vec<Cell> = cells.clone();
    let queue: Mutex<VecDeque<Cell>> = Mutex::new(cells.into());
    let results: Mutex<Vec<CellResult>> = Mutex::new(Vec::new());
    let broken: Mutex<Option<SurviveError>> = Mutex::new(None);
    // A function of its own: in the loop's head the lock would be held while the cell is played.
    let next = || lock(&queue).pop_front();
    let lane = || {
        while let Some((row, failure)) = next() {
            bar.set_message(format!("{} {failure}", row.name));
            match play_cell(context, &row, failure, times, seed, &bar) {
                Ok(result) => lock(&results).push(result),
                Err(error) => {
                    // The run cannot go on, for whatever lane.
                    lock(&queue).clear();
                    lock(&broken).get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..lanes.max(1) {
            scope.spawn(lane);
        }
    });
    bar.finish_and_clear();
    match lock(&broken).take() {
        // What was played stands.
        None | Some(SurviveError::Interrupted) => {}
        Some(error) => return Err(error),
    }
    let mut results = std::mem::take(&mut *lock(&results));
    let place = |result: &CellResult| {
        order.iter().position(|(row, failure)| *row == result.row && *failure == result.failure)
    };
    results.sort_by_key(place);
    Ok(results)
}

fn play_cell(
    context: &Context,
    row: &Row,
    failure: Failure,
    times: u64,
    seed: u64,
    bar: &ProgressBar,
) -> Result<CellResult> {
    let began = Instant::now();
    let promise = predict(row, failure);
    let mut result = CellResult::new(row, failure, promise);
    // A loss that is due and was not seen gets some more chances.
    let due = |result: &CellResult| {
        promise != Promise::Zero && result.verdict == Verdict::NotShown && result.runs < times + MORE_TRIES
    };
    while result.runs < times || due(&result) {
        let name = row.name.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let moment = seed ^ name << 16 ^ (failure as u64) << 8 ^ result.runs;
        match play(context, row, failure, moment) {
            Ok(played) => result.add(&played),
            Err(error @ (SurviveError::Late(_) | SurviveError::Node { .. } | SurviveError::Client(_))) => {
                result.add_failure(error.to_string());
            }
            Err(error) => return Err(error),
        }
        if result.runs <= times {
            bar.inc(1);
        }
    }
    result.seconds = began.elapsed().as_secs_f64();
    Ok(result)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const MORE_TRIES: u64 = 3;

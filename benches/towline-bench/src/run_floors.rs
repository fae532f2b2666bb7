//! The floors of one run: measured between its points, merged as its report wants them.

use crate::error::BenchError;
use crate::floors::{Bed, FloorSet};
use std::path::Path;
use std::time::Duration;
use towline_report::schema::{Floors, FloorsOfRepetition, PrimitiveRace};
use towline_uring::primitive::{self, Primitive};
use towline_uring::{FileMode, floor};

/// All floors measured so far. A program that measures them must answer to [`PEER_SUBCOMMAND`](crate::PEER_SUBCOMMAND).
#[derive(Debug)]
pub struct RunFloors {
    bed: Bed,
    sets: Vec<(Option<u32>, FloorSet)>,
}

impl RunFloors {
    /// On the device below `dir`; `buffered`: through the page cache.
    pub fn new(dir: &Path, buffered: bool) -> Self {
        Self { bed: Bed::new(dir, buffered, FLOOR_TIME), sets: Vec::new() }
    }

    /// One set, beside a repetition where there is one; `bandwidths` take longer. Returns its place.
    ///
    /// # Errors
    /// The machine cannot do it, by name of the floor.
    pub fn measure(&mut self, repetition: Option<u32>, bandwidths: bool) -> Result<usize, BenchError> {
        let set = self.bed.measure(bandwidths)?;
        self.sets.push((repetition, set));
        Ok(self.sets.len() - 1)
    }

    /// Two sets as one: what stood before and after a repetition.
    pub(crate) fn between(&self, before: usize, after: usize) -> FloorSet {
        FloorSet::merged([&self.sets[before].1, &self.sets[after].1])
    }

    /// The last set.
    pub(crate) fn latest(&self) -> FloorSet {
        self.sets.last().map(|(_, set)| set.clone()).unwrap_or_default()
    }

    /// All of them as the report has them: merged over the run, and the medians beside each repetition.
    pub fn report(&self) -> Floors {
        let mut floors = FloorSet::merged(self.sets.iter().map(|(_, set)| set)).report();
        let repetitions = self.sets.iter().filter_map(|(repetition, _)| *repetition).max();
        floors.by_repetition = (0..=repetitions.unwrap_or(0))
            .filter(|_| repetitions.is_some())
            .map(|repetition| {
                let own = self.sets.iter().filter(|(of, _)| *of == Some(repetition)).map(|(_, set)| set);
                FloorSet::merged(own).medians(repetition)
            })
            .filter(|medians| {
                *medians != FloorsOfRepetition { repetition: medians.repetition, ..Default::default() }
            })
            .collect();
        floors
    }
}

/// Races the durability primitives on the device below `dir`: the primitive and flush depth that every node of a run
/// is to use, and how each one did.
///
/// # Errors
/// The machine cannot do it.
pub fn race_primitives(
    dir: &Path,
    buffered: bool,
) -> Result<((Primitive, usize), Vec<PrimitiveRace>), BenchError> {
    let mode = if buffered { FileMode::Buffered } else { FileMode::Direct };
    let race = primitive::race(&floor::Place::new(dir, mode), RACE_TIME)
        .map_err(|error| BenchError::failed("race of the durability primitives", error))?;
    let results = race.results.iter().map(|result| PrimitiveRace {
        name: result.primitive.name().into(),
        depth: result.depth,
        p50_ns: result.p50_ns,
        p99_ns: result.p99_ns,
        per_s: result.per_s,
        chosen: result.primitive == race.best && result.depth == 1,
    });
    Ok(((race.best, race.flush_depth as usize), results.collect()))
}

/// For each floor and each of the two ways of waiting.
const FLOOR_TIME: Duration = Duration::from_millis(120);
const RACE_TIME: Duration = Duration::from_millis(800);

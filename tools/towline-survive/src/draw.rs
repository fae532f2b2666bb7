//! What each round of a long run plays. It follows from the run's seed and the round's number alone, so that one round
//! can be played again without those before it.

use towline::{Level, Window};

use crate::failure::Failure;
use crate::random::Random;
use crate::row::Row;

/// One cluster: its row, and what goes wrong with it, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Round {
    pub(crate) row: Row,
    /// Only the last may change the leader.
    pub(crate) failures: Vec<Failure>,
    /// Decides the moments and what cuts keep.
    pub(crate) seed: u64,
}

/// The round of this number.
pub(crate) fn round(seed: u64, number: u64) -> Round {
    // Those that promise the most come first: a short run looks at them.
    let mut rows = rows();
    rows.sort_by_key(|row| !promises_all(row));
    let (promoting, others): (Vec<Failure>, Vec<Failure>) =
        Failure::ALL.into_iter().partition(|failure| failure.promotes());
    let mut failures: Vec<Failure> =
        (0..FAULTS).map(|at| dealt(seed, &others, number * FAULTS + at)).collect();
    // In two rounds of three the leader changes in the end.
    let (three, part) = (number / 3, number % 3);
    if part < 2 {
        failures.push(dealt(!seed, &promoting, three * 2 + part));
    }
    let row = rows.swap_remove((number % rows.len() as u64) as usize);
    Round { row, failures, seed: Random::new(seed ^ (number << 32)).next() }
}

/// The rows of a long run, weakest first: those whose promise holds whatever goes wrong before.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Row::all();
    rows.retain(|row| row.degrade_after.is_none() && row.window != Some(Window::Infinite));
    rows
}

/// `on` or above, and each acknowledgement waits.
pub(crate) fn promises_all(row: &Row) -> bool {
    row.level >= Level::On && row.is_strict()
}

/// A card of decks that are shuffled one after the other: each kind comes as often as any other.
fn dealt(seed: u64, deck: &[Failure], place: u64) -> Failure {
    let size = deck.len() as u64;
    let mut random = Random::new(seed ^ (place / size));
    let mut deck = deck.to_vec();
    for at in (1..deck.len()).rev() {
        deck.swap(at, random.below(at as u64 + 1) as usize);
    }
    deck[(place % size) as usize]
}

/// Troubles of one cluster before its leader may change.
const FAULTS: u64 = 8;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_minute_plays_every_row_and_every_failure() {
        for seed in 0..50 {
            let rounds: Vec<Round> = (0..15).map(|number| round(seed, number)).collect();
            let played: BTreeSet<Failure> =
                rounds.iter().flat_map(|round| round.failures.iter().copied()).collect();
            assert_eq!(played, BTreeSet::from(Failure::ALL), "seed {seed}");
            for row in rows() {
                assert!(rounds.iter().any(|round| round.row == row), "seed {seed}: {}", row.name);
            }
            assert!(promises_all(&rounds[0].row), "the first round says something of `on`");
        }
    }

    #[test]
    fn a_round_is_the_same_again_and_only_its_last_failure_promotes() {
        let mut seen = Vec::new();
        for number in 0..100 {
            let played = round(7, number);
            assert_eq!(played, round(7, number));
            let (_, before) = played.failures.split_last().unwrap();
            assert!(!before.iter().any(|failure| failure.promotes()), "{played:?}");
            seen.push((played.failures, played.seed));
        }
        assert_ne!(round(7, 3).failures, round(8, 3).failures);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 100, "no two alike");
    }
}

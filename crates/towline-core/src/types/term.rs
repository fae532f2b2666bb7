//! Terms and the term history of a log: who owns which bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::limits::MAX_TERM_HISTORY;
use super::{Lsn, NodeId};
use crate::bugs::{Bug, bug};

/// A leadership: totally ordered by number, then node. Stamped on every batch and frame, it is the fencing token.
/// A new term's number is one more than the highest seen; the node id keeps two equal numbers apart.
#[derive(Clone, Copy, Hash, Serialize, Deserialize, Default)]
#[cfg_attr(not(towline_bugs), derive(PartialEq, Eq, PartialOrd, Ord))]
pub struct Term {
    /// Counts up by one from the highest seen.
    pub number: u64,
    /// The node that took the term.
    pub node: NodeId,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.number, self.node)
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{self}")
    }
}

/// One entry of a history: `term` owns the log from `start` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TermStart {
    /// The term.
    pub term: Term,
    /// First byte it owns.
    pub start: Lsn,
}

/// Why a history cannot take an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HistoryError {
    /// The history is full; trimming the log prunes it.
    #[error(
        "the term history is full ({MAX_TERM_HISTORY} terms since the log's start): trim the log to prune it"
    )]
    Full,
    /// Terms and starts must rise.
    #[error("term {term} from {start} does not follow the history's last entry")]
    OutOfOrder {
        /// The entry that was refused.
        term: Term,
        /// Its start.
        start: Lsn,
    },
}

/// The list `(term, start LSN)` of a log, oldest first. A batch is valid only where the term that owns its LSN
/// is its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub struct TermHistory(Vec<TermStart>);

impl TermHistory {
    /// A history from its entries.
    ///
    /// # Errors
    /// When there are too many, or terms do not rise or starts fall.
    pub fn from_entries(entries: &[TermStart]) -> Result<TermHistory, HistoryError> {
        let mut history = TermHistory::default();
        entries.iter().try_for_each(|entry| history.push(entry.term, entry.start))?;
        Ok(history)
    }

    /// Adds the newest term. A term that starts where the last one did replaces nothing: both stay, the later owns.
    ///
    /// # Errors
    /// When the history is full or the entry does not follow.
    pub fn push(&mut self, term: Term, start: Lsn) -> Result<(), HistoryError> {
        if self.0.last().is_some_and(|last| term <= last.term || start < last.start) {
            return Err(HistoryError::OutOfOrder { term, start });
        }
        if self.0.len() >= MAX_TERM_HISTORY {
            return Err(HistoryError::Full);
        }
        self.0.push(TermStart { term, start });
        Ok(())
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> &[TermStart] {
        &self.0
    }

    /// The newest entry.
    pub fn last(&self) -> Option<TermStart> {
        self.0.last().copied()
    }

    /// The term that owns the byte at `lsn`.
    pub fn owner(&self, lsn: Lsn) -> Option<Term> {
        self.0.iter().rev().find(|entry| entry.start <= lsn).map(|entry| entry.term)
    }

    /// What a leader's word that it has flushed the log up to `flushed` says of its own terms: the end of their last
    /// byte below. Of the bytes of another's term it says nothing of that other.
    pub fn claimed_by(&self, node: NodeId, flushed: Lsn) -> Lsn {
        let mut end = flushed;
        for entry in self.0.iter().rev().filter(|entry| entry.start < flushed) {
            if entry.term.node == node {
                return end;
            }
            end = entry.start;
        }
        Lsn(0)
    }

    /// SEMANTICS section 4: the last entry whose start is at or below the node's own flushed LSN.
    pub fn last_term(&self, flushed: Lsn) -> Term {
        let upto = if bug(Bug::TermBeyondEnd) { Lsn(u64::MAX) } else { flushed };
        self.owner(upto).unwrap_or_default()
    }

    /// The history of a log that goes on as `sender`'s: a sender that has trimmed more than this node has pruned its
    /// own, but what lies here before its first term still has its owners.
    ///
    /// # Errors
    /// When both together are too many.
    pub fn followed_by(&self, sender: &TermHistory) -> Result<TermHistory, HistoryError> {
        let first = sender.0.first().map(|entry| entry.term);
        let mut history = TermHistory::default();
        for entry in self.0.iter().filter(|entry| first.is_some_and(|first| entry.term < first)) {
            history.push(entry.term, entry.start)?;
        }
        sender.0.iter().try_for_each(|entry| history.push(entry.term, entry.start))?;
        Ok(history)
    }

    /// Drops entries that start beyond the log's end (recovery and truncation); they were never used.
    pub fn drop_beyond(&mut self, end: Lsn) {
        self.0.retain(|entry| entry.start <= end);
    }

    /// Prunes terms that own nothing at or above the log's start.
    pub fn prune_below(&mut self, log_start: Lsn) {
        let owner = self.0.iter().rposition(|entry| entry.start <= log_start).unwrap_or(0);
        self.0.drain(..owner);
    }

    /// The fork point of two logs: the end of the longest common prefix, found by comparing who owns each byte.
    /// `own_end` and `other_end` are the logs' ends.
    pub fn fork_point(&self, own_end: Lsn, other: &TermHistory, other_end: Lsn) -> Lsn {
        let end = own_end.min(other_end);
        // Ownership changes only at starts: the first start at which the owners differ is the fork.
        let mut starts: Vec<Lsn> =
            self.0.iter().chain(&other.0).map(|entry| entry.start).filter(|start| *start < end).collect();
        starts.sort_unstable();
        starts.into_iter().find(|start| self.owner(*start) != other.owner(*start)).unwrap_or(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(entries: &[(u64, u64)]) -> TermHistory {
        let mut history = TermHistory::default();
        for (number, start) in entries {
            history.push(Term { number: *number, node: NodeId(1) }, Lsn(*start)).expect("they rise");
        }
        history
    }

    #[test]
    fn a_leaders_word_on_what_it_has_flushed_concerns_its_own_terms() {
        let entries = [(1, 7, 8), (2, 9, 50), (3, 7, 70)].map(|(number, node, start)| TermStart {
            term: Term { number, node: NodeId(node) },
            start: Lsn(start),
        });
        let history = TermHistory::from_entries(&entries).expect("they rise");
        let claimed = |node, flushed| history.claimed_by(NodeId(node), Lsn(flushed)).0;
        assert_eq!([claimed(7, 90), claimed(7, 70), claimed(7, 60), claimed(7, 30)], [90, 50, 50, 30]);
        assert_eq!([claimed(9, 90), claimed(9, 60), claimed(9, 50), claimed(3, 90)], [70, 60, 0, 0]);
    }

    #[test]
    fn whoever_follows_a_sender_that_has_pruned_keeps_the_owners_of_what_it_holds() {
        let own = history(&[(1, 8), (2, 50)]);
        let sender = history(&[(2, 50), (4, 90)]);
        assert_eq!(own.followed_by(&sender).expect("few"), history(&[(1, 8), (2, 50), (4, 90)]));
        assert_eq!(
            own.followed_by(&history(&[(1, 8)])).expect("few"),
            history(&[(1, 8)]),
            "a term that was cut goes"
        );
        let full: Vec<(u64, u64)> = (2..=MAX_TERM_HISTORY as u64 + 1).map(|n| (n, n * 10)).collect();
        assert_eq!(own.followed_by(&history(&full)), Err(HistoryError::Full));
    }
}

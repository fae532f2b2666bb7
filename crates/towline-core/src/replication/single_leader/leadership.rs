//! Who may lead, and who may adopt: SEMANTICS section 4 as pure rules. Each clause is there because dropping it
//! loses data (they were model-checked).

use std::collections::BTreeSet;

use crate::bugs::{Bug, bug};
use crate::format::LogEnd;
use crate::types::{Lsn, NodeId, Term, TermHistory};

/// Rule 1. A node adopts a higher term only from a sender whose log, as it was before the new term, is not behind
/// its own: compared by last term, then by flushed LSN.
pub fn may_adopt(adopted: Term, own: LogEnd, asked: Term, sender: LogEnd) -> bool {
    let is_not_behind = match () {
        () if bug(Bug::AdoptsFromBehind) => true,
        () if bug(Bug::LsnBeforeTerm) => sender.flushed >= own.flushed,
        () => sender >= own,
    };
    asked > adopted && is_not_behind
}

/// Rule 5: the fork point of two logs that overlap, each given by its history, its start and its end. Trimming prunes
/// the histories: `None` when the logs differ where one of them cannot be compared any more.
pub fn fork_of(own: (&TermHistory, Lsn, Lsn), other: (&TermHistory, Lsn, Lsn)) -> Option<Lsn> {
    let first = |history: &TermHistory| history.entries().first().map_or(Lsn(0), |entry| entry.start);
    let oldest = own.1.max(other.1).max(first(own.0)).max(first(other.0));
    let base = oldest.min(own.2).min(other.2);
    let pruned = |history: &TermHistory| {
        let mut history = history.clone();
        history.prune_below(base);
        history
    };
    let (own_terms, other_terms) = (pruned(own.0), pruned(other.0));
    if own_terms.owner(base) == other_terms.owner(base) {
        // Where the one's first entry is older it owns what lies below the base, and nobody can compare that.
        let from_base = |history: &TermHistory| {
            let mut all = TermHistory::default();
            for entry in history.entries() {
                let _ = all.push(entry.term, entry.start.max(base));
            }
            all
        };
        return Some(from_base(&own_terms).fork_point(own.2, &from_base(&other_terms), other.2));
    }
    // Nothing lies below in either log: they differ from their first byte on.
    (own.1 >= base && other.1 >= base).then_some(base)
}

/// The number of a new term: one more than the highest seen.
pub fn next_term(highest_seen: Term, node: NodeId) -> Term {
    Term { number: highest_seen.number.saturating_add(1), node }
}

/// Rules 2 and 3: what a promoted standby, or a restarted primary, has gathered for its new term.
#[derive(Debug, Clone)]
pub struct Candidacy {
    term: Term,
    /// The last term that this node led itself.
    led: Option<Term>,
    /// A promotion counts standbys only: not the node that led the last term.
    superseded: Option<NodeId>,
    /// n: the other nodes of a primary, and as many standbys of the one that is superseded.
    standbys: usize,
    /// How many of them are synchronous, by each rule that may be in force. 0 stands for no rule.
    synchronous: (usize, usize),
    adopters: BTreeSet<NodeId>,
    same: BTreeSet<NodeId>,
    /// Those that adopted and have never followed: what an earlier life of theirs acknowledged is not with them.
    empty: BTreeSet<NodeId>,
}

impl Candidacy {
    /// A candidacy for `term` among `standbys` other nodes. `synchronous` holds the smallest and the largest k of the
    /// rules that may be in force (two while a change is pending): the smaller asks for the larger quorum.
    pub fn new(term: Term, led: Option<Term>, standbys: usize, synchronous: (usize, usize)) -> Candidacy {
        let (adopters, same, empty) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Candidacy { term, led, superseded: None, standbys, synchronous, adopters, same, empty }
    }

    /// A standby's candidacy: `superseded` led the last term of its log, to `standbys` standbys, this one included.
    pub fn promotion(
        term: Term,
        superseded: NodeId,
        standbys: usize,
        synchronous: (usize, usize),
    ) -> Candidacy {
        Candidacy { superseded: Some(superseded), ..Candidacy::new(term, None, standbys, synchronous) }
    }

    /// What it is judged by, known anew: a fetched tail may bring a rule, a welcome a larger set. Who has adopted stays.
    pub fn judge_by(&mut self, standbys: usize, synchronous: (usize, usize)) {
        (self.standbys, self.synchronous) = (standbys, synchronous);
    }

    /// The term stood for.
    pub fn term(&self) -> Term {
        self.term
    }

    /// A standby has adopted the term; `previous` is what it had adopted until then.
    pub fn adopted_by(&mut self, standby: NodeId, previous: Term) {
        if Some(standby) == self.superseded && !bug(Bug::SupersededCounts) {
            return;
        }
        self.adopters.insert(standby);
        self.empty.remove(&standby);
        if Some(previous) == self.led || bug(Bug::LeadsOnK) {
            self.same.insert(standby);
        }
    }

    /// An empty node has adopted the term. It may stand where a disk was lost, and then a set of k that it belonged
    /// to is met in it and not found.
    pub fn adopted_by_empty(&mut self, node: NodeId) {
        if !self.adopters.contains(&node) {
            self.empty.insert(node);
        }
    }

    /// Whether the term's start may be fixed: (a) n − k + 1 nodes, itself included, have adopted it, or (b) k standbys
    /// have, whose adopted term until then was exactly the last that this node led. With no rule nobody is needed. Empty
    /// nodes count when all the others have adopted: then nobody is left who could hold more.
    pub fn may_lead(&self) -> bool {
        let (fewest, most) = self.synchronous;
        most == 0
            || self.adopters.len() + 1 >= quorum(self.standbys, fewest)
            || self.may_lead_by_proof(most)
            || self.is_everybody()
    }

    fn is_everybody(&self) -> bool {
        self.superseded.is_none() && self.adopters.len() + self.empty.len() >= self.standbys
    }

    /// Case (b) is a restarted primary's.
    fn may_lead_by_proof(&self, most: usize) -> bool {
        self.superseded.is_none() && self.same.len() >= most
    }

    /// The other nodes that have adopted the term and count.
    pub fn adopters(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.adopters.iter().copied()
    }

    /// For the operator: what is missing.
    pub fn missing(&self) -> String {
        let (fewest, most) = self.synchronous;
        let (have, needed) = (self.adopters.len() + 1, quorum(self.standbys, fewest));
        if self.superseded.is_some() {
            return format!("{have} of {needed} standbys have adopted term {} (itself included)", self.term);
        }
        let empty = match self.empty.len() {
            0 => String::new(),
            empty => format!("; {empty} empty nodes do not count before all {} have adopted", self.standbys),
        };
        format!(
            "{have} of {needed} nodes have adopted term {} (itself included), and {} of {most} standbys last followed this node{empty}",
            self.term,
            self.same.len(),
        )
    }
}

/// n − k + 1: as many nodes as meet every set of k among `standbys`.
pub fn quorum(standbys: usize, k: usize) -> usize {
    let missing = usize::from(bug(Bug::SmallQuorum));
    (standbys + 1).saturating_sub(k).saturating_sub(missing).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TermStart;

    fn term(number: u64, node: u64) -> Term {
        Term { number, node: NodeId(node) }
    }

    fn end(term: Term, flushed: u64) -> LogEnd {
        LogEnd { last_term: term, flushed: Lsn(flushed) }
    }

    #[test]
    fn adoption_compares_last_term_before_lsn_and_refuses_a_sender_behind() {
        let (old, new) = (term(1, 1), term(2, 1));
        assert!(may_adopt(old, end(old, 100), new, end(old, 100)));
        assert!(!may_adopt(old, end(old, 101), new, end(old, 100)));
        assert!(
            !may_adopt(new, end(new, 10), term(3, 1), end(old, 100)),
            "a longer log of an older term is behind"
        );
        assert!(!may_adopt(new, end(old, 0), new, end(old, 100)), "not twice");
        assert!(
            may_adopt(term(2, 1), end(old, 0), term(2, 2), end(old, 0)),
            "equal numbers: the node id decides"
        );
    }

    #[test]
    fn the_quorum_meets_every_k_set() {
        // n = 2, k = 1: one other node is enough; k = 2: nobody but the own disk is; n = 3, k = 1: two others.
        let mut one_of_two = Candidacy::new(term(2, 9), None, 2, (1, 1));
        assert!(!one_of_two.may_lead());
        one_of_two.adopted_by(NodeId(1), term(1, 8));
        assert!(one_of_two.may_lead());
        assert!(Candidacy::new(term(2, 9), None, 2, (2, 2)).may_lead());
        let mut one_of_three = Candidacy::new(term(2, 9), None, 3, (1, 1));
        one_of_three.adopted_by(NodeId(1), term(1, 8));
        assert!(!one_of_three.may_lead(), "k acknowledgements alone prove nothing");
        one_of_three.adopted_by(NodeId(2), term(1, 8));
        assert!(one_of_three.may_lead());
    }

    #[test]
    fn k_standbys_count_alone_only_when_they_last_followed_this_very_term() {
        let mut candidacy = Candidacy::new(term(5, 9), Some(term(4, 9)), 3, (1, 1));
        candidacy.adopted_by(NodeId(1), term(3, 9));
        assert!(!candidacy.may_lead(), "an earlier own term is not enough");
        candidacy.adopted_by(NodeId(2), term(4, 9));
        assert!(candidacy.may_lead());
    }

    #[test]
    fn a_promotion_counts_standbys_only_and_never_by_proof() {
        // n = 2, k = 1: both standbys. The node they supersede may adopt, and does not count.
        let mut candidacy = Candidacy::promotion(term(2, 1), NodeId(100), 2, (1, 1));
        candidacy.adopted_by(NodeId(100), term(1, 100));
        assert!(!candidacy.may_lead());
        candidacy.adopted_by(NodeId(2), term(1, 100));
        assert!(candidacy.may_lead());
        let both = Candidacy::promotion(term(2, 1), NodeId(100), 2, (2, 2));
        assert!(both.may_lead(), "k = n: every standby has what was acknowledged");
        assert_eq!((quorum(3, 1), quorum(3, 2), quorum(2, 5)), (3, 2, 1));
    }

    #[test]
    fn while_a_rule_change_is_pending_both_rules_bind() {
        let mut candidacy = Candidacy::new(term(2, 9), Some(term(1, 9)), 2, (1, 2));
        assert!(!candidacy.may_lead(), "k = 1 asks for two nodes");
        candidacy.adopted_by(NodeId(1), term(1, 9));
        assert!(candidacy.may_lead());
    }

    #[test]
    fn an_empty_node_counts_only_when_nobody_else_is_left() {
        let mut candidacy = Candidacy::new(term(2, 9), None, 2, (1, 1));
        candidacy.adopted_by_empty(NodeId(1));
        assert!(!candidacy.may_lead(), "the other one may hold what the lost disk had acknowledged");
        let mut all_empty = candidacy.clone();
        all_empty.adopted_by_empty(NodeId(2));
        assert!(all_empty.may_lead(), "nobody is left who could hold more");
        candidacy.adopted_by(NodeId(1), term(1, 8));
        assert!(candidacy.may_lead(), "it has followed since");
        candidacy.adopted_by_empty(NodeId(1));
        assert_eq!(candidacy.empty.len(), 0, "one node counts once");
        let mut promoted = Candidacy::promotion(term(2, 1), NodeId(100), 2, (1, 1));
        promoted.adopted_by_empty(NodeId(2));
        promoted.adopted_by_empty(NodeId(3));
        assert!(!promoted.may_lead(), "a promotion counts standbys only");
    }

    fn history(entries: &[(u64, u64)]) -> TermHistory {
        let entries: Vec<TermStart> = entries
            .iter()
            .map(|(number, start)| TermStart { term: term(*number, 1), start: Lsn(*start) })
            .collect();
        TermHistory::from_entries(&entries).expect("they rise")
    }

    #[test]
    fn a_history_that_a_trim_has_pruned_forks_nowhere_new() {
        let whole = history(&[(1, 8), (2, 50), (3, 90)]);
        let pruned = history(&[(2, 50), (3, 90)]);
        assert_eq!(fork_of((&whole, Lsn(8), Lsn(80)), (&pruned, Lsn(60), Lsn(100))), Some(Lsn(80)));
        assert_eq!(fork_of((&pruned, Lsn(60), Lsn(100)), (&whole, Lsn(8), Lsn(80))), Some(Lsn(80)));
        let other = history(&[(2, 50), (4, 70)]);
        assert_eq!(fork_of((&whole, Lsn(8), Lsn(80)), (&other, Lsn(60), Lsn(100))), Some(Lsn(70)));
        let foreign = history(&[(5, 20)]);
        assert_eq!(fork_of((&whole, Lsn(8), Lsn(80)), (&foreign, Lsn(60), Lsn(100))), None);
    }

    #[test]
    fn one_log_is_the_start_of_the_other() {
        let own = history(&[(1, 8)]);
        let longer = history(&[(1, 8), (2, 80)]);
        assert_eq!(fork_of((&own, Lsn(8), Lsn(80)), (&longer, Lsn(8), Lsn(200))), Some(Lsn(80)));
        assert_eq!(fork_of((&own, Lsn(8), Lsn(100)), (&longer, Lsn(8), Lsn(200))), Some(Lsn(80)));
    }
}

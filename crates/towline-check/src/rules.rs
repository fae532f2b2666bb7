//! Who counted when: standbys, rules, and what they made safe.

use towline_core::replication::{Members, Method, Stage, SyncRule};
use towline_core::types::Lsn;

/// A standby as the history tells it.
#[derive(Clone, Debug)]
pub(crate) struct Standby {
    pub(crate) peer: u16,
    pub(crate) name: String,
    pub(crate) node: u64,
    pub(crate) live: bool,
    pub(crate) excluded: bool,
    /// Written, flushed, applied.
    pub(crate) marks: Option<[Lsn; 3]>,
}

/// A rule with what it has made safe.
#[derive(Clone, Debug)]
pub(crate) struct Generation {
    pub(crate) version: u64,
    pub(crate) rule: Option<SyncRule>,
    pub(crate) record_end: Lsn,
    safe: [Option<Lsn>; 3],
}

/// What is safe: under several rules, the least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bound {
    /// Too few reports.
    Undefined,
    /// Up to here.
    At(Lsn),
    /// No rule asks for anything.
    Free,
}

/// Standbys and rules of a history.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quorum {
    pub(crate) own: u64,
    pub(crate) standbys: Vec<Standby>,
    pub(crate) generations: Vec<Generation>,
    pub(crate) in_force: usize,
    /// Nobody waits under the generations before, and they are not followed any more.
    pub(crate) watched_from: usize,
}

impl Quorum {
    pub(crate) fn add_rule(&mut self, version: u64, rule: Option<SyncRule>, record_end: Lsn) {
        self.generations.push(Generation { version, rule, record_end, safe: [None; 3] });
        self.recompute();
    }

    pub(crate) fn standby(&mut self, peer: u16) -> Option<&mut Standby> {
        self.standbys.iter_mut().find(|standby| standby.peer == peer)
    }

    pub(crate) fn pending(&self) -> Option<&Generation> {
        self.generations.get(self.in_force + 1)
    }

    pub(crate) fn rule_in_force(&self) -> Option<&Generation> {
        self.generations.get(self.in_force)
    }

    pub(crate) fn forget_reports(&mut self) {
        self.standbys.iter_mut().for_each(|standby| standby.marks = None);
        self.generations.iter_mut().for_each(|generation| generation.safe = [None; 3]);
    }

    /// Takes the newest facts in.
    pub(crate) fn recompute(&mut self) {
        for index in self.watched_from..self.generations.len() {
            let Some(rule) = self.generations[index].rule.take() else { continue };
            let counted = self.counted(&rule);
            let k = usize::from(rule.k);
            let mut safe = self.generations[index].safe;
            for stage in Stage::ALL {
                let at = stage as usize;
                let held = kth(counted.iter().filter_map(|standby| mark(standby, stage)).collect(), k);
                let streaming: Vec<_> = counted.iter().filter(|standby| standby.live).take(k).collect();
                let first: Option<Vec<Lsn>> = streaming.iter().map(|standby| mark(standby, stage)).collect();
                let first = first.filter(|marks| marks.len() == k).and_then(|marks| marks.into_iter().min());
                safe[at] = match rule.method {
                    Method::Any => held,
                    Method::First => {
                        let kept = safe[at].zip(held).map(|(old, held)| old.min(held));
                        kept.max(first)
                    }
                };
            }
            self.generations[index].safe = safe;
            self.generations[index].rule = Some(rule);
        }
    }

    /// Safe at a stage under every rule from generation `from` on.
    pub(crate) fn safe(&self, from: usize, stage: Stage) -> Bound {
        let mut bound = Bound::Free;
        for generation in self.generations.iter().skip(from).filter(|generation| generation.rule.is_some()) {
            bound = match (bound, generation.safe[stage as usize]) {
                (Bound::Undefined, _) | (_, None) => Bound::Undefined,
                (Bound::Free, Some(safe)) => Bound::At(safe),
                (Bound::At(other), Some(safe)) => Bound::At(other.min(safe)),
            };
        }
        bound
    }

    /// The nodes that have the log up to `lsn` at a stage, of those that count under the rules from generation
    /// `from` on; and the least k of these rules.
    pub(crate) fn holders(&self, from: usize, stage: Stage, lsn: Lsn) -> (Vec<u64>, usize) {
        let mut nodes = Vec::new();
        let mut least_k = usize::MAX;
        for rule in self.generations.iter().skip(from).filter_map(|generation| generation.rule.as_ref()) {
            let held =
                self.counted(rule).into_iter().filter(|s| mark(s, stage).is_some_and(|mark| mark >= lsn));
            nodes.extend(held.map(|standby| standby.node));
            least_k = least_k.min(usize::from(rule.k));
        }
        nodes.sort_unstable();
        nodes.dedup();
        (nodes, least_k)
    }

    /// Whether every rule from generation `from` on has enough streaming standbys.
    pub(crate) fn is_met(&self, from: usize) -> bool {
        self.generations.iter().skip(from).filter_map(|generation| generation.rule.as_ref()).all(|rule| {
            self.counted(rule).iter().filter(|standby| standby.live).count() >= usize::from(rule.k)
        })
    }

    /// The members that count, in order of priority, each node once, never the primary.
    fn counted(&self, rule: &SyncRule) -> Vec<&Standby> {
        let members: Vec<&Standby> = match &rule.members {
            Members::Star => self.standbys.iter().collect(),
            Members::List(names) => {
                names.iter().filter_map(|name| self.standbys.iter().find(|s| s.name == *name)).collect()
            }
        };
        let is_first = |standby: &Standby| {
            self.standbys
                .iter()
                .find(|other| other.node == standby.node)
                .is_some_and(|s| s.peer == standby.peer)
        };
        members.into_iter().filter(|s| !s.excluded && s.node != self.own && is_first(s)).collect()
    }
}

/// LSN 0 lies before every batch: nothing is reported at that stage.
fn mark(standby: &Standby, stage: Stage) -> Option<Lsn> {
    standby.marks.map(|marks| marks[stage as usize]).filter(|mark| mark.0 > 0)
}

fn kth(mut marks: Vec<Lsn>, k: usize) -> Option<Lsn> {
    marks.sort_unstable();
    marks.len().checked_sub(k).and_then(|index| marks.get(index)).copied()
}

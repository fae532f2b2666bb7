//! Whether the promises hold: a checker for each leadership, which goes on from the one whose log it continues; a
//! plain list of acknowledgements that no later leader may lack; and at the end the logs themselves.

use towline_check::{
    AckedRecord, Checker, Damage, Event as Told, Replica, StoredBatch, records_survive, replicas_agree,
};
use towline_core::types::{Level, Lsn, Position, Span, Term, TermHistory, TermStart};

use super::World;
use super::clients::Acked;
use crate::env::promise;
use crate::marks::sometimes;
use crate::walk::Walk;

/// A leadership, as the checker follows it. Leaderships are a tree: two may go on from one.
#[derive(Debug)]
pub struct Stream {
    pub term: Term,
    pub host: usize,
    /// What its log was made of when its term began, and where.
    history: TermHistory,
    start: Lsn,
    checker: Checker,
    /// How many of its violations have been looked at.
    seen: usize,
}

impl World {
    /// What a leader was told and said in this turn. `led`: it led when the turn began.
    pub(super) fn hear(&mut self, n: usize, led: bool) {
        for event in std::mem::take(&mut self.hosts[n].told) {
            if matches!(event, Told::Setup { .. } | Told::Leads { .. }) {
                self.begin_stream(n);
            }
            if let Some(stream) = self.streams.iter_mut().rev().find(|stream| stream.host == n) {
                stream.checker.see(&event);
            }
        }
        if (led || self.hosts[n].leads())
            && let Some(stream) = self.streams.iter().rev().find(|stream| stream.host == n)
        {
            let known = self.flushed.entry(stream.term).or_default();
            *known = (*known).max(self.hosts[n].flushed());
        }
        self.look_at_violations();
    }

    fn look_at_violations(&mut self) {
        for stream in &mut self.streams {
            let found = stream.checker.violations();
            if found.len() > stream.seen {
                let text = format!("leadership {} of n{}: {}", stream.term, stream.host, found[stream.seen]);
                self.env.breaks(text);
                stream.seen = found.len();
            }
        }
    }

    fn begin_stream(&mut self, n: usize) {
        let Some(history) = self.hosts[n].leaderships.pop_front() else { return };
        let Some(entry) = history.last() else { return };
        let (term, start) = (entry.term, entry.start);
        // The log that it continues: that of the newest term before its own which led.
        let parent = history.entries().iter().rev().skip(1).find_map(|entry| {
            self.streams.iter().find(|stream| stream.term == entry.term).map(|stream| &stream.checker)
        });
        let first = Position { lsn: self.setup.geometry.first_batch(0), ..Position::default() };
        let mut checker = parent.cloned().unwrap_or_else(|| Checker::new(first));
        // What was found before this term is told where it was found.
        let seen = checker.violations().len();
        if self.streams.is_empty() && self.setup.apply_safe {
            checker.see(&Told::AppliesSafe);
        }
        // Another node's term may have begun by all the rules and ended before anybody heard that it leads.
        let parent_term = self
            .streams
            .iter()
            .map(|stream| stream.term)
            .filter(|led| history.entries().iter().any(|entry| entry.term == *led))
            .max();
        let is_unheard = |entry: &&TermStart| {
            entry.term != term
                && entry.term.node != term.node
                && parent_term.is_some_and(|led| entry.term > led)
        };
        for entry in history.entries().iter().filter(is_unheard) {
            checker.see(&Told::Leads { node: entry.term.node.0, end: entry.start });
        }
        // Or it was followed by this one, whose log was cut for it, and has been cut from this log again since.
        for (other, to) in &self.hosts[n].cuts {
            let is_gone = !history.entries().iter().any(|entry| entry.term == *other);
            if is_gone && other.node != term.node && parent_term.is_some_and(|led| *other > led) {
                // What it has received again since is not lost.
                checker.see(&Told::Leads { node: other.node.0, end: start.max(*to) });
            }
        }
        let same = self.streams.iter().any(|stream| stream.term == term);
        promise!(self.env, !same, "two leaderships in term {term}");
        self.note_leadership(n, term);
        for (at, entry) in history.entries().iter().enumerate() {
            let end = history.entries().get(at + 1).map_or(start, |next| next.start);
            let known = self.flushed.entry(entry.term).or_default();
            *known = (*known).max(end);
        }
        for acked in &self.acked {
            if acked.term < term && self.is_owed(acked) && !holds(&history, start, acked) {
                let text = format!("{term} of n{n} leads from {start} without {acked:?}: {history:?}");
                self.env.breaks(text);
                break;
            }
        }
        self.streams.push(Stream { term, host: n, history, start, checker, seen });
    }

    /// Whether the node that led still has the disk on which it did.
    pub(super) fn is_there(&self, stream: &Stream) -> bool {
        self.hosts[stream.host].config.node == stream.term.node
    }

    fn note_leadership(&mut self, n: usize, term: Term) {
        let env = &mut self.env;
        if let Some(last) = self.streams.last() {
            sometimes!(env.marks, OtherLeader, last.host != n);
        }
        let others =
            self.hosts.iter().enumerate().filter(|(other, host)| *other != n && host.leads()).count();
        sometimes!(env.marks, TwoLeaders, others > 0);
        let equal = self.streams.iter().any(|other| other.term.number == term.number && other.term != term);
        sometimes!(env.marks, EqualTerms, equal);
    }

    /// An old leader may be acknowledged late: whoever has led since in a higher term must have it.
    pub(super) fn check_late(&mut self, acked: &Acked) {
        if !self.is_owed(acked) {
            return;
        }
        // One whose disk is gone may have been alone in its term; whoever does know of it is judged when it leads.
        let later = self.streams.iter().filter(|stream| stream.term > acked.term && self.is_there(stream));
        for Stream { term, start, history, .. } in later {
            if !holds(history, *start, acked) {
                let text = format!("{acked:?} acknowledged, and {term} leads from {start} without it");
                return self.env.breaks(text);
            }
        }
    }

    /// Whether its level promises that every later leader has it, whatever has happened since. Windows, and what
    /// happened to whom, are the checker's.
    fn is_owed(&self, acked: &Acked) -> bool {
        let whole = acked.window.is_none_or(|window| window.is_zero());
        let disks = acked.disk_losses == self.disk_losses;
        match acked.level {
            Level::Off | Level::Local => false,
            Level::RemoteWrite => whole && disks && acked.power_cuts == self.power_cuts,
            Level::On | Level::RemoteApply => whole && disks,
        }
    }

    pub(super) fn tell_damage(&mut self, n: usize, damage: Damage) {
        match damage {
            Damage::DiskLost => self.disk_losses += 1,
            Damage::PowerCut => self.power_cuts += 1,
            Damage::Killed | Damage::Stopped => {}
        }
        let node = self.hosts[n].config.node.0;
        self.streams.iter_mut().for_each(|stream| stream.checker.see(&Told::Damage { node, damage }));
    }

    /// A standby applies what a leader of that log has flushed; in a world with one leader the checker holds it to
    /// what the rule has made safe, too.
    pub(super) fn check_applies(&mut self, n: usize, upto: Lsn, owner: Term) {
        let flushed = self.flushed.get(&owner).copied().unwrap_or_default();
        promise!(
            self.env,
            flushed >= upto,
            "n{n} may apply {upto} of term {owner}, whose leaders have flushed {flushed}"
        );
        if let [stream] = self.streams.as_mut_slice() {
            let node = self.hosts[n].config.node.0;
            stream.checker.see(&Told::Applied { node, lsn: upto });
        }
    }

    /// Where no disk was lost or damaged nobody comes back with less than he had reported as flushed.
    pub(super) fn check_excluded(&mut self, n: usize) {
        let all_whole = self.disk_losses == 0 && !self.plan.ever_damaged;
        if let Some(peer) = self.hosts[n].excluded.filter(|_| all_whole) {
            self.env.breaks(format!("n{n} excludes its standby {peer}, and no disk has lost anything"));
        }
    }

    /// Whenever a process ends, its segments lie side by side: the next start refuses a gap.
    pub(super) fn check_segments(&mut self, n: usize) {
        if let Some(seq) = self.hosts[n].disk.gap(self.setup.geometry) {
            self.env.breaks(format!("n{n} ends without segment {seq}, and with later ones in place"));
        }
    }

    /// The most that a leader showed as exposure above the truth.
    pub fn gauge_excess_bytes(&self) -> u64 {
        self.streams.iter().map(|stream| stream.checker.gauge_excess_bytes()).max().unwrap_or(0)
    }

    /// The end of a world: every log is read.
    pub fn check_logs(&mut self) {
        let geometry = self.setup.geometry;
        let Some(leader) = self.newest_leader() else { return };
        for host in &self.hosts {
            let same = host.is_function_of_inputs() != Some(false);
            promise!(self.env, same, "n{}: fed again, its inputs give other outputs", host.name);
        }
        let walks: Vec<(usize, Walk)> = self
            .hosts
            .iter()
            .enumerate()
            .filter(|(_, host)| host.node.is_some())
            .map(|(n, host)| (n, host.disk.walk(geometry)))
            .collect();
        let replicas: Vec<Replica> = walks.iter().map(|(n, walk)| replica(*n, walk)).collect();
        for violation in replicas_agree(&replicas, geometry.segment_bytes) {
            self.env.breaks(format!("copies differ: {violation}"));
        }
        sometimes!(self.env.marks, Relayed, self.setup.relay);
        let Some((_, walk)) = walks.iter().find(|(n, _)| *n == leader) else { return };
        let meta = &self.hosts[leader].disk.meta;
        let kept: Vec<AckedRecord> = self
            .acked
            .iter()
            .filter(|acked| acked.span.start >= meta.log_start)
            .filter(|acked| self.is_owed(acked) || holds(&meta.history, walk.end.lsn, acked))
            .map(record_of)
            .collect();
        for violation in records_survive(&kept, &walk.records()) {
            self.env.breaks(format!("the log at the end: {violation}"));
        }
        self.note_losses();
    }

    fn note_losses(&mut self) {
        let Some(last) = self.streams.last() else { return };
        let summary = last.checker.verdict().summary;
        let marks = &mut self.env.marks;
        sometimes!(marks, LostLocal, summary.lost[1] > 0);
        sometimes!(marks, LostWritten, summary.lost[2] > 0);
        sometimes!(marks, LostWindowed, summary.lost_windowed > 0);
        let lost = |acked: &&Acked| acked.level == Level::Off && !holds(&last.history, last.start, acked);
        let has_lost = self.acked.iter().filter(|acked| acked.term < last.term).any(|acked| lost(&acked));
        sometimes!(marks, LostOff, has_lost);
    }
}

/// Whether a log of this history that ends there holds the record (or has been trimmed past it).
fn holds(history: &TermHistory, end: Lsn, acked: &Acked) -> bool {
    let trimmed = history.entries().first().is_some_and(|first| acked.span.start < first.start);
    trimmed || (history.owner(acked.span.start) == Some(acked.term) && acked.span.end <= end)
}

fn record_of(acked: &Acked) -> AckedRecord {
    AckedRecord {
        lsn: acked.span.start,
        key: acked.key,
        payload_bytes: 0,
        records_through: 0,
        payload_through: 0,
        accepted_ns: 0,
    }
}

fn replica(n: usize, walk: &Walk) -> Replica {
    let stored = |batch: &crate::walk::Batch| {
        let Span { start, end } = batch.header.span();
        StoredBatch { start, end, hash: batch.hash }
    };
    Replica { name: format!("n{n}"), batches: walk.batches.iter().map(stored).collect() }
}

//! The oracle: what the commit gate has to decide, from every ticket and every report there ever was.

// Private to one test; a mark that is missing here is a test that fails.
#![allow(unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;

use towline_core::replication::{Members, Method, Stage, SyncRule, Unmet};
use towline_core::types::{Level, Lsn, Position, StandbyWatermarks, Window};

/// Standbys, named `a`, `b` and so on.
pub const PEERS: usize = 3;

/// Everything there is to know of a ticket.
#[derive(Clone, Debug)]
pub struct OracleTicket {
    pub lsn: Lsn,
    pub end: Lsn,
    pub records_through: u64,
    pub payload_through: u64,
    pub payload_bytes: u64,
    pub level: Level,
    pub window: Option<Window>,
    pub era: usize,
    pub waited: bool,
    pub is_wait: bool,
}

/// What the standbys had said at one moment.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    pub reports: [Option<StandbyWatermarks>; PEERS],
    pub live: [bool; PEERS],
    pub excluded: [bool; PEERS],
}

/// A rule, and the moment since which it is watched.
#[derive(Debug)]
pub struct OracleEra {
    pub version: u64,
    pub rule: Option<SyncRule>,
    pub since: usize,
}

/// Keeps everything, and looks at all of it each time.
#[derive(Debug)]
pub struct Oracle {
    pub batches: Vec<(Position, u64, u64)>,
    pub acked: Vec<u64>,
    pub flushed: Lsn,
    pub moments: Vec<Moment>,
    pub eras: Vec<OracleEra>,
    pub in_force: usize,
    pub pending_end: Lsn,
    pub waiting: BTreeMap<u64, OracleTicket>,
    pub now_ns: u64,
    pub unmet: Unmet,
    pub unmet_since: Option<u64>,
    pub degraded: bool,
    pub heal_at: Option<Lsn>,
    pub said: Vec<String>,
}

impl Oracle {
    fn candidates(rule: &SyncRule) -> Vec<usize> {
        match &rule.members {
            Members::Star => (0..PEERS).collect(),
            Members::List(names) => names.iter().map(|name| usize::from(name.as_bytes()[0] - b'a')).collect(),
        }
    }

    /// The k-th highest mark at a moment.
    fn any(moment: &Moment, among: &[usize], k: usize, stage: Stage) -> Option<Position> {
        let mut marks: Vec<Position> = among
            .iter()
            .filter(|peer| !moment.excluded[**peer])
            .filter_map(|peer| moment.reports[*peer].map(|report| stage.watermark(&report)))
            .collect();
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.lsn));
        marks.get(k - 1).copied()
    }

    fn safe_of_era(&self, era: &OracleEra, stage: Stage) -> Option<Option<Position>> {
        let rule = era.rule.as_ref()?;
        let (among, k) = (Oracle::candidates(rule), usize::from(rule.k));
        let now = &self.moments[self.moments.len() - 1];
        if rule.method == Method::Any {
            return Some(Oracle::any(now, &among, k, stage));
        }
        // The highest mark that the first k live once all had, and that k have had ever since.
        let mut best: Option<Position> = None;
        let mut floor: Option<Position> = None;
        for (age, moment) in self.moments[era.since..].iter().rev().enumerate() {
            let Some(held) = Oracle::any(moment, &among, k, stage) else { break };
            floor = Some(match floor {
                Some(floor) if age > 0 && floor.lsn <= held.lsn => floor,
                _ => held,
            });
            let first: Vec<usize> = among
                .iter()
                .copied()
                .filter(|peer| moment.live[*peer] && !moment.excluded[*peer])
                .take(k)
                .collect();
            let marks: Vec<Position> = first
                .iter()
                .filter_map(|peer| moment.reports[*peer].map(|report| stage.watermark(&report)))
                .collect();
            if marks.len() < k {
                continue;
            }
            let least = marks.iter().min_by_key(|mark| mark.lsn).copied().unwrap();
            let kept = [least, floor.unwrap()].into_iter().min_by_key(|mark| mark.lsn).unwrap();
            if best.is_none_or(|best| best.lsn < kept.lsn) {
                best = Some(kept);
            }
        }
        Some(best)
    }

    /// Outer `None`: no rule; inner `None`: undefined.
    pub fn safe(&self, from_era: usize, stage: Stage) -> Option<Option<Position>> {
        let all: Vec<Option<Position>> =
            self.eras[from_era..].iter().filter_map(|era| self.safe_of_era(era, stage)).collect();
        if all.is_empty() {
            return None;
        }
        if all.iter().any(Option::is_none) {
            return Some(None);
        }
        Some(all.into_iter().flatten().min_by_key(|mark| mark.lsn))
    }

    fn is_due(&self, ticket: &OracleTicket) -> bool {
        if ticket.level == Level::Off {
            return self.batches.last().unwrap().0.lsn >= ticket.end;
        }
        if self.flushed < ticket.end {
            return false;
        }
        if ticket.level == Level::Local || ticket.window == Some(Window::Infinite) {
            return true;
        }
        let safe = match self.safe(ticket.era, Stage::of(ticket.level).unwrap()) {
            None => return true,
            Some(None) => return false,
            Some(Some(safe)) => safe,
        };
        if safe.lsn >= ticket.end {
            return true;
        }
        match ticket.window {
            Some(Window::Bytes(bytes)) if bytes > 0 => ticket.payload_through - safe.payload_bytes <= bytes,
            Some(Window::Records(records)) if records > 0 => ticket.records_through - safe.records <= records,
            Some(Window::Micros(micros)) if micros > 0 => {
                let oldest =
                    self.batches.iter().enumerate().skip(1).filter(|(index, (after, _, records))| {
                        *records > 0 && after.lsn > safe.lsn && self.batches[index - 1].0.lsn < ticket.end
                    });
                let accepted = oldest.map(|(_, (_, accepted_ns, _))| *accepted_ns).min().unwrap();
                safe.lsn >= self.batches[0].0.lsn && self.now_ns - accepted <= micros * 1000
            }
            _ => false,
        }
    }

    fn is_met(&self) -> bool {
        let first = self.waiting.values().filter(|t| t.uses_era()).map(|t| t.era).min();
        let now = &self.moments[self.moments.len() - 1];
        self.eras[first.unwrap_or(self.in_force).min(self.in_force)..].iter().all(|era| {
            era.rule.as_ref().is_none_or(|rule| {
                let live = Oracle::candidates(rule).into_iter().filter(|p| now.live[*p] && !now.excluded[*p]);
                live.count() >= usize::from(rule.k)
            })
        })
    }

    fn acknowledge(&mut self, id: u64, degraded: bool) {
        let ticket = self.waiting.remove(&id).unwrap();
        let remote = ticket.level.is_remote();
        let era = &self.eras[self.in_force];
        let (level, window) = if !remote {
            (ticket.level, None)
        } else if degraded || ticket.window == Some(Window::Infinite) {
            (Level::Local, Some(Window::Infinite))
        } else if era.rule.is_none() {
            (Level::Local, ticket.window.map(|_| Window::Infinite))
        } else {
            (ticket.level, ticket.window)
        };
        let group = if ticket.uses_era() { ticket.era } else { self.in_force };
        let safe = self.safe(group, Stage::of(ticket.level).unwrap_or(Stage::Flushed)).flatten();
        let fill = match safe {
            Some(safe) if safe.lsn >= ticket.end => 0,
            safe => ticket.payload_through - safe.map_or(0, |safe| safe.payload_bytes),
        };
        let shown = if ticket.is_wait { String::new() } else { format!(" fill {fill}") };
        let (lsn, end) = (ticket.lsn, ticket.end);
        self.said
            .push(format!("{id} {lsn} {end} {level} {window:?} v{} {}{shown}", era.version, ticket.waited));
        if let Some(index) = self.batches.iter().position(|(after, ..)| after.lsn >= ticket.end) {
            self.acked[index] += ticket.payload_bytes;
        }
    }

    pub fn settle(&mut self) {
        if self.eras.len() > self.in_force + 1 && self.flushed >= self.pending_end {
            let is_safe = match self.safe(self.in_force, Stage::Flushed) {
                None => true,
                Some(safe) => safe.is_some_and(|safe| safe.lsn >= self.pending_end),
            };
            if is_safe {
                self.in_force += 1;
                self.said.push(format!("rule {}", self.eras[self.in_force].version));
            }
        }
        let ids: Vec<u64> = self.waiting.keys().copied().collect();
        for id in &ids {
            if self.is_due(&self.waiting[id]) {
                self.acknowledge(*id, false);
            } else if let Some(ticket) = self.waiting.get_mut(id)
                && ticket.window.is_some()
                && ticket.end <= self.flushed
            {
                ticket.waited = true;
            }
        }
        self.watch();
        if self.degraded {
            self.degrade_all();
            self.watch();
        }
    }

    fn watch(&mut self) {
        if !self.is_met() {
            self.heal_at = None;
            self.unmet_since = self.unmet_since.or(Some(self.now_ns));
            return;
        }
        self.unmet_since = None;
        if self.degraded {
            let target = *self.heal_at.get_or_insert(self.flushed);
            let first = self.waiting.values().filter(|t| t.uses_era()).map(|t| t.era).min();
            let healed = match self.safe(first.unwrap_or(self.in_force).min(self.in_force), Stage::Flushed) {
                None => true,
                Some(safe) => safe.is_some_and(|safe| safe.lsn >= target),
            };
            if healed {
                self.degraded = false;
                self.heal_at = None;
                self.said.push("healed".to_owned());
            }
        }
    }

    fn degrade_all(&mut self) -> usize {
        let due: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, ticket)| ticket.uses_era() && ticket.end <= self.flushed)
            .map(|(id, _)| *id)
            .collect();
        due.iter().for_each(|id| self.acknowledge(*id, true));
        due.len()
    }

    pub fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.watch();
        let Unmet::DegradeAfter { ns } = self.unmet else { return };
        if !self.degraded && self.unmet_since.is_some_and(|since| now_ns - since >= ns) {
            self.degraded = true;
            let released = self.degrade_all();
            self.said.push(format!("degraded {released}"));
            self.watch();
        }
    }

    pub fn exposure(&self, stage: Stage) -> Option<u64> {
        let safe = self.safe(self.in_force, stage)??;
        let past = self.batches.iter().zip(&self.acked).filter(|((after, ..), _)| after.lsn > safe.lsn);
        Some(past.map(|(_, acked)| acked).sum())
    }
}

impl OracleTicket {
    pub fn uses_era(&self) -> bool {
        self.level.is_remote() && self.window != Some(Window::Infinite)
    }
}

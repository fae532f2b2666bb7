//! Opening a log: walk it to its end, judge what stands there.

use std::collections::BTreeMap;

use super::ahead::{Ahead, Look};
use super::source::{ScanError, SegmentSource, SegmentTable};
use super::verdict::{Evidence, Standing, Verdict, judge};
use super::walk::{BatchView, BatchWalk, Step};
use crate::format::{BatchKind, SegmentVerdict};
use crate::log::Recovered;
use crate::types::{Geometry, LogId, Lsn, Meta, TermHistory};

/// What a scan needs to know of the log beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct ScanInput<'a> {
    /// The log.
    pub log: LogId,
    /// Its geometry.
    pub geometry: Geometry,
    /// The meta block in force.
    pub meta: &'a Meta,
    /// A peer holds the log up to here, if one has been asked.
    pub peer_holds: Option<Lsn>,
}

/// What a scan found. It changed nothing: the caller cuts what the verdict says, after recording the span.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scan {
    /// The verdict.
    pub verdict: Verdict,
    /// What it rests on.
    pub evidence: Evidence,
    /// The log up to the first bad place. After [`Verdict::Corrupt`] it is for read-only salvage alone.
    pub recovered: Recovered,
    /// Valid batches before the first bad place.
    pub batches: u64,
    /// What lies behind it.
    pub ahead: Ahead,
    /// Segments with one damaged copy of their header, and which: rewrite them before the other one goes.
    pub header_repairs: Vec<(u64, [bool; 2])>,
    /// Segments from the end of the log on whose header is damaged or another's. Nothing valid is in them: prepare
    /// them anew.
    pub unusable: Vec<u64>,
}

/// Reads the whole log and judges its end.
///
/// # Errors
/// Only when the source cannot be read: damage is a verdict.
pub fn scan(source: &dyn SegmentSource, input: ScanInput<'_>) -> Result<Scan, ScanError> {
    let ScanInput { log, geometry, meta, peer_holds } = input;
    let table = SegmentTable::load(source, geometry, log, meta.log_start)?;
    let mut walk = BatchWalk::new(source, &table, log, geometry, &meta.history, meta.log_start);
    let mut tally = Tally::default();
    let stop = loop {
        match walk.step()? {
            Step::Batch(batch) => tally.take(geometry, &meta.history, &batch),
            Step::Stop(stop) => break stop,
        }
    };
    let unfinished = meta.unfinished.iter().filter(|span| span.contains(stop.at)).map(|span| span.end).max();
    let limit_end = stop.at.plus(geometry.in_flight_bytes).max(unfinished.unwrap_or_default());
    let look = Look { source, table: &table, log, geometry, history: &meta.history };
    let ahead = look.from(stop.at, limit_end)?;
    let evidence = Evidence {
        at: stop.at,
        // A gap anywhere is no crash: segments come and go at the ends of the sequence only.
        standing: if table.gap().is_some() { Standing::SequenceGap } else { stop.standing },
        in_unfinished: unfinished.is_some(),
        limit_end,
        valid_behind: ahead.span,
        durable_proof: ahead.durable_proof,
        reported: meta.reported,
        peer_holds,
    };
    let verdict = judge(&evidence);
    let usable = table
        .states
        .iter()
        .take_while(|(_, state)| state.bytes >= geometry.segment_bytes && state.ours().is_some());
    let segments: BTreeMap<u64, u32> =
        usable.filter_map(|(seq, state)| state.ours().map(|header| (*seq, header.salt))).collect();
    let recovered = Recovered {
        end: walk.end(),
        previous_hash: walk.previous_hash(),
        sealed: walk.is_sealed(),
        rule: tally.rules.in_force,
        pending_rule: tally.rules.pending,
        rolls: tally.rolls,
        leader_flushed: tally.leader_flushed,
        leader_claimed: tally.leader_claimed,
        cut: verdict.cut(),
        segments: segments.iter().map(|(seq, salt)| (*seq, *salt)).collect(),
    };
    let header_repairs = table.states.iter().filter_map(|(seq, state)| match state.header {
        SegmentVerdict::Ours { damaged, .. } if damaged != [false, false] => Some((*seq, damaged)),
        _ => None,
    });
    let unusable = table.states.keys().filter(|seq| !segments.contains_key(seq)).copied();
    Ok(Scan {
        verdict,
        evidence,
        recovered,
        batches: tally.batches,
        ahead,
        header_repairs: header_repairs.collect(),
        unusable: unusable.collect(),
    })
}

#[derive(Default)]
struct Tally {
    batches: u64,
    rolls: Vec<Lsn>,
    leader_flushed: Lsn,
    leader_claimed: Lsn,
    rules: Rules,
}

impl Tally {
    fn take(&mut self, geometry: Geometry, history: &TermHistory, batch: &BatchView<'_>) {
        let header = &batch.header;
        self.batches += 1;
        self.leader_flushed = self.leader_flushed.max(header.durable_before);
        let claimed = history.claimed_by(header.term.node, header.durable_before);
        self.leader_claimed = self.leader_claimed.max(claimed);
        if header.kind == BatchKind::Roll {
            self.rolls.push(header.stored().end);
        }
        let restates = header.start == geometry.first_batch(geometry.segment_of(header.start));
        for (index, (version, rule)) in batch.summary.rules.iter().enumerate() {
            self.rules.take(restates && index == 0, *version, rule);
        }
    }
}

/// The sync rule as the log tells it. One change is pending at a time, so a newer proposal means that the one
/// before it came into force; the first rule that a segment restates is in force, and so is the first of a log:
/// having had no rule promised nothing, and a crash must not bring back a time when remote levels meant `local`.
#[derive(Default)]
struct Rules {
    in_force: Option<(u64, String)>,
    pending: Option<(u64, String)>,
}

impl Rules {
    fn take(&mut self, in_force: bool, version: u64, rule: &str) {
        let newest = |known: &Option<(u64, String)>| known.as_ref().map_or(0, |(version, _)| *version);
        let is_first = newest(&self.in_force).max(newest(&self.pending)) == 0;
        if (in_force || is_first) && version >= newest(&self.in_force) {
            self.in_force = Some((version, rule.to_owned()));
            self.pending.take_if(|(pending, _)| *pending <= version);
        } else if version > newest(&self.in_force).max(newest(&self.pending)) {
            if let Some(pending) = self.pending.take() {
                self.in_force = Some(pending);
            }
            self.pending = Some((version, rule.to_owned()));
        }
    }
}

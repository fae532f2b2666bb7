//! What was acknowledged against what is there.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use towline::{Level, Lsn, Window};
use towline_check::{AckedRecord, FoundRecord, lost_span, records_survive};
use towline_core::format::record_bytes;

use crate::cluster::{Cluster, Found, Logs, Victims};
use crate::load::{Append, End, Journal, Load, Plan, payload};

/// The arena of a primary here: what it may have accepted and not written.
const ARENA_BYTES: u64 = 4 << 20;

/// Counts of a run.
#[derive(Default)]
pub(crate) struct Tally {
    moments: u64,
    killed: [u64; 2],
    sent: u64,
    acked: u64,
    indeterminate: u64,
    refused: u64,
    /// Acknowledged and gone: `off` only.
    pub(crate) lost: u64,
    losing_kills: u64,
    max_lost_bytes: u64,
    max_lost_age: Duration,
    /// Appends that had to wait for their window.
    pub(crate) waited: u64,
    pub(crate) max_fill_bytes: u64,
    max_gap_bytes: u64,
}

impl Tally {
    pub(crate) fn kills(&self) -> u64 {
        self.killed.iter().sum()
    }

    pub(crate) fn count(&mut self, victims: Victims) {
        self.moments += 1;
        self.killed[0] += u64::from(victims.primary);
        self.killed[1] += victims.standbys.into_iter().map(u64::from).sum::<u64>();
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [primary, standby] = self.killed;
        write!(f, "{} SIGKILLs ({primary} of the primary, {standby} of standbys, ", self.kills())?;
        write!(f, "{} moments), {} appends, {} acked, ", self.moments, self.sent, self.acked)?;
        write!(f, "{} indeterminate, {} refused, ", self.indeterminate, self.refused)?;
        write!(f, "{} lost (at {} kills, ", self.lost, self.losing_kills)?;
        write!(f, "at most {} bytes and {:?} old)", self.max_lost_bytes, self.max_lost_age)?;
        if self.max_fill_bytes > 0 {
            write!(f, ", {} waited for the window, fill up to {} bytes", self.waited, self.max_fill_bytes)?;
            write!(f, ", standbys lacked up to {} acked bytes", self.max_gap_bytes)?;
        }
        Ok(())
    }
}

/// At the death of a primary: how many appends had been sent, and where the longer standby's log ended.
pub(crate) struct Gap {
    sent: usize,
    standbys_end: Lsn,
}

/// With the primary dead, the standbys alone must hold what was acknowledged remotely.
pub(crate) fn standbys_hold(plan: Plan, cluster: &Cluster, load: &Load, victims: Victims) -> Gap {
    let acked = load.last_acked_end().unwrap_or_default();
    let ends = cluster.standby_ends();
    let standbys_end = ends[0].max(ends[1]);
    if plan.window.is_none() {
        assert!(
            standbys_end >= acked,
            "acknowledged up to {acked}, {victims:?} killed, standbys hold {ends:?}"
        );
    }
    // What a killed one had applied went with it, and it may be the one that counted.
    if plan.level == Level::RemoteApply && plan.window.is_none() && victims.standbys == [false, false] {
        let applied = cluster.standby_applied();
        assert!(applied[0].max(applied[1]) >= acked, "acknowledged up to {acked}, applied {applied:?}");
    }
    Gap { sent: load.sent(), standbys_end }
}

/// Holds a round's acknowledgements against its log.
pub(crate) fn judge(plan: Plan, journal: &Journal, logs: &Logs, gaps: &[Gap], tally: &mut Tally) {
    let keys = keys(&logs.records);
    let same = logs.tailed.len() == logs.records.len()
        && logs.tailed.iter().zip(&logs.records).all(|(a, b)| a.lsn == b.lsn && a.payload == b.payload);
    assert!(same, "the tail gave {} records, the files {}", logs.tailed.len(), logs.records.len());
    assert!(keys.is_sorted_by(|a, b| a < b), "records are not in the order in which they were sent");

    let places = Places::new(&keys, &logs.records);
    let found: Vec<FoundRecord> = keys
        .iter()
        .zip(&logs.records)
        .map(|(key, record)| FoundRecord { lsn: record.lsn, key: *key })
        .collect();
    let lost = check_prefixes(plan, journal, &places, tally);
    let protected: Vec<AckedRecord> = journal
        .appends
        .iter()
        .filter(|append| !lost.contains_key(&append.key))
        .flat_map(|append| acked_records(append, &places))
        .collect();
    let violations = records_survive(&protected, &found);
    assert!(
        violations.is_empty(),
        "{} violations: {:#?}",
        violations.len(),
        &violations[..violations.len().min(10)]
    );

    for append in &journal.appends {
        tally.sent += 1;
        match &append.end {
            End::Acked { ack, .. } => {
                tally.acked += 1;
                assert_eq!(
                    ack.level, append.level,
                    "weaker than asked for, and nothing degrades here: {append:?}"
                );
                assert_eq!(ack.window, plan.window.filter(|_| append.level.is_remote()));
                tally.max_fill_bytes =
                    tally.max_fill_bytes.max(ack.fill_bytes * u64::from(plan.window.is_some()));
                tally.waited += u64::from(ack.waited_for_window);
                if let Some(Window::Bytes(limit)) = plan.window {
                    assert!(ack.fill_bytes <= limit, "a fill of {} bytes: {append:?}", ack.fill_bytes);
                }
            }
            End::Refused => {
                tally.refused += 1;
                assert!(!places.has(append.key), "refused, and in the log: {append:?}");
            }
            End::Indeterminate => tally.indeterminate += 1,
            End::Waiting => panic!("never ended: {append:?}"),
        }
    }
    if let Some(window) = plan.window {
        gaps.iter().for_each(|gap| check_gap(window, gap, journal, &places, tally));
    }
}

/// Of what one primary was sent, the log holds a beginning: each append whole, and none behind one that is missing.
/// Returns the appends that were acknowledged and are gone, which only `off` may lose, and only with a primary: none of
/// them lies before something acknowledged as flushed, and they span no more than was in memory.
fn check_prefixes<'a>(
    plan: Plan,
    journal: &'a Journal,
    places: &Places,
    tally: &mut Tally,
) -> HashMap<u64, &'a Append> {
    let mut lost = HashMap::new();
    for run in journal.appends.chunk_by(|a, b| a.run == b.run) {
        let mut missing: Option<&Append> = None;
        let mut first_lost: Option<Lsn> = None;
        for append in run.iter().filter(|append| !matches!(append.end, End::Refused)) {
            let there =
                (append.key..append.key + append.records).filter(|key| places.has(*key)).count() as u64;
            assert!(there == 0 || there == append.records, "{there} records of {append:?} are there");
            if there > 0 {
                assert!(missing.is_none(), "{append:?} is there, and before it is missing {missing:?}");
                continue;
            }
            missing = missing.or(Some(append));
            let End::Acked { ack, at } = &append.end else { continue };
            assert!(append.level == Level::Off, "lost at {}: {append:?}", append.level);
            let ended = journal.run_ends[append.run as usize];
            let first = *first_lost.get_or_insert(ack.lsn);
            tally.max_lost_bytes = tally.max_lost_bytes.max(ack.end.0 - first.0);
            tally.max_lost_age = tally.max_lost_age.max(ended.duration_since(*at));
            lost.insert(append.key, append);
        }
        tally.losing_kills += u64::from(first_lost.is_some());
        let ends_alive = run.last().map(|append| append.run as usize + 1) == Some(journal.run_ends.len());
        assert!(!ends_alive || missing.is_none(), "missing though its primary was never killed: {missing:?}");
    }
    assert!(lost.is_empty() || plan.level == Level::Off);
    assert!(tally.max_lost_bytes <= ARENA_BYTES, "{} bytes were lost at once", tally.max_lost_bytes);
    tally.lost += lost.len() as u64;
    lost
}

/// Had the primary's disk been lost here, what was acknowledged under the window and is on no standby lies within it.
fn check_gap(window: Window, gap: &Gap, journal: &Journal, places: &Places, tally: &mut Tally) {
    let sent = &journal.appends[..gap.sent];
    let gone = sent.iter().filter(|append| append.ack().is_some_and(|ack| ack.end > gap.standbys_end));
    let gone: Vec<AckedRecord> = gone.flat_map(|append| acked_records(append, places)).collect();
    let span = lost_span(&gone, &[]);
    assert_eq!(span.check(window), None, "the standbys ended at {}", gap.standbys_end);
    tally.max_gap_bytes = tally.max_gap_bytes.max(span.payload_bytes);
}

/// The records of an append, as its ack places them: the first at its LSN, the others behind it.
fn acked_records(append: &Append, places: &Places) -> Vec<AckedRecord> {
    let Some(ack) = append.ack() else { return Vec::new() };
    let mut lsn = ack.lsn;
    let mut records = Vec::with_capacity(append.records as usize);
    for key in append.key..append.key + append.records {
        let payload_bytes = payload(key).len() as u64;
        let (records_through, payload_through) = places.through(key);
        records.push(AckedRecord {
            lsn,
            key,
            payload_bytes,
            records_through,
            payload_through,
            accepted_ns: 0,
        });
        lsn = lsn.plus(record_bytes(payload_bytes));
    }
    assert_eq!(lsn, ack.end, "an ack whose end is not its last record's: {append:?}");
    records
}

/// The number in each record, after a look at all its bytes.
fn keys(records: &[Found]) -> Vec<u64> {
    let number = |record: &Found| {
        let key = record.payload.first_chunk().copied().map(u64::from_le_bytes);
        let key = key.unwrap_or_else(|| panic!("a record at {} that nobody sent", record.lsn));
        assert!(record.payload == payload(key), "record {key} at {} is not what was sent", record.lsn);
        key
    };
    records.iter().map(number).collect()
}

/// Where records are in the order of the log: how many records, and payload bytes, up to and with each.
struct Places(HashMap<u64, (u64, u64)>);

impl Places {
    fn new(keys: &[u64], records: &[Found]) -> Places {
        let mut through = (0, 0);
        let places = keys.iter().zip(records).map(|(key, record)| {
            through = (through.0 + 1, through.1 + record.payload.len() as u64);
            (*key, through)
        });
        Places(places.collect())
    }

    fn has(&self, key: u64) -> bool {
        self.0.contains_key(&key)
    }

    fn through(&self, key: u64) -> (u64, u64) {
        self.0.get(&key).copied().unwrap_or_default()
    }
}

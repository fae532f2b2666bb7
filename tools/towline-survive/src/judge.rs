//! What was acknowledged against what is there.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use towline::{Committed, Level, Lsn, Window};
use towline_check::{AckedRecord, FoundRecord, Kind, LostSpan, lost_span, records_survive};

use crate::context::Context;
use crate::error::{Result, SurviveError};
use crate::load::{Append, End, Journal, mark, payload};
use crate::process::connect;
use crate::row::Row;

/// What a look at the survivor gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Judgement {
    pub(crate) sent: u64,
    pub(crate) acked: u64,
    pub(crate) indeterminate: u64,
    /// Acknowledged and gone.
    pub(crate) lost: u64,
    pub(crate) lost_bytes: u64,
    /// From the first of the lost records to the last, others between them included.
    pub(crate) span: LostSpan,
    /// The least that the acceptance of the lost records can be apart: neither end is known exactly.
    pub(crate) least_spread_ns: u64,
    /// Doubled, changed, out of order, with a gap, weaker than asked for: wrong whatever the level is.
    pub(crate) anomalies: Vec<String>,
}

/// What a payload says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Key(u64),
    Mark,
    Strange,
}

pub(crate) fn known(bytes: &[u8]) -> Sent {
    match bytes.first_chunk().copied().map(u64::from_le_bytes) {
        Some(MARK) => Sent::Mark,
        Some(key) if bytes == payload(key) => Sent::Key(key),
        _ => Sent::Strange,
    }
}

/// Records of the survivor, in the order of its log, to a mark that is appended now.
pub(crate) fn read_survivor(
    context: &Context,
    address: SocketAddr,
) -> Result<(Vec<FoundRecord>, Vec<String>)> {
    let last = mark(context, address, MARK)?;
    let mut tail = connect(address)?.tail(Lsn(0), true)?;
    let end = Instant::now() + READ_LIMIT;
    let (mut found, mut anomalies) = (Vec::new(), Vec::new());
    loop {
        context.check()?;
        if Instant::now() > end {
            return Err(SurviveError::Late(format!("the log of {address} ends before {}", last.lsn)));
        }
        let Some(batch) = tail.next_batch_timeout(Duration::from_millis(200))? else { continue };
        for record in batch.records() {
            if record.lsn == last.lsn {
                return Ok((found, anomalies));
            }
            match known(&record.payload) {
                Sent::Mark => {}
                Sent::Key(key) => found.push(FoundRecord { lsn: record.lsn, key }),
                Sent::Strange => {
                    anomalies.push(format!("the record at {} is not what anybody sent", record.lsn));
                }
            }
        }
    }
}

/// Holds the acknowledgements of a row against what was found. `on_is_safe`: what was acknowledged at `on` before the
/// rule could not be met any more must be there.
pub(crate) fn judge(journal: &Journal, found: &[FoundRecord], row: &Row, on_is_safe: bool) -> Judgement {
    let mut judgement = Judgement { anomalies: journal.nonsense.clone(), ..Judgement::default() };
    let acked = acked_records(journal);
    for violation in records_survive(&acked, found) {
        match violation.kind {
            // The place may have been taken by a record of the next leader: lost all the same.
            Kind::Lost | Kind::Changed => judgement.lost += 1,
            _ => judgement.anomalies.push(violation.to_string()),
        }
    }
    judgement.span = lost_span(&acked, found);
    let places: HashSet<(Lsn, u64)> = found.iter().map(|record| (record.lsn, record.key)).collect();
    let is_lost = |record: &&AckedRecord| !places.contains(&(record.lsn, record.key));
    judgement.lost_bytes = acked.iter().filter(is_lost).map(|record| record.payload_bytes).sum();
    let lost_keys: HashSet<u64> = acked.iter().filter(is_lost).map(|record| record.key).collect();
    judgement.least_spread_ns = least_spread(journal, &lost_keys);
    judgement.anomalies.extend(gaps(journal, found));
    for append in &journal.appends {
        judgement.sent += 1;
        match &append.end {
            End::Acked { ack, .. } => {
                judgement.acked += 1;
                judgement.anomalies.extend(weaker(row, append.key, ack));
                if row.degrade_after.is_some()
                    && ack.level == Level::On
                    && on_is_safe
                    && lost_keys.contains(&append.key)
                {
                    judgement
                        .anomalies
                        .push(format!("record {} was acknowledged at on, and is lost", append.key));
                }
            }
            End::Indeterminate | End::Waiting => judgement.indeterminate += 1,
            End::Refused => {}
        }
    }
    judgement
}

impl Judgement {
    /// The span that is lost for sure, as a promise is held against it: in time it is the least that it can be.
    pub(crate) fn surest_span(&self) -> LostSpan {
        LostSpan { accepted_spread_ns: self.least_spread_ns, ..self.span }
    }

    /// Its size in the unit of a window.
    pub(crate) fn span_in(&self, window: Window) -> u64 {
        let span = self.surest_span();
        match window {
            Window::Bytes(_) => span.payload_bytes,
            Window::Records(_) => span.records,
            Window::Micros(_) => span.accepted_spread_ns / 1000,
            Window::Infinite => 0,
        }
    }
}

/// An acknowledgement that is not what was asked for.
fn weaker(row: &Row, key: u64, ack: &Committed) -> Option<String> {
    // A window without an end is `local`, and so is what was acknowledged while the rule could not be met.
    let is_endless = ack.level == Level::Local && ack.window == Some(Window::Infinite);
    let may_be = row.degrade_after.is_some() || row.window == Some(Window::Infinite);
    let as_asked = ack.level == row.level && (!row.level.is_remote() || ack.window == row.window);
    (!(as_asked || may_be && is_endless)).then(|| {
        let (level, window) = (ack.level, ack.window);
        format!("record {key} was acknowledged at {level} within {window:?}, not as {}", row.name)
    })
}

/// Every record that was acknowledged, with its place among all that were sent over its connection: one connection's
/// records are in the log in the order sent.
fn acked_records(journal: &Journal) -> Vec<AckedRecord> {
    let (mut records_through, mut payload_through) = (0, 0);
    let mut acked = Vec::new();
    for append in journal.appends.iter().filter(|append| !matches!(append.end, End::Refused)) {
        let payload_bytes = payload(append.key).len() as u64;
        records_through += 1;
        payload_through += payload_bytes;
        if let Some((ack, _)) = append.ack() {
            acked.push(AckedRecord {
                lsn: ack.lsn,
                key: append.key,
                payload_bytes,
                records_through,
                payload_through,
                accepted_ns: append.sent_ns,
            });
        }
    }
    acked
}

/// A record was accepted after it was sent and before it was acknowledged.
fn least_spread(journal: &Journal, lost: &HashSet<u64>) -> u64 {
    let of_lost = journal.appends.iter().filter(|append| lost.contains(&append.key));
    let times = of_lost.filter_map(|append| append.ack().map(|(_, at_ns)| (append.sent_ns, at_ns)));
    let (mut latest_start, mut earliest_end) = (0, u64::MAX);
    for (sent_ns, at_ns) in times {
        latest_start = latest_start.max(sent_ns);
        earliest_end = earliest_end.min(at_ns);
    }
    latest_start.saturating_sub(earliest_end)
}

/// Of what was sent over one connection the log holds a beginning: none is there behind one that is missing.
fn gaps(journal: &Journal, found: &[FoundRecord]) -> Vec<String> {
    let places: HashMap<u64, usize> =
        found.iter().enumerate().map(|(place, record)| (record.key, place)).collect();
    let mut gaps = Vec::new();
    for run in journal.appends.chunk_by(|a, b| a.run == b.run) {
        let mut missing: Option<&Append> = None;
        let mut last = None;
        for append in run {
            let place = places.get(&append.key);
            match (place, missing) {
                (Some(_), _) if matches!(append.end, End::Refused) => {
                    gaps.push(format!("record {} was refused, and is in the log", append.key));
                }
                (None, _) if matches!(append.end, End::Refused) => {}
                (Some(_), Some(missing)) => {
                    gaps.push(format!(
                        "record {} is there, and {} before it is not",
                        append.key, missing.key
                    ));
                }
                (None, None) => missing = Some(append),
                (None, Some(_)) => {}
                (Some(place), None) => {
                    if last.is_some_and(|last| last > place) {
                        gaps.push(format!("record {} lies before one that was sent earlier", append.key));
                    }
                    last = Some(place);
                }
            }
        }
    }
    gaps
}

/// The number of the record that ends a run.
pub(crate) const MARK: u64 = u64::MAX;
const READ_LIMIT: Duration = Duration::from_secs(30);

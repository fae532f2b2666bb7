//! Which segments are in place, which are to be prepared, and what may be recycled.

use std::collections::BTreeMap;

use crate::bugs::{Bug, bug};
use crate::types::limits::{BLOCK_BYTES, SEGMENTS_ANNOUNCED};
use crate::types::{Geometry, Lsn, Span};

/// The segments of one log, by sequence number.
#[derive(Debug)]
pub struct SegmentPlan {
    geometry: Geometry,
    /// In place, with their salts: of the log, and prepared ones.
    salts: BTreeMap<u64, u32>,
    /// Stored end of the roll that closes a segment.
    rolls: BTreeMap<u64, Lsn>,
    /// Asked for and not in place yet, with the leader's salt where it is another's log. What was asked for last counts:
    /// the answer to what was asked for before comes first, and its file goes again.
    asked: BTreeMap<u64, Option<u32>>,
    ahead: u64,
    log_start: Lsn,
    retention_bytes: u64,
    trimmed: Lsn,
}

impl SegmentPlan {
    /// A plan over the segments that recovery found. `ahead` segments are kept prepared; the log may reach
    /// `retention_bytes` past the last trim.
    pub fn new(
        geometry: Geometry,
        segments: &[(u64, u32)],
        ahead: u32,
        log_start: Lsn,
        retention_bytes: u64,
    ) -> SegmentPlan {
        SegmentPlan {
            geometry,
            salts: segments.iter().copied().collect(),
            rolls: BTreeMap::new(),
            asked: BTreeMap::new(),
            ahead: u64::from(ahead.max(1)),
            log_start,
            retention_bytes,
            trimmed: log_start,
        }
    }

    /// The salt of the segment that holds `lsn`, if it is in place.
    pub fn salt_of(&self, lsn: Lsn) -> Option<u32> {
        self.salts.get(&self.geometry.segment_of(lsn)).copied()
    }

    /// Segments in place, in an unbroken run from the one that holds `at` on, that a standby there has not been told of.
    /// `announced`: one past the last that it was.
    pub fn to_announce(&self, at: Lsn, announced: &mut u64) -> Vec<(u64, u32)> {
        let here = self.geometry.segment_of(at);
        let mut news = Vec::new();
        *announced = here.max(*announced);
        while *announced <= here + SEGMENTS_ANNOUNCED
            && let Some(salt) = self.salts.get(announced)
        {
            news.push((*announced, *salt));
            *announced += 1;
        }
        news
    }

    /// Segments in place from the one that holds `from` on.
    pub fn from(&self, from: Lsn) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.salts.range(self.geometry.segment_of(from)..).map(|(seq, salt)| (*seq, *salt))
    }

    /// A roll closes its segment; its stored bytes end at `stored_end`.
    pub fn rolled(&mut self, stored_end: Lsn) {
        self.rolls.insert(self.geometry.segment_of(Lsn(stored_end.0 - 1)), stored_end);
    }

    /// The next stored bytes from `at` on, at most `most` and not past `end`: skips what lies behind a roll and
    /// segment headers. Empty at `end`.
    pub fn stored_from(&self, at: Lsn, end: Lsn, most: u64) -> Span {
        let seq = self.geometry.segment_of(at);
        let at = match self.rolls.get(&seq) {
            Some(stored_end) if at >= *stored_end => self.geometry.segment_end(seq),
            _ => at,
        };
        let at = self.geometry.batch_place(at);
        let seq = self.geometry.segment_of(at);
        let stored_end = self.rolls.get(&seq).copied().unwrap_or(self.geometry.segment_end(seq));
        Span::new(at, at.plus(most).min(stored_end).min(end))
    }

    /// The position in the log that is reached when the stored bytes of `span` are there: behind a roll, the
    /// segment's end.
    pub fn log_end_of(&self, span: Span) -> Lsn {
        let seq = self.geometry.segment_of(span.start);
        if self.rolls.get(&seq) == Some(&span.end) { self.geometry.segment_end(seq) } else { span.end }
    }

    /// Where the log starts.
    pub fn log_start(&self) -> Lsn {
        self.log_start
    }

    /// A segment was made. Whether it is in place: not if it was asked for again under another salt since, because
    /// what is written to this file would go with it.
    pub fn ready(&mut self, seq: u64, salt: u32) -> bool {
        let is_wanted = match self.asked.get(&seq) {
            Some(wanted) => wanted.is_none_or(|wanted| wanted == salt) || bug(Bug::StaleSegment),
            None => false,
        };
        if is_wanted {
            self.salts.insert(seq, salt);
            self.asked.remove(&seq);
        }
        is_wanted
    }

    /// Whether segment `seq` is in place under this salt.
    pub fn is_in_place(&self, seq: u64, salt: u32) -> bool {
        self.salts.get(&seq) == Some(&salt)
    }

    /// Whether segment `seq` was asked for last under this salt, and is not in place yet.
    pub fn is_asked(&self, seq: u64, salt: u32) -> bool {
        self.asked.get(&seq) == Some(&Some(salt))
    }

    /// The file of segment `seq` is made anew, under its leader's salt: it is not in place until it is ready.
    pub fn ask(&mut self, seq: u64, salt: u32) {
        self.salts.remove(&seq);
        self.asked.insert(seq, Some(salt));
    }

    /// One past the unbroken run of segments, from that of `at` on, that are in place or asked for.
    pub fn known_end(&self, at: Lsn) -> u64 {
        let mut seq = self.geometry.segment_of(at);
        while self.salts.contains_key(&seq) || self.asked.contains_key(&seq) {
            seq += 1;
        }
        seq
    }

    /// The next segment that the leading node should prepare for a log that ends at `end`, if any. One at a time, so
    /// that a full disk is met once, and behind what was asked for before it led.
    pub fn next_to_prepare(&mut self, end: Lsn) -> Option<u64> {
        if !self.asked.is_empty() {
            return None;
        }
        let current = self.geometry.segment_of(end);
        let seq = (current..=current + self.ahead).find(|seq| !self.salts.contains_key(seq))?;
        let needed_now = seq <= current;
        (needed_now || self.within_retention(seq)).then(|| {
            self.asked.insert(seq, None);
            seq
        })
    }

    /// Whether segment `seq` lies within the retention limit.
    pub fn within_retention(&self, seq: u64) -> bool {
        self.geometry.segment_end(seq).bytes_since(self.trimmed) <= self.retention_bytes
    }

    /// The last byte that batches of the segment at `start` may use: a block is left for the roll that closes it.
    pub fn batch_limit(&self, start: Lsn) -> Lsn {
        Lsn(self.geometry.segment_end(self.geometry.segment_of(start)).0 - BLOCK_BYTES)
    }

    /// The application has trimmed below `below`; standbys hold it back to `held`. Returns the new start of the
    /// log when whole segments become free.
    pub fn trim(&mut self, below: Lsn, held: Lsn) -> Option<Lsn> {
        self.trimmed = self.trimmed.max(below);
        let start = self.geometry.first_batch(self.geometry.segment_of(self.trimmed.min(held)));
        (start > self.log_start && self.geometry.segment_of(start) > self.geometry.segment_of(self.log_start))
            .then_some(start)
    }

    /// Whether whole segments lie below the last trim.
    pub fn trim_is_held(&self) -> bool {
        self.geometry.segment_of(self.trimmed) > self.geometry.segment_of(self.log_start)
    }

    /// Follows the leader's log start, held back to `held`. No leader has trimmed what it has not sent yet: what it says
    /// counts only as far as the log has been received, up to `end`.
    pub fn follow_start(&mut self, leader_start: Lsn, held: Lsn, end: Lsn) -> Option<Lsn> {
        let sent = self.geometry.batch_place(end);
        self.trim(if bug(Bug::LogStartBelieved) { leader_start } else { leader_start.min(sent) }, held)
    }

    /// The new start is durable in the meta block: segments below may go.
    pub fn started(&mut self, start: Lsn) {
        self.log_start = self.log_start.max(start);
        self.trimmed = self.trimmed.max(start);
        let first = self.geometry.segment_of(self.log_start);
        self.salts = self.salts.split_off(&first);
        self.asked = self.asked.split_off(&first);
        self.rolls = self.rolls.split_off(&first);
    }

    /// The log begins anew at `start` (an empty standby that takes over a trimmed log).
    pub fn restart_at(&mut self, start: Lsn) {
        self.log_start = start;
        self.trimmed = start;
        self.asked = self.asked.split_off(&self.geometry.segment_of(start));
    }

    /// Forgets prepared segments beyond a cut: the new leader's salts will come.
    pub fn cut(&mut self, end: Lsn) {
        let current = self.geometry.segment_of(end);
        self.salts.retain(|seq, _| *seq <= current);
        self.rolls.retain(|_, stored_end| *stored_end <= end);
        self.asked.retain(|seq, _| *seq <= current);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry { segment_bytes: 8 << 20, in_flight_bytes: 16 << 20 };

    #[test]
    fn one_segment_is_asked_for_at_a_time_and_never_past_retention() {
        let mut plan = SegmentPlan::new(GEOMETRY, &[(0, 1)], 4, Lsn(8192), 24 << 20);
        assert_eq!(plan.next_to_prepare(Lsn(8192)), Some(1));
        assert_eq!(plan.next_to_prepare(Lsn(8192)), None);
        assert!(plan.ready(1, 7));
        assert_eq!(plan.next_to_prepare(Lsn(8192)), Some(2));
        assert!(plan.ready(2, 8));
        assert_eq!(plan.next_to_prepare(Lsn(8192)), None, "a fourth would pass 24 MiB");
        assert_eq!(plan.trim(Lsn(9 << 20), Lsn(u64::MAX)), Some(GEOMETRY.first_batch(1)));
        plan.started(GEOMETRY.first_batch(1));
        assert_eq!(plan.salt_of(Lsn(8192)), None);
        assert_eq!(plan.next_to_prepare(Lsn(9 << 20)), Some(3));
    }

    #[test]
    fn what_was_asked_for_last_counts() {
        let mut plan = SegmentPlan::new(GEOMETRY, &[(0, 1)], 4, Lsn(8192), 1 << 30);
        assert_eq!(plan.next_to_prepare(Lsn(8192)), Some(1));
        plan.ask(1, 9);
        assert!(!plan.ready(1, 5), "what it was to be before");
        assert_eq!((plan.is_in_place(1, 5), plan.known_end(Lsn(8192))), (false, 2));
        assert_eq!(plan.next_to_prepare(Lsn(8192)), None, "leading again, it waits for the answer");
        assert!(plan.ready(1, 9) && plan.is_in_place(1, 9));
        assert!(!plan.ready(2, 5), "nobody asked");
        plan.ask(2, 9);
        plan.cut(Lsn(9 << 20));
        assert_eq!(plan.next_to_prepare(Lsn(9 << 20)), Some(2), "what lay behind a cut is not made any more");
    }

    #[test]
    fn a_standby_is_told_of_segments_in_turn_and_not_long_before_it_needs_them() {
        let segments: Vec<(u64, u32)> = (0..40).map(|seq| (seq, 100 + seq as u32)).collect();
        let mut plan = SegmentPlan::new(GEOMETRY, &segments, 1, Lsn(8192), 1 << 40);
        let mut announced = 0;
        let seqs = |news: Vec<(u64, u32)>| news.into_iter().map(|(seq, _)| seq).collect::<Vec<u64>>();
        let told = seqs(plan.to_announce(GEOMETRY.first_batch(3), &mut announced));
        assert_eq!(told, (3..=3 + SEGMENTS_ANNOUNCED).collect::<Vec<u64>>());
        assert!(plan.to_announce(GEOMETRY.first_batch(3), &mut announced).is_empty());
        assert_eq!(seqs(plan.to_announce(GEOMETRY.first_batch(4), &mut announced)), [4 + SEGMENTS_ANNOUNCED]);
        plan.ask(39, 5);
        assert_eq!(seqs(plan.to_announce(GEOMETRY.first_batch(38), &mut announced)), [38]);
        assert!(plan.ready(39, 5));
        assert_eq!(plan.to_announce(GEOMETRY.first_batch(38), &mut announced), [(39, 5)]);
    }

    #[test]
    fn what_lies_behind_a_roll_is_not_shipped() {
        let mut plan = SegmentPlan::new(GEOMETRY, &[(0, 1), (1, 2)], 1, Lsn(8192), 1 << 30);
        plan.rolled(Lsn(3 * 4096));
        let end = Lsn((8 << 20) + 8192 + 4096);
        assert_eq!(plan.stored_from(Lsn(8192), end, 1 << 20), Span::new(Lsn(8192), Lsn(3 * 4096)));
        assert_eq!(plan.stored_from(Lsn(3 * 4096), end, 1 << 20), Span::new(GEOMETRY.first_batch(1), end));
        assert_eq!(
            plan.stored_from(GEOMETRY.segment_end(0), end, 4096),
            Span::new(GEOMETRY.first_batch(1), end)
        );
        assert!(plan.stored_from(end, end, 4096).is_empty());
    }

    #[test]
    fn a_leaders_log_start_beyond_what_was_received_trims_nothing_later() {
        let mut plan = SegmentPlan::new(GEOMETRY, &[(0, 1), (1, 2), (2, 3)], 1, Lsn(8192), 16 << 20);
        let end = Lsn(9 << 20);
        assert_eq!(plan.follow_start(Lsn(u64::MAX / 2), Lsn(12288), end), None);
        assert_eq!(
            plan.trim(Lsn(0), Lsn(20 << 20)),
            Some(GEOMETRY.first_batch(1)),
            "what it had sent by then"
        );
        plan.started(GEOMETRY.first_batch(1));
        assert!(!plan.within_retention(3), "and the limit still holds");
    }

    #[test]
    fn a_standby_holds_the_trim_back() {
        let mut plan = SegmentPlan::new(GEOMETRY, &[(0, 1), (1, 2), (2, 3)], 1, Lsn(8192), 1 << 30);
        assert_eq!(plan.trim(Lsn(20 << 20), Lsn(9 << 20)), Some(GEOMETRY.first_batch(1)));
        assert_eq!(plan.trim(Lsn(20 << 20), Lsn(1 << 20)), None);
    }
}

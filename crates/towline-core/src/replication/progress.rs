//! How far each standby is, as the shipping side knows it: plain data, and the rules by which a report is believed.
//!
//! ```text
//!   applied   flushed   written    sent         credit
//!      |---------|---------|---------|-------------|
//!      what it reports in this session   what it has room for
//! ```

use serde::{Deserialize, Serialize};

use crate::bugs::{Bug, bug};
use crate::types::{Lsn, NodeId, Position, SessionId, StandbyWatermarks, Term};

/// Where the next bytes for a standby come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShipMode {
    /// No session ships.
    Idle,
    /// From segment files: it is late.
    CatchUp,
    /// From the arena, as appends come.
    Live,
}

/// One standby's progress. Made anew when the leader's term begins; sessions come and go within it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// The leader's term, and where it starts.
    term: Term,
    term_start: Lsn,
    node: Option<NodeId>,
    session: Option<SessionId>,
    mode: ShipMode,
    /// Where this session's shipping started: the histories say that the logs are equal up to here.
    matched: Lsn,
    /// And the bytes do: its last batch there is this log's, or it has taken a batch that follows it.
    verified: bool,
    /// What counted when it was last heard, in whichever session.
    known: StandbyWatermarks,
    sent: Lsn,
    credit: Lsn,
    watermarks: StandbyWatermarks,
    /// The highest flushed LSN that this node has reported in this term, over all sessions.
    flushed_high: Lsn,
    excluded: bool,
    /// Once it has flushed the log up to here again, it counts again.
    heals_at: Lsn,
}

impl Progress {
    /// Of a standby that has not been heard of in this term.
    pub fn new(term: Term, term_start: Lsn) -> Progress {
        Progress {
            term,
            term_start,
            node: None,
            session: None,
            mode: ShipMode::Idle,
            matched: Lsn(0),
            verified: false,
            known: StandbyWatermarks::default(),
            sent: Lsn(0),
            credit: Lsn(0),
            watermarks: StandbyWatermarks::default(),
            flushed_high: Lsn(0),
            excluded: false,
            heals_at: Lsn(0),
        }
    }

    /// Another term of this sender begins: nothing has been reported in it. One that lost durable data counts again when
    /// it holds all that was before the term.
    pub fn enter_term(&mut self, term: Term, term_start: Lsn) {
        *self = Progress {
            node: self.node,
            excluded: self.excluded,
            heals_at: self.heals_at.min(term_start),
            ..Progress::new(term, term_start)
        };
    }

    /// `node` is known to have lost durable data: it had reported `reported` as flushed.
    pub fn exclude(&mut self, node: NodeId, reported: Lsn) {
        self.node = Some(node);
        self.excluded = true;
        self.heals_at = self.heals_at.max(reported);
        self.known = StandbyWatermarks::default();
    }

    /// A session with `node` begins to stream; it replaces an older one. Another node than before starts with a
    /// clean sheet: it never promised what the other lost.
    pub fn begin_session(&mut self, session: SessionId, node: NodeId) {
        if self.node != Some(node) {
            *self = Progress { node: Some(node), ..Progress::new(self.term, self.term_start) };
        }
        self.session = Some(session);
        self.mode = ShipMode::Idle;
        self.matched = Lsn(0);
        self.verified = false;
        self.sent = Lsn(0);
        self.credit = Lsn(0);
        // Watermarks count per session: what an earlier one said may have been lost with the process.
        self.watermarks = StandbyWatermarks::default();
    }

    /// The standby has cut to the fork point and wants bytes from `from` on: up to there the logs are equal.
    ///
    /// # Errors
    /// `LostDurableData` when it lies below what this node had reported as flushed: the caller excludes it.
    pub fn ready(&mut self, from: Lsn) -> Result<(), ReportError> {
        if from < self.flushed_high && !bug(Bug::LossUnnoticed) {
            self.lose();
            return Err(ReportError::LostDurableData { reported: self.flushed_high, now: from });
        }
        self.matched = from;
        self.sent = from;
        self.credit = from;
        self.mode = ShipMode::CatchUp;
        Ok(())
    }

    /// It lost durable data and does not count; it is shipped to from `from` all the same, and heals as a copy.
    pub fn restart_excluded(&mut self, from: Lsn) {
        self.flushed_high = Lsn(0);
        (self.matched, self.sent, self.credit) = (from, from, from);
        self.mode = ShipMode::CatchUp;
    }

    /// The batch before the place where its shipping started has the hash of this log's: all before it is equal, too.
    pub fn verify(&mut self) {
        self.verified = true;
    }

    fn lose(&mut self) {
        self.excluded = true;
        self.heals_at = self.heals_at.max(self.flushed_high);
        self.known = StandbyWatermarks::default();
    }

    /// Takes a report of `session`, or says why not. Nothing is changed by a report that is refused.
    ///
    /// # Errors
    /// `OtherSession` and `StaleTerm` are ignored by the caller; `HigherTerm` makes it step down;
    /// `LostDurableData` excludes the standby; the others end the session.
    pub fn apply_report(&mut self, session: SessionId, report: &Report) -> Result<ReportEffect, ReportError> {
        if self.session != Some(session) {
            return Err(ReportError::OtherSession);
        }
        if report.term < self.term {
            return Err(ReportError::StaleTerm { term: report.term, own: self.term });
        }
        if report.term > self.term {
            return Err(ReportError::HigherTerm { term: report.term, own: self.term });
        }
        let marks = report.watermarks;
        if !marks.is_ordered() {
            return Err(ReportError::Unordered);
        }
        // It verifies only what we sent: a watermark beyond is no watermark of this log.
        if marks.written.lsn > self.sent {
            return Err(ReportError::BeyondSent { reported: marks.written.lsn, sent: self.sent });
        }
        if report.credit < self.credit {
            return Err(ReportError::CreditFell { from: self.credit, to: report.credit });
        }
        let last = &self.watermarks;
        for (new, old) in
            [(marks.written, last.written), (marks.flushed, last.flushed), (marks.applied, last.applied)]
        {
            if new.lsn < old.lsn {
                return Err(ReportError::Fell { from: old.lsn, to: new.lsn });
            }
        }
        if marks.flushed.lsn < self.flushed_high {
            self.lose();
            return Err(ReportError::LostDurableData { reported: self.flushed_high, now: marks.flushed.lsn });
        }
        let advanced = marks != self.watermarks;
        self.watermarks = marks;
        self.flushed_high = marks.flushed.lsn;
        let more_credit = report.credit > self.credit;
        self.credit = report.credit;
        // It takes a batch only behind the one that the batch names: the chain of hashes reaches down to the log's start.
        self.verified |= marks.written.lsn > self.matched;
        self.known = self.counted();
        let healed =
            self.excluded && self.verified && marks.flushed.lsn >= self.heals_at.max(self.term_start);
        self.excluded &= !healed;
        Ok(ReportEffect { counts: self.known, advanced, healed, more_credit })
    }

    /// Bytes up to `to` were handed to the session.
    pub fn record_sent(&mut self, to: Lsn) {
        self.sent = self.sent.max(to);
    }

    /// From where the next bytes come.
    pub fn set_mode(&mut self, mode: ShipMode) {
        self.mode = mode;
    }

    /// The session ended. What this node reported as flushed stays remembered.
    pub fn end_session(&mut self, session: SessionId) {
        if self.session == Some(session) {
            self.session = None;
            self.mode = ShipMode::Idle;
        }
    }

    /// What counts for acks and for the safe position: watermarks that have reached the start of the leader's
    /// term (the figure-8 rule); the others are 0. Before its log is verified in this session, no more than counted before.
    pub fn counted(&self) -> StandbyWatermarks {
        let start = if bug(Bug::ReportBeforeTerm) { Lsn(0) } else { self.term_start };
        let past = |mark: Position| if mark.lsn >= start { mark } else { Position::default() };
        let marks = &self.watermarks;
        let counted = |mark: Position, known: Position| {
            let mark = past(mark);
            if self.verified || mark.lsn <= known.lsn { mark } else { known }
        };
        StandbyWatermarks {
            written: counted(marks.written, self.known.written),
            flushed: counted(marks.flushed, self.known.flushed),
            applied: counted(marks.applied, self.known.applied),
        }
    }

    /// The node behind the address, once known.
    pub fn node(&self) -> Option<NodeId> {
        self.node
    }

    /// The open session.
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// From where the next bytes come.
    pub fn mode(&self) -> ShipMode {
        self.mode
    }

    /// Handed to the session up to here.
    pub fn sent(&self) -> Lsn {
        self.sent
    }

    /// The standby has room up to here.
    pub fn credit(&self) -> Lsn {
        self.credit
    }

    /// How much may be sent now.
    pub fn room_bytes(&self) -> u64 {
        self.credit.bytes_since(self.sent)
    }

    /// As reported in this session.
    pub fn watermarks(&self) -> &StandbyWatermarks {
        &self.watermarks
    }

    /// The highest flushed LSN that this node has reported in this term: retention is held back for it.
    pub fn flushed_high(&self) -> Lsn {
        self.flushed_high
    }

    /// Whether it lost durable data, and does not hold it again yet.
    pub fn is_excluded(&self) -> bool {
        self.excluded
    }
}

/// A standby's report, as the frame carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The term it reports in.
    pub term: Term,
    /// Capped at the verified prefix.
    pub watermarks: StandbyWatermarks,
    /// Room up to here.
    pub credit: Lsn,
    /// It cannot flush any more.
    pub failing: bool,
}

/// What a report changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReportEffect {
    /// What counts from now on; for the gate.
    pub counts: StandbyWatermarks,
    /// Whether a watermark moved.
    pub advanced: bool,
    /// It had lost durable data, and holds all of it again: it counts from this report on.
    pub healed: bool,
    /// Whether there is more room to ship into.
    pub more_credit: bool,
}

/// Why a report is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReportError {
    /// Of a session that has ended.
    #[error("a report of an older session")]
    OtherSession,
    /// Of an older term.
    #[error("a report in term {term}, older than {own}")]
    StaleTerm {
        /// Its term.
        term: Term,
        /// The leader's.
        own: Term,
    },
    /// Another node leads.
    #[error("a report in term {term}, newer than {own}: another node leads")]
    HigherTerm {
        /// Its term.
        term: Term,
        /// The leader's.
        own: Term,
    },
    /// applied ≤ flushed ≤ written does not hold.
    #[error("a report whose watermarks are out of order (applied ≤ flushed ≤ written must hold)")]
    Unordered,
    /// Past what was sent.
    #[error("a report up to {reported}, but only {sent} was sent")]
    BeyondSent {
        /// Its written watermark.
        reported: Lsn,
        /// Sent in this session.
        sent: Lsn,
    },
    /// A watermark fell within a session.
    #[error("a watermark that fell from {from} to {to} within a session")]
    Fell {
        /// It was here.
        from: Lsn,
        /// And is now.
        to: Lsn,
    },
    /// Room that was promised was taken back.
    #[error("credit that fell from {from} to {to}")]
    CreditFell {
        /// It was here.
        from: Lsn,
        /// And is now.
        to: Lsn,
    },
    /// A flushed watermark that fell between sessions.
    #[error(
        "it had reported {reported} as flushed and came back with {now}: durable data was lost, and it does not count"
    )]
    LostDurableData {
        /// Reported before.
        reported: Lsn,
        /// What it has now.
        now: Lsn,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Term = Term { number: 5, node: NodeId(1) };
    const FIRST: SessionId = SessionId(1);
    const NEXT: SessionId = SessionId(2);

    fn at(lsn: u64) -> Position {
        Position { lsn: Lsn(lsn), records: lsn / 10, payload_bytes: lsn / 2 }
    }

    fn report(written: u64, flushed: u64, applied: u64) -> Report {
        let watermarks =
            StandbyWatermarks { written: at(written), flushed: at(flushed), applied: at(applied) };
        Report { term: TERM, watermarks, credit: Lsn(written + 1000), failing: false }
    }

    /// A standby that streams from 1000 on in a term that starts there; 3000 were sent.
    fn streaming() -> Progress {
        let mut progress = Progress::new(TERM, Lsn(1000));
        progress.begin_session(FIRST, NodeId(7));
        progress.ready(Lsn(1000)).unwrap();
        progress.record_sent(Lsn(3000));
        progress
    }

    #[test]
    fn a_report_counts_from_the_start_of_the_term_on_stage_by_stage() {
        let mut progress = Progress::new(TERM, Lsn(2000));
        progress.begin_session(FIRST, NodeId(7));
        progress.ready(Lsn(1000)).unwrap();
        progress.record_sent(Lsn(3000));
        let effect = progress.apply_report(FIRST, &report(2000, 1500, 1000)).unwrap();
        assert_eq!(effect.counts, StandbyWatermarks { written: at(2000), ..StandbyWatermarks::default() });
        let effect = progress.apply_report(FIRST, &report(3000, 2000, 1999)).unwrap();
        assert_eq!((effect.counts.flushed, effect.counts.applied), (at(2000), Position::default()));
        assert!(effect.advanced && effect.more_credit);
        assert_eq!(progress.room_bytes(), 1000);
    }

    #[test]
    fn reports_that_cannot_be_true_are_refused_and_change_nothing() {
        let mut progress = streaming();
        progress.apply_report(FIRST, &report(2500, 2000, 1500)).unwrap();
        let before = progress.clone();
        let other_term = |number| Report { term: Term { number, ..TERM }, ..report(2600, 2000, 1500) };
        let no_credit = Report { credit: Lsn(10), ..report(2600, 2000, 1500) };
        for (report, error) in [
            (other_term(4), ReportError::StaleTerm { term: Term { number: 4, ..TERM }, own: TERM }),
            (other_term(6), ReportError::HigherTerm { term: Term { number: 6, ..TERM }, own: TERM }),
            (report(2000, 2500, 1500), ReportError::Unordered),
            (report(3001, 2000, 1500), ReportError::BeyondSent { reported: Lsn(3001), sent: Lsn(3000) }),
            (report(2400, 2000, 1500), ReportError::CreditFell { from: Lsn(3500), to: Lsn(3400) }),
            (no_credit, ReportError::CreditFell { from: Lsn(3500), to: Lsn(10) }),
            (report(2500, 1900, 1500), ReportError::Fell { from: Lsn(2000), to: Lsn(1900) }),
        ] {
            assert_eq!(progress.apply_report(FIRST, &report), Err(error));
            assert_eq!(progress, before);
        }
        assert_eq!(progress.apply_report(NEXT, &report(2600, 2000, 1500)), Err(ReportError::OtherSession));
    }

    #[test]
    fn a_written_watermark_may_fall_between_sessions_a_flushed_one_may_not() {
        let mut progress = streaming();
        progress.apply_report(FIRST, &report(2500, 2000, 1500)).unwrap();
        progress.end_session(FIRST);
        progress.begin_session(NEXT, NodeId(7));
        assert_eq!(progress.counted(), StandbyWatermarks::default(), "watermarks count per session");
        assert_eq!(progress.ready(Lsn(2000)), Ok(()));
        progress.apply_report(NEXT, &report(2000, 2000, 1000)).unwrap();
        assert!(!progress.is_excluded());

        progress.begin_session(SessionId(3), NodeId(7));
        let lost = ReportError::LostDurableData { reported: Lsn(2000), now: Lsn(1999) };
        assert_eq!(progress.ready(Lsn(1999)), Err(lost));
        assert!(progress.is_excluded());
    }

    #[test]
    fn a_first_report_below_what_was_flushed_before_is_lost_data_too() {
        let mut progress = streaming();
        progress.apply_report(FIRST, &report(2500, 2000, 1500)).unwrap();
        progress.begin_session(NEXT, NodeId(7));
        progress.ready(Lsn(2500)).unwrap();
        let lost = ReportError::LostDurableData { reported: Lsn(2000), now: Lsn(1800) };
        assert_eq!(progress.apply_report(NEXT, &report(2500, 1800, 0)), Err(lost));
        assert!(progress.is_excluded());
    }

    #[test]
    fn one_that_lost_durable_data_counts_again_when_it_holds_all_of_it_again() {
        let mut progress = streaming();
        progress.apply_report(FIRST, &report(2500, 2000, 1500)).unwrap();
        progress.begin_session(NEXT, NodeId(7));
        assert!(progress.ready(Lsn(1500)).is_err());
        progress.restart_excluded(Lsn(1500));
        progress.record_sent(Lsn(3000));
        let effect = progress.apply_report(NEXT, &report(2500, 1999, 0)).unwrap();
        assert!(progress.is_excluded() && !effect.healed);
        let effect = progress.apply_report(NEXT, &report(2500, 2000, 0)).unwrap();
        assert!(!progress.is_excluded() && effect.healed);
        assert!(!progress.apply_report(NEXT, &report(2600, 2100, 0)).unwrap().healed, "once");

        // In the next term: with all that was before it.
        progress.exclude(NodeId(7), Lsn(9000));
        progress.enter_term(Term { number: 6, ..TERM }, Lsn(4000));
        progress.begin_session(SessionId(3), NodeId(7));
        assert!(progress.is_excluded());
        progress.ready(Lsn(3000)).unwrap();
        progress.record_sent(Lsn(5000));
        let of_six = |report: Report| Report { term: Term { number: 6, ..TERM }, ..report };
        assert!(!progress.apply_report(SessionId(3), &of_six(report(4500, 3999, 0))).unwrap().healed);
        assert!(progress.apply_report(SessionId(3), &of_six(report(4500, 4000, 0))).unwrap().healed);
    }

    #[test]
    fn what_the_histories_alone_call_equal_counts_only_once_a_batch_has_followed_it() {
        let mut progress = Progress::new(TERM, Lsn(1000));
        progress.begin_session(FIRST, NodeId(7));
        progress.ready(Lsn(2000)).unwrap();
        progress.record_sent(Lsn(3000));
        let effect = progress.apply_report(FIRST, &report(2000, 2000, 1500)).unwrap();
        assert_eq!(effect.counts, StandbyWatermarks::default());
        let effect = progress.apply_report(FIRST, &report(2500, 2000, 1500)).unwrap();
        assert_eq!((effect.counts.written, effect.counts.flushed), (at(2500), at(2000)));

        // What counted before stands meanwhile, unless the new session says less.
        progress.begin_session(NEXT, NodeId(7));
        progress.ready(Lsn(2400)).unwrap();
        progress.record_sent(Lsn(3000));
        let effect = progress.apply_report(NEXT, &report(2400, 2400, 1500)).unwrap();
        assert_eq!((effect.counts.written, effect.counts.flushed), (at(2400), at(2000)));
        progress.verify();
        let effect = progress.apply_report(NEXT, &report(2400, 2400, 1600)).unwrap();
        assert_eq!(effect.counts.flushed, at(2400));
    }

    #[test]
    fn another_node_behind_the_address_starts_with_a_clean_sheet() {
        let mut progress = streaming();
        progress.apply_report(FIRST, &report(2500, 2000, 1500)).unwrap();
        progress.begin_session(NEXT, NodeId(8));
        assert_eq!(
            (progress.ready(Lsn(0)), progress.flushed_high(), progress.is_excluded()),
            (Ok(()), Lsn(0), false)
        );
    }

    #[test]
    fn the_end_of_an_older_session_ends_nothing() {
        let mut progress = streaming();
        progress.begin_session(NEXT, NodeId(7));
        progress.end_session(FIRST);
        assert_eq!(progress.session(), Some(NEXT));
        progress.end_session(NEXT);
        assert_eq!((progress.session(), progress.mode()), (None, ShipMode::Idle));
    }
}

//! What can be wrong with a history.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One broken promise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Violation {
    /// Which promise.
    pub kind: Kind,
    /// Index of the event (or of the record) that shows it.
    pub at: usize,
    /// The figures.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}: {}", self.kind, self.at, self.detail)
    }
}

/// Which promise was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The clock went backwards.
    ClockBackwards,
    /// A batch leaves a hole behind the one before.
    Gap,
    /// A batch overlaps the one before: an LSN was given twice.
    Overlap,
    /// A ticket does not lie in the last batch.
    OutsideBatch,
    /// Two tickets share bytes, or come out of order.
    TicketsOverlap,
    /// A ticket's counts do not fit its batch or the ticket before it.
    WrongCounts,
    /// A ticket's number is used while, or after, another ticket had it.
    TicketReused,
    /// A window where none may be: a level that waits for no standby, or no rule.
    WindowNotAllowed,
    /// An append that was called after another was acknowledged lies before it in the log.
    RealTimeOrder,
    /// The own flushed watermark fell.
    OwnFlushedFell,
    /// The own flushed watermark is past the log.
    FlushedBeyondLog,
    /// A standby reports more than the log holds.
    ReportBeyondLog,
    /// applied ≤ flushed ≤ written does not hold in a report.
    ReportUnordered,
    /// A report names a place that is no batch's end.
    ReportNoBatchEnd,
    /// A standby's flushed watermark fell, and it was not excluded.
    StandbyLostData,
    /// A rule version that does not rise, or a second change while one is pending.
    RuleOutOfOrder,
    /// A rule that cannot be read.
    RuleUnreadable,
    /// A rule came into force that was not pending, or before its record was safe under both rules.
    RuleTooEarly,
    /// An ack of a ticket that never was.
    UnknownTicket,
    /// A ticket ended twice.
    EndedTwice,
    /// An ack names another place than its ticket has.
    AckElsewhere,
    /// Acknowledged before it was in the log.
    NotSealed,
    /// Acknowledged before the own flush.
    NotFlushed,
    /// Acknowledged before enough standbys had it.
    NotSafe,
    /// Acknowledged with a fill over its window.
    FillOverWindow,
    /// The ack claims a smaller fill than there was.
    FillUnderstated,
    /// The level achieved is weaker than the one asked for, without need.
    WeakerThanAsked,
    /// The level achieved is stronger than the one asked for.
    StrongerThanAsked,
    /// The ack's window is not the one asked for.
    OtherWindow,
    /// Weaker than asked for, and not said: the window must be ∞.
    Silent,
    /// The ack names another rule version than the one in force.
    WrongRuleVersion,
    /// Degraded while enough standbys were streaming, or too early, or not allowed to.
    DegradedWithoutNeed,
    /// Healed before the standbys had what was flushed when they came back.
    HealedTooEarly,
    /// A read could see what the primary had not flushed.
    AppliedUnflushed,
    /// A read could see what the rule had not made safe, where that was asked for.
    AppliedUnsafe,
    /// A leader's log ends where no batch of the history ends.
    LeaderElsewhere,
    /// Two copies of the log hold different bytes at one place.
    Diverged,
    /// The exposure gauge is below the truth.
    ExposureUnderstated,
    /// An acknowledged record is gone.
    Lost,
    /// A record is there twice.
    Doubled,
    /// Records are in another order than acknowledged.
    OutOfOrder,
    /// A record is there, but not what was acknowledged.
    Changed,
    /// What was lost spans more than the window.
    LostBeyondWindow,
}
